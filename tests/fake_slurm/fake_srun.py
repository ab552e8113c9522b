"""Fake srun: starts the ranks of a step as local processes, with the variables that the real one sets."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from fake_options import Options, parse
from fake_programs import ordered_failure
from fake_queue import FakeError, state_folder

KILL_WAIT_SECONDS = 2.0


def environment(rank: int, num_tasks: int, num_nodes: int, step: int) -> dict[str, str]:
    """Variables of one rank; ranks are laid on nodes in blocks."""
    per_node = -(-num_tasks // num_nodes)
    node = rank // per_node
    mates = [str(r) for r in range(num_tasks) if r // per_node == node]
    values = {
        "SLURM_PROCID": rank,
        "SLURM_LOCALID": rank % per_node,
        "SLURM_NODEID": node,
        "SLURM_NTASKS": num_tasks,
        "SLURM_NPROCS": num_tasks,
        "SLURM_STEP_ID": step,
        "SLURM_STEPID": step,
        "SLURM_STEP_NUM_TASKS": num_tasks,
        "SLURM_STEP_NUM_NODES": num_nodes,
        "SLURM_GTIDS": ",".join(mates),
        "SLURMD_NODENAME": f"n{node + 1}",
        "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1",
    }
    return dict(os.environ) | {key: str(value) for key, value in values.items()}


class Step:
    """The ranks of one srun call."""

    def __init__(self, options: Options, num_tasks: int, num_nodes: int) -> None:
        self.options = options
        self.kill_on_bad_exit = options["kill-on-bad-exit"] not in ("", "0")
        job = os.environ.get("SLURM_JOB_ID", "none")
        self.mark = state_folder() / f"steps/{job}/{os.getpid()}"
        self.mark.parent.mkdir(parents=True, exist_ok=True)
        number = sum(1 for _ in self.mark.parent.glob("*"))
        self.mark.touch()
        self.ranks = [
            subprocess.Popen(
                options.words,
                env=environment(rank, num_tasks, num_nodes, number),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if options["label"] else self._file("output", rank),
                stderr=self._file("error", rank) or (subprocess.STDOUT if options["output"] else None),
                cwd=options["chdir"] or None,
            )
            for rank in range(num_tasks)
        ]

    def _file(self, name: str, rank: int) -> int | None:
        pattern = self.options[name]
        if not pattern:
            return None
        values = {"%t": rank, "%j": os.environ.get("SLURM_JOB_ID", "0"), "%n": 0, "%N": "n1"}
        values["%J"] = f"{values['%j']}.0"
        values["%A"] = os.environ.get("SLURM_ARRAY_JOB_ID", str(values["%j"]))
        values["%a"] = os.environ.get("SLURM_ARRAY_TASK_ID", "4294967294")
        for key, value in values.items():
            pattern = pattern.replace(key, str(value))
        fresh = 0 if self.options["open-mode"] == "append" or "%t" not in self.options[name] else os.O_TRUNC
        return os.open(pattern, os.O_WRONLY | os.O_CREAT | os.O_APPEND | fresh, 0o644)

    def forward(self, number: int, _frame: FrameType | None) -> None:
        """Pass a signal on to every rank."""
        for process in self.ranks:
            process.send_signal(number)

    def wait(self) -> int:
        """Exit status of the step: the largest of its ranks'."""
        readers = [threading.Thread(target=self._label, args=(rank,)) for rank in range(len(self.ranks))]
        for reader in readers if self.options["label"] else []:
            reader.start()
        codes: dict[int, int] = {}
        try:
            while len(codes) < len(self.ranks):
                for rank, process in enumerate(self.ranks):
                    self._reap(rank, process, codes)
        finally:
            self.mark.unlink(missing_ok=True)
        return max(codes.values())

    def _reap(self, rank: int, process: "subprocess.Popen[bytes]", codes: dict[int, int]) -> None:
        if rank in codes:
            return
        try:
            code = process.wait(0.02)
        except subprocess.TimeoutExpired:
            return
        codes[rank] = 128 - code if code < 0 else code
        if codes[rank]:
            what = "Killed" if code == -signal.SIGKILL else f"Exited with exit code {code}"
            print(f"srun: error: n1: task {rank}: {what}", file=sys.stderr)
        if codes[rank] and self.kill_on_bad_exit:
            self._end(signal.SIGTERM)
            timer = threading.Timer(KILL_WAIT_SECONDS, self._end, [signal.SIGKILL])
            timer.daemon = True
            timer.start()

    def _end(self, number: int) -> None:
        for process in self.ranks:
            process.send_signal(number)

    def _label(self, rank: int) -> None:
        stream = self.ranks[rank].stdout
        for line in stream or ():
            sys.stdout.write(f"{rank}: {line.decode(errors='replace')}")
            sys.stdout.flush()


def run(words: Sequence[str]) -> int:
    """Start the ranks and wait for them.

    Raises:
        FakeError: the command line is wrong.
    """
    options = parse("srun", words, stop_at_word=True)
    if not options.words:
        raise FakeError("srun: fatal: No command given to execute.")
    num_tasks = options.number("ntasks", int(os.environ.get("SLURM_NTASKS", "1")))
    num_nodes = options.number("nodes", int(os.environ.get("SLURM_NNODES", "1")))
    try:
        step = Step(options, num_tasks, min(num_nodes, num_tasks))
    except OSError as error:
        raise FakeError(f"slurmstepd: error: execve(): {options.words[0]}: {error.strerror}", 2) from error
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, step.forward)
    return step.wait()


def main() -> int:
    """Run the step unless the test ordered a failure."""
    try:
        order = ordered_failure("srun")
        if order is not None:
            raise FakeError(str(order["text"]))
        return run(sys.argv[1:])
    except FakeError as error:
        print(error, file=sys.stderr)
        return error.code


if __name__ == "__main__":
    Path(state_folder()).mkdir(exist_ok=True)
    sys.exit(main())
