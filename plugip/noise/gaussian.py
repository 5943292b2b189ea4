"""Gaussian noise of known level."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from plugip.noise.base import Simulator, sum_of_squares
from plugip.noise.checks import SMALL, require_level, require_pair
from plugip.noise.scales import require_scale, say_level

if TYPE_CHECKING:
    from plugip.rng import Rng


@dataclass(frozen=True, repr=False)
class GaussianNoise(Simulator):
    """Adds independent Gaussian noise, y = A(x) + std * n.

    Args:
        std: Standard deviation in the units of y, of each part of a complex y. For images in
            [-1, 1], 0.01 here is 0.005 on [0, 1]; papers differ by this factor of two.
        scale: The range that y, and so std, is on: "signed" for [-1, 1], "unit" for [0, 1],
            "other" for y that is no image, such as k-space. Every printout says it. Nothing is
            converted; `convert_level` does that.

    Raises:
        ValueError: If std is not positive and finite, or the scale is unknown.

    Example:
        >>> GaussianNoise(0.01)
        GaussianNoise(std=0.01 on [-1, 1] = 0.005 on [0, 1])
    """

    std: float
    scale: str = "signed"

    excess_kurtosis: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        require_level(self.std, "noise std", SMALL)
        require_scale(self.scale)

    def __repr__(self) -> str:
        return f"GaussianNoise(std={say_level(self.std, self.scale)})"

    def draw(self, y_clean: Tensor, rng: Rng) -> Tensor:
        if y_clean.is_complex():
            parts = rng.normal((*y_clean.shape[1:], 2), like=y_clean.real)
            return y_clean + self.std * torch.view_as_complex(parts)
        return y_clean + self.std * rng.normal(y_clean.shape[1:], like=y_clean)

    def nll(self, y_clean: Tensor, y: Tensor, observed: Tensor | None = None) -> Tensor:
        """Returns ‖y - y_clean‖² / (2 std²) for each image, (B,), over observed entries."""
        require_pair(y_clean, y, observed, "GaussianNoise")
        return sum_of_squares(y_clean - y, observed) / (2 * self.std**2)
