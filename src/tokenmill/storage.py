"""Files behind URLs: local paths, ``memory://`` and ``s3://``, through fsspec.

Three ways to write, and no other:

    write_atomic   control files that are rewritten: readers see the old bytes or the new ones
    publish_once   commit records: of several racing writers exactly one wins
    create         data under a private name: nobody reads it before a commit record names it

Each of them leaves the old state behind when the writer dies at any line. What holds on object stores,
and what does not, stands in ``object_store/s3.py``.
"""

import contextlib
import errno
import functools
import hashlib
import io
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from tokenmill.errors import InputError, MissingExtraError, StorageError
from tokenmill.object_store import FileInfo, Upload

if TYPE_CHECKING:
    from tokenmill.object_store.s3 import S3Store

__all__ = [
    "FileInfo",
    "OutputFile",
    "Upload",
    "abort_upload",
    "absolute",
    "create",
    "dump_json",
    "exists",
    "is_exclusive",
    "is_local",
    "join",
    "list_files",
    "list_names",
    "list_partials",
    "list_uploads",
    "local_path",
    "open_input",
    "publish_once",
    "read_bytes",
    "read_json",
    "remove",
    "requests",
    "s3_of",
    "sha256_of",
    "sync_names",
    "write_atomic",
]

_memory_lock = threading.Lock()


def is_local(url: str) -> bool:
    """True for a path of the local file system (``file://`` included)."""
    return "://" not in url or url.startswith("file://")


def local_path(url: str) -> Path:
    """Path of a local URL.

    Raises:
        StorageError: the URL is not local.
    """
    if not is_local(url):
        raise StorageError("a local path is needed", got=url, fix="name a folder on a shared file system")
    return Path(url.removeprefix("file://"))


def _path_of(url: str) -> str:
    return url.removeprefix("file://")


def absolute(url: str) -> str:
    """Absolute form of a path; URLs with a protocol stay as they are."""
    return str(local_path(url).expanduser().absolute()) if is_local(url) else url.rstrip("/")


def join(base: str, *parts: str) -> str:
    """Join path parts with slashes.

    >>> join("s3://bucket/run/", "jobs", "a")
    's3://bucket/run/jobs/a'
    """
    return "/".join([base.rstrip("/"), *(part.strip("/") for part in parts)])


def _s3(url: str) -> "S3Store | None":
    """The store of an ``s3://`` URL."""
    return s3_of(os.getpid()) if url.startswith(("s3://", "s3a://")) else None


@functools.cache
def s3_of(pid: int) -> "S3Store":
    """The connections and counts of a process; one that was forked makes its own."""
    from tokenmill.object_store.s3 import connect  # late, as fsspec is

    return connect()


def _filesystem(url: str) -> tuple[Any, str]:
    import fsspec  # late: it would be a third of a worker's start, and local files need none of it

    try:
        return cast("tuple[Any, str]", fsspec.core.url_to_fs(url))
    except ImportError as error:
        protocol = url.split("://", 1)[0]
        raise MissingExtraError.of(f"for {protocol}://", "s3", url) from error
    except ValueError as error:
        raise StorageError(
            "unknown protocol", where=url, expected="a local path, memory:// or s3://", got=str(error)
        ) from error


def _buffered_file() -> Any:
    import fsspec.spec  # late, as above

    return fsspec.spec.AbstractBufferedFile


def exists(url: str) -> bool:
    """True if a file is there; or a folder, but not on S3, which has none."""
    if is_local(url):
        return os.path.exists(_path_of(url))
    if store := _s3(url):
        return store.exists(url)
    filesystem, path = _filesystem(url)
    filesystem.invalidate_cache()
    return bool(filesystem.exists(path))


def written_at(url: str) -> float | None:
    """When a file was written, in seconds by the clock of its store; None if that costs too much to ask.

    Only differences between files of one store mean anything.
    """
    if not is_local(url):
        return None
    try:
        return os.stat(_path_of(url)).st_mtime
    except OSError:
        return None


def read_bytes(url: str) -> bytes:
    """Whole content of a file.

    Raises:
        InputError: the file is missing.
    """
    try:
        if is_local(url):
            with open(_path_of(url), "rb") as file:
                return file.read()
        if store := _s3(url):
            return store.read(url)
        filesystem, path = _filesystem(url)
        return cast("bytes", filesystem.cat_file(path))
    except FileNotFoundError as error:
        raise InputError("file not found", where=url) from error


def read_json(url: str) -> Any:
    """Content of a JSON file.

    Raises:
        InputError: the file is missing.
        StorageError: the file is not JSON.
    """
    try:
        return json.loads(read_bytes(url))
    except ValueError as error:
        raise StorageError(
            "a control file is not JSON", where=url, got=str(error), fix="remove the file and run again"
        ) from error


def dump_json(value: Any, indent: int | None = None) -> bytes:
    """JSON bytes with sorted keys, so that equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, indent=indent).encode() + b"\n"


def open_input(url: str) -> BinaryIO:
    """Open a file for seekable binary reading.

    Object stores are asked at the first read, not before.

    Raises:
        InputError: the file is missing or not readable.
    """
    try:
        if is_local(url):
            return local_path(url).open("rb")
        if store := _s3(url):
            return cast("BinaryIO", io.BufferedReader(store.open(url)))
        filesystem, path = _filesystem(url)
        return cast("BinaryIO", filesystem.open(path, "rb"))
    except FileNotFoundError as error:
        raise InputError("file not found", where=url) from error
    except PermissionError as error:
        raise InputError("file not readable", where=url, fix="check its permissions") from error


def list_files(url: str) -> list[FileInfo]:
    """Files below a folder, or matched by a glob, or the one file named; sorted by URL.

    Hidden files (a leading dot) and the partial files of dead writers are passed over.
    """
    if is_local(url):
        return _list_local(local_path(url))
    if store := _s3(url):
        shown = (info for info in store.find(url) if not info.url.rsplit("/", 1)[-1].startswith("."))
        return sorted(shown, key=lambda info: info.url)
    filesystem, path = _filesystem(url)
    filesystem.invalidate_cache()
    found: dict[str, Any] = (
        filesystem.glob(path, detail=True) if "*" in path else filesystem.find(path, detail=True)
    )
    infos = [
        FileInfo(url=filesystem.unstrip_protocol(name), num_bytes=int(info["size"]))
        for name, info in found.items()
        if info["type"] == "file" and not name.rsplit("/", 1)[-1].startswith(".")
    ]
    return sorted(infos, key=lambda info: info.url)


def _files_below(path: Path) -> list[Path]:
    return [path] if path.is_file() else [item for item in path.rglob("*") if item.is_file()]


def _list_local(path: Path) -> list[FileInfo]:
    if path.exists():
        candidates = _files_below(path)
    elif any(letter in str(path) for letter in "*?["):
        anchor = Path(path.anchor)
        found = anchor.glob(str(path.relative_to(anchor)))
        candidates = list({file for item in found for file in _files_below(item)})
    else:
        return []
    kept = [item for item in candidates if not item.name.startswith(".")]
    return [FileInfo(url=str(item), num_bytes=item.stat().st_size) for item in sorted(kept)]


def list_partials(url: str) -> list[FileInfo]:
    """Private files of control-file writers below a folder, of the living and of the dead; sorted by URL.

    Object stores have none.
    """
    if not is_local(url):
        return []
    found = sorted(path for path in local_path(url).rglob(".*.partial") if path.is_file())
    return [FileInfo(url=str(path), num_bytes=path.stat().st_size) for path in found]


def list_names(url: str) -> list[str]:
    """Names directly inside a folder, sorted, but for hidden ones; empty if the folder is not there."""
    if is_local(url):
        path = local_path(url)
        names = os.listdir(path) if path.is_dir() else []
        return sorted(name for name in names if not name.startswith("."))
    if store := _s3(url):
        return [name for name in store.names(url) if not name.startswith(".")]
    filesystem, path_ = _filesystem(url)
    filesystem.invalidate_cache()
    try:
        return sorted(str(name).rstrip("/").rsplit("/", 1)[-1] for name in filesystem.ls(path_, detail=False))
    except FileNotFoundError:
        return []


@contextlib.contextmanager
def _explained(url: str, action: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        fix = "free space, then run again" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise StorageError(
            f"could not {action}", where=url, got=f"{type(error).__name__}: {error}", fix=fix
        ) from error


def _sync_folder(path: str) -> None:
    """Make the name of a file durable."""
    descriptor = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _open_new(path: str) -> BinaryIO:
    """A new file to write; its folder is made if it is not there."""
    try:
        return open(path, "xb")
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return open(path, "xb")


def _write_partial(path: str, data: bytes, durable: bool) -> str:
    """Write a hidden private file beside ``path``, and wait for the disk if it is to be durable."""
    # strings, not Path: these few lines are half of what tokenmill itself costs a small shard
    folder, name = os.path.split(path)
    partial = os.path.join(folder, f".{name[:100]}.{os.urandom(6).hex()}.partial")
    try:
        with _open_new(partial) as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
    except BaseException:
        _unlink(partial)
        raise
    return partial


def write_atomic(url: str, data: bytes, *, durable: bool = True) -> None:
    """Replace a file: readers see the old bytes or the new ones, never a mixture.

    Args:
        url: the file.
        data: its new content.
        durable: wait until the disk has it; not for advice, which a crash of the machine may take away.

    Raises:
        StorageError: the bytes could not be written; the old file is untouched.
    """
    with _explained(url, "write a file"):
        if store := _s3(url):
            store.write(url, data)
            return
        if not is_local(url):
            filesystem, path = _filesystem(url)
            filesystem.pipe_file(path, data)
            return
        target = _path_of(url)
        os.replace(_write_partial(target, data, durable), target)
        if durable:
            _sync_folder(target)


def publish_once(url: str, data: bytes, *, durable: bool = True, sync_name: bool = True) -> bool:
    """Create a file unless it is there; of racing writers exactly one gets True.

    Local: ``link(2)``, which refuses an existing name on every POSIX file system. Object stores: a
    conditional PUT (``If-None-Match: *``), judged by who stored the bytes where the answer was lost. On
    stores that ignore the condition (``is_exclusive`` tells) two racing writers may both get True, and the
    later bytes stand.

    Args:
        url: the file.
        data: its content.
        durable: wait until the disk has it; not for advice, which a crash of the machine may take away.
        sync_name: wait for its name as well. Without that a crash may take the file away, but never a part
            of it; ``sync_names`` makes up for it, for a whole folder at once.

    Raises:
        StorageError: the bytes could not be written.
    """
    with _explained(url, "publish a record"):
        if is_local(url):
            return _publish_local(_path_of(url), data, durable, durable and sync_name)
        if store := _s3(url):
            return store.publish(url, data)
        return _publish_remote(url, data)


def sync_names(url: str) -> None:
    """Wait until the disk has the names of all files of a folder; object stores have them at once.

    Raises:
        StorageError: the disk fails.
    """
    if is_local(url):
        with _explained(url, "sync a folder"):
            _sync_folder(os.path.join(_path_of(url), "any"))


def is_exclusive(url: str) -> bool:
    """Whether of racing ``publish_once`` to this URL exactly one wins.

    Where it is not so, a writer that seems to have lost must leave its data alone: the record that stands in
    the end may be its own. ``tokenmill gc`` removes them once nobody can publish any more.
    """
    store = _s3(url)
    return store is None or store.is_exclusive(url)


def requests() -> dict[str, int]:
    """Requests of this process to object stores so far: get, put, head, list, delete; retries among them."""
    return s3_of(os.getpid()).client.counts() if s3_of.cache_info().currsize else {}


def list_uploads(url: str) -> list[Upload]:
    """Uploads in parts below a folder that were begun and not ended, by URL; local files have none."""
    store = _s3(url)
    return [] if store is None else sorted(store.uploads(url), key=lambda upload: upload.url)


def abort_upload(upload: Upload) -> None:
    """End an upload and drop its parts, if it is still there."""
    if store := _s3(upload.url):
        store.abort(upload)


def _publish_remote(url: str, data: bytes) -> bool:
    filesystem, path = _filesystem(url)
    with _memory_lock:
        if filesystem.protocol == "memory" and filesystem.exists(path):
            return False
        try:
            filesystem.pipe_file(path, data, mode="create")
        except FileExistsError:
            return False
    return True


def _publish_local(target: str, data: bytes, durable: bool, sync_name: bool) -> bool:
    if os.path.exists(target):
        return False
    partial = _write_partial(target, data, durable)
    try:
        os.link(partial, target)
    except OSError as error:
        if os.stat(partial).st_nlink != 2:  # else it is done, and only the answer of a file server was lost
            if isinstance(error, FileExistsError):
                return False
            raise
    finally:
        _unlink(partial)
    if sync_name:
        _sync_folder(target)
    return True


def remove(url: str) -> None:
    """Remove a file if it is there."""
    if is_local(url):
        _unlink(_path_of(url))
        return
    if store := _s3(url):
        store.remove(url)
        return
    filesystem, path = _filesystem(url)
    with contextlib.suppress(FileNotFoundError):
        filesystem.rm_file(path)


def sha256_of(url: str) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with open_input(url) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class OutputFile(io.RawIOBase):
    """A new file under a private name, hashed while it is written.

    Use it as a context manager: an exception inside removes the file.

    Args:
        url: where; the name must not be in use.

    Attributes:
        num_bytes: bytes written so far.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url
        self.num_bytes = 0
        self._digest = hashlib.sha256()
        with _explained(url, "create a file"):
            if is_local(url):
                self._file = _open_new(_path_of(url))
            elif store := _s3(url):
                self._file = cast("BinaryIO", store.create(url))
            else:
                filesystem, remote = _filesystem(url)
                self._file = cast("BinaryIO", filesystem.open(remote, "wb"))

    def writable(self) -> bool:
        """Always true."""
        return True

    def tell(self) -> int:
        """Bytes written so far."""
        return self.num_bytes

    def write(self, data: Any) -> int:
        """Append bytes.

        Raises:
            StorageError: the bytes could not be written.
        """
        with _explained(self.url, "write a file"):
            self._file.write(data)
        self._digest.update(data)
        size = memoryview(data).nbytes
        self.num_bytes += size
        return size

    @property
    def sha256(self) -> str:
        """SHA-256 of the bytes written so far, in hexadecimal."""
        return self._digest.hexdigest()

    def close(self) -> None:
        """Make the bytes durable."""
        if self.closed:
            return
        super().close()
        with _explained(self.url, "close a file"):
            if is_local(self.url) and not self._file.closed:
                self._file.flush()
                os.fsync(self._file.fileno())
            self._file.close()

    def discard(self) -> None:
        """Close and remove the file."""
        super().close()
        if _s3(self.url):
            cast("Any", self._file).discard()  # what was sent is no object yet
            return
        with contextlib.suppress(OSError):
            if is_local(self.url):
                self._file.close()
            elif isinstance(self._file, _buffered_file()):
                self._file.discard()  # aborts the upload
                self._file.closed = True  # else the garbage collector would finish it
        with contextlib.suppress(OSError):
            remove(self.url)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()


def create(url: str) -> OutputFile:
    """Open a new private file for writing; see ``OutputFile``."""
    return OutputFile(url)
