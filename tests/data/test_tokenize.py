"""From documents to token shards: nothing lost, nothing twice, the same bytes on every run."""

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from tokenmill.data.document import Document, DocumentWriter
from tokenmill.data.tokenize import (
    TokenizeConfig,
    TrainTokenizerConfig,
    is_heldout,
    run,
    run_train,
)
from tokenmill.errors import ConfigError, InputError
from tokenmill.executors.job import Job, Piece, Shard, Task
from tokenmill.tokens.shards import TokenShard
from tokenmill.tokens.tokenizer import Tokenizer

WORDS = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "is",
    "that",
    "for",
    "it",
    "as",
    "was",
    "with",
    "be",
    "by",
    "on",
    "not",
]


def texts(count: int) -> list[str]:
    draw = random.Random(3)
    return [" ".join(draw.choices(WORDS, k=draw.randint(1, 60))) + f" {index}." for index in range(count)]


def documents_file(folder: Path, documents: Sequence[Document], name: str = "00000.jsonl.zst") -> Path:
    path = folder / name
    with path.open("wb") as file:
        writer = DocumentWriter(file)
        for document in documents:
            writer.write(document)
        writer.close()
    return path


def piece(path: Path, index: int = 0) -> Piece:
    size = path.stat().st_size
    return Piece(
        url=str(path), name=path.name.replace(".a0", ""), file_index=index, start=0, end=size, num_bytes=size
    )


def task_for(folder: Path, shard_index: int = 0, **inputs: Sequence[Path]) -> Task:
    pieces = {
        name: tuple(piece(path, index) for index, path in enumerate(paths)) for name, paths in inputs.items()
    }
    shard = Shard(index=shard_index, inputs=pieces)
    job = Job(name="tokens", entry="tokenmill.data.tokenize.run")
    return Task(job=job, shard=shard, num_shards=1, attempt="a0", job_url=str(folder))


def output(task: Task, name: str) -> Path:
    path: str = next(item["path"] for item in task.outputs if item["name"] == name)
    return Path(task.job_url) / path


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    return documents_file(
        tmp_path, [Document(id=f"d{index}", text=text) for index, text in enumerate(texts(500))]
    )


def trained(folder: Path, *paths: Path) -> Path:
    task = task_for(folder, documents=paths)
    run_train(TrainTokenizerConfig(vocab_size=320), task)
    return output(task, "tokenizer/tokenizer.json")


def test_documents_come_back_from_the_shards(tmp_path: Path, documents: Path) -> None:
    tokenizer_file = trained(tmp_path / "tokenizer", documents)
    task = task_for(tmp_path / "tokens", 7, documents=[documents], tokenizer=[tokenizer_file])
    run(TokenizeConfig(heldout_share=0.2, batch_documents=33), task)
    tokenizer = Tokenizer.load(str(tokenizer_file))
    found: dict[str, list[str]] = {}
    for port in ("train", "heldout"):
        shard = TokenShard(str(output(task, f"{port}/00007.tokens")))
        assert (shard.tokenizer_sha256, shard.vocab_size) == (tokenizer.sha256, tokenizer.vocab_size)
        ids = [shard.document(index).tolist() for index in range(len(shard))]
        assert all(document[-1] == tokenizer.end_id for document in ids)
        found[port] = [tokenizer.decode(document[:-1]) for document in ids]
    expected: dict[str, list[str]] = {"train": [], "heldout": []}
    for index, text in enumerate(texts(500)):
        expected["heldout" if is_heldout(f"d{index}", 0.2) else "train"].append(text)
    assert found == expected
    assert 60 < len(found["heldout"]) < 140
    counters = task.counters.values
    assert counters["train_documents"] + counters["heldout_documents"] == 500
    assert counters["train_tokens"] == TokenShard(str(output(task, "train/00007.tokens"))).num_tokens


def test_batches_and_reruns_give_the_same_bytes(tmp_path: Path, documents: Path) -> None:
    tokenizers = [trained(tmp_path / f"tokenizer{index}", documents) for index in range(2)]
    assert tokenizers[0].read_bytes() == tokenizers[1].read_bytes()
    contents = []
    for index, batch in enumerate((1, 500)):
        task = task_for(tmp_path / f"tokens{index}", documents=[documents], tokenizer=[tokenizers[index]])
        run(TokenizeConfig(batch_documents=batch), task)
        contents.append([output(task, f"{port}/00000.tokens").read_bytes() for port in ("train", "heldout")])
    assert contents[0] == contents[1]


def test_both_ports_are_written_though_one_is_empty(tmp_path: Path) -> None:
    path = documents_file(tmp_path, [Document(id="a", text="one two one two")])
    tokenizer_file = trained(tmp_path / "tokenizer", path)
    task = task_for(tmp_path / "tokens", documents=[path], tokenizer=[tokenizer_file])
    run(TokenizeConfig(heldout_share=0.0), task)
    assert len(TokenShard(str(output(task, "train/00000.tokens")))) == 1
    assert len(TokenShard(str(output(task, "heldout/00000.tokens")))) == 0


def test_training_text_is_limited(tmp_path: Path, documents: Path) -> None:
    task = task_for(tmp_path / "tokenizer", documents=[documents])
    run_train(TrainTokenizerConfig(vocab_size=300, max_text_bytes=1000), task)
    assert 1000 <= task.counters.values["tokenizer_text_bytes"] < 1400


def test_broken_input_is_counted(tmp_path: Path, documents: Path) -> None:
    tokenizer_file = trained(tmp_path / "tokenizer", documents)
    path = tmp_path / "plain.jsonl"
    path.write_text('{"id": "a", "text": "one two"}\n{"id": \n', encoding="utf-8")
    task = task_for(tmp_path / "tokens", documents=[path], tokenizer=[tokenizer_file])
    run(TokenizeConfig(), task)
    assert task.counters.values["broken/json"] == 1
    assert task.counters.values["train_documents"] + task.counters.values["heldout_documents"] == 1


def test_no_documents(tmp_path: Path) -> None:
    path = documents_file(tmp_path, [])
    with pytest.raises(InputError, match="no texts"):
        run_train(TrainTokenizerConfig(vocab_size=300), task_for(tmp_path, documents=[path]))


def test_no_tokenizer(tmp_path: Path, documents: Path) -> None:
    with pytest.raises(InputError, match=r"no tokenizer in the input(.|\n)*no files"):
        run(TokenizeConfig(), task_for(tmp_path, documents=[documents]))
    with pytest.raises(InputError, match=r"got: 00000\.jsonl\.zst"):
        run(TokenizeConfig(), task_for(tmp_path, documents=[documents], tokenizer=[documents]))


def test_bad_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no share"):
        TokenizeConfig(heldout_share=1.0)
    with pytest.raises(ConfigError, match="not positive"):
        TokenizeConfig(batch_documents=0)
