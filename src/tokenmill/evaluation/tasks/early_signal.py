"""The FineWeb early-signal suite: from a benchmark's published row to query, choices and gold.

All tasks are asked without examples, and answers are scored as text, not as letters, because small models
see a difference there first. Prompts: arXiv 2406.17557 (FineWeb), section 3.1 and its published task file.
A change of any character of a prompt needs a new prompt version.

The query may end in a space; it moves to the choices before tokens are made. So hellaswag's choices begin
with two spaces, as they did in the published runs.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a row asks."""

    query: str
    """Text before the answer."""
    choices: tuple[str, ...]
    """Possible continuations of the query."""
    gold: int
    """Index of the right choice."""


@dataclass(frozen=True, kw_only=True)
class MultipleChoiceTask:
    """A benchmark answered by log-likelihood."""

    name: str
    """Name of the task."""
    prompt_version: str
    """Changes whenever a prompt does."""
    ask: Callable[[Row], Question]
    """Question of a published row; raises KeyError, IndexError, TypeError or ValueError for another row."""
    subtask_key: str = ""
    """Column that splits the benchmark into tasks of their own."""

    def task_of(self, row: Row) -> str:
        """Name of the task that a row belongs to."""
        return f"{self.name}:{row[self.subtask_key]}" if self.subtask_key else self.name


def _spaced(choices: Sequence[str]) -> tuple[str, ...]:
    return tuple(f" {choice}" for choice in choices)


def _labelled(row: Row, query: str) -> Question:
    labels, texts = row["choices"]["label"], row["choices"]["text"]
    return Question(query=query, choices=_spaced(texts), gold=labels.index(row["answerKey"].strip()))


def _arc(row: Row) -> Question:
    return _labelled(row, f"Question: {row['question']}\nAnswer:")


def _commonsense_qa(row: Row) -> Question:
    return _labelled(row, row["question"])


def _openbookqa(row: Row) -> Question:
    return _labelled(row, row["question_stem"])


def _hellaswag(row: Row) -> Question:
    query = f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()} "
    choices = _spaced([_without_brackets(ending) for ending in row["endings"]])
    return Question(query=_without_brackets(query), choices=choices, gold=int(row["label"]))


def _without_brackets(text: str) -> str:
    """Text without the marks that the WikiHow part of the benchmark carries."""
    text = re.sub(r"\[.*?\]", "", text.replace(" [title]", ". "))
    return text.replace("  ", " ")


def _piqa(row: Row) -> Question:
    return Question(
        query=f"Question: {row['goal']}\nAnswer:",
        choices=_spaced([row["sol1"], row["sol2"]]),
        gold=int(row["label"]),
    )


def _siqa(row: Row) -> Question:
    return Question(
        query=f"{row['context']} {row['question']}",
        choices=_spaced([row["answerA"], row["answerB"], row["answerC"]]),
        gold=int(row["label"]) - 1,
    )


def _winogrande(row: Row) -> Question:
    before, after = row["sentence"].split("_")
    return Question(
        query=before,
        choices=tuple(f"{row[option]} {after.strip()}" for option in ("option1", "option2")),
        gold=int(row["answer"]) - 1,
    )


def _mmlu(row: Row) -> Question:
    subject = row["subject"].replace("_", " ")
    return Question(
        query=f"The following are questions about {subject}.\nQuestion: {row['question']}\nAnswer:",
        choices=_spaced(row["choices"]),
        gold=int(row["answer"]),
    )


def _table(*tasks: MultipleChoiceTask) -> Mapping[str, MultipleChoiceTask]:
    return MappingProxyType({task.name: task for task in tasks})


_VERSION = "fineweb-1"

EARLY_SIGNAL = _table(
    MultipleChoiceTask(name="arc_challenge", prompt_version=_VERSION, ask=_arc),
    MultipleChoiceTask(name="arc_easy", prompt_version=_VERSION, ask=_arc),
    MultipleChoiceTask(name="commonsense_qa", prompt_version=_VERSION, ask=_commonsense_qa),
    MultipleChoiceTask(name="hellaswag", prompt_version=_VERSION, ask=_hellaswag),
    MultipleChoiceTask(name="mmlu", prompt_version=_VERSION, ask=_mmlu, subtask_key="subject"),
    MultipleChoiceTask(name="openbookqa", prompt_version=_VERSION, ask=_openbookqa),
    MultipleChoiceTask(name="piqa", prompt_version=_VERSION, ask=_piqa),
    MultipleChoiceTask(name="siqa", prompt_version=_VERSION, ask=_siqa),
    MultipleChoiceTask(name="winogrande", prompt_version=_VERSION, ask=_winogrande),
)
"""Name of the benchmark -> task."""

GROUPS = MappingProxyType(
    {
        "arc": ("arc_challenge", "arc_easy"),
        "early_signal": (
            "arc",
            "commonsense_qa",
            "hellaswag",
            "mmlu",
            "openbookqa",
            "piqa",
            "siqa",
            "winogrande",
        ),
    }
)
"""Name of a group -> tasks or groups before it; the score of a group is the mean of its members'."""
