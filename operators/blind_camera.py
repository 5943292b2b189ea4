"""Two small unknowns of a camera: where it pointed, and how long it was exposed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from plugip.operator import BlindOperator, LinearOperator, Operator, Shape
from plugip.operators._options import require_positive
from plugip.operators.warp import OUTSIDE, Warp
from plugip.options import require_choice

if TYPE_CHECKING:
    from plugip.rng import Rng


class BlindShift(BlindOperator[Tensor]):
    r"""Registration: the image was moved by an unknown distance, a fraction of pixels too.

    .. math:: y[i] = x[i - d]

    with bilinear interpolation. Theta is unbounded, in pixels near 0; ``constrain`` keeps each
    part of d below ``max_shift``, by max_shift tanh(theta / max_shift). d is (B, 2): down, right.

    Args:
        max_shift: Longest move along an axis in pixels; true ones are drawn uniformly up to it.
        outside: What comes in at the edges: replicate, zero or reflect.

    Raises:
        ValueError: If an argument is out of range; when called, if max_shift is not smaller than
            the image.
    """

    def __init__(self, max_shift: float = 4.0, outside: str = "replicate") -> None:
        super().__init__()
        self.max_shift = require_positive(max_shift, "max_shift")
        self.outside = require_choice(outside, OUTSIDE, "outside")
        self.learning_rate_hint = 0.05  # pixels

    def init_theta(self, rng: Rng, like: Tensor) -> Tensor:
        # Not 0: bilinear interpolation has a kink at whole pixels.
        return 0.1 * rng.child("shift").normal((2,), like=like)

    def constrain(self, theta: Tensor) -> Tensor:
        return self.max_shift * torch.tanh(theta / self.max_shift)

    def at(self, theta: Tensor) -> Operator:
        return Shift(theta, self.outside)

    def draw_theta(self, rng: Rng, x_shape: Shape) -> Tensor:
        return self.max_shift * (2 * rng.uniform((2,)) - 1)

    def check_domain(self, x_shape: Shape) -> None:
        if self.max_shift >= min(x_shape[-2:]):
            raise ValueError(
                f"max_shift of {self.max_shift} pixels is not smaller than images of "
                f"{x_shape[-2]} x {x_shape[-1]} pixels"
            )

    def extra_repr(self) -> str:
        return f"max_shift={self.max_shift}, outside={self.outside!r}"


class Shift(LinearOperator):
    """Moves images by known distances (down, right) in pixels, (1|B, 2); see ``BlindShift``."""

    per_image = ("distance",)
    distance: Tensor

    def __init__(self, distance: Tensor, outside: str = "replicate") -> None:
        super().__init__()
        if distance.ndim != 2 or distance.shape[1] != 2:
            raise ValueError(f"distance must be (1 or B, 2), got shape {tuple(distance.shape)}")
        self.outside = require_choice(outside, OUTSIDE, "outside")
        self.register_buffer("distance", distance)

    def forward(self, x: Tensor) -> Tensor:
        flow = -self.distance.flip(1)[..., None, None]
        return Warp(flow.expand(-1, -1, *x.shape[-2:]), self.outside)(x)


class BlindExposure(BlindOperator[Tensor]):
    r"""Unknown exposure: all light of the image is scaled by an unknown gain.

    .. math:: y = 2\, g\, (x + 1) / 2 - 1

    Black stays black. Theta is the logarithm of g, (B, 1|C, 1, 1): 0.1 is about 10 %. Estimates
    can trade brightness for gain, so g and x are known up to a factor unless the prior settles it.

    Args:
        between: Range of the true gain, drawn uniformly in its logarithm.
        per_channel: One gain per channel (white balance), instead of one for all.

    Raises:
        ValueError: If ``between`` is not (low, high) with 0 < low <= high.
    """

    told_by = ("truth", "between")

    def __init__(
        self, between: tuple[float, float] = (0.5, 2.0), per_channel: bool = False
    ) -> None:
        super().__init__()
        low, high = between
        if not 0 < low <= high < math.inf:
            raise ValueError(f"between must be (low, high) with 0 < low <= high, got {between}")
        self.between: tuple[float, float] | None = (low, high)
        self.per_channel = per_channel
        self.learning_rate_hint = 0.02  # of the logarithm

    def init_theta(self, rng: Rng, like: Tensor) -> Tensor:
        return 0.01 * rng.child("gain").normal(self._shape(tuple(like.shape)), like=like)

    def constrain(self, theta: Tensor) -> Tensor:
        return theta.exp()

    def at(self, theta: Tensor) -> Operator:
        return Exposure(theta)

    def draw_theta(self, rng: Rng, x_shape: Shape) -> Tensor:
        if self.between is None:
            return super().draw_theta(rng, x_shape)
        low, high = (math.log(bound) for bound in self.between)
        return (low + (high - low) * rng.uniform(self._shape(x_shape))).exp()

    def _shape(self, x_shape: Shape) -> Shape:
        return (x_shape[1] if self.per_channel else 1, 1, 1)

    def extra_repr(self) -> str:
        return f"between={self.between}, per_channel={self.per_channel}"


class Exposure(Operator):
    """Scales light by known gains, (1|B, 1|C, 1, 1); affine in x. See ``BlindExposure``."""

    per_image = ("gain",)
    gain: Tensor

    def __init__(self, gain: Tensor) -> None:
        super().__init__()
        if gain.ndim != 4 or tuple(gain.shape[2:]) != (1, 1):
            raise ValueError(f"gain must be (1 or B, 1 or C, 1, 1), got shape {tuple(gain.shape)}")
        self.register_buffer("gain", gain)

    def forward(self, x: Tensor) -> Tensor:
        return self.gain.to(x) * (x + 1) - 1
