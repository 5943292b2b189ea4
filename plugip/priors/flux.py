"""Flux: a ``FluxTransformer2DModel`` on packed latents, a rectified flow with its own guidance."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn

from plugip.options import choose
from plugip.path import FlowPath, Path, Prediction
from plugip.priors.autoencoder import Autoencoder, load_autoencoder
from plugip.priors.flow_schedule import flow_schedule
from plugip.priors.latent import TextPrior, latent_shape, require_widths
from plugip.priors.probe import probe_as_asked
from plugip.priors.runtime import Runtime
from plugip.priors.text import Text, flux_texts
from plugip.priors.text_source import TextSource
from plugip.priors.weights import DTYPES, find_folder, load_model, require_pipeline

BLOCK = 2  # side of the blocks of latents that one token holds
GUIDANCE = 3.5  # what diffusers' pipeline tells FLUX.1-dev where nothing else is asked for


class Flux(TextPrior):
    """Serves FLUX.1 as a flow prior; the weights are frozen.

    Guidance is distilled into FLUX.1-dev: the network is told its strength, and a call costs one
    NFE. FLUX.1-schnell has no such input. Which public checkpoints fit: folders of diffusers'
    ``FluxPipeline``, ``black-forest-labs/FLUX.1-dev`` and ``black-forest-labs/FLUX.1-schnell``;
    not those for filling, control or depth, whose networks take further channels.

    Args:
        network: The ``FluxTransformer2DModel``.
        autoencoder: The autoencoder of its latents.
        told: What the prompt says, with a pooled vector.
        guidance_scale: The strength that the network is told; None: 3.5 if it takes one.
        path: A rectified flow, shifted or not.
        image_size: Side of the images in pixels.

    Raises:
        ValueError: If the size, the guidance or the embeddings do not fit the network.

    Source: Black Forest Labs 2024 (FLUX.1).
    """

    def __init__(
        self,
        network: nn.Module,
        autoencoder: Autoencoder,
        told: Text,
        guidance_scale: float | None = None,
        path: Path | None = None,
        image_size: int = 1024,
    ) -> None:
        config: Any = network.config
        strength = _strength(config, guidance_scale)
        require_widths(config.joint_attention_dim, config.pooled_projection_dim, told)
        shape = _shape(config, autoencoder, image_size)
        super().__init__(
            network, autoencoder, path or FlowPath(), Prediction.VELOCITY, shape, told
        )
        self.strength = strength

    @classmethod
    def from_pretrained(
        cls,
        source: str,
        prompt: str = "",
        guidance_scale: float | None = None,
        image_size: int = 1024,
        shift: float | None = None,
        text_length: int = 512,
        text: str | None = None,
        autoencoder: str | None = None,
        dtype: str = "float32",
        probe: bool | str = True,
        runtime: Runtime | None = None,
    ) -> Self:
        """Loads a pipeline's folder, from the disk or else from the hub.

        The path is read from the scheduler's config; the prompt is encoded once, before the
        network is loaded.

        Args:
            source: A folder with ``transformer/``, ``scheduler/``, ``vae/`` and two text encoders
                and tokenizers, or a hub id.
            prompt: What the images show; "" says nothing.
            guidance_scale: The strength that the network is told; None: 3.5 if it takes one.
            image_size: Side of the images in pixels.
            shift: Time shift, in place of the scheduler's.
            text_length: Number of T5's tokens; 256 for FLUX.1-schnell.
            text: A file of embeddings that ``plugip.priors.text.save_texts`` wrote, in place of
                the prompt.
            autoencoder: Folder or hub id of another autoencoder of the same latents, such as
                ``madebyollin/taef1``, which is much cheaper.
            dtype: What the weights of network and text encoders are loaded as, and compute in:
                float32, bfloat16 or float16; the autoencoder and the states stay in float32.
            probe: Whether to check that the network denoises the latents of a known picture; or
                your picture's file.
            runtime: How the network is run; as it is by default.

        Returns:
            The prior, on the CPU.

        Raises:
            WeightsError: If a file is missing or not what its name says.
            ValueError: If the settings contradict each other or the network, or a prompt needs
                ``transformers`` and it is not installed.
            ProbeError: If the network does not denoise.
        """
        words = TextSource(prompt, file=text)
        kind = choose(DTYPES, dtype, "dtype")
        folder = find_folder(str(source), ("transformer", "vae", *words.parts(2)))
        require_pipeline(folder, "flux")
        around = load_autoencoder(folder, instead=autoencoder)
        told, _ = words.texts(lambda prompts: flux_texts(folder, prompts, text_length, kind))
        network = load_model(folder, "transformer", ["FluxTransformer2DModel"], kind)
        _, height, width = _shape(network.config, around, image_size)
        path, _ = flow_schedule(folder, height * width // BLOCK**2, shift)
        prior = cls(network, around, told, guidance_scale, path, image_size)
        probe_as_asked(prior, probe)
        return prior.equip(runtime)

    def predict(self, x_t: Tensor, times: Tensor, texts: dict[str, Tensor]) -> Tensor:
        _, height, width = self.shape
        inputs: dict[str, Any] = {
            "timestep": times,
            "encoder_hidden_states": texts["tokens"],
            "pooled_projections": texts["pooled"],
            "txt_ids": times.new_zeros(texts["tokens"].shape[1], 3),
            "img_ids": _places(height // BLOCK, width // BLOCK).to(times),
        }
        if self.strength is not None:
            inputs["guidance"] = torch.full_like(times, self.strength)
        return unpack(self.ask(pack(x_t), inputs), height, width)

    def time_input(self, t: Tensor) -> Tensor:
        return self.path.sigma(t)  # the network itself multiplies it by 1000


def pack(h: Tensor) -> Tensor:
    """Lays blocks of 2 x 2 latents out as tokens, (B, c, H, W) -> (B, H W / 4, 4 c)."""
    rows, columns = h.shape[2] // BLOCK, h.shape[3] // BLOCK
    blocks = h.unflatten(3, (columns, BLOCK)).unflatten(2, (rows, BLOCK))
    return blocks.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """Lays tokens out as latents, (B, H W / 4, 4 c) -> (B, c, H, W); the inverse of ``pack``."""
    blocks = tokens.unflatten(2, (-1, BLOCK, BLOCK)).unflatten(1, (height // BLOCK, -1))
    return blocks.permute(0, 3, 1, 4, 2, 5).reshape(len(tokens), -1, height, width)


def _places(rows: int, columns: int) -> Tensor:
    """Returns each token's position, (rows columns, 3): zero, its row, its column."""
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack([torch.zeros_like(row), row, column], -1).flatten(0, 1)


def _strength(config: Any, guidance_scale: float | None) -> float | None:
    if not config.guidance_embeds and guidance_scale is not None:
        raise ValueError(
            "this network has no input for a guidance scale (FLUX.1-schnell has none); leave "
            "guidance_scale=null"
        )
    if guidance_scale is not None and not 0 <= guidance_scale < float("inf"):
        raise ValueError(f"guidance_scale must be 0 or more, got {guidance_scale:g}")
    chosen = GUIDANCE if guidance_scale is None else float(guidance_scale)
    return chosen if config.guidance_embeds else None


def _shape(config: Any, autoencoder: Autoencoder, image_size: int) -> tuple[int, int, int]:
    if config.out_channels not in (None, config.in_channels):
        raise ValueError(
            f"the network takes {config.in_channels} channels and returns {config.out_channels}, "
            "so it is one for filling or control; take a text-to-image network"
        )
    return latent_shape(autoencoder, config.in_channels // BLOCK**2, None, image_size, BLOCK)
