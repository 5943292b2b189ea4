"""Super-resolution with any kernel: blur, then keep every s-th pixel."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
import torch
from torch import Tensor

from plugip.linalg import damping_like
from plugip.operator import LinearComposition, Shape, SpectralOperator
from plugip.operators._options import require_count
from plugip.operators.alias_spectrum import AliasSpectrum, aliases
from plugip.operators.blur import Blur, CircularBlur
from plugip.operators.decimate import Decimate
from plugip.operators.downsample import cubic
from plugip.operators.kernels import FixedKernel, KernelSampler

if TYPE_CHECKING:
    from plugip.rng import Rng


@dataclass(frozen=True)
class BicubicKernel(FixedKernel):
    """Builds the antialiasing bicubic kernel, 4 s x 4 s taps with its centre between pixels.

    With ``flip=True`` and ``origin=2 s`` it is the kernel of PnP-Flow and deepinv, whose images
    lie s / 2 - 1 pixels beside those of ``BicubicDownsample``. With ``flip=False`` and
    ``origin=3 s / 2``, s even, the two agree, at the edges too if the boundary is symmetric.

    Args:
        factor: Reduction per side, s.

    Raises:
        ValueError: If the factor is not a positive whole number.

    Source: Keys 1981, eq. 15; Martin et al. 2025 (PnP-Flow), code, for the half-pixel grid.
    """

    factor: int = 4

    def __post_init__(self) -> None:
        require_count(self.factor, 1, "factor")

    def build(self) -> Tensor:
        """Returns the kernel, (4 s, 4 s), float64, with sum 1."""
        s = self.factor
        taps = torch.from_numpy(cubic((np.arange(4 * s) - 2 * s + 0.5) / s))
        return torch.outer(taps, taps) / taps.sum().square()


class BlurDownsample(LinearComposition):
    r"""Blurs images with any kernel and keeps every s-th pixel, super-resolution in general.

    .. math:: y = (k \star x)_{o::s,\, o::s}

    for every channel of x (B, C, H, W), to y (B, C, H / s, W / s), in the range of x if k >= 0
    and sum k = 1. Blurs as ``Blur`` does and decimates as ``Decimate`` does; the adjoint is exact.
    ``BlurDownsample(k, s, "circular")`` is a ``CircularBlurDownsample``, with SVD, pseudo-inverse
    and damped solve in closed form; at the other boundaries ``solve_normal`` iterates.

    Args:
        kernel: (kh, kw), or one per image (B, kh, kw); a fixed kernel such as
            ``BicubicKernel(4)``; or a sampler: then call ``realise(rng, x_shape)`` first.
        factor: Reduction per side, s.
        boundary: circular (DiffPIR, PnP-Flow), reflect, symmetric, replicate, zero or valid.
        flip: False correlates (the DPS family), True convolves (DiffPIR, PnP-Flow, deepinv).
        origin: Tap that lies on the pixel itself, one number or (row, column), in the kernel as
            given; the middle if both sides of the kernel are odd, else it must be given.
        offset: First pixel kept: "upper-left", o = 0 (DiffPIR, PnP-Flow), or "centre",
            o = (s - 1) // 2.

    Raises:
        TypeError: If the kernel is neither tensor nor sampler, or x is not float32 or float64.
        ValueError: If an argument is out of range, or an even kernel has no origin; when called,
            if the images are too small for the kernel or not divisible by the factor.
        RuntimeError: When used before ``realise``.

    Source: Zhang et al. 2020 (USRNet), eq. 1; Zhu et al. 2023 (DiffPIR), code.
    """

    def __new__(
        cls,
        kernel: Tensor | FixedKernel | KernelSampler | None = None,
        factor: int = 4,
        boundary: str = "circular",
        flip: bool = False,
        origin: int | tuple[int, int] | None = None,
        offset: str = "upper-left",
    ) -> Self:
        # As for Blur, capabilities are types: only the circular boundary has an SVD. A copy is
        # made without arguments, and keeps its type.
        if cls is BlurDownsample and boundary == "circular" and kernel is not None:
            return cast(Any, object.__new__(CircularBlurDownsample))
        return super().__new__(cls)

    def __init__(
        self,
        kernel: Tensor | FixedKernel | KernelSampler,
        factor: int = 4,
        boundary: str = "circular",
        flip: bool = False,
        origin: int | tuple[int, int] | None = None,
        offset: str = "upper-left",
    ) -> None:
        super().__init__(Decimate(factor, offset), Blur(kernel, boundary, flip, origin))
        if isinstance(self, SpectralOperator) and boundary != "circular":
            raise ValueError(
                f"CircularBlurDownsample is circular, got boundary {boundary!r}; "
                "use BlurDownsample"
            )

    @property
    def decimate(self) -> Decimate:
        """The second half, which keeps every s-th pixel."""
        return cast(Decimate, self.outer)

    @property
    def blur(self) -> Blur:
        """The first half."""
        return cast(Blur, self.inner)

    def realise(self, rng: Rng, x_shape: Shape) -> BlurDownsample:
        return self._with(self.blur.realise(rng, x_shape))

    def select(self, rows: list[int]) -> BlurDownsample:
        return self._with(cast(Blur, self.blur.select(rows)))

    def _with(self, blur: Blur) -> BlurDownsample:
        if blur is self.blur:
            return self
        other = copy.copy(self)
        other._modules = {**self._modules, "inner": blur}
        return other


class CircularBlurDownsample(BlurDownsample, SpectralOperator):
    """Blurs around the edges and keeps every s-th pixel: exact SVD and solves through Fourier.

    ``BlurDownsample(kernel, factor, "circular")`` gives this type; arguments as there. The s²
    frequencies that decimation cannot tell apart meet in one singular value, the root of the mean
    of |F k|² over them; ``pinv`` drops values below ``rcond`` times the largest of each image.

    Source: Zhao et al. 2016, for the solve by groups of aliases.
    """

    def spectrum(self, x_shape: Shape) -> AliasSpectrum:
        self.check_domain(x_shape)
        seen = cast(CircularBlur, self.blur).spectrum(x_shape)
        ramps = [_shift(side, self.decimate.first) for side in x_shape[-2:]]
        shift = torch.outer(*ramps).to(seen.phase)
        return AliasSpectrum.of(seen.s * seen.phase * shift, self.decimate.factor)

    def pinv(self, y: Tensor) -> Tensor:
        gain = self._gain(y, self.domain_shape(tuple(y.shape)))
        seen = gain > self.rcond**2 * gain.amax((-3, -2, -1), keepdim=True)
        inverse = torch.where(seen, 1 / torch.where(seen, gain, 1.0), 0.0)
        return self.adjoint(torch.fft.ifft2(inverse * torch.fft.fft2(y)).real)

    def solve_normal(self, b: Tensor, lam: float | Tensor) -> Tensor:
        damping = damping_like(lam, b)
        measured = torch.fft.fft2(self(b)) / (self._gain(b, tuple(b.shape)) + damping)
        return (b - self.adjoint(torch.fft.ifft2(measured).real)) / damping

    def _gain(self, like: Tensor, x_shape: Shape) -> Tensor:
        """Returns the eigenvalues of A A*, (1 or B, 1, h, w): the mean of |F k|² over aliases."""
        self.check_domain(x_shape)
        s = cast(CircularBlur, self.blur).spectrum(x_shape).to(like).s
        return aliases(s.square(), self.decimate.factor).mean((-4, -2))


def _shift(side: int, pixels: int) -> Tensor:
    """Returns the transfer function that moves pixel ``pixels`` of a line to its start."""
    line = torch.zeros(side, dtype=torch.float64)
    line[-pixels % side] = 1.0
    return torch.fft.fft(line)
