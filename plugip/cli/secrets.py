"""What came from the environment is not written down: a config may hold a token."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from omegaconf import Container, DictConfig, OmegaConf
from omegaconf.resolvers import oc

READER = "oc.env"


def without_secrets(cfg: DictConfig, config: dict[str, Any]) -> dict[str, Any]:
    """Returns a resolved config to be written, values from the environment left out.

    Their place holds the interpolation as it was written, and a digest, so that a change of the
    value is still another setting. A path that exists is no secret, and stays.

    Args:
        cfg: The config as composed.
        config: The same, resolved.
    """
    with _watched() as read:
        return _redacted(cfg, config, read)


def _redacted(raw: Any, value: Any, read: list[str]) -> Any:
    if not isinstance(raw, Container) or raw._is_none() or raw._is_interpolation():
        return value
    if isinstance(raw, DictConfig):
        return {key: _leaf(raw, key, value[key], read) for key in value}
    return [_leaf(raw, i, value[i], read) for i in range(len(value))]


def _leaf(node: Container, key: Any, value: Any, read: list[str]) -> Any:
    raw: Any = node._get_node(key)
    if not raw._is_interpolation():
        return _redacted(raw, value, read)
    read.clear()
    found = node[key]
    if isinstance(found, Container):
        OmegaConf.to_container(found, resolve=True)
    if not read or (isinstance(value, str) and value and os.path.exists(value)):
        return value
    digest = hashlib.sha256(repr(value).encode()).hexdigest()[:8]
    return f"{raw._value()} (sha256 {digest})"


@contextmanager
def _watched() -> Iterator[list[str]]:
    """Notes each variable of the environment that a config reads meanwhile."""
    read: list[str] = []

    def reader(key: str, *default: Any) -> Any:
        read.append(key)
        return oc.env(key, *default)

    OmegaConf.register_new_resolver(READER, reader, replace=True)
    try:
        yield read
    finally:
        OmegaConf.register_new_resolver(READER, oc.env, replace=True)
