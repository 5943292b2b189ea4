"""Super-resolution by average pooling: each measured pixel is the mean of a square of pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from plugip.linalg import damping_like
from plugip.operator import Shape
from plugip.operators._options import require_count
from plugip.operators.separable import Separable


@dataclass(frozen=True)
class AverageRows:
    """Builds the matrix that averages ``factor`` neighbours of a line of pixels."""

    factor: int

    def matrix(self, side: int) -> np.ndarray:
        """Returns the matrix for ``side`` pixels, (side / factor, side), float64."""
        cell = np.full((1, self.factor), 1 / self.factor)
        return np.kron(np.eye(side // self.factor), cell)


class AveragePool(Separable):
    r"""Shrinks images by averaging squares of pixels, as an ideal sensor with larger pixels does.

    .. math:: y_{ij} = \frac{1}{r^2} \sum_{a, b < r} x_{ri + a,\, rj + b}

    for every channel of x (B, C, H, W), to y (B, C, H / r, W / r), in the range of x. The adjoint
    repeats pixels and divides by r², the pseudo-inverse repeats them; all singular values are
    1 / r.

    Args:
        factor: Pixels averaged per side, r; 4 in DDRM and DDNM.

    Raises:
        ValueError: If the factor is not a positive whole number; when called, if it does not
            divide both sides of the images.

    Source: Kawar et al. 2022 (DDRM), code; Wang et al. 2023 (DDNM), code.
    """

    def __init__(self, factor: int = 4) -> None:
        super().__init__(AverageRows(require_count(factor, 1, "factor")))
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        self.check_domain(tuple(x.shape))
        return torch.nn.functional.avg_pool2d(x, self.factor)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.pinv(y / self.factor**2)

    def pinv(self, y: Tensor) -> Tensor:
        return y.repeat_interleave(self.factor, -1).repeat_interleave(self.factor, -2)

    def solve_normal(self, b: Tensor, lam: float | Tensor) -> Tensor:
        damping = damping_like(lam, b)
        seen = self.pinv(self(b))  # the part of b that A sees: there A*A is 1 / r²
        return (b - seen) / damping + seen / (1 / self.factor**2 + damping)

    def check_domain(self, x_shape: Shape) -> None:
        require_divisible(x_shape, self.factor)

    def measurement_shape(self, x_shape: Shape) -> Shape:
        self.check_domain(x_shape)
        h, w = x_shape[-2:]
        return (*x_shape[:-2], h // self.factor, w // self.factor)

    def domain_shape(self, y_shape: Shape) -> Shape:
        h, w = y_shape[-2:]
        return (*y_shape[:-2], h * self.factor, w * self.factor)

    def extra_repr(self) -> str:
        return f"factor={self.factor}"


def require_divisible(x_shape: Shape, factor: int) -> None:
    """Raises a ValueError if ``factor`` does not divide the height and the width of images."""
    h, w = x_shape[-2:]
    if h % factor or w % factor or min(h, w) == 0:
        raise ValueError(
            f"images of {h} x {w} pixels cannot be divided by {factor} without a rest; crop them "
            f"to multiples of {factor}, such as {max(1, h // factor) * factor} x "
            f"{max(1, w // factor) * factor}, or choose another factor"
        )
