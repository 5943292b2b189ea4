"""What a result depends on: hashes of a run's settings, and how two of them differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

# No image's result depends on these; data.path and measurement only say which images there are.
NEUTRAL = (
    "output", "device", "threads", "batch_size", "trusted", "debug", "hints", "demo_image",
    "optimized_metric", "data.path", "data.limit", "measurement",
)  # fmt: skip


def settings(config: dict[str, Any]) -> dict[str, Any]:
    """Returns the leaves, by dotted key, that an image's result depends on."""
    return {key: v for key, v in leaves(config).items() if not _under(key, NEUTRAL)}


def settings_hash(config: dict[str, Any], files: Mapping[str, str] | None = None) -> str:
    """Returns 8 hex digits that name what was done to an image, on any machine.

    Args:
        config: The resolved config.
        files: Digests of the files that settings name, by key: content counts, not the path.
    """
    return _digest(settings(config) | dict(files or {}))


def run_hash(config: dict[str, Any]) -> str:
    """Returns 8 hex digits that name a run: its settings and the images that it is given."""
    given = {k: v for k, v in leaves(config).items() if _under(k, ("data.path", "measurement"))}
    return _digest(settings(config) | given)


def first_difference(
    old: dict[str, Any],
    new: dict[str, Any],
    old_files: Mapping[str, str] | None = None,
    new_files: Mapping[str, str] | None = None,
) -> str | None:
    """Returns the first setting in which two configs differ, and both values; None if equal.

    Args:
        old: The config of earlier results.
        new: The config now.
        old_files: Digests of the files that settings name, by key; None if nobody kept them.
        new_files: The same now.
    """
    before, after = settings(old), settings(new)
    there, here = (old_files, new_files or {}) if old_files is not None else ({}, {})
    for key in [*after, *(k for k in before if k not in after)]:
        if key in there and key in here:
            if there[key] != here[key]:
                return f"{key} names {_show(after, key)}, whose content has changed"
        elif key in there and before.get(key) == after.get(key):
            return f"{key} names {_show(after, key)}, which is no longer there"
        elif key in here and before.get(key) == after.get(key):
            return f"{key} names {_show(after, key)}, where no file was then"
        elif before.get(key) != after.get(key) or (key in before) != (key in after):
            return f"{key} is {_show(before, key)} there and {_show(after, key)} now"
    return None


def leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    """Returns the leaves of nested dicts and lists by dotted key, whole floats as integers."""
    if isinstance(value, (dict, list)) and value:
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        found: dict[str, Any] = {}
        for name, child in pairs:
            found |= leaves(child, f"{prefix}.{name}" if prefix else str(name))
        return found
    # 1 and 1.0 are one setting.
    if isinstance(value, float) and value.is_integer():
        return {prefix: int(value)}
    return {prefix: value}


def _under(key: str, prefixes: tuple[str, ...]) -> bool:
    return any(key == p or key.startswith(f"{p}.") for p in prefixes)


def _digest(flat: dict[str, Any]) -> str:
    text = json.dumps(flat, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _show(flat: dict[str, Any], key: str) -> str:
    return repr(flat[key]) if key in flat else "absent"
