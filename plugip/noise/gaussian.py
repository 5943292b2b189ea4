"""Gaussian noise of known level."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from plugip.noise.base import sum_of_squares

if TYPE_CHECKING:
    from plugip.rng import Rng


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
