"""The fake's programs are no test modules."""

collect_ignore_glob = ["fake_*.py"]
