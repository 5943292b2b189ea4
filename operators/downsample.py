"""Super-resolution: the antialiased bicubic reduction that the diffusion literature uses."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from plugip.operator import Shape
from plugip.operators._options import as_sides, require_count
from plugip.operators.separable import Separable, gathered


@dataclass(frozen=True)
class BicubicRows:
    """Builds the matrix that reduces a line of pixels ``factor`` times.

    Row i is centred at c_i = (i - delta) s + (s - 1) / 2 with delta = (ceil(N / s) - N / s) / 2;
    its weights h((c_i - p) / s) over the pixels p are scaled to sum 1 and folded at the edges.
    """

    factor: int

    def matrix(self, side: int) -> np.ndarray:
        """Returns the matrix for ``side`` pixels, (ceil(side / factor), side), float64."""
        s, rows = self.factor, math.ceil(side / self.factor)
        delta = (rows - side / s) / 2
        centre = (np.arange(rows) - delta) * s + (s - 1) / 2
        position = np.floor(centre)[:, None].astype(np.int64) + np.arange(-2 * s, 2 * s + 1)
        weight = cubic((centre[:, None] - position) / s)
        return gathered(position, weight / weight.sum(1, keepdims=True), side, "symmetric")


def cubic(u: np.ndarray) -> np.ndarray:
    """Evaluates the cubic kernel with a = -0.5, zero from |u| = 2 on.

    Source: Keys 1981, eq. 15.
    """
    u = np.abs(u)
    near = 1.5 * u**3 - 2.5 * u**2 + 1
    far = -0.5 * u**3 + 2.5 * u**2 - 4 * u + 2
    return np.where(u <= 1, near, np.where(u < 2, far, 0.0))


class BicubicDownsample(Separable):
    r"""Shrinks images by antialiased bicubic interpolation, the usual super-resolution task.

    .. math:: y = M_H\, x\, M_W^\top

    for every channel of x (B, C, H, W), to y (B, C, ceil(H / factor), ceil(W / factor)); y keeps
    the range of constants, but edges overshoot it by a few per cent. Equals the resizer of DPS,
    DMPlug, FMPlug and DAPS; ``torch.nn.functional.interpolate`` differs from it at the borders.
    Adjoint, SVD and pseudo-inverse are exact, and the condition number of M is about 1.4.

    Args:
        factor: Reduction per side; 4 in DPS, DMPlug and DAPS, 12 from 768 to 64 in FMPlug.
        image_size: Side of the images, or (height, width). Adjoint and pseudo-inverse need it
            where ``factor`` does not divide the size; otherwise they return factor times the size
            of y.

    Raises:
        ValueError: If the factor or the size is not a positive whole number; when called, if an
            image is smaller than ``factor`` or of another size than ``image_size``.

    Source: Chung et al. 2023 (DPS), code; Keys 1981 for the kernel.
    """

    def __init__(self, factor: int = 4, image_size: int | tuple[int, int] | None = None) -> None:
        super().__init__(BicubicRows(require_count(factor, 1, "factor")))
        self.factor = factor
        self.image_size = None if image_size is None else as_sides(image_size, "image_size")

    def check_domain(self, x_shape: Shape) -> None:
        size = tuple(x_shape[-2:])
        if self.image_size is not None and size != self.image_size:
            raise ValueError(
                f"this BicubicDownsample was built for images of {_by(self.image_size)} pixels, "
                f"got {_by(size)}; change image_size or resize the images"
            )
        if min(size) < self.factor:
            raise ValueError(
                f"images of {_by(size)} pixels are too small to be reduced {self.factor} times; "
                f"each side needs at least {self.factor} pixels"
            )

    def domain_shape(self, y_shape: Shape) -> Shape:
        h, w = y_shape[-2:]
        if self.image_size is None:
            return (*y_shape[:-2], h * self.factor, w * self.factor)
        expected = tuple(math.ceil(side / self.factor) for side in self.image_size)
        if (h, w) != expected:
            raise ValueError(
                f"images of {_by(self.image_size)} pixels give measurements of {_by(expected)}, "
                f"got {_by((h, w))}"
            )
        return (*y_shape[:-2], *self.image_size)

    def extra_repr(self) -> str:
        return f"factor={self.factor}, image_size={self.image_size}"


def _by(size: tuple[int, ...]) -> str:
    return " x ".join(str(side) for side in size)
