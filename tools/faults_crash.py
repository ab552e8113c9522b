"""Kill a driver at each of its writes, start it again, and say what it came to; see row 8 of tools/faults.

Every point is a fork of this process: it runs the command tokenmill with functions of storage that kill the
process with signal 9 before, or after, their n-th call. Then another fork runs the same command to its end.
"""

import argparse
import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from faults_harness import LINES

from tokenmill import cli, storage
from tokenmill.executors.status import folders_of

WRITES = ("write_atomic", "publish_once", "create", "remove")
MOST_WRITES = 500


class Deaths:
    """Counts writes and ends the process at one of them.

    Args:
        write: which; 0: none.
        side: before or after.

    """

    def __init__(self, write: int, side: str) -> None:
        self.write, self.side, self.count = write, side, 0

    def patch(self) -> None:
        """Make every write of this process count."""
        for name in WRITES:
            setattr(storage, name, self._counted(getattr(storage, name)))

    def _counted(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **values: Any) -> Any:
            self.count += 1
            mine = self.count == self.write
            if mine and self.side == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            result = real(*args, **values)
            if mine:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return counted


def drive(words: Sequence[str], log: Path, deaths: Deaths | None = None, counted: Path | None = None) -> int:
    """Run tokenmill in a fork; returns its exit code, negative if a signal ended it."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        if deaths:
            deaths.patch()
        code = int(cli.app(list(words), standalone_mode=False) or 0)
    finally:
        if deaths and counted:
            counted.write_text(str(deaths.count))
        sys.stdout.flush()
        os._exit(code)


def outcome(run: Path, write: int, side: str, log: Path) -> dict[str, Any]:
    """What a run came to."""
    outputs: list[tuple[str, str, str]] = []
    lines = wanted = 0
    for name, folder in folders_of(str(run)).items() if (run / "run.json").exists() else ():
        manifest = folder.manifest() or {"outputs": [], "counters": {}}
        lines += manifest["counters"].get("lines", 0)
        wanted += LINES * (folder.num_shards() or 0) if name == "upper" else 0
        for output in manifest["outputs"]:
            digest = hashlib.sha256(Path(folder.at(output["path"])).read_bytes()).hexdigest()
            outputs.append((name, output["name"], digest))
    words = " ".join(log.read_text(errors="replace").split()[-60:])
    value = {"write": write, "side": side, "outputs": outputs, "words": words}
    return value | {"lines": lines, "wanted_lines": wanted}


def point(folder: Path, words: Sequence[str], write: int, side: str) -> None:
    """Die at a write, start again, and write down what came of it."""
    run, log = folder / f"{side}-{write:03d}", folder / f"{side}-{write:03d}.log"
    mine = [*words, "--run-dir", str(run)]
    code = drive(mine, log, Deaths(write, side))
    if code != -signal.SIGKILL:  # fewer writes than the first time: nothing to see
        return
    drive(mine, log)
    found = outcome(run, write, side, log)
    (folder / f"{side}-{write:03d}.json").write_text(json.dumps(found))


def all_points(
    folder: Path, words: Sequence[str], sides: Sequence[str], at_once: int
) -> list[dict[str, Any]]:
    """Every point, a few at a time."""
    counted = folder / "count"
    drive([*words, "--run-dir", str(folder / "whole")], folder / "whole.log", Deaths(0, ""), counted)
    points = [(write, side) for write in range(1, int(counted.read_text()) + 1) for side in sides]
    running: set[int] = set()
    for write, side in points[:MOST_WRITES]:
        if len(running) >= at_once:
            running.discard(os.wait()[0])
        child = os.fork()
        if not child:
            try:
                point(folder, words, write, side)
            finally:
                os._exit(0)
        running.add(child)
    while running:
        running.discard(os.wait()[0])
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*-*.json"))]


def main(arguments: Sequence[str]) -> int:
    """Print one JSON list as the last line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--sides", choices=["before", "after", "both"], default="both")
    parser.add_argument("--at-once", type=int, default=2)
    parser.add_argument("placement", nargs="*", help="options of tokenmill run, after --")
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True)
    sides = ["before", "after"] if options.sides == "both" else [options.sides]
    words = ["run", options.recipe, *options.placement]
    found = all_points(options.folder, words, sides, options.at_once)
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
