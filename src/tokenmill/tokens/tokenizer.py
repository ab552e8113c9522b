"""Byte-level BPE tokenizers (arXiv:1508.07909, section 3.2) in the file format of Hugging Face.

Training and decoding use ``tokenizers``. Encoding uses ``gigatoken``, several times faster, if it agrees with
``tokenizers`` on probe texts; else ``tokenizers``.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

from tokenmill import storage
from tokenmill.errors import ConfigError, FormatError, InputError, MissingExtraError

END_TOKEN = "<|endoftext|>"  # noqa: S105 - a token of text, no password

# The rule of Qwen2's tokenizer: every digit is a token of its own, a word takes at most one leading mark.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_PROBES = (
    "",
    "A plain line, with 1234567890 digits and a year: 2024.\n",
    "  indented\n\n\n\ttabs\r\n trailing   ",
    "don't WE'LL it's I'M",
    "Grüße, 你好世界! ١٢٣ ½ ⅷ 🙂🙂🏽 e\u0301 \u00a0x\u200b\u2028y ไทย",
    f"text with {END_TOKEN} inside",
    "x = {'a': [1.5e-3, 0xFF]}  # comment\nif x != y: return ~x",
)


def _library() -> Any:
    """The package tokenizers; imported when it is used, since engines that are given ids do without it."""
    try:
        import tokenizers
    except ImportError as error:
        raise MissingExtraError.of("tokenizers", "data", "tokens.tokenizer") from error
    return tokenizers


class Tokenizer:
    """Text to ids and back.

    Special tokens that occur in a text are encoded as the letters they are made of, so that no document can
    end another.

    Args:
        data: bytes of a ``tokenizer.json``.
        where: where they came from, for messages.
        end_token: the token that ends a document.

    Raises:
        FormatError: the bytes are no tokenizer.
        ConfigError: there is no such end token.

    Attributes:
        data: bytes of the ``tokenizer.json``.
        vocab_size: one more than the largest id.
        end_id: id of the token that ends a document.
        encoder: name of the package that encodes.
    """

    def __init__(self, data: bytes, *, where: str = "tokenizer", end_token: str = END_TOKEN) -> None:
        self.data = data
        tokenizers = _library()
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(data.decode())
        except Exception as error:  # tokenizers raises Exception itself
            raise FormatError("this is no tokenizer.json", where=where, got=str(error)) from error
        self._tokenizer.encode_special_tokens = True
        self.vocab_size = max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1
        end_id = self._tokenizer.token_to_id(end_token)
        if end_id is None:
            special = [token.content for token in self._tokenizer.get_added_tokens_decoder().values()]
            raise ConfigError(
                "the tokenizer has no such token", where=where, expected=end_token, got=", ".join(special)
            )
        self.end_id: int = end_id
        self._fast = self._fast_encoder()
        self.encoder = "tokenizers" if self._fast is None else "gigatoken"

    @classmethod
    def load(cls, url: str, *, end_token: str = END_TOKEN) -> "Tokenizer":
        """Read a ``tokenizer.json``; raises what the constructor raises, and InputError for no file."""
        return cls(storage.read_bytes(url), where=url, end_token=end_token)

    @property
    def sha256(self) -> str:
        """Identity of the tokenizer: SHA-256 of its file, in hexadecimal."""
        return hashlib.sha256(self.data).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without the end token."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of several texts, without end tokens."""
        if self._fast is not None:
            ids: list[list[int]] = self._fast.encode_batch_list(list(texts), parallel=False)
            return ids
        return self._encode_exact(texts)

    def decode(self, ids: Sequence[int], *, skip_special: bool = False) -> str:
        """Text of ids; bytes that are no UTF-8 become U+FFFD."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=skip_special))

    def token(self, token_id: int) -> str:
        """The vocabulary's name of an id; raises ConfigError if there is none."""
        name = self._tokenizer.id_to_token(token_id)
        if name is None:
            raise ConfigError("no such token id", expected=f"below {self.vocab_size}", got=str(token_id))
        return str(name)

    def _encode_exact(self, texts: Sequence[str]) -> list[list[int]]:
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [list(encoding.ids) for encoding in encodings]

    def _fast_encoder(self) -> Any:
        """A gigatoken encoder that agrees with ``tokenizers`` on the probes, or None."""
        with contextlib.suppress(ImportError, RuntimeError, ValueError):
            import gigatoken

            # Without its added tokens the encoder cannot know them in a text.
            plain = json.loads(self.data) | {"added_tokens": []}
            fast = gigatoken.Tokenizer.from_json(json.dumps(plain))
            if fast.encode_batch_list(list(_PROBES), parallel=False) == self._encode_exact(_PROBES):
                return fast
        return None


def train(
    texts: Iterable[str], *, vocab_size: int, special_tokens: Sequence[str] = (END_TOKEN,)
) -> Tokenizer:
    """Train a byte-level BPE tokenizer.

    The result depends on the texts, not on their order, the machine or its threads.

    Args:
        texts: training texts.
        vocab_size: number of ids wanted; fewer if the texts hold too few pairs.
        special_tokens: they get the first ids; the end token must be among them.

    Raises:
        ConfigError: the vocabulary cannot hold the 256 bytes and the special tokens.
        InputError: there are no texts.
    """
    least = 256 + len(special_tokens)
    if vocab_size < least:
        raise ConfigError(
            "the vocabulary is too small",
            where="vocab_size",
            expected=f"at least {least}: 256 bytes and {len(special_tokens)} special tokens",
            got=str(vocab_size),
        )
    tokenizers = _library()
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(tokenizers.Regex(_WORDS), "isolated"),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special_tokens),
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    count = _CountingIterator(texts)
    tokenizer.train_from_iterator(count, trainer)
    if count.seen == 0:
        raise InputError(
            "no texts to train a tokenizer on",
            fix="see in the report which job dropped all documents, and why",
        )
    return Tokenizer(tokenizer.to_str(pretty=False).encode(), end_token=special_tokens[0])


class _CountingIterator:
    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = iter(texts)
        self.seen = 0

    def __iter__(self) -> "_CountingIterator":
        return self

    def __next__(self) -> str:
        text = next(self._texts)
        self.seen += 1
        return text
