import gzip
import json
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from datasketch import MinHashLSH

from tokenmill.data.dedup.minhash import (
    BucketsConfig,
    ClustersConfig,
    FilterConfig,
    SignaturesConfig,
    band_hashes,
    forest,
    hash_functions,
    match_probability,
    run_buckets,
    run_clusters,
    run_filter,
    run_signatures,
    signature,
)
from tokenmill.data.dedup.tables import Table, read_table
from tokenmill.data.document import Document
from tokenmill.data.readers import read_documents
from tokenmill.data.words import Lexicon
from tokenmill.errors import ConfigError, FormatError
from tokenmill.executors.job import Piece, Task

Whole = Callable[..., tuple[Piece, ...]]
Cut = Callable[[Piece, Sequence[int]], list[Piece]]
PortFiles = Callable[[Task, str], list[Path]]
CONFIG = SignaturesConfig()


class Chain:
    """The four jobs, run by hand."""

    def __init__(self, make_task: Callable[..., Task], port_files: PortFiles, whole: Whole) -> None:
        self._make_task, self._port_files, self._whole = make_task, port_files, whole

    def signatures(self, shards: Sequence[Sequence[Piece]], config: SignaturesConfig = CONFIG) -> list[Path]:
        found: list[Path] = []
        for index, pieces in enumerate(shards):
            task = self._make_task(
                f"signatures{len(shards)}", shard=index, num_shards=len(shards), documents=pieces
            )
            run_signatures(config, task)
            found += self._port_files(task, "signatures")
        return found

    def clusters(self, signatures: Sequence[Path], parts: int) -> tuple[Path, Task]:
        pairs: list[Path] = []
        for index in range(parts):
            task = self._make_task(
                f"buckets{parts}", shard=index, num_shards=parts, signatures=self._whole(*signatures)
            )
            run_buckets(BucketsConfig(), task)
            pairs += self._port_files(task, "pairs")
        task = self._make_task(f"clusters{parts}", pairs=self._whole(*pairs))
        run_clusters(ClustersConfig(), task)
        return self._port_files(task, "clusters")[0], task

    def filter(
        self, shards: Sequence[Sequence[Piece]], clusters: Path
    ) -> tuple[list[Document], list[Document], Task]:
        kept: list[Path] = []
        rejected: list[Path] = []
        for index, pieces in enumerate(shards):
            task = self._make_task(
                f"dedup{len(shards)}",
                shard=index,
                num_shards=len(shards),
                documents=pieces,
                clusters=self._whole(clusters),
            )
            run_filter(FilterConfig(), task)
            kept += self._port_files(task, "documents")
            rejected += self._port_files(task, "rejected")
        documents = [list(read_documents(self._whole(*paths))) for paths in (kept, rejected)]
        return documents[0], documents[1], task


@pytest.fixture
def chain(make_task: Callable[..., Task], port_files: PortFiles, whole: Whole) -> Chain:
    return Chain(make_task, port_files, whole)


def texts(seed: int = 0) -> list[str]:
    """Sixty documents; every fifth has two near copies."""
    chance = random.Random(seed)
    found = []
    for number in range(60):
        words = ["".join(chance.choices("abcdefghij", k=4)) for _ in range(chance.randint(60, 200))]
        found.append(" ".join(words))
        if number % 5 == 0:
            found.append(" ".join(words).upper() + "!")
            words[len(words) // 2] = "changed"
            found.append("  ".join(words))
    chance.shuffle(found)
    return [*found, "too short", ""]


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = []
    for index in range(3):
        path = tmp_path / f"in{index}.jsonl"
        lines = [json.dumps({"id": f"{index}-{i}", "text": text}) for i, text in enumerate(texts()[index::3])]
        path.write_text("\n".join(lines) + "\n")
        paths.append(path)
    return paths


def test_duplicates_leave_and_survivors_know_their_cluster(
    chain: Chain, files: list[Path], whole: Whole
) -> None:
    pieces = whole(*files)
    clusters, task = chain.clusters(chain.signatures([pieces]), 1)
    kept, rejected, last = chain.filter([pieces], clusters)
    assert task.counters.values["clusters/clusters"] == 12
    assert len(rejected) == 24
    assert len(kept) == 62
    survivors = [document for document in kept if "cluster_id" in document.metadata]
    assert len(survivors) == 12
    assert all(document.metadata["cluster_size"] == 3 for document in survivors)
    assert {document.metadata["reason"] for document in rejected} == {"duplicate"}
    keys = {document.id: document.key for document in read_documents(pieces)}
    for document in rejected:
        assert document.metadata["cluster_id"] < keys[document.id]
    assert {document.metadata["cluster_id"] for document in rejected} == {keys[d.id] for d in survivors}
    figures = {figure["title"]: figure for figure in last.report.figures}
    shown = figures["Duplicates side by side"]["rows"]
    assert shown
    assert all(kept_text.split()[1].upper() == dropped.split()[1].upper() for kept_text, dropped in shown)


@pytest.mark.parametrize("parts", [2, 5, 14, 33])
def test_sharding_changes_nothing(
    chain: Chain, files: list[Path], whole: Whole, cut: Cut, parts: int
) -> None:
    pieces = whole(*files)
    one, _ = chain.clusters(chain.signatures([pieces]), 1)
    shards = [[part] for piece in pieces for part in cut(piece, [piece.num_bytes // 3, piece.num_bytes // 2])]
    many, _ = chain.clusters(chain.signatures(shards), parts)
    assert many.read_bytes() == one.read_bytes()
    kept, rejected, _ = chain.filter([pieces], one)
    kept_again, rejected_again, _ = chain.filter(shards, many)
    assert [(d.id, d.metadata) for d in kept_again] == [(d.id, d.metadata) for d in kept]
    assert [(d.id, d.metadata) for d in rejected_again] == [(d.id, d.metadata) for d in rejected]


def test_nothing_to_do(chain: Chain, tmp_path: Path, whole: Whole) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "too short"}\n')
    pieces = whole(path)
    signatures = chain.signatures([pieces])
    clusters, task = chain.clusters(signatures, 2)
    kept, rejected, _ = chain.filter([pieces], clusters)
    assert (len(kept), len(rejected)) == (1, 0)
    assert task.counters.values["clusters/clusters"] == 0
    none, _ = chain.clusters([], 1)
    assert len(read_table(str(none), "clusters")) == 0


def test_settings_must_fit(chain: Chain, files: list[Path], whole: Whole) -> None:
    with pytest.raises(ConfigError, match="positive"):
        chain.signatures([whole(*files)], SignaturesConfig(num_bands=0))
    few = chain.signatures([whole(*files)], SignaturesConfig(num_bands=3))
    many = chain.signatures([whole(files[0]), whole(files[1])])
    with pytest.raises(FormatError, match="different numbers of bands"):
        chain.clusters([*few, *many], 1)


def test_golden_signature() -> None:
    """Signatures of one run must fit those of the next year's."""
    words = Lexicon().words("The quick brown fox jumps over the lazy dog.").normal_hashes
    minima = signature(words, CONFIG.ngram_words, *hash_functions(CONFIG))
    assert len(words) == 9
    assert band_hashes(minima, CONFIG.num_bands)[:2].tolist() == [14264917365484709056, 3890792269980298807]


def test_kernel_agrees_with_plain_python() -> None:
    multipliers, offsets = hash_functions(SignaturesConfig(num_bands=2, rows_per_band=3))
    words = [5, 2**63 + 1, 77, 5]
    minima = []
    for a, b in zip(multipliers.tolist(), offsets.tolist(), strict=True):
        assert a % 2 == 1
        hashes = []
        for start in range(3):
            value = 2
            for word in words[start : start + 2]:
                value = ((value ^ word) * 0x9FB21C651E98DF25) % 2**64
                value ^= value >> 32
            value = ((value ^ (value >> 29)) * 0xBF58476D1CE4E5B9) % 2**64
            hashes.append((a * (value ^ (value >> 32)) + b) % 2**64)
        minima.append(min(hashes))
    assert signature(np.array(words, np.uint64), 2, multipliers, offsets).tolist() == minima


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_agreement_is_the_jaccard_similarity(share: float) -> None:
    """The share of equal minima is J, within four standard errors of 20 pairs with 112 functions."""
    config = SignaturesConfig(ngram_words=1)
    functions = hash_functions(config)
    chance = np.random.default_rng(7)
    agreement = []
    for _ in range(20):
        numbers = chance.integers(0, 2**63, 1500).astype(np.uint64)
        common = round(1500 * share)
        half = (1500 - common) // 2
        left, right = numbers[: common + half], np.concatenate([numbers[:common], numbers[common + half :]])
        agreement.append((signature(left, 1, *functions) == signature(right, 1, *functions)).mean())
    error = math.sqrt(share * (1 - share) / (20 * 112))
    assert abs(np.mean(agreement) - share) < 4 * error + 0.002


def test_bands_and_rows_are_the_best_for_their_threshold() -> None:
    """datasketch, asked for the threshold of 14 x 8 and as many hashes, finds this layout or one near it."""
    threshold = (1 / 14) ** (1 / 8)
    lsh = MinHashLSH(threshold=threshold, num_perm=112, weights=(0.5, 0.5))
    assert abs(lsh.r - 8) <= 1
    assert match_probability(0.8, CONFIG) == pytest.approx(0.924, abs=5e-4)
    assert match_probability(threshold, CONFIG) == pytest.approx(1 - (1 - 1 / 14) ** 14)


@pytest.mark.parametrize("seed", range(8))
def test_forest_agrees_with_connected_components(seed: int) -> None:
    chance = np.random.default_rng(seed)
    pairs = chance.integers(0, 60, (int(chance.integers(0, 60)), 2)).astype(np.uint64) << np.uint64(38)
    smallest = {key: key for pair in pairs.tolist() for key in pair}
    for _ in smallest:
        for left, right in pairs.tolist():
            smallest[left] = smallest[right] = min(smallest[left], smallest[right])
    wanted = sorted((root, key) for key, root in smallest.items() if root != key)
    assert [tuple(row) for row in forest(pairs).tolist()] == wanted
    assert forest(forest(pairs)).tolist() == forest(pairs).tolist()


def test_pairs_are_found_with_the_probability_of_the_curve(
    chain: Chain, shared_data: Path, whole: Whole
) -> None:
    """Real near-duplicates: at an exact Jaccard similarity of 0.8 and more, what the S-curve promises."""
    pieces = whole(shared_data / "dedup" / "rustdocs_docs.jsonl.gz")
    [path] = chain.signatures([pieces])
    keys = {document.id: document.key for document in read_documents(pieces)}
    with path.open("rb") as file:
        table = Table(file, "signatures", str(path))
        size = table.group_rows
        bands = [
            dict(table.read(b * size, (b + 1) * size)[:, ::-1].tolist()) for b in range(table.num_groups)
        ]
    found: dict[bool, list[tuple[bool, float]]] = {True: [], False: []}
    with gzip.open(shared_data / "dedup" / "rustdocs_pairs_exact_jaccard5.jsonl.gz") as file:
        for pair in map(json.loads, file):
            left, right = keys[pair["a"]], keys[pair["b"]]
            is_found = any(band.get(left, 0) == band.get(right, 1) for band in bands)
            found[pair["jaccard"] >= 0.8].append((is_found, match_probability(pair["jaccard"], CONFIG)))
    high, low = found[True], found[False]
    assert len(high) > 400
    wanted = sum(probability for _, probability in high)
    spread = math.sqrt(sum(probability * (1 - probability) for _, probability in high))
    assert sum(is_found for is_found, _ in high) > wanted - 4 * spread - 1
    wanted = sum(probability for _, probability in low)
    assert 0.7 * wanted < sum(is_found for is_found, _ in low) < 1.5 * wanted
