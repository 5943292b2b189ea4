"""plugip solves inverse problems y = A(x) + n with a pretrained generative model as the prior."""

from __future__ import annotations

import importlib
import pathlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Fallback for checkouts that lost the links plugip/operators and plugip/conf (see
# CONTRIBUTING.md).
_here = pathlib.Path(__file__).resolve().parent
if not (_here / "conf").is_dir() and (_here.parent / "conf" / "config.yaml").is_file():
    __path__.append(str(_here.parent))

if TYPE_CHECKING:
    from plugip.building import build as build
    from plugip.loop import solve as solve
    from plugip.method import Info as Info
    from plugip.method import Method as Method
    from plugip.method import Solution as Solution
    from plugip.noise import GaussianNoise as GaussianNoise
    from plugip.noise import UnknownNoise as UnknownNoise
    from plugip.problem import Problem as Problem
    from plugip.problem import measure as measure
    from plugip.rng import Rng as Rng

_HOMES = {
    "build": "building",
    "solve": "loop",
    "Info": "method",
    "Method": "method",
    "Solution": "method",
    "GaussianNoise": "noise",
    "UnknownNoise": "noise",
    "Problem": "problem",
    "measure": "problem",
    "Rng": "rng",
}


def __getattr__(name: str) -> Any:
    # Names are loaded when first used, so that `plugip --help` does not wait for torch.
    if name in _HOMES:
        return getattr(importlib.import_module(f"plugip.{_HOMES[name]}"), name)
    raise AttributeError(
        f"module 'plugip' has no attribute {name!r}; it offers {', '.join(_HOMES)}"
    )


def __dir__() -> list[str]:
    return [*_HOMES, "__version__"]
