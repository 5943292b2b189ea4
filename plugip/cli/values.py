"""The root keys: each is checked before anything is built, as constructors' arguments are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

from plugip.arguments import misfit

PATHS = str | list[str] | None
KINDS: dict[str, Any] = {
    "rng_seed": int,
    "solver_seed": int | None,
    "device": str,
    "batch_size": int | None,
    "threads": int,
    "measurement": PATHS,
    "halt": bool,
    "debug": bool,
    "optimized_metric": str | None,
    "output.folder": str | None,
    "output.bits": int,
    "output.oracle": bool,
}
ROOT_KEYS = tuple(dict.fromkeys(key.partition(".")[0] for key in KINDS))
# Keys of plugip and plugip-train that take names, paths or prose.
TEXTS = (
    *("output.folder", "data.path", "data.cache", "measurement", "init", "optimized_metric"),
    *("prior.source", "prior.file", "prior.weights", "prior.prompt", "prior.negative_prompt"),
    *("card.title", "card.data", "card.licence", "card.attribution", "card.intended_use"),
    "card.limits",
)
MOST_THREADS = max(256, os.cpu_count() or 1)  # far more of them end the process without a word


def require_values(config: dict[str, Any]) -> None:
    """Refuses root keys that are missing or of the wrong kind, in one sentence that names them.

    Raises:
        ValueError: Naming the first one.
    """
    for key, kind in KINDS.items():
        head, _, tail = key.partition(".")
        node = config.get(head) if tail else config
        if not isinstance(node, dict):
            raise ValueError(f"{head} must have keys of its own, got {node!r}")
        if (tail or head) not in node:
            raise ValueError(
                f"{key} is missing; let your root config begin from plugip's `config`"
            )
        wrong = misfit(node.get(tail or head), kind)
        if wrong:
            raise ValueError(f"{key} {wrong}")
    threads = config["threads"]
    if threads < 1:
        raise ValueError(f"threads must be a whole number of at least 1, got {threads}")
    if threads > MOST_THREADS:
        raise ValueError(f"threads must be at most {MOST_THREADS} here, got {threads}")


def require_nodes(config: dict[str, Any]) -> None:
    """Refuses parts that are no nodes with a target.

    Raises:
        ValueError: Naming the first one.
    """
    needed = ("data", "operator", "noise", "prior", "method")
    for name in (*needed, "align", "stopping", "restarts"):
        node = config.get(name)
        if not node and name not in needed:
            continue
        if not isinstance(node, dict) or "_target_" not in node:
            raise ValueError(f"{name} must be a part, named by a _target_, got {node!r}")
    metrics = config.get("metrics")
    if not isinstance(metrics, dict):
        raise ValueError(f"metrics must be parts by name, got {metrics!r}")
    for name, node in metrics.items():
        if not isinstance(node, dict) or "_target_" not in node:
            raise ValueError(f"metrics.{name} must be a part, named by a _target_, got {node!r}")


def keep_texts(overrides: Sequence[str]) -> list[str]:
    """Quotes values that Hydra would read as numbers or switches where a key takes text.

    ``output.folder=2024_05_01`` would become the number 20240501.
    """
    return [_kept(word) for word in overrides]


def _kept(word: str) -> str:
    key, equals, value = word.partition("=")
    if not equals or key.lstrip("+") not in TEXTS:
        return word
    try:
        override = OverridesParser.create().parse_override(word)
    except HydraException:  # told later, with the words of all others
        return word
    if override.is_sweep_override() or not isinstance(override.value(), (bool, int, float)):
        return word
    return f"{key}={QuotedString(value, Quote.single).with_quotes()}"
