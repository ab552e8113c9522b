"""Fake sbatch, squeue, sacct, scancel, scontrol, srun and sinfo: put ``bin`` on PATH for fast tests.

    sbatch ──> queue.json <── scheduler (ends by itself) ──> batch scripts, as local processes
                   ^
    squeue, sacct, scontrol, scancel        (srun is a file of its own)

They speak as Slurm 22.05 does, and refuse options that they do not know. A test makes the next calls of a
program fail with a file in the state folder, ``fail/sbatch.json``::

    {"text": "sbatch: error: ... Socket timed out ...", "times": 1, "accepted": true, "seconds": 0.5}

``times`` counts the calls that fail (-1: all); with ``accepted`` the program does its work all the same, and
only its answer is lost.
"""

import contextlib
import getpass
import io
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from fake_options import Options, batch_lines, parse
from fake_queue import (
    COMPACT,
    FINAL,
    Entry,
    FakeError,
    Queue,
    Submission,
    indices,
    opened,
    settings,
    state_folder,
)
from fake_scheduler import check_dependency, clock, ensure_running, kill, log_path, step_pids

REFUSED = "sbatch: error: Batch job submission failed: "
BASICS = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR")


def sbatch(words: Sequence[str]) -> None:
    """Accept a batch script or refuse it."""
    line = parse("sbatch", words, stop_at_word=True)
    script = _script(line)
    header = parse("sbatch", batch_lines(script), stop_at_word=False)
    options = Options(header.values | line.values, line.words)
    limits = settings()
    tasks, throttle = indices(options["array"]) if options["array"] else ([], 0)
    if tasks and tasks[-1] >= limits.max_array_size:
        raise FakeError(REFUSED + "Invalid job array specification")
    partition = options["partition"] or limits.partitions[0]
    if partition not in limits.partitions:
        text = f"sbatch: error: invalid partition specified: {partition}\n"
        raise FakeError(text + REFUSED + "Invalid partition name specified")
    check_dependency(options["dependency"])
    with opened() as queue:
        job_id = queue.new_id()
        job = _submission(job_id, options, script, tasks, throttle)
        queue.submissions[job_id] = job
        begin = time.time() + float(options["begin"].removeprefix("now+") or 0)
        held = bool(options["hold"])
        entry = Entry(submission=job_id, job_id=0 if tasks else job_id, index=None, begin=begin, held=held)
        entry.reason = "JobHeldUser" if held else "None"
        queue.entries += [replace(entry, index=index) for index in tasks] or [entry]
        ensure_running(queue)
    print(job_id if options["parsable"] else f"Submitted batch job {job_id}")


def _script(line: Options) -> str:
    if line["wrap"]:
        return f"#!/bin/sh\n# This script was created by sbatch --wrap.\n\n{line['wrap']}\n"
    try:
        text = Path(line.words[0]).read_text() if line.words and line.words[0] != "-" else sys.stdin.read()
    except OSError:
        raise FakeError(f"sbatch: error: Unable to open file {line.words[0]}") from None
    if not text.strip():
        raise FakeError("sbatch: error: Batch script is empty!")
    if not text.startswith("#!"):
        raise FakeError("sbatch: error: This does not look like a batch script.")
    return text


def _submission(job_id: int, options: Options, script: str, tasks: list[int], throttle: int) -> Submission:
    folder = Path(options["chdir"] or Path.cwd()).absolute()
    copy = state_folder().absolute() / "scripts" / f"{job_id}.sh"
    copy.parent.mkdir(exist_ok=True)
    copy.write_text(script)
    copy.chmod(0o755)
    name = "wrap" if options["wrap"] else Path(options.words[0]).name if options.words else "sbatch"
    return Submission(
        job_id=job_id,
        name=options["job-name"] or name,
        script=str(copy),
        arguments=options.words[1:],
        folder=str(folder),
        environment=_exported(options["export"]),
        output=options["output"] or ("slurm-%A_%a.out" if tasks else "slurm-%j.out"),
        error=options["error"],
        append=options["open-mode"] == "append",
        indices=tasks,
        throttle=throttle,
        dependency=options["dependency"],
        kill_invalid=options["kill-on-invalid-dep"] == "yes",
        partition=options["partition"] or settings().partitions[0],
        num_tasks=options.number("ntasks", 0),
        num_nodes=options.number("nodes", 1),
        cpus=options.number("cpus-per-task", 0),
        time_seconds=clock(options["time"], settings().minute_seconds),
        signal=options["signal"],
        requeue=not options["no-requeue"],
        comment=options["comment"],
        user=getpass.getuser(),
    )


def _exported(text: str) -> dict[str, str]:
    """Environment of a job; what the fake needs goes along whatever is asked for."""
    own = {key: value for key, value in os.environ.items() if key.startswith("FAKE_SLURM_")}
    if text in ("", "ALL"):
        return dict(os.environ)
    out = {key: os.environ[key] for key in BASICS if key in os.environ} | own
    for part in text.split(",") if text not in ("NONE", "NIL") else []:
        name, equals, value = part.partition("=")
        if name == "ALL":
            out |= os.environ
        elif equals or name in os.environ:
            out[name] = value if equals else os.environ[name]
    return out


def _columns(text: str, fields: dict[str, str]) -> str:
    """A line in the format of ``squeue -o`` and ``sinfo -o``."""

    def column(found: re.Match[str]) -> str:
        right, width, letter = found.groups()
        if letter not in fields:
            raise FakeError(f"the fake does not know %{letter} of the format '{text}'")
        value = fields[letter]
        if not width:
            return value
        return value[: int(width)].rjust(int(width)) if right else value[: int(width)].ljust(int(width))

    return re.sub(r"%(\.?)(\d*)([a-zA-Z])", column, text)


SQUEUE_LETTERS = "iAFKjTtrREuPNDCMlZok"
SQUEUE_NAMES = [
    *("JOBID", "JOBID", "ARRAY_JOB_ID", "ARRAY_TASK_ID", "NAME", "STATE", "ST", "REASON", "NODELIST(REASON)"),
    *("DEPENDENCY", "USER", "PARTITION", "NODELIST", "NODES", "CPUS", "TIME", "TIME_LIMIT", "WORK_DIR"),
    *("COMMAND", "COMMENT"),
]


def _squeue_fields(queue: Queue, group: list[Entry]) -> dict[str, str]:
    entry, job = group[0], queue.of(group[0])
    numbers = _ranges([e.index for e in group if e.index is not None])
    if len(group) > 1:
        numbers += f"%{job.throttle}" if job.throttle else ""
    label = entry.label if len(group) == 1 else f"{job.job_id}_[{numbers}]"
    running = entry.state == "RUNNING" or entry.state in FINAL
    node = ("n1" if job.num_nodes == 1 else f"n[1-{job.num_nodes}]") if running and entry.started else ""
    seconds = int((entry.ended or time.time()) - entry.started) if entry.started else 0
    values = [
        *(label, str(entry.job_id or job.job_id), str(job.job_id), numbers or "N/A", job.name),
        *(entry.shown_state, COMPACT[entry.shown_state], entry.reason, node or f"({entry.reason})"),
        *(_unfulfilled(entry, job), job.user, job.partition, node, str(job.num_nodes)),
        *(str(max(1, job.cpus) * max(1, job.num_tasks)), f"{seconds // 60}:{seconds % 60:02}"),
        *(str(int(job.time_seconds)) if job.time_seconds else "UNLIMITED", job.folder, job.script),
        job.comment or "(null)",
    ]
    return dict(zip(SQUEUE_LETTERS, values, strict=True))


def _unfulfilled(entry: Entry, job: Submission) -> str:
    waits = job.dependency and entry.state == "PENDING"
    return ",".join(f"{clause}(unfulfilled)" for clause in job.dependency.split(",")) if waits else "(null)"


def _ranges(numbers: Sequence[int]) -> str:
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def _selected(queue: Queue, options: Options, states: str) -> list[Entry]:
    """Entries that the options of squeue, scancel or sacct choose; every state if none is given."""
    wanted = {name.upper() for name in options.listed(states)}
    names = options.listed("name") + options.listed("jobname")
    users = options.listed("user")
    return [
        entry
        for entry in queue.entries
        if (not wanted or "ALL" in wanted or {entry.shown_state, COMPACT[entry.shown_state]} & wanted)
        and (not names or queue.of(entry).name in names)
        and (not users or queue.of(entry).user in users)
    ]


def squeue(words: Sequence[str]) -> None:
    """List jobs that have not ended, or those asked for."""
    options = parse("squeue", words, stop_at_word=False)
    with opened() as queue:
        chosen = _selected(queue, options, "states")
    if not options["states"]:
        chosen = [entry for entry in chosen if entry.shown_state not in FINAL]
    if options["jobs"]:
        asked = [entry.label for text in options.listed("jobs") for entry in queue.find(text)]
        if not asked and len(options.listed("jobs")) == 1:
            raise FakeError("slurm_load_jobs error: Invalid job id specified")
        chosen = [entry for entry in chosen if entry.label in asked]
    groups: dict[str, list[Entry]] = {}
    for entry in chosen:
        together = entry.state == "PENDING" and not entry.pid and not options["array"]
        groups.setdefault(f"{entry.submission}+{entry.reason}" if together else entry.label, []).append(entry)
    layout = options["format"] or "%.18i %.9P %.8j %.8u %.2t %.10M %.6D %R"
    if not options["noheader"]:
        print(_columns(layout, dict(zip(SQUEUE_LETTERS, SQUEUE_NAMES, strict=True))))
    for group in groups.values():
        print(_columns(layout, _squeue_fields(queue, group)))


def _sacct_fields(queue: Queue, entry: Entry, step: str) -> dict[str, str]:
    job = queue.of(entry)
    state = f"CANCELLED by {os.getuid()}" if entry.state == "CANCELLED" and not step else entry.state
    seconds = int((entry.ended or time.time()) - entry.started) if entry.started else 0
    return {
        "jobid": entry.label + step,
        "jobidraw": str(entry.job_id or job.job_id) + step,
        "jobname": step.removeprefix(".") or job.name,
        "state": state,
        "exitcode": exit_text(entry.exit_code),
        "nodelist": "n1" if entry.started else "None assigned",
        "elapsed": f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}",
        "partition": job.partition,
        "user": "" if step else job.user,
        "maxrss": "1024K" if step else "",
        "reason": entry.reason,
    }


def exit_text(code: int) -> str:
    """Exit status and signal as sacct prints them."""
    return f"0:{-code}" if code < 0 else f"{code}:0"


def sacct(words: Sequence[str]) -> None:
    """Print what the database knows, if there is one."""
    options = parse("sacct", words, stop_at_word=False)
    if not settings().accounting:
        raise FakeError("Slurm accounting storage is disabled")
    fields = [name.partition("%")[0] for name in options.listed("format")]
    fields = fields or ["JobID", "JobName", "Partition", "State", "ExitCode"]
    end = "|" if options["parsable"] else ""
    mark = "|" if options["parsable2"] or options["parsable"] else " "
    with opened() as queue:
        chosen = _selected(queue, options, "state")
    if options["jobs"]:
        asked = [entry.label for text in options.listed("jobs") for entry in queue.find(text)]
        chosen = [entry for entry in chosen if entry.label in asked]
    if not options["noheader"]:
        print(mark.join(fields) + end)
    for entry in chosen:
        for step in ("",) if options["allocations"] or not entry.started else ("", ".batch"):
            row = _sacct_fields(queue, entry, step)
            unknown = [name for name in fields if name.lower() not in row]
            if unknown:
                raise FakeError(f'sacct: fatal: Invalid field requested: "{unknown[0]}"')
            print(mark.join(row[name.lower()] for name in fields) + end)


def scancel(words: Sequence[str]) -> None:
    """Cancel jobs or send them a signal."""
    options = parse("scancel", words, stop_at_word=False)
    if not options.words and not options.values.keys() - {"quiet", "signal"}:
        raise FakeError("scancel: error: No job identification provided")
    with opened() as queue:
        chosen = _selected(queue, options, "state")
        if options.words:
            asked = [entry.label for text in options.words for entry in queue.find(text)]
            chosen = [entry for entry in chosen if entry.label in asked]
        for entry in chosen:
            if options["signal"] and entry.state == "RUNNING":
                _signal(entry, options)
            elif not options["signal"] and entry.state not in FINAL:
                _cancel(entry)
        # the real controller keeps no record of an array task that is cancelled by index before it started
        if any("_" in word for word in options.words):
            forgotten = [entry for entry in chosen if entry.state == "CANCELLED" and not entry.job_id]
            queue.entries = [entry for entry in queue.entries if entry not in forgotten]
        ensure_running(queue)


def _signal(entry: Entry, options: Options) -> None:
    name = options["signal"].upper().removeprefix("SIG")
    number = int(name) if name.isdigit() else signal.Signals[f"SIG{name}"]
    if options["batch"] or options["full"]:
        kill(entry.pid, number, group=bool(options["full"]))
        return
    for pid in step_pids(entry.job_id):
        kill(pid, number, group=False)


def _cancel(entry: Entry) -> None:
    entry.state, entry.ended, entry.reason = "CANCELLED", time.time(), "None"
    if entry.pid:
        entry.killed = time.time()
        kill(entry.pid, signal.SIGTERM)


def scontrol(words: Sequence[str]) -> None:
    """Show the configuration, a job or host names; hold, release and requeue jobs."""
    options = parse("scontrol", words, stop_at_word=False)
    verb, *rest = options.words or ["help"]
    actions: dict[str, Callable[[Queue, Entry], None]] = {
        "requeue": _requeue,
        "hold": _hold,
        "release": _release,
    }
    if verb == "ping":
        print("Slurmctld(primary) at fake is UP")
    elif verb == "show" and rest:
        _show(rest[0], rest[1:], one_line=bool(options["oneliner"]))
    elif verb in actions and rest:
        with opened() as queue:
            for entry in _known(queue, ",".join(rest)):
                actions[verb](queue, entry)
            ensure_running(queue)
    else:
        raise FakeError(f"the fake scontrol does not know '{' '.join(options.words)}'")


def _known(queue: Queue, text: str) -> list[Entry]:
    found = [entry for part in text.split(",") for entry in queue.find(part)]
    if not found:
        raise FakeError(f"Invalid job id specified for job {text}")
    return found


def _requeue(queue: Queue, entry: Entry) -> None:
    if not queue.of(entry).requeue:
        raise FakeError(f"Requested operation is presently disabled for job {entry.label}")
    if entry.state == "PENDING":
        raise FakeError(f"Job is pending execution for job {entry.label}")
    if entry.pid:
        entry.killed = time.time()
        kill(entry.pid, signal.SIGTERM)
    entry.state, entry.reason, entry.restarts = "PENDING", "BeginTime", entry.restarts + 1
    entry.begin = time.time() + settings().requeue_seconds


def _hold(queue: Queue, entry: Entry) -> None:
    if entry.state in FINAL:
        raise FakeError(f"Job has already finished for job {queue.of(entry).job_id}")
    entry.held, entry.reason = True, "JobHeldUser"


def _release(queue: Queue, entry: Entry) -> None:
    if entry.state in FINAL:
        raise FakeError(f"Job has already finished for job {queue.of(entry).job_id}")
    entry.held, entry.reason = False, "None"


def _show(what: str, rest: Sequence[str], *, one_line: bool) -> None:
    if what == "config":
        limits = settings()
        print("Configuration data as of 2026-01-01T00:00:00")
        values = {"AccountingStorageType": "accounting_storage/none", "ClusterName": "fake"}
        values |= {"KillWait": "5 sec", "MaxArraySize": str(limits.max_array_size), "MaxJobCount": "10000"}
        values |= {"MinJobAge": "600 sec", "SLURM_VERSION": "22.05.8"}
        for key, value in values.items():
            print(f"{key:<23} = {value}")
    elif what in ("hostnames", "hostname"):
        head, _, numbers = (rest[0] if rest else "").rstrip("]").partition("[")
        print("\n".join(f"{head}{number}" for number in indices(numbers)[0]) if numbers else head)
    elif what in ("job", "jobs", "jobid") and rest:
        with opened() as queue:
            for entry in _known(queue, rest[0]):
                print(
                    (" " if one_line else "\n   ").join(_job_lines(queue, entry)) + ("" if one_line else "\n")
                )
    else:
        raise FakeError(f"the fake scontrol does not know 'show {what}'")


def _job_lines(queue: Queue, entry: Entry) -> list[str]:
    job = queue.of(entry)
    array = "" if entry.index is None else f" ArrayJobId={job.job_id} ArrayTaskId={entry.index}"
    output = log_path(job.output, job, entry)
    return [
        f"JobId={entry.job_id or job.job_id}{array} JobName={job.name}",
        f"JobState={entry.shown_state} Reason={entry.reason} Dependency={_unfulfilled(entry, job)}",
        f"Requeue={int(job.requeue)} Restarts={entry.restarts} ExitCode={exit_text(entry.exit_code)}",
        f"Partition={job.partition} NumNodes={job.num_nodes} NumTasks={max(1, job.num_tasks)}",
        f"Command={job.script} WorkDir={job.folder} StdErr={job.error or output} StdOut={output}",
    ]


def sinfo(words: Sequence[str]) -> None:
    """List partitions."""
    options = parse("sinfo", words, stop_at_word=False)
    layout = options["format"] or "%9P %5a %10l %6D %6t %N"
    heads = [
        "PARTITION",
        "AVAIL",
        "TIMELIMIT",
        "NODES",
        "STATE",
        "STATE",
        "NODELIST",
        "CPUS",
        "MEMORY",
        "GRES",
    ]
    if not options["noheader"]:
        print(_columns(layout, dict(zip("PalDtTNcmG", heads, strict=True))))
    number = settings().num_nodes
    for place, name in enumerate(settings().partitions):
        shown = name + ("*" if place == 0 else "")
        values = [
            shown,
            "up",
            "infinite",
            str(number),
            "idle",
            "idle",
            f"n[1-{number}]",
            "8",
            "16000",
            "(null)",
        ]
        print(_columns(layout, dict(zip("PalDtTNcmG", values, strict=True))))


def ordered_failure(program: str) -> dict[str, object] | None:
    """What a test ordered for this call; counts it."""
    path = state_folder() / "fail" / f"{program}.json"
    if not path.exists():
        return None
    order: dict[str, object] = json.loads(path.read_text())
    times = int(str(order.get("times", 1)))
    if times == 0:
        return None
    path.write_text(json.dumps(order | {"times": times - 1 if times > 0 else times}))
    return order


def run(program: str, words: Sequence[str]) -> int:
    """Run one of the programs; returns its exit status."""
    programs = {"sbatch": sbatch, "squeue": squeue, "sacct": sacct, "scancel": scancel}
    programs |= {"scontrol": scontrol, "sinfo": sinfo}
    try:
        order = ordered_failure(program)
        if order is None:
            programs[program](words)
            return 0
        if order.get("accepted"):
            with contextlib.redirect_stdout(io.StringIO()):
                programs[program](words)
        time.sleep(float(str(order.get("seconds", 0))))
        raise FakeError(str(order["text"]))
    except FakeError as error:
        print(error, file=sys.stderr)
        return error.code


if __name__ == "__main__":
    sys.exit(run(sys.argv[1], sys.argv[2:]))
