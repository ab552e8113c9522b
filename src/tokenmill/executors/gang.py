"""What a rank of a gang does: one attempt at the gang's only shard, together with the others.

A segment that finds the shard done, or set aside, ends at once. A rank that saved after a signal has stopped,
and the next segment or launch goes on from there. An error of one rank ends the attempt for all.
"""

import logging
import os

from tokenmill.executors.attempt import Place, attempt_name, run_attempt, shard_of
from tokenmill.executors.ledger import JobFolder
from tokenmill.executors.stop import Stop

_log = logging.getLogger("tokenmill.worker")


def work_gang(folder: JobFolder, place: Place, stop: Stop) -> str:
    """Work as one rank; returns the outcome: done, late, stopped or error.

    Args:
        folder: the job's folder.
        place: where this rank stands.
        stop: whether the end was announced.

    Raises:
        TokenmillError: the job cannot be worked on at all.
    """
    shard = shard_of(folder, folder.job)
    if shard.index in folder.done():
        folder.publish_manifest()
        return "done"
    if shard.index in folder.quarantined():
        return "error"
    if place.rank == 0:  # nobody competes for the shard; the lease shows that it is worked on
        folder.lease(place.launch, shard.index, {"task": 0, "pid": os.getpid()})
        close_predecessors(folder, place)
        if reason := folder.hopeless(shard.index):
            folder.quarantine(shard.index, reason)
            return "error"
    outcome = run_attempt(folder, shard, place, stop.requested)
    _log.info("rank %d: %s", place.rank, outcome)
    if outcome == "error" and (reason := folder.hopeless(shard.index)):
        folder.quarantine(shard.index, reason)
    if outcome in ("done", "late") and place.rank == 0:
        folder.publish_manifest()
    return outcome


def close_predecessors(folder: JobFolder, place: Place) -> None:
    """Say how earlier attempts of a launch ended, if they could not: the scheduler started this one instead.

    Args:
        folder: the job's folder.
        place: where rank 0 of the newest attempt stands.
    """
    mine = attempt_name(place, "gang")
    for record in folder.attempts(place.launch):
        if record["outcome"] == "running" and record["attempt"] != mine:
            error = f"ended without a word on {record['host']}; attempt {mine} was started in its place"
            folder.write_attempt(
                {**record, "outcome": "lost", "class": "lost", "error": error, "seconds": 0.0}
            )
