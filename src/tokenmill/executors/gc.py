"""Removing what no record names: what dead attempts, dead launches and dead writers left behind.

    data/         files of attempts that were not committed
    exchange/     what the ranks of an ended attempt told each other
    leases/       of ended launches
    progress/     checkpoints of a complete job, but not those that are its output
    .*.partial    files whose writer died
    upload        of an object store: parts of an object that was never completed

What a commit record or a manifest names is never removed, wherever it lies. Nothing of a live launch is. A
launch that is thought dead may still have a process on a lost node, whose commit would then name files that
are gone; so a file goes only if its shard is done by another attempt, or its own attempt has ended. Uploads
of which no attempt is known go after a day.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tokenmill import storage
from tokenmill.executors.idle import live_launches
from tokenmill.executors.launch import Executor
from tokenmill.executors.ledger import JobFolder
from tokenmill.executors.postmortem import is_judged
from tokenmill.executors.status import driver_of, folders_of

_ENDED = {"error", "forgiven", "late", "stopped"}
"""Outcomes of attempts that will not commit any more."""
_CHECKPOINT = "progress/step-"
"""Beginning of the paths of checkpoints; the rest of ``progress/`` may be needed to go on from the last."""
_OLD_UPLOAD_SECONDS = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Orphan:
    """A file that no record names."""

    job: str
    """Name of the job; empty for a file of the run itself."""
    kind: str
    """data, exchange, leases, progress, partial or upload."""
    url: str
    """Where it lies."""
    num_bytes: int
    """Size in bytes; 0 for an upload, whose parts a store does not count."""
    upload: storage.Upload | None = None
    """What is to be aborted, of an upload."""


@dataclass(kw_only=True)
class _Ledger:
    """What decides over the files of one job."""

    named: set[str] = field(default_factory=set)
    """Paths below the folder that a commit record or the manifest names."""
    done: set[int] = field(default_factory=set)
    """Shards that are done."""
    attempts: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Records by attempt; a gang has one for each rank."""
    is_complete: bool = False
    """Whether the manifest stands."""


def gc(run_url: str, executor: Executor, *, dry_run: bool = False) -> list[Orphan]:
    """Remove what no record names; returns what was removed, or would be.

    Args:
        run_url: folder of the run.
        executor: the one that started the tasks.
        dry_run: remove nothing.

    Raises:
        InputError: the folder is not a run.
        IdentityError: a driver works on it, and without a scheduler its tasks cannot be known.
        SubmissionError: the scheduler does not answer.
        StorageError: a commit record cannot be read, so what it names is not known.
    """
    folders = folders_of(run_url)
    # files first, launches second: a launch that is recorded in between has no file in the list
    listed = {name: _files(folder) for name, folder in folders.items()}
    partials = {name: storage.list_partials(folder.url) for name, folder in folders.items()}
    uploads = {name: storage.list_uploads(folder.url) for name, folder in folders.items()}
    live = live_launches(run_url, folders.values(), executor)
    orphans: list[Orphan] = []
    for name, folder in folders.items():
        orphans += find_orphans(name, folder, listed[name], live)
        orphans += find_uploads(name, folder, uploads[name], live)
        if not set(folder.launch_order()) & live:
            orphans += _orphans(name, "partial", partials[name])
    if not live and driver_of(run_url) is None:
        base = storage.absolute(run_url)
        own = [info for info in storage.list_partials(base) if info.url.rsplit("/", 1)[0] == base]
        orphans += _orphans("", "partial", own)
    if not dry_run:
        for orphan in orphans:
            _remove(orphan)
        for folder in folders.values() if not live else ():
            folder.fold_commits()
    return orphans


def _remove(orphan: Orphan) -> None:
    if orphan.upload is not None:
        storage.abort_upload(orphan.upload)
    else:
        storage.remove(orphan.url)


def totals(orphans: Iterable[Orphan]) -> dict[str, tuple[int, int]]:
    """Kind -> number of files and of bytes."""
    found: dict[str, tuple[int, int]] = {}
    for orphan in orphans:
        files, size = found.get(orphan.kind, (0, 0))
        found[orphan.kind] = (files + 1, size + orphan.num_bytes)
    return found


def _files(folder: JobFolder) -> list[storage.FileInfo]:
    kinds = ("data", "exchange", "heartbeats", "leases", "progress")
    return [info for kind in kinds for info in storage.list_files(folder.at(kind))]


def _orphans(job: str, kind: str, infos: Iterable[storage.FileInfo]) -> list[Orphan]:
    return [Orphan(job=job, kind=kind, url=info.url, num_bytes=info.num_bytes) for info in infos]


def find_orphans(
    job: str, folder: JobFolder, infos: Iterable[storage.FileInfo], live: set[str]
) -> list[Orphan]:
    """Files of a job that no record names and that no attempt can still need.

    Args:
        job: its name.
        folder: its folder.
        infos: its files.
        live: tokens of launches of which a task may still run.
    """
    ledger = _read(folder)
    rules: Mapping[str, Callable[[list[str]], bool]] = {
        "data": lambda parts: _is_dead(_attempt_of(parts[-1]), ledger, live),
        "exchange": lambda parts: _launch_of(parts[1]) not in live,
        "heartbeats": lambda parts: (
            parts[1] not in live and (ledger.is_complete or is_judged(folder, parts[1]))
        ),
        "leases": lambda parts: parts[1] not in live,
        "progress": lambda parts: ledger.is_complete and "/".join(parts).startswith(_CHECKPOINT),
    }
    found: list[Orphan] = []
    for info in infos:
        path = info.url.removeprefix(folder.url).lstrip("/")
        parts = path.split("/")
        if path not in ledger.named and len(parts) > 1 and parts[0] in rules and rules[parts[0]](parts):
            found += _orphans(job, parts[0], [info])
    return found


def find_uploads(
    job: str, folder: JobFolder, uploads: Iterable[storage.Upload], live: set[str]
) -> list[Orphan]:
    """Uploads of a job that nobody will complete; arguments as of ``find_orphans``."""
    uploads = list(uploads)
    ledger = _read(folder) if uploads else _Ledger()
    now = time.time()
    found: list[Orphan] = []
    for upload in uploads:
        attempt = _attempt_of(upload.url.rsplit("/", 1)[-1])
        is_old = now - upload.started > _OLD_UPLOAD_SECONDS and _launch_of(attempt) not in live
        if is_old or (attempt and _is_dead(attempt, ledger, live)):
            found.append(Orphan(job=job, kind="upload", url=upload.url, num_bytes=0, upload=upload))
    return found


def _read(folder: JobFolder) -> _Ledger:
    ledger = _Ledger()
    if not storage.exists(folder.at("job.yaml")):
        return ledger
    for commit in folder.commits():
        ledger.done.add(commit["shard"])
        ledger.named |= {output["path"] for output in commit["outputs"]}
    if manifest := folder.manifest():
        ledger.named |= {output["path"] for output in manifest["outputs"]}
        ledger.is_complete = len(ledger.done) == manifest["num_shards"]
    for record in folder.attempts():
        ledger.attempts.setdefault(record["attempt"], []).append(record)
    return ledger


def _is_dead(attempt: str, ledger: _Ledger, live: set[str]) -> bool:
    """True if an attempt is not committed and will never be."""
    if _launch_of(attempt) in live:
        return False
    records = ledger.attempts.get(attempt, [])
    if not records:
        return ledger.is_complete
    if records[0]["shard"] in ledger.done:
        return True
    return all(record["outcome"] in _ENDED for record in records)


def _attempt_of(name: str) -> str:
    """Attempt in the name of an output, as ``Task.output`` forms it: stem, attempt, extension."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else ""


def _launch_of(attempt: str) -> str:
    return attempt.partition("-")[0]
