from pathlib import Path

import pytest

from tokenmill import storage
from tokenmill.data.document import Document
from tokenmill.data.filters.language import Language, LanguageConfig
from tokenmill.errors import ConfigError, InputError

ENGLISH = "The committee met on Tuesday and decided that the bridge should be repaired before winter."
GERMAN = "Der Ausschuss hat am Dienstag beschlossen, dass die Brücke vor dem Winter repariert wird."


@pytest.fixture
def model_path(shared_data: Path) -> str:
    return str(shared_data / "lid" / "lid.176.ftz")


def test_keeps_wanted_languages_and_annotates_all(model_path: str) -> None:
    block = Language(LanguageConfig(model_path=model_path))
    english, german = Document(id="a", text=f"{ENGLISH}\n{ENGLISH}"), Document(id="b", text=GERMAN)
    assert block.judge(english) is None
    assert english.metadata["language"] == "en"
    assert 0.65 <= english.metadata["language_score"] <= 1
    assert block.judge(german) == "other_language"
    assert german.metadata["language"] == "de"


def test_settings(model_path: str) -> None:
    german = Document(id="b", text=GERMAN)
    assert Language(LanguageConfig(model_path=model_path, languages=("de", "en"))).judge(german) is None
    assert Language(LanguageConfig(model_path=model_path, languages=())).judge(german) is None
    strict = Language(LanguageConfig(model_path=model_path, threshold=1.01))
    assert strict.judge(Document(id="a", text=ENGLISH)) == "low_score"
    start = Language(LanguageConfig(model_path=model_path, most_characters=len(ENGLISH)))
    assert start.judge(Document(id="c", text=ENGLISH + GERMAN * 5)) is None


@pytest.mark.parametrize("text", ["", " \n", "\n\n\n", "\udc80 lone", "😀"])
def test_odd_texts(model_path: str, text: str) -> None:
    document = Document(id="a", text=text)
    assert Language(LanguageConfig(model_path=model_path)).judge(document) in ("other_language", "low_score")
    assert set(document.metadata) == {"language", "language_score"}


def test_a_missing_or_broken_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing[\s\S]*model_path"):
        Language(LanguageConfig(model_path=str(tmp_path / "lid.bin")))
    (tmp_path / "lid.bin").write_bytes(b"no model")
    with pytest.raises(InputError, match="not readable"):
        Language(LanguageConfig(model_path=str(tmp_path / "lid.bin")))


def test_an_unknown_language_is_told(model_path: str) -> None:
    with pytest.raises(ConfigError, match=r"does not know[\s\S]*english"):
        Language(LanguageConfig(model_path=model_path, languages=("english",)))


def test_a_model_may_lie_on_an_object_store(model_path: str) -> None:
    url = "memory://models/lid.176.ftz"
    with pytest.raises(InputError, match="missing"):
        Language(LanguageConfig(model_path=url))
    storage.write_atomic(url, Path(model_path).read_bytes())
    assert Language(LanguageConfig(model_path=url)).judge(Document(id="a", text=ENGLISH)) is None
