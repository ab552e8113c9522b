"""A trained model for every test of the room."""

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parents[1] / "inference"
if str(HERE) not in sys.path:  # the tests of inference and of evaluation share trained.py
    sys.path.insert(0, str(HERE))

from trained import TrainedModel, make_trained_model  # noqa: E402 - needs the path above


@pytest.fixture(scope="session")
def trained_model(tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    """A small model, its tokenizer and held-out documents; a space in the path."""
    return make_trained_model(tmp_path_factory.mktemp("trained model"))
