"""What all noise models share: the protocol, sums over observed entries, what residuals vary by.

The residual y - A(x) of the truth is the noise itself, so a model that knows the variance and the
fourth cumulant of its noise can tell how large ‖y - A(x)‖² is and how much that varies.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from plugip.linalg import wide
from plugip.noise.checks import require_clean

if TYPE_CHECKING:
    from plugip.rng import Rng


@runtime_checkable
class Noise(Protocol):
    """Adds noise to clean measurements and scores candidates by likelihood.

    For a verdict on how well an answer explains y, a model may also state how much a residual of
    pure noise varies: by ``excess_kurtosis``, a number, if its noise has the level ``std``
    everywhere, or by ``residual_moments``; see the function of that name.

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


class Simulator(ABC):
    """A model of plugip's own: it looks at clean measurements before it draws.

    Attributes:
        scale: The scale that y is on.
        takes: Which clean measurements make sense: "any", "real", or "light", which is real and
            not far below black.
    """

    scale: str
    takes: ClassVar[str] = "any"

    def sample(self, y_clean: Tensor, rng: Rng) -> Tensor:
        """Draws y given A(x); each image has its own stream.

        Args:
            y_clean: A(x), (B, *Y), finite floating-point numbers.
            rng: The streams, one per image.

        Raises:
            TypeError: If y_clean is no tensor of floating-point numbers, or complex where that
                means nothing.
            ValueError: If it holds a NaN, or is not on ``scale``, or B is not the number of
                streams.
        """
        self.check(y_clean, rng)
        return self.draw(y_clean, rng)

    def check(self, y_clean: Tensor, rng: Rng) -> None:
        """Raises what ``sample`` raises."""
        require_clean(y_clean, rng, self.scale, self.takes, type(self).__name__)

    @abstractmethod
    def draw(self, y_clean: Tensor, rng: Rng) -> Tensor:
        """Draws y as ``sample`` does, from numbers that need no check."""


class Moments(NamedTuple):
    """Mean and variance of the squared residual of each image, (B,) each, float64."""

    mean: Tensor
    variance: Tensor


@runtime_checkable
class StatesResidual(Protocol):
    """A noise model that depends on the signal, and says how large its residuals are."""

    def residual_moments(self, y_clean: Tensor, observed: Tensor | None = None) -> Moments | None:
        """Returns what the function ``residual_moments`` returns; None where it is not known."""
        ...


def residual_moments(
    noise: Noise, y_clean: Tensor, observed: Tensor | None = None
) -> Moments | None:
    """Returns mean and variance of ‖y - y_clean‖² over observed entries, for y drawn from y_clean.

    Args:
        noise: The model.
        y_clean: Clean measurements, (B, *Y).
        observed: 1 where there is a measurement, broadcastable to y.

    Returns:
        The moments of each image, or None where the model does not state them.
    """
    if isinstance(noise, StatesResidual):
        return noise.residual_moments(y_clean, observed)
    return additive_moments(noise, y_clean, observed)


def additive_moments(noise: Noise, y_clean: Tensor, observed: Tensor | None) -> Moments | None:
    """Returns ``residual_moments`` of noise that is alike everywhere, from its level."""
    kurtosis = excess_kurtosis(noise)
    if noise.std is None or kurtosis is None:
        return None
    count = torch.as_tensor(count_observed(y_clean, observed), dtype=wide(y_clean))
    entries = count.expand(y_clean.shape[0])
    return Moments(entries * noise.std**2, entries * (2 + kurtosis) * noise.std**4)


def excess_kurtosis(noise: Noise) -> float | None:
    """Returns E n⁴ / std⁴ - 3 of noise that is alike everywhere: 0 for Gaussian noise.

    None where the model does not state it.
    """
    return getattr(noise, "excess_kurtosis", None)


def sum_moments(variance: Tensor, fourth: Tensor, observed: Tensor | None) -> Moments:
    """Returns the moments of ‖n‖² for independent n of mean 0, from its cumulants per entry.

    Args:
        variance: Second cumulants, (B, *Y), real.
        fourth: Fourth cumulants, E n⁴ - 3 (E n²)², (B, *Y).
        observed: 1 where there is a measurement, broadcastable to y.
    """
    spread = fourth + 2 * variance.square()
    return Moments(sum_observed(variance, observed), sum_observed(spread, observed))


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
