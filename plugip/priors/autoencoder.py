"""Autoencoders: from images to the latents that a network was trained on, and back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from plugip.priors.declaration import read_json
from plugip.priors.tensors import WeightsError
from plugip.priors.weights import find_folder, load_model

KINDS = ("AutoencoderKL", "AutoencoderTiny", "VQModel")


class Autoencoder(nn.Module):
    r"""Encodes images to latents of about unit variance, h = (l - shift) scale, and decodes them.

    Both ways are deterministic and differentiable: the encoder gives the mean of its distribution,
    and a codebook is left out unless it is asked for. l are the network's own latents; scale and
    shift are read from its config.

    Args:
        network: ``AutoencoderKL``, ``AutoencoderTiny`` or ``VQModel`` of diffusers.
        quantise: Whether a ``VQModel`` decodes the nearest entries of its codebook, as diffusers'
            pipelines do. The image is then piecewise constant in h, and its gradient is that of
            the entries themselves.
        scaling_factor: The scale, where the config does not know it.

    Attributes:
        channels: Channels of a latent.
        image_channels: Channels of an image.
        factor: Pixels per latent along one axis.

    Raises:
        ValueError: If the network normalises its latents in a way that is not known here.

    Source: Rombach et al. 2022 (latent diffusion).
    """

    def __init__(
        self, network: nn.Module, quantise: bool = False, scaling_factor: float | None = None
    ) -> None:
        super().__init__()
        self.network, self.quantise = network, quantise
        config: Any = network.config
        self._vector = hasattr(network, "quantize")
        _require_known(config, self._vector, quantise)
        scale = config.scaling_factor if scaling_factor is None else scaling_factor
        self.scale, self.shift = float(scale), float(getattr(config, "shift_factor", None) or 0)
        self.channels = _channels(config, self._vector)
        self.eval().requires_grad_(False)
        self.image_channels, self.factor = self._measure()

    def decode(self, h: Tensor) -> Tensor:
        """Maps latents to images in [-1, 1], (B, c, H / f, W / f) -> (B, C, H, W)."""
        latent: Any = (h / self.scale + self.shift).to(self._dtype)
        decode: Any = self.network.decode
        if self._vector:
            made = decode(latent, force_not_quantize=not self.quantise, return_dict=False)
        else:
            made = decode(latent, return_dict=False)
        return made[0].to(h.dtype)

    def encode(self, x: Tensor) -> Tensor:
        """Maps images in [-1, 1] to latents, (B, C, H, W) -> (B, c, H / f, W / f)."""
        encode: Any = self.network.encode
        made = encode(x.to(self._dtype), return_dict=False)[0]
        latent = made if isinstance(made, Tensor) else made.mode()
        return (latent.to(x.dtype) - self.shift) * self.scale

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.network.parameters()).dtype

    @torch.no_grad()
    def _measure(self) -> tuple[int, int]:
        image = self.decode(torch.zeros(1, self.channels, 4, 4))
        return image.shape[1], image.shape[2] // 4


def _require_known(config: Any, vector: bool, quantise: bool) -> None:
    if quantise and not vector:
        raise ValueError("quantise=True needs a VQModel; this autoencoder has no codebook")
    for name in ("latents_mean", "latents_std", "lookup_from_codebook"):
        if getattr(config, name, None):
            raise ValueError(
                f"the autoencoder's config sets {name}, which plugip does not apply; its latents "
                "would be read wrongly"
            )


def _channels(config: Any, vector: bool) -> int:
    codes = config.vq_embed_dim if vector else None
    return int(config.latent_channels if codes is None else codes)


def load_autoencoder(
    folder: Path,
    parts: Sequence[str] = ("vae",),
    instead: str | None = None,
    quantise: bool = False,
    scaling_factor: float | None = None,
) -> Autoencoder:
    """Reads the autoencoder of a pipeline in float32, or another one that shares its latents.

    Args:
        folder: The pipeline's folder.
        parts: Its sub-folders that may hold the autoencoder.
        instead: Folder or hub id of another one, such as ``madebyollin/taesd``, whose decoder is
            many times cheaper; with its own scale and shift.
        quantise: Whether a ``VQModel`` decodes entries of its codebook.
        scaling_factor: The scale, where the config does not know it.

    Raises:
        WeightsError: If a file is missing, is no weights file, or does not fit its config.
        ValueError: If the scale of the latents is declared nowhere.
    """
    folder = folder if instead is None else find_folder(str(instead), parts)
    homes = [folder / part for part in parts if (folder / part / "config.json").is_file()]
    if instead is not None and (folder / "config.json").is_file():
        homes = [folder]
    if not homes:
        raise WeightsError(
            f"{folder.absolute()} has no {' or '.join(f'{part}/config.json' for part in parts)}, "
            "the autoencoder; download the whole pipeline, or give another one, autoencoder=..."
        )
    network = load_model(homes[0], "", KINDS)
    if scaling_factor is None and type(network).__name__ == "VQModel":
        _require_scale(homes[0] / "config.json")
    return Autoencoder(network, quantise, scaling_factor)


def _require_scale(config: Path) -> None:
    # diffusers fills the gap with Stable Diffusion's 0.18215; VQ models came with other scales.
    if "scaling_factor" not in read_json(config):
        raise ValueError(
            f"{config} does not say by what its latents are scaled; give scaling_factor=..., "
            "1 for latents that the diffusion was trained on as they are"
        )
