"""Blurs by separable kernels: exact SVDs at any boundary, by Fourier or by small matrices."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from plugip.operator import Shape
from plugip.operators._options import require_odd, require_positive
from plugip.operators.correlation import Correlation
from plugip.operators.kernels import as_pair
from plugip.operators.separable import BOUNDARIES, Recipe, Separable, gathered, toeplitz
from plugip.options import require_choice
from plugip.spectral import FourierSpectrum, KroneckerSpectrum, Spectrum

DDRM_ZERO = 3e-2
# From these sides on matrices are not the fastest way. Measured on a CPU: 3 planes of 128 pixels
# take 0.35 ms by matrices, 0.2 ms by a circular FFT, 0.5 ms by another; 12 planes of 256 pixels
# 10 ms by matrices, 4 ms by 9 x 9 sums, 7 ms by an FFT. GPUs multiply faster, and were not asked.
LARGE, LARGE_WITH_MARGIN, LARGE_ON_GPU = 128, 160, 512


def gaussian_taps(std: float, size: int) -> np.ndarray:
    """Builds the Gaussian window of the diffusion literature, which is scipy's.

    A Gaussian is cut at round(4 std) pixels and scaled to sum 1; what lies beyond the window of
    ``size`` taps is folded back into it, so that small windows are flatter than a Gaussian.

    Args:
        std: Standard deviation in pixels.
        size: Number of taps, odd.

    Returns:
        Taps, (size,), float64, with sum 1.

    Source: ``scipy.ndimage.gaussian_filter`` of a unit impulse, as in the code of DPS.
    """
    radius = int(4 * std + 0.5)
    gauss = np.exp(-0.5 * (np.arange(-radius, radius + 1) / std) ** 2)
    return toeplitz(gauss / gauss.sum(), size, "symmetric")[:, size // 2]


@dataclass(frozen=True)
class GaussianRows:
    """Builds the matrix that blurs a line of pixels; arguments as in ``GaussianBlur``."""

    std: float
    size: int
    boundary: str

    def __post_init__(self) -> None:
        require_positive(self.std, "std")
        require_odd(self.size, "size")
        require_choice(self.boundary, BOUNDARIES, "boundary")

    def matrix(self, side: int) -> np.ndarray:
        """Returns the matrix for ``side`` pixels, (side, side), float64."""
        return toeplitz(gaussian_taps(self.std, self.size), side, self.boundary)


@dataclass(frozen=True)
class TapRows:
    """Builds the matrix that correlates a line of pixels with given taps, an odd number.

    Args:
        taps: Weights, origin at the middle.
        boundary: One of ``BOUNDARIES``.
        compat: None, or "ddrm": the last tap is lost and singular values below 0.03 are zeroed.
    """

    taps: tuple[float, ...]
    boundary: str
    compat: str | None = None

    def __post_init__(self) -> None:
        require_odd(len(self.taps), "size")
        require_choice(self.boundary, BOUNDARIES, "boundary")
        if self.compat is not None:
            require_choice(self.compat, ("ddrm",), "compat")
            if self.boundary != "zero":
                raise ValueError(f"compat='ddrm' needs boundary='zero', got {self.boundary!r}")

    def matrix(self, side: int) -> np.ndarray:
        """Returns the matrix for ``side`` pixels, (side, side), float64."""
        if self.compat is None:
            return toeplitz(np.array(self.taps), side, self.boundary)
        offsets = np.arange(len(self.taps) - 1) - len(self.taps) // 2
        position = np.arange(side)[:, None] + offsets
        weight = np.broadcast_to(np.array(self.taps[:-1]), position.shape)
        u, s, vt = np.linalg.svd(gathered(position, weight, side, self.boundary))
        return (u * np.where(s < DDRM_ZERO, 0.0, s)) @ vt


class SeparableBlur(Separable):
    """Correlates every channel with an outer product of taps; the SVD is exact.

    The base of ``GaussianBlur``, ``UniformBlur`` and ``AnisotropicGaussianBlur``.

    Args:
        down: Recipe for the columns of pixels.
        across: Recipe for the rows of pixels.
        size: Taps, (rows, columns).
        boundary: One of ``BOUNDARIES``.
    """

    def __init__(self, down: Recipe, across: Recipe, size: tuple[int, int], boundary: str) -> None:
        super().__init__(down)
        self.across, self.boundary, self._taps = across, boundary, size
        self.spectrum_type = FourierSpectrum if boundary == "circular" else KroneckerSpectrum

    def forward(self, x: Tensor) -> Tensor:
        self.check_domain(tuple(x.shape))
        window = self._window(x)
        if window is None:
            return super().forward(x)
        geometry, kernel, small = window
        if small:
            return geometry.directly(x, kernel)
        return geometry.by_fft(x, self._transfers(geometry, x)[0])

    def adjoint(self, y: Tensor) -> Tensor:
        self.check_domain(tuple(y.shape))
        window = self._window(y)
        if window is None:
            return super().adjoint(y)
        geometry, kernel, small = window
        if small:
            return geometry.directly_adjoint(y, kernel)
        return geometry.by_fft_adjoint(y, self._transfers(geometry, y)[1])

    def check_domain(self, x_shape: Shape) -> None:
        require_room(self._taps, x_shape, self.boundary)

    def measurement_shape(self, x_shape: Shape) -> Shape:
        self.check_domain(x_shape)
        return tuple(x_shape)

    def spectrum(self, x_shape: Shape) -> Spectrum:
        self.check_domain(x_shape)
        make = _fourier if self.boundary == "circular" else _kronecker
        return make(self.recipe, self.across, *x_shape[-2:])

    def _matrices(self, x_shape: Shape, like: Tensor) -> tuple[Tensor, Tensor]:
        rows, columns = x_shape[-2:]
        left = _matrix(self.recipe, rows, like.dtype, like.device)
        return left, _matrix(self.across, columns, like.dtype, like.device)

    def _window(self, x: Tensor) -> tuple[Correlation, Tensor, bool] | None:
        """Returns how to correlate in the plane, and whether by sums; None: better by matrices."""
        side, planes = min(x.shape[-2:]), x.shape[1:-2].numel()
        if side < LARGE or getattr(self.recipe, "compat", None) is not None:
            return None  # what DDRM's code applies is no correlation
        if x.dtype not in (torch.float32, torch.float64):
            return None
        image = (x.shape[-2], x.shape[-1])
        window = _window(self.recipe, self.across, self.boundary, image, x.dtype, x.device)
        small = window[0].is_small(planes, x)
        least = LARGE if small or self.boundary == "circular" else LARGE_WITH_MARGIN
        return (*window, small) if side >= max(least, 0 if _is_cpu(x) else LARGE_ON_GPU) else None

    def _transfers(self, geometry: Correlation, x: Tensor) -> tuple[Tensor, Tensor]:
        return _transfers(geometry, self.recipe, self.across, x.dtype, x.device)


class GaussianBlur(SeparableBlur):
    r"""Blurs images with a Gaussian kernel, the usual deblurring task.

    .. math:: y = k \star x

    for every channel of x (B, C, H, W); y has the same shape, and the same range since k >= 0 and
    sum k = 1 (a zero boundary darkens the edges towards 0). The SVD is exact: Fourier for the
    circular boundary, small matrices for the others. Most singular values are tiny (at the
    defaults and 256 pixels, 72 of 256 per side lie above 0.03), so ``pinv`` drops those below
    ``rcond`` times the largest.

    Args:
        std: Standard deviation in pixels. 3.0 at 256 x 256 in DPS and DAPS.
        size: Number of taps per side, odd. At std 3.0 only the middle 25 of 61 are not zero.
        boundary: reflect (DPS, DAPS), circular (DiffPIR, PnP-Flow), zero (DMPlug's blind tasks,
            DDRM), replicate or symmetric. They differ by far more than usual noise: never mix
            them.

    Raises:
        ValueError: If std is not positive, size is even, the boundary is unknown; when called, if
            the image is too small for the kernel.

    Source: Chung et al. 2023 (DPS), code.
    """

    def __init__(self, std: float = 3.0, size: int = 61, boundary: str = "reflect") -> None:
        rows = GaussianRows(std, size, boundary)
        super().__init__(rows, rows, (size, size), boundary)
        self.std, self.size = std, size

    def extra_repr(self) -> str:
        return f"std={self.std}, size={self.size}, boundary={self.boundary!r}"


class UniformBlur(SeparableBlur):
    r"""Blurs images with a box, every pixel becoming the mean of its neighbourhood.

    .. math:: y = k \star x, \quad k = 1 / \text{size}^2

    for every channel of x (B, C, H, W); y has the same shape, and the same range.

    Args:
        size: Side of the box in pixels, odd. 9 in DDRM.
        boundary: zero (DDRM), reflect, circular, symmetric or replicate.
        compat: "ddrm" gives what DDRM's code means to apply: it loses the last of the taps, so
            that constants shrink to 0.79, and zeroes singular values below 0.03 of each factor.
            (What it applies is another map, as its coefficients are mixed between channels.)

    Raises:
        ValueError: If size is even, an option is unknown, or compat meets another boundary than
            zero; when called, if the image is too small for the kernel.

    Source: Kawar et al. 2022 (DDRM), code.
    """

    def __init__(self, size: int = 9, boundary: str = "zero", compat: str | None = None) -> None:
        require_odd(size, "size")
        rows = TapRows((1 / size,) * size, boundary, compat)
        super().__init__(rows, rows, (size, size), boundary)
        self.size, self.compat = size, compat

    def extra_repr(self) -> str:
        return f"size={self.size}, boundary={self.boundary!r}, compat={self.compat!r}"


class AnisotropicGaussianBlur(SeparableBlur):
    r"""Blurs images with a Gaussian that is wider along one axis than along the other.

    .. math:: y = k \star x

    for every channel of x (B, C, H, W); y has the same shape, and the same range. The Gaussians
    are cut to the window, not folded as in ``GaussianBlur``. For other angles, without an SVD
    except at a circular boundary: ``Blur(GaussianKernel(std, size, angle))``.

    Args:
        std: Standard deviations in pixels, (down, across), or one for both. (1, 20) in DDRM's
            "aniso"; 10 with 5 taps is its "gauss".
        size: Taps per side, odd. 9 in DDRM's "aniso".
        boundary: zero (DDRM), reflect, circular, symmetric or replicate.
        compat: "ddrm", as in ``UniformBlur``.

    Raises:
        ValueError: If a std is not positive, size is even, an option is unknown, or compat meets
            another boundary than zero; when called, if the image is too small for the kernel.

    Source: Kawar et al. 2022 (DDRM), code.
    """

    def __init__(
        self,
        std: float | tuple[float, float] = (1.0, 20.0),
        size: int = 9,
        boundary: str = "zero",
        compat: str | None = None,
    ) -> None:
        pair, _ = as_pair(std, "std"), require_odd(size, "size")
        down, across = (TapRows(_cut_gaussian(s, size), boundary, compat) for s in pair)
        super().__init__(down, across, (size, size), boundary)
        self.std, self.size, self.compat = pair, size, compat

    def extra_repr(self) -> str:
        return (
            f"std={self.std}, size={self.size}, boundary={self.boundary!r}, compat={self.compat!r}"
        )


def require_room(sizes: tuple[int, int], x_shape: Shape, boundary: str) -> None:
    """Raises a ValueError if a kernel of (rows, columns) is too large for the images."""
    for size, side, axis in zip(sizes, x_shape[-2:], ("high", "wide"), strict=True):
        if boundary == "circular" and size > side:
            raise ValueError(
                f"a kernel of {size} taps does not fit an image that is {side} pixels {axis} "
                f"with a circular boundary; use size <= {side}, or larger images"
            )
        if boundary != "circular" and size // 2 >= side:
            raise ValueError(
                f"a kernel of {size} taps reaches {size // 2} pixels beyond the edge, but the "
                f"image is only {side} pixels {axis}; use size <= {2 * side - 1}, or larger images"
            )


def _cut_gaussian(std: float, size: int) -> tuple[float, ...]:
    gauss = np.exp(-0.5 * ((np.arange(size) - size // 2) / std) ** 2)
    return tuple((gauss / gauss.sum()).tolist())


def _is_cpu(x: Tensor) -> bool:
    return x.device.type == "cpu"


def _line(recipe: Recipe) -> np.ndarray:
    """The taps of a recipe, without the zeros at both ends."""
    known = isinstance(recipe, GaussianRows)
    taps = gaussian_taps(recipe.std, recipe.size) if known else np.array(recipe.taps)  # type: ignore[attr-defined]
    ends = np.flatnonzero(taps)
    trim = min(ends[0], len(taps) - 1 - ends[-1])
    return taps[trim : len(taps) - trim]


@lru_cache(maxsize=64)
def _window(
    down: Recipe,
    across: Recipe,
    boundary: str,
    image: tuple[int, int],
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Correlation, Tensor]:
    """Returns the correlation with the outer product of the taps, and that kernel, (kh, kw)."""
    lines = [_line(recipe) for recipe in (down, across)]
    rows, columns = (len(taps) for taps in lines)
    geometry = Correlation((rows, columns), (rows // 2, columns // 2), boundary, image)
    with torch.inference_mode(False):
        return geometry, torch.from_numpy(np.outer(*lines)).to(device, dtype)


@lru_cache(maxsize=8)
def _transfers(
    geometry: Correlation,
    down: Recipe,
    across: Recipe,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Returns the transfer function, the half that a real FFT keeps, and its conjugate."""
    master = torch.float64, torch.device("cpu")
    _, kernel = _window(down, across, geometry.boundary, geometry.image, *master)
    with torch.inference_mode(False):
        transfer = geometry.transfer(kernel).to(device, dtype.to_complex())
        return transfer, transfer.conj().resolve_conj()


@lru_cache(maxsize=64)
def _matrix(recipe: Recipe, side: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # what inference mode makes cannot be used in training
        return torch.from_numpy(recipe.matrix(side)).to(device, dtype)


@lru_cache(maxsize=8)
def _kronecker(down: Recipe, across: Recipe, rows: int, columns: int) -> KroneckerSpectrum:
    with torch.inference_mode(False):
        left, right = (torch.from_numpy(r.matrix(n)) for r, n in ((down, rows), (across, columns)))
        return KroneckerSpectrum.of(left, right)


@lru_cache(maxsize=8)
def _fourier(down: Recipe, across: Recipe, rows: int, columns: int) -> FourierSpectrum:
    # The first column of a circulant matrix is its impulse response.
    pairs = ((down, rows), (across, columns))
    with torch.inference_mode(False):
        left, right = (torch.fft.fft(torch.from_numpy(r.matrix(n)[:, 0])) for r, n in pairs)
        return FourierSpectrum.of(torch.outer(left, right))
