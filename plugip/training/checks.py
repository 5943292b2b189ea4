"""Checks of single options; each failure is one sentence that names option, value and range."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any


class TrainingError(ValueError):
    """Says in one sentence why a training cannot start or go on, and what to do."""


def require_whole(
    name: str, value: Any, low: int, high: int | None = None, none: bool = False
) -> None:
    """Refuses what is not a whole number in [low, high]; ``none`` admits None."""
    if none and value is None:
        return
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < low or (high is not None and value > high):
        reach = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise TrainingError(f"{name} must be a whole number {reach}, got {value!r}")


def require_number(
    name: str,
    value: Any,
    low: float,
    high: float = math.inf,
    above: bool = False,
    none: bool = False,
) -> None:
    """Refuses what is not a number in [low, high], or in (low, high] if ``above``."""
    if none and value is None:
        return
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not (low <= value <= high) or (above and value == low):
        reach = f"above {low:g}" if above else f"of at least {low:g}"
        limit = f" and at most {high:g}" if high < math.inf else ""
        raise TrainingError(f"{name} must be a number {reach}{limit}, got {value!r}")


def require_flag(name: str, value: Any) -> None:
    """Refuses what is neither true nor false."""
    if not isinstance(value, bool):
        raise TrainingError(f"{name} must be true or false, got {value!r}")


def require_list(name: str, value: Any, length: int | None = None) -> Sequence[Any]:
    """Returns a list or tuple that is not empty; ``length`` fixes how long it is."""
    if not isinstance(value, (list, tuple)) or not value or len(value) != (length or len(value)):
        wanted = f"of {length} entries" if length else "with one entry or more"
        raise TrainingError(f"{name} must be a list {wanted}, got {value!r}")
    return value


def require_text(name: str, value: Any, none: bool = False) -> None:
    """Refuses what is not a text; ``none`` admits None."""
    if not isinstance(value, str) and not (none and value is None):
        raise TrainingError(f"{name} must be a text, got {value!r}")
