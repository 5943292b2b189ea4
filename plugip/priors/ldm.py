"""Latent diffusion without text: a ``UNet2DModel`` on the latents of a VQ or KL autoencoder."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from plugip.path import Path, Prediction
from plugip.priors.autoencoder import Autoencoder, load_autoencoder
from plugip.priors.declaration import declare, reads_variance
from plugip.priors.diffusers_unet import learns_variance, unet_shape
from plugip.priors.latent import LatentPrior, unet_time
from plugip.priors.probe import probe as run_probe
from plugip.priors.runtime import Runtime
from plugip.priors.weights import find_folder, load_unet, require_pipeline

AUTOENCODERS = ("vqvae", "vae")


class LatentDiffusion(LatentPrior):
    """Serves an unconditional latent diffusion model as a prior; the weights are frozen.

    Which public checkpoints fit: those of diffusers' ``LDMPipeline``, such as
    ``CompVis/ldm-celebahq-256`` (VQ latents 3 x 64 x 64).

    Args:
        network: The ``UNet2DModel``; its config gives channels and size of the latents.
        autoencoder: The autoencoder of its latents.
        path: Noise path that it was trained on.
        prediction: What its output means.
        time_scale: Factor from t to the time input; unused on a ``DiscretePath``.

    Raises:
        ValueError: If the network is class-conditional, its config lacks the size, or its
            channels do not fit.
    """

    def __init__(
        self,
        network: nn.Module,
        autoencoder: Autoencoder,
        path: Path,
        prediction: Prediction,
        time_scale: float = 1000.0,
    ) -> None:
        channels, height, width = unet_shape(network, 1)
        super().__init__(network, autoencoder, path, prediction, (channels, height, width))
        self.time_scale, self.learns_variance = float(time_scale), learns_variance(network)

    @classmethod
    def from_pretrained(
        cls,
        source: str,
        autoencoder: str | None = None,
        quantise: bool = False,
        scaling_factor: float | None = None,
        probe: bool = True,
        runtime: Runtime | None = None,
    ) -> Self:
        """Loads a pipeline's folder, from the disk or else from the hub, in float32.

        Prediction and path are read from the scheduler's config, or from ``plugip_prior.json``.

        Args:
            source: A folder with ``unet/``, ``scheduler/`` and ``vqvae/`` or ``vae/``, or a hub
                id such as ``CompVis/ldm-celebahq-256``.
            autoencoder: Folder or hub id of another autoencoder of the same latents.
            quantise: Whether the decoder takes the nearest entries of its codebook, as
                diffusers' pipeline does; gradients are then approximate.
            scaling_factor: The scale of the latents, where the autoencoder's config lacks it.
            probe: Whether to check that the network denoises the latents of a known picture.
            runtime: How the network is run; as it is by default.

        Returns:
            The prior, on the CPU.

        Raises:
            WeightsError: If a file is missing or not what its name says.
            ValueError: If the settings are incomplete, or the parts do not fit each other.
            ProbeError: If the network does not denoise.
        """
        folder = find_folder(str(source), ("unet", "vqvae"))
        require_pipeline(folder, "ldm")
        declared = declare(folder, {})
        around = load_autoencoder(folder, AUTOENCODERS, autoencoder, quantise, scaling_factor)
        network, path = load_unet(folder), declared.path
        prior = cls(network, around, path, declared.prediction, declared.time_scale)
        prior.learns_variance &= reads_variance(folder)
        if probe:
            run_probe(prior)
        return prior.equip(runtime)

    def output(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self.answer(x_t, t)[:, : self.shape[0]]

    def answer(self, x_t: Tensor, t: Tensor) -> Tensor:
        times = unet_time(self.path, self.time_scale, t).to(x_t.device, torch.float32)
        return self.ask(x_t, {"timestep": times.expand(len(x_t))})
