"""What the user says outside of any config: on the command line, or in the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

TRUSTED = "PLUGIP_TRUSTED"
_PACKAGE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


class RefusedError(HydraException):
    """Says in one sentence why a config is not used, and what to do."""


@dataclass(frozen=True)
class Said:
    """The user's own words.

    Attributes:
        keys: Dotted keys that the command line sets.
        trusted: Packages that it, or the environment, trusts. No config can add one.
    """

    keys: frozenset[str]
    trusted: tuple[str, ...]

    def sets(self, key: str) -> bool:
        """Tells whether the command line sets this key, or a node that holds it."""
        return any(key == said or key.startswith(f"{said}.") for said in self.keys)

    def trusts(self, target: str) -> bool:
        """Tells whether a dotted name lies in a trusted package."""
        return any(target == name or target.startswith(f"{name}.") for name in self.trusted)


def said_by(overrides: Sequence[str]) -> Said:
    """Reads the command line's overrides.

    Raises:
        OverrideParseException: If one of them cannot be read.
        RefusedError: If ``trusted`` holds anything but names of packages.
    """
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    keys = frozenset(o.key_or_group for o in parsed if "/" not in o.key_or_group)
    named = [_packages(o) for o in parsed if o.key_or_group == "trusted" and not o.is_delete()]
    environment = [name.strip() for name in os.environ.get(TRUSTED, "").split(",")]
    packages = [*(named[-1] if named else []), *filter(None, environment)]
    for package in packages:
        if not isinstance(package, str) or not _PACKAGE.fullmatch(package):
            raise RefusedError(
                f"trusted must be a list of package names, got {package!r}; say trusted=[mylab]"
            )
    return Said(keys, tuple(dict.fromkeys(packages)))


def key_of(override: str) -> str:
    """Returns the key of a command-line override, without its value and signs."""
    return override.partition("=")[0].lstrip("+~").partition("@")[0]


def _packages(override: Override) -> list[Any]:
    value = None if override.is_sweep_override() else override.value()
    if value is None:
        raise RefusedError(
            f"trusted must be a list of package names, got {override.input_line!r}; "
            "say trusted=[mylab], or trusted=[] for none"
        )
    return list(value) if isinstance(value, list) else [value]
