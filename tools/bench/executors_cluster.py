"""A SLURM cluster of a benchmark's own, and the processor seconds of everything that ever ran in it.

    benchmark ──starts──> keeper ──starts──> slurmctld, slurmd ──> slurmstepd ──> tasks

Daemons and step daemons leave their parents, so nobody's resource usage would hold theirs. The keeper is
their subreaper (prctl(2)): orphans below it become its children, and the kernel adds up what they used.
"""

import argparse
import ctypes
import os
import re
import select
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

CLUSTER = Path(__file__).resolve().parents[2] / "slurm" / "local_cluster"
_PR_SET_CHILD_SUBREAPER = 36
_POLL_SECONDS = 0.1
_TICKS = os.sysconf("SC_CLK_TCK")
_QUEUE_SECONDS = 0.2


def keep(folder: str, options: list[str]) -> int:
    """Body of the keeper: start the cluster, reap until standard input ends, stop the cluster."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        print("prctl refuses a subreaper", file=sys.stderr)
        return 1
    start = [sys.executable, str(CLUSTER / "start"), "--folder", folder, *options]
    done = subprocess.run(start, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, check=False)
    print("failed" if done.returncode else "up", flush=True)
    while not select.select([sys.stdin], [], [], _POLL_SECONDS)[0]:
        _reap()
    stop = [sys.executable, str(CLUSTER / "stop"), "--folder", folder, "--purge"]
    subprocess.run(stop, stdout=subprocess.DEVNULL, check=False)
    _reap()
    return done.returncode


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _times(pid: int) -> tuple[int, float] | None:
    """Parent of a process, and processor seconds of it and of the children it waited for; None if gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(fields[1]), sum(map(int, fields[11:15])) / _TICKS


def tree_seconds(root: int) -> float:
    """Processor seconds of a process, of all that live below it and of all that ended there."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (times := _times(int(name))):
            found[int(name)] = times
    below = {root}
    grown = True
    while grown:
        more = {pid for pid, (parent, _) in found.items() if parent in below} - below
        below |= more
        grown = bool(more)
    return sum(found[pid][1] for pid in below if pid in found)


class Cluster:
    """A running cluster; use as a context manager.

    Args:
        folder: holds it; a short path, since sockets lie in it.
        nodes: number of slurmd.
        cpus: processors that each pretends to have.

    Raises:
        RuntimeError: it did not start.
    """

    def __init__(self, folder: Path, nodes: int = 8, cpus: int = 8) -> None:
        self.folder = folder
        options = ["--nodes", str(nodes), "--cpus", str(cpus), "--max-array-size", "50001"]
        command = [sys.executable, __file__, str(folder), *options, "--no-accounting"]
        self._keeper = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._keeper.stdout
        if self._keeper.stdout.readline().strip() != "up":
            self._keeper.communicate()
            raise RuntimeError("the cluster did not start; see slurm/local_cluster/start")
        text = (folder / "env.sh").read_text()
        exports = dict(re.findall(r"(\w+)=(\S+)", text))
        self.environment = dict(os.environ) | {
            "SLURM_CONF": exports["SLURM_CONF"],
            "PATH": f"{os.environ['PATH']}:/usr/sbin",
        }

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._keeper.communicate()  # its standard input ends

    def seconds(self) -> float:
        """Processor seconds of the cluster and its tasks so far."""
        return tree_seconds(self._keeper.pid)

    def wait_until_empty(self, limit_seconds: float) -> None:
        """Wait until the queue holds nothing.

        Raises:
            TimeoutError: it still does after so many seconds.
        """
        deadline = time.monotonic() + limit_seconds
        while subprocess.run(
            ["squeue", "--noheader"], env=self.environment, capture_output=True, check=False
        ).stdout.strip():
            if time.monotonic() > deadline:
                raise TimeoutError(f"the queue is not empty after {limit_seconds:.0f} s")
            time.sleep(_QUEUE_SECONDS)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Keep a SLURM cluster until standard input ends.")
    parser.add_argument("folder")
    given, rest = parser.parse_known_args()
    sys.exit(keep(given.folder, rest))
