"""The rehearsal: conservation, more tasks, speculation, seeds, faults, the product's own controller."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer.testing
from entries import make_recipe

from tokenmill import config
from tokenmill.cli import app
from tokenmill.cli.rehearsing import load_scenario
from tokenmill.errors import ConfigError, InputError
from tokenmill.executors.driver import Driver, run_recipe
from tokenmill.executors.job import Job, Recipe, Resources
from tokenmill.executors.launch import Executor
from tokenmill.executors.local import LocalExecutor
from tokenmill.executors.simulation import simulate as simulation
from tokenmill.executors.simulation.compare import rehearse
from tokenmill.executors.simulation.measured import with_measured
from tokenmill.executors.simulation.picture import rehearsal_page, stack
from tokenmill.executors.simulation.scenario import (
    Compare,
    Durations,
    Faults,
    Machines,
    Scenario,
    Work,
)
from tokenmill.executors.simulation.simulate import Outcome, narrowed, simulate
from tokenmill.executors.simulation.tasks import draw_seconds

QUIET = Machines(slots=64, starts_per_second=1000, start_seconds=0, poll_seconds=5, settle_seconds=0)


def recipe_of(*jobs: Job) -> Recipe:
    """A recipe whose input is not there."""
    return Recipe(name="r", inputs={"pages": ("/not/there",)}, jobs=jobs)


def one_job(**resources: Any) -> Recipe:
    """A recipe of one array."""
    values = {"tasks": 8, "time_seconds": 36_000} | resources
    return recipe_of(Job(name="work", entry="x.y", inputs={"in": "pages"}, resources=Resources(**values)))


def scenario_of(num_shards: int = 200, mean: float = 60.0, **values: Any) -> Scenario:
    """A scenario of one kind of work."""
    work = Work(num_shards=num_shards, durations=Durations(mean_seconds=mean), overhead_seconds=0.1)
    return replace(Scenario(machines=QUIET, default=work), **values)


def total(outcome: Outcome) -> float:
    """Seconds of slots, over all that they went into."""
    return sum(outcome.slot_seconds.values())


def test_every_shard_is_done_once_and_seconds_add_up() -> None:
    outcome = simulate(one_job(), scenario_of())
    seconds = draw_seconds(Durations(mean_seconds=60.0), 200, None, 0)
    assert outcome.state == "complete"
    assert outcome.num_done == outcome.attempts["done"] == 200
    assert outcome.slot_seconds["useful"] == pytest.approx(sum(seconds))
    assert sum(outcome.core_hours.values()) * 3600 == pytest.approx(total(outcome))
    assert outcome.makespan_seconds >= sum(seconds) / 8


def test_cores_count() -> None:
    one, four = (simulate(one_job(cpus=cpus), scenario_of()) for cpus in (1, 4))
    assert four.core_hours["useful"] == pytest.approx(4 * one.core_hours["useful"])


@pytest.mark.parametrize("seed", range(4))
def test_faults_cost_but_lose_nothing(seed: int) -> None:
    faults = Faults(
        kills_per_task_hour=1.0,
        preemptions_per_task_hour=1.0,
        node_losses_per_node_hour=0.5,
        repair_seconds=300,
        slow_task_share=0.1,
    )
    machines = replace(QUIET, slots_per_node=4)
    scenario = scenario_of(seed=seed, faults=faults, machines=machines)
    outcome = simulate(one_job(max_lost=100), scenario)
    assert outcome.state == "complete"
    assert outcome.num_done == outcome.attempts["done"] == 200
    assert outcome.deaths > 0
    lost = sum(outcome.attempts.get(cause, 0) for cause in ("killed", "preempted", "node lost"))
    assert 0 < lost <= outcome.deaths
    quiet = simulate(one_job(), scenario_of(seed=seed))
    assert outcome.slot_seconds["useful"] > 0.99 * quiet.slot_seconds["useful"]
    assert outcome.waste_share > quiet.waste_share


def test_more_tasks_are_never_slower_without_a_start() -> None:
    scenario = scenario_of(mean=10.0, machines=replace(QUIET, poll_seconds=1))
    makespans = [simulate(one_job(tasks=tasks), scenario).makespan_seconds for tasks in (1, 2, 4, 8, 16, 32)]
    assert makespans == sorted(makespans, reverse=True)
    assert makespans[-1] < makespans[0] / 16


def test_starts_take_time() -> None:
    scenario = scenario_of(num_shards=64, mean=1.0)
    slow = replace(scenario, machines=replace(QUIET, starts_per_second=0.5, start_seconds=30))
    assert simulate(one_job(tasks=64), slow).makespan_seconds > 30 + 10
    assert simulate(one_job(tasks=64), slow).slot_seconds["start"] > 0


def test_speculation_helps_against_a_straggler() -> None:
    faults = Faults(slow_shards=(150,), slow_factor=50)
    scenario = scenario_of(faults=faults)
    helped = simulate(one_job(), scenario)
    alone = simulate(one_job(), replace(scenario, speculation=False))
    assert alone.makespan_seconds > 2000
    assert helped.makespan_seconds < 0.7 * alone.makespan_seconds
    assert helped.attempts["late"] == 1
    assert "late" not in alone.attempts


def test_a_dead_task_is_noticed_after_its_lease() -> None:
    faults = Faults(kill_seconds=(30.0,))
    outcomes = [
        simulate(one_job(tasks=2, lease_seconds=lease), scenario_of(num_shards=2, faults=faults))
        for lease in (6.0, 600.0)
    ]
    assert [outcome.attempts["killed"] for outcome in outcomes] == [1, 1]
    assert outcomes[1].makespan_seconds > outcomes[0].makespan_seconds + 500


def test_the_same_seed_gives_the_same_run() -> None:
    faults = Faults(kills_per_task_hour=1.0, slow_task_share=0.1)
    runs = [simulate(one_job(), scenario_of(seed=seed, faults=faults)) for seed in (3, 3, 4)]
    assert runs[0].slot_seconds == runs[1].slot_seconds
    assert runs[0].moments == runs[1].moments
    assert runs[0].slot_seconds != runs[2].slot_seconds


def test_errors_end_in_quarantine() -> None:
    work = Work(num_shards=20, durations=Durations(mean_seconds=10), error_share=1.0)
    outcome = simulate(one_job(max_attempts=2), scenario_of(default=work))
    assert outcome.state == "failed"
    assert outcome.num_done == 0
    assert outcome.attempts == {"error": 40}
    assert "20 of 20 shards failed" in outcome.failures[0]


def test_a_limit_that_is_too_short_grows() -> None:
    outcome = simulate(one_job(tasks=4, time_seconds=300), scenario_of(num_shards=4, mean=500))
    assert outcome.state == "complete"
    assert outcome.attempts["timeout"] > 0
    assert outcome.launches > 1


def test_children_wait_and_gangs_need_all_their_slots() -> None:
    read = Job(name="read", entry="x.y", inputs={"in": "pages"}, resources=Resources(tasks=4))
    train = Job(
        name="train", entry="x.y", inputs={"in": "read"}, layout="gang", resources=Resources(tasks=16, cpus=2)
    )
    works = {"read": Work(num_shards=40), "train": Work(durations=Durations(mean_seconds=600, sigma=0))}
    outcome = simulate(recipe_of(read, train), Scenario(machines=QUIET, jobs=works))
    assert outcome.state == "complete"
    assert outcome.num_shards == 41
    assert outcome.tasks == 16
    assert outcome.makespan_seconds > 40 * 60 / 4 + 600
    assert outcome.core_hours["useful"] > 16 * 2 * 600 / 3600


def test_checkpoints_save_what_was_done() -> None:
    gang = Job(name="train", entry="x.y", inputs={"in": "pages"}, layout="gang", resources=Resources(tasks=2))
    faults = Faults(kill_seconds=(1000.0,))
    work = Work(durations=Durations(mean_seconds=1500, sigma=0))
    spans = []
    for every in (0.0, 100.0):
        works = {"train": replace(work, checkpoint_seconds=every)}
        spans.append(simulate(recipe_of(gang), Scenario(machines=QUIET, faults=faults, jobs=works)))
    assert [outcome.state for outcome in spans] == ["complete", "complete"]
    assert spans[0].makespan_seconds - spans[1].makespan_seconds > 800


def test_packing_saves_starts() -> None:
    machines = replace(QUIET, starts_per_second=2)
    scenario = scenario_of(num_shards=400, mean=1.0, machines=machines, compare=Compare(packing=(1, 50)))
    variants = {one.name: one.outcome for one in rehearse(one_job(tasks=16), scenario, {})}
    unpacked, packed = variants["1 shard per task"], variants["50 shards per task"]
    assert (unpacked.tasks, packed.tasks) == (400, 8)
    assert packed.makespan_seconds < unpacked.makespan_seconds / 2
    assert {one.state for one in variants.values()} == {"complete"}
    assert [variants[f"{count} tasks"].tasks for count in (4, 8, 32)] == [4, 8, 32]
    assert [name for name in variants if "tasks" in name] == ["4 tasks", "8 tasks", "32 tasks"]


def test_numbers_of_tasks_are_capped_by_the_cluster() -> None:
    machines = replace(QUIET, max_tasks=10)
    scenario = scenario_of(num_shards=50, machines=machines, compare=Compare(packing=(), tasks=(5,)))
    variants = rehearse(one_job(tasks=0), scenario, {})
    assert [one.outcome.tasks for one in variants] == [10, 10, 5]


def test_the_controller_is_the_product_s(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Executor] = []

    class Watched(Driver):
        def tick(self) -> bool:
            seen.append(self.executor)
            return super().tick()

    assert simulation.Driver is Driver
    monkeypatch.setattr(simulation, "Driver", Watched)
    outcome = simulate(one_job(), scenario_of())
    assert len(seen) == outcome.load.ticks > 10
    assert outcome.load.scheduler_calls["sbatch"] == 1
    assert outcome.load.scheduler_calls["squeue"] == len(seen) - 1


def test_durations_scale_with_bytes(tmp_path: Path) -> None:
    measured = Durations(measured_seconds=(2.0,), measured_bytes=(100,))
    assert list(draw_seconds(measured, 2, np.array([100.0, 300.0]), 0)) == [2.0, 6.0]
    assert list(draw_seconds(measured, 2, None, 0)) == [2.0, 2.0]
    assert draw_seconds(Durations(mean_seconds=5, sigma=1), 100_000, None, 0).mean() == pytest.approx(
        5, rel=0.05
    )


def test_durations_of_a_run(tmp_path: Path, text_folder: Path) -> None:
    recipe = make_recipe(text_folder)
    url = str(tmp_path / "run")
    with pytest.raises(InputError, match="no run"):
        with_measured(Scenario(), url)
    run_recipe(recipe, url, LocalExecutor())
    scenario = with_measured(Scenario(machines=QUIET), url)
    durations = scenario.work("upper").durations
    known = simulation.plan_bytes(recipe, url)["upper"]
    assert len(durations.measured_seconds) == len(known)
    assert sum(durations.measured_bytes) == sum(known)
    outcome = simulate(recipe, scenario, {"upper": known})
    assert outcome.state == "complete"
    assert outcome.num_shards == outcome.num_done > len(known)


def test_only_the_named_jobs() -> None:
    first = Job(name="a", entry="x.y", inputs={"in": "pages"})
    second = Job(name="b", entry="x.y", inputs={"in": "a.out"}, after=("a",))
    alone = narrowed(recipe_of(first, second), ["b"])
    assert [job.name for job in alone.jobs] == ["b"]
    assert alone.parents(alone.jobs[0]) == ()
    both = narrowed(recipe_of(first, second), ["a", "b"])
    assert both.parents(both.jobs[1]) == ("a",)


@pytest.mark.parametrize(
    ("cls", "values", "word"),
    [
        (Machines, {"slots": 0}, "slots"),
        (Machines, {"poll_seconds": 0}, "poll_seconds"),
        (Faults, {"slow_task_share": 1.5}, "slow_task_share"),
        (Faults, {"slow_factor": 0.5}, "slow_factor"),
        (Work, {"error_share": -0.1}, "error_share"),
        (Durations, {"mean_seconds": -1}, "mean_seconds"),
        (Durations, {"measured_seconds": (1.0,), "measured_bytes": (1, 2)}, "belong together"),
    ],
)
def test_impossible_values_are_refused(cls: type[Any], values: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        cls(**values)


def test_scenarios_of_the_checkout_are_valid() -> None:
    folder = Path(__file__).parents[2] / "configs" / "simulation"
    for path in folder.glob("*.yaml"):
        assert load_scenario(str(path), ["seed=7"]).seed == 7
    with pytest.raises(ConfigError, match="extraction"):
        load_scenario("extractoin", [])


def test_the_page_and_the_command(tmp_path: Path) -> None:
    scenario = tmp_path / "s.yaml"
    scenario.write_text(
        "name: <small>\nonly_named: true\nmachines: {slots: 8, slots_per_node: 4}\n"
        "jobs: {extract: {num_shards: 30, tasks: 4}}\ncompare: {packing: [10], tasks: [2]}\n"
    )
    arguments = ["plan", "quickstart", "--run-dir", str(tmp_path / "run"), "--simulate", str(scenario)]
    run = typer.testing.CliRunner().invoke
    page = tmp_path / "page.html"
    shown = run(app, [*arguments, "--page", str(page)])
    assert shown.exit_code == 0, shown.output
    for word in ("makespan", "without speculation", "10 shards per task", "2 tasks", "CPU of a look"):
        assert word in shown.output
    text = page.read_text()
    assert "&lt;small&gt;" in text
    assert "<small>" not in text
    assert text.count("<svg") >= 5
    assert not (tmp_path / "run").exists()
    value = json.loads(run(app, [*arguments, "--json", "--sim-set", "jobs.extract.num_shards=12"]).stdout)
    assert value["variants"][0]["outcome"]["num_done"] == 12
    assert config.build(Scenario, value["scenario"], "json").jobs["extract"].num_shards == 12
    wrong = run(app, [*arguments, "--sim-set", "jobs.extrct.num_shards=12"])
    assert wrong.exit_code == 1
    assert "did you mean 'extract'" in wrong.output


def test_an_empty_stack() -> None:
    assert "svg" in stack([])
    page = rehearsal_page("r", Scenario(), rehearse(one_job(tasks=2), scenario_of(num_shards=3), {}))
    assert "Core-hours that nothing came of" in page
