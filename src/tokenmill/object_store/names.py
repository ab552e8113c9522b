"""What objects and uploads are called."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class FileInfo:
    """A stored file."""

    url: str
    """Absolute path or URL."""
    num_bytes: int
    """Size in bytes."""


@dataclass(frozen=True, kw_only=True)
class Upload:
    """An upload in parts that was begun and neither completed nor aborted."""

    url: str
    """The object that it would make."""
    upload_id: str
    """What the store calls it."""
    started: float
    """When it was begun, by the store's clock; seconds since 1970."""


def bucket_and_key(url: str) -> tuple[str, str]:
    """Bucket and key of a URL such as ``s3://bucket/run/job.yaml``."""
    bucket, _, key = url.partition("://")[2].partition("/")
    return bucket, key
