import time

import pytest

from tokenmill.data.word_rules import LONGEST_CHUNK, split_chunk

# what spaCy 3.8's English tokenizer gives
CASES = {
    "hello": "hello",
    "(hello),": "( hello ) ,",
    "don't": "do n't",
    "Don’t": "Do n’t",
    "cannot": "can not",
    "its": "its",
    "well": "well",
    "they're": "they 're",
    "O'Neil's": "O'Neil 's",
    "U.S.": "U.S.",
    "Mr.": "Mr.",
    "e.g.,": "e.g. ,",
    "(e.g.": "( e.g.",
    "end.": "end .",
    "end...": "end ...",
    "…": "…",
    "state-of-the-art": "state - of - the - art",
    "10-20": "10 - 20",
    "1,000.50": "1,000.50",
    "$5.00": "$ 5.00",
    "20km.": "20 km .",
    "5pm": "5 pm",
    "http://www.example.com/a,b.html)": "http://www.example.com/a,b.html )",
    "me@example.com": "me@example.com",
    "and/or": "and/or",
    "red/green": "red / green",
    "end.Start": "end . Start",
    "a,b": "a , b",
    '"quoted"': '" quoted "',
    "`code`": "` code `",
    "std::vec": "std::vec",
    "word—dash": "word — dash",
    ":-)": ":-)",
    "C++": "C++",
    "日本語。": "日本語 。",
}


@pytest.mark.parametrize("chunk", CASES)
def test_words_of_chunks(chunk: str) -> None:
    assert " ".join(split_chunk(chunk)) == CASES[chunk]


@pytest.mark.parametrize("chunk", [*CASES, "!!!", "'s", "...!?", "-", "--", "a", "\ufffd", "::*;"])
def test_no_character_is_lost(chunk: str) -> None:
    assert "".join(split_chunk(chunk)) == chunk


@pytest.mark.parametrize("unit", ["!", "a.", "(a)", "x:", "-", "a@", "é", "\U0001f600"])
def test_long_chunks_take_linear_time(unit: str) -> None:
    for size in (LONGEST_CHUNK, 200_000):
        chunk = unit * (size // len(unit))
        started = time.process_time()
        words = split_chunk(chunk)
        assert time.process_time() - started < 20  # quadratic time would be minutes
        assert "".join(words) == chunk
