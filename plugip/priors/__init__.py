"""Ready-made priors. Names load when first used; diffusers only when a network is loaded."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plugip.priors.declaration import Declaration as Declaration
    from plugip.priors.diffusers_unet import DiffusersUNet as DiffusersUNet
    from plugip.priors.embedded import faces64 as faces64
    from plugip.priors.gaussian import GaussianMixturePrior as GaussianMixturePrior
    from plugip.priors.gaussian import GaussianPrior as GaussianPrior
    from plugip.priors.probe import NetworkPrior as NetworkPrior
    from plugip.priors.probe import ProbeError as ProbeError
    from plugip.priors.weights import WeightsError as WeightsError

_HOMES = {
    "Declaration": "declaration",
    "DiffusersUNet": "diffusers_unet",
    "faces64": "embedded",
    "GaussianMixturePrior": "gaussian",
    "GaussianPrior": "gaussian",
    "NetworkPrior": "probe",
    "ProbeError": "probe",
    "WeightsError": "weights",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"plugip.priors.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'plugip.priors' has no {name!r}; it offers {', '.join(_HOMES)}")


def __dir__() -> list[str]:
    return list(_HOMES)
