"""Whether values from a config suit the annotations of what they are given to."""

from __future__ import annotations

import inspect
import math
import os
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a finite number",
    bool: "true or false",
    str: "text",
    Path: "a path",
    type(None): "null",
}
PLAIN = (bool, int, float, str)


def parameters_of(found: Any) -> Mapping[str, inspect.Parameter] | None:
    """Returns a callable's parameters, annotations as types where all of them are known there.

    None for built-in functions that do not tell.
    """
    try:
        return inspect.signature(found, eval_str=True).parameters
    except NameError:  # an annotation of names that are imported for type checkers only
        return inspect.signature(found).parameters
    except (TypeError, ValueError):
        return None


def misfit(value: Any, wanted: Any, default: Any = inspect.Parameter.empty) -> str | None:
    """Says what a value must be instead, or nothing where it suits, or nothing is known.

    Args:
        value: From a config, or built from one.
        wanted: The annotation, evaluated.
        default: The parameter's own; it always suits.
    """
    if _is_same(value, default) or fits(value, wanted):
        return None
    advice = ""
    if isinstance(value, (bool, int, float)) and _takes_text(wanted):
        advice = "; text that looks like a number or a switch needs quotes, \"key='2024'\""
    return f"must be {describe(wanted)}, got {value!r}{advice}"


def fits(value: Any, wanted: Any) -> bool:
    """Tells whether a value suits an annotation; unknown kinds of annotation suit everything."""
    origin, inner = get_origin(wanted), get_args(wanted)
    if origin in (Union, types.UnionType):
        return any(fits(value, arm) for arm in inner)
    if origin is Literal:
        return any(_is_same(value, arm) for arm in inner)
    if origin in (list, Sequence, tuple):
        return _fits_items(value, origin, inner)
    if origin in (dict, Mapping):
        whole = isinstance(value, Mapping)
        return whole and all(fits(item, inner[1]) for item in value.values())
    if wanted is bool or wanted is type(None) or wanted is str:
        return isinstance(value, wanted)
    if wanted is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if wanted is float:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number and math.isfinite(value)
    if wanted is Path:
        return isinstance(value, (str, Path))
    if (origin or wanted) is os.PathLike:
        return isinstance(value, os.PathLike)
    return not _is_ours(wanted) or isinstance(value, wanted)


def describe(wanted: Any) -> str:
    """Returns an annotation in words."""
    origin, inner = get_origin(wanted), get_args(wanted)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(describe(arm) for arm in inner))
    if origin is Literal:
        return " or ".join(map(str, inner))
    if origin in (list, Sequence, tuple):
        items = list(dict.fromkeys(describe(arm) for arm in inner if arm is not Ellipsis))
        fixed = origin is tuple and Ellipsis not in inner
        return f"a list of {f'{len(inner)} entries, each ' if fixed else ''}{', '.join(items)}"
    if origin in (dict, Mapping):
        return "keys with values"
    if wanted in WORDS:
        return WORDS[wanted]
    if (origin or wanted) is os.PathLike:
        return WORDS[Path]
    name = getattr(wanted, "__name__", str(wanted))
    return f"a {name}, named by a _target_" if _is_ours(wanted) else name


def _fits_items(value: Any, origin: Any, inner: tuple[Any, ...]) -> bool:
    if not isinstance(value, (list, tuple)):
        return not isinstance(value, (*PLAIN, type(None), Mapping))  # arrays speak for themselves
    if origin is tuple and Ellipsis not in inner:
        return len(value) == len(inner) and all(map(fits, value, inner))
    return not inner or all(fits(item, inner[0]) for item in value)


def _is_ours(wanted: Any) -> bool:
    """Tells whether an annotation is a class whose values only a _target_ can make."""
    ours = isinstance(wanted, type) and wanted.__module__.split(".")[0] == "plugip"
    return ours and not getattr(wanted, "_is_protocol", False) and not issubclass(wanted, PLAIN)


def _takes_text(wanted: Any) -> bool:
    return wanted in (str, Path) or any(_takes_text(arm) for arm in get_args(wanted))


def _is_same(value: Any, other: Any) -> bool:
    return value is other or (
        type(value) is type(other) and isinstance(value, PLAIN) and value == other
    )
