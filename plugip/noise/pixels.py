"""Noise that strikes single values: replaced ones, and ones multiplied by noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from plugip.linalg import wide
from plugip.noise.base import Moments, Simulator, sum_moments
from plugip.noise.checks import (
    no_likelihood,
    require_level,
)
from plugip.noise.scales import (
    SCALES,
    from_unit,
    length,
    require_range,
    require_scale,
    say_clip,
    say_scale,
    to_unit,
)

if TYPE_CHECKING:
    from plugip.rng import Rng


@dataclass(frozen=True, repr=False)
class ImpulseNoise(Simulator):
    """Replaces a share of the values by black or white, half each: salt and pepper.

    Args:
        density: Expected share of the replaced values, below 1; 0.03 to 0.27 in ImageNet-C.
        per_pixel: Whether all channels of a pixel (axis 1 of y) are replaced together, else each
            value for itself, as in ImageNet-C.
        scale: The range that y is on, whose ends are black and white: "signed" for [-1, 1],
            "unit" for [0, 1].

    Raises:
        ValueError: If density is not between 0 and 1, the scale is unknown or has no ends, or
            per_pixel is set and y has no axes behind the channels.
        TypeError: If y_clean is complex.

    Source: Hendrycks and Dietterich 2019 (ImageNet-C).
    """

    density: float
    per_pixel: bool = False
    scale: str = "signed"

    takes: ClassVar[str] = "real"

    def __post_init__(self) -> None:
        advice = "give the share of replaced values, such as 0.03"
        require_level(self.density, "density of ImpulseNoise", advice, most=1)
        require_range(self.scale, "ImpulseNoise")

    def __repr__(self) -> str:
        struck = "pixels" if self.per_pixel else "values"
        return f"ImpulseNoise(density={self.density:g} of the {struck}, {say_scale(self.scale)})"

    @property
    def std(self) -> None:
        """None: the noise is not described by a level."""
        return None

    def draw(self, y_clean: Tensor, rng: Rng) -> Tensor:
        black, white = SCALES[self.scale]
        u = rng.uniform(self._shape(y_clean), like=y_clean)
        peppered = torch.where(u < self.density / 2, black, y_clean)
        return torch.where((u >= self.density / 2) & (u < self.density), white, peppered)

    def nll(self, y_clean: Tensor, y: Tensor, observed: Tensor | None = None) -> Tensor:
        """Refuses: a value is either kept or lost, so the likelihood has no gradient."""
        raise no_likelihood("ImpulseNoise", "a value is kept exactly or lost altogether")

    def residual_moments(self, y_clean: Tensor, observed: Tensor | None = None) -> Moments:
        """Returns mean and variance of ‖y - y_clean‖² over observed entries per image, (B,)."""
        mask = torch.ones_like(y_clean) if observed is None else observed.expand(y_clean.shape)
        ends = [mask * (y_clean.to(wide(y_clean)) - end).square() for end in SCALES[self.scale]]
        # What is struck together is one draw: neither of the ends, or all of it black or white.
        black, white = (e.sum(dim=1) for e in ends) if self.per_pixel else ends
        mean = (black + white) * self.density / 2
        variance = (black.square() + white.square()) * self.density / 2 - mean.square()
        return Moments(mean.flatten(1).sum(dim=1), variance.flatten(1).sum(dim=1))

    def _shape(self, y: Tensor) -> tuple[int, ...]:
        if not self.per_pixel:
            return tuple(y.shape[1:])
        if y.ndim < 3:
            raise ValueError(
                f"ImpulseNoise with per_pixel=True needs measurements (B, C, ...), got shape "
                f"{tuple(y.shape)}; give per_pixel=False"
            )
        return (1, *y.shape[2:])


@dataclass(frozen=True, repr=False)
class SpeckleNoise(Simulator):
    """Multiplies intensities by Gaussian noise: y = u + u * relative_std * n on [0, 1].

    Args:
        relative_std: Standard deviation as a share of the intensity; 0.15 to 0.6 in ImageNet-C.
        scale: The range that y is on: "signed" for [-1, 1], "unit" for [0, 1], "other" for
            intensities of any other unit, whose 0 is black.
        clip: Whether to clamp what was drawn to the range of ``scale``, as ImageNet-C does.

    Raises:
        ValueError: If relative_std is not positive and finite, the scale is unknown or, for clip,
            has no ends, or a y_clean is far below black.
        TypeError: If y_clean is complex.

    Source: Hendrycks and Dietterich 2019 (ImageNet-C).
    """

    relative_std: float
    scale: str = "signed"
    clip: bool = False

    takes: ClassVar[str] = "light"

    def __post_init__(self) -> None:
        advice = "give the share of the intensity, such as 0.15"
        require_level(self.relative_std, "relative_std of SpeckleNoise", advice)
        if self.clip:
            require_range(self.scale, "SpeckleNoise with clip=True")
        require_scale(self.scale)

    def __repr__(self) -> str:
        level = f"relative_std={self.relative_std:g} of the intensity"
        return f"SpeckleNoise({level}, {say_scale(self.scale)}{say_clip(self.clip)})"

    @property
    def std(self) -> None:
        """None: the level depends on the intensity."""
        return None

    def draw(self, y_clean: Tensor, rng: Rng) -> Tensor:
        u = to_unit(y_clean, self.scale)
        factor = 1 + self.relative_std * rng.normal(u.shape[1:], like=u)
        return from_unit(u * factor, self.scale, self.clip)

    def nll(self, y_clean: Tensor, y: Tensor, observed: Tensor | None = None) -> Tensor:
        """Refuses: the likelihood of a black value is unbounded."""
        raise no_likelihood(
            "SpeckleNoise", "it has no bound at black values, which are noise-free"
        )

    def residual_moments(self, y_clean: Tensor, observed: Tensor | None = None) -> Moments | None:
        """Returns mean and variance of ‖y - y_clean‖² per image; None if what was drawn is cut."""
        if self.clip:
            return None
        std = self.relative_std * length(self.scale) * to_unit(y_clean, self.scale)
        std = std.to(wide(y_clean))
        return sum_moments(std.square(), torch.zeros_like(std), observed)
