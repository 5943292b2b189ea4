"""Settings of all tests: one thread, no settings of the user's; ``toys`` is found anywhere.

Libraries read variables such as HF_HUB_OFFLINE or HYDRA_FULL_ERROR once, when they are imported,
so they are dropped before. Places of caches, threads and the choice of GPUs stay.
"""

import os
import signal
import sys
from pathlib import Path

READ_BY_LIBRARIES = (
    *("HF_", "HUGGINGFACE_", "TRANSFORMERS_", "DIFFUSERS_", "SAFETENSORS_", "ACCELERATE_"),
    *("HYDRA_", "PLUGIP_", "TORCH", "PYTORCH_", "HYPOTHESIS_", "MPLBACKEND", "SOURCE_DATE_EPOCH"),
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_", "GROUP_", "ROLE_"),
    *("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "CLICOLOR", "PYTHONIOENCODING"),
    *("PYTHONUTF8", "PYTHONWARNINGS", "PYTHONOPTIMIZE", "PYTHONHASHSEED", "LANG", "LC_"),
)
KEPT = {"HF_HOME", "HF_HUB_CACHE", "TORCH_HOME", "PLUGIP_SLOW", "PLUGIP_WEIGHTS"}

for name in set(os.environ) - KEPT:
    if name.startswith(READ_BY_LIBRARIES):
        del os.environ[name]

import torch  # noqa: E402

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]
torch.set_num_threads(1)
# Whoever starts the tests in the background (nohup, &) has these ignored, and children inherit it.
for name in ("SIGINT", "SIGHUP", "SIGTERM"):
    number = getattr(signal, name, None)
    if number is not None and signal.getsignal(number) is signal.SIG_IGN:
        default = signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL
        signal.signal(number, default)

from labs import lab, run  # noqa: E402, F401
