"""An executor whose tasks are simulated: the controller cannot tell it from a scheduler."""

from collections import Counter
from collections.abc import Mapping, Sequence

from tokenmill.executors.launch import Launch, record_intent
from tokenmill.executors.simulation.cluster import Cluster
from tokenmill.executors.simulation.tasks import SimulatedJob
from tokenmill.executors.slurm import chunks_of


class SimulatedExecutor:
    """Tasks on a simulated cluster.

    Args:
        cluster: the machines and their queue.
        jobs: what the tasks work on, by name of the job.

    """

    name = "simulated"
    queues = True

    def __init__(self, cluster: Cluster, jobs: Mapping[str, SimulatedJob]) -> None:
        self.cluster, self.jobs = cluster, jobs
        self.poll_seconds = cluster.machines.poll_seconds
        self.settle_seconds = cluster.machines.settle_seconds
        self.calls: Counter[str] = Counter()

    def num_tasks(self, wanted: int) -> int:
        """At most the cluster's limit."""
        return min(wanted, self.cluster.machines.max_tasks)

    def free_slots(self) -> int:
        """As many as a launch may have: the scheduler queues what cannot start."""
        return self.cluster.machines.max_tasks

    def launch(self, launch: Launch) -> None:
        """Queue the tasks, in arrays as the slurm executor would."""
        record_intent(launch, self.name)
        known = self.cluster.crews
        after = tuple(known[parent.token] for parent in launch.after if parent.token in known)
        crew = self.jobs[launch.folder.job.name].crew(launch, after)
        chunks = chunks_of(launch, self.cluster.machines.max_array_size)
        self.calls["sbatch"] += len(chunks)
        arrays = [(chunk.first_task, 1 if crew.width > 1 else chunk.num_tasks) for chunk in chunks]
        self.cluster.submit(crew, arrays)

    def live(self, launches: Sequence[Launch]) -> set[str]:
        """Launches with a task that runs or is queued."""
        self.calls["squeue"] += bool(launches)
        crews = self.cluster.crews
        return {launch.token for launch in launches if launch.token in crews and crews[launch.token].live}

    def ends(self, launch: Launch) -> dict[str, str]:
        """Classes of the ends of tasks that died."""
        self.calls["sacct"] += 1
        crew = self.cluster.crews.get(launch.token)
        return {f"{launch.token}_{task}": kind for task, kind in crew.ends.items()} if crew else {}

    def nudge(self, launches: Sequence[Launch]) -> None:
        """Nothing: tasks look up by themselves."""

    def cancel(self, launches: Sequence[Launch]) -> None:
        """End the tasks of launches."""
        self.calls["scancel"] += len(launches)
        self.cluster.cancel([launch.token for launch in launches])

    def preview(self, launch: Launch) -> list[str]:
        """Nothing would be submitted."""
        return []
