"""Documents to tokens: trains a tokenizer, and turns documents into token shards.

documents ──► run_train ──► tokenizer/tokenizer.json
    └──────────► run ◄──────────┘
                  ├──► train/NNNNN.tokens
                  └──► heldout/NNNNN.tokens      chosen by a hash of the document's id
"""

import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from tokenmill.data.document import Document
from tokenmill.data.readers import ReaderConfig, read_documents
from tokenmill.data.warc import Account
from tokenmill.errors import ConfigError, InputError
from tokenmill.executors.job import Task
from tokenmill.tokens.shards import ShardWriter
from tokenmill.tokens.tokenizer import END_TOKEN, Tokenizer, train

FILE_NAME = "tokenizer.json"


@dataclass(frozen=True, kw_only=True)
class TrainTokenizerConfig:
    """A tokenizer to train."""

    vocab_size: int = 8192
    """Token ids wanted, special tokens and the 256 bytes included."""
    special_tokens: tuple[str, ...] = (END_TOKEN,)
    """Tokens that no text gives; the first ends a document."""
    max_text_bytes: int = 1_000_000_000
    """Text to train on in bytes of UTF-8, taken from the first documents."""
    documents_input: str = "documents"
    """Name of the input with documents."""


@dataclass(frozen=True, kw_only=True)
class TokenizeConfig:
    """How documents become token shards."""

    heldout_share: float = 0.01
    """Share of the documents that training never sees."""
    end_token: str = END_TOKEN
    """The tokenizer's token that ends a document."""
    batch_documents: int = 256
    """Documents encoded at a time."""
    documents_input: str = "documents"
    """Name of the input with documents."""
    tokenizer_input: str = "tokenizer"
    """Name of the input with a tokenizer.json."""

    def __post_init__(self) -> None:
        if not 0 <= self.heldout_share < 1:
            raise ConfigError(
                "heldout_share is no share",
                where="heldout_share",
                expected="0 … 1",
                got=str(self.heldout_share),
            )
        if self.batch_documents < 1:
            raise ConfigError(
                "a count is not positive", where="batch_documents", got=str(self.batch_documents)
            )


def run_train(config: TrainTokenizerConfig, task: Task) -> None:
    """Entry: train a tokenizer on all documents (sharding mode whole).

    Raises:
        ConfigError: the vocabulary is too small.
        InputError: there are no documents.
    """
    texts = _Texts(_documents(task, config.documents_input), config.max_text_bytes)
    tokenizer = train(texts, vocab_size=config.vocab_size, special_tokens=config.special_tokens)
    with task.output(f"tokenizer/{FILE_NAME}") as file:
        file.write(tokenizer.data)
    task.log.info("tokenizer of %d ids from %d bytes of text", tokenizer.vocab_size, texts.num_bytes)
    task.counters.add("tokenizer_documents", texts.num_documents)
    task.counters.add("tokenizer_text_bytes", texts.num_bytes)
    longest = sorted(map(tokenizer.token, range(tokenizer.vocab_size)), key=len)[-20:]
    task.report.table(
        "Tokenizer",
        columns=["what", "value"],
        rows=[
            ["token ids", tokenizer.vocab_size],
            ["documents trained on", texts.num_documents],
            ["bytes of text trained on", texts.num_bytes],
            ["longest tokens", " ".join(reversed(longest))],
        ],
    )


class _Texts:
    """Texts of documents up to a number of bytes, counted while they are read."""

    def __init__(self, documents: Iterator[Document], max_bytes: int) -> None:
        self._documents, self._max_bytes = documents, max_bytes
        self.num_bytes, self.num_documents = 0, 0

    def __iter__(self) -> Iterator[str]:
        for document in self._documents:
            if self.num_bytes >= self._max_bytes:
                return
            self.num_bytes += len(document.text.encode("utf-8", "surrogatepass"))
            self.num_documents += 1
            yield document.text


def run(config: TokenizeConfig, task: Task) -> None:
    """Entry: tokenize the documents of a shard.

    Raises:
        InputError: there is no tokenizer.
        ConfigError: the tokenizer has no such end token.
    """
    tokenizer = _load(_tokenizer_url(config, task), config.end_token)
    writers = {port: _writer(tokenizer) for port in ("train", "heldout")}
    num_bytes = 0
    documents = _documents(task, config.documents_input)
    for batch in iter(lambda: list(islice(documents, config.batch_documents)), []):
        ids = tokenizer.encode_batch([document.text for document in batch])
        for document, document_ids in zip(batch, ids, strict=True):
            port = "heldout" if is_heldout(document.id, config.heldout_share) else "train"
            writers[port].add(document_ids)
            num_bytes += len(document.text.encode())
    for port, writer in writers.items():
        with task.output(f"{port}/{task.shard_name}.tokens") as file:
            writer.write(file)
        task.counters.add(f"{port}_documents", writer.num_documents)
        task.counters.add(f"{port}_tokens", writer.num_tokens)
    task.counters.add("text_bytes", num_bytes)
    task.log.info("%d bytes of text, encoded by %s", num_bytes, tokenizer.encoder)
    rows = [(port, writer.num_tokens) for port, writer in writers.items()]
    task.report.bars("Tokens", unit="tokens", rows=rows)


def is_heldout(document_id: str, share: float) -> bool:
    """True for a share of all document ids, whatever the shards.

    >>> is_heldout("any", 0.0)
    False
    """
    digest = hashlib.sha256(f"heldout:{document_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def _documents(task: Task, name: str) -> Iterator[Document]:
    account = Account(on_broken=lambda where, what: task.log.warning("%s: %s", where, what))
    yield from read_documents(task.inputs(name), ReaderConfig(), account)
    for reason, count in sorted(account.broken.items()):
        task.counters.add(f"broken/{reason}", count)


def _writer(tokenizer: Tokenizer) -> ShardWriter:
    return ShardWriter(
        vocab_size=tokenizer.vocab_size, tokenizer_sha256=tokenizer.sha256, end_id=tokenizer.end_id
    )


def _tokenizer_url(config: TokenizeConfig, task: Task) -> str:
    pieces = task.inputs(config.tokenizer_input)
    for piece in pieces:
        if piece.name.endswith(FILE_NAME):
            return piece.url
    raise InputError(
        "no tokenizer in the input",
        where=config.tokenizer_input,
        expected=FILE_NAME,
        got=", ".join(piece.name for piece in pieces) or "no files",
        fix="give the job the port of a job that trains one, or a tokenizer.json",
    )


@functools.lru_cache(maxsize=1)
def _load(url: str, end_token: str) -> Tokenizer:
    return Tokenizer.load(url, end_token=end_token)
