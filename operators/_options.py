"""Checks of arguments that several operators share; each failure is one sentence with advice."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable


def require_choice(value: str, choices: Iterable[str], what: str) -> str:
    """Returns ``value`` if it is among the choices; else a ValueError names the nearest one."""
    options = list(choices)
    if value in options:
        return value
    near = difflib.get_close_matches(str(value), options, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"unknown {what} {value!r}, choose from {', '.join(options)}{hint}")


def require_positive(value: float, what: str) -> float:
    """Returns ``value`` if it is positive and finite; else raises a ValueError."""
    if not 0 < value < math.inf:
        raise ValueError(f"{what} must be positive and finite, got {value}")
    return value


def require_odd(value: int, what: str) -> int:
    """Returns ``value`` if it is an odd, positive whole number; else raises a ValueError."""
    if value != int(value) or value < 1 or value % 2 == 0:
        raise ValueError(
            f"{what} must be odd and positive, so that the kernel has a middle, got {value}; "
            f"use {2 * (max(1, int(value)) // 2) + 1}"
        )
    return value


def as_sides(size: int | Iterable[int], what: str) -> tuple[int, int]:
    """Reads a size as (height, width): one whole number for a square, or two."""
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or any(side != int(side) or side < 1 for side in sides):
        raise ValueError(f"{what} must be one positive whole number or two (h, w), got {size}")
    return int(sides[0]), int(sides[1])
