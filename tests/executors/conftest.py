"""A small recipe, its input, and site values for tests of the executors."""

import os
import shutil
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


@pytest.fixture
def mpi(monkeypatch: pytest.MonkeyPatch) -> None:
    """MPI, whose ranks import the test entries; skips the test where it is missing."""
    pytest.importorskip("mpi4py", reason="no mpi4py: pip install 'tokenmill[mpi]'")
    beside = shutil.which("mpiexec", path=str(Path(sys.executable).parent))
    if beside is None and shutil.which("mpiexec") is None:
        pytest.skip("no mpiexec: pip install 'tokenmill[mpi]'")
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    )
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
