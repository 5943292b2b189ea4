"""Trains a small unconditional prior on your own images; the command is ``plugip-train``."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plugip.training.checks import TrainingError as TrainingError
    from plugip.training.reading import read_settings as read_settings
    from plugip.training.run import Outcome as Outcome
    from plugip.training.run import train as train
    from plugip.training.settings import Settings as Settings

_HOMES = {
    "Outcome": "run",
    "Settings": "settings",
    "TrainingError": "checks",
    "read_settings": "reading",
    "train": "run",
}


def __getattr__(name: str) -> Any:
    # Settings are read without torch, so that the command refuses bad ones at once.
    if name in _HOMES:
        return getattr(importlib.import_module(f"plugip.training.{_HOMES[name]}"), name)
    raise AttributeError(
        f"module 'plugip.training' has no {name!r}; it offers {', '.join(_HOMES)}"
    )


def __dir__() -> list[str]:
    return list(_HOMES)
