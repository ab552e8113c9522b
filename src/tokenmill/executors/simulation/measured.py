"""Durations of an earlier run, for the rehearsal of a larger one."""

from dataclasses import replace

from tokenmill.errors import InputError
from tokenmill.executors.ledger import JobFolder
from tokenmill.executors.simulation.scenario import Durations, Scenario
from tokenmill.executors.status import folders_of

_MOST_SAMPLES = 5000


def with_measured(scenario: Scenario, run_url: str) -> Scenario:
    """The scenario with the durations of a run in place of assumed ones, for jobs of which it did a shard.

    Raises:
        InputError: the folder is not a run, or nothing in it is done.
    """
    works = dict(scenario.jobs)
    for name, folder in folders_of(run_url).items():
        durations = durations_of(folder)
        if durations.measured_seconds:
            works[name] = replace(scenario.work(name), durations=durations)
    if works == dict(scenario.jobs):
        raise InputError("no shard of this run is done, so nothing is measured", where=run_url)
    return replace(scenario, jobs=works)


def durations_of(folder: JobFolder) -> Durations:
    """Seconds and stored bytes of the shards of a job that are done, or of a sample of them."""
    done = sorted(folder.done())
    sample = done[:: max(1, len(done) // _MOST_SAMPLES)]
    plan = folder.plan() if done else ()
    sizes = [
        sum(piece.end - piece.start for pieces in plan[shard].inputs.values() for piece in pieces)
        for shard in sample
    ]
    return Durations(
        measured_seconds=tuple(float(folder.committed(shard)["seconds"]) for shard in sample),
        measured_bytes=tuple(sizes) if all(sizes) else (),
    )
