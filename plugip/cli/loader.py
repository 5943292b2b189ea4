"""Hydra's config loader behind a guard: what it returns was checked, for every job anew.

Hydra acts on a config in many places: logging, callbacks, launchers, sweepers, environment
variables. All of them read what this loader composes, also in the workers of a launcher.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from plugip.cli.nodes import require_harmless
from plugip.cli.said import TRUSTED, RefusedError, Said
from plugip.cli.task import name_choices, settle_task

CONFIGS = "plugip.conf"


class GuardedLoader(ConfigLoaderImpl):
    """Composes configs of plugip and of a user's folder, and returns only harmless ones.

    Args:
        folder: The user's own config folder, or None.
        said: What the command line itself says.
    """

    def __init__(self, folder: str | None, said: Said) -> None:
        version.setbase("1.3")
        super().__init__(search_path(folder))
        self.said = said

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """Composes a config, and refuses one that could run code or sign for itself.

        Raises:
            HydraException: If it does not compose, or is refused.
        """
        cfg = self._composed(
            config_name, overrides, run_mode, from_shell, validate_sweep_overrides
        )
        if "operator" in cfg and "task" in cfg.hydra.runtime.choices:
            settle_task(cfg, overrides, lambda words: self._composed(config_name, words, run_mode))
            name_choices(cfg, self.repository.load_config)
        _require_no_hidden_words(cfg, overrides)
        require_harmless(cfg, self.said)
        self._sign(cfg)
        return cfg

    def _composed(self, name: str | None, overrides: list[str], *rest: Any) -> DictConfig:
        """Composes a config that is not checked yet."""
        try:
            return super().load_configuration(name, overrides, *rest)
        except KeyError as error:
            raise RefusedError(
                f"hydra.job.env_copy names {error}, which is not in the environment"
            ) from error
        except (YAMLError, ValueError, RecursionError) as error:
            nulls = [word for word in overrides if word.endswith("=null")]
            reason = " ".join([*str(error).split(), *nulls])
            raise RefusedError(f"a config cannot be read: {reason}") from error

    def _sign(self, cfg: DictConfig) -> None:
        """Replaces ``trusted`` by what the user said; a config that says more is refused."""
        if "trusted" not in cfg:
            return
        for name in _as_list(cfg):
            if name not in self.said.trusted:
                raise RefusedError(
                    f"trusted names {name!r} in a config, but only you may: on the command line, "
                    f"trusted=[{name}], or in the environment, {TRUSTED}={name}"
                )
        cfg.trusted = list(self.said.trusted)

    def _process_config_searchpath(
        self,
        config_name: str | None,
        parsed_overrides: list[Override],
        repo: CachingConfigRepository,
    ) -> None:
        for path in _search_words(config_name, parsed_overrides, repo):
            self._require_safe_path(str(path))
        super()._process_config_searchpath(config_name, parsed_overrides, repo)

    def _require_safe_path(self, path: str) -> None:
        """Refuses to look for configs in a package, which imports it, unless it is trusted."""
        scheme, separator, place = path.partition("://")
        package = place.replace("/", ".").strip(".")
        ours = package == CONFIGS or package.startswith(f"{CONFIGS}.")
        if not separator or scheme == "file":
            return
        if scheme != "pkg" or not (ours or self.said.trusts(package)):
            raise RefusedError(
                f"hydra.searchpath names {path!r}, and looking there could run code; give a "
                f"folder, file://..., or say trusted=[{package.partition('.')[0]}] if you trust it"
            )


def search_path(folder: str | None) -> ConfigSearchPath:
    """Returns where configs are looked for: Hydra, plugip, then the user's folder."""
    path = create_config_search_path(f"pkg://{CONFIGS}")
    if folder is not None:
        place = f"file://{Path(os.path.abspath(folder))}"
        path.prepend("command-line", place, SearchPathQuery(provider="schema", path=None))
    return path


def _search_words(
    config_name: str | None, overrides: Sequence[Override], repo: CachingConfigRepository
) -> list[Any]:
    """Returns all places that the command line and the root config add to the search path."""
    loaded = repo.load_config(config_path=config_name) if config_name is not None else None
    found: list[Any] = [o.value() for o in overrides if o.get_key_element() == "hydra.searchpath"]
    if loaded is not None and OmegaConf.is_dict(loaded.config):
        try:
            found.append(OmegaConf.select(loaded.config, "hydra.searchpath"))
        except OmegaConfBaseException as error:
            raise RefusedError(f"hydra.searchpath cannot be read: {error}") from error
    lists = [places for places in found if OmegaConf.is_list(places) or isinstance(places, list)]
    return [place for places in lists for place in places]


def _require_no_hidden_words(cfg: DictConfig, overrides: Sequence[str]) -> None:
    # Hydra adds to these lists, and makes the jobs of a grid from them.
    if len(cfg.hydra.overrides.hydra) + len(cfg.hydra.overrides.task) != len(overrides):
        raise RefusedError("hydra.overrides may not be set by a config; use the command line")


def _as_list(cfg: DictConfig) -> list[Any]:
    try:
        found = OmegaConf.to_container(OmegaConf.create({"a": cfg.trusted}), resolve=True)
    except OmegaConfBaseException as error:
        raise RefusedError(f"trusted cannot be read: {error}") from error
    names = found["a"]  # type: ignore[index]
    if not isinstance(names, (str, list)):
        raise RefusedError(
            f"trusted must be a list of package names, got {names!r}; say trusted=[mylab]"
        )
    return names if isinstance(names, list) else [names]
