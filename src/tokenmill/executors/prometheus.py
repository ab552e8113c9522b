"""Numbers of a run as a text file for Prometheus: point node_exporter's textfile collector at its folder.

    tokenmill run ... --prometheus /var/lib/node_exporter/lines.prom

The file is replaced as a whole, so a scrape sees the old numbers or the new ones. Counters may fall when a
shard is withdrawn or a run is started anew: Prometheus takes that for a restart.

The format: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tokenmill import storage
from tokenmill.executors.watch import JobView

_STATES = ("waiting", "planned", "running", "complete", "failed", "cancelled")
Labels = Mapping[str, str]
Sample = tuple[Labels, float]


@dataclass(frozen=True)
class _Metric:
    name: str
    kind: str
    help: str
    samples: Callable[[JobView], Iterator[Sample]]


def _one(value: Callable[[JobView], float]) -> Callable[[JobView], Iterator[Sample]]:
    def samples(view: JobView) -> Iterator[Sample]:
        yield {}, value(view)

    return samples


def _by(
    label: str, values: Callable[[JobView], Mapping[str, float]]
) -> Callable[[JobView], Iterator[Sample]]:
    def samples(view: JobView) -> Iterator[Sample]:
        for key, value in values(view).items():
            yield {label: key}, value

    return samples


def _shards(view: JobView) -> dict[str, float]:
    status = view.status
    busy = status.done + status.failed + status.running
    waiting = max(0, (status.num_shards or 0) - busy)
    return {"done": status.done, "failed": status.failed, "running": status.running, "waiting": waiting}


_METRICS = (
    _Metric("shards", "gauge", "Shards of a job by state.", _by("state", _shards)),
    _Metric(
        "job_state",
        "gauge",
        "1 for the state that a job is in.",
        _by("state", lambda view: {state: float(view.status.state == state) for state in _STATES}),
    ),
    _Metric("shards_per_second", "gauge", "Shards done per second now.", _one(lambda view: view.rate)),
    _Metric(
        "left_seconds",
        "gauge",
        "Estimated seconds until the last shard of a job is done; -1 if unknown.",
        _one(lambda view: -1.0 if view.left_seconds is None else view.left_seconds),
    ),
    _Metric(
        "tasks",
        "gauge",
        "Tasks of the newest launch that show life, and those that ought to.",
        _by("state", lambda view: {"alive": view.alive, "silent": view.silent}),
    ),
    _Metric(
        "attempts_total",
        "counter",
        "Attempts at shards by outcome; running ones have none yet.",
        _by("outcome", lambda view: dict(view.usage.attempts)),
    ),
    _Metric(
        "failures_total",
        "counter",
        "Failed and lost attempts by class.",
        _by("class", lambda view: dict(view.usage.failures)),
    ),
    _Metric("launches_total", "counter", "Launches recorded.", _one(lambda view: view.usage.launches)),
    _Metric(
        "task_seconds_total", "counter", "Seconds of all tasks.", _one(lambda view: view.usage.task_seconds)
    ),
    _Metric("core_hours_total", "counter", "Core-hours asked.", _one(lambda view: view.usage.core_hours)),
    _Metric(
        "used_core_hours_total", "counter", "CPU hours used.", _one(lambda view: view.usage.used_core_hours)
    ),
    _Metric(
        "wasted_core_hours_total",
        "counter",
        "Core-hours asked by attempts of which nothing is left.",
        _one(lambda view: view.usage.wasted_core_hours),
    ),
    _Metric("gpu_hours_total", "counter", "GPU-hours asked.", _one(lambda view: view.usage.gpu_hours)),
    _Metric("cost_total", "counter", "Price of what was asked.", _one(lambda view: view.usage.cost)),
    _Metric(
        "max_memory_bytes", "gauge", "Largest memory of a task.", _one(lambda view: view.usage.max_rss_bytes)
    ),
    _Metric(
        "asked_memory_bytes",
        "gauge",
        "Memory that a task asks for.",
        _one(lambda view: view.usage.memory_bytes),
    ),
    _Metric(
        "main_counter",
        "gauge",
        "Main counters of a job's entry; estimated while the job runs.",
        _by("name", lambda view: dict(view.counters)),
    ),
)


def render(
    run_url: str,
    views: Sequence[JobView],
    requests: Mapping[str, float] | None = None,
    now: float | None = None,
) -> str:
    """Metrics of a run in Prometheus' text format.

    Args:
        run_url: folder of the run; the label ``run`` of every sample.
        views: the jobs.
        requests: requests to object stores that this process has made, by method.
        now: time of the look, in seconds since 1970.
    """
    run = {"run": run_url}
    lines: list[str] = []
    for metric in _METRICS:
        samples = [
            ({**run, "job": view.status.name, **labels}, value)
            for view in views
            for labels, value in metric.samples(view)
        ]
        lines += _family(metric.name, metric.kind, metric.help, samples)
    counted = [({**run, "method": method}, count) for method, count in (requests or {}).items()]
    lines += _family("store_requests_total", "counter", "Requests to object stores of this process.", counted)
    seen = time.time() if now is None else now
    lines += _family("look_timestamp_seconds", "gauge", "When these numbers were read.", [(run, seen)])
    return "\n".join(lines) + "\n"


def write(url: str, run_url: str, views: Sequence[JobView]) -> None:
    """Replace a file by the metrics of a run."""
    storage.write_atomic(url, render(run_url, views, storage.requests()).encode(), durable=False)


def _family(name: str, kind: str, help_text: str, samples: Sequence[tuple[Labels, float]]) -> list[str]:
    if not samples:
        return []
    full = f"tokenmill_{name}"
    lines = [f"# HELP {full} {help_text}", f"# TYPE {full} {kind}"]
    for labels, value in samples:
        text = ",".join(f'{key}="{_escaped(label)}"' for key, label in labels.items())
        lines.append(f"{full}{{{text}}} {_number(value)}")
    return lines


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(float(value))


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
