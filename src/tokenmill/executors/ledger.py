"""A job's folder: the only class that knows its paths, and the records that are the only truth.

    jobs/<name>-<identity>/
      job.yaml             what the job is, for people and workers; its YAML is JSON
      plan.jsonl           the shards, written once
      submissions/<launch>/  what was asked of the scheduler: scripts, receipt
      leases/<launch>/     advice: which task took which shard
      heartbeats/<launch>/ one per task, rewritten while it lives
      attempts/            one record per attempt
      logs/                one log per attempt
      data/                outputs under names that hold the attempt
      done/                commit records: the first attempt to publish one wins
      quarantine/          shards that failed too often
      progress/            checkpoints of a gang, shared by its attempts
      now.json             what a running attempt says of itself, for people
      manifest.json        published when every shard is done; what the next job reads
      withdrawn/           records that no longer count, as they were

Scheduler ids, states and exit codes are hints. A shard is done when its commit record exists, whatever a
scheduler says.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import tokenmill
from tokenmill import storage
from tokenmill.errors import IdentityError, InputError, StorageError, VersionError
from tokenmill.executors.commits import Commits, merge_commits
from tokenmill.executors.failures import hopeless
from tokenmill.executors.job import Job, Resources, Sharding
from tokenmill.executors.plan import InputFile, make_plan
from tokenmill.executors.plan_file import Plan, dump_plan, load_header, load_plan
from tokenmill.executors.secrets import Redactor

FORMAT = 1
"""Version of the files in a job's folder."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the files of one input come from."""

    folder: str = ""
    """Folder of the job that writes them; empty for a recipe input."""
    port: str = ""
    """Output port of that job; all ports if empty."""
    paths: tuple[str, ...] = ()
    """Paths, globs or URLs of a recipe input."""


class JobFolder:
    """All reading and writing of one job's folder.

    Args:
        url: the folder.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.redactor = Redactor()
        self._commits = Commits(self.at("done"))
        self._intents: dict[str, dict[str, Any]] = {}

    def at(self, *parts: str) -> str:
        """URL of something in the folder."""
        return storage.join(self.url, *parts)

    # what the job is

    def write_job(self, job: Job, identity: str, sources: Mapping[str, Source]) -> None:
        """Record the job, or check that the folder holds this very job.

        Placement may change from launch to launch, so the record is rewritten.

        Raises:
            IdentityError: the folder holds another job.
        """
        record = {
            "format": FORMAT,
            "tokenmill": tokenmill.__version__,
            "identity": identity,
            "job": json.loads(storage.dump_json(asdict(job))),
            "sources": {
                name: json.loads(storage.dump_json(asdict(source))) for name, source in sources.items()
            },
        }
        if storage.exists(self.at("job.yaml")):
            old = self.record["identity"]
            if old != identity:
                raise IdentityError(
                    "the folder holds another job",
                    where=self.url,
                    expected=f"identity {identity}",
                    got=f"identity {old}",
                    fix="use another run folder, or remove this one",
                )
        text = json.dumps(record, indent=2, ensure_ascii=False)  # JSON is YAML that is read at once
        storage.write_atomic(self.at("job.yaml"), text.encode() + b"\n")
        for name in ("record", "job"):
            self.__dict__.pop(name, None)

    @cached_property
    def record(self) -> dict[str, Any]:
        """Content of job.yaml.

        Raises:
            InputError: there is none.
            VersionError: it was written by another version.
        """
        try:
            record = json.loads(storage.read_bytes(self.at("job.yaml")))
        except ValueError as error:
            fix = "if an older version wrote it, start a new run folder"
            raise StorageError("job.yaml is not JSON", where=self.url, got=str(error), fix=fix) from error
        if record.get("format") != FORMAT:
            raise VersionError(
                "a job folder of another version",
                where=self.url,
                expected=f"format {FORMAT}",
                got=f"format {record.get('format')}",
                fix="run it with the version of tokenmill that wrote it, or start a new run folder",
            )
        return dict(record)

    @cached_property
    def job(self) -> Job:
        """The job, as recorded."""
        value = dict(self.record["job"])
        value["after"] = tuple(value["after"])
        value["sharding"] = Sharding(**value["sharding"])
        value["resources"] = Resources(**value["resources"])
        return Job(**value)

    @property
    def sources(self) -> dict[str, Source]:
        """Where the inputs come from, as recorded."""
        return {
            name: Source(folder=value["folder"], port=value["port"], paths=tuple(value["paths"]))
            for name, value in self.record["sources"].items()
        }

    # the plan

    def ensure_plan(self) -> Plan:
        """The plan; made and published by whoever comes first.

        Raises:
            InputError: an input is missing, empty, or has changed since the plan was made.
        """
        if not storage.exists(self.at("plan.jsonl")):
            self.publish_plan()
        return self.plan()

    def publish_plan(self) -> None:
        """Make the plan from the inputs as they are now and publish it, unless there is one."""
        files = {name: input_files(source, name) for name, source in self.sources.items()}
        shards = make_plan(self.job, files)
        inputs = digest_of(files)
        header = {"format": FORMAT, "identity": self.record["identity"], "inputs": inputs}
        self._withdraw_stale(inputs)
        storage.publish_once(self.at("plan.jsonl"), dump_plan(header, shards, files))

    def _withdraw_stale(self, inputs: str) -> None:
        """After a plan was withdrawn: drop what was made from other inputs than the new plan's."""
        old = self.at("withdrawn", "plan.jsonl")
        with contextlib.suppress(StorageError):  # of a damaged plan nothing is known
            if not storage.exists(old) or load_header(old).get("inputs") == inputs:
                return
        for info in storage.list_files(self.at("progress")):
            if not storage.exists(self.at("plan.jsonl")):  # another worker may be ahead of this one
                storage.remove(info.url)
        for commit in list(
            self.commits()
        ):  # each says its inputs, so that no new one is taken for an old one
            if commit.get("inputs") != inputs:
                self.withdraw_commit(commit["shard"])

    @cached_property
    def _plan_header(self) -> dict[str, Any]:
        return load_header(self.at("plan.jsonl"))

    @property
    def plan_inputs(self) -> str:
        """Digest of the inputs that the plan was made from; empty if the plan does not say."""
        return str(self._plan_header.get("inputs", ""))

    def plan(self) -> Plan:
        """The published plan.

        Raises:
            IdentityError: it belongs to another job.
        """
        header, plan = load_plan(self.at("plan.jsonl"))
        if header["identity"] != self.record["identity"]:
            raise IdentityError(
                "the plan belongs to another job",
                where=self.at("plan.jsonl"),
                expected=f"identity {self.record['identity']}",
                got=f"identity {header['identity']}",
                fix="use another run folder",
            )
        return plan

    def num_shards(self) -> int | None:
        """Number of shards; None before the plan is made."""
        if "_plan_header" not in self.__dict__ and not storage.exists(self.at("plan.jsonl")):
            return None
        return int(self._plan_header["num_shards"])

    # leases, attempts, commits

    def lease(self, launch: str, shard: int, holder: Mapping[str, Any], generation: int = 0) -> bool:
        """Take a shard within a launch; False if another task has it. Advice: the commit is the law.

        Args:
            launch: token of the launch.
            shard: index of the shard.
            holder: who takes it, with the key ``task``.
            generation: 0 for the first holder; one more each time a shard is taken over.
        """
        suffix = f".{generation}" if generation else ""
        return storage.publish_once(
            self.at("leases", launch, f"{shard:05d}{suffix}.json"),
            storage.dump_json(dict(holder)),
            durable=False,
        )

    def leased(self, launch: str) -> dict[int, int]:
        """Shards taken within a launch, with the newest generation of their leases."""
        found: dict[int, int] = {}
        for name in storage.list_names(self.at("leases", launch)):
            shard, *generation = name.removesuffix(".json").split(".")
            found[int(shard)] = max(found.get(int(shard), 0), int(generation[0]) if generation else 0)
        return found

    def holder(self, launch: str, shard: int, generation: int) -> dict[str, Any]:
        """Who took a shard."""
        return dict(storage.read_json(self._lease_url(launch, shard, generation)))

    def leased_at(self, launch: str, shard: int, generation: int) -> float | None:
        """When a shard was taken, by the store's clock; None if it does not say."""
        return storage.written_at(self._lease_url(launch, shard, generation))

    def beat_at(self, launch: str, task: int) -> float | None:
        """When a task gave its last sign of life, by the store's clock; None if it does not say."""
        return storage.written_at(self.at("heartbeats", launch, f"{task}.json"))

    def _lease_url(self, launch: str, shard: int, generation: int) -> str:
        suffix = f".{generation}" if generation else ""
        return self.at("leases", launch, f"{shard:05d}{suffix}.json")

    def write_beat(self, launch: str, beat: Mapping[str, Any]) -> None:
        """Show that a task of a launch lives."""
        url = self.at("heartbeats", launch, f"{beat['task']}.json")
        storage.write_atomic(url, storage.dump_json(dict(beat)), durable=False)

    def beats(self, launch: str) -> dict[int, dict[str, Any]]:
        """Last sign of life of every task of a launch that gave one, by its number."""
        names = storage.list_names(self.at("heartbeats", launch))
        return {int(name.removesuffix(".json")): self._beat(launch, name) for name in names}

    def beating(self, launch: str) -> list[int]:
        """Numbers of the tasks of a launch that gave a sign of life, in order."""
        names = storage.list_names(self.at("heartbeats", launch))
        return sorted(int(name.removesuffix(".json")) for name in names)

    def beat(self, launch: str, task: int) -> dict[str, Any] | None:
        """Last sign of life of a task; None if it gave none."""
        if not storage.exists(self.at("heartbeats", launch, f"{task}.json")):
            return None
        return self._beat(launch, f"{task}.json")

    def _beat(self, launch: str, name: str) -> dict[str, Any]:
        return dict(storage.read_json(self.at("heartbeats", launch, name)))

    def write_attempt(self, record: Mapping[str, Any]) -> None:
        """Write or rewrite the record of an attempt; that it failed must outlive a crash of the machine."""
        name = f"{record['shard']:05d}.{record['attempt']}.rank{record['rank']}.json"
        durable = record["outcome"] not in ("running", "done", "late")
        storage.write_atomic(self.at("attempts", name), storage.dump_json(dict(record)), durable=durable)

    def attempts(self, part: str = "") -> list[dict[str, Any]]:
        """Records of attempts, by shard and start.

        Args:
            part: only those with this in their name: ``00007.`` for a shard, the token of a launch.
        """
        names = [
            name
            for name in storage.list_names(self.at("attempts"))
            if name.startswith(part) or f".{part}" in name
        ]
        records = [storage.read_json(self.at("attempts", name)) for name in names]
        return sorted(records, key=lambda record: (record["shard"], record["started"], record["rank"]))

    def hopeless(self, shard: int) -> str:
        """Why a shard is not tried again; empty if it is."""
        return hopeless(self.attempts(f"{shard:05d}."), self.job.resources)

    def last_class(self, shard: int) -> str:
        """Class of how the last attempt at a shard failed; empty if there was none or it did not."""
        records = self.attempts(f"{shard:05d}.")
        return str(records[-1].get("class", "")) if records else ""

    def is_settled(self, shard: int) -> bool:
        """True if work on a shard is in vain: it is done, or set aside, or the job is cancelled."""
        set_aside = self.at("quarantine", f"{shard:05d}.json"), self.at("cancelled.json")
        return self._commits.has(shard) or any(storage.exists(url) for url in set_aside)

    def num_stopped(self) -> int:
        """Number of attempts that saved their progress and stopped on request."""
        return sum(record["outcome"] == "stopped" for record in self.attempts())

    def intent(self, launch: str) -> dict[str, Any]:
        """What was to be started; empty if that was never written down. It never changes."""
        if launch not in self._intents:
            url = self.at("submissions", launch, "intent.json")
            self._intents[launch] = dict(storage.read_json(url)) if storage.exists(url) else {}
        return self._intents[launch]

    def launch_order(self) -> list[str]:
        """Tokens of recorded launches, oldest first."""
        intents = [
            (storage.read_json(self.at("submissions", token, "intent.json"))["number"], token)
            for token in storage.list_names(self.at("submissions"))
            if storage.exists(self.at("submissions", token, "intent.json"))
        ]
        return [token for _, token in sorted(intents)]

    def num_idle_launches(self) -> int:
        """Newest launches, without a gap, in which no task began an attempt though nothing stood before it.

        Those that a person has seen and forgiven do not count, nor those that waited for parents.
        """
        names = storage.list_names(self.at("attempts"))
        worked = {name.split(".")[1].partition("-")[0] for name in names}
        url = self.at("forgiven.json")
        forgiven = int(storage.read_json(url)["launches"]) if storage.exists(url) else 0
        idle = 0
        for launch in reversed(self.launch_order()[forgiven:]):
            if launch in worked:
                break
            idle += not self.intent(launch)["after"]
        return idle

    def forgive_launches(self) -> None:
        """Start to count idle launches anew."""
        if order := self.launch_order():
            storage.write_atomic(self.at("forgiven.json"), storage.dump_json({"launches": len(order)}))

    def last_words(self, launch: str = "") -> str:
        """End of what the tasks of a launch printed; empty if nothing, or without a launch."""
        folder = self.at("submissions", launch or "none")
        names = [name for name in storage.list_names(folder) if name.endswith(".out")]
        texts = (storage.read_bytes(storage.join(folder, name)) for name in reversed(names))
        spoken = next((text for text in texts if text.strip()), b"")
        return " ".join(spoken[-400:].decode(errors="replace").split())

    def log_url(self, shard: int, attempt: str, rank: int = 0) -> str:
        """Where the log of an attempt lies."""
        suffix = f".rank{rank}" if rank else ""
        return self.at("logs", f"{shard:05d}.{attempt}{suffix}.log")

    def commit(self, record: Mapping[str, Any]) -> bool:
        """Publish a commit record; False if another attempt was first."""
        return self._commits.publish(record)

    def done_url(self, shard: int) -> str:
        """Where the commit record of a shard is published."""
        return self._commits.url_of(shard)

    def committed(self, shard: int) -> dict[str, Any]:
        """The commit record of a shard that is done.

        Raises:
            InputError: it is not.
            StorageError: the record is damaged.
        """
        return self._commits.read(shard)

    def done(self) -> set[int]:
        """Indices of the shards that are done."""
        return self._commits.indices()

    def commits(self) -> Iterator[dict[str, Any]]:
        """Commit records in order of shards."""
        return iter(self._commits)

    def fold_commits(self) -> int:
        """Fold the records of every full thousand of shards into one file; returns how many thousands."""
        return self._commits.fold()

    def quarantine(self, shard: int, reason: str) -> None:
        """Set a shard aside: no task tries it again until it is released."""
        storage.publish_once(
            self.at("quarantine", f"{shard:05d}.json"), storage.dump_json({"shard": shard, "reason": reason})
        )

    def quarantined(self) -> dict[int, str]:
        """Shards set aside, with the last error."""
        names = storage.list_names(self.at("quarantine"))
        records = [storage.read_json(self.at("quarantine", name)) for name in names]
        return {record["shard"]: record["reason"] for record in records}

    def release(self) -> None:
        """Take all shards out of quarantine and forgive their failures."""
        for record in self.attempts():
            if record["outcome"] in ("error", "lost"):
                self.write_attempt(record | {"outcome": "forgiven"})
        for name in storage.list_names(self.at("quarantine")):
            storage.remove(self.at("quarantine", name))

    # taking back

    def withdraw(self, name: str) -> None:
        """Move a record to ``withdrawn/``: it counts no longer. Death in between leaves it in both places."""
        self.__dict__.pop("_plan_header", None)
        if storage.exists(self.at(name)):
            storage.write_atomic(self.at("withdrawn", name), storage.read_bytes(self.at(name)))
            storage.remove(self.at(name))

    def withdraw_commit(self, shard: int) -> None:
        """Make a shard not done: its commit record and its leases count no longer."""
        self._commits.unfold(shard)
        self.withdraw(self.done_url(shard).removeprefix(self.url + "/"))
        for launch in storage.list_names(self.at("leases")):
            for name in storage.list_names(self.at("leases", launch)):
                if name.startswith(f"{shard:05d}."):
                    storage.remove(self.at("leases", launch, name))

    # the end

    def manifest(self) -> dict[str, Any] | None:
        """The published manifest; None while the job is not complete."""
        url = self.at("manifest.json")
        return dict(storage.read_json(url)) if storage.exists(url) else None

    def finish(self, launch: str) -> bool:
        """Publish the manifest if every shard is done; True if they are.

        Of the tasks of a launch, which end at about the same time, one does it: merging the records of many
        shards is no small work. Should it die, the driver or the first reader of the manifest does it.
        """
        num_shards = self.num_shards()
        if num_shards is None or len(self.done()) < num_shards:
            return False
        claim = storage.dump_json({"launch": launch})
        if storage.publish_once(self.at("submissions", launch, "finished.json"), claim, durable=False):
            self.publish_manifest()
        return True

    def publish_manifest(self) -> bool:
        """Publish the manifest if every shard is done; True if it stands afterwards."""
        if storage.exists(self.at("manifest.json")):
            return True
        num_shards = self.num_shards()
        if num_shards is None or len(self.done()) < num_shards:
            return False
        self._commits.sync()
        manifest = merge_commits(self.record, self.commits())
        storage.publish_once(self.at("manifest.json"), storage.dump_json(manifest, indent=1))
        return True


def digest_of(files: Mapping[str, Sequence[InputFile]]) -> str:
    """Hexadecimal digest of a job's inputs: names, and checksums where a job wrote them, else sizes."""
    value = {
        name: [[file.name, file.sha256 or file.num_bytes] for file in found] for name, found in files.items()
    }
    return hashlib.sha256(storage.dump_json(value)).hexdigest()


def input_files(source: Source, name: str) -> list[InputFile]:
    """Files of an input, in order of logical names.

    Raises:
        InputError: a recipe input is missing, or the parent is not complete.
    """
    if source.folder:
        return _parent_files(source)
    found: dict[str, storage.FileInfo] = {}
    for path in source.paths:
        infos = storage.list_files(path)
        if not infos:
            raise InputError("no such input", where=f"input {name}", got=path, fix="check the path")
        found |= {info.url: info for info in infos}
    names = _short_names(sorted(found))
    files = [InputFile(url=url, name=names[url], num_bytes=found[url].num_bytes) for url in found]
    return sorted(files, key=lambda file: file.name)


def _parent_files(source: Source) -> list[InputFile]:
    parent = JobFolder(source.folder)
    parent.publish_manifest()  # its last worker may have died between its commit and the manifest
    manifest = parent.manifest()
    if manifest is None:
        raise InputError(
            "a job was started before its input was complete",
            where=parent.url,
            expected="manifest.json",
            got=f"{len(parent.done())} of {parent.num_shards()} shards done",
            fix="tokenmill resume",
        )
    ports = sorted({output["name"].partition("/")[0] for output in manifest["outputs"]})
    if source.port and source.port not in ports:
        raise InputError(
            "a job has no such output port",
            where=f"job {manifest['name']}",
            expected=" or ".join(ports) or "an output",
            got=source.port,
            fix=f"name one of these in the recipe, as {manifest['name']}.PORT",
        )
    prefix = f"{source.port}/" if source.port else ""
    return [
        InputFile(
            url=parent.at(output["path"]),
            name=output["name"],
            num_bytes=output["bytes"],
            sha256=output["sha256"],
        )
        for output in manifest["outputs"]
        if output["name"].startswith(prefix)
    ]


def _short_names(urls: Sequence[str]) -> dict[str, str]:
    """Names of files below their common folder, so that they do not depend on where the folder lies."""
    if len(urls) == 1:
        return {urls[0]: urls[0].rsplit("/", 1)[-1]}
    split = [url.split("/")[:-1] for url in urls]
    common = 0
    while all(len(parts) > common for parts in split) and len({parts[common] for parts in split}) == 1:
        common += 1
    return {url: "/".join(url.split("/")[common:]) for url in urls}
