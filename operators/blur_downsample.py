"""Super-resolution with any kernel: blur, then keep every s-th pixel."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral

import numpy as np
import torch
from torch import Tensor

from plugip.operator import LinearOperator, Shape, SpectralOperator, damping_like
from plugip.operators._options import require_count
from plugip.operators.alias_spectrum import AliasSpectrum, aliases
from plugip.operators.average_pool import require_divisible
from plugip.operators.blur import require_room
from plugip.operators.decimate import first_pixel
from plugip.operators.downsample import cubic
from plugip.operators.separable import BOUNDARIES, fold
from plugip.options import require_choice
from plugip.spectral import Spectrum


def bicubic_taps(factor: int = 4) -> Tensor:
    """Builds the antialiasing bicubic kernel, 4 s x 4 s taps with its centre between pixels.

    With ``flip=True`` and ``origin=2 s`` it is the kernel of PnP-Flow and deepinv; their image is
    shifted by s / 2 - 1 pixels against ``BicubicDownsample``. With ``flip=False`` and
    ``origin=3 s / 2``, s even, the two operators agree but for their boundaries.

    Args:
        factor: Reduction per side, s.

    Returns:
        Kernel, (4 s, 4 s), float64, with sum 1.

    Source: Keys 1981, eq. 15; Martin et al. 2025 (PnP-Flow), code, for the half-pixel grid.
    """
    s = require_count(factor, 1, "factor")
    taps = torch.from_numpy(cubic((np.arange(4 * s) - 2 * s + 0.5) / s))
    return torch.outer(taps, taps) / taps.sum().square()


class _KernelDownsample(LinearOperator):
    """What both operators share: the kernel, the grid of kept pixels, and the shapes."""

    per_image = ("kernel",)
    kernel: Tensor
    boundary: str

    def __init__(
        self,
        kernel: Tensor,
        factor: int,
        offset: str,
        origin: int | tuple[int, int] | None,
        flip: bool,
    ) -> None:
        super().__init__()
        self.factor = require_count(factor, 1, "factor")
        self.offset, self.first = offset, first_pixel(offset, factor)
        self.register_buffer("kernel", _require_kernel(kernel))
        rows, columns = self.kernel.shape[-2:]
        self.origin, self.flip = _require_origin(origin, (rows, columns)), flip

    def check_domain(self, x_shape: Shape) -> None:
        require_divisible(x_shape, self.factor)
        rows, columns = self.kernel.shape[-2:]
        require_room((rows, columns), x_shape, self.boundary)
        shared = [k in (1, n) for k, n in zip(self.kernel.shape[:2], x_shape[:2], strict=True)]
        if not all(shared):
            raise ValueError(
                f"a kernel of shape {tuple(self.kernel.shape)} does not fit images of shape "
                f"{tuple(x_shape)}; it must be (1 or B, 1 or C, rows, columns)"
            )

    def measurement_shape(self, x_shape: Shape) -> Shape:
        self.check_domain(x_shape)
        h, w = x_shape[-2:]
        return (*x_shape[:-2], h // self.factor, w // self.factor)

    def domain_shape(self, y_shape: Shape) -> Shape:
        h, w = y_shape[-2:]
        return (*y_shape[:-2], h * self.factor, w * self.factor)

    def _oriented(self, flip: bool, dtype: torch.dtype) -> tuple[Tensor, tuple[int, int]]:
        """Returns the kernel, turned by 180 degrees if ``flip``, and its origin then."""
        kernel = self.kernel.to(dtype)
        if not flip:
            return kernel, self.origin
        (rows, columns), (row, column) = kernel.shape[-2:], self.origin
        return kernel.flip(-2, -1), (rows - 1 - row, columns - 1 - column)

    def extra_repr(self) -> str:
        return (
            f"kernel={tuple(self.kernel.shape)}, factor={self.factor}, offset={self.offset!r}, "
            f"origin={self.origin}, flip={self.flip}, boundary={self.boundary!r}"
        )


class PaddedBlurDownsample(_KernelDownsample):
    r"""Blurs images with any kernel and any boundary rule, and keeps every s-th pixel.

    .. math:: y = (k \star x)_{o::s,\, o::s}

    for every channel of x (B, C, H, W), to y (B, C, H / s, W / s), in the range of x if k >= 0
    and sum k = 1. Only the kept pixels are computed. There is no closed pseudo-inverse; for the
    circular boundary ``BlurDownsample`` has one.

    Args:
        kernel: (rows, columns), or (1|B, 1|C, rows, columns) for one kernel per image or channel.
        factor: Reduction per side, s.
        boundary: reflect, symmetric, replicate, circular or zero; see ``GaussianBlur``.
        offset: First pixel kept: "upper-left", o = 0, or "centre", o = (s - 1) // 2.
        origin: Index of the tap that lies on the pixel itself, one number or (row, column), in
            the kernel as given. None: the middle tap, which only odd kernels have.
        flip: False correlates, y_i = sum_j k_j x_(i + j - origin), as DPS does; True convolves,
            as DiffPIR, PnP-Flow and deepinv do. Symmetric odd kernels do not care.

    Raises:
        TypeError: If the kernel is no tensor.
        ValueError: If an argument is out of range, or an even kernel has no origin; when called,
            if the images are too small for the kernel or not divisible by the factor.

    Source: Zhang et al. 2020 (USRNet), eq. 1, for the degradation model.
    """

    def __init__(
        self,
        kernel: Tensor,
        factor: int = 4,
        boundary: str = "reflect",
        offset: str = "upper-left",
        origin: int | tuple[int, int] | None = None,
        flip: bool = False,
    ) -> None:
        super().__init__(kernel, factor, offset, origin, flip)
        self.boundary = require_choice(boundary, BOUNDARIES, "boundary")

    def forward(self, x: Tensor) -> Tensor:
        self.check_domain(tuple(x.shape))
        kernel, (row, column) = self._oriented(self.flip, x.dtype)
        rows, columns = kernel.shape[-2:]
        v = _extended(x, row - self.first, rows - 1 - row + self.first, self.boundary, -2)
        v = _extended(v, column - self.first, columns - 1 - column + self.first, self.boundary, -1)
        return _strided(v, kernel, self.factor)


class BlurDownsample(_KernelDownsample, SpectralOperator):
    r"""Blurs images with any kernel, around their edges, and keeps every s-th pixel.

    .. math:: y = (k \circledast x)_{o::s,\, o::s}

    for every channel of x (B, C, H, W), to y (B, C, H / s, W / s), in the range of x if k >= 0
    and sum k = 1. The boundary is circular, so that all closed forms exist: the s² frequencies
    that alias onto one of y meet in a single singular value, the root of mean |K|² over them.
    ``PaddedBlurDownsample`` has the other boundaries.

    Args:
        kernel: (rows, columns), or (1|B, 1|C, rows, columns) for one kernel per image or channel;
            such as ``bicubic_taps(4)``.
        factor: Reduction per side, s.
        offset: First pixel kept: "upper-left", o = 0 (DiffPIR, PnP-Flow), or "centre",
            o = (s - 1) // 2.
        origin: Index of the tap that lies on the pixel itself, one number or (row, column), in
            the kernel as given. None: the middle tap, which only odd kernels have.
        flip: False correlates, y_i = sum_j k_j x_(i + j - origin), as DPS does; True convolves,
            as DiffPIR, PnP-Flow and deepinv do. Symmetric odd kernels do not care.

    Raises:
        TypeError: If the kernel is no tensor.
        ValueError: If an argument is out of range, or an even kernel has no origin; when called,
            if the images are too small for the kernel or not divisible by the factor.

    Source: Zhao et al. 2016, for the solve by aliases; Zhu et al. 2023 (DiffPIR), code.
    """

    boundary = "circular"

    def __init__(
        self,
        kernel: Tensor,
        factor: int = 4,
        offset: str = "upper-left",
        origin: int | tuple[int, int] | None = None,
        flip: bool = False,
    ) -> None:
        super().__init__(kernel, factor, offset, origin, flip)

    def forward(self, x: Tensor) -> Tensor:
        self.check_domain(tuple(x.shape))
        transfer = torch.fft.rfft2(self._impulse(tuple(x.shape), x.dtype))
        blurred = torch.fft.irfft2(transfer * torch.fft.rfft2(x), s=x.shape[-2:])
        return blurred[..., :: self.factor, :: self.factor].contiguous()

    def adjoint(self, y: Tensor) -> Tensor:
        return self._backward(torch.fft.fft2(y), y.dtype)

    def pinv(self, y: Tensor) -> Tensor:
        gain = self._gain(self.domain_shape(tuple(y.shape)), y.dtype)
        seen = gain > self.rcond**2 * gain.amax((-3, -2, -1), keepdim=True)
        inverse = torch.where(seen, 1 / torch.where(seen, gain, 1.0), 0.0)
        return self._backward(inverse * torch.fft.fft2(y), y.dtype)

    def solve_normal(self, b: Tensor, lam: float | Tensor) -> Tensor:
        damping = damping_like(lam, b)
        measured = torch.fft.fft2(self(b)) / (self._gain(tuple(b.shape), b.dtype) + damping)
        return (b - self._backward(measured, b.dtype)) / damping

    def spectrum(self, x_shape: Shape) -> Spectrum:
        self.check_domain(x_shape)
        transfer = torch.fft.fft2(self._impulse(x_shape, torch.float64))
        return AliasSpectrum.of(transfer, self.factor)

    def _impulse(self, x_shape: Shape, dtype: torch.dtype) -> Tensor:
        """Returns what a point becomes before decimation, moved so that pixel 0 is kept."""
        kernel, (row, column) = self._oriented(not self.flip, dtype)
        (h, w), (rows, columns) = x_shape[-2:], kernel.shape[-2:]
        padded = torch.nn.functional.pad(kernel, (0, w - columns, 0, h - rows))
        return padded.roll((-row - self.first, -column - self.first), (-2, -1))

    def _gain(self, x_shape: Shape, dtype: torch.dtype) -> Tensor:
        """Returns the eigenvalues of A A*, (1|B, 1|C, h, w): the mean of |K|² over aliases."""
        self.check_domain(x_shape)
        power = torch.fft.fft2(self._impulse(x_shape, dtype)).abs().square()
        return aliases(power, self.factor).mean((-4, -2))

    def _backward(self, y_hat: Tensor, dtype: torch.dtype) -> Tensor:
        """Returns A* y from the Fourier transform of y: decimation repeats it, periodically."""
        x_shape = self.domain_shape(tuple(y_hat.shape))
        self.check_domain(x_shape)
        transfer = torch.fft.rfft2(self._impulse(x_shape, dtype))
        repeated = y_hat.repeat(1, 1, self.factor, self.factor)[..., : transfer.shape[-1]]
        return torch.fft.irfft2(transfer.conj() * repeated, s=x_shape[-2:])


def _extended(x: Tensor, before: int, after: int, boundary: str, dim: int) -> Tensor:
    """Adds pixels by the boundary rule at both ends of an axis; negative numbers cut."""
    side = x.shape[dim]
    position = fold(np.arange(-before, side + after), side, boundary)
    index = torch.from_numpy(position).to(x.device)
    v = x.index_select(dim, index.clamp_min(0))
    if boundary != "zero":
        return v
    return v * (index >= 0).to(x.dtype).reshape((-1, 1) if dim == -2 else (-1,))


def _strided(x: Tensor, kernel: Tensor, factor: int) -> Tensor:
    """Correlates without padding, at every ``factor``-th place only."""
    (b, c), taps = x.shape[:2], kernel.shape[-2:]
    if kernel.shape[:2] == (1, 1):
        y = torch.nn.functional.conv2d(x.flatten(0, 1)[:, None], kernel, stride=factor)
    else:
        each = kernel.expand(b, c, *taps).reshape(b * c, 1, *taps)
        y = torch.nn.functional.conv2d(x.flatten(0, 1)[None], each, stride=factor, groups=b * c)
    return y.reshape(b, c, *y.shape[-2:])


def _require_kernel(kernel: Tensor) -> Tensor:
    if not isinstance(kernel, Tensor):
        raise TypeError(
            f"kernel must be a tensor such as bicubic_taps(4), got {type(kernel).__name__}"
        )
    if kernel.ndim not in (2, 4) or kernel.numel() == 0 or not kernel.is_floating_point():
        raise ValueError(
            "kernel must be floating point, (rows, columns) or (1 or B, 1 or C, rows, columns), "
            f"got {kernel.dtype} of shape {tuple(kernel.shape)}"
        )
    if not bool(kernel.isfinite().all()) or not bool((kernel != 0).any()):
        raise ValueError("kernel must hold finite numbers, not all of them zero")
    return kernel if kernel.ndim == 4 else kernel[None, None]


def _require_origin(
    origin: int | tuple[int, int] | None, sizes: tuple[int, int]
) -> tuple[int, int]:
    rows, columns = sizes
    if origin is None:
        if rows % 2 == 0 or columns % 2 == 0:
            raise ValueError(
                f"a kernel of {rows} x {columns} taps has no middle tap; give origin, the index "
                f"of the tap that lies on the pixel itself, such as origin=({rows // 2}, "
                f"{columns // 2})"
            )
        return rows // 2, columns // 2
    place = tuple(origin) if isinstance(origin, Iterable) else (origin, origin)
    whole = len(place) == 2 and all(isinstance(i, Integral) for i in place)
    if not whole or not (0 <= place[0] < rows and 0 <= place[1] < columns):
        raise ValueError(
            f"origin must be one whole number or two (row, column) inside the kernel of {rows} x "
            f"{columns} taps, got {origin!r}"
        )
    return int(place[0]), int(place[1])
