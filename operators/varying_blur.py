"""Blur that changes across the image: several kernels, blended by weight maps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache, reduce

import numpy as np
import torch
from torch import Tensor

from plugip.operator import LinearOperator, Shape, require_batch
from plugip.operators._memo import Remembers
from plugip.operators._options import as_sides
from plugip.operators.blur import Origin, as_origin, require_precision, tap_origin
from plugip.operators.correlation import (
    BOUNDARIES,
    Correlation,
    correlate_sums,
    require_fit,
    spread_sums,
)
from plugip.operators.kernels import FixedKernel
from plugip.options import require_choice

Kernels = Tensor | Sequence[FixedKernel]


class _VaryingBlur(Remembers, LinearOperator):
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

    def _parts(self, x: Tensor) -> tuple[Correlation, Tensor]:
        """Returns geometry and weights, (K, 1, H, W), for images (B, C, H, W)."""
        require_batch(x, self.domain_ndim, type(self).__name__)
        require_precision(x, self.kernels, type(self).__name__)
        self.check_domain(tuple(x.shape))
        size, (row, column) = self._size(), self._centre
        if self.flip:
            row, column = size[0] - 1 - row, size[1] - 1 - column
        image = (int(x.shape[-2]), int(x.shape[-1]))
        return Correlation(size, (row, column), self.boundary, image), self._maps(x)

    def _is_small(self, geometry: Correlation, x: Tensor, back: bool = False) -> bool:
        learnt = self.kernels.requires_grad  # the gradient of sums in the kernels is slow
        return not learnt and geometry.is_small(len(self.kernels) * x.shape[1], x, back)

    def _taps(self, like: Tensor) -> Tensor:
        """Returns the kernels as they are correlated, (K, 1, kh, kw)."""

        def make() -> Tensor:
            kernels = self.kernels.to(like)[:, None]
            return kernels.flip(-2, -1) if self.flip else kernels

        return self._remember("taps", self.kernels, (self.flip, like.dtype), make)

    def _transfers(self, geometry: Correlation, like: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the transfer functions, (K, 1, h, w'), and their conjugates."""

        def make() -> tuple[Tensor, Tensor]:
            transfer = geometry.transfer(self._taps(like))
            return transfer, transfer.conj().resolve_conj()

        return self._remember("transfers", self.kernels, (geometry, self.flip, like.dtype), make)

    def _maps(self, x: Tensor) -> Tensor:
        """Returns the weights, (K, 1, H, W)."""
        image = (int(x.shape[-2]), int(x.shape[-1]))

        def make() -> Tensor:
            maps = tiles(self.grid or (1, 1), image) if self.weights is None else self.weights
            return maps.to(x)[:, None]

        source = self.kernels if self.weights is None else self.weights
        return self._remember("maps", source, (self.grid, image, x.dtype, x.device), make)

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
        geometry, w = self._parts(x)
        if self._is_small(geometry, x):
            pairs = _groups(x, w, self._taps(x))
            return _sum(_joined(geometry.directly(v * x[:, None], k)) for v, k in pairs)
        pairs = zip(w, self._transfers(geometry, x)[0], strict=True)
        return geometry.from_spectrum(_sum(geometry.to_spectrum(v * x) * t for v, t in pairs))

    def adjoint(self, y: Tensor) -> Tensor:
        geometry, w = self._parts(y)
        if self._is_small(geometry, y, back=True):
            pairs = _groups(y, w, self._taps(y))
            return _sum(_joined(v * geometry.directly_adjoint(_copies(y, v), k)) for v, k in pairs)
        pairs = zip(w, self._transfers(geometry, y)[1], strict=True)
        seen = geometry.to_spectrum_adjoint(y)
        return _sum(v * geometry.from_spectrum_adjoint(seen * t) for v, t in pairs)


class ConvolutionProduct(_VaryingBlur):
    r"""Blends several blurred copies of an image: each place of the sensor has its kernel.

    .. math:: y = \sum_k w_k \odot (h_k \star x)

    for every channel of x (B, C, H, W); y has the same shape, and constants are kept if the
    weights and each kernel have sum 1 (but at a zero boundary). Arguments and errors as in
    ``ProductConvolution``.

    Source: Nagy and O'Leary 1998.
    """

    def forward(self, x: Tensor) -> Tensor:
        geometry, w = self._parts(x)
        if self._is_small(geometry, x):
            wide, pairs = geometry.extend(x), _groups(x, w, self._taps(x))
            return _sum(_joined(v * correlate_sums(_copies(wide, v), k)) for v, k in pairs)
        pairs = zip(w, self._transfers(geometry, x)[0], strict=True)
        seen = geometry.to_spectrum(x)
        return _sum(v * geometry.from_spectrum(seen * t) for v, t in pairs)

    def adjoint(self, y: Tensor) -> Tensor:
        geometry, w = self._parts(y)
        if self._is_small(geometry, y, back=True):
            pairs = _groups(y, w, self._taps(y))
            spread = _sum(_joined(spread_sums(v * y[:, None], k)) for v, k in pairs)
            return geometry.fold_back(spread)
        pairs = zip(w, self._transfers(geometry, y)[1], strict=True)
        total = _sum(geometry.to_spectrum_adjoint(v * y) * t for v, t in pairs)
        return geometry.from_spectrum_adjoint(total)


def _groups(x: Tensor, w: Tensor, kernels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields weights and kernels, some at a time."""
    # All at once is fastest for small images (4 x 3 planes of 64 pixels, 4 kernels: 0.7 ms, not
    # 1.5 ms one by one), as long as they fit into the caches of a CPU.
    size = max(1, 2**19 // max(1, x.numel()))
    yield from zip(w.split(size), kernels.split(size), strict=True)


def _copies(x: Tensor, w: Tensor) -> Tensor:
    return x[:, None].expand(-1, len(w), -1, -1, -1)


def _joined(parts: Tensor) -> Tensor:
    """Sums over kernels, (B, K, C, H, W) -> (B, C, H, W)."""
    return parts.sum(1) if parts.shape[1] > 1 else parts[:, 0]


def _sum(parts: Iterable[Tensor]) -> Tensor:
    return reduce(torch.add, parts)


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
