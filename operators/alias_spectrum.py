"""The exact SVD of circular convolution followed by decimation, in the Fourier domain."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from plugip.spectral import Spectrum


@dataclass(frozen=True, eq=False)
class AliasSpectrum(Spectrum):
    """Circular convolution and decimation, diagonal up to one reflection per group of aliases.

    The s² frequencies of a group are seen through one vector v = conj(K) / ‖K‖. The Householder
    reflection that turns v into the group's first frequency makes the basis complete.
    Coefficients are complex, (B, C, H, W); the first H / s x W / s of them have s > 0.

    Build with ``AliasSpectrum.of(transfer, factor)``.
    """

    s: Tensor
    mirror: Tensor  # (..., s, h, s, w), of norm sqrt(2) in each group
    phase: Tensor  # (..., h, w)
    factor: int

    @staticmethod
    def of(transfer: Tensor, factor: int) -> AliasSpectrum:
        """Builds the factors from the kernel's transfer function, complex, (..., H, W)."""
        groups = aliases(transfer, factor)
        size = groups.abs().square().sum((-4, -2), keepdim=True).sqrt()
        first = torch.zeros_like(groups)
        first[..., :1, :, :1, :] = 1.0
        v = torch.where(size > 0, groups.conj() / torch.where(size > 0, size, 1.0), first)
        lead = v[..., :1, :, :1, :]
        turn = torch.where(lead.abs() > 0, torch.sgn(lead), 1.0)
        mirror = (v + turn * first) / (1 + lead.abs()).sqrt()
        s = torch.zeros_like(groups.real)
        s[..., :1, :, :1, :] = size / factor
        return AliasSpectrum(
            s.flatten(-4, -3).flatten(-2, -1), mirror, -turn.conj()[..., 0, :, 0, :], factor
        )

    def Vt(self, x: Tensor) -> Tensor:
        return self._reflected(torch.fft.fft2(x, norm="ortho"))

    def V(self, coefficients: Tensor) -> Tensor:
        return torch.fft.ifft2(self._reflected(coefficients), norm="ortho").real

    def Ut(self, y: Tensor) -> Tensor:
        small = self.phase.conj() * torch.fft.fft2(y, norm="ortho")
        (h, w), n = small.shape[-2:], self.factor - 1
        return torch.nn.functional.pad(small, (0, n * w, 0, n * h))

    def U(self, coefficients: Tensor) -> Tensor:
        h, w = self.phase.shape[-2:]
        return torch.fft.ifft2(self.phase * coefficients[..., :h, :w], norm="ortho").real

    def to(self, like: Tensor) -> AliasSpectrum:
        cast = {"device": like.device, "dtype": like.dtype.to_complex()}
        mirror, phase = self.mirror.to(**cast), self.phase.to(**cast)
        return AliasSpectrum(self.s.to(like.real), mirror, phase, self.factor)

    def _reflected(self, coefficients: Tensor) -> Tensor:
        groups = aliases(coefficients, self.factor)
        along = (self.mirror.conj() * groups).sum((-4, -2), keepdim=True)
        return (groups - self.mirror * along).flatten(-4, -3).flatten(-2, -1)


def aliases(coefficients: Tensor, factor: int) -> Tensor:
    """Groups frequencies that decimation cannot tell apart, (..., H, W) -> (..., s, h, s, w)."""
    h, w = (side // factor for side in coefficients.shape[-2:])
    return coefficients.unflatten(-1, (factor, w)).unflatten(-3, (factor, h))
