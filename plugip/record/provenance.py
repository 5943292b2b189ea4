"""Where a result comes from: versions, machine, commit, command and times."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

PACKAGES = (
    "torch", "torchvision", "diffusers", "accelerate", "hydra-core", "omegaconf", "kornia", "piq",
    "lpips", "opencv-python-headless", "opencv-python", "numpy", "pillow", "safetensors",
)  # fmt: skip
_LARGEST = 1 << 30  # bytes of weights that are hashed; about a second


def describe(
    device: torch.device, weights: str | None, command: Sequence[str] | None = None
) -> dict[str, Any]:
    """Returns what a reader needs to run this again; ``end`` is filled in when the run ends."""
    return {
        "start": now(),
        "end": None,
        "command": list(command or sys.argv),
        "folder": os.getcwd(),
        # By way of sys.modules: the package itself stands above this room.
        "plugip": sys.modules["plugip"].__version__,
        "git": git_state(Path(__file__).resolve().parents[2]),
        "versions": {name: v for name in PACKAGES if (v := _version(name))},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": _device_name(device),
        "threads": torch.get_num_threads(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "prior_sha256": weights,
    }


def now() -> str:
    """Returns the time, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def git_state(root: Path) -> dict[str, Any] | None:
    """Returns commit and dirty flag of a checkout; None outside one or without git."""
    if not (root / ".git").exists():
        return None
    commit, changes = _git(root, "rev-parse", "HEAD"), _git(root, "status", "--porcelain")
    return None if changes is None else {"commit": commit, "dirty": bool(changes)}


def weights_digest(network: nn.Module) -> str | None:
    """Returns the sha256 of all weights and buffers; None for more than 1 GiB of them."""
    state = network.state_dict()
    tensors = [(n, t) for n, t in sorted(state.items()) if isinstance(t, Tensor)]
    if sum(t.numel() * t.element_size() for _, t in tensors) > _LARGEST:
        return None
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """Returns the sha256 of a file; empty if it cannot be read, or is a pipe or a device."""
    try:
        if not path.is_file():
            return ""
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _git(root: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} {torch.cuda.get_device_name(device)}"
    return f"{device} {platform.processor() or platform.machine()}"
