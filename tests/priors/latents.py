"""Small random networks of latent priors, saved as diffusers' folders, and what tests share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from plugip.building import build
from plugip.reverse import reverse
from plugip.testing.report import directional

CONF = Path(__file__).resolve().parents[2] / "conf" / "prior"


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Reproducible Gaussian numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def made(kind: Any, seed: int = 0, **config: Any) -> Any:
    """Returns a small network of a class of diffusers, reproducible, in eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind(**config).eval()


def kl(latent_channels: int = 4, **changes: Any) -> Any:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    config: dict[str, Any] = {
        "block_out_channels": (4, 8),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "latent_channels": latent_channels,
        "norm_num_groups": 2,
        "sample_size": 16,
    }
    return made(AutoencoderKL, seed=3, **(config | changes))


def tiny(latent_channels: int = 4, **changes: Any) -> Any:
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

    config: dict[str, Any] = {
        "encoder_block_out_channels": (4, 4),
        "decoder_block_out_channels": (4, 4),
        "num_encoder_blocks": (1, 1),
        "num_decoder_blocks": (1, 1),
        "latent_channels": latent_channels,
    }
    return made(AutoencoderTiny, seed=4, **(config | changes))


def vq(**changes: Any) -> Any:
    from diffusers.models.autoencoders.vq_model import VQModel

    config: dict[str, Any] = {
        "block_out_channels": (4, 8),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "latent_channels": 3,
        "norm_num_groups": 2,
        "num_vq_embeddings": 16,
        "scaling_factor": 0.7,
    }
    return made(VQModel, seed=5, **(config | changes))


def ddim(**config: Any) -> Any:
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    given: dict[str, Any] = {"clip_sample": False}
    return DDIMScheduler(**(given | config))


def flow_euler(**config: Any) -> Any:
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
        FlowMatchEulerDiscreteScheduler,
    )

    given: dict[str, Any] = {"shift": 3.0}
    return FlowMatchEulerDiscreteScheduler(**(given | config))


def configured(name: str, folder: Path | str, **changes: Any) -> Any:
    """Builds a prior from its YAML; no probe, since the weights are random."""
    given: dict[str, Any] = {"source": str(folder), "probe": False}
    return build(OmegaConf.merge(config_of(name), given | changes))


def config_of(name: str) -> Any:
    """Returns a prior's YAML with its one default, the runtime, as Hydra composes it."""
    config: Any = OmegaConf.load(CONF / f"{name}.yaml")
    (choice, _) = config.pop("defaults")
    config["runtime"] = OmegaConf.load(CONF / "runtime" / f"{choice.runtime}.yaml")
    return config


def config_keys(name: str) -> set[str]:
    return {str(key) for key in config_of(name)} - {"_target_"}


def name_pipeline(folder: Path, name: str) -> None:
    (folder / "model_index.json").write_text(json.dumps({"_class_name": name}))


def close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> None:
    """Compares two tensors relative to the larger one's size."""
    gap, size = float((a - b).detach().abs().max()), float(b.detach().abs().max())
    assert a.shape == b.shape
    assert gap <= tolerance * size, f"gap {gap:.1e}, size {size:.1e}"


def check_gradient(prior: Any, times: Tensor, step: float = 1e-5) -> None:
    """Compares the gradient of decoded images in the seed with a finite difference, in float64.

    Networks that pass through float32 inside need a larger step.
    """
    p, z = prior.double(), normal(1, *prior.shape, seed=8).double()
    w = normal(1, *prior.image_shape, seed=9).double()

    def scalar(seed: Tensor) -> Tensor:
        return (p.decode(reverse(p, seed, times)) * w).sum()

    leaf = z.clone().requires_grad_()
    (grad,) = torch.autograd.grad(scalar(leaf), leaf)
    assert bool(torch.isfinite(grad).all())
    assert float(grad.abs().max()) > 0
    ok, detail = directional(scalar, z, grad, step)
    assert ok, detail
