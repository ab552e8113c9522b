"""Gangs whose ranks ask for different things: one SLURM job of several components, ranks numbered through.

#SBATCH ...part 0...        srun --het-group=0 --ntasks=1 ... worker
#SBATCH hetjob               :   --het-group=1 --ntasks=4 ... worker
#SBATCH ...part 1...
"""

import shlex
from collections.abc import Mapping, Sequence

from tokenmill.executors.job import Part, Resources
from tokenmill.executors.site import Site

_OF_THE_WHOLE = ("comment", "dependency", "export", "job-name", "kill-on-invalid-dep", "open-mode", "output")
"""Flags that the first component says for all."""


def parts_of(resources: Resources) -> tuple[Part, ...]:
    """The parts of a gang; one if all ranks are alike."""
    if resources.parts:
        return resources.parts
    return (
        Part(
            ranks=max(1, resources.tasks),
            cpus=resources.cpus,
            gpus=resources.gpus,
            memory_bytes=resources.memory_bytes,
        ),
    )


def size_flags(part: Part, site: Site) -> dict[str, str]:
    """What a part asks of SLURM, apart from cores, memory and GPUs per rank."""
    return {
        "ntasks": str(part.ranks),
        "partition": site.gpu_partition if part.gpus and site.gpu_partition else site.partition,
        "constraint": part.constraint or site.constraint,
    }


def memory_per_cpu(part: Part) -> str:
    """Memory in the words of SLURM."""
    return f"{max(1, part.memory_bytes // max(1, part.cpus) // 2**20)}M"


def with_components(
    script: str, flags: Mapping[str, str], parts: Sequence[Part], site: Site, minutes: int
) -> str:
    """A batch script of the first part, with the other parts added as components.

    Args:
        script: the script of the first part.
        flags: its flags.
        parts: all parts.
        site: the cluster.
        minutes: time limit.

    """
    if len(parts) == 1:
        return script
    lines = script.splitlines(keepends=True)
    end = max(number for number, line in enumerate(lines) if line.startswith("#SBATCH")) + 1
    added: list[str] = []
    for part in parts[1:]:
        mine = {key: value for key, value in flags.items() if key not in _OF_THE_WHOLE}
        mine |= size_flags(part, site)
        mine |= {"cpus-per-task": str(part.cpus), "mem-per-cpu": memory_per_cpu(part), "time": str(minutes)}
        if part.gpus:
            mine["gpus-per-task"] = str(part.gpus)
        added.append("#SBATCH hetjob\n")
        added += [_line(key, value) for key, value in sorted(mine.items()) if value]
    return "".join([*lines[:end], *added, *lines[end:]])


def _line(key: str, value: object) -> str:
    return f"#SBATCH --{key}\n" if value is True else f"#SBATCH --{key}={shlex.quote(str(value))}\n"


def srun_words(parts: Sequence[Part], site: Site, worker: Sequence[str]) -> list[str]:
    """The command that starts all ranks of a gang as one step.

    Args:
        parts: all parts.
        site: the cluster.
        worker: the command of one rank.

    """
    # the batch shell holds the allowed variables and the site's; srun alone would drop the latter
    words = ["srun"]
    for number, part in enumerate(parts):
        group = [f"--het-group={number}"] if len(parts) > 1 else []
        flags = ["--export=ALL", "--kill-on-bad-exit=1", *group]  # no component takes them from another
        size = [f"--ntasks={part.ranks}", f"--cpus-per-task={part.cpus}"]
        words += [*([":"] if number else []), *flags, *size, *site.srun_args, *worker]
    return words
