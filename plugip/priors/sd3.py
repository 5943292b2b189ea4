"""Stable Diffusion 3: an ``SD3Transformer2DModel`` on latents, a rectified flow."""

from __future__ import annotations

from typing import Any, Self

from torch import Tensor, nn

from plugip.options import choose
from plugip.path import FlowPath, Path, Prediction
from plugip.priors.autoencoder import Autoencoder, load_autoencoder
from plugip.priors.flow_schedule import flow_schedule
from plugip.priors.latent import TextPrior, latent_shape, require_widths
from plugip.priors.probe import probe_as_asked
from plugip.priors.runtime import Runtime
from plugip.priors.text import Text, sd3_texts
from plugip.priors.text_source import TextSource
from plugip.priors.weights import (
    DTYPES,
    find_folder,
    load_model,
    read_config,
    require_pipeline,
)

KINDS = ("SD3Transformer2DModel",)


class StableDiffusion3(TextPrior):
    """Serves Stable Diffusion 3 or 3.5 as a flow prior; the weights are frozen.

    Which public checkpoints fit: folders of diffusers' ``StableDiffusion3Pipeline``, such as
    ``stabilityai/stable-diffusion-3-medium-diffusers`` and Stable Diffusion 3.5.

    Args:
        network: The ``SD3Transformer2DModel``.
        autoencoder: The autoencoder of its latents.
        told: What the prompt says, with a pooled vector.
        untold: What the negative prompt says; needed unless ``guidance_scale`` is 1.
        guidance_scale: Strength of the classifier-free guidance; 1 is none, and costs half.
        path: A rectified flow, shifted or not.
        image_size: Side of the images in pixels; None: as the network was trained.
        time_scale: Factor from the noise level to the network's time input.

    Raises:
        ValueError: If the size or the embeddings do not fit the network.

    Source: Esser et al. 2024 (Stable Diffusion 3).
    """

    def __init__(
        self,
        network: nn.Module,
        autoencoder: Autoencoder,
        told: Text,
        untold: Text | None = None,
        guidance_scale: float = 1.0,
        path: Path | None = None,
        image_size: int | None = None,
        time_scale: float = 1000.0,
    ) -> None:
        config: Any = network.config
        shape = _shape(config, autoencoder, image_size)
        require_widths(config.joint_attention_dim, config.pooled_projection_dim, told)
        noise = (path or FlowPath(), Prediction.VELOCITY, shape, told, untold, guidance_scale)
        super().__init__(network, autoencoder, *noise)
        self.time_scale = float(time_scale)

    @classmethod
    def from_pretrained(
        cls,
        source: str,
        prompt: str = "",
        negative_prompt: str = "",
        guidance_scale: float = 1.0,
        image_size: int | None = None,
        shift: float | None = None,
        t5: bool = True,
        text_length: int = 256,
        text: str | None = None,
        autoencoder: str | None = None,
        dtype: str = "float32",
        probe: bool | str = True,
        runtime: Runtime | None = None,
    ) -> Self:
        """Loads a pipeline's folder, from the disk or else from the hub.

        The path is read from the scheduler's config; the prompts are encoded once, before the
        network is loaded.

        Args:
            source: A folder with ``transformer/``, ``scheduler/``, ``vae/`` and three text
                encoders and tokenizers, or a hub id.
            prompt: What the images show; "" says nothing.
            negative_prompt: What guidance leads away from.
            guidance_scale: Strength of the classifier-free guidance; 1 is none, and costs half.
            image_size: Side of the images in pixels; None: as the network was trained.
            shift: Time shift, in place of the scheduler's.
            t5: Whether to read the prompts with T5 as well, 4.7 billion parameters.
            text_length: Number of T5's tokens.
            text: A file of embeddings that ``plugip.priors.text.save_texts`` wrote, in place of
                the prompts.
            autoencoder: Folder or hub id of another autoencoder of the same latents, such as
                ``madebyollin/taesd3``, which is much cheaper.
            dtype: What the weights of network and text encoders are loaded as, and compute in:
                float32, bfloat16 or float16; the autoencoder and the states stay in float32.
            probe: Whether to check that the network denoises the latents of a known picture; or
                your picture's file.
            runtime: How the network is run; as it is by default.

        Returns:
            The prior, on the CPU.

        Raises:
            WeightsError: If a file is missing or not what its name says.
            ValueError: If the settings contradict each other or the network, or prompts need
                ``transformers`` and it is not installed.
            ProbeError: If the network does not denoise.
        """
        words = TextSource(prompt, negative_prompt, guidance_scale, text)
        kind = choose(DTYPES, dtype, "dtype")
        folder = find_folder(str(source), ("transformer", "vae", *words.parts(3 if t5 else 2)))
        require_pipeline(folder, "sd3")
        around = load_autoencoder(folder, instead=autoencoder)
        width = int(read_config(folder, "transformer", KINDS).get("joint_attention_dim", 4096))
        told, untold = words.texts(
            lambda prompts: sd3_texts(folder, prompts, width, t5, text_length, kind)
        )
        network = load_model(folder, "transformer", KINDS, kind)
        tokens = _image_tokens(network.config, around, image_size)
        path, scale = flow_schedule(folder, tokens, shift)
        prior = cls(network, around, told, untold, guidance_scale, path, image_size, scale)
        probe_as_asked(prior.unguided(), probe)
        return prior.equip(runtime)

    def predict(self, x_t: Tensor, times: Tensor, texts: dict[str, Tensor]) -> Tensor:
        inputs = {
            "timestep": times,
            "encoder_hidden_states": texts["tokens"],
            "pooled_projections": texts["pooled"],
        }
        return self.ask(x_t, inputs)

    def time_input(self, t: Tensor) -> Tensor:
        return self.path.sigma(t) * self.time_scale


def _shape(config: Any, autoencoder: Autoencoder, image_size: int | None) -> tuple[int, int, int]:
    """Returns the shape of a latent; a ValueError if the network has no positions for it."""
    patch = config.patch_size
    shape = latent_shape(
        autoencoder, config.in_channels, config.sample_size, image_size, multiple=patch
    )
    largest = config.pos_embed_max_size
    if largest is not None and max(shape[1:]) > largest * patch:
        raise ValueError(
            f"image_size must be at most {largest * patch * autoencoder.factor}, for which the "
            f"network has learnt positions, got {max(shape[1:]) * autoencoder.factor}"
        )
    return shape


def _image_tokens(config: Any, autoencoder: Autoencoder, image_size: int | None) -> int:
    _, height, width = _shape(config, autoencoder, image_size)
    return height * width // config.patch_size**2
