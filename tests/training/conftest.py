"""Makes the helpers of this folder and the pool of ranks importable, here and in the spawned ranks."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
for folder in (HERE, HERE.parent / "parallel"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
