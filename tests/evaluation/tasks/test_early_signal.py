"""Golden prompts: hand-written rows in the published shape of each benchmark, and real rows where present."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tokenmill.evaluation.tasks.early_signal import EARLY_SIGNAL, GROUPS, Question

ARC = {
    "id": "Q1",
    "question": "What melts?",
    "choices": {"text": ["ice", "stone"], "label": ["1", "2"]},
    "answerKey": "1",
}
GOLDEN: list[tuple[str, dict[str, Any], Question]] = [
    ("arc_easy", ARC, Question(query="Question: What melts?\nAnswer:", choices=(" ice", " stone"), gold=0)),
    (
        "arc_challenge",
        {**ARC, "choices": {"text": ["ice", "stone"], "label": ["A", "B"]}, "answerKey": "B"},
        Question(query="Question: What melts?\nAnswer:", choices=(" ice", " stone"), gold=1),
    ),
    (
        "commonsense_qa",
        {
            "id": "c",
            "question": "Where do cats sleep?",
            "question_concept": "cats",
            "choices": {"label": ["A", "B", "C", "D", "E"], "text": ["box", "sea", "fire", "air", "wall"]},
            "answerKey": " A ",
        },
        Question(query="Where do cats sleep?", choices=(" box", " sea", " fire", " air", " wall"), gold=0),
    ),
    (
        "hellaswag",
        {
            "ind": 4,
            "activity_label": "Baking [header] cakes",
            "ctx_a": "A cook [title] stirs  slowly.",
            "ctx_b": "the COOK",
            "endings": ["[step] sits  down.", "eats [title] cake.", "c", "d"],
            "label": "1",
        },
        # Brackets go before double spaces shrink, and the query keeps its last space.
        Question(
            query="Baking cakes: A cook. stirs slowly. The cook ",
            choices=("  sits down.", " eats. cake.", " c", " d"),
            gold=1,
        ),
    ),
    (
        "hellaswag",
        {"activity_label": "Rowing", "ctx_a": "They row.", "ctx_b": "", "endings": ["a", "b"], "label": 0},
        Question(query="Rowing: They row. ", choices=(" a", " b"), gold=0),
    ),
    (
        "mmlu",
        {"subject": "high_school_us_history", "question": "Who?", "choices": ["A.", "B."], "answer": 1},
        Question(
            query="The following are questions about high school us history.\nQuestion: Who?\nAnswer:",
            choices=(" A.", " B."),
            gold=1,
        ),
    ),
    (
        "openbookqa",
        {
            "id": "7-1",
            "question_stem": "Gas fills",
            "choices": {"text": ["a box", "a dot"], "label": ["A", "B"]},
            "answerKey": "B",
        },
        Question(query="Gas fills", choices=(" a box", " a dot"), gold=1),
    ),
    (
        "piqa",
        {"goal": "Open a jar", "sol1": "Twist the lid ", "sol2": "Pull", "label": 1},
        Question(query="Question: Open a jar\nAnswer:", choices=(" Twist the lid ", " Pull"), gold=1),
    ),
    (
        "siqa",
        {
            "context": "Kim fell.",
            "question": "How does Kim feel?",
            "answerA": "hurt",
            "answerB": "tall",
            "answerC": "new",
            "label": "3",
        },
        Question(query="Kim fell. How does Kim feel?", choices=(" hurt", " tall", " new"), gold=2),
    ),
    (
        "winogrande",
        {
            "sentence": "Ann thanked Bea because _ had helped.",
            "option1": "Ann",
            "option2": "Bea",
            "answer": "2",
        },
        Question(query="Ann thanked Bea because ", choices=("Ann had helped.", "Bea had helped."), gold=1),
    ),
]


@pytest.mark.parametrize(("name", "row", "question"), GOLDEN)
def test_prompts_are_the_published_ones(name: str, row: dict[str, Any], question: Question) -> None:
    assert EARLY_SIGNAL[name].ask(row) == question
    assert EARLY_SIGNAL[name].prompt_version == "fineweb-1"


def test_every_benchmark_has_a_golden_prompt() -> None:
    assert {name for name, _, _ in GOLDEN} == set(EARLY_SIGNAL)


def test_mmlu_is_split_by_subject() -> None:
    assert EARLY_SIGNAL["mmlu"].task_of({"subject": "anatomy"}) == "mmlu:anatomy"
    assert EARLY_SIGNAL["piqa"].task_of({}) == "piqa"


def test_groups_name_known_members_in_order() -> None:
    known = set(EARLY_SIGNAL)
    for group, members in GROUPS.items():
        assert set(members) <= known
        known.add(group)


def rows_of(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path) as file:
        return [json.loads(line) for line in file]


SIZES = {
    "arc_easy": 570,
    "arc_challenge": 299,
    "hellaswag": 10042,
    "openbookqa": 500,
    "piqa": 1838,
    "siqa": 1954,
    "winogrande": 1267,
    "commonsense_qa": 1221,
    "mmlu": 1531,
}


@pytest.mark.parametrize("name", sorted(EARLY_SIGNAL))
def test_every_real_row_becomes_a_question(shared_data: Path, name: str) -> None:
    rows = rows_of(shared_data / "eval" / "suite" / f"{name}.validation.jsonl.gz")
    assert len(rows) == SIZES[name]
    for row in rows:
        question = EARLY_SIGNAL[name].ask(row)
        assert 0 <= question.gold < len(question.choices)
        assert all(choice.strip() for choice in question.choices)


@pytest.mark.parametrize(("name", "key"), [("hellaswag", "hellaswag"), ("piqa", "piqa")])
def test_real_prompts_equal_another_tools(shared_data: Path, name: str, key: str) -> None:
    golden = shared_data / "eval" / "golden" / f"lmeval_{key}_200.json.gz"
    with gzip.open(golden) as file:
        [documents] = json.load(file)["tasks"].values()
    rows = rows_of(shared_data / "eval" / "suite" / f"{name}.validation.jsonl.gz")
    for document in documents:
        question = EARLY_SIGNAL[name].ask(rows[document["doc_id"]])
        texts = [request["context"] + request["continuation"] for request in document["requests"]]
        ours = [question.query + choice for choice in question.choices]
        # That tool's harness strips texts, which the published runs did not.
        assert ["".join(text.split()) for text in ours] == ["".join(text.split()) for text in texts]
        assert question.gold == document["target"]
