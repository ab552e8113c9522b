"""Ranks in a named grid, and what they send each other.

    mesh            rank ◄──► (pp, dp, cp, tp); ep lies within dp × cp
      │ lists of ranks
    collectives     groups and their collectives; the one room's one file that calls torch.distributed
      │ groups
    data_parallel   gradients in flat buckets, summed over dp × cp while the backward pass goes on

A group of size one runs the same code.

>>> from tokenmill.parallel.mesh import Mesh
>>> mesh = Mesh(dp=2, tp=2)
>>> mesh.world_size, mesh.coordinate(3)["dp"], mesh.peers(3, ("tp",))
(4, 1, (2, 3))
"""
