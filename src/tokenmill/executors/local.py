"""Tasks inside the driver's own process, one after the other: for debugging and for small runs."""

import time
from collections.abc import Sequence

from tokenmill.executors.attempt import Place
from tokenmill.executors.launch import Launch, record_intent
from tokenmill.executors.processes import end_processes, has_failed, start_tasks
from tokenmill.executors.stop import Stop
from tokenmill.executors.worker import equip, work


class LocalExecutor:
    """One task in this process; only the ranks of a gang of several are processes, since they must be."""

    name = "local"
    queues = False
    poll_seconds = 0.1
    settle_seconds = 0.0

    def num_tasks(self, wanted: int) -> int:
        """One."""
        return min(wanted, 1)

    def free_slots(self) -> int:
        """One: a launch returns when it has ended."""
        return 1

    def launch(self, launch: Launch) -> None:
        """Work on the job until no shard is left."""
        record_intent(launch, self.name)
        if launch.folder.job.layout == "gang" and launch.num_tasks > 1:
            _run_ranks(launch)
        else:
            equip(launch.folder, streams=False)
            work(launch.folder, Place(launch=launch.token, in_driver=True), Stop())

    def live(self, launches: Sequence[Launch]) -> set[str]:
        """None: a launch returns when it has ended."""
        return set()

    def ends(self, launch: Launch) -> dict[str, str]:
        """Nothing: a task that dies takes the driver with it."""
        return {}

    def nudge(self, launches: Sequence[Launch]) -> None:
        """Nothing to do: a launch returns when it has ended."""

    def cancel(self, launches: Sequence[Launch]) -> None:
        """Nothing to do: a launch returns when it has ended."""

    def preview(self, launch: Launch) -> list[str]:
        """One line: no script is needed."""
        ranks = launch.num_tasks if launch.folder.job.layout == "gang" else 1
        return [f"{ranks} ranks on this machine" if ranks > 1 else "in this process"]


def _run_ranks(launch: Launch) -> None:
    """Start the ranks of a gang and wait; one that fails ends the others."""
    processes = start_tasks(launch)
    try:
        while any(process.is_alive() for process in processes):
            if has_failed(processes):
                end_processes(processes, grace_seconds=1.0)
            time.sleep(LocalExecutor.poll_seconds)
    finally:
        end_processes(processes)
