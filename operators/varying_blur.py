"""Blur that changes across the image: several kernels, blended by weight maps."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from plugip.operator import LinearOperator, Shape
from plugip.operators._options import as_sides
from plugip.operators.blur import Origin, as_origin, require_precision, tap_origin
from plugip.operators.correlation import BOUNDARIES, Correlation, require_fit
from plugip.operators.kernels import FixedKernel
from plugip.options import require_choice

Kernels = Tensor | Sequence[FixedKernel]


class _VaryingBlur(LinearOperator):
    """What both forms share: kernels, weights and their geometry."""

    kernels: Tensor
    weights: Tensor | None

    def __init__(
        self,
        kernels: Kernels,
        weights: Tensor | None = None,
        grid: int | tuple[int, int] | None = None,
        boundary: str = "reflect",
        flip: bool = False,
        origin: Origin = None,
    ) -> None:
        super().__init__()
        self.boundary = require_choice(
            boundary, [b for b in BOUNDARIES if b != "valid"], "boundary"
        )
        self.register_buffer("kernels", _stacked(kernels))
        self.flip, self.origin = flip, None if origin is None else as_origin(origin)
        self.grid = None if grid is None else as_sides(grid, "grid")
        self.register_buffer("weights", weights)
        _require_weights(weights, self.grid, self.kernels.shape[0])
        self._centre = tap_origin(self._size(), self.origin)

    def check_domain(self, x_shape: Shape) -> None:
        require_fit(self._size(), self._centre, x_shape, self.boundary)
        if self.weights is not None and self.weights.shape[-2:] != tuple(x_shape[-2:]):
            raise ValueError(
                f"weights of {tuple(self.weights.shape[-2:])} pixels do not fit images of shape "
                f"{tuple(x_shape)}; give weights of that size, or a grid instead"
            )

    def measurement_shape(self, x_shape: Shape) -> Shape:
        self.check_domain(x_shape)
        return tuple(x_shape)

    def _size(self) -> tuple[int, int]:
        return int(self.kernels.shape[-2]), int(self.kernels.shape[-1])

    def _parts(self, x: Tensor) -> tuple[Correlation, Tensor, Tensor]:
        """Returns geometry, transfer functions (K, 1, h, w') and weights (K, 1, H, W)."""
        require_precision(x, self.kernels, type(self).__name__)
        self.check_domain(tuple(x.shape))
        size, (row, column) = self._size(), self._centre
        kernels = self.kernels.to(x)
        if self.flip:
            kernels, row, column = kernels.flip(-2, -1), size[0] - 1 - row, size[1] - 1 - column
        geometry = Correlation(
            size, (row, column), self.boundary, (int(x.shape[-2]), int(x.shape[-1]))
        )
        return geometry, geometry.transfer(kernels)[:, None], self._maps(x)[:, None]

    def _maps(self, x: Tensor) -> Tensor:
        if self.weights is not None:
            return self.weights.to(x)
        return tiles(self.grid or (1, 1), (int(x.shape[-2]), int(x.shape[-1]))).to(x)

    def extra_repr(self) -> str:
        return (
            f"kernels={tuple(self.kernels.shape)}, grid={self.grid}, "
            f"boundary={self.boundary!r}, flip={self.flip}"
        )


class ProductConvolution(_VaryingBlur):
    r"""Blurs the parts of an image with kernels of their own: each light source has its kernel.

    .. math:: y = \sum_k h_k \star (w_k \odot x)

    for every channel of x (B, C, H, W); y has the same shape. With weights w_k >= 0 of sum 1 and
    kernels of sum 1 no light is lost at a circular boundary, but constants are not kept. The
    transpose is the other form, ``ConvolutionProduct``, with the kernels turned by 180 degrees.

    Args:
        kernels: (K, kh, kw), or a list of fixed kernels such as ``DefocusKernel(3)``.
        weights: Weight maps, (K, H, W).
        grid: Instead of weights: the kernels belong to a (rows, columns) grid of places, row by
            row, and are blended bilinearly in between.
        boundary: reflect, symmetric, replicate, circular or zero.
        flip: False correlates, True convolves.
        origin: As in ``Blur``.

    Raises:
        ValueError: If kernels and weights do not fit together or an option is unknown; when
            called, if they do not fit the images.

    Source: Escande and Weiss 2017.
    """

    def forward(self, x: Tensor) -> Tensor:
        geometry, transfer, w = self._parts(x)
        return geometry.by_fft(w * x[:, None], transfer, over=1)

    def adjoint(self, y: Tensor) -> Tensor:
        geometry, transfer, w = self._parts(y)
        return (w * geometry.by_fft_adjoint(y[:, None], transfer)).sum(1)


class ConvolutionProduct(_VaryingBlur):
    r"""Blends several blurred copies of an image: each place of the sensor has its kernel.

    .. math:: y = \sum_k w_k \odot (h_k \star x)

    for every channel of x (B, C, H, W); y has the same shape, and constants are kept if the
    weights and each kernel have sum 1 (but at a zero boundary). Arguments and errors as in
    ``ProductConvolution``.

    Source: Nagy and O'Leary 1998.
    """

    def forward(self, x: Tensor) -> Tensor:
        geometry, transfer, w = self._parts(x)
        return (w * geometry.by_fft(x[:, None], transfer)).sum(1)

    def adjoint(self, y: Tensor) -> Tensor:
        geometry, transfer, w = self._parts(y)
        return geometry.by_fft_adjoint(w * y[:, None], transfer, over=1)


@lru_cache(maxsize=16)
def tiles(grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Builds bilinear weight maps for a grid of places that spans the image from edge to edge.

    Args:
        grid: Places, (rows, columns).
        size: Image size, (H, W).

    Returns:
        Weights, (rows * columns, H, W), float64, not negative, with sum 1 at each pixel.
    """
    with torch.inference_mode(False):
        down, across = (
            torch.from_numpy(_hats(n, side)) for n, side in zip(grid, size, strict=True)
        )
        return torch.einsum("ih,jw->ijhw", down, across).flatten(0, 1)


def _hats(count: int, side: int) -> np.ndarray:
    place = np.linspace(0, count - 1, side) if side > 1 else np.zeros(1)
    return np.clip(1 - np.abs(place - np.arange(count)[:, None]), 0, 1)


def _stacked(kernels: Kernels) -> Tensor:
    if not isinstance(kernels, Tensor):
        built = [kernel.build() for kernel in kernels]
        sizes = sorted({tuple(kernel.shape) for kernel in built})
        if len(sizes) != 1:
            raise ValueError(f"kernels must be one or more of the same size, got sizes {sizes}")
        kernels = torch.stack(built)
    if kernels.ndim != 3 or kernels.numel() == 0 or not kernels.is_floating_point():
        raise ValueError(
            f"kernels must be floating point of shape (K, kh, kw), got {kernels.dtype} of shape "
            f"{tuple(kernels.shape)}"
        )
    return kernels


def _require_weights(weights: Tensor | None, grid: tuple[int, int] | None, count: int) -> None:
    if (weights is None) == (grid is None):
        raise ValueError("give either weights, (K, H, W), or a grid, (rows, columns)")
    if grid is not None and grid[0] * grid[1] != count:
        raise ValueError(f"a grid of {grid[0]} x {grid[1]} needs as many kernels, got {count}")
    if weights is not None and (weights.ndim != 3 or weights.shape[0] != count):
        raise ValueError(
            f"weights must have shape ({count}, H, W), one map per kernel, "
            f"got {tuple(weights.shape)}"
        )
