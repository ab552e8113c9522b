"""Processes of a local cluster, known by pid files that are not believed blindly.

    launch ──> pid file ──> pid_of ──> end

A pid file alone proves nothing: the number may belong to a zombie or to somebody else by now. A process
counts as ours only when it has the daemon's name and was started with the cluster's folder.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path


class ClusterError(Exception):
    """What went wrong, for the user's eyes."""


def run(
    command: list[str], *, env: Mapping[str, str], seconds: float = 30
) -> subprocess.CompletedProcess[str]:
    """Run a client program and return what it said, whatever its exit status; 124 if it took too long."""
    try:
        return subprocess.run(
            command,
            env=env,
            capture_output=True,
            text=True,
            timeout=seconds,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"no answer within {seconds} s")


def check_owner(folder: Path, *, root_may: bool) -> None:
    """Leave other people's clusters alone.

    Args:
        folder: the cluster's folder.
        root_may: whether root may do it for its owner.

    Raises:
        ClusterError: names the owner.
    """
    me = os.geteuid()
    if folder.exists() and folder.stat().st_uid != me and not (root_may and me == 0):
        raise ClusterError(
            f"{folder} belongs to {folder.owner()}: do this as that user, or give another --folder"
        )


def wait_until(check: Callable[[], bool], seconds: float) -> bool:
    """Whether the check came true in time."""
    end = time.monotonic() + seconds
    while not check():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _is_dead(pid: int) -> bool:
    status = _read(Path(f"/proc/{pid}/stat"))
    return not status or status.rpartition(")")[2].split()[0] in "ZX"


def _environment_of(pid: int) -> dict[str, str]:
    pairs = (entry.partition("=") for entry in _read(Path(f"/proc/{pid}/environ")).split("\0"))
    return {key: value for key, _, value in pairs}


def pid_of(pid_file: Path, folder: Path) -> int | None:
    """Process id of a daemon that lives and belongs to the cluster in this folder."""
    text = _read(pid_file).strip()
    if not text.isdigit() or _is_dead(int(text)):
        return None
    process = Path("/proc") / text
    if not _read(process / "comm").startswith(pid_file.stem.split(".")[0]):
        return None
    # slurmdbd names its configuration only in the environment
    traces = _read(process / "cmdline") + _environment_of(int(text)).get("SLURM_CONF", "")
    return int(text) if f"{folder}/" in traces else None


def launch(
    command: list[str], *, pid_file: Path, folder: Path, env: Mapping[str, str], stays: bool = False
) -> None:
    """Start a daemon in a session of its own and wait for its pid file.

    Args:
        command: the program; it must name the folder.
        pid_file: where the daemon writes its process id.
        folder: the cluster's folder.
        env: environment of the daemon.
        stays: the program does not go to the background by itself.

    Raises:
        ClusterError: if it does not come up; with the end of its log.
    """
    log = folder / "log" / f"{pid_file.stem}.start.log"
    with log.open("ab") as out:
        process = subprocess.Popen(
            command, env=env, start_new_session=True, stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
    failed = not stays and process.wait(timeout=60) != 0
    if failed or not wait_until(lambda: pid_of(pid_file, folder) is not None, 20):
        logs = [log, folder / "log" / f"{pid_file.stem}.log"]
        tail = "\n".join(line for path in logs for line in _read(path).splitlines()[-5:])
        raise ClusterError(f"{pid_file.stem} did not start ({' '.join(command)}):\n{tail}")


def thaw(pid: int) -> None:
    """Wake a process that was stopped by a signal."""
    os.kill(pid, signal.SIGCONT)


def end(pid_files: list[Path], folder: Path, seconds: float) -> None:
    """Stop daemons, all at once: first asked, after some seconds forced."""
    for sig in (signal.SIGTERM, signal.SIGKILL):
        living = [pid for path in pid_files if (pid := pid_of(path, folder)) is not None]
        for pid in living:
            thaw(pid)
            os.kill(pid, sig)
        if wait_until(lambda living=living: all(map(_is_dead, living)), seconds):  # type: ignore[misc]
            break
    for path in pid_files:
        path.unlink(missing_ok=True)


def job_processes(folder: Path) -> list[int]:
    """Processes of the cluster's jobs: SLURM marks each with a job id and the path of its configuration."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        env = _environment_of(int(path.name))
        if "SLURM_JOB_ID" in env and env.get("SLURM_CONF", "").startswith(f"{folder}/etc/"):
            found.append(int(path.name))
    return found


def kill_leftovers(folder: Path) -> None:
    """End what jobs left behind when their node daemon died before them."""
    for pid in job_processes(folder):
        if pid != os.getpid():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
