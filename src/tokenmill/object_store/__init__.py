"""Files in object stores of the S3 protocol: every request counted, retried within a deadline, and judged.

    storage ──> S3Store ──> Client ──> s3fs's client ──> the server
                s3.py       client.py
                S3Reader, S3Writer
                files.py

An answer can be lost after the server has done what was asked, so that a retried request may be refused
because of its own first try. Whoever stores an object here therefore writes a nonce of its own into the
object's metadata, and whoever lost an answer reads it back before it decides anything.

>>> bucket_and_key("s3://bucket/run/job.yaml")
('bucket', 'run/job.yaml')
"""

from tokenmill.object_store.names import FileInfo, Upload, bucket_and_key

__all__ = ["FileInfo", "Upload", "bucket_and_key"]
