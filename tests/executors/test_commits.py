"""Commit records: first wins, folding keeps every record, whatever line death strikes at."""

from pathlib import Path

import pytest

from tokenmill import storage
from tokenmill.errors import StorageError
from tokenmill.executors import commits as module
from tokenmill.executors.commits import PER_SEGMENT, Commits


def filled(folder: Path, num_shards: int) -> Commits:
    commits = Commits(str(folder / "done"))
    for shard in range(num_shards):
        url = Path(commits.url_of(shard))
        url.parent.mkdir(parents=True, exist_ok=True)
        url.write_bytes(storage.dump_json({"shard": shard, "attempt": "a"}))
    return commits


def test_only_full_thousands_are_folded_and_nothing_changes(tmp_path: Path) -> None:
    commits = filled(tmp_path, PER_SEGMENT + 7)
    before = list(commits)
    assert commits.fold() == 1
    assert commits.fold() == 0
    assert sorted(path.name for path in (tmp_path / "done").iterdir()) == ["00000", "00000.jsonl", "00001"]
    assert not list((tmp_path / "done/00000").iterdir())
    assert list(commits) == before
    assert commits.indices() == set(range(PER_SEGMENT + 7))
    assert commits.read(3) == before[3]
    assert commits.read(PER_SEGMENT + 2) == before[PER_SEGMENT + 2]


def test_a_late_publication_counts_for_nothing(tmp_path: Path) -> None:
    commits = filled(tmp_path, PER_SEGMENT)
    commits.fold()
    commits.publish({"shard": 5, "attempt": "late"})
    assert commits.read(5)["attempt"] == "a"
    assert {record["attempt"] for record in commits} == {"a"}
    assert commits.indices() == set(range(PER_SEGMENT))
    commits.fold()
    assert not Path(commits.url_of(5)).exists()


def test_death_while_folding_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commits = filled(tmp_path, PER_SEGMENT)
    left = [3]

    def remove(url: str) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        Path(url).unlink()

    monkeypatch.setattr(module.storage, "remove", remove)
    with pytest.raises(KeyboardInterrupt):
        commits.fold()
    monkeypatch.undo()
    assert [record["shard"] for record in commits] == list(range(PER_SEGMENT))
    assert commits.fold() == 0
    assert not list((tmp_path / "done/00000").iterdir())


def test_unfolding_gives_every_shard_its_file_again(tmp_path: Path) -> None:
    commits = filled(tmp_path, PER_SEGMENT)
    before = list(commits)
    commits.fold()
    commits.unfold(17)
    assert not (tmp_path / "done/00000.jsonl").exists()
    assert list(commits) == before


@pytest.mark.parametrize("damage", [b"", b"{}\n", b"{\n" * PER_SEGMENT])
def test_a_damaged_segment_is_named(tmp_path: Path, damage: bytes) -> None:
    commits = filled(tmp_path, PER_SEGMENT)
    commits.fold()
    (tmp_path / "done/00000.jsonl").write_bytes(damage)
    with pytest.raises(StorageError, match="segment of commit records is damaged"):
        list(commits)
