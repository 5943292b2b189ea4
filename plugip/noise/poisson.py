r"""Photon counting: y is a number of photons, scaled back to the range of the image.

An intensity u, 0 for black and 1 for white, lets N ~ Poisson(g u) photons arrive, and the sensor
reports N / g: mean u, variance u / g. The gain g is all that the models differ in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from plugip.noise.base import (
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

# Below this expected count the log-likelihood goes on along its tangent, so that a black
# candidate has a finite loss and a gradient towards light.
FLOOR = 0.01


@dataclass(frozen=True)
class PoissonNoise:
    """Counts photons, 255 * rate of them at white.

    On [0, 1]: y = Poisson(255 rate u) / (255 rate), so mean u and variance u / (255 rate).

    Args:
        rate: Photons per grey level of 255; 1 in DPS. Less is noisier.
        scale: The range that y is on: "signed" for [-1, 1]; "unit" for [0, 1], or any other
            intensity whose 0 is black.
        clip: Whether to clamp what was drawn to the range of ``scale``, as DPS does; there is no
            likelihood then.

    Raises:
        ValueError: If rate is not positive and finite, the scale is unknown, or a y_clean is far
            below black.
        TypeError: If y_clean is complex; from ``nll``, if clip is set.

    Source: Chung et al. 2023 (DPS) and its published code.
    """

    rate: float = 1.0
    scale: str = "signed"
    clip: bool = False

    def __post_init__(self) -> None:
        require_level(self.rate, "rate of PoissonNoise, in photons per grey level,")
        require_scale(self.scale)

    @property
    def std(self) -> None:
        """None: the level depends on the intensity."""
        return None

    def sample(self, y_clean: Tensor, rng: Rng) -> Tensor:
        """Draws y given A(x); each image has its own stream."""
        u = clean_intensity(y_clean, self.scale, "PoissonNoise")
        return from_unit(_count(u, 255 * self.rate, rng), self.scale, self.clip)

    def nll(self, y_clean: Tensor, y: Tensor, observed: Tensor | None = None) -> Tensor:
        """Returns the negative log-likelihood of each image, (B,); see `photon_nll`."""
        _require_unclipped(self.clip, "PoissonNoise")
        return photon_nll(y_clean, y, 255 * self.rate, self.scale, observed)


@dataclass(frozen=True)
class ShotNoise:
    """Counts photons, ``photons`` of them at white.

    On [0, 1]: y = Poisson(photons u) / photons, so mean u and variance u / photons. It is
    PoissonNoise(rate=photons / 255), with the level as ImageNet-C states it.

    Args:
        photons: Expected count at white; 60, 25, 12, 5, 3 in ImageNet-C. Less is noisier.
        scale: The range that y is on: "signed" for [-1, 1]; "unit" for [0, 1], or any other
            intensity whose 0 is black.
        clip: Whether to clamp what was drawn to the range of ``scale``, as ImageNet-C does; there
            is no likelihood then.

    Raises:
        ValueError: If photons is not positive and finite, the scale is unknown, or a y_clean is
            far below black.
        TypeError: If y_clean is complex; from ``nll``, if clip is set.

    Source: Hendrycks and Dietterich 2019 (ImageNet-C).
    """

    photons: float
    scale: str = "signed"
    clip: bool = False

    def __post_init__(self) -> None:
        require_level(self.photons, "photons of ShotNoise, the count at white,")
        require_scale(self.scale)

    @property
    def std(self) -> None:
        """None: the level depends on the intensity."""
        return None

    def sample(self, y_clean: Tensor, rng: Rng) -> Tensor:
        """Draws y given A(x); each image has its own stream."""
        u = clean_intensity(y_clean, self.scale, "ShotNoise")
        return from_unit(_count(u, self.photons, rng), self.scale, self.clip)

    def nll(self, y_clean: Tensor, y: Tensor, observed: Tensor | None = None) -> Tensor:
        """Returns the negative log-likelihood of each image, (B,); see `photon_nll`."""
        _require_unclipped(self.clip, "ShotNoise")
        return photon_nll(y_clean, y, self.photons, self.scale, observed)


@dataclass(frozen=True)
class PoissonGaussianNoise:
    """Counts photons and adds the Gaussian noise of reading the sensor out.

    On [0, 1]: y = Poisson(255 rate u) / (255 rate) + n, with variance u / (255 rate) + Var n.

    Args:
        rate: Photons per grey level of 255, as for PoissonNoise.
        read_std: Standard deviation of the readout noise, in the units of y.
        scale: The range that y and read_std are on: "signed" for [-1, 1]; "unit" for [0, 1], or
            any other intensity whose 0 is black.
        clip: Whether to clamp what was drawn to the range of ``scale``; there is no likelihood
            then.

    Raises:
        ValueError: If a level is not positive and finite, the scale is unknown, or a y_clean is
            far below black.
        TypeError: If y_clean is complex; from ``nll``, if clip is set.

    Source: Foi et al. 2008.
    """

    rate: float
    read_std: float
    scale: str = "signed"
    clip: bool = False

    def __post_init__(self) -> None:
        require_level(self.rate, "rate of PoissonGaussianNoise, in photons per grey level,")
        require_level(self.read_std, "read_std of PoissonGaussianNoise")
        require_scale(self.scale)

    @property
    def std(self) -> None:
        """None: the level depends on the intensity."""
        return None

    def sample(self, y_clean: Tensor, rng: Rng) -> Tensor:
        """Draws y given A(x); each image has its own stream."""
        u = clean_intensity(y_clean, self.scale, "PoissonGaussianNoise")
        counted = _count(u, 255 * self.rate, rng)
        read = rng.normal(u.shape[1:], like=u)
        return from_unit(counted + self._read_std * read, self.scale, self.clip)

    def nll(self, y_clean: Tensor, y: Tensor, observed: Tensor | None = None) -> Tensor:
        """Returns the negative log-likelihood of each image, (B,), in its Gaussian approximation.

        The exact density is an infinite sum; this is the Gaussian of the same mean and variance
        v(u), (y - u)² / (2 v) + log(v / v(0)) / 2, good from about ten photons on.
        """
        _require_unclipped(self.clip, "PoissonGaussianNoise")
        u, seen = to_unit(y_clean, self.scale), to_unit(y, self.scale)
        excess = u.clamp_min(0) / (255 * self.rate * self._read_std**2)
        misfit = ((seen - u) / self._read_std).square() / (1 + excess)
        return sum_observed(misfit + excess.log1p(), observed) / 2

    @property
    def _read_std(self) -> float:
        return convert_level(self.read_std, self.scale, "unit")


def photon_nll(
    y_clean: Tensor, y: Tensor, gain: float, scale: str, observed: Tensor | None = None
) -> Tensor:
    """Returns the Poisson negative log-likelihood of each image, less its least value, (B,).

    That is lam - N + N log(N / lam) for N = gain u(y) photons where lam = gain u(y_clean) are
    expected: never negative, 0 for an exact fit, and half a chi-square for many photons. N need
    not be whole; a negative N, as other noise makes it, counts as 0. Below 0.01 expected photons
    the function goes on along its tangent, and nothing is gained below black.

    Args:
        y_clean: Candidates, (B, *Y).
        y: Measurements, (B, *Y).
        gain: Photons at white.
        scale: The range that both are on, "signed" or "unit".
        observed: 1 where there is a measurement, broadcastable to y.
    """
    lam = gain * to_unit(require_real(y_clean, "the Poisson likelihood"), scale)
    n = (gain * to_unit(y, scale)).clamp_min(0)
    bright = lam.clamp_min(FLOOR)
    below = lam.clamp_min(0) - bright - n * (lam - bright) / FLOOR
    return sum_observed(_deviance(bright, n) + below, observed)


def _deviance(lam: Tensor, n: Tensor) -> Tensor:
    # n log(n / lam) + lam - n as n (d - log(1 + d)): no cancellation of large numbers in float32.
    some = n > 1e-6
    count = torch.where(some, n, 1)
    d = (lam - count) / count
    return torch.where(some, count * (d - d.log1p()), lam)


def _count(u: Tensor, gain: float, rng: Rng) -> Tensor:
    # No photons arrive where weights overshot below black.
    return rng.poisson(gain * u.clamp_min(0)) / gain


def _require_unclipped(clip: bool, who: str) -> None:
    if clip:
        raise no_likelihood(who, "clip=True cuts off the brightest values")
