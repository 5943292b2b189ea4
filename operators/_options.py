"""Checks of arguments that several operators share; each failure is one sentence with advice."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import TypeVar

T = TypeVar("T")


def require_positive(value: float, what: str) -> float:
    """Returns ``value`` if it is positive and finite; else raises a ValueError."""
    if not isinstance(value, Real) or not 0 < value < math.inf:
        raise ValueError(f"{what} must be a positive, finite number, got {value!r}")
    return value


def require_odd(value: int, what: str) -> int:
    """Returns ``value`` if it is an odd, positive whole number; else raises a ValueError."""
    if not isinstance(value, Integral) or value < 1 or value % 2 == 0:
        raise ValueError(
            f"{what} must be an odd, positive whole number, so that the kernel has a middle "
            f"pixel, got {value!r}"
        )
    return value


def require_count(value: int, least: int, what: str) -> int:
    """Returns ``value`` if it is a whole number, at least ``least``; else raises a ValueError."""
    if not isinstance(value, Integral) or value < least:
        raise ValueError(f"{what} must be a whole number, at least {least}, got {value!r}")
    return value


def as_sides(size: int | Iterable[int], what: str) -> tuple[int, int]:
    """Reads a size as (height, width): one whole number for a square, or two."""
    sides = tuple(size) if isinstance(size, Iterable) else (size, size)
    if len(sides) != 2 or not all(isinstance(side, Integral) and side > 0 for side in sides):
        raise ValueError(f"{what} must be one positive whole number or two (h, w), got {size!r}")
    return int(sides[0]), int(sides[1])


def require_sampler(given: object, kind: type[T], what: str, example: str) -> T:
    """Returns ``given`` if it is a sampler of this kind; else raises a TypeError."""
    if isinstance(given, kind):
        return given
    raise TypeError(
        f"{what} must be a tensor or a sampler such as {example}, got {type(given).__name__}"
    )
