"""Gaussian blur at any boundary: circular through Fourier, all others through small matrices."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from plugip.operator import Shape
from plugip.operators._options import require_odd, require_positive
from plugip.operators.separable import BOUNDARIES, Separable, toeplitz
from plugip.options import require_choice
from plugip.spectral import FourierSpectrum, Spectrum


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


class GaussianBlur(Separable):
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
        super().__init__(GaussianRows(std, size, boundary))
        self.std, self.size, self.boundary = std, size, boundary

    def check_domain(self, x_shape: Shape) -> None:
        require_room((self.size, self.size), x_shape, self.boundary)

    def spectrum(self, x_shape: Shape) -> Spectrum:
        if self.boundary != "circular":
            return super().spectrum(x_shape)
        self.check_domain(x_shape)
        return _fourier(self.recipe, *x_shape[-2:])  # type: ignore[arg-type]

    def extra_repr(self) -> str:
        return f"std={self.std}, size={self.size}, boundary={self.boundary!r}"


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


@lru_cache(maxsize=8)
def _fourier(recipe: GaussianRows, rows: int, columns: int) -> FourierSpectrum:
    # The first column of a circulant matrix is its impulse response.
    with torch.inference_mode(False):
        down, across = (torch.from_numpy(recipe.matrix(n)[:, 0]) for n in (rows, columns))
        return FourierSpectrum.of(torch.outer(torch.fft.fft(down), torch.fft.fft(across)))
