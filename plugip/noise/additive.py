"""Additive noise that is not Gaussian; it does not depend on the signal."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from plugip.noise.base import Simulator, sum_observed
from plugip.noise.checks import SMALL, no_likelihood, require_level, require_pair
from plugip.noise.scales import require_scale, say_level

if TYPE_CHECKING:
    from plugip.rng import Rng


@dataclass(frozen=True, repr=False)
class LaplaceNoise(Simulator):
    """Adds independent Laplace noise, which has more outliers than Gaussian noise.

    The density of n = y - A(x) is exp(-|n| / b) / (2 b).

    Args:
        b: The width b in the units of y, of each part of a complex y; the standard deviation is
            sqrt(2) b. PnP-Flow adds 0.3 on [-1, 1].
        scale: The range that y and so b are on: "signed" for [-1, 1], "unit" for [0, 1], "other"
            for y that is no image. Nothing is converted; `convert_level` does that.

    Raises:
        ValueError: If b is not positive and finite, or the scale is unknown.

    Source: Martin et al. 2025 (PnP-Flow).
    """

    b: float
    scale: str = "signed"

    excess_kurtosis: ClassVar[float] = 3.0

    def __post_init__(self) -> None:
        require_level(self.b, "the width b of LaplaceNoise", SMALL)
        require_scale(self.scale)

    def __repr__(self) -> str:
        return f"LaplaceNoise(b={say_level(self.b, self.scale)})"

    @property
    def std(self) -> float:
        """The standard deviation sqrt(2) b, in the units of y."""
        return math.sqrt(2) * self.b

    def draw(self, y_clean: Tensor, rng: Rng) -> Tensor:
        clean = _as_real(y_clean)
        # (n1² + n2²) / 2 is exponential, and a difference of two exponentials is Laplace: no log.
        halves = rng.normal((4, *clean.shape[1:]), like=clean).square() / 2
        first, second, third, fourth = halves.unbind(1)
        return _like(clean + self.b * (first + second - third - fourth), y_clean)

    def nll(self, y_clean: Tensor, y: Tensor, observed: Tensor | None = None) -> Tensor:
        """Returns sum |y - y_clean| / b over observed entries and parts, (B,)."""
        require_pair(y_clean, y, observed, "LaplaceNoise")
        n = y - y_clean
        distance = n.real.abs() + n.imag.abs() if n.is_complex() else n.abs()
        return sum_observed(distance, observed) / self.b


@dataclass(frozen=True, repr=False)
class UniformNoise(Simulator):
    """Adds independent noise, uniform between -half_width and half_width.

    It has no usable likelihood: that is flat where y can be explained, and 0 elsewhere.

    Args:
        half_width: Largest departure in the units of y, of each part of a complex y; the standard
            deviation is half_width / sqrt(3).
        scale: The range that y and so half_width are on: "signed" for [-1, 1], "unit" for [0, 1],
            "other" for y that is no image. Nothing is converted; `convert_level` does that.

    Raises:
        ValueError: If half_width is not positive and finite, or the scale is unknown.
    """

    half_width: float
    scale: str = "signed"

    excess_kurtosis: ClassVar[float] = -1.2

    def __post_init__(self) -> None:
        require_level(self.half_width, "half_width of UniformNoise", SMALL)
        require_scale(self.scale)

    def __repr__(self) -> str:
        return f"UniformNoise(half_width={say_level(self.half_width, self.scale)})"

    @property
    def std(self) -> float:
        """The standard deviation half_width / sqrt(3), in the units of y."""
        return self.half_width / math.sqrt(3)

    def draw(self, y_clean: Tensor, rng: Rng) -> Tensor:
        clean = _as_real(y_clean)
        n = 2 * rng.uniform(clean.shape[1:], like=clean) - 1
        return _like(clean + self.half_width * n, y_clean)

    def nll(self, y_clean: Tensor, y: Tensor, observed: Tensor | None = None) -> Tensor:
        """Refuses: a flat likelihood has no gradient."""
        raise no_likelihood("UniformNoise", "it is flat, or 0 beyond half_width")


def _as_real(y: Tensor) -> Tensor:
    return torch.view_as_real(y.resolve_conj()) if y.is_complex() else y


def _like(parts: Tensor, y: Tensor) -> Tensor:
    return torch.view_as_complex(parts) if y.is_complex() else parts
