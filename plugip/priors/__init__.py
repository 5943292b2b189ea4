"""Ready-made priors. Names load when first used; diffusers only when a network is loaded."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plugip.priors.adm import load_adm as load_adm
    from plugip.priors.consistency import ConsistencyPrior as ConsistencyPrior
    from plugip.priors.declaration import Declaration as Declaration
    from plugip.priors.density import DensityPrior as DensityPrior
    from plugip.priors.diffusers_unet import DiffusersUNet as DiffusersUNet
    from plugip.priors.edm import EDMPrior as EDMPrior
    from plugip.priors.embedded import faces64 as faces64
    from plugip.priors.flux import Flux as Flux
    from plugip.priors.gaussian import GaussianPrior as GaussianPrior
    from plugip.priors.gaussian_posterior import GaussianPosterior as GaussianPosterior
    from plugip.priors.generator import GeneratorPrior as GeneratorPrior
    from plugip.priors.ldm import LatentDiffusion as LatentDiffusion
    from plugip.priors.low_rank import LowRankGaussian as LowRankGaussian
    from plugip.priors.mixture import GaussianMixturePrior as GaussianMixturePrior
    from plugip.priors.mixture import MixturePrior as MixturePrior
    from plugip.priors.probe import NetworkPrior as NetworkPrior
    from plugip.priors.probe import ProbeError as ProbeError
    from plugip.priors.runtime import Runtime as Runtime
    from plugip.priors.sd3 import StableDiffusion3 as StableDiffusion3
    from plugip.priors.stable_diffusion import StableDiffusion as StableDiffusion
    from plugip.priors.tensors import load_weights as load_weights
    from plugip.priors.untrained import Untrained as Untrained
    from plugip.priors.velocity import VelocityPrior as VelocityPrior
    from plugip.priors.weights import WeightsError as WeightsError

_HOMES = {
    "ConsistencyPrior": "consistency",
    "Declaration": "declaration",
    "DensityPrior": "density",
    "DiffusersUNet": "diffusers_unet",
    "EDMPrior": "edm",
    "faces64": "embedded",
    "Flux": "flux",
    "GaussianMixturePrior": "mixture",
    "GaussianPosterior": "gaussian_posterior",
    "GaussianPrior": "gaussian",
    "load_adm": "adm",
    "GeneratorPrior": "generator",
    "LatentDiffusion": "ldm",
    "load_weights": "tensors",
    "LowRankGaussian": "low_rank",
    "MixturePrior": "mixture",
    "NetworkPrior": "probe",
    "ProbeError": "probe",
    "StableDiffusion": "stable_diffusion",
    "StableDiffusion3": "sd3",
    "Runtime": "runtime",
    "Untrained": "untrained",
    "VelocityPrior": "velocity",
    "WeightsError": "weights",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"plugip.priors.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'plugip.priors' has no {name!r}; it offers {', '.join(_HOMES)}")


def __dir__() -> list[str]:
    return list(_HOMES)
