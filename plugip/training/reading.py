"""From plain dicts to settings, and how the settings of two starts differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import PurePath
from typing import Any

from plugip.options import nearest
from plugip.training import settings as parts
from plugip.training.checks import TrainingError
from plugip.training.settings import Settings

SECTIONS: dict[str, Any] = {
    "data": parts.Data,
    "network": parts.Network,
    "optimiser": parts.Optimiser,
    "log": parts.Log,
    "eval": parts.Evaluation,
    "sheet": parts.Sheet,
    "checkpoint": parts.Checkpoint,
    "card": parts.Card,
    "output": parts.Output,
}
# What a training that goes on may change: none of it moves a weight, or it is checked elsewhere.
NEUTRAL = (
    "minutes", "device", "threads", "channels_last", "compile", "data.path", "data.cache",
    "data.workers", "log", "eval", "sheet", "checkpoint", "card", "output",
)  # fmt: skip
PATHS = ("data.path", "data.cache", "init", "output.folder")


def read_settings(config: Mapping[str, Any]) -> Settings:
    """Makes settings from nested dicts, as a YAML file gives them.

    Raises:
        ValueError: If a key is unknown or missing, or a value out of range.
    """
    _refuse_unknown(Settings, config, "")
    values = dict(config)
    for name, kind in SECTIONS.items():
        section = values.get(name, {})
        if not isinstance(section, Mapping):
            raise TrainingError(f"{name} must be a section of options, got {section!r}")
        _refuse_unknown(kind, section, f"{name}.")
        if name == "data" and "path" not in section:
            raise TrainingError("data.path must name a folder or a zip file of images")
        values[name] = kind(**section)
    return Settings(**values)


def public_settings(settings: Settings) -> dict[str, Any]:
    """Returns the settings as plain values; of paths the last name, since models get published."""
    plain = json.loads(json.dumps(asdict(settings)))
    for path in PATHS:
        section, _, name = path.rpartition(".")
        node = plain[section] if section else plain
        node[name] = node[name] and PurePath(node[name]).name
    return plain


def settings_name(settings: Settings) -> str:
    """Returns a folder's name for these settings: the same ones lead to the same folder."""
    text = json.dumps([asdict(settings)["data"]["path"], _deciding(public_settings(settings))])
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"train_{settings.objective}_{settings.data.size}_{digest}"


def difference(old: dict[str, Any], new: dict[str, Any]) -> str | None:
    """Returns the first deciding setting in which two starts differ; None if there is none."""
    before, after = _deciding(old), _deciding(new)
    for key in {**after, **before}:
        if before.get(key) != after.get(key):
            return f"{key} is {before.get(key)!r} there and {after.get(key)!r} now"
    return None


def _deciding(plain: dict[str, Any]) -> dict[str, Any]:
    # Here, since it comes with torch, and bad options are refused without that wait.
    from plugip.record.settings import leaves

    found = leaves(plain)
    return {k: v for k, v in found.items() if not any(_under(k, name) for name in NEUTRAL)}


def _under(key: str, name: str) -> bool:
    return key == name or key.startswith(f"{name}.")


def _refuse_unknown(kind: Any, given: Mapping[str, Any], where: str) -> None:
    known = [item.name for item in fields(kind)]
    for name in given:
        if name not in known:
            raise TrainingError(
                f"unknown option {where}{name}; there are {', '.join(known)}{nearest(name, known)}"
            )
