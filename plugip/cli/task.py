"""What a task says holds for its own operator only: with another one the run is not that task."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig, OmegaConf

from plugip.cli.said import key_of

Compose = Callable[[list[str]], DictConfig]


def settle_task(cfg: DictConfig, overrides: list[str], compose: Compose) -> None:
    """Withdraws what the task advises if something replaces its operator.

    Hints and alignment return to what they are without the task, and so does the operator where
    another is chosen by name: the task's changes are for its own. The choice of a task becomes
    null.

    Args:
        cfg: A composed config with its ``hydra`` node; it is changed.
        overrides: What it was composed with.
        compose: Composes from other overrides.
    """
    choices = cfg.hydra.runtime.choices
    if not choices.get("task") or not _may_differ(cfg, overrides):
        return
    alone = compose([f"task={choices.task}"])
    chosen = choices.get("operator") != alone.hydra.runtime.choices.get("operator")
    if not chosen and _targets(cfg.operator) == _targets(alone.operator):
        return
    bare = compose([*(o for o in overrides if key_of(o) != "task"), "~task"])
    for key in ("hints", "align", *(["operator"] if chosen else [])):
        cfg[key] = bare._get_node(key)
    choices.task = None


def name_choices(cfg: DictConfig, load: Callable[[str], Any]) -> None:
    """Replaces the choice of an operator or a method that is not what runs by its class.

    Args:
        cfg: A composed config with its ``hydra`` node; its choices are changed.
        load: Reads one config of a group, ``operator/denoise``, as it stands in its file.
    """
    choices = cfg.hydra.runtime.choices
    for group in ("operator", "method"):
        choice, runs = choices.get(group), _targets(cfg.get(group))[:1]
        file = load(f"{group}/{choice}") if choice else None
        stands = [] if file is None else _targets(file.config)[:1]
        if runs and (not choice or (stands and stands != runs)):
            choices[group] = _snake(str(runs[0]).rpartition(".")[2])


def _may_differ(cfg: DictConfig, overrides: list[str]) -> bool:
    """Tells whether anything but the task can have touched the operator; composing takes time."""
    heads = [key_of(o).split(".")[0] for o in overrides]
    added = any(o.startswith("+") for o in overrides)  # a group of the user's own
    named = cfg.hydra.job.config_name != "config"
    return named or added or "operator" in heads or "experiment" in heads


def _targets(node: Any) -> list[Any]:
    """Returns all targets of a node, its own first."""
    plain = OmegaConf.to_container(node, resolve=False) if OmegaConf.is_config(node) else node
    if isinstance(plain, dict):
        own = [plain["_target_"]] if "_target_" in plain else []
        return own + [t for value in plain.values() for t in _targets(value)]
    return [t for value in plain for t in _targets(value)] if isinstance(plain, list) else []


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
