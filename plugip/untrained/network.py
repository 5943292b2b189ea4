"""What an untrained network is: a recipe for its layers, its first weights and its input code."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from plugip.rng import Rng

Shape = tuple[int, ...]


class Network(ABC):
    """Says how a network is built for arrays of a given shape; a frozen dataclass of settings.

    The layers hold no state besides their weights, and treat every image of a batch as if it were
    alone. Weights and code are drawn from the images' own streams.
    """

    @abstractmethod
    def build(self, shape: Shape) -> nn.Module:
        """Returns the layers, a map from codes (B, *code) to values (B, *shape) on the real line.

        Args:
            shape: Shape of what is made, without the batch axis: (C, H, W) for an image.

        Raises:
            ValueError: If the network cannot make this shape.
        """

    @abstractmethod
    def code(self, shape: Shape, rng: Rng, like: Tensor) -> Tensor:
        """Draws the fixed inputs, (B, *code), on the device and in the precision of ``like``."""


class ChannelNorm(nn.Module):
    """Brings each channel of each image to mean 0 and variance 1, then scales and shifts it.

    This is what a batch norm does while it trains on a batch of one, as untrained networks are
    published; written per image, so that an image never depends on its neighbours.

    Args:
        channels: Channels.
        eps: Added to the variance.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.group_norm(x, x.shape[1], self.weight, self.bias, self.eps)


def empty_layers(network: Network, shape: Shape) -> nn.Module:
    """Builds the layers without memory for weights, and without drawing a random number."""
    with torch.device("meta"):
        return network.build(shape).requires_grad_(False)


def draw_weights(layers: nn.Module, rng: Rng, like: Tensor) -> dict[str, Tensor]:
    """Draws first weights of each image's own network.

    Weights and biases are uniform in [-b, b], b = 1 / sqrt(inputs of a unit) as usual in PyTorch,
    or the layer's own ``bound``; norms begin with scale 1 and shift 0.

    Args:
        layers: What ``Network.build`` returned.
        rng: Streams of the images.
        like: Sets device and precision.

    Returns:
        Tensors (B, *shape) by the names of the layers' parameters.
    """
    return {
        name: _draw(layers.get_submodule(name.rpartition(".")[0]), name, tuple(p.shape), rng, like)
        for name, p in layers.named_parameters()
    }


def _draw(owner: nn.Module, name: str, shape: Shape, rng: Rng, like: Tensor) -> Tensor:
    leaf = name.rpartition(".")[2]
    if isinstance(owner, ChannelNorm):
        return like.new_full((len(rng), *shape), 1.0 if leaf == "weight" else 0.0)
    usual = owner.get_parameter("weight")[0].numel() ** -0.5
    # Sine layers set the bound of their weights; biases keep the usual one, as in SIREN's code.
    bound = getattr(owner, "bound", usual) if leaf == "weight" else usual
    return bound * (2 * rng.uniform(shape, like=like) - 1)


def uniform_code(shape: Shape, scale: float, rng: Rng, like: Tensor) -> Tensor:
    """Draws codes uniform in [0, scale), (B, *shape)."""
    return scale * rng.uniform(shape, like=like)
