"""Settings of all tests: one thread, and ``from toys import ...`` from any folder."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
torch.set_num_threads(1)
