"""Stable Diffusion 1 and 2: a ``UNet2DConditionModel`` on latents, told something in words."""

from __future__ import annotations

from typing import Any, Self

from torch import Tensor, nn

from plugip.options import choose
from plugip.path import Path, Prediction
from plugip.priors.autoencoder import Autoencoder, load_autoencoder
from plugip.priors.declaration import declare
from plugip.priors.latent import TextPrior, latent_shape, unet_time
from plugip.priors.probe import probe_as_asked
from plugip.priors.runtime import Runtime
from plugip.priors.text import Text, clip_texts
from plugip.priors.text_source import TextSource
from plugip.priors.weights import DTYPES, find_folder, load_model, require_pipeline

# Inputs beyond states, time and text that some of these networks take.
FURTHER = (
    "addition_embed_type",
    "class_embed_type",
    "encoder_hid_dim_type",
    "num_class_embeds",
    "time_cond_proj_dim",
)


class StableDiffusion(TextPrior):
    """Serves Stable Diffusion 1 or 2 as a prior; the weights are frozen.

    Which public checkpoints fit: text-to-image folders of diffusers' ``StableDiffusionPipeline``,
    such as ``stable-diffusion-v1-5/stable-diffusion-v1-5`` (512 x 512 pixels) and Stable
    Diffusion 2.1; not those for inpainting, upscaling or depth, nor SDXL, whose networks take
    further inputs.

    Args:
        network: The ``UNet2DConditionModel``.
        autoencoder: The autoencoder of its latents.
        path: Noise path that it was trained on.
        prediction: What its output means.
        told: What the prompt says.
        untold: What the negative prompt says; needed unless ``guidance_scale`` is 1.
        guidance_scale: Strength of the classifier-free guidance; 1 is none, and costs half.
        image_size: Side of the images in pixels; None: as the network was trained.
        time_scale: Factor from t to the time input; unused on a ``DiscretePath``.

    Raises:
        ValueError: If the network takes further inputs, or the settings do not fit it.

    Source: Rombach et al. 2022 (latent diffusion).
    """

    def __init__(
        self,
        network: nn.Module,
        autoencoder: Autoencoder,
        path: Path,
        prediction: Prediction,
        told: Text,
        untold: Text | None = None,
        guidance_scale: float = 1.0,
        image_size: int | None = None,
        time_scale: float = 1000.0,
    ) -> None:
        config: Any = network.config
        _require_plain(config, told)
        shape = latent_shape(autoencoder, config.in_channels, config.sample_size, image_size)
        super().__init__(
            network, autoencoder, path, prediction, shape, told, untold, guidance_scale
        )
        self.time_scale = float(time_scale)

    @classmethod
    def from_pretrained(
        cls,
        source: str,
        prompt: str = "",
        negative_prompt: str = "",
        guidance_scale: float = 1.0,
        image_size: int | None = None,
        text: str | None = None,
        autoencoder: str | None = None,
        dtype: str = "float32",
        probe: bool | str = True,
        runtime: Runtime | None = None,
    ) -> Self:
        """Loads a pipeline's folder, from the disk or else from the hub.

        Prediction and path are read from the scheduler's config; the prompts are encoded once,
        before the network is loaded.

        Args:
            source: A folder with ``unet/``, ``scheduler/``, ``vae/``, ``text_encoder/`` and
                ``tokenizer/``, or a hub id.
            prompt: What the images show; "" says nothing.
            negative_prompt: What guidance leads away from.
            guidance_scale: Strength of the classifier-free guidance; 1 is none, and costs half.
            image_size: Side of the images in pixels; None: as the network was trained.
            text: A file of embeddings that ``plugip.priors.text.save_texts`` wrote, in place of
                the prompts.
            autoencoder: Folder or hub id of another autoencoder of the same latents, such as
                ``madebyollin/taesd``, which is much cheaper.
            dtype: What the weights of network and text encoder are loaded as, and compute in:
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
        folder = find_folder(str(source), ("unet", "vae", *words.parts(1)))
        require_pipeline(folder, "stable_diffusion")
        declared = declare(folder, {})
        around = load_autoencoder(folder, instead=autoencoder)
        told, untold = words.texts(lambda prompts: clip_texts(folder, prompts, kind))
        network = load_model(folder, "unet", ["UNet2DConditionModel"], kind)
        noise = (declared.path, declared.prediction, told, untold, guidance_scale)
        prior = cls(network, around, *noise, image_size, declared.time_scale)
        probe_as_asked(prior.unguided(), probe)
        return prior.equip(runtime)

    def predict(self, x_t: Tensor, times: Tensor, texts: dict[str, Tensor]) -> Tensor:
        inputs = {"timestep": times, "encoder_hidden_states": texts["tokens"]}
        return self.ask(x_t, inputs)

    def time_input(self, t: Tensor) -> Tensor:
        return unet_time(self.path, self.time_scale, t)


def _require_plain(config: Any, told: Text) -> None:
    further = [name for name in FURTHER if getattr(config, name, None) is not None]
    if further:
        raise ValueError(
            f"the network's config sets {further[0]}, an input that Stable Diffusion 1 and 2 do "
            "not have; only their text-to-image networks are supported"
        )
    if config.in_channels != config.out_channels:
        raise ValueError(
            f"the network takes {config.in_channels} channels and returns {config.out_channels}, "
            "so it is one for inpainting, upscaling or depth; take a text-to-image network"
        )
    width = config.cross_attention_dim
    if isinstance(width, int) and told.tokens.shape[-1] != width:
        raise ValueError(
            f"the network reads text vectors of length {width}, the embeddings have "
            f"{told.tokens.shape[-1]}; take those of its own text encoder"
        )
