r"""Photon counting: y is a number of photons, scaled back to the range of the image.

An intensity u, 0 for black and 1 for white, lets N ~ Poisson(g u) photons arrive, and the sensor
reports N / g: mean u, variance u / g. The gain g is all that the models differ in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from plugip.linalg import wide
from plugip.noise.base import Moments, Simulator, sum_moments, sum_observed
from plugip.noise.checks import (
    SMALL,
    require_level,
    require_pair,
    require_real,
    require_unclipped,
)
from plugip.noise.scales import (
    from_unit,
    length,
    require_range,
    require_scale,
    say_clip,
    say_level,
    say_photons,
    to_unit,
)

if TYPE_CHECKING:
    from plugip.rng import Rng

# Below this expected count the log-likelihood goes on along its tangent, so that a black
# candidate has a finite loss and a gradient towards light.
FLOOR = 0.01


@dataclass(frozen=True, repr=False)
class PoissonNoise(Simulator):
    """Counts photons, 255 * rate of them at white.

    On [0, 1]: y = Poisson(255 rate u) / (255 rate), so mean u and variance u / (255 rate).

    Args:
        rate: Photons per grey level of 255; 1 in DPS. Less is noisier.
        scale: The range that y is on: "signed" for [-1, 1], "unit" for [0, 1], "other" for
            intensities of any other unit, whose 0 is black and whose 1 takes the place of white.
        clip: Whether to clamp what was drawn to the range of ``scale``, as DPS does; there is no
            likelihood then.

    Raises:
        ValueError: If rate is not positive and finite, the scale is unknown or, for clip, has no
            ends, or a y_clean is far below black.
        TypeError: If y_clean is complex; from ``nll``, if clip is set.

    Source: Chung et al. 2023 (DPS) and its published code.
    """

    rate: float = 1.0
    scale: str = "signed"
    clip: bool = False

    takes: ClassVar[str] = "light"

    def __post_init__(self) -> None:
        what = "rate of PoissonNoise, in photons per grey level,"
        require_level(self.rate, what, "DPS has 1, and less is noisier")
        _require_scale(self.scale, self.clip, "PoissonNoise")

    def __repr__(self) -> str:
        level = f"rate={self.rate:g}: {say_photons(self._gain, self.scale)}"
        return f"PoissonNoise({level}{say_clip(self.clip)})"

    @property
    def std(self) -> None:
        """None: the level depends on the intensity."""
        return None

    def draw(self, y_clean: Tensor, rng: Rng) -> Tensor:
        u = to_unit(y_clean, self.scale)
        return from_unit(_count(u, self._gain, rng), self.scale, self.clip)

    def nll(self, y_clean: Tensor, y: Tensor, observed: Tensor | None = None) -> Tensor:
        """Returns the negative log-likelihood of each image, (B,); see `photon_nll`."""
        require_unclipped(self.clip, "PoissonNoise")
        return photon_nll(y_clean, y, self._gain, self.scale, observed)

    def residual_moments(self, y_clean: Tensor, observed: Tensor | None = None) -> Moments | None:
        """Returns mean and variance of ‖y - y_clean‖² per image; None if what was drawn is cut."""
        return None if self.clip else _moments(y_clean, self._gain, 0.0, self.scale, observed)

    @property
    def _gain(self) -> float:
        return 255 * self.rate


@dataclass(frozen=True, repr=False)
class ShotNoise(Simulator):
    """Counts photons, ``photons`` of them at white.

    On [0, 1]: y = Poisson(photons u) / photons, so mean u and variance u / photons. It is
    PoissonNoise(rate=photons / 255), with the level as ImageNet-C states it.

    Args:
        photons: Expected count at white; 60, 25, 12, 5, 3 in ImageNet-C. Less is noisier.
        scale: The range that y is on: "signed" for [-1, 1], "unit" for [0, 1], "other" for
            intensities of any other unit, whose 0 is black and whose 1 takes the place of white.
        clip: Whether to clamp what was drawn to the range of ``scale``, as ImageNet-C does; there
            is no likelihood then.

    Raises:
        ValueError: If photons is not positive and finite, the scale is unknown or, for clip, has
            no ends, or a y_clean is far below black.
        TypeError: If y_clean is complex; from ``nll``, if clip is set.

    Source: Hendrycks and Dietterich 2019 (ImageNet-C).
    """

    photons: float
    scale: str = "signed"
    clip: bool = False

    takes: ClassVar[str] = "light"

    def __post_init__(self) -> None:
        what = "photons of ShotNoise, the count at white,"
        require_level(self.photons, what, "ImageNet-C has 60 to 3, and less is noisier")
        _require_scale(self.scale, self.clip, "ShotNoise")

    def __repr__(self) -> str:
        return f"ShotNoise({say_photons(self.photons, self.scale)}{say_clip(self.clip)})"

    @property
    def std(self) -> None:
        """None: the level depends on the intensity."""
        return None

    def draw(self, y_clean: Tensor, rng: Rng) -> Tensor:
        u = to_unit(y_clean, self.scale)
        return from_unit(_count(u, self.photons, rng), self.scale, self.clip)

    def nll(self, y_clean: Tensor, y: Tensor, observed: Tensor | None = None) -> Tensor:
        """Returns the negative log-likelihood of each image, (B,); see `photon_nll`."""
        require_unclipped(self.clip, "ShotNoise")
        return photon_nll(y_clean, y, self.photons, self.scale, observed)

    def residual_moments(self, y_clean: Tensor, observed: Tensor | None = None) -> Moments | None:
        """Returns mean and variance of ‖y - y_clean‖² per image; None if what was drawn is cut."""
        return None if self.clip else _moments(y_clean, self.photons, 0.0, self.scale, observed)


@dataclass(frozen=True, repr=False)
class PoissonGaussianNoise(Simulator):
    """Counts photons and adds the Gaussian noise of reading the sensor out.

    On [0, 1]: y = Poisson(255 rate u) / (255 rate) + n, with variance u / (255 rate) + Var n.

    Args:
        rate: Photons per grey level of 255, as for PoissonNoise.
        read_std: Standard deviation of the readout noise, in the units of y.
        scale: The range that y and read_std are on: "signed" for [-1, 1], "unit" for [0, 1],
            "other" for intensities of any other unit, whose 0 is black and whose 1 takes the
            place of white.
        clip: Whether to clamp what was drawn to the range of ``scale``; there is no likelihood
            then.

    Raises:
        ValueError: If a level is not positive and finite, the scale is unknown or, for clip, has
            no ends, or a y_clean is far below black.
        TypeError: If y_clean is complex; from ``nll``, if clip is set.

    Source: Foi et al. 2008.
    """

    rate: float
    read_std: float
    scale: str = "signed"
    clip: bool = False

    takes: ClassVar[str] = "light"

    def __post_init__(self) -> None:
        what = "rate of PoissonGaussianNoise, in photons per grey level,"
        require_level(self.rate, what, "less is noisier")
        require_level(self.read_std, "read_std of PoissonGaussianNoise", SMALL)
        _require_scale(self.scale, self.clip, "PoissonGaussianNoise")

    def __repr__(self) -> str:
        level = f"rate={self.rate:g}: {say_photons(self._gain, self.scale)}"
        read = f"read_std={say_level(self.read_std, self.scale)}"
        return f"PoissonGaussianNoise({level}, {read}{say_clip(self.clip)})"

    @property
    def std(self) -> None:
        """None: the level depends on the intensity."""
        return None

    def draw(self, y_clean: Tensor, rng: Rng) -> Tensor:
        u = to_unit(y_clean, self.scale)
        counted = _count(u, self._gain, rng)
        read = rng.normal(u.shape[1:], like=u)
        return from_unit(counted + self._read_std * read, self.scale, self.clip)

    def nll(self, y_clean: Tensor, y: Tensor, observed: Tensor | None = None) -> Tensor:
        """Returns the negative log-likelihood of each image, (B,), in its Gaussian approximation.

        The exact density is an infinite sum; this is the Gaussian of the same mean and variance
        v(u), (y - u)² / (2 v) + log(v / v(0)) / 2, good from about ten photons on.
        """
        require_unclipped(self.clip, "PoissonGaussianNoise")
        require_real(y_clean, "PoissonGaussianNoise")
        require_pair(y_clean, y, observed, "PoissonGaussianNoise")
        u, seen = to_unit(y_clean, self.scale), to_unit(y, self.scale)
        excess = u.clamp_min(0) / (self._gain * self._read_std**2)
        misfit = ((seen - u) / self._read_std).square() / (1 + excess)
        return sum_observed(misfit + excess.log1p(), observed) / 2

    def residual_moments(self, y_clean: Tensor, observed: Tensor | None = None) -> Moments | None:
        """Returns mean and variance of ‖y - y_clean‖² per image; None if what was drawn is cut."""
        if self.clip:
            return None
        return _moments(y_clean, self._gain, self._read_std, self.scale, observed)

    @property
    def _gain(self) -> float:
        return 255 * self.rate

    @property
    def _read_std(self) -> float:
        return self.read_std / length(self.scale)


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
        scale: The scale that both are on, "signed", "unit" or "other".
        observed: 1 where there is a measurement, broadcastable to y.
    """
    require_real(y_clean, "the Poisson likelihood")
    require_pair(y_clean, y, observed, "the Poisson likelihood")
    lam = gain * to_unit(y_clean, scale)
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


def _moments(
    y_clean: Tensor, gain: float, read_std: float, scale: str, observed: Tensor | None
) -> Moments:
    # Cumulants of independent parts add; all cumulants of a Poisson count are its mean.
    u, unit = to_unit(y_clean, scale).to(wide(y_clean)).clamp_min(0), length(scale)
    variance, fourth = u / gain + read_std**2, u / gain**3
    return sum_moments(unit**2 * variance, unit**4 * fourth, observed)


def _require_scale(scale: str, clip: bool, who: str) -> None:
    if clip:
        require_range(scale, f"{who} with clip=True")
    require_scale(scale)
