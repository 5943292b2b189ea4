"""Noise that a method knows nothing about: of given measurements, or hidden on purpose."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from plugip.noise.base import Noise, count_observed, sum_of_squares
from plugip.noise.checks import require_pair

if TYPE_CHECKING:
    from plugip.rng import Rng


@dataclass(frozen=True, repr=False)
class UnknownNoise:
    """Stands for noise of unknown kind and level: measurements are given, never simulated."""

    std: None = field(default=None, init=False)

    def __repr__(self) -> str:
        return "UnknownNoise(level unknown)"

    def sample(self, y_clean: Tensor, rng: Rng) -> Tensor:
        """Refuses: there is nothing to draw from."""
        raise TypeError(
            "UnknownNoise cannot simulate a measurement; give noise=gaussian, or a measurement"
        )

    def nll(self, y_clean: Tensor, y: Tensor, observed: Tensor | None = None) -> Tensor:
        """Returns the mean squared misfit for each image, (B,), the usual loss without a level."""
        require_pair(y_clean, y, observed, "UnknownNoise")
        return sum_of_squares(y_clean - y, observed) / count_observed(y, observed)


@dataclass(frozen=True, repr=False)
class Hidden(UnknownNoise):
    """Draws from a noise model and keeps its kind and level from the method.

    For studies of robustness: to a method this is UnknownNoise, with no std and the mean squared
    misfit as its loss, while measurements are simulated with ``noise``. A run hands its method a
    bare UnknownNoise; a script that trusts no method does the same.

    Args:
        noise: The model to draw from.

    Raises:
        TypeError: If there is nothing to draw from.
    """

    noise: Noise

    def __post_init__(self) -> None:
        require_drawable(self.noise, "Hidden")

    def __repr__(self) -> str:
        return f"Hidden({self.noise!r})"

    def sample(self, y_clean: Tensor, rng: Rng) -> Tensor:
        """Draws y given A(x) as the hidden model does."""
        return self.noise.sample(y_clean, rng)


def require_drawable(noise: Noise, who: str) -> None:
    """Raises a TypeError unless ``noise`` is a noise model that can simulate measurements."""
    if not isinstance(noise, Noise) or isinstance(noise, type) or type(noise) is UnknownNoise:
        raise TypeError(
            f"{who} needs noise models to draw from, such as GaussianNoise(0.1), got {noise!r}"
        )
