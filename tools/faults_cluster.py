"""The cluster of tools/faults: started by slurm/local_cluster/start, and then mistreated."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CLUSTER = ROOT / "slurm/local_cluster"
sys.path.insert(0, str(CLUSTER))

from daemons import pid_of  # noqa: E402 - beside the cluster's programs

SLURMD_TIMEOUT = 8
"""Seconds of silence after which a node of the cluster is DOWN."""
MESSAGE_TIMEOUT = 8
"""Seconds that SLURM's programs wait for an answer."""


def environment_of(pid: int) -> dict[str, str]:
    """Variables that a process was started with; empty if it is gone or somebody else's."""
    try:
        text = Path(f"/proc/{pid}/environ").read_text(errors="replace")
    except OSError:
        return {}
    return {key: value for key, _, value in (entry.partition("=") for entry in text.split("\0"))}


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A real SLURM on this machine, in a folder of its own."""

    folder: Path
    """Its folder; short, since sockets lie in it."""
    accounting: bool = False
    """With slurmdbd, so that sacct answers."""
    nodes: int = 4
    """Number of slurmd."""

    @property
    def environment(self) -> dict[str, str]:
        """Environment of SLURM's programs."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM", "SBATCH"))}
        return kept | {"SLURM_CONF": f"{self.folder}/etc/slurm.conf", "PATH": f"{kept['PATH']}:/usr/sbin"}

    def start(self) -> str:
        """Start what is not alive, resume nodes that are DOWN; returns what went wrong, or nothing."""
        words = [
            sys.executable,
            str(CLUSTER / "start"),
            "--folder",
            str(self.folder),
            "--nodes",
            str(self.nodes),
        ]
        words += ["--max-array-size", "11", "--slurmd-timeout", str(SLURMD_TIMEOUT)]
        words += ["--message-timeout", str(MESSAGE_TIMEOUT)]
        words += ["--accounting"] if self.accounting else []
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=900)
        return "" if done.returncode == 0 else done.stderr.strip()

    def stop(self) -> None:
        """End everything and remove the folder."""
        words = [sys.executable, str(CLUSTER / "stop"), "--folder", str(self.folder), "--purge"]
        subprocess.run(words, capture_output=True, check=False, timeout=300)
        shutil.rmtree(self.folder, ignore_errors=True)

    def client(self, *words: str, seconds: float = 60.0) -> str:
        """What one of SLURM's programs prints; empty if it fails."""
        try:
            done = subprocess.run(
                list(words),
                env=self.environment,
                capture_output=True,
                text=True,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return ""
        return done.stdout if done.returncode == 0 else ""

    def wait_until_idle(self, seconds: float = 60.0) -> bool:
        """Wait until the queue is empty, as the next case wants it."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if "is UP" in self.client("scontrol", "ping") and not self.client("squeue", "-h").strip():
                return True
            time.sleep(0.5)
        return False

    # daemons

    def pid(self, daemon: str) -> int | None:
        """Process of ``slurmctld``, ``slurmdbd`` or ``slurmd.NODE``; None if it is dead."""
        return pid_of(self.folder / "run" / f"{daemon}.pid", self.folder)

    def signal(self, daemon: str, signum: signal.Signals) -> bool:
        """Send a signal to a daemon; False if it is dead."""
        pid = self.pid(daemon)
        if pid is None:
            return False
        os.kill(pid, signum)
        return True

    def kill(self, daemon: str) -> bool:
        """Kill a daemon with signal 9; False if it is dead already."""
        return self.signal(daemon, signal.SIGKILL)

    def wipe_state(self) -> None:
        """Remove all that the controller remembers: it forgets every job, and ids start again."""
        shutil.rmtree(self.folder / "state", ignore_errors=True)
        (self.folder / "state").mkdir(mode=0o755)

    def node_processes(self, node: str) -> list[int]:
        """Helpers of slurmd and the tasks of a node, slurmd itself left out."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            env = environment_of(int(path.name))
            conf = env.get("SLURM_CONF", "")
            at_node = conf == f"{self.folder}/etc/{node}/slurm.conf" or (
                conf.startswith(f"{self.folder}/") and env.get("SLURMD_NODENAME") == node
            )
            if at_node and int(path.name) not in (self.pid(f"slurmd.{node}"), os.getpid()):
                found.append(int(path.name))
        return found
