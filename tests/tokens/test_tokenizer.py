"""Tokenizers: the same bytes from the same texts, lossless, and one answer from both encoders."""

import hashlib
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tokenmill.errors import ConfigError, FormatError, InputError
from tokenmill.tokens.tokenizer import END_TOKEN, Tokenizer, train

ODD = [
    "",
    " ",
    "\n\n \t\r\n",
    "Grüße, 你好世界! ١٢٣ ½ ⅷ 🙂🏽 e\u0301",
    f"a {END_TOKEN} b",
    "x" * 5000,
    "\u200b\u2028\ufeff\u00a0",
    "\x00\x01\x7f",
]


def texts() -> list[str]:
    draw = random.Random(0)
    sources = sorted(Path(train.__code__.co_filename).parent.glob("*.py"))
    vocabulary = " ".join(source.read_text(encoding="utf-8") for source in sources).split()
    return [" ".join(draw.choices(vocabulary, k=80)) + f" {index * 37}" for index in range(300)]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train(texts(), vocab_size=600)


def test_training_does_not_depend_on_the_order_of_texts(tokenizer: Tokenizer) -> None:
    assert train(reversed(texts()), vocab_size=600).data == tokenizer.data
    assert tokenizer.vocab_size == 600
    assert tokenizer.sha256 == hashlib.sha256(tokenizer.data).hexdigest()


def test_training_in_other_processes_gives_the_same_bytes(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("\x1e".join(texts()), encoding="utf-8")
    script = (
        "import sys, pathlib; from tokenmill.tokens.tokenizer import train;"
        "t = pathlib.Path(sys.argv[1]).read_text(encoding='utf-8').split('\\x1e');"
        "print(train(t, vocab_size=600).sha256)"
    )
    for threads, hash_seed in (("1", "1"), ("2", "2")):
        result = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / "texts.txt")],
            env={**os.environ, "RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert result.stdout.strip() == tokenizer.sha256


def test_gigatoken_encodes_and_agrees_with_tokenizers(tokenizer: Tokenizer) -> None:
    import tokenizers

    assert tokenizer.encoder == "gigatoken"
    plain = tokenizers.Tokenizer.from_str(tokenizer.data.decode())
    plain.encode_special_tokens = True
    samples = texts() + ODD
    expected = [plain.encode(text, add_special_tokens=False).ids for text in samples]
    assert tokenizer.encode_batch(samples) == expected


def test_without_gigatoken_the_ids_are_the_same(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gigatoken", None)
    slow = Tokenizer(tokenizer.data)
    assert slow.encoder == "tokenizers"
    assert slow.encode_batch(ODD) == tokenizer.encode_batch(ODD)


def test_an_encoder_that_disagrees_is_not_used(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    import gigatoken

    def wrong(self: object, inputs: list[str], *, parallel: bool) -> list[list[int]]:
        return [[1] for _ in inputs]

    monkeypatch.setattr(gigatoken.Tokenizer, "encode_batch_list", wrong)
    assert Tokenizer(tokenizer.data).encoder == "tokenizers"


@pytest.mark.parametrize("text", ODD)
def test_lossless(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_digits_stand_alone(tokenizer: Tokenizer) -> None:
    tokens = [tokenizer.token(token_id) for token_id in tokenizer.encode("in 2024 and 1999")]
    digits = [token for token in tokens if any(letter.isdigit() for letter in token)]
    assert digits == list("20241999")


def test_a_text_cannot_end_a_document(tokenizer: Tokenizer) -> None:
    assert tokenizer.end_id == 0
    assert tokenizer.token(0) == END_TOKEN
    assert tokenizer.end_id not in tokenizer.encode(f"{END_TOKEN} before {END_TOKEN}")


def test_special_tokens_can_be_hidden(tokenizer: Tokenizer) -> None:
    ids = [*tokenizer.encode("word"), tokenizer.end_id]
    assert tokenizer.decode(ids) == f"word{END_TOKEN}"
    assert tokenizer.decode(ids, skip_special=True) == "word"


def test_load(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(tokenizer.data)
    assert Tokenizer.load(str(path)).sha256 == tokenizer.sha256
    with pytest.raises(InputError, match="not found"):
        Tokenizer.load(str(tmp_path / "none.json"))


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff\xfe", b'{"model": 1}'])
def test_no_tokenizer(data: bytes) -> None:
    with pytest.raises(FormatError, match=r"no tokenizer\.json"):
        Tokenizer(data)


def test_unknown_end_token(tokenizer: Tokenizer) -> None:
    with pytest.raises(ConfigError, match=r"no such token(.|\n)*</s>(.|\n)*endoftext"):
        Tokenizer(tokenizer.data, end_token="</s>")


def test_unknown_id(tokenizer: Tokenizer) -> None:
    with pytest.raises(ConfigError, match="no such token id"):
        tokenizer.token(600)


def test_vocabulary_too_small() -> None:
    with pytest.raises(ConfigError, match="at least 257"):
        train(["text"], vocab_size=256)


def test_no_texts() -> None:
    with pytest.raises(InputError, match="no texts"):
        train([], vocab_size=300)
