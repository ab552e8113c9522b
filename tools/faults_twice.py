"""Try every shard of a job at the same moment as another process does: faults_twice.py JOB MEETING NUMBER."""

import os
import sys
import time
from pathlib import Path

from tokenmill.executors.attempt import Place, run_attempt
from tokenmill.executors.launch import Launch, new_token, record_intent
from tokenmill.executors.ledger import JobFolder

MEET_SECONDS = 60.0


def meet(folder: Path, number: int, name: str) -> None:
    """Wait until the other process is here, too."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.{number}").touch()
    deadline = time.monotonic() + MEET_SECONDS
    while not (folder / f"{name}.{1 - number}").exists():
        assert time.monotonic() < deadline, f"the other process did not come to {name}"
        time.sleep(0.0005)


def main(url: str, meeting: str, number: int) -> None:
    """Try every shard that is not done, whoever else does."""
    folder = JobFolder(url)
    launch = Launch(token=new_token(), folder=folder, num_tasks=1)
    record_intent(launch, "twice")
    place = Place(launch=launch.token, index=number)
    shards = folder.plan()
    done = folder.done()
    meet(Path(meeting), number, "start")
    for shard in shards:
        if shard.index not in done:
            meet(Path(meeting), number, str(shard.index))
            run_attempt(folder, shard, place, lambda: False)
    os.sync()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
