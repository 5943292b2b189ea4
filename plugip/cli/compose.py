"""Composing configs, and one clear block about those that do not compose."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ValueType
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, OmegaConf

from plugip.options import nearest

CONFIGS = "plugip.conf"


def compose_config(
    overrides: list[str], folder: str | None, name: str | None = None
) -> DictConfig:
    """Composes plugip's config; ``folder`` adds the user's own groups, as --config-dir does."""
    extra = [f"hydra.searchpath=[file://{Path(folder).resolve()}]"] if folder else []
    with initialize_config_module(CONFIGS, version_base="1.3"):
        return compose(name or "config", overrides=[*overrides, *extra])


def first_job(overrides: list[str]) -> list[str]:
    """Returns the overrides of a multirun's first job; what cannot be read is left to Hydra."""
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
    except OverrideParseException:
        return overrides
    words = []
    for word, override in zip(overrides, parsed, strict=True):
        if not override.is_sweep_override():
            words.append(word)
        elif override.value_type in (ValueType.CHOICE_SWEEP, ValueType.SIMPLE_CHOICE_SWEEP):
            words.append(f"{override.get_key_element()}={next(override.sweep_string_iterator())}")
    return words


def refuse_bad_config(overrides: list[str], folder: str | None, name: str | None) -> None:
    """Ends with one clear block if the config does not compose; Hydra's own words are longer."""
    if any(key_of(o) == "hydra.searchpath" for o in overrides) and folder:
        return
    if folder and not Path(folder).is_dir():
        _fail(f"--config-dir {folder} is not a folder")
    try:
        compose_config(overrides, folder, name)
    except MissingConfigException as error:
        _fail(_unknown_choice(error))
    except ConfigCompositionException as error:
        found = re.search(r"Could not override '([^']+)'", str(error))
        _fail(_unknownkey_of(found[1], overrides, folder, name) if found else _plain(error))
    except OverrideParseException as error:
        _fail(f"cannot read {error.override!r}: {_plain(error)}")
    except HydraException as error:
        _fail(_plain(error))
    except ValueError as error:
        _fail(str(error))


def _fail(text: str) -> None:
    print(f"plugip: {text}", file=sys.stderr)
    sys.exit(1)


def _unknown_choice(error: MissingConfigException) -> str:
    group, _, choice = str(error.missing_cfg_file).rpartition("/")
    if not error.options:
        return _plain(error)
    options = list(error.options)
    known = f"choose from {', '.join(options)}{nearest(choice, options)}"
    return f"{group} has no choice {choice!r}; {known}"


def _unknownkey_of(key: str, overrides: list[str], folder: str | None, name: str | None) -> str:
    """Names the nearest key, and what there is on the level where the key went wrong."""
    groups = _groups(folder, name)
    cfg = compose_config([o for o in overrides if key_of(o) in groups], folder, name)
    keys = _keys(OmegaConf.to_container(cfg))
    parent = key.rpartition(".")[0]
    while parent and parent not in keys:
        parent = parent.rpartition(".")[0]
    level = [k for k in keys if k.rpartition(".")[0] == parent and "_target_" not in k]
    near = nearest(key, level) or nearest(key, keys + groups)
    have = (
        f"{parent} has {', '.join(k.rpartition('.')[2] for k in level)}"
        if parent
        else (f"keys: {', '.join(level)}\ngroups: {', '.join(groups)}")
    )
    return f"unknown key {key!r}{near}\n{have}"


def _groups(folder: str | None, name: str | None) -> list[str]:
    """Returns the groups that a command's root config chooses from."""
    extra = [f"hydra.searchpath=[file://{Path(folder).resolve()}]"] if folder else []
    with initialize_config_module(CONFIGS, version_base="1.3"):
        cfg = compose(name or "config", overrides=extra, return_hydra_config=True)
    return sorted(g for g in cfg.hydra.runtime.choices if not g.startswith("hydra/"))


def _keys(node: Any, prefix: str = "") -> list[str]:
    if not isinstance(node, dict):
        return []
    names = {f"{prefix}.{name}" if prefix else str(name): value for name, value in node.items()}
    return [k for name, value in names.items() for k in (name, *_keys(value, name))]


def key_of(override: str) -> str:
    """Returns the key of a command-line override, without its value and signs."""
    return override.partition("=")[0].lstrip("+~").partition("@")[0]


def _plain(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if "hydra.cc" not in line]
    return "\n".join(
        line for line in lines if line and "provider=" not in line and "search path" not in line
    )
