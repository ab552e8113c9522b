"""One table of documents against the filters of rules: keep, or the reason."""

import random
from collections import Counter
from dataclasses import replace

import pytest

from tokenmill.data.document import Document
from tokenmill.data.filters.base import Filter
from tokenmill.data.filters.c4_quality import C4Quality, C4QualityConfig
from tokenmill.data.filters.fineweb_quality import FineWebQuality, FineWebQualityConfig
from tokenmill.data.filters.gopher_quality import GopherQuality, GopherQualityConfig
from tokenmill.data.filters.gopher_repetition import (
    GopherRepetition,
    GopherRepetitionConfig,
    count_duplicates,
    duplicate_ngram_characters,
    top_ngram_characters,
)
from tokenmill.data.words import Lexicon, split_words


def prose(sentences: int, seed: int = 0) -> str:
    chance = random.Random(seed)
    words = [
        f"{a}{b}{c}" for a in ("ba", "lo", "mi", "tre") for b in ("n", "st", "r") for c in ("a", "ek", "ou")
    ]
    lines = []
    for _ in range(sentences):
        body = " ".join(chance.choice(words) for _ in range(14))
        lines.append(f"The {body} of that and {chance.randrange(10**6)} with it.")
    return "\n".join(lines)


GOPHER = GopherQuality(GopherQualityConfig())
REPETITION = GopherRepetition(GopherRepetitionConfig())
C4 = C4Quality(C4QualityConfig())
FINEWEB = FineWebQuality(FineWebQualityConfig())
NUMBERED = [f"Line {i} holds words of {'abcdefghij'[i % 10] * 5} kind." for i in range(30)]

LONG_LINES = [f"Line {i} is longer than thirty characters of text" for i in range(25)]

CASES: list[tuple[Filter, str, str | None]] = [
    (GOPHER, prose(10), None),
    (GOPHER, "", "too_few_words"),
    (GOPHER, "The words of that town. " * 10, None),  # 50 words
    (GOPHER, "The words of that town. " * 9 + "The words of that.", "too_few_words"),
    (GOPHER, "The word of it. " * 12, "too_few_words"),  # 48 words and 12 symbols
    (GOPHER, "The words of that. " * 13, None),
    (GOPHER, "a b c d of the " * 20, "words_too_short"),
    (GOPHER, "extraordinarily incomprehensible straightforwardness of the " * 20, "words_too_long"),
    (GOPHER, "#tag of the word " * 20, "too_many_hashes"),
    (GOPHER, "word of the ... " * 20, "too_many_ellipses"),
    (GOPHER, "\n".join(["- items of that list here"] * 20), "too_many_bullets"),
    (GOPHER, "\n".join(["• items of that list here"] * 20), "too_many_bullets"),
    (
        GOPHER,
        "\n".join(["the item of this long list has an end but goes on and on ..."] * 9),
        "too_many_ellipsis_lines",
    ),
    (GOPHER, "1234 5678 the of words " * 20, "too_few_alphabetic_words"),
    (GOPHER, "some words without any such marks " * 20, "too_few_stop_words"),
    (GOPHER, "some words without any such THE marks AND OF " * 20, "too_few_stop_words"),
    (REPETITION, prose(20), None),
    (REPETITION, "", "empty"),
    (REPETITION, "\n\n".join(["Same paragraph here."] * 3 + NUMBERED[:3]), "duplicate_paragraphs"),
    (
        REPETITION,
        "\n\n".join(["Same paragraph here. " * 9] * 2 + NUMBERED[:3]),
        "duplicate_paragraph_characters",
    ),
    (REPETITION, "\n".join(["Same line here."] * 4 + NUMBERED[:5]), "duplicate_lines"),
    (REPETITION, "\n".join(["Same line here. " * 9] * 2 + NUMBERED[:3]), "duplicate_line_characters"),
    (REPETITION, " ".join(f"big cat w{i}" for i in range(50)), "top_2_gram"),
    (REPETITION, prose(8) + " Here " + prose(8).replace("\n", " ")[:260], "duplicate_5_grams"),
    (C4, prose(6), None),
    (C4, prose(4), "too_few_sentences"),
    (C4, prose(6) + "\nLorem ipsum dolor sit amet.", "lorem_ipsum"),
    (C4, prose(6) + "\nif (x) { return now; } else.", "curly_bracket"),
    (FINEWEB, prose(10), None),
    (FINEWEB, " \n ", "empty"),
    (FINEWEB, "\n".join(line + "." * (i < 3) for i, line in enumerate(LONG_LINES)), None),  # 3 of 25
    (
        FINEWEB,
        "\n".join(line + "." * (i < 2) for i, line in enumerate(LONG_LINES)),
        "too_few_punctuated_lines",
    ),
    (FINEWEB, "\n".join(line.rstrip(".") for line in prose(10).split("\n")), "too_few_punctuated_lines"),
    (
        FINEWEB,
        "\n".join(["Short line one.", "Two.", "Three.", "A line that is longer than thirty characters."]),
        "too_many_short_lines",
    ),
    (FINEWEB, prose(10) + "\n" + prose(1), "duplicate_characters"),
    (FINEWEB, "\n".join(f"{'w' * 40}{i}.\n\n\n" for i in range(10)), "too_many_newlines"),
]


@pytest.mark.parametrize(("block", "text", "reason"), CASES)
def test_decisions(block: Filter, text: str, reason: str | None) -> None:
    assert block.judge(Document(id="a", text=text)) == reason


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("A line without an end", False),
        ("A line that trails off...", False),
        ('A line that "ends."', True),
        ("Too short.", False),
        ("Please enable JavaScript to go on.", False),
        ("This site uses cookies to track you.", False),
        ("See our Privacy Policy for more.", False),
        (f"One word is {'x' * 1001} too long.", False),
        ("A claim[12] was made[citation needed].", "A claim was made."),
    ],
)
def test_lines_of_c4(line: str, kept: bool | str) -> None:
    document = Document(id="a", text=f"{prose(5)}\n  {line}")
    assert C4.judge(document) is None
    last = document.text.split("\n")[5:]
    assert last == ([] if not kept else [line if kept is True else kept])


def test_c4_without_terminal_punctuation_keeps_headings() -> None:
    document = Document(id="a", text=f"A heading of words\n{prose(5)}\n\n")
    assert C4Quality(C4QualityConfig(terminal_punctuation=False)).judge(document) is None
    assert document.text == f"A heading of words\n{prose(5)}"


def test_c4_counts_dropped_lines() -> None:
    block = C4Quality(C4QualityConfig())
    block.judge(Document(id="a", text=prose(5) + "\nNo end\nSee the terms of use now."))
    assert block.tally.events == {"lines_dropped/no_terminal_punctuation": 1, "lines_dropped/policy": 1}


@pytest.mark.parametrize(
    ("change", "text", "reason"),
    [
        ({"min_words": 3}, "The words of that house stand.", None),
        ({"max_words": 60}, prose(10), "too_many_words"),
        ({"max_mean_word_length": 4}, "that have with " * 20, None),
        ({"max_mean_word_length": 3.99}, "that have with " * 20, "words_too_long"),
        ({"min_stop_words": 1, "stop_words": ("kind",)}, prose(10), "too_few_stop_words"),
    ],
)
def test_settings_of_gopher_quality(change: dict[str, object], text: str, reason: str | None) -> None:
    block = GopherQuality(replace(GopherQualityConfig(), **change))  # type: ignore[arg-type]
    assert block.judge(Document(id="a", text=text)) == reason


def plain_top(words: list[str], n: int) -> int:
    ngrams = [" ".join(words[i : i + n]) for i in range(len(words) - n + 1)]
    if not ngrams:
        return 0
    best, count = Counter(ngrams).most_common(1)[0]
    return len(best) * count


def plain_duplicates(words: list[str], n: int) -> int:
    seen: set[str] = set()
    characters = place = 0
    while place < len(words) - n + 1:
        ngram = "".join(words[place : place + n])
        characters += len(ngram) if ngram in seen else 0
        place += n if ngram in seen else 1
        seen.add(ngram)
    return characters


@pytest.mark.parametrize("seed", range(12))
def test_kernels_agree_with_plain_python(seed: int) -> None:
    chance = random.Random(seed)
    vocabulary = ["a", "b", "ab", "ba", "c", "the", "theb"][: chance.randint(2, 7)]
    text = " ".join(chance.choice(vocabulary) for _ in range(chance.choice([0, 1, 5, 40, 300])))
    words, strings = Lexicon().words(text), split_words(text)
    for n in (2, 3, 4):
        assert top_ngram_characters(words.hashes, words.lengths, n) == plain_top(strings, n)
    for n in (5, 6, 10):
        found = duplicate_ngram_characters(words.hashes, words.powers, words.lengths, n)
        assert found == plain_duplicates(strings, n)


def test_count_duplicates() -> None:
    assert count_duplicates(["ab", "c", "ab", "ab", ""]) == (2, 4)
