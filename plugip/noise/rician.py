"""Magnitudes of complex Gaussian noise around an image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from plugip.linalg import wide, widened
from plugip.noise.base import Moments, Simulator, sum_observed
from plugip.noise.checks import (
    SMALL,
    require_level,
    require_pair,
    require_real,
)
from plugip.noise.scales import from_unit, length, require_scale, say_level, to_unit

if TYPE_CHECKING:
    from plugip.rng import Rng

BRIGHT = 300.0  # times s: brighter values are as noisy to five digits, but their terms cancel


@dataclass(frozen=True, repr=False)
class RicianNoise(Simulator):
    r"""Takes the magnitude of an intensity with complex Gaussian noise, as in magnitude MRI.

    On [0, 1]: y = sqrt((u + s n1)² + (s n2)²), which is brighter than u on average.

    Args:
        channel_std: Standard deviation s of each of the two parts, in the units of y.
        scale: The range that y and channel_std are on: "signed" for [-1, 1], "unit" for [0, 1],
            "other" for magnitudes of any other unit, whose 0 is black.

    Raises:
        ValueError: If channel_std is not positive and finite, the scale is unknown, or a y_clean
            is far below black.
        TypeError: If y_clean is complex: magnitudes are real.

    Source: Gudbjartsson and Patz 1995.
    """

    channel_std: float
    scale: str = "signed"

    takes: ClassVar[str] = "light"

    def __post_init__(self) -> None:
        require_level(self.channel_std, "channel_std of RicianNoise", SMALL)
        require_scale(self.scale)

    def __repr__(self) -> str:
        return f"RicianNoise(channel_std={say_level(self.channel_std, self.scale)})"

    @property
    def std(self) -> None:
        """None: the level depends on the intensity, and the noise has a mean."""
        return None

    def draw(self, y_clean: Tensor, rng: Rng) -> Tensor:
        u = to_unit(y_clean, self.scale)
        real, imaginary = rng.normal((2, *u.shape[1:]), like=u).unbind(1)
        parts = u + self._unit_std * real, self._unit_std * imaginary
        # torch.hypot rounds by an image's place in the batch; squares and roots do not.
        magnitude = (parts[0].square() + parts[1].square()).sqrt()
        return from_unit(magnitude, self.scale)

    def nll(self, y_clean: Tensor, y: Tensor, observed: Tensor | None = None) -> Tensor:
        """Returns (r² + u²) / (2 s²) - log I0(r u / s²) for each image, (B,), r = |y| on [0, 1].

        Even and smooth in u, so that values below black are safe; less a term of y alone.
        """
        require_real(y_clean, "RicianNoise")
        require_pair(y_clean, y, observed, "RicianNoise")
        u, r = to_unit(y_clean, self.scale).abs(), to_unit(y, self.scale).abs()
        s = self._unit_std
        # exp(-x) I0(x), else the Bessel function overflows; |u| has gradient 0 at 0, as it must.
        bessel = torch.special.i0e(r * u / s**2).log()
        return sum_observed(((r - u) / s).square() / 2 - bessel, observed)

    def residual_moments(self, y_clean: Tensor, observed: Tensor | None = None) -> Moments:
        """Returns mean and variance of ‖y - y_clean‖² over observed entries per image, (B,).

        From the moments of the Rice distribution; y - y_clean has a mean.
        """
        # Small differences of large powers: float32 would not do.
        a = (widened(to_unit(y_clean, self.scale)) / self._unit_std).clamp_max(BRIGHT)
        first, third = _odd_moments(a)
        second = 2 * a**2 + 2 - 2 * a * first
        fourth = 8 * a**4 + 20 * a**2 + 8 - 4 * a * third - 4 * a**3 * first
        s = self.channel_std
        both = s**2 * second, s**4 * (fourth - second.square())
        mean, spread = (part.to(y_clean.device, wide(y_clean)) for part in both)
        return Moments(sum_observed(mean, observed), sum_observed(spread, observed))

    @property
    def _unit_std(self) -> float:
        return self.channel_std / length(self.scale)


def _odd_moments(a: Tensor) -> tuple[Tensor, Tensor]:
    """Returns E R and E R³ of R = |a + n1 + i n2|; Laguerre functions of order 1/2 and 3/2."""
    q = a**2 / 4
    below = torch.special.i0e(q)
    half = (1 + 2 * q) * below + 2 * q * torch.special.i1e(q)
    more = (2 * (2 + 2 * q) * half - below) / 3
    return math.sqrt(math.pi / 2) * half, 3 * math.sqrt(math.pi / 2) * more
