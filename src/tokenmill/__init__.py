"""tokenmill: a SLURM-native batch system that builds language models from raw web crawl.

    crawl -> documents -> filters -> dedup -> tokens -> training -> checkpoints -> evaluation

Every arrow is a job, and one executor abstraction runs every job.
"""

__version__ = "0.1.0"
