"""Noise of pixels and sensors whose level depends on the signal, or that replaces it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from plugip.noise.base import (
    SCALES,
    clean_intensity,
    convert_level,
    from_unit,
    no_likelihood,
    require_level,
    require_real,
    require_scale,
    sum_observed,
    to_unit,
)

if TYPE_CHECKING:
    from plugip.rng import Rng


@dataclass(frozen=True)
class ImpulseNoise:
    """Replaces a share of the values by black or white, half each: salt and pepper.

    Args:
        density: Expected share of the replaced values, below 1; 0.03 to 0.27 in ImageNet-C.
        per_pixel: Whether all channels of a pixel (axis 1 of y) are replaced together, else each
            value for itself, as in ImageNet-C.
        scale: The range that y is on, whose ends are black and white: "signed" for [-1, 1],
            "unit" for [0, 1].

    Raises:
        ValueError: If density is not between 0 and 1, the scale is unknown, or per_pixel is set
            and y has no axes behind the channels.
        TypeError: If y_clean is complex.

    Source: Hendrycks and Dietterich 2019 (ImageNet-C).
    """

    density: float
    per_pixel: bool = False
    scale: str = "signed"

    def __post_init__(self) -> None:
        require_level(self.density, "density of ImpulseNoise", most=1)
        require_scale(self.scale)

    @property
    def std(self) -> None:
        """None: the noise is not described by a level."""
        return None

    def sample(self, y_clean: Tensor, rng: Rng) -> Tensor:
        """Draws y given A(x); each image has its own stream."""
        black, white = SCALES[self.scale]
        u = rng.uniform(self._shape(y_clean), like=require_real(y_clean, "ImpulseNoise"))
        peppered = torch.where(u < self.density / 2, black, y_clean)
        return torch.where((u >= self.density / 2) & (u < self.density), white, peppered)

    def nll(self, y_clean: Tensor, y: Tensor, observed: Tensor | None = None) -> Tensor:
        """Refuses: a value is either kept or lost, so the likelihood has no gradient."""
        raise no_likelihood("ImpulseNoise", "a value is kept exactly or lost altogether")

    def _shape(self, y: Tensor) -> tuple[int, ...]:
        if not self.per_pixel:
            return tuple(y.shape[1:])
        if y.ndim < 3:
            raise ValueError(
                f"per_pixel=True needs measurements (B, C, ...), got shape {tuple(y.shape)}; "
                "give per_pixel=False"
            )
        return (1, *y.shape[2:])


@dataclass(frozen=True)
class SpeckleNoise:
    """Multiplies intensities by Gaussian noise: y = u + u * relative_std * n on [0, 1].

    Args:
        relative_std: Standard deviation as a share of the intensity; 0.15 to 0.6 in ImageNet-C.
        scale: The range that y is on: "signed" for [-1, 1]; "unit" for [0, 1], or any other
            intensity whose 0 is black.
        clip: Whether to clamp what was drawn to the range of ``scale``, as ImageNet-C does.

    Raises:
        ValueError: If relative_std is not positive and finite, the scale is unknown, or a y_clean
            is far below black.
        TypeError: If y_clean is complex.

    Source: Hendrycks and Dietterich 2019 (ImageNet-C).
    """

    relative_std: float
    scale: str = "signed"
    clip: bool = False

    def __post_init__(self) -> None:
        require_level(self.relative_std, "relative_std of SpeckleNoise")
        require_scale(self.scale)

    @property
    def std(self) -> None:
        """None: the level depends on the intensity."""
        return None

    def sample(self, y_clean: Tensor, rng: Rng) -> Tensor:
        """Draws y given A(x); each image has its own stream."""
        u = clean_intensity(y_clean, self.scale, "SpeckleNoise")
        factor = 1 + self.relative_std * rng.normal(u.shape[1:], like=u)
        return from_unit(u * factor, self.scale, self.clip)

    def nll(self, y_clean: Tensor, y: Tensor, observed: Tensor | None = None) -> Tensor:
        """Refuses: the likelihood of a black value is unbounded."""
        raise no_likelihood(
            "SpeckleNoise", "it has no bound at black values, which are noise-free"
        )


@dataclass(frozen=True)
class RicianNoise:
    r"""Takes the magnitude of an intensity with complex Gaussian noise, as in magnitude MRI.

    On [0, 1]: y = sqrt((u + s n1)² + (s n2)²), which is brighter than u on average.

    Args:
        channel_std: Standard deviation s of each of the two parts, in the units of y.
        scale: The range that y and channel_std are on: "signed" for [-1, 1]; "unit" for [0, 1],
            or any other magnitude whose 0 is black.

    Raises:
        ValueError: If channel_std is not positive and finite, the scale is unknown, or a y_clean
            is far below black.
        TypeError: If y_clean is complex: magnitudes are real.

    Source: Gudbjartsson and Patz 1995.
    """

    channel_std: float
    scale: str = "signed"

    def __post_init__(self) -> None:
        require_level(self.channel_std, "channel_std of RicianNoise")
        require_scale(self.scale)

    @property
    def std(self) -> None:
        """None: the level depends on the intensity, and the noise has a mean."""
        return None

    def sample(self, y_clean: Tensor, rng: Rng) -> Tensor:
        """Draws y given A(x); each image has its own stream."""
        u = clean_intensity(y_clean, self.scale, "RicianNoise")
        real, imaginary = rng.normal((2, *u.shape[1:]), like=u).unbind(1)
        magnitude = torch.hypot(u + self._unit_std * real, self._unit_std * imaginary)
        return from_unit(magnitude, self.scale)

    def nll(self, y_clean: Tensor, y: Tensor, observed: Tensor | None = None) -> Tensor:
        """Returns (r² + u²) / (2 s²) - log I0(r u / s²) for each image, (B,), r = |y| on [0, 1].

        Even and smooth in u, so that values below black are safe; less a term of y alone.
        """
        u = to_unit(require_real(y_clean, "RicianNoise"), self.scale).abs()
        r = to_unit(y, self.scale).abs()
        s = self._unit_std
        # exp(-x) I0(x), else the Bessel function overflows; |u| has gradient 0 at 0, as it must.
        bessel = torch.special.i0e(r * u / s**2).log()
        return sum_observed(((r - u) / s).square() / 2 - bessel, observed)

    @property
    def _unit_std(self) -> float:
        return convert_level(self.channel_std, self.scale, "unit")
