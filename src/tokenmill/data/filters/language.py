"""Keeps documents in wanted languages, as fastText's lid.176 sees them, and annotates all.

Joulin et al. 2016, "Bag of Tricks for Efficient Text Classification", arXiv 1607.01759.
"""

import contextlib
import functools
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from tokenmill import storage
from tokenmill.data.document import Document
from tokenmill.data.filters.base import Filter
from tokenmill.data.native import optional
from tokenmill.errors import ConfigError, InputError

_PREFIX = "__label__"


@dataclass(frozen=True, kw_only=True)
class LanguageConfig:
    """Settings of the language filter."""

    kind: Literal["language"] = "language"
    """Names the block."""
    model_path: str
    """Local path of lid.176.ftz or another fastText language model."""
    languages: tuple[str, ...] = ("en",)
    """Languages to keep, as the model names them; empty: keep all and only annotate."""
    threshold: float = 0.65
    """Smallest score to keep, from 0 to 1."""
    most_characters: int = 0
    """Characters to look at; 0: the whole text."""


@functools.lru_cache(maxsize=2)
def load_model(path: str) -> Any:
    """A fastText model; loaded once per process.

    Raises:
        InputError: no model is there.
    """
    if not storage.exists(path):
        raise InputError(
            "the language model is missing",
            where=path,
            expected="a fastText model such as lid.176.ftz",
            fix="download lid.176.ftz (fasttext.cc, Language identification) and set model_path",
        )
    fasttext = optional("fasttext.FastText", "language identification")
    try:
        with _local_file(path) as local:
            return fasttext._FastText(model_path=local)
    except ValueError as error:
        raise InputError("the language model is not readable", where=path, got=str(error)) from error


@contextlib.contextmanager
def _local_file(url: str) -> Iterator[str]:
    """Path of a file, or of a copy if it lies on an object store: fastText opens paths alone."""
    if storage.is_local(url):
        yield str(storage.local_path(url))
        return
    with tempfile.NamedTemporaryFile(suffix=".ftz") as copy:
        copy.write(storage.read_bytes(url))
        copy.flush()
        yield copy.name


class Language(Filter):
    """Annotates ``language`` and ``language_score``, and drops other languages and low scores."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__(config.kind)
        self._config = config
        self._model = load_model(config.model_path)
        labels = {label.removeprefix(_PREFIX) for label in self._model.get_labels()}
        unknown = sorted(set(config.languages) - labels)
        if unknown:
            raise ConfigError(
                "the model does not know a language",
                where=config.model_path,
                expected=" ".join(sorted(labels)),
                got=" ".join(unknown),
            )

    def judge(self, document: Document) -> str | None:
        """Keep wanted languages."""
        language, score = self.predict(document.text)
        document.metadata["language"] = language
        document.metadata["language_score"] = score
        if not self._config.languages:
            return None
        if language not in self._config.languages:
            return "other_language"
        return None if score >= self._config.threshold else "low_score"

    def predict(self, text: str) -> tuple[str, float]:
        """Likeliest language of a text and its score, rounded to 4 places."""
        most = self._config.most_characters
        line = (text[:most] if most else text).replace("\n", " ")
        # the wrapper's own predict fails with numpy 2, the bound method does not
        found = self._model.f.predict(line.encode("utf-8", "replace").decode() + "\n", 1, 0.0, "strict")
        if not found:
            return "unknown", 0.0
        score, label = found[0]
        return str(label).removeprefix(_PREFIX), round(min(float(score), 1.0), 4)
