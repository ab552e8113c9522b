"""Whether a run's files are what its records say, and how to take back what is not.

    data file   against   commit record   against   plan   against   manifests of the parents
                                └──────── against ──> manifest

Every byte is read once. Repair moves the records of what is damaged to ``withdrawn/`` and does no work
itself: a shard without a commit record is not done, so the next ``run`` or ``resume`` does it again.

Plans and manifests of all jobs downstream are withdrawn too, since they name files that will get other names,
but their commits are not. Each commit says which inputs it was made from, by checksum. A job downstream is
then planned again. If its inputs turn out to be the same bytes, as deterministic entries promise, its commits
stand and nothing is run; if not, they are withdrawn before the new plan is published, in whatever process
that happens (``JobFolder.publish_plan``).
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tokenmill import storage
from tokenmill.errors import IdentityError, InputError, StorageError
from tokenmill.executors.commits import merge_commits
from tokenmill.executors.idle import refuse_live
from tokenmill.executors.launch import Executor
from tokenmill.executors.ledger import JobFolder, digest_of, input_files
from tokenmill.executors.status import folders_of

_BLOCK_BYTES = 1 << 20
_PLAN, _MANIFEST = "plan.jsonl", "manifest.json"


@dataclass(frozen=True, kw_only=True)
class Damage:
    """Something that is not what a record says."""

    job: str
    """Name of the job."""
    shard: int | None
    """The shard whose commit is void; None if only a record of the job is."""
    file: str
    """Path below the job's folder."""
    problem: str
    """What is wrong, for people."""
    is_changed: bool = False
    """The file was read, and its bytes are not those of the commit record."""


@dataclass(kw_only=True)
class Verification:
    """What was looked at and what was found."""

    num_files: int = 0
    """Outputs looked at."""
    num_bytes: int = 0
    """Bytes read."""
    damages: list[Damage] = field(default_factory=list)
    """All that is wrong, by job and shard."""


def verify(
    run_url: str, job: str = "", on_progress: Callable[[Verification], None] = lambda found: None
) -> Verification:
    """Check every committed output of a run, and that its records agree.

    Args:
        run_url: folder of the run.
        job: only this job.
        on_progress: called after every block that was read.

    Raises:
        InputError: the folder is not a run.
        ConfigError: no such job.
    """
    found = Verification()
    for name, folder in folders_of(run_url, job).items():
        if storage.exists(folder.at("job.yaml")):
            _Check(name, folder, found, on_progress).run()
    return found


class _Check:
    """The check of one job.

    Args:
        name: the job's name.
        folder: its folder.
        found: where to count and to note damage.
        on_progress: called after every block that was read.
    """

    def __init__(
        self,
        name: str,
        folder: JobFolder,
        found: Verification,
        on_progress: Callable[[Verification], None],
    ) -> None:
        self._name, self._folder, self._found, self._on_progress = name, folder, found, on_progress

    def run(self) -> None:
        """Check plan, commits with their files, and manifest."""
        num_shards = self._check_plan()
        commits = [self._check_commit(shard, num_shards) for shard in sorted(self._folder.done())]
        readable = [commit for commit in commits if commit is not None]
        if len(readable) == len(commits):
            self._check_manifest(readable, num_shards)

    def _note(self, shard: int | None, file: str, problem: str, *, is_changed: bool = False) -> None:
        damage = Damage(job=self._name, shard=shard, file=file, problem=problem, is_changed=is_changed)
        self._found.damages.append(damage)

    def _check_plan(self) -> int | None:
        """Number of shards; None without a sound plan."""
        if not storage.exists(self._folder.at(_PLAN)):
            if storage.exists(self._folder.at(_MANIFEST)):
                self._note(None, _PLAN, "is gone")
            return None
        try:
            num_shards, planned = self._folder.num_shards(), list(self._folder.plan())
        except (ValueError, KeyError, TypeError, IndexError, StorageError, IdentityError) as error:
            self._note(None, _PLAN, f"cannot be read: {type(error).__name__}: {error}".splitlines()[0])
            return None
        if [shard.index for shard in planned] != list(range(num_shards or 0)):
            self._note(None, _PLAN, f"holds {len(planned)} shards; its first line says {num_shards}")
            return None
        if stale := _changed_parent(self._folder):
            self._note(None, _PLAN, f"was made from other outputs than those of {stale}")
        return num_shards

    def _check_commit(self, shard: int, num_shards: int | None) -> dict[str, Any] | None:
        """The record if it can be read; its files are checked."""
        url = self._folder.done_url(shard)
        file = url.removeprefix(self._folder.url + "/")
        try:
            commit = self._folder.committed(shard)
            outputs = [
                (str(output["path"]), output["bytes"], output["sha256"]) for output in commit["outputs"]
            ]
            owner = (commit["shard"], commit["identity"])
        except (StorageError, KeyError, TypeError, ValueError) as error:
            self._note(shard, file, f"cannot be read: {type(error).__name__}: {error}".splitlines()[0])
            return None
        if owner != (shard, self._folder.record["identity"]):
            self._note(shard, file, "belongs to another shard or job")
        elif num_shards is not None and shard >= num_shards:
            self._note(shard, file, f"is of a shard that the plan does not have; it has {num_shards}")
        for path, num_bytes, sha256 in outputs:
            self._check_file(shard, path, num_bytes, sha256)
        return commit

    def _check_file(self, shard: int, path: str, num_bytes: int, sha256: str) -> None:
        self._found.num_files += 1
        digest, size = hashlib.sha256(), 0
        try:
            for block in _blocks(self._folder.at(path)):
                digest.update(block)
                size += len(block)
                self._found.num_bytes += len(block)
                self._on_progress(self._found)
        except InputError as error:
            self._note(shard, path, "is gone" if "not found" in error.what else "cannot be read")
        except OSError as error:
            self._note(shard, path, f"cannot be read: {error}")
        else:
            if size != num_bytes:
                problem = f"has the wrong size: {size} bytes, not {num_bytes}"
                self._note(shard, path, problem, is_changed=True)
            elif digest.hexdigest() != sha256:
                problem = f"has changed: its checksum is {digest.hexdigest()[:10]}…, not {sha256[:10]}…"
                self._note(shard, path, problem, is_changed=True)

    def _check_manifest(self, commits: Sequence[Mapping[str, Any]], num_shards: int | None) -> None:
        try:
            manifest = self._folder.manifest()
            merged = json.loads(storage.dump_json(merge_commits(self._folder.record, iter(commits))))
        except (StorageError, KeyError, TypeError, ValueError) as error:
            self._note(None, _MANIFEST, f"cannot be made or read: {error}".splitlines()[0])
            return
        if manifest is None:
            return
        if num_shards is not None and num_shards != len(commits):
            self._note(None, _MANIFEST, f"stands, with {len(commits)} of {num_shards} commit records")
        for key in ("identity", "num_shards", "outputs", "counters", "figures"):
            if manifest.get(key) != merged[key]:
                self._note(None, _MANIFEST, f"does not agree with the commit records: {key}")
                return


def _blocks(url: str) -> Iterator[bytes]:
    with storage.open_input(url) as file:
        while block := file.read(_BLOCK_BYTES):
            yield block


def _changed_parent(folder: JobFolder) -> str:
    """Parents whose outputs are not those that the plan names; empty if that cannot be said."""
    with storage.open_input(folder.at(_PLAN)) as file:
        header = json.loads(file.readline())
    parents = {name: source for name, source in folder.sources.items() if source.folder}
    try:
        if any(JobFolder(source.folder).manifest() is None for source in parents.values()):
            return ""
    except StorageError:  # the parent's own check names it
        return ""
    now = {name: input_files(source, name) for name, source in parents.items()}
    changed = [
        name
        for name, files in now.items()
        if [[file.url, file.name, file.num_bytes] for file in files] != header["files"].get(name)
    ]
    if not changed and len(now) == len(folder.sources) and "inputs" in header:
        changed = [] if digest_of(now) == header["inputs"] else list(now)
    return ", ".join(parents[name].folder.rsplit("/", 1)[-1].rsplit("-", 1)[0] for name in changed)


def repair(run_url: str, damages: Sequence[Damage], executor: Executor) -> list[str]:
    """Withdraw the records of what is damaged; returns a sentence for each job that is concerned.

    Jobs downstream come first and commits last: after death at any line ``verify`` still finds the damage.
    A file whose bytes are wrong is removed, so that no entry goes on from a checkpoint that is damaged.

    Raises:
        IdentityError: something may still work on the run.
        SubmissionError: the scheduler does not answer.
    """
    folders = folders_of(run_url)
    refuse_live(run_url, folders.values(), executor)
    damaged = {damage.job for damage in damages}
    below = _downstream(folders, damaged)
    for name in reversed(list(folders)):
        if name in below or name in damaged:
            folders[name].withdraw(_MANIFEST)
        planless = any(damage.job == name and damage.file == _PLAN for damage in damages)
        if name in below or planless:
            folders[name].withdraw(_PLAN)
    sentences: list[str] = []
    for name, folder in folders.items():
        shards = sorted(
            {damage.shard for damage in damages if damage.job == name and damage.shard is not None}
        )
        for damage in damages:
            if damage.job == name and damage.is_changed:
                storage.remove(folder.at(damage.file))
        for shard in shards:
            folder.withdraw_commit(shard)
        if shards:
            listed = ", ".join(str(shard) for shard in shards)
            what = "commits of shards" if len(shards) > 1 else "commit of shard"
            sentences.append(f"{name}: {what} {listed} withdrawn")
        elif name in damaged:
            sentences.append(f"{name}: plan or manifest is withdrawn and will be made again from the commits")
        if name in below:
            sentences.append(
                f"{name}: plan and manifest are withdrawn; its commits stand if its inputs come out the same"
            )
    return sentences


def _downstream(folders: Mapping[str, JobFolder], damaged: set[str]) -> set[str]:
    """Jobs that read, directly or not, what damaged jobs write; ``folders`` are in order of the graph."""
    ids = {folder.url.rsplit("/", 1)[-1]: name for name, folder in folders.items()}
    below: set[str] = set()
    for name, folder in folders.items():
        parents = {
            ids.get(source.folder.rsplit("/", 1)[-1]) for source in folder.sources.values() if source.folder
        }
        if parents & (damaged | below):
            below.add(name)
    return below
