"""Denoising: the identity, so that noise alone separates y from x."""

from __future__ import annotations

import torch
from torch import Tensor

from plugip.operator import Shape, SpectralOperator
from plugip.spectral import DiagonalSpectrum


class Denoise(SpectralOperator):
    """Observes the image itself, y = x; the task is to remove the noise.

    Takes images of any shape (B, C, H, W) and any range. Adjoint, pseudo-inverse and SVD are the
    identity. PnP-Flow's denoising task uses noise of std 0.2 on [-1, 1].

    Source: Martin et al. 2025 (PnP-Flow), code.
    """

    spectrum_type = DiagonalSpectrum

    def __init__(self) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        # A copy: writing into y must not write into x.
        return x.clone()

    def adjoint(self, y: Tensor) -> Tensor:
        return y.clone()

    def spectrum(self, x_shape: Shape) -> DiagonalSpectrum:
        return DiagonalSpectrum(torch.ones((1,) * len(x_shape), dtype=torch.float64))
