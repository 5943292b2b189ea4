"""Blur with given kernels, one per image if wanted, differentiable in image and kernel."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from plugip.operator import LinearOperator, Shape, SpectralOperator
from plugip.operators.separable import BOUNDARIES, fold
from plugip.options import require_choice
from plugip.spectral import FourierSpectrum

Place = tuple[int, int]


def kernel_blur(kernel: Tensor, boundary: str = "zero", origin: Place | None = None) -> KernelBlur:
    """Returns the blur with these kernels: spectral for a circular boundary, else linear.

    Args:
        kernel: (1|B, 1|C, rows, columns).
        boundary: circular, reflect, symmetric, replicate or zero.
        origin: As in ``KernelBlur``.
    """
    return (CircularKernelBlur if boundary == "circular" else KernelBlur)(kernel, boundary, origin)


class KernelBlur(LinearOperator):
    r"""Blurs images with kernels that are part of what is solved for, or differ by image.

    .. math:: y[i] = \sum_a k[a]\, x[i + a - o]

    for every channel; the kernel is not flipped. x and y are (B, C, H, W). Gradients reach the
    kernel: its buffer keeps the graph of the tensor that was given.

    Args:
        kernel: (1|B, 1|C, rows, columns).
        boundary: reflect, symmetric, replicate, zero, or circular (then use ``kernel_blur``, which
            knows the closed forms).
        origin: Index (row, column) of the kernel's pixel that sits on the image's pixel; None: the
            middle, for odd sizes only.

    Raises:
        ValueError: If an argument is out of range; when called, if the image is too small.
    """

    per_image = ("kernel",)
    kernel: Tensor

    def __init__(
        self, kernel: Tensor, boundary: str = "zero", origin: Place | None = None
    ) -> None:
        super().__init__()
        if kernel.ndim != 4 or not kernel.is_floating_point():
            raise ValueError(
                "kernel must be floating point of shape (1 or B, 1 or C, rows, columns), got "
                f"{kernel.dtype} of shape {tuple(kernel.shape)}"
            )
        self.boundary = require_choice(boundary, BOUNDARIES, "boundary")
        self.origin = require_origin((kernel.shape[-2], kernel.shape[-1]), origin)
        self.register_buffer("kernel", kernel)

    def forward(self, x: Tensor) -> Tensor:
        self.check_domain(tuple(x.shape))
        return correlate_fft(x, self.kernel, self.boundary, self.origin)

    def check_domain(self, x_shape: Shape) -> None:
        for got, have in zip(self.kernel.shape[:2], x_shape[:2], strict=True):
            if got not in (1, have):
                raise ValueError(
                    f"kernels of shape {tuple(self.kernel.shape)} do not fit images of shape "
                    f"{tuple(x_shape)}; they must be (1 or B, 1 or C, rows, columns)"
                )
        require_reach(self.kernel.shape[-2:], self.origin, x_shape, self.boundary)

    def extra_repr(self) -> str:
        shape = tuple(self.kernel.shape)
        return f"kernel={shape}, boundary={self.boundary!r}, origin={self.origin}"


class CircularKernelBlur(KernelBlur, SpectralOperator):
    """The blur that wraps around the edges; its SVD is the Fourier transform."""

    spectrum_type = FourierSpectrum

    def spectrum(self, x_shape: Shape) -> FourierSpectrum:
        self.check_domain(x_shape)
        rows, columns = self.kernel.shape[-2:]
        h, w = x_shape[-2:]
        wide = torch.nn.functional.pad(self.kernel, (0, w - columns, 0, h - rows))
        placed = wide.roll((-self.origin[0], -self.origin[1]), (-2, -1))
        return FourierSpectrum.of(torch.fft.fft2(placed).conj())


def correlate_fft(x: Tensor, kernel: Tensor, boundary: str, origin: Place) -> Tensor:
    """Correlates every channel with its kernel through Fourier; arguments as in ``KernelBlur``."""
    kernel = kernel.to(x)
    (rows, columns), (h, w) = kernel.shape[-2:], x.shape[-2:]
    wide = _extended(x, origin[0], rows - 1 - origin[0], boundary, -2)
    wide = _extended(wide, origin[1], columns - 1 - origin[1], boundary, -1)
    size = [_fast_length(n) for n in wide.shape[-2:]]
    product = torch.fft.rfft2(wide, size) * torch.fft.rfft2(kernel, size).conj()
    return torch.fft.irfft2(product, size)[..., :h, :w]


def require_origin(size: Place, origin: Place | None) -> Place:
    """Returns the origin of a kernel; the middle is taken only where there is one."""
    if origin is None:
        if any(side % 2 == 0 for side in size):
            raise ValueError(
                f"a kernel of {size[0]} x {size[1]} has no middle pixel; use odd sizes, or give "
                f"origin, such as {(size[0] // 2, size[1] // 2)}, or "
                f"{((size[0] - 1) // 2, (size[1] - 1) // 2)} as the code of DMPlug"
            )
        return size[0] // 2, size[1] // 2
    place = tuple(origin)
    if len(place) != 2 or not all(0 <= o < n for o, n in zip(place, size, strict=True)):
        raise ValueError(
            f"origin must be a (row, column) inside the kernel of {size[0]} x {size[1]}, got "
            f"{origin!r}"
        )
    return int(place[0]), int(place[1])


def require_reach(size: Shape, origin: Place, x_shape: Shape, boundary: str) -> None:
    """Raises a ValueError if a kernel reaches further than the boundary rule can tell."""
    if boundary == "zero":
        return
    for n, o, side, axis in zip(size, origin, x_shape[-2:], ("high", "wide"), strict=True):
        most = side if boundary == "circular" else side - 1
        reach = n if boundary == "circular" else max(o, n - 1 - o)
        if reach > most:
            raise ValueError(
                f"a kernel of {n} taps is too large for images {side} pixels {axis} with a "
                f"{boundary} boundary; use a smaller kernel, larger images, or boundary='zero'"
            )


def _extended(x: Tensor, before: int, after: int, boundary: str, dim: int) -> Tensor:
    if boundary == "zero":
        pad = (before, after) if dim == -1 else (0, 0, before, after)
        return torch.nn.functional.pad(x, pad)
    index = fold(np.arange(-before, x.shape[dim] + after), x.shape[dim], boundary)
    return x.index_select(dim, torch.from_numpy(index).to(x.device))


def _fast_length(n: int) -> int:
    """The next length that has only the factors 2, 3 and 5."""
    while True:
        rest = n
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return n
        n += 1
