"""The check of Hydra's own node: Hydra builds classes from it, before and around every job.

What a config says below ``hydra`` is compared, leaf by leaf, with what Hydra and its installed
plugins ship for the same choices. Few leaves may differ; what may run code never comes from a
config.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from plugip.cli.said import RefusedError, Said

# What plugip's own root configs say.
OURS: dict[str, tuple[Any, ...]] = {
    "job.name": ("plugip", "plugip-train"),
    "job.chdir": (False,),
    "output_subdir": (None,),
    "run.dir": (".",),
    "sweep.dir": (".",),
    "sweep.subdir": (".",),
}
# What Hydra fills in itself, after everything else.
FILLED = ("overrides", "runtime", "job.override_dirname", "job.config_name", "job.id", "job.num")
# Texts, names and numbers that do nothing but what they say: any config may set them.
FREE = ("mode", "verbose", "help", "searchpath", "sweeper.params", "sweeper.direction")
BUILT = ("sweeper", "launcher")  # Hydra builds classes from these; numbers and flags are free
# The command line itself may set these as well, with plain values.
SPOKEN = (
    *("job", "run", "sweep", "output_subdir", "verbose", "mode", "help", "sweeper", "launcher"),
    *("job_logging.root.level", "hydra_logging.root.level"),
)
ABSENT = "absent"


def require_harmless(cfg: DictConfig, said: Said) -> None:
    """Refuses a composed config whose ``hydra`` node could run code or write anywhere.

    Callbacks of trusted packages stay, with their interpolations filled in.

    Raises:
        RefusedError: Naming the first key that no config may set.
    """
    _settle_callbacks(cfg, said)
    ships = {key: value for key, value, _ in _leaves(_shipped(tuple(_choices(cfg))))}
    given = {key: (value, plain) for key, value, plain in _leaves(cfg.hydra)}
    for key in [*given, *(k for k in ships if k not in given)]:
        value, plain = given.get(key, (ABSENT, True))
        if value != ships.get(key, ABSENT) and not (plain and _allowed(key, value, said)):
            raise _refusal(key, value, said)


def _allowed(key: str, value: Any, said: Said) -> bool:
    if _below(key, ("callbacks", *FILLED)) or value in OURS.get(key, ()):
        return True
    if any(part.startswith("_") for part in key.split(".")):
        return False
    if _below(key, FREE) or (_below(key, BUILT) and not isinstance(value, (str, list))):
        return True
    return _below(key, SPOKEN) and said.sets(f"hydra.{key}")


def _refusal(key: str, value: Any, said: Said) -> RefusedError:
    if _below(key, SPOKEN) and not said.sets(f"hydra.{key}"):
        advice = "if you mean it, say it on the command line"
    else:
        advice = "choose what Hydra or an installed plugin of it ships"
    return RefusedError(
        f"hydra.{key} may not be set to {value!r}: Hydra acts on it before plugip does; {advice}"
    )


def _settle_callbacks(cfg: DictConfig, said: Said) -> None:
    """Refuses callbacks of packages that are not trusted; they run around every job."""
    if not cfg.hydra.callbacks:
        return
    try:
        callbacks = OmegaConf.to_container(cfg.hydra.callbacks, resolve=True)
    except OmegaConfBaseException as error:
        raise RefusedError(f"hydra.callbacks cannot be resolved: {error}") from error
    from plugip.building import BuildError, require_trusted

    try:
        require_trusted({"hydra": {"callbacks": callbacks}}, said.trusted, only=True)
    except BuildError as error:
        raise RefusedError(str(error)) from error
    cfg.hydra.callbacks = callbacks


def _choices(cfg: DictConfig) -> Iterator[str]:
    """Yields overrides that make Hydra's own choices again."""
    for group, choice in cfg.hydra.runtime.choices.items():
        if group.startswith("hydra/") and "@" not in group and group != "hydra/callbacks":
            yield f"{group}={'null' if choice is None else choice}"


@functools.cache
def _shipped(choices: tuple[str, ...]) -> DictConfig:
    """Composes Hydra's node without any folder of a user, from Hydra and installed plugins."""
    loader = ConfigLoaderImpl(create_config_search_path(None))
    try:
        cfg = loader.load_configuration(None, list(choices), RunMode.RUN)
    except HydraException as error:
        names = [c for c in choices if not c.endswith("=default")]
        raise RefusedError(
            f"{', '.join(names)}: only choices that Hydra or an installed plugin ships may be "
            "made below hydra/; others could run code"
        ) from error
    return cfg.hydra


def _below(key: str, names: tuple[str, ...]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)


def _leaves(node: DictConfig, prefix: str = "") -> Iterator[tuple[str, Any, bool]]:
    """Yields each leaf: its dotted key, its raw value, and whether it is one, or a list of some.

    A list is one leaf. Below the nodes that Hydra builds, an interpolation must lead to a value:
    it could lead to a node with a target.
    """
    for name in node:
        key, child = f"{prefix}.{name}" if prefix else str(name), node._get_node(name)
        if isinstance(child, DictConfig) and not child._is_interpolation() and child:
            yield from _leaves(child, key)
        else:
            raw = OmegaConf.to_container(node, resolve=False)[name]  # type: ignore[index]
            yield key, raw, not _below(key, BUILT) or _is_plain(node, name)


def _is_plain(node: DictConfig, name: Any) -> bool:
    try:
        value = OmegaConf.to_container(OmegaConf.create({"value": node[name]}), resolve=True)
    except (OmegaConfBaseException, KeyError):
        return False
    value = value["value"]  # type: ignore[index]
    parts = value if isinstance(value, list) else [value]
    return not any(isinstance(part, (dict, list)) and part for part in parts)
