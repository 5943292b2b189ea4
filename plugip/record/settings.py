"""What a result depends on: hashes of a run's settings, and how two of them differ."""

from __future__ import annotations

import hashlib
import json
from typing import Any

# No image's result depends on these; data.path and measurement only say which images there are.
NEUTRAL = (
    "output", "device", "threads", "batch_size", "trusted", "debug", "hints", "demo_image",
    "optimized_metric", "data.path", "data.limit", "measurement",
)  # fmt: skip


def settings(config: dict[str, Any]) -> dict[str, Any]:
    """Returns the leaves, by dotted key, that an image's result depends on."""
    return {key: v for key, v in leaves(config).items() if not _under(key, NEUTRAL)}


def settings_hash(config: dict[str, Any]) -> str:
    """Returns 8 hex digits that name what was done to an image, on any machine."""
    return _digest(settings(config))


def run_hash(config: dict[str, Any]) -> str:
    """Returns 8 hex digits that name a run: its settings and the images that it is given."""
    given = {k: v for k, v in leaves(config).items() if _under(k, ("data.path", "measurement"))}
    return _digest(settings(config) | given)


def first_difference(old: dict[str, Any], new: dict[str, Any]) -> str | None:
    """Returns the first setting in which two configs differ, and both values; None if equal."""
    before, after = settings(old), settings(new)
    for key in [*after, *(k for k in before if k not in after)]:
        if before.get(key) != after.get(key) or (key in before) != (key in after):
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
