"""Named choices: looked up, or refused with the list and the nearest name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")


def choose(choices: Mapping[str, T], name: str, what: str) -> T:
    """Returns the choice of that name; a ValueError lists all names and suggests the nearest."""
    return choices[require_choice(name, choices, what)]


def require_choice(value: str, choices: Iterable[str], what: str) -> str:
    """Returns ``value`` if it is among the choices; else raises as ``choose`` does."""
    options = list(choices)
    if value in options:
        return value
    listed = f"choose from {', '.join(options)}{nearest(value, options)}"
    raise ValueError(f"unknown {what} {value!r}, {listed}")


def nearest(name: str, choices: Iterable[str]) -> str:
    """Returns "; did you mean ...?" with the most similar choice, or nothing."""
    near = difflib.get_close_matches(str(name), list(choices), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
