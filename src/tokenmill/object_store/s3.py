"""What storage asks of an object store: read, write, publish once, list, remove.

**Publishing once.** Of racing writers exactly one may win. A store that honours ``If-None-Match: *``
decides that itself. Each process finds out whether it does, once per bucket, with two PUTs of a probe. A
refusal (412) may be the echo of an own PUT whose answer was lost, so a refused writer compares the object's
nonce with its own first.

A store that ignores the condition (``rclone serve s3``) cannot decide. The fallback looks, puts and reads
back, and calls itself the winner if it finds its own bytes. That is no mutual exclusion: two writers can
both win, and the later record stands. Data stay right all the same, because records of one shard are equal
up to the attempt that they name and each names files of that attempt alone; so whichever stands names files
that exist, **as long as no writer removes its files because it thinks that it lost**. ``is_exclusive`` says
which kind of store it is.

**Whose object.** Every object carries a nonce of its writer, and of one PUT also the SHA-256 of its bytes,
both as metadata. Where a store has lost them, equal bytes count as one's own.
"""

import hashlib
import re
import threading
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from fsspec.utils import glob_translate

from tokenmill.errors import StorageError
from tokenmill.object_store.client import Client, RefusedError
from tokenmill.object_store.files import NONCE, SHA256, S3Reader, S3Writer, md5_of
from tokenmill.object_store.names import FileInfo, Upload, bucket_and_key

_CONDITION_REFUSED = {400, 405, 501}
"""Answers of stores that do not know conditional PUTs."""
_MOST_AT_ONCE = 64 << 20
"""Larger objects are read in pieces, so that each request ends in time."""
_MOST_READS = 3
"""So often bytes that contradict their checksum are read again."""


class S3Store:
    """Files in the buckets of one S3 service.

    Args:
        client: its requests.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        self._exclusive: dict[str, bool] = {}
        self._lock = threading.Lock()

    # reading

    def head(self, url: str) -> Mapping[str, Any] | None:
        """What the store says of an object; None if it is not there."""
        bucket, key = bucket_and_key(url)
        try:
            answer: Mapping[str, Any] = self.client.call("head", "head_object", url, Bucket=bucket, Key=key)
        except FileNotFoundError:
            return None
        return answer

    def exists(self, url: str) -> bool:
        """True if an object is there."""
        return self.head(url) is not None

    def read(self, url: str) -> bytes:
        """Bytes of an object, checked against what the store knows of them.

        Raises:
            FileNotFoundError: it is not there.
            StorageError: what came is not what was stored, three times; or it changed meanwhile.
        """
        bucket, key = bucket_and_key(url)
        complaints: list[str] = []

        def check(answer: Mapping[str, Any]) -> str:
            complaint = _contradiction(answer)
            complaints.append(complaint)
            if complaint and len(complaints) >= _MOST_READS:
                raise StorageError(
                    "an object is damaged", where=url, got=complaint, fix="tokenmill verify RUN"
                )
            return complaint

        arguments: dict[str, Any] = {"Bucket": bucket, "Key": key, "Range": f"bytes=0-{_MOST_AT_ONCE - 1}"}
        try:
            answer = self.client.call("get", "get_object", url, check=check, **arguments)
        except RefusedError as error:
            if error.status != 416:  # of an empty object no range can be had
                raise
            return b""
        if _is_whole(answer):
            return bytes(answer["Body"])
        with self.open(url) as reader:  # more than one request should carry
            return reader.readall()

    def open(self, url: str) -> S3Reader:
        """An object for seekable reading."""
        return S3Reader(self.client, url)

    # writing

    def write(self, url: str, data: bytes) -> None:
        """Store an object in one request, or replace it."""
        self._put(url, data, uuid.uuid4().hex)

    def create(self, url: str) -> S3Writer:
        """A new object of any size."""
        return S3Writer(self.client, url, self._is_there, self.write)

    def publish(self, url: str, data: bytes) -> bool:
        """Store an object unless one is there; False if there is one of another writer."""
        nonce = uuid.uuid4().hex
        if self.is_exclusive(url):
            return self._put(url, data, nonce, only_new=True)
        if self.head(url) is not None:
            return False
        self._put(url, data, nonce)
        return self.read(url) == data

    def is_exclusive(self, url: str) -> bool:
        """Whether the store lets exactly one of racing writers win; found out once per process and bucket."""
        bucket, _ = bucket_and_key(url)
        with self._lock:
            if bucket not in self._exclusive:
                self._exclusive[bucket] = self._probe(url.rpartition("/")[0])
            return self._exclusive[bucket]

    def _probe(self, folder_url: str) -> bool:
        url = f"{folder_url}/.probe-{uuid.uuid4().hex}"
        try:
            took_first = self._put(url, b"first", uuid.uuid4().hex, only_new=True)
            return took_first and not self._put(url, b"second", uuid.uuid4().hex, only_new=True)
        except RefusedError as error:
            if error.status not in _CONDITION_REFUSED:
                raise
            return False
        finally:
            self.remove(url)

    def _put(self, url: str, data: bytes, nonce: str, *, only_new: bool = False) -> bool:
        """One PUT; False if only a new object was wanted and there is one of another writer."""
        bucket, key = bucket_and_key(url)
        metadata = {NONCE: nonce, SHA256: hashlib.sha256(data).hexdigest()}
        arguments: dict[str, Any] = {"Body": data, "ContentMD5": md5_of(data), "Metadata": metadata}

        def settle() -> bool | None:
            is_own = self._is_own(url, data, nonce)
            return is_own if only_new else is_own or None  # replacing goes on till it is done

        if only_new:
            arguments["IfNoneMatch"] = "*"
        try:
            answer = self.client.call(
                "put", "put_object", url, settle=settle, Bucket=bucket, Key=key, **arguments
            )
        except RefusedError as error:
            if not only_new or error.status != 412:
                raise
            return bool(self._is_own(url, data, nonce))
        return answer if isinstance(answer, bool) else True

    def _is_own(self, url: str, data: bytes, nonce: str) -> bool | None:
        """Whether the object that is there is this writer's; None if none is there."""
        found = self.head(url)
        if found is None:
            return None
        stored = found.get("Metadata", {}).get(NONCE)
        if stored is not None:
            return bool(stored == nonce)
        try:
            return self.read(url) == data
        except FileNotFoundError:
            return None

    def _is_there(self, url: str, nonce: str, num_bytes: int) -> bool:
        found = self.head(url)
        if found is None or found["ContentLength"] != num_bytes:
            return False
        return bool(found.get("Metadata", {}).get(NONCE, nonce) == nonce)

    def remove(self, url: str) -> None:
        """Remove an object if it is there."""
        bucket, key = bucket_and_key(url)
        try:
            self.client.call("delete", "delete_object", url, Bucket=bucket, Key=key)
        except FileNotFoundError:
            return

    # listing

    def names(self, url: str) -> list[str]:
        """Names directly below a URL, sorted; empty if nothing is there."""
        prefix = f"{bucket_and_key(url)[1]}/".lstrip("/")
        found: set[str] = set()
        for page in self._pages(f"{url}/", {"Delimiter": "/"}):
            keys = [item["Key"] for item in page.get("Contents", [])]
            keys += [item["Prefix"] for item in page.get("CommonPrefixes", [])]
            found |= {key.removeprefix(prefix).rstrip("/") for key in keys}
        return sorted(name for name in found if name)

    def find(self, url: str) -> list[FileInfo]:
        """Objects below a URL, or matched by a glob, or the one named; in no order."""
        if "*" in url:
            return self._glob(url)
        infos = list(self._infos(f"{url}/"))
        if not infos and bucket_and_key(url)[1] and (found := self.head(url)) is not None:
            return [FileInfo(url=url, num_bytes=int(found["ContentLength"]))]
        return infos

    def _glob(self, url: str) -> list[FileInfo]:
        protocol, _, path = url.partition("://")
        pattern = re.compile(glob_translate(path))

        def matches(found: str) -> bool:  # itself or a folder above it
            parts = found.partition("://")[2].split("/")
            return any(pattern.match("/".join(parts[:end])) for end in range(1, len(parts) + 1))

        base = re.split(r"[*?\[]", path, maxsplit=1)[0]
        return [info for info in self._infos(f"{protocol}://{base}") if matches(info.url)]

    def _infos(self, prefix_url: str) -> Iterator[FileInfo]:
        protocol, (bucket, _) = prefix_url.partition("://")[0], bucket_and_key(prefix_url)
        for page in self._pages(prefix_url, {}):
            for item in page.get("Contents", []):
                if not item["Key"].endswith("/"):  # some stores keep folders as objects
                    url = f"{protocol}://{bucket}/{item['Key']}"
                    yield FileInfo(url=url, num_bytes=int(item["Size"]))

    def _pages(self, prefix_url: str, more: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        bucket, prefix = bucket_and_key(prefix_url)
        arguments = {"Bucket": bucket, "Prefix": prefix, **more}
        while True:
            page = self.client.call("list", "list_objects_v2", prefix_url, **arguments)
            yield page
            if not page.get("IsTruncated"):
                return
            arguments["ContinuationToken"] = page["NextContinuationToken"]

    # uploads that nobody completed

    def uploads(self, url: str) -> list[Upload]:
        """Uploads in parts below a URL that were begun and not ended; empty where a store cannot tell."""
        protocol, (bucket, prefix) = url.partition("://")[0], bucket_and_key(f"{url}/")
        arguments: dict[str, Any] = {"Bucket": bucket, "Prefix": prefix}
        found: list[Upload] = []
        while True:
            try:
                page = self.client.call("list", "list_multipart_uploads", url, **arguments)
            except FileNotFoundError:  # rclone says so where there is none
                return found
            except RefusedError as error:
                if error.status not in _CONDITION_REFUSED:
                    raise
                return found
            found += [
                Upload(
                    url=f"{protocol}://{bucket}/{item['Key']}",
                    upload_id=item["UploadId"],
                    started=item["Initiated"].timestamp(),
                )
                for item in page.get("Uploads", [])
                if item["Key"].startswith(prefix)
            ]
            if not page.get("IsTruncated"):
                return found
            arguments |= {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}

    def abort(self, upload: Upload) -> None:
        """End an upload and drop its parts, if it is still there."""
        bucket, key = bucket_and_key(upload.url)
        arguments: dict[str, Any] = {"Bucket": bucket, "Key": key, "UploadId": upload.upload_id}
        try:
            self.client.call("delete", "abort_multipart_upload", upload.url, **arguments)
        except FileNotFoundError:
            return


def _is_whole(answer: Mapping[str, Any]) -> bool:
    total = answer.get("ContentRange", "").rpartition("/")[2]
    return not total or int(total) == len(answer["Body"])


def _contradiction(answer: Mapping[str, Any]) -> str:
    """What is wrong with the bytes of an answer.

    Encrypting stores have ETags that are no MD5, and stores without transactions (``rclone serve s3``) may
    keep one writer's bytes with another's metadata; so one agreement of the two is enough.
    """
    data = answer["Body"]
    if not _is_whole(answer):
        return ""
    wanted = {}
    if re.fullmatch(r'"?[0-9a-f]{32}"?', etag := answer.get("ETag", "")):
        wanted[etag.strip('"')] = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if stored := answer.get("Metadata", {}).get(SHA256):
        wanted[stored] = hashlib.sha256(data).hexdigest()
    if not wanted or any(expected == got for expected, got in wanted.items()):
        return ""
    return f"{len(data)} bytes with checksums {', '.join(wanted.values())} in place of {', '.join(wanted)}"


def connect() -> S3Store:
    """A store with connections and counts of its own; fsspec's and the AWS settings say where it lies."""
    return S3Store(Client())
