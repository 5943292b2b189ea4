"""Settings of all tests: one thread; ``toys`` and ``experiments`` are found from any folder.

The fixtures of ``labs`` are those of the command line.
"""

import sys
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]
torch.set_num_threads(1)

from labs import lab, run  # noqa: E402, F401
