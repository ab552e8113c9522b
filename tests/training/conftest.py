"""Makes the helpers of this folder and the pool of ranks importable, here and in the spawned ranks."""

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
for folder in (HERE, HERE.parent / "parallel"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Two shards to train on and one held out."""
    from training_programs import write_tokens

    folder = tmp_path_factory.mktemp("tokens")
    return {
        "tokens": [write_tokens(folder / f"train{index}.tokens", seed=index) for index in range(2)],
        "heldout": [write_tokens(folder / "heldout.tokens", seed=9, num_documents=60)],
    }
