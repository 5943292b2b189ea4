"""Composing configs, and one clear block about those that do not compose."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, NoReturn

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ValueType
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from plugip.cli.loader import CONFIGS, GuardedLoader
from plugip.cli.said import key_of, said_by
from plugip.options import nearest
from plugip.terminal import say


def compose_config(
    overrides: list[str], folder: str | None, name: str | None = None
) -> DictConfig:
    """Composes plugip's config; ``folder`` adds the user's own groups, as --config-dir does."""
    loader = GuardedLoader(folder, said_by(overrides))
    cfg = loader.load_configuration(name or "config", overrides, RunMode.RUN)
    with open_dict(cfg):
        del cfg["hydra"]
    return cfg


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


def fail(command: str, text: str) -> NoReturn:
    """Ends the command with one block of words."""
    say(f"{command}: {text}", sys.stderr)
    sys.exit(1)


def require_folder(command: str, folder: str | None) -> None:
    """Ends if a config folder is missing, or holds a file that plugip's own would hide."""
    if folder is None:
        return
    if not Path(folder).is_dir():
        fail(command, f"--config-dir {folder} is not a folder")
    shipped = Path(str(files(CONFIGS)))
    for file in sorted(shipped.rglob("*.yaml")):
        name = file.relative_to(shipped)
        own = Path(folder) / name
        if own.is_file() and own.read_bytes() != file.read_bytes():
            record = (own.parent / "provenance.json").is_file()
            advice = (
                "it is the record of a run, which the command in provenance.json runs again"
                if record
                else "give it another name"
            )
            fail(command, f"{own} would be hidden by plugip's own {name.as_posix()}; {advice}")


@contextmanager
def explain(
    command: str, overrides: list[str], loader: ConfigLoader | None, name: str | None
) -> Iterator[None]:
    """Ends with one clear block if a config does not compose; Hydra's own words are longer."""
    try:
        yield
    except MissingConfigException as error:
        fail(command, _unknown_choice(error))
    except OverrideParseException as error:
        fail(command, _unreadable(error))
    except ConfigCompositionException as error:
        found = re.search(r"Could not override '([^']+)'", str(error))
        if found is None or loader is None:
            fail(command, _plain(error))
        try:
            advice = _unknown_key(found[1], overrides, loader, name)
        except HydraException as worse:  # what stands in the configs is refused first
            fail(command, _plain(worse))
        fail(command, advice)
    except HydraException as error:
        fail(command, _plain(error))


def _unknown_choice(error: MissingConfigException) -> str:
    group, _, choice = str(error.missing_cfg_file).rpartition("/")
    if not error.options:
        return _plain(error)
    options = list(error.options)
    known = f"choose from {', '.join(options)}{nearest(choice, options)}"
    return f"{group} has no choice {choice!r}; {known}"


def _unreadable(error: OverrideParseException) -> str:
    """Says which word cannot be read, and shows it as it can be."""
    word = error.override
    key, equals, value = word.partition("=")
    if not equals:
        return f"cannot read {word!r}: it has no =; quote a value that holds spaces"
    better = next((w for w in _quoted(key, value) if _reads_as(w, value)), None)
    if better is None:
        return f"cannot read {word!r}: {' '.join(_plain(error).split())}"
    return f"cannot read {word!r}; quote the value: {shlex.quote(better)}"


def _quoted(key: str, value: str) -> Iterator[str]:
    for text in (value, value.replace("${", "\\${")):
        yield f"{key}='{text}'"
        yield f'{key}="{text}"'
        yield "{}='{}'".format(key, text.replace("'", "\\'"))


def _reads_as(word: str, value: str) -> bool:
    try:
        override = OverridesParser.create().parse_override(word)
        return OmegaConf.create({"a": override.value()})["a"] == value
    except Exception:  # Hydra and OmegaConf raise many kinds; each means no
        return False


def _unknown_key(key: str, overrides: list[str], loader: ConfigLoader, name: str | None) -> str:
    """Names the nearest key, and what there is on the level where the key went wrong."""
    cfg = loader.load_configuration(name, [], RunMode.RUN)
    groups = sorted(g for g in cfg.hydra.runtime.choices if not g.startswith("hydra/"))
    words = [o for o in overrides if key_of(o) in groups]
    cfg = loader.load_configuration(name, words, RunMode.RUN)
    keys = [k for k in _keys(OmegaConf.to_container(cfg)) if k.split(".")[0] != "hydra"]
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


def _keys(node: Any, prefix: str = "") -> list[str]:
    if not isinstance(node, dict):
        return []
    names = {f"{prefix}.{name}" if prefix else str(name): value for name, value in node.items()}
    return [k for name, value in names.items() for k in (name, *_keys(value, name))]


def _plain(error: Exception) -> str:
    if "Config group override must be a string or a list. Got NoneType" in str(error):
        return (
            "a group takes the name of a choice, not null; --help lists them, and stopping=none "
            "and restarts=none switch these off"
        )
    lines = [line.strip() for line in str(error).splitlines() if "hydra.cc" not in line]
    return "\n".join(
        line for line in lines if line and "provider=" not in line and "search path" not in line
    )
