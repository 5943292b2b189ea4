"""Bare decimation: one pixel of each square is kept, without any blur before."""

from __future__ import annotations

import torch
from torch import Tensor

from plugip.linalg import damping_like
from plugip.operator import Shape, SpectralOperator
from plugip.operators._options import require_count
from plugip.operators._vectors import SelectionSpectrum
from plugip.operators.average_pool import require_divisible
from plugip.options import require_choice
from plugip.spectral import Spectrum

OFFSETS = ("upper-left", "centre")


def first_pixel(offset: str, factor: int) -> int:
    """Returns the index of the first kept pixel: 0, or (factor - 1) // 2 for the centre."""
    return 0 if require_choice(offset, OFFSETS, "offset") == "upper-left" else (factor - 1) // 2


class Decimate(SpectralOperator):
    r"""Keeps every s-th pixel of every s-th row, which aliases what is fine in the image.

    .. math:: y_{ij} = x_{o + si,\, o + sj}

    for every channel of x (B, C, H, W), to y (B, C, H / s, W / s), in the range of x. Adjoint and
    pseudo-inverse fill zeros in between; s is 0 or 1. ``Decimate(4) @ A`` decimates after A.

    Args:
        factor: Reduction per side, s; 2 at 128 pixels and 4 at 256 in PnP-Flow.
        offset: First pixel kept: "upper-left", o = 0 (PnP-Flow), or "centre", o = (s - 1) // 2.

    Raises:
        ValueError: If an argument is out of range; when called, if the factor does not divide
            both sides of the images.

    Source: Martin et al. 2025 (PnP-Flow), code.
    """

    def __init__(self, factor: int = 4, offset: str = "upper-left") -> None:
        super().__init__()
        self.factor = require_count(factor, 1, "factor")
        self.offset, self.first = offset, first_pixel(offset, factor)

    def forward(self, x: Tensor) -> Tensor:
        self.check_domain(tuple(x.shape))
        # A copy: writing into y must not write into x.
        return x[..., self.first :: self.factor, self.first :: self.factor].clone()

    def adjoint(self, y: Tensor) -> Tensor:
        x = y.new_zeros(self.domain_shape(tuple(y.shape)))
        x[..., self.first :: self.factor, self.first :: self.factor] = y
        return x

    def pinv(self, y: Tensor) -> Tensor:
        return self.adjoint(y)

    def solve_normal(self, b: Tensor, lam: float | Tensor) -> Tensor:
        kept = self._kept(tuple(b.shape)).to(b.device)
        return b / (kept.to(b.dtype) + damping_like(lam, b))

    def spectrum(self, x_shape: Shape) -> Spectrum:
        return SelectionSpectrum(self._kept(x_shape), self)

    def check_domain(self, x_shape: Shape) -> None:
        require_divisible(x_shape, self.factor)

    def measurement_shape(self, x_shape: Shape) -> Shape:
        self.check_domain(x_shape)
        h, w = x_shape[-2:]
        return (*x_shape[:-2], h // self.factor, w // self.factor)

    def domain_shape(self, y_shape: Shape) -> Shape:
        h, w = y_shape[-2:]
        return (*y_shape[:-2], h * self.factor, w * self.factor)

    def _kept(self, x_shape: Shape) -> Tensor:
        self.check_domain(x_shape)
        h, w = x_shape[-2:]
        return self.adjoint(torch.ones(h // self.factor, w // self.factor, dtype=torch.float64))

    def extra_repr(self) -> str:
        return f"factor={self.factor}, offset={self.offset!r}"
