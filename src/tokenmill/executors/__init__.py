"""Executors: a job becomes shards, tasks take shards, and commit records say what is done.

::

    recipe ──> driver ──> launch ──> task ──> attempt ──> commit record ──> manifest
                 │          │          │                       │               │
               graph     executor    worker                 ledger        what the next
                        (local, processes, mpi, slurm)                     job reads

``job`` holds the values, ``plan`` cuts inputs into shards, ``ledger`` owns every path of a job's folder,
``attempt`` calls an entry and commits its outputs, ``worker`` is one task, ``gang`` one rank of several that
begin with a ``roll_call`` and exchange data through a ``world``, ``driver`` applies one rule until
nothing is left to do, ``preview`` is the dry run, ``status``, ``explain`` and ``report`` read the folders for
people, ``verify`` and ``gc`` compare them with the records.

>>> from tokenmill.executors.plan import InputFile, cut
>>> files = [InputFile(url="/in/a.jsonl", name="a.jsonl", num_bytes=250)]
>>> for part in cut(files, target_bytes=100, split_files=True):
...     print([(piece.name, piece.start, piece.end) for piece in part])
[('a.jsonl', 0, 83)]
[('a.jsonl', 83, 167)]
[('a.jsonl', 167, 250)]
"""
