"""The configs of priors as Hydra composes them, with the defaults that they name."""

from __future__ import annotations

import functools
from typing import Any

from omegaconf import OmegaConf

from plugip.cli.compose import compose_config


def prior_config(name: str) -> Any:
    """Returns the config of ``prior=name``; mandatory values are left open."""
    return OmegaConf.create(_composed(name))


@functools.cache
def _composed(name: str) -> Any:
    return OmegaConf.to_container(compose_config([f"prior={name}"], None).prior)
