"""Executors: they turn a job into shards, tasks and commit records; see ``tokenmill.executors.job``."""
