"""MinHash deduplication in four jobs: signatures, buckets, clusters, filter.

A document's signature is, for each of P hash functions, the smallest hash of its word n-grams. Two documents
agree in one of them with probability J, the Jaccard similarity of their n-grams; P = bands x rows, and
documents that agree in all rows of some band become a pair: with probability
``1 - (1 - J ** rows) ** bands``.

Pairs are joined to clusters, of which the document with the smallest key survives. Keys come from file and
place, so nothing depends on how the work is sharded.

Broder 1997, "On the resemblance and containment of documents"; Leskovec et al., "Mining of Massive Datasets",
section 3.4; settings of Penedo et al. 2024, arXiv 2406.17557, section 3.4.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tokenmill import storage
from tokenmill.data.dedup.tables import Rows, Table, read_table, sort_rows, write_table
from tokenmill.data.document import Document, first_key
from tokenmill.data.filters.base import Filter
from tokenmill.data.native import compiled
from tokenmill.data.pipeline import account_of, excerpt, pieces_of, report_reading, run_blocks
from tokenmill.data.readers import ReaderConfig, read_documents
from tokenmill.data.words import Hashes, words_of
from tokenmill.data.writers import WriterConfig
from tokenmill.errors import ConfigError, FormatError
from tokenmill.executors.job import Piece, Task

_MASK = (1 << 64) - 1
_MOST_PAIRS_SHOWN, _MOST_SURVIVORS_REMEMBERED = 8, 2000


@dataclass(frozen=True, kw_only=True)
class SignaturesConfig:
    """Settings of the signatures."""

    reader: ReaderConfig = field(default_factory=ReaderConfig)
    """How input files become documents."""
    ngram_words: int = 5
    """Words of an n-gram."""
    num_bands: int = 14
    """Bands; agreement in one of them makes a pair."""
    rows_per_band: int = 8
    """Hash functions of a band."""
    seed: int = 1
    """Seed of the hash functions."""


@dataclass(frozen=True, kw_only=True)
class BucketsConfig:
    """Settings of the search for pairs."""

    input: str = ""
    """Name of the input with the signatures; may be empty if there is one."""


@dataclass(frozen=True, kw_only=True)
class ClustersConfig:
    """Settings of the clustering."""

    input: str = ""
    """Name of the input with the pairs; may be empty if there is one."""


@dataclass(frozen=True, kw_only=True)
class FilterConfig:
    """Settings of the filter."""

    reader: ReaderConfig = field(default_factory=lambda: ReaderConfig(input="documents"))
    """How the documents are read; they must be the files that the signatures were made of."""
    clusters: str = "clusters"
    """Name of the input with the clusters."""
    writer: WriterConfig = field(default_factory=WriterConfig)
    """Where documents go."""


def match_probability(jaccard: float, config: SignaturesConfig) -> float:
    """Probability that two documents of a Jaccard similarity become a pair."""
    return float(1 - (1 - jaccard**config.rows_per_band) ** config.num_bands)


def run_signatures(config: SignaturesConfig, task: Task) -> None:
    """Entry: band hashes of the shard's documents, as one table sorted by band, hash and key.

    Raises:
        ConfigError: a setting is not positive.
    """
    if min(config.ngram_words, config.num_bands, config.rows_per_band) < 1:
        raise ConfigError("MinHash settings must be positive", where=task.job.name, got=str(config))
    account = account_of(task)
    documents = read_documents(pieces_of(task, config.reader.input), config.reader, account)
    keys, hashes, too_short = _sign(documents, config)
    rows = np.empty((config.num_bands, len(keys), 2), np.uint64)
    for band in range(config.num_bands):
        order = np.lexsort((keys, hashes[:, band]))
        rows[band, :, 0], rows[band, :, 1] = hashes[order, band], keys[order]
    with task.output(f"signatures/{task.shard_name}.table") as output:
        write_table(output, "signatures", rows.reshape(-1, 2), num_groups=config.num_bands)
    report_reading(task, account)
    task.counters.add("signatures/documents", len(keys))
    task.counters.add("signatures/too_short", too_short)


def _sign(documents: Iterable[Document], config: SignaturesConfig) -> tuple[Hashes, Hashes, int]:
    """Keys [D], band hashes [D, bands], and the number of documents too short for an n-gram."""
    multipliers, offsets = hash_functions(config)
    keys: list[int] = []
    hashes: list[Hashes] = []
    too_short = 0
    for document in documents:
        words = words_of(document).normal_hashes
        if len(words) < config.ngram_words:
            too_short += 1
            continue
        minima = signature(words, config.ngram_words, multipliers, offsets)
        keys.append(document.key)
        hashes.append(band_hashes(minima, config.num_bands))
    table = np.array(hashes, np.uint64).reshape(-1, config.num_bands)
    return np.array(keys, np.uint64), table, too_short


def hash_functions(config: SignaturesConfig) -> tuple[Hashes, Hashes]:
    """Odd multipliers and offsets of ``h(x) = (a x + b) mod 2 ** 64``, from the seed by SplitMix64.

    Steele et al. 2014, "Fast splittable pseudorandom number generators", OOPSLA.
    """
    state = config.seed & _MASK
    values: list[int] = []
    for _ in range(2 * config.num_bands * config.rows_per_band):
        state = (state + 0x9E3779B97F4A7C15) & _MASK
        mixed = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
        values.append(mixed ^ (mixed >> 31))
    table = np.array(values, np.uint64).reshape(2, -1)
    return table[0] | np.uint64(1), table[1]


@compiled
def signature(words: Hashes, n: int, multipliers: Hashes, offsets: Hashes) -> Hashes:
    """Smallest hash of a text's word n-grams under each hash function.

    Args:
        words: N: hashes of the words in order; N is at least n.
        n: words of an n-gram.
        multipliers: P: odd numbers.
        offsets: P: numbers.
    """
    minima = np.full(len(multipliers), np.uint64(0xFFFFFFFFFFFFFFFF), np.uint64)
    for start in range(len(words) - n + 1):
        value = np.uint64(n)
        for place in range(start, start + n):
            value = (value ^ words[place]) * np.uint64(0x9FB21C651E98DF25)
            value ^= value >> np.uint64(32)
        value = (value ^ (value >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
        value ^= value >> np.uint64(32)
        for index in range(len(multipliers)):
            minima[index] = min(minima[index], multipliers[index] * value + offsets[index])
    return minima


@compiled
def band_hashes(minima: Hashes, num_bands: int) -> Hashes:
    """One hash per band of a signature.

    Args:
        minima: P: signature.
        num_bands: bands of P / num_bands rows.
    """
    rows = len(minima) // num_bands
    hashes = np.empty(num_bands, np.uint64)
    for band in range(num_bands):
        value = np.uint64(0x243F6A8885A308D3)
        for index in range(band * rows, (band + 1) * rows):
            value = (value ^ minima[index]) * np.uint64(0x9FB21C651E98DF25)
            value ^= value >> np.uint64(32)
        hashes[band] = value
    return hashes


def run_buckets(config: BucketsConfig, task: Task) -> None:
    """Entry: pairs of documents that agree in a band, for one part of all bands' hashes.

    Bands and hashes make one range of numbers, cut into as many parts as the job has shards; from every
    signature file a shard reads one run of rows per band, one file at a time.

    Raises:
        FormatError: the signatures differ in their number of bands.
    """
    pieces = pieces_of(task, config.input)
    num_bands = _num_bands(pieces)
    total = num_bands << 64
    low = total * task.shard.index // task.num_shards
    high = total * (task.shard.index + 1) // task.num_shards
    edges = [np.empty((0, 2), np.uint64)]
    for band in range(low >> 64, -(-high >> 64)):
        first, last = max(low - (band << 64), 0), min(high - (band << 64), 1 << 64)
        edges.append(_edges(_band_rows(pieces, band, first, last)))
    pairs = forest(np.concatenate(edges))
    with task.output(f"pairs/{task.shard_name}.table") as output:
        write_table(output, "pairs", pairs)
    task.counters.add("buckets/matches", sum(map(len, edges)))
    task.counters.add("buckets/pairs", len(pairs))


def _num_bands(pieces: tuple[Piece, ...]) -> int:
    found: dict[int, str] = {}
    for piece in pieces:
        with storage.open_input(piece.url) as file:
            found.setdefault(Table(file, "signatures", piece.url).num_groups, piece.url)
    if len(found) > 1:
        raise FormatError(
            "signatures with different numbers of bands",
            where=" and ".join(found.values()),
            got=" and ".join(map(str, found)),
            fix="make all signatures with the same settings",
        )
    return next(iter(found), 1)


def _band_rows(pieces: tuple[Piece, ...], band: int, first: int, last: int) -> Rows:
    """Rows (hash, key) of one band with hashes in [first, last)."""
    parts = [np.empty((0, 2), np.uint64)]
    for piece in pieces:
        with storage.open_input(piece.url) as file:
            table = Table(file, "signatures", piece.url)
            start = table.first_row(band, first)
            parts.append(table.read(start, table.first_row(band, last)))
    return np.concatenate(parts)


def _edges(rows: Rows) -> Rows:
    """Pairs (smallest key, other key) of the rows that have the same hash."""
    rows = sort_rows(rows)
    repeats = np.zeros(len(rows), bool)
    repeats[1:] = rows[1:, 0] == rows[:-1, 0]
    firsts = np.maximum.accumulate(np.where(repeats, 0, np.arange(len(rows))))
    return np.stack([rows[firsts[repeats], 1], rows[repeats, 1]], axis=1)


def run_clusters(config: ClustersConfig, task: Task) -> None:
    """Entry: clusters of all pairs, as rows (key, key of the survivor, cluster size) sorted by key."""
    pairs = [read_table(piece.url, "pairs") for piece in pieces_of(task, config.input)]
    links = forest(np.concatenate([np.empty((0, 2), np.uint64), *pairs]))
    survivors, others = np.unique(links[:, 0], return_counts=True)
    members = np.concatenate([links[:, 1], survivors])
    roots = np.concatenate([links[:, 0], survivors])
    sizes = (others[np.searchsorted(survivors, roots)] + 1).astype(np.uint64)
    order = np.argsort(members)
    with task.output(f"clusters/{task.shard_name}.table") as output:
        write_table(output, "clusters", np.stack([members, roots, sizes], axis=1)[order])
    task.counters.add("clusters/clusters", len(survivors))
    task.counters.add("clusters/duplicates", len(links))
    powers = np.log2(others + 1).astype(np.int64)
    rows = [(f"{2**low} to {2 ** (low + 1) - 1}", int((powers == low).sum())) for low in np.unique(powers)]
    task.report.bars("Clusters by number of documents", unit="clusters", rows=rows)


def forest(pairs: Rows) -> Rows:
    """The same clusters by the fewest pairs: (smallest key of the cluster, other key), sorted.

    Args:
        pairs: [pairs, 2]: keys that belong together.
    """
    if not len(pairs):
        return pairs
    keys = np.unique(pairs)
    places = np.searchsorted(keys, pairs)
    roots = _roots(len(keys), places)
    others = roots != np.arange(len(keys))
    return sort_rows(np.stack([keys[roots[others]], keys[others]], axis=1))


@compiled
def _roots(size: int, pairs: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Smallest member of every item's cluster, by union-find with path halving.

    Args:
        size: number of items.
        pairs: [pairs, 2]: items that belong together.
    """
    parents = np.arange(size)
    for index in range(len(pairs)):
        left, right = pairs[index, 0], pairs[index, 1]
        while parents[left] != left:
            parents[left] = parents[parents[left]]
            left = parents[left]
        while parents[right] != right:
            parents[right] = parents[parents[right]]
            right = parents[right]
        if left < right:
            parents[right] = left
        else:
            parents[left] = right
    for index in range(size):  # a parent is never larger than its child, so it is final when read
        parents[index] = parents[parents[index]]
    return parents


def run_filter(config: FilterConfig, task: Task) -> None:
    """Entry: keep the documents that are in no cluster or survive theirs, drop the others as duplicates."""
    pieces = pieces_of(task, config.clusters)
    block = DropDuplicates(_clusters_of(pieces, pieces_of(task, config.reader.input)))
    run_blocks(task, [block], reader=config.reader, writer=config.writer)
    if block.shown:
        task.report.table("Duplicates side by side", columns=["kept", "dropped"], rows=block.shown)


def _clusters_of(clusters: tuple[Piece, ...], documents: tuple[Piece, ...]) -> Rows:
    """Rows of the clusters that concern the files of some documents, sorted by key."""
    parts = [np.empty((0, 3), np.uint64)]
    for piece in clusters:
        with storage.open_input(piece.url) as file:
            table = Table(file, "clusters", piece.url)
            for index in sorted({document.file_index for document in documents}):
                start = table.first_row(0, first_key(index))
                parts.append(table.read(start, table.first_row(0, first_key(index + 1))))
    return np.concatenate(parts)


class DropDuplicates(Filter):
    """Keeps one document of every cluster.

    Args:
        rows: [members, 3]: key, survivor's key, cluster size; sorted by key.
    """

    def __init__(self, rows: Rows) -> None:
        super().__init__("dedup")
        self._rows = rows
        self._survivors: dict[int, str] = {}
        self.shown: list[list[str]] = []

    def judge(self, document: Document) -> str | None:
        """Keep survivors and write their cluster into the metadata."""
        key = np.uint64(document.key)
        place = int(np.searchsorted(self._rows[:, 0], key))
        if place == len(self._rows) or self._rows[place, 0] != key:
            return None
        survivor, size = int(self._rows[place, 1]), int(self._rows[place, 2])
        document.metadata |= {"cluster_id": survivor, "cluster_size": size}
        item = excerpt(document, "")
        if survivor == key:
            if len(self._survivors) < _MOST_SURVIVORS_REMEMBERED:
                self._survivors[survivor] = f"{item['title']}\n{item['text']}"
            return None
        if survivor in self._survivors and len(self.shown) < _MOST_PAIRS_SHOWN:
            self.shown.append([self._survivors[survivor], f"{item['title']}\n{item['text']}"])
        return "duplicate"
