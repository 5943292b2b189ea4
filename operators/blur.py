"""Blur by any kernel, for all images, for each image or for each channel, at any boundary."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from plugip.linalg import widened
from plugip.operator import LinearOperator, Shape, SpectralOperator, damping_like, require_batch
from plugip.operators._memo import Remembers
from plugip.operators.correlation import BOUNDARIES, Correlation, require_fit
from plugip.operators.kernels import DefocusKernel, FixedKernel, KernelSampler, MotionKernel
from plugip.operators.separable_blur import AnisotropicGaussianBlur as AnisotropicGaussianBlur
from plugip.operators.separable_blur import GaussianBlur as GaussianBlur
from plugip.operators.separable_blur import UniformBlur as UniformBlur
from plugip.operators.separable_blur import gaussian_taps as gaussian_taps
from plugip.operators.separable_blur import require_room as require_room
from plugip.options import require_choice
from plugip.spectral import FourierSpectrum

if TYPE_CHECKING:
    from plugip.rng import Rng

Origin = int | tuple[int, int] | None


class Blur(Remembers, LinearOperator):
    r"""Blurs images with any kernel, the general linear deblurring task.

    .. math:: y[i] = \sum_j k[j]\, x[i + j - o]

    for every channel of x (B, C, H, W), with the origin o; ``flip=True`` convolves instead,
    x[i - j + o]. y has the shape of x, or (B, C, H - kh + 1, W - kw + 1) for "valid", and the
    range of x if k >= 0 and sum k = 1 (a zero boundary darkens the edges towards 0). Computed in
    float32 or float64, large kernels by FFT; the adjoint is exact and as fast.
    ``Blur(k, "circular")`` is a
    ``CircularBlur``, with SVD, pseudo-inverse and damped solve in closed form; at the other
    boundaries ``solve_normal`` iterates.

    Args:
        kernel: (kh, kw), or one per image (B, kh, kw), or also one per channel
            (1|B, 1|C, kh, kw); or a fixed kernel such as ``DefocusKernel(3)``; or a sampler such
            as ``MotionKernel(61)``: then call ``realise(rng, x_shape)`` first. Gradients reach a
            given tensor: the buffer keeps its graph, as blind methods need.
        boundary: reflect (DPS, DAPS), zero (DMPlug, DDRM), circular (DiffPIR, PnP-Flow),
            symmetric, replicate, or valid, which keeps only what needs no boundary.
        flip: False correlates (the DPS family), True convolves (DiffPIR, deepinv).
        origin: Tap that lies on the pixel itself, (row, column); the middle if both sides of the
            kernel are odd. DMPlug's 64 x 64 kernels have 31.

    Raises:
        TypeError: If the kernel is neither tensor nor sampler, or x is not float32 or float64.
        ValueError: If the kernel has another shape, a side is even without origin, or an option is
            unknown; if it is not finite, but with four axes, where a kernel that an optimiser
            lost is the affair of its own image; when called, if it does not fit the images.
        RuntimeError: When used before ``realise``.

    Source: Chung et al. 2023 (DPS) and Wang et al. 2024 (DMPlug) for the conventions.
    """

    per_image = ("kernel",)
    kernel: Tensor

    def __new__(
        cls,
        kernel: Tensor | FixedKernel | KernelSampler | None = None,
        boundary: str = "reflect",
        flip: bool = False,
        origin: Origin = None,
    ) -> Blur:
        # Capabilities are types: only the circular boundary has an SVD.
        return object.__new__(CircularBlur if cls is Blur and boundary == "circular" else cls)

    def __init__(
        self,
        kernel: Tensor | FixedKernel | KernelSampler,
        boundary: str = "reflect",
        flip: bool = False,
        origin: Origin = None,
    ) -> None:
        super().__init__()
        self.boundary = require_choice(boundary, BOUNDARIES, "boundary")
        self.flip, self.origin = flip, None if origin is None else as_origin(origin)
        given = kernel.build() if isinstance(kernel, FixedKernel) else kernel
        self.sampler = None if isinstance(given, Tensor) else _require_sampler(given)
        # Without a kernel yet, an empty one keeps the device.
        empty = torch.empty(0, 0, 0, dtype=torch.float64)
        self.register_buffer(
            "kernel", _require_kernel(given) if isinstance(given, Tensor) else empty
        )
        if self.sampler is None:
            self._origin()

    def forward(self, x: Tensor) -> Tensor:
        geometry = self._geometry(tuple(x.shape), x)
        if self._by_sums(geometry, x):
            return geometry.directly(x, self._cast_taps(x))
        return geometry.by_fft(x, self._transfer(geometry, x))

    def adjoint(self, y: Tensor) -> Tensor:
        geometry = self._geometry(self.domain_shape(tuple(y.shape)), y)
        if tuple(y.shape[-2:]) != geometry.output:
            raise ValueError(
                f"y must have {geometry.output[0]} x {geometry.output[1]} pixels, "
                f"got {tuple(y.shape)}"
            )
        if self._by_sums(geometry, y, back=True):
            return geometry.directly_adjoint(y, self._cast_taps(y))
        return geometry.by_fft_adjoint(y, self._mirrored(geometry, y))

    def check_domain(self, x_shape: Shape) -> None:
        if self.sampler is not None:
            return
        if self.kernel.shape[0] not in (1, x_shape[0]):
            raise ValueError(
                f"there are {self.kernel.shape[0]} kernels for a batch of {x_shape[0]} images; "
                "give one kernel, or one per image"
            )
        if self.kernel.ndim == 4 and self.kernel.shape[1] not in (1, x_shape[1]):
            raise ValueError(
                f"there are {self.kernel.shape[1]} kernels for the {x_shape[1]} channels of each "
                "image; give one kernel, or one per channel"
            )
        require_fit(self._size(), self._origin(), x_shape, self.boundary)

    def domain_shape(self, y_shape: Shape) -> Shape:
        if self.boundary != "valid":
            return y_shape
        (rows, columns), (h, w) = self._size(), y_shape[-2:]
        return (*y_shape[:-2], h + rows - 1, w + columns - 1)

    def measurement_shape(self, x_shape: Shape) -> Shape:
        if self.sampler is not None and self.boundary != "valid":
            return tuple(x_shape)
        return (*x_shape[:-2], *self._geometry(x_shape).output)

    def realise(self, rng: Rng, x_shape: Shape) -> Blur:
        if self.sampler is None:
            return self
        if len(rng) != x_shape[0]:
            raise ValueError(f"need one stream per image, got {len(rng)} for {x_shape[0]} images")
        kernel = self.sampler.draw(rng.child("kernel"), x_shape)
        return Blur(kernel.to(self.kernel), self.boundary, self.flip, self.origin)

    def _size(self) -> tuple[int, int]:
        if self.sampler is not None:
            raise RuntimeError(
                f"{type(self).__name__} has no kernel yet, it draws one per image from "
                f"{self.sampler}; call operator = operator.realise(rng, x.shape) first"
            )
        return int(self.kernel.shape[-2]), int(self.kernel.shape[-1])

    def _origin(self) -> tuple[int, int]:
        rows, columns = self._size()
        if self.boundary == "valid":
            return 0, 0  # it only says where y lies
        return tap_origin((rows, columns), self.origin)

    def _geometry(self, x_shape: Shape, like: Tensor | None = None) -> Correlation:
        """Returns the checked geometry; checks the images themselves too if they are given."""
        if like is None:
            return self._made_geometry(x_shape)
        key = (self.boundary, self.flip, self.origin, x_shape, like.dtype, like.device)
        return self._remember(
            "geometry", self.kernel, key, lambda: self._made_geometry(x_shape, like)
        )

    def _made_geometry(self, x_shape: Shape, like: Tensor | None = None) -> Correlation:
        size, origin = self._size(), self._origin()
        if like is not None:
            require_batch(like, self.domain_ndim, type(self).__name__)
            require_precision(like, self.kernel, type(self).__name__)
        self.check_domain(x_shape)
        if self.flip:
            origin = size[0] - 1 - origin[0], size[1] - 1 - origin[1]
        return Correlation(size, origin, self.boundary, (int(x_shape[-2]), int(x_shape[-1])))

    def _taps(self) -> Tensor:
        """Returns the kernel as it is correlated, (1 or B, 1 or C, kh, kw)."""
        kernel = self.kernel if self.kernel.ndim == 4 else self.kernel[:, None]
        return kernel.flip(-2, -1) if self.flip else kernel

    def _by_sums(self, geometry: Correlation, x: Tensor, back: bool = False) -> bool:
        # Where the kernel is learnt, FFTs: the gradient of sums in the kernel is slow (9 x 9 taps,
        # 4 colour images of 256 pixels: 57 ms with the sums, by FFT 12 ms; 5 x 5: 17 and 12 ms).
        return not self.kernel.requires_grad and geometry.is_small(x.shape[1], x, back)

    def _cast_taps(self, like: Tensor) -> Tensor:
        dtype = like.dtype
        return self._remember(
            "taps", self.kernel, (dtype, self.flip), lambda: self._taps().to(dtype)
        )

    def _transfer(self, geometry: Correlation, like: Tensor) -> Tensor:
        dtype = like.dtype
        return self._remember(
            "half",
            self.kernel,
            (geometry, dtype),
            lambda: geometry.transfer(self._taps().to(dtype)),
        )

    def _mirrored(self, geometry: Correlation, like: Tensor) -> Tensor:
        """Returns the conjugate of the transfer function, in full: lazy ones cost at each call."""
        key = (geometry, like.dtype)
        transfer = self._transfer(geometry, like)
        return self._remember("mirrored", self.kernel, key, lambda: transfer.conj().resolve_conj())

    def extra_repr(self) -> str:
        source = tuple(self.kernel.shape) if self.sampler is None else self.sampler
        return (
            f"kernel={source}, boundary={self.boundary!r}, flip={self.flip}, origin={self.origin}"
        )


class CircularBlur(Blur, SpectralOperator):
    """Blurs images with any kernel and a circular boundary: exact SVD and solves through Fourier.

    ``Blur(kernel, "circular")`` gives this type; arguments as there. s = |F k|, sorted as the
    frequencies; ``pinv`` drops values below ``rcond`` times the largest of each image.
    """

    spectrum_type = FourierSpectrum

    def spectrum(self, x_shape: Shape) -> FourierSpectrum:
        geometry = self._geometry(x_shape)
        return self._remember(
            "full",
            self.kernel,
            (geometry,),
            lambda: FourierSpectrum.of(geometry.full_transfer(widened(self._taps()))),
        )

    def solve_normal(self, b: Tensor, lam: float | Tensor) -> Tensor:
        geometry = self._geometry(tuple(b.shape), b)
        gain = self._transfer(geometry, b).abs().square() + damping_like(lam, b)
        return torch.fft.irfft2(torch.fft.rfft2(b) / gain, s=geometry.grid)

    def pinv(self, y: Tensor) -> Tensor:
        geometry = self._geometry(tuple(y.shape), y)
        transfer = self._transfer(geometry, y)
        power = transfer.abs().square()
        seen = power > self.rcond**2 * power.amax((1, 2, 3), keepdim=True)
        inverse = torch.where(seen, transfer.conj() / torch.where(seen, power, 1.0), 0.0)
        return torch.fft.irfft2(torch.fft.rfft2(y) * inverse, s=geometry.grid)


class MotionBlur(Blur):
    r"""Blurs images with the trace of a shaken camera, one random kernel per image.

    ``Blur`` with a ``MotionKernel``: call ``realise(rng, x_shape)`` before use, which returns a
    ``Blur`` (a ``CircularBlur`` if circular) with its kernels. For the kernel of a published run
    use ``Blur(legacy_motion_kernel(np.random.RandomState(0), draws=2))``.

    Args:
        size: Taps per side. 61 in DPS and DAPS at 256 pixels, 64 in DMPlug.
        intensity: 0 for straight lines, 1 for wild paths; 0.5 in DPS, DAPS and DMPlug.
        boundary: As in ``Blur``. reflect in DPS and DAPS, zero in DMPlug.
        flip: As in ``Blur``.
        origin: As in ``Blur``; needed if ``size`` is even: 31 for 64 taps in DMPlug.

    Raises:
        ValueError: If an argument is out of range; when called, if the image is too small.

    Source: Chung et al. 2023 (DPS), code.
    """

    def __new__(
        cls,
        size: int = 61,
        intensity: float = 0.5,
        boundary: str = "reflect",
        flip: bool = False,
        origin: Origin = None,
    ) -> Blur:
        return object.__new__(cls)

    def __init__(
        self,
        size: int = 61,
        intensity: float = 0.5,
        boundary: str = "reflect",
        flip: bool = False,
        origin: Origin = None,
    ) -> None:
        super().__init__(MotionKernel(size, intensity), boundary, flip, origin)
        if boundary != "valid":
            tap_origin((size, size), self.origin)


class DefocusBlur(Blur):
    r"""Blurs images as a lens out of focus does, with a disk.

    ``Blur`` with a ``DefocusKernel``; the disk is symmetric, so that correlation and convolution
    agree. With a circular boundary the result is a ``SpectralOperator``.

    Args:
        radius: Radius of the disk in pixels. ImageNet-C uses 3, 4, 6, 8, 10 at 224 pixels.
        size: Taps per side, odd; by default just large enough.
        boundary: As in ``Blur``.

    Raises:
        ValueError: If an argument is out of range; when called, if the image is too small.

    Source: Hendrycks and Dietterich 2019 (ImageNet-C).
    """

    def __new__(
        cls, radius: float = 3.0, size: int | None = None, boundary: str = "reflect"
    ) -> Blur:
        circular = cls is DefocusBlur and boundary == "circular"
        return object.__new__(CircularDefocusBlur if circular else cls)

    def __init__(
        self, radius: float = 3.0, size: int | None = None, boundary: str = "reflect"
    ) -> None:
        super().__init__(DefocusKernel(radius, size), boundary)


class CircularDefocusBlur(CircularBlur, DefocusBlur):
    """What ``DefocusBlur(boundary="circular")`` gives: the same blur, with its exact SVD."""


def tap_origin(size: tuple[int, int], origin: Origin) -> tuple[int, int]:
    """Returns the origin, the middle by default; a ValueError if it is no tap of the kernel."""
    rows, columns = size
    if origin is None and (rows % 2 == 0 or columns % 2 == 0):
        raise ValueError(
            f"a kernel of {rows} x {columns} taps has no middle pixel; give "
            f"origin=({(rows - 1) // 2}, {(columns - 1) // 2}), or another, or odd sides"
        )
    row, column = (rows // 2, columns // 2) if origin is None else as_origin(origin)
    if row >= rows or column >= columns:
        raise ValueError(
            f"origin must be a tap of the kernel of {rows} x {columns}, got {(row, column)}"
        )
    return row, column


def as_origin(origin: int | tuple[int, int]) -> tuple[int, int]:
    """Reads an origin as (row, column): one whole number for both, or two."""
    pair = (origin, origin) if isinstance(origin, int) else tuple(origin)
    if len(pair) != 2 or not all(isinstance(o, int) and o >= 0 for o in pair):
        raise ValueError(
            f"origin must be one whole number or two (row, column), at least 0, got {origin!r}"
        )
    return pair[0], pair[1]


def _require_sampler(kernel: object) -> KernelSampler:
    if isinstance(kernel, KernelSampler):
        return kernel
    raise TypeError(
        "kernel must be a tensor, a kernel such as DefocusKernel(3) or a sampler such as "
        f"MotionKernel(61), got {type(kernel).__name__}"
    )


def _require_kernel(kernel: Tensor) -> Tensor:
    kernels = kernel[None] if kernel.ndim == 2 else kernel
    if kernels.ndim not in (3, 4) or kernels.numel() == 0 or not kernels.is_floating_point():
        raise ValueError(
            "a kernel must be floating point of shape (kh, kw), (B, kh, kw) with one per image, "
            "or (1 or B, 1 or C, kh, kw) with one per channel, got "
            f"{kernel.dtype} of shape {tuple(kernel.shape)}"
        )
    if kernels.ndim == 3 and not bool(kernels.isfinite().all()):
        raise ValueError("the kernel holds a value that is not finite")
    return kernels


def require_precision(x: Tensor, kernel: Tensor, owner: str) -> None:
    """Raises one clear sentence if FFTs cannot take x, or the kernel is on another device."""
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"{owner} works in float32 or float64, got {x.dtype}; convert with x.float()"
        )
    if x.device != kernel.device:
        raise ValueError(
            f"x is on {x.device} but the kernel on {kernel.device}; use operator.to(x.device)"
        )
