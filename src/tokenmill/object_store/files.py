"""Reading and writing one object as a file.

S3Reader   ranged reads in blocks that grow, so that a header costs little and a whole file few requests
S3Writer   a small object is one PUT; a larger one goes in parts, and is aborted if its writer fails
"""

import base64
import contextlib
import hashlib
import io
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from tokenmill.errors import InputError, StorageError
from tokenmill.object_store.client import Client, RefusedError
from tokenmill.object_store.names import bucket_and_key

NONCE = "tokenmill-nonce"
"""Metadata: whose PUT it was."""
SHA256 = "tokenmill-sha256"
"""Metadata: SHA-256 of the bytes, of objects that were stored by one PUT."""
_FIRST_BLOCK_BYTES = 1 << 20
_MOST_BLOCK_BYTES = 16 << 20
_PART_BYTES = 8 << 20
_PARTS_OF_A_SIZE = 1000


def md5_of(data: bytes | bytearray) -> str:
    """MD5 of a body as the header Content-MD5 has it: the store refuses a body that arrives damaged."""
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


@contextlib.contextmanager
def _as_input(url: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise InputError("file not found", where=url) from error
    except PermissionError as error:
        raise InputError("file not readable", where=url, fix="check its permissions") from error


class S3Reader(io.RawIOBase):
    """An object for seekable reading; nothing is asked before the first read.

    Args:
        client: of the store.
        url: the object.
    """

    def __init__(self, client: Client, url: str) -> None:
        super().__init__()
        self._client = client
        self._url = url
        self._position = 0
        self._size: int | None = None
        self._etag = ""
        self._start = 0
        self._block = b""
        self._next_bytes = _FIRST_BLOCK_BYTES

    def readable(self) -> bool:
        """Always true."""
        return True

    def seekable(self) -> bool:
        """Always true."""
        return True

    def tell(self) -> int:
        """Position in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position in bytes."""
        base = 0
        if whence == io.SEEK_CUR:
            base = self._position
        elif whence == io.SEEK_END:
            base = self._num_bytes()
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read some bytes into a buffer; 0 at the end.

        Raises:
            InputError: there is no such object, or it may not be read.
            StorageError: the object changed while it was read, or the store does not answer.
        """
        view = memoryview(buffer).cast("B")
        offset = self._position - self._start
        if not 0 <= offset < len(self._block):
            if self._size is not None and self._position >= self._size:
                return 0
            self._fetch()
            offset = self._position - self._start
        found = self._block[offset : offset + len(view)]
        view[: len(found)] = found
        self._position += len(found)
        return len(found)

    def _num_bytes(self) -> int:
        if self._size is None:
            bucket, key = bucket_and_key(self._url)
            with _as_input(self._url):
                answer = self._client.call("head", "head_object", self._url, Bucket=bucket, Key=key)
            self._size = int(answer["ContentLength"])
        return self._size

    def _fetch(self) -> None:
        """Get the block that begins at the position."""
        bucket, key = bucket_and_key(self._url)
        start, last = self._position, self._position + self._next_bytes - 1
        wanted: dict[str, Any] = {"Bucket": bucket, "Key": key, "Range": f"bytes={start}-{last}"}
        try:
            with _as_input(self._url):
                answer = self._client.call("get", "get_object", self._url, **wanted)
        except RefusedError as error:
            if error.status != 416:
                raise
            self._start, self._block = start, b""  # beyond the end: an empty object, for example
            return
        whole = answer.get("ContentRange", "").rpartition("/")[2]  # a store may ignore the range
        self._start = start if whole else 0
        self._size = int(whole or answer["ContentLength"])
        self._block = answer["Body"]
        self._next_bytes = min(4 * self._next_bytes, _MOST_BLOCK_BYTES)
        self._check_etag(answer.get("ETag", ""))

    def _check_etag(self, etag: str) -> None:
        if self._etag and etag != self._etag:
            raise StorageError(
                "an object changed while it was read",
                where=self._url,
                expected=f"ETag {self._etag}",
                got=etag,
                fix="leave inputs alone while a run reads them, then tokenmill resume",
            )
        self._etag = etag


class Completion(Protocol):
    """Tells whether an object is a writer's own."""

    def __call__(self, url: str, nonce: str, num_bytes: int) -> bool:
        """True if an object with this nonce and size is there."""


class S3Writer(io.RawIOBase):
    """A new object; it appears when the writer is closed, whole.

    Args:
        client: of the store.
        url: the object.
        is_there: whether an object of a nonce is there.
        put: stores a small object by one request.
    """

    def __init__(self, client: Client, url: str, is_there: Completion, put: Any) -> None:
        super().__init__()
        self._client = client
        self._url = url
        self._is_there = is_there
        self._put = put
        self._bucket, self._key = bucket_and_key(url)
        self._buffer = bytearray()
        self._nonce = uuid.uuid4().hex
        self._upload_id = ""
        self._parts: list[dict[str, Any]] = []
        self._num_bytes = 0

    def writable(self) -> bool:
        """Always true."""
        return True

    def write(self, data: Any) -> int:
        """Append bytes; full parts are sent."""
        view = memoryview(data).cast("B")
        self._buffer += view
        self._num_bytes += len(view)
        while len(self._buffer) >= (size := _PART_BYTES << (len(self._parts) // _PARTS_OF_A_SIZE)):
            self._send(bytes(self._buffer[:size]))
            del self._buffer[:size]
        return len(view)

    def close(self) -> None:
        """Store the object.

        Raises:
            StorageError: it could not be stored; parts that were sent are aborted.
        """
        if self.closed:
            return
        super().close()
        try:
            if self._upload_id:
                self._complete()
            else:
                self._put(self._url, bytes(self._buffer))
        except BaseException:
            self._abort()
            raise

    def discard(self) -> None:
        """Close without storing anything; parts that were sent are aborted."""
        super().close()
        self._abort()

    def _send(self, part: bytes) -> None:
        if not self._upload_id:
            answer = self._call("create_multipart_upload", Metadata={NONCE: self._nonce})
            self._upload_id = str(answer["UploadId"])
        number = len(self._parts) + 1
        upload: Mapping[str, Any] = {"UploadId": self._upload_id, "PartNumber": number}
        answer = self._call("upload_part", **upload, Body=part, ContentMD5=md5_of(part))
        self._parts.append({"PartNumber": number, "ETag": answer["ETag"]})

    def _complete(self) -> None:
        if self._buffer:
            self._send(bytes(self._buffer))
            self._buffer.clear()

        def settle() -> bool | None:
            return self._is_there(self._url, self._nonce, self._num_bytes) or None

        parts = {"Parts": self._parts}
        try:
            self._call(
                "complete_multipart_upload", settle=settle, UploadId=self._upload_id, MultipartUpload=parts
            )
        except FileNotFoundError:  # the upload is gone: perhaps an earlier try has completed it
            if not settle():
                raise
        self._upload_id = ""

    def _abort(self) -> None:
        """Abort the upload; what cannot be aborted now is left to ``tokenmill gc``."""
        upload_id, self._upload_id = self._upload_id, ""
        if upload_id:
            try:
                self._call("abort_multipart_upload", UploadId=upload_id)
            except (OSError, StorageError):
                return

    def _call(self, method: str, **arguments: Any) -> Any:
        kind = "delete" if method.startswith("abort") else "put"
        return self._client.call(kind, method, self._url, Bucket=self._bucket, Key=self._key, **arguments)
