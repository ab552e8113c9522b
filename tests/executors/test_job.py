from pathlib import Path

import pytest

from tokenmill.errors import ConfigError
from tokenmill.executors.job import Job, Recipe, Resources, Shard, Sharding, Task, identity_of


def job(name: str, *, after: tuple[str, ...] = (), **inputs: str) -> Job:
    return Job(name=name, entry="x.y", inputs=inputs, after=after)


def test_order_puts_parents_first() -> None:
    recipe = Recipe(
        name="r", inputs={"raw": ("x",)}, jobs=(job("c", x="b.out"), job("b", x="a"), job("a", x="raw"))
    )
    assert [found.name for found in recipe.in_order()] == ["a", "b", "c"]
    assert recipe.parents(recipe.jobs[0]) == ("b",)


@pytest.mark.parametrize(
    ("jobs", "message"),
    [
        ((job("a", x="b"), job("b", x="a")), "a cycle among a, b"),
        ((job("a", after=("a",)),), "a cycle among a"),
        ((job("a"), job("a")), "a name is used twice"),
        ((job("raw"),), "a name is used twice"),
        ((job("a b"),), "bad job name"),
        ((job("filter"), job("b", x="filtr.documents")), "did you mean filter?"),
        ((job("b", after=("nobody",)),), "unknown name"),
    ],
)
def test_graphs_that_cannot_run_are_refused(jobs: tuple[Job, ...], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Recipe(name="r", inputs={"raw": ("x",)}, jobs=jobs)
    assert message in str(caught.value)


def test_identity_depends_on_what_is_done_and_not_on_where() -> None:
    base = job("a", x="raw")
    identity = identity_of(base, {"x": "/data"})
    changed = {
        "entry": Job(**(vars(base) | {"entry": "x.z"})),
        "config": Job(**(vars(base) | {"config": {"k": 1}})),
        "sharding": Job(**(vars(base) | {"sharding": Sharding(target_bytes=5)})),
        "gang": Job(**(vars(base) | {"layout": "gang"})),
    }
    others = [identity_of(other, {"x": "/data"}) for other in changed.values()]
    assert len({identity, identity_of(base, {"x": "/other"}), *others}) == len(changed) + 2
    placed = Job(**(vars(base) | {"resources": Resources(tasks=7, time_seconds=1), "after": ("b",)}))
    assert identity_of(placed, {"x": "/data"}) == identity


def write_half(task: Task) -> None:
    with task.output("documents/x.txt") as file:
        file.write(b"half")
        raise ValueError("broken")


def test_outputs_have_private_paths_and_stable_names(tmp_path: Path) -> None:
    task = Task(
        job=job("a"), shard=Shard(index=3, inputs={}), num_shards=4, attempt="t0", job_url=str(tmp_path)
    )
    with task.output(f"documents/{task.shard_name}.jsonl.zst") as file:
        file.write(b"abc")
    assert task.outputs[0]["name"] == "documents/00003.jsonl.zst"
    assert task.outputs[0]["path"] == "data/documents/00003.t0.jsonl.zst"
    assert (tmp_path / task.outputs[0]["path"]).read_bytes() == b"abc"
    with pytest.raises(ValueError, match="broken"):
        write_half(task)
    assert len(task.outputs) == 1
    assert not (tmp_path / "data/documents/x.t0.txt").exists()


def test_ranks_exchange_small_values(tmp_path: Path) -> None:
    ranks = [
        Task(
            job=job("a"),
            shard=Shard(index=0, inputs={}),
            num_shards=1,
            attempt="t0",
            job_url=str(tmp_path),
            rank=rank,
        )
        for rank in range(2)
    ]
    assert ranks[1].published("port") is None
    ranks[0].publish("port", {"number": 5})
    assert ranks[1].published("port") == {"number": 5}
