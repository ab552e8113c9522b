"""Numerical kernels: one file each, with the plain reference, the fused version and the choice between them.

    rope ──► attention        norm        swiglu        cross_entropy
             plain tensors and numbers in, tensors out: no configs, no modules, no state

>>> import torch
>>> from tokenmill.kernels.norm import rms_norm
>>> rms_norm(torch.tensor([[3.0, 4.0]]), torch.ones(2), 0.0).square().mean().round().item()
1.0
"""
