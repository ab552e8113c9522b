"""Runs without anybody logged in: the driver as a job, or a gate between launches."""

import signal
from dataclasses import replace
from types import FrameType

from tokenmill import recipes, storage
from tokenmill.cli.command import ControllerOption, Output, RunArgument, command
from tokenmill.cli.placement import Placement, make_executor, recalled
from tokenmill.cli.running import Work, follow, with_secrets
from tokenmill.cli.telling import Telling, recalled_telling
from tokenmill.executors.controller import check_kind, hand_over
from tokenmill.executors.status import read_run


@command
def drive(
    run_dir: RunArgument,
    controller: ControllerOption = "process",
    *,
    placement: Placement,
    telling: Telling,
    output: Output,
) -> None:
    """Go on with a run for a driver that has ended; what a controller job runs."""
    loaded = recipes.recipe_of_run(read_run(run_dir)["recipe"], storage.join(run_dir, "run.json"))
    placement = recalled(run_dir, placement)
    executor = make_executor(placement)
    check_kind(controller, executor)
    ends = False

    def note(signum: int, frame: FrameType | None) -> None:
        nonlocal ends
        ends = True

    signal.signal(signal.SIGUSR1, note)  # the time limit of this job is near
    work = Work(recipe=with_secrets(loaded, executor), executor=executor, detach=controller == "gate")
    work = replace(work, relay=lambda: ends)
    follow(work, run_dir, placement, recalled_telling(run_dir, telling), output)
    if controller == "gate" or ends:
        hand_over(run_dir, controller, executor)
