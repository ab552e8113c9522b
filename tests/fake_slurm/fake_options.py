"""Reads the command lines of SLURM's programs: short and long forms, ``#SBATCH`` lines, words after them."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field

from fake_queue import FakeError

FLAGS: dict[str, set[str]] = {
    "sbatch": {"parsable", "requeue", "no-requeue", "hold", "exclusive"},
    "squeue": {"me", "noheader", "array", "all"},
    "sacct": {"noheader", "parsable", "parsable2", "allocations", "allusers", "duplicates", "array"},
    "scancel": {"me", "quiet", "batch", "full"},
    "srun": {"label", "unbuffered", "exact", "overlap", "kill-on-bad-exit", "exclusive"},
    "sinfo": {"noheader", "Node", "long", "all"},
    "scontrol": {"oneliner", "quiet"},
}
"""Options without a value."""
VALUES: dict[str, set[str]] = {
    "sbatch": {
        *(
            "array",
            "dependency",
            "kill-on-invalid-dep",
            "job-name",
            "output",
            "error",
            "export",
            "ntasks",
            "nodes",
        ),
        *(
            "cpus-per-task",
            "time",
            "signal",
            "open-mode",
            "partition",
            "comment",
            "chdir",
            "begin",
            "wrap",
            "mem",
        ),
        *("mem-per-cpu", "account", "qos", "constraint", "gres", "gpus", "gpus-per-task", "gpus-per-node"),
        *("ntasks-per-node", "exclude", "nodelist", "nice", "priority", "mail-type", "mail-user", "wckey"),
    },
    "squeue": {"user", "jobs", "states", "name", "format", "partition", "sort"},
    "sacct": {"jobs", "format", "starttime", "endtime", "state", "name", "user", "delimiter"},
    "scancel": {"name", "state", "signal", "user", "partition", "jobname"},
    "srun": {
        *(
            "ntasks",
            "nodes",
            "cpus-per-task",
            "output",
            "error",
            "mpi",
            "cpu-bind",
            "gpus-per-task",
            "export",
        ),
        *("ntasks-per-node", "open-mode", "jobid", "gres", "mem", "mem-per-cpu", "chdir", "job-name", "time"),
        *("partition", "distribution", "wait", "input", "gpu-bind", "nodelist"),
    },
    "sinfo": {"format", "partition", "states", "nodes"},
    "scontrol": set(),
}
"""Options with a value."""
SHORT: dict[str, dict[str, str]] = {
    "sbatch": {
        **{"a": "array", "d": "dependency", "J": "job-name", "o": "output", "e": "error", "n": "ntasks"},
        **{"N": "nodes", "c": "cpus-per-task", "t": "time", "p": "partition", "D": "chdir", "b": "begin"},
        **{"A": "account", "q": "qos", "C": "constraint", "H": "hold", "G": "gpus", "x": "exclude"},
    },
    "squeue": {
        **{
            "u": "user",
            "h": "noheader",
            "r": "array",
            "o": "format",
            "j": "jobs",
            "t": "states",
            "n": "name",
        },
        **{"p": "partition", "S": "sort", "a": "all"},
    },
    "sacct": {
        **{
            "j": "jobs",
            "n": "noheader",
            "P": "parsable2",
            "p": "parsable",
            "X": "allocations",
            "o": "format",
        },
        **{"S": "starttime", "E": "endtime", "s": "state", "u": "user", "D": "duplicates", "a": "allusers"},
    },
    "scancel": {
        "n": "name",
        "t": "state",
        "s": "signal",
        "u": "user",
        "Q": "quiet",
        "b": "batch",
        "f": "full",
    },
    "srun": {
        **{"n": "ntasks", "N": "nodes", "c": "cpus-per-task", "o": "output", "e": "error", "l": "label"},
        **{"u": "unbuffered", "K": "kill-on-bad-exit", "D": "chdir", "J": "job-name", "p": "partition"},
        **{"m": "distribution", "W": "wait", "t": "time", "i": "input"},
    },
    "sinfo": {
        "h": "noheader",
        "o": "format",
        "N": "Node",
        "p": "partition",
        "t": "states",
        "n": "nodes",
        "l": "long",
    },
    "scontrol": {"o": "oneliner", "Q": "quiet"},
}


@dataclass
class Options:
    """A command line."""

    values: dict[str, str] = field(default_factory=dict)
    """Long name -> value; ``yes`` for a flag."""
    words: list[str] = field(default_factory=list)
    """What follows, or lies between, the options."""

    def __getitem__(self, name: str) -> str:
        """Value of an option; empty if it was not given."""
        return self.values.get(name, "")

    def number(self, name: str, default: int) -> int:
        """Value of an option that is a whole number."""
        text = self[name]
        if text and not text.isdigit():
            raise FakeError(f'error: Invalid numeric value "{text}" for --{name}.')
        return int(text or default)

    def listed(self, name: str) -> list[str]:
        """Value of an option that is a list."""
        return [part for part in self[name].split(",") if part]


def parse(program: str, words: Sequence[str], *, stop_at_word: bool) -> Options:
    """Read a command line.

    Args:
        program: whose options are known.
        words: the command line without the program.
        stop_at_word: the first word that is no option begins somebody else's command line.

    Raises:
        FakeError: an option is unknown here, or lacks its value.
    """
    out, rest = Options(), list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-") or word == "-":
            out.words.append(word)
            if stop_at_word:
                return Options(out.values, [*out.words, *rest])
            continue
        name, value = _split(program, word)
        if name in VALUES[program] and value is None:
            if not rest:
                raise FakeError(f"{program}: option '{word}' requires an argument")
            value = rest.pop(0)
        out.values[name] = "yes" if value is None else value
    return out


def _split(program: str, word: str) -> tuple[str, str | None]:
    name, equals, value = word.removeprefix("--").partition("=")
    if word.startswith("--"):
        known, given = name, value if equals else None
    else:
        known, given = SHORT[program].get(word[1], ""), word[2:] or None
        if known in FLAGS[program] and given and not given.isdigit():
            raise FakeError(f"{program}: the fake wants short flags apart, got '{word}'")
    if known not in FLAGS[program] | VALUES[program]:
        raise FakeError(
            f"{program}: unrecognized option '{word}'\nTry \"{program} --help\" for more information"
        )
    return known, given


def batch_lines(script: str) -> list[str]:
    """Words of the ``#SBATCH`` lines before the first command of a script."""
    words: list[str] = []
    for line in script.splitlines():
        if line.startswith("#SBATCH"):
            words += shlex.split(line.removeprefix("#SBATCH"), comments=True)
        elif line.strip() and not line.startswith("#"):
            break
    return words
