"""The report of a run: ``report.json`` for programs, ``report.html`` for people.

    run.json, job folders ──collect──> plain values ──dump──> report.json
                                                    ──html_page─> report.html

Counters merge upward a last time here: shard -> job happened in the manifest, job -> recipe happens now.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tokenmill import storage
from tokenmill.errors import InputError
from tokenmill.executors import cost, page
from tokenmill.executors.commits import merge_commits
from tokenmill.executors.ledger import JobFolder
from tokenmill.executors.secrets import Redactor
from tokenmill.executors.status import JobStatus, driver_of, job_status, read_run
from tokenmill.telemetry import Counters

_FORMAT = 1
_MOST_OUTPUTS = 1000
_MOST_FAILURES = 20
_MOST_REASONS = 8
_LOG_TAIL_LINES = 40
_LOG_TAIL_BYTES = 20_000
ENDED_BADLY = ("error", "forgiven", "lost")
"""Outcomes of attempts that failed."""
_WORDS = ("message", "config", "figures", "failures", "inputs")
"""What of a report may hold words of entries, of people and of other programs."""


def write_report(run_url: str, redactor: Redactor | None = None) -> str:
    """Write ``report.json`` and ``report.html`` at the top of a run folder; returns the URL of the page.

    Args:
        run_url: folder of the run.
        redactor: hides secrets.

    Raises:
        InputError: the folder is not a run.
    """
    run_url = storage.absolute(run_url)
    report = collect(run_url)
    for part in (report["run"], *report["jobs"]):
        part.update({key: (redactor or Redactor()).value(part[key]) for key in _WORDS if key in part})
    storage.write_atomic(storage.join(run_url, "report.json"), storage.dump_json(report, indent=1))
    url = storage.join(run_url, "report.html")
    storage.write_atomic(url, page.html_page(report).encode())
    return url


def collect(run_url: str) -> dict[str, Any]:
    """Plain values of a run's report, complete or not."""
    run = read_run(run_url)
    now = time.time()
    prices, driven = cost.prices_of(run_url), driver_of(run_url) is not None
    jobs, timeline, usages = [], [], []
    for row in run["jobs"]:
        folder = JobFolder(storage.join(run_url, row["folder"]))
        status = job_status(folder, driven=driven)
        attempts = folder.attempts()
        usages.append(cost.usage_of(folder, attempts, prices, alive=bool(status.running)))
        attempts = with_losses(folder, attempts, driven=driven)
        job = _job(folder, status, attempts, usages[-1])
        job["parents"] = [*row["parents"], *_recipe_inputs(job, run["recipe"]["inputs"])]
        jobs.append(job)
        timeline.append({"name": status.name, "state": status.state, **_spans(attempts, status.state, now)})
    first = min((start for row in timeline for start, _ in row["spans"]), default=run["created"])
    for row in timeline:
        row["spans"] = [[start - first, end - first] for start, end in row["spans"]]
        row["failed"] = [moment - first for moment in row["failed"]]
    counters, read = Counters(), {name for job in jobs for name in job["parents"]}
    for job in jobs:
        job["is_last"] = job["name"] not in read
        counters.merge(job["counters"])
    state = overall_state([job["state"] for job in jobs], driven=driven)
    return {
        "format": _FORMAT,
        "run": {
            "url": run_url,
            "recipe": run["name"],
            "tokenmill": run["tokenmill"],
            "created": run["created"],
            "reported": now,
            "inputs": {name: list(urls) for name, urls in run["recipe"]["inputs"].items()},
        },
        "totals": {"state": state, **_totals(jobs, timeline, cost.total(usages))},
        "counters": counters.values,
        "jobs": jobs,
        "timeline": timeline,
        "funnel": _funnel(jobs),
    }


def _recipe_inputs(job: Mapping[str, Any], inputs: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(name for name in job["inputs"].values() if name in inputs))


def _job(
    folder: JobFolder, status: JobStatus, attempts: Sequence[Mapping[str, Any]], usage: cost.Usage
) -> dict[str, Any]:
    """What the report says about one job."""
    job = folder.job
    result = folder.manifest() or merge_commits(folder.record, list(folder.commits()))
    rejected = f"{(job.config.get('writer') or {}).get('rejected_port') or 'rejected'}/"
    failures = _failures(folder, attempts)
    return {
        "name": job.name,
        "state": status.state,
        "message": status.message,
        "entry": job.entry,
        "layout": job.layout,
        "identity": folder.record["identity"],
        "folder": folder.url,
        "inputs": dict(job.inputs),
        "config": dict(job.config),
        "num_shards": status.num_shards,
        "done": status.done,
        "failed": status.failed,
        "outcomes": dict(Counter(attempt["outcome"] for attempt in attempts if not attempt["rank"])),
        "seconds": usage.attempt_seconds,
        "cpu_seconds": result["cpu_seconds"],
        "core_hours": usage.core_hours,
        "gpu_hours": usage.gpu_hours,
        "max_rss_bytes": usage.max_rss_bytes,
        "usage": asdict(usage),
        "counters": result["counters"],
        "figures": result["figures"],
        "num_outputs": len(result["outputs"]),
        "output_bytes": sum(output["bytes"] for output in result["outputs"]),
        "kept_bytes": sum(
            output["bytes"] for output in result["outputs"] if not output["name"].startswith(rejected)
        ),
        "outputs": [
            {key: output[key] for key in ("name", "bytes", "sha256")}
            for output in result["outputs"][:_MOST_OUTPUTS]
        ],
        "outputs_left_out": max(0, len(result["outputs"]) - _MOST_OUTPUTS),
        "failures": failures[:_MOST_FAILURES],
        "failures_left_out": max(0, len(failures) - _MOST_FAILURES),
    }


def _failures(folder: JobFolder, attempts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Failed attempts at shards that are still not done, newest first; logs for as many as are shown."""
    done = folder.done()
    failed = [
        attempt
        for attempt in reversed(attempts)
        if attempt["outcome"] in ENDED_BADLY and attempt["shard"] not in done
    ]
    return [
        {
            **{key: attempt[key] for key in ("shard", "attempt", "rank", "host", "started")},
            "class": attempt.get("class", ""),
            "error": attempt.get("error") or "it ended without a word",
            "log_tail": log_tail(folder.log_url(attempt["shard"], attempt["attempt"], attempt["rank"]))
            if index < _MOST_FAILURES
            else "",
        }
        for index, attempt in enumerate(failed)
    ]


def with_losses(
    folder: JobFolder, attempts: Sequence[Mapping[str, Any]], *, driven: bool
) -> list[dict[str, Any]]:
    """Attempts, those among them settled that ended unnoticed: most of them are lost.

    Args:
        folder: the job's folder.
        attempts: records of the job's attempts.
        driven: whether a driver works on the run; without one only tasks of a queue can still run.
    """
    order = folder.launch_order()
    newest = order[-1] if order and folder.manifest() is None else ""
    if newest and not driven:
        intent = storage.read_json(folder.at("submissions", newest, "intent.json"))
        newest = newest if intent["executor"] == "slurm" else ""
    return [
        cost.settled(folder, attempt)
        if attempt["outcome"] == "running" and attempt["launch"] != newest
        else dict(attempt)
        for attempt in attempts
    ]


def log_tail(url: str, num_lines: int = _LOG_TAIL_LINES) -> str:
    """Last lines of a log; says so if the log is not there."""
    try:
        with storage.open_input(url) as file:
            end = file.seek(0, 2)
            file.seek(max(0, end - max(_LOG_TAIL_BYTES, 500 * num_lines)))
            text = file.read().decode(errors="replace")
    except InputError:
        return f"(no log at {url})"
    return "\n".join(text.splitlines()[-num_lines:])


def _spans(attempts: Sequence[Mapping[str, Any]], state: str, now: float) -> dict[str, Any]:
    """Begin and end of every attempt; one that died without a word ends with the last one that did not."""
    last = max((attempt.get("ended", attempt["started"]) for attempt in attempts), default=0.0)
    open_end = now if state == "running" else last
    spans = [[attempt["started"], attempt.get("ended") or open_end] for attempt in attempts]
    failed = [
        attempt.get("ended", attempt["started"]) for attempt in attempts if attempt["outcome"] in ENDED_BADLY
    ]
    return {"spans": spans, "failed": failed}


def _totals(
    jobs: Sequence[Mapping[str, Any]], timeline: Sequence[Mapping[str, Any]], usage: cost.Usage
) -> dict[str, Any]:
    outcomes: Counter[str] = Counter()
    for job in jobs:
        outcomes.update(job["outcomes"])
    return {
        "jobs": len(jobs),
        "complete": sum(job["state"] == "complete" for job in jobs),
        "shards": sum(job["num_shards"] or 0 for job in jobs),
        "done": sum(job["done"] for job in jobs),
        "attempts": outcomes.total(),
        "failed_attempts": sum(outcomes[name] for name in ENDED_BADLY),
        "wall_seconds": max((end for row in timeline for _, end in row["spans"]), default=0.0),
        "core_hours": usage.core_hours,
        "gpu_hours": usage.gpu_hours,
        "usage": asdict(usage),
        "outputs": sum(job["num_outputs"] for job in jobs),
        "output_bytes": sum(job["output_bytes"] for job in jobs),
    }


def overall_state(states: Sequence[str], *, driven: bool = False) -> str:
    """State of a run from the states of its jobs and from whether a driver works on it.

    >>> overall_state(["complete", "running", "waiting"]), overall_state(["complete", "failed"])
    ('running', 'failed')
    >>> overall_state(["complete", "planned"], driven=True), overall_state(["complete", "planned"])
    ('running', 'unfinished')
    """
    if all(state == "complete" for state in states):
        return "complete"
    if driven or "running" in states:
        return "running"
    found = [state for state in ("failed", "cancelled") if state in states]
    return found[0] if found else "unfinished" if "complete" in states else "waiting"


def _funnel(jobs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Documents and bytes that each job passes on, rejects left out, and the reasons of what it drops.

    Every block counts ``<block>/documents_in``, ``<block>/documents_out`` and ``<block>/dropped/<reason>``.
    Blocks only drop, so the most is what went in and the least is what came out.
    """
    rows = []
    for job in jobs:
        counters: Mapping[str, float] = job["counters"]
        out = [value for name, value in counters.items() if name.endswith("documents_out")]
        if not out:
            continue
        dropped: Counter[str] = Counter()
        for name, value in counters.items():
            block, found, reason = name.partition("/dropped/")
            if found:
                dropped[f"{block}: {reason}"] += int(value)
        rows.append(
            {
                "name": job["name"],
                "documents_in": max(
                    value
                    for name, value in counters.items()
                    if name.endswith(("documents_in", "documents_out"))
                ),
                "documents": min(out),
                "bytes": job["kept_bytes"],
                "dropped": [list(item) for item in dropped.most_common(_MOST_REASONS)],
            }
        )
    return rows
