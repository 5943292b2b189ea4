"""Measurement noise: how y departs from A(x), and how well a candidate explains y."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import Tensor

if TYPE_CHECKING:
    from plugip.rng import Rng


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


@dataclass(frozen=True)
class GaussianNoise:
    """Adds independent Gaussian noise, y = A(x) + std * n.

    Args:
        std: Standard deviation in the units of y, of each part of a complex y. For images in
            [-1, 1], 0.01 here is 0.005 on [0, 1]; papers differ by this factor of two.

    Raises:
        ValueError: If std is not positive and finite.
    """

    std: float

    def __post_init__(self) -> None:
        if not 0 < self.std < float("inf"):
            raise ValueError(
                f"noise std must be positive and finite, got {self.std}; "
                "for nearly noise-free data use a small value such as 1e-3"
            )

    def sample(self, y_clean: Tensor, rng: Rng) -> Tensor:
        """Draws y given A(x); each image has its own stream."""
        if y_clean.is_complex():
            parts = rng.normal((*y_clean.shape[1:], 2), like=y_clean.real)
            return y_clean + self.std * torch.view_as_complex(parts)
        return y_clean + self.std * rng.normal(y_clean.shape[1:], like=y_clean)

    def nll(self, y_clean: Tensor, y: Tensor, observed: Tensor | None = None) -> Tensor:
        """Returns ‖y - y_clean‖² / (2 std²) for each image, (B,), over observed entries."""
        return sum_of_squares(y_clean - y, observed) / (2 * self.std**2)


@dataclass(frozen=True)
class UnknownNoise:
    """Stands for noise of unknown kind and level: measurements are given, never simulated."""

    std: None = field(default=None, init=False)

    def sample(self, y_clean: Tensor, rng: Rng) -> Tensor:
        """Refuses: there is nothing to draw from."""
        raise TypeError(
            "UnknownNoise cannot simulate a measurement; give noise=gaussian, or a measurement"
        )

    def nll(self, y_clean: Tensor, y: Tensor, observed: Tensor | None = None) -> Tensor:
        """Returns the mean squared misfit for each image, (B,), the usual loss without a level."""
        return sum_of_squares(y_clean - y, observed) / count_observed(y, observed)


def sum_of_squares(residual: Tensor, observed: Tensor | None) -> Tensor:
    """Returns the squared norm of each image's residual over observed entries, (B,)."""
    seen = residual if observed is None else residual * observed
    squared = seen.abs().square() if seen.is_complex() else seen.square()
    return squared.flatten(1).sum(dim=1)


def count_observed(y: Tensor, observed: Tensor | None) -> Tensor | int:
    """Returns the observed real entries of each image: an int, or (B,) for ragged masks."""
    parts = 2 if y.is_complex() else 1
    if observed is None:
        return parts * y[0].numel()
    return parts * observed.to(y.real.dtype).expand(y.shape).flatten(1).sum(dim=1)
