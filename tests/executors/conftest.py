"""A small recipe, its input, and site values for tests of the executors."""

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
if str(HERE) not in sys.path:  # workers import the test entries by name
    sys.path.insert(0, str(HERE))


@pytest.fixture
def text_folder(tmp_path: Path) -> Path:
    """Three files of 200 lines each; spaces and other letters in the path."""
    folder = tmp_path / "in put é"
    folder.mkdir()
    for number in range(3):
        lines = "".join(f"line {number} {place:03d}\n" for place in range(200))
        (folder / f"{number}.jsonl").write_text(lines)
    return folder
