"""What all noise models share: the protocol, the scale of y, sums over observed entries."""

from __future__ import annotations

import math
from numbers import Real
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from torch import Tensor

from plugip.options import choose, require_choice

if TYPE_CHECKING:
    from plugip.rng import Rng

# The range that y is on, and with it every level in the units of y.
SCALES = {"signed": (-1.0, 1.0), "unit": (0.0, 1.0)}


@runtime_checkable
class Noise(Protocol):
    """Adds noise to clean measurements and scores candidates by likelihood.

    Attributes:
        std: Standard deviation in the units of y, or None where it is unknown or not one number.
    """

    @property
    def std(self) -> float | None: ...

    def sample(self, y_clean: Tensor, rng: Rng) -> Tensor:
        """Draws y given A(x), each image from its own stream."""
        ...

    def nll(self, y_clean: Tensor, y: Tensor, observed: Tensor | None = None) -> Tensor:
        """Returns -log p(y | y_clean) for each image, (B,), up to a constant."""
        ...


def sum_of_squares(residual: Tensor, observed: Tensor | None) -> Tensor:
    """Returns the squared norm of each image's residual over observed entries, (B,)."""
    seen = residual if observed is None else residual * observed
    squared = seen.abs().square() if seen.is_complex() else seen.square()
    return squared.flatten(1).sum(dim=1)


def sum_observed(values: Tensor, observed: Tensor | None) -> Tensor:
    """Returns the sum of each image's values over observed entries, (B,)."""
    seen = values if observed is None else values * observed
    return seen.flatten(1).sum(dim=1)


def count_observed(y: Tensor, observed: Tensor | None) -> Tensor | int:
    """Returns the observed real entries of each image: an int, or (B,) for ragged masks."""
    parts = 2 if y.is_complex() else 1
    if observed is None:
        return parts * y[0].numel()
    return parts * observed.to(y.real.dtype).expand(y.shape).flatten(1).sum(dim=1)


def convert_level(level: float, given: str, wanted: str) -> float:
    """Converts a noise level between scales: 0.05 on [0, 1] is 0.1 on [-1, 1].

    Args:
        level: A standard deviation, or anything else in the units of y.
        given: The scale it is stated on, "signed" or "unit".
        wanted: The scale it is needed on.

    Raises:
        ValueError: If a scale is unknown.
    """
    (low, high), (least, most) = choose(SCALES, given, "scale"), choose(SCALES, wanted, "scale")
    return level * (most - least) / (high - low)


def to_unit(y: Tensor, scale: str) -> Tensor:
    """Returns y as intensities, where 0 is black and 1 is white."""
    return (y + 1) / 2 if scale == "signed" else y


def from_unit(u: Tensor, scale: str, clip: bool = False) -> Tensor:
    """Returns intensities in the units of y, clamped to [0, 1] first if ``clip``."""
    u = u.clamp(0, 1) if clip else u
    return 2 * u - 1 if scale == "signed" else u


def clean_intensity(y_clean: Tensor, scale: str, who: str) -> Tensor:
    """Returns clean measurements as intensities, 0 for black, for physics of light.

    Small overshoots below black, as bicubic weights make them, pass.

    Raises:
        TypeError: If y_clean is complex.
        ValueError: If it reaches far below black, so that it is on another scale or no intensity.
    """
    u = to_unit(require_real(y_clean, who), scale)
    least = float(u.detach().min()) if u.numel() else 0.0
    if least < -0.5:
        advice = "for y on [-1, 1] give scale='signed'" if scale == "unit" else "check its units"
        raise ValueError(
            f"{who} needs intensities, but y_clean reaches {float(y_clean.detach().min()):.3g}, "
            f"far below black, which is {SCALES[scale][0]:g} for scale={scale!r}; {advice}"
        )
    return u


def require_real(y_clean: Tensor, who: str) -> Tensor:
    """Returns clean measurements if they are real floating-point numbers; else a TypeError."""
    if not y_clean.is_floating_point():
        raise TypeError(
            f"{who} acts on real floating-point measurements, got {y_clean.dtype}; complex ones "
            "take GaussianNoise or LaplaceNoise"
        )
    return y_clean


def require_level(value: float, what: str, most: float = math.inf) -> None:
    """Raises a ValueError unless ``value`` is a positive number below ``most``."""
    if not isinstance(value, Real) or not 0 < value < most:
        allowed = "positive and finite" if most == math.inf else f"between 0 and {most:g}"
        raise ValueError(f"{what} must be {allowed}, got {value!r}")


def require_scale(scale: str) -> None:
    """Raises a ValueError unless ``scale`` is "signed" or "unit"."""
    require_choice(scale, SCALES, "scale")


def no_likelihood(who: str, why: str) -> TypeError:
    """Returns the error of a noise model that cannot score candidates."""
    return TypeError(
        f"{who} has no likelihood that a method could use: {why}; give the problem "
        f"UnknownNoise(), or simulate with Hidden({who}(...)), which scores by the mean square"
    )
