"""What latent priors share: an autoencoder before and after the network, and text guidance."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from plugip.path import DiscretePath, Path, Prediction
from plugip.priors.autoencoder import Autoencoder
from plugip.priors.probe import NetworkPrior
from plugip.priors.text import Text


class LatentPrior(NetworkPrior):
    """A network that denoises an autoencoder's latents h; ``decode`` makes images of them.

    The autoencoder computes in the precision of its own weights, float32 where a folder is loaded,
    and so do the states; the network may have another. Decoding and encoding are not counted as
    NFE. ``value_range`` is None: latents have no bounds, so that clips of x_0 do nothing.

    Args:
        network: The trained network; its weights are frozen.
        autoencoder: The autoencoder of its latents.
        path: Noise path that it was trained on.
        prediction: What its output means.
        shape: Shape of one latent, (channels, height, width).

    Raises:
        ValueError: If network and autoencoder have different channels.
    """

    value_range = None

    def __init__(
        self,
        network: nn.Module,
        autoencoder: Autoencoder,
        path: Path,
        prediction: Prediction,
        shape: tuple[int, int, int],
    ) -> None:
        super().__init__()
        if shape[0] != autoencoder.channels:
            raise ValueError(
                f"the network denoises latents of {shape[0]} channels, the autoencoder makes "
                f"{autoencoder.channels}; take the one that it was trained with"
            )
        self.autoencoder, self.network = autoencoder, network
        self.path, self.prediction, self.shape = path, Prediction(prediction), shape
        self.freeze()

    def decode(self, h: Tensor) -> Tensor:
        return self.autoencoder.decode(h)

    def encode(self, x: Tensor) -> Tensor:
        return self.autoencoder.encode(x)

    @property
    def image_shape(self) -> tuple[int, ...]:
        factor = self.autoencoder.factor
        return (self.autoencoder.image_channels, *(n * factor for n in self.shape[1:]))

    def ask(self, states: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        """Calls the network with states and named inputs, in the type of its own weights.

        Under autocast they stay as they are, and autocast chooses.

        Args:
            states: Its first input, (B, ...).
            inputs: Further inputs by name; passed on as they are.

        Returns:
            The network's output, in the type of ``states``.
        """
        like = self._like(states)
        made = self.network(states.to(like), **inputs, return_dict=False)
        return made[0].to(states.dtype)

    def _like(self, states: Tensor) -> Tensor:
        """Returns a tensor on the device and of the type that the network expects."""
        autocast = torch.is_autocast_enabled(states.device.type)
        return states if autocast else next(self.network.parameters())

    def variants(self) -> Iterator[tuple[str, NetworkPrior]]:
        return iter(())  # path and time input are facts of the folder, not of the user

    def predicting(self, prediction: Prediction) -> Self:
        other = copy.copy(self)
        other.prediction = prediction
        return other


class TextPrior(LatentPrior):
    r"""A latent prior that is told something in words, with classifier-free guidance.

    .. math:: \hat\epsilon = \epsilon(h_t, \text{negative}) + g\,\big(\epsilon(h_t, \text{prompt})
        - \epsilon(h_t, \text{negative})\big)

    Both answers come from one call with twice the batch, which is counted as two NFE (and two VJP)
    for each image, because that is what it costs. With g = 1 the negative prompt drops out, and a
    call is one NFE.

    Args:
        network: The trained network; its weights are frozen.
        autoencoder: The autoencoder of its latents.
        path: Noise path that it was trained on.
        prediction: What its output means.
        shape: Shape of one latent, (channels, height, width).
        told: What the prompt says.
        untold: What the negative prompt says; needed unless ``guidance_scale`` is 1.
        guidance_scale: g, not negative. With guidance the answer is no longer the mean
            E[h_0 | h_t] of any training data.

    Raises:
        ValueError: If guidance lacks a negative prompt, or the channels do not fit.

    Source: Ho and Salimans 2022 (classifier-free guidance).
    """

    def __init__(
        self,
        network: nn.Module,
        autoencoder: Autoencoder,
        path: Path,
        prediction: Prediction,
        shape: tuple[int, int, int],
        told: Text,
        untold: Text | None = None,
        guidance_scale: float = 1.0,
    ) -> None:
        super().__init__(network, autoencoder, path, prediction, shape)
        _require_guidance(guidance_scale, told, untold)
        self.guidance_scale = float(guidance_scale)
        self.nfe_per_call = 1 if guidance_scale == 1 else 2
        self._remember("told", told)
        if untold is not None:
            self._remember("untold", untold)

    def output(self, x_t: Tensor, t: Tensor) -> Tensor:
        times = self.time_input(t).to(x_t.device, torch.float32).expand(len(x_t))
        if self.guidance_scale == 1:
            return self.predict(x_t, times, self._recall(["told"], x_t))
        both = self._recall(["untold", "told"], x_t)
        answers = self.predict(torch.cat([x_t, x_t]), torch.cat([times, times]), both)
        plain, told = answers.chunk(2)
        return plain + self.guidance_scale * (told - plain)

    @abstractmethod
    def predict(self, x_t: Tensor, times: Tensor, texts: dict[str, Tensor]) -> Tensor:
        """Returns the network's own prediction.

        Args:
            x_t: Noisy latents, (B, *shape).
            times: The network's time input, (B,).
            texts: What it is told, in its own type: tokens (B, L, D), pooled (B, P) if it has any.
        """

    @abstractmethod
    def time_input(self, t: Tensor) -> Tensor:
        """Returns what the network's time embedding expects, same shape as ``t``."""

    def unguided(self) -> Self:
        """Returns the same prior without guidance, sharing its weights; that one is a denoiser."""
        other = copy.copy(self)
        other.guidance_scale, other.nfe_per_call = 1.0, 1
        return other

    def _remember(self, name: str, text: Text) -> None:
        for part, value in text.parts().items():
            self.register_buffer(f"{name}_{part}", value, persistent=False)

    def _recall(self, names: list[str], x_t: Tensor) -> dict[str, Tensor]:
        texts: dict[str, Tensor] = {}
        for part in ("tokens", "pooled"):
            found = [getattr(self, f"{name}_{part}", None) for name in names]
            rows = [v.expand(len(x_t), *v.shape) for v in found if v is not None]
            texts |= {part: torch.cat(rows).to(self._like(x_t))} if rows else {}
        return texts


def _require_guidance(scale: float, told: Text, untold: Text | None) -> None:
    if not 0 <= scale < float("inf"):
        raise ValueError(f"guidance_scale must be 0 or more, got {scale:g}; 1 is no guidance")
    if scale != 1 and untold is None:
        raise ValueError(
            f"guidance_scale {scale:g} needs a negative prompt, and the file of embeddings has "
            "none; make it with both, or take guidance_scale=1"
        )
    if untold is not None and {k: v.shape for k, v in untold.parts().items()} != {
        k: v.shape for k, v in told.parts().items()
    }:
        raise ValueError("prompt and negative prompt must have embeddings of the same shapes")


def require_widths(tokens: int, pooled: int, text: Text) -> None:
    """Raises a ValueError unless embeddings have the lengths that a transformer reads.

    Args:
        tokens: Length of a token's vector.
        pooled: Length of the pooled vector.
        text: The embeddings.
    """
    whole = 0 if text.pooled is None else text.pooled.shape[-1]
    found = (text.tokens.shape[-1], whole)
    if found != (tokens, pooled):
        raise ValueError(
            f"the network reads text vectors of length {tokens} and a pooled one of {pooled}, the "
            f"embeddings have {found[0]} and {found[1]}; take those of its own text encoders"
        )


def unet_time(path: Path, time_scale: float, t: Tensor) -> Tensor:
    """Returns the training index on a discrete path, ``time_scale`` times t on others."""
    return path.index(t) if isinstance(path, DiscretePath) else t * time_scale


def latent_shape(
    autoencoder: Autoencoder,
    channels: int,
    side: int | tuple[int, int] | None,
    image_size: int | None,
    multiple: int = 1,
) -> tuple[int, int, int]:
    """Returns the shape of a latent, from the network's own size or that of the images.

    Args:
        autoencoder: Knows how many pixels a latent stands for.
        channels: Channels of a latent.
        side: Side of the network's latents, or (height, width); None if it has none of its own.
        image_size: Side of the images in pixels; None: as the network was trained.
        multiple: What the latent's sides must be divisible by.

    Raises:
        ValueError: If there is no size, or it is not divisible.
    """
    if image_size is None:
        if side is None:
            raise ValueError("the network has no size of its own; give image_size=..., in pixels")
        height, width = (side, side) if isinstance(side, int) else side
        return (channels, int(height), int(width))
    step = autoencoder.factor * multiple
    if image_size < step or image_size % step:
        raise ValueError(f"image_size must be a multiple of {step}, got {image_size}")
    latent = image_size // autoencoder.factor
    return (channels, latent, latent)
