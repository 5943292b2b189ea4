"""The files that a config names: masks, kernels, weights, embeddings; known by their content."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any

from plugip.record.provenance import file_digest
from plugip.record.settings import settings

# What loaders read in a folder of weights, and in the folders of its parts.
_WEIGHTS = (".safetensors", ".bin", ".json", ".txt", ".model")
_MARKS = ("config.json", "model_index.json", "*.safetensors")
_SECRET = re.compile(r"secret|token(?!iz)|passw|credential|api_?key|private", re.IGNORECASE)


def named_files(config: dict[str, Any]) -> dict[str, str]:
    """Returns the digest of every file, and folder of weights, that a setting names, by key.

    Relative names start at the working folder. The images of ``data`` are not settings, and what a
    key calls a secret is not read.

    Args:
        config: The resolved config.
    """
    found = {}
    for key, value in settings(config).items():
        if isinstance(value, str) and not _SECRET.search(key) and not key.endswith("_target_"):
            digest = _digest(os.path.expanduser(value))
            if digest:
                found[key] = f"sha256:{digest}"
    return found


def _digest(name: str) -> str:
    """Returns the sha256 of a file or folder of weights; empty for anything else."""
    if os.path.isfile(name):
        return file_digest(Path(name))
    if not name or not os.path.isdir(name):
        return ""
    folder = Path(name)
    if not any(any(folder.glob(mark)) for mark in _MARKS):
        return ""
    homes = {folder, *(config.parent for config in folder.glob("*/*config.json"))}
    files = sorted(f for home in homes for f in home.iterdir() if _is_read(f.relative_to(folder)))
    lines = (f"{f.relative_to(folder).as_posix()} {file_digest(f)}" for f in files if f.is_file())
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogatepass")).hexdigest()


def _is_read(name: Path) -> bool:
    return name.suffix in _WEIGHTS and not any(part.startswith(".") for part in name.parts)
