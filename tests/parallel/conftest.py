"""Makes the helpers of this folder importable, here and in the spawned ranks."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
if str(HERE) not in sys.path:
    sys.path.insert(0, str(HERE))
