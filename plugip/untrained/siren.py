"""Images as functions of the coordinates: sine networks, and ReLU networks of Fourier features."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from plugip.rng import Rng
from plugip.untrained.network import Network, Shape


@dataclass(frozen=True)
class Siren(Network):
    r"""A fully connected network of sines from a pixel's place to its colour (SIREN).

    .. math:: h_{l+1} = \sin(\omega_0 (W_l h_l + b_l))

    First weights are uniform in ±1 / n in the first layer and in ±sqrt(6 / n) / omega_0 in the
    others, for n inputs, so that every layer's sines see arguments of unit variance. Places run
    from -1 to 1 along each side; a pixel is where its middle lies.

    Args:
        hidden: Units of each sine layer.
        layers: Number of sine layers.
        omega: omega_0, published 30; higher lets finer detail, and noise, in earlier.

    Raises:
        ValueError: If an argument is out of range.

    Source: Sitzmann et al. 2020 (SIREN), section 3.2.
    """

    hidden: int = 256
    layers: int = 4
    omega: float = 30.0

    def __post_init__(self) -> None:
        if min(self.hidden, self.layers) < 1 or self.omega <= 0:
            raise ValueError(
                "hidden and layers must be at least 1 and omega positive, got "
                f"{self.hidden}, {self.layers} and {self.omega}"
            )

    def build(self, shape: Shape) -> nn.Module:
        sines = [SineLayer(2, self.hidden, self.omega, first=True)]
        sines += [SineLayer(self.hidden, self.hidden, self.omega) for _ in range(self.layers - 1)]
        last = BoundedLinear(self.hidden, shape[0], _reach(self.hidden, self.omega))
        return nn.Sequential(*sines, last, ChannelsFirst())

    def code(self, shape: Shape, rng: Rng, like: Tensor) -> Tensor:
        return places(shape, like).expand(len(rng), -1, -1, -1)


@dataclass(frozen=True)
class Fourier(Network):
    r"""A ReLU network of random Fourier features of a pixel's place.

    .. math:: \gamma(p) = [\cos 2 \pi B p, \sin 2 \pi B p], \quad B_{ij} \sim N(0, \sigma^2)

    Places p run from 0 to 1 along each side. B is drawn per image and kept.

    Args:
        features: Rows of B; the network sees twice as many features.
        scale: sigma, in periods per side; large values reach fine detail and noise earlier.
        hidden: Units of each hidden layer.
        layers: Number of hidden layers.

    Raises:
        ValueError: If an argument is out of range.

    Source: Tancik et al. 2020 (Fourier features), section 6: 256 features, 4 layers of 256 units,
    scale 10 for images.
    """

    features: int = 256
    scale: float = 10.0
    hidden: int = 256
    layers: int = 3

    def __post_init__(self) -> None:
        if min(self.features, self.hidden, self.layers) < 1 or self.scale <= 0:
            raise ValueError(
                "features, hidden and layers must be at least 1 and scale positive, got "
                f"{self.features}, {self.hidden}, {self.layers} and {self.scale}"
            )

    def build(self, shape: Shape) -> nn.Module:
        sides = [2 * self.features, *[self.hidden] * self.layers]
        body = [m for n, k in pairwise(sides) for m in (nn.Linear(n, k), nn.ReLU())]
        return nn.Sequential(*body, nn.Linear(self.hidden, shape[0]), ChannelsFirst())

    def code(self, shape: Shape, rng: Rng, like: Tensor) -> Tensor:
        b = self.scale * rng.normal((1, 2, self.features), like=like)
        phase = 2 * math.pi * (places(shape, like) + 1) / 2 @ b
        return torch.cat([phase.cos(), phase.sin()], dim=-1)


class BoundedLinear(nn.Linear):
    """A linear layer that states the bound of its first weights."""

    def __init__(self, inputs: int, outputs: int, bound: float) -> None:
        super().__init__(inputs, outputs)
        self.bound = bound


class SineLayer(BoundedLinear):
    """x -> sin(omega (W x + b))."""

    def __init__(self, inputs: int, outputs: int, omega: float, first: bool = False) -> None:
        super().__init__(inputs, outputs, 1 / inputs if first else _reach(inputs, omega))
        self.omega = omega

    def forward(self, input: Tensor) -> Tensor:
        return torch.sin(self.omega * super().forward(input))


class ChannelsFirst(nn.Module):
    """(B, H, W, C) -> (B, C, H, W)."""

    def forward(self, values: Tensor) -> Tensor:
        return values.movedim(-1, -3)


def places(shape: Shape, like: Tensor) -> Tensor:
    """Returns (row, column) of each pixel's middle, from -1 to 1 between edges, (1, H, W, 2)."""
    rows, columns = (
        (2 * torch.arange(n, dtype=like.dtype, device=like.device) + 1) / n - 1 for n in shape[1:]
    )
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1)[None]


def _reach(inputs: int, omega: float) -> float:
    return math.sqrt(6 / inputs) / omega
