"""Blur along time: several frames of a video are averaged into one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from plugip.operator import Shape, SpectralOperator
from plugip.operators._options import require_odd
from plugip.operators.separable import BOUNDARIES, toeplitz
from plugip.options import require_choice
from plugip.spectral import Spectrum

TIME = 2  # axis of (B, C, T, H, W)


class TemporalBlur(SpectralOperator):
    r"""Averages each video frame with its neighbours in time, as a long exposure does.

    .. math:: y_t = \frac{1}{n} \sum_{|k| \le n / 2} x_{t + k}

    x and y are (B, C, T, H, W), of the same range. Self-adjoint for a circular boundary. The SVD
    is exact: Fourier in time for the circular boundary, a small (T, T) matrix for the others.
    Some singular values are 0 or tiny; ``pinv`` drops those below ``rcond``.

    Args:
        width: Number of frames averaged, odd. 7 or 13 in published work.
        boundary: circular (published), replicate, reflect, symmetric or zero.

    Raises:
        ValueError: If width is not odd or the boundary unknown; when called, if a circular blur is
            wider than the video, or another one reaches further than its ends can tell.

    Source: Kwon and Ye 2024 (Solving Video Inverse Problems Using Image Diffusion Models), code.
    """

    domain_ndim = 5

    def __init__(self, width: int = 7, boundary: str = "circular") -> None:
        super().__init__()
        self.width = int(require_odd(width, "width"))
        self.boundary = require_choice(boundary, BOUNDARIES, "boundary")

    def forward(self, x: Tensor) -> Tensor:
        self.check_domain(tuple(x.shape))
        return along_time(self._matrix(x), x)

    def adjoint(self, y: Tensor) -> Tensor:
        self.check_domain(tuple(y.shape))
        return along_time(self._matrix(y).mT, y)

    def spectrum(self, x_shape: Shape) -> Spectrum:
        self.check_domain(x_shape)
        if self.boundary == "circular":
            return _fourier(self.width, x_shape[TIME])
        return _dense(self.width, x_shape[TIME], self.boundary)

    def check_domain(self, x_shape: Shape) -> None:
        frames = x_shape[TIME]
        fits = self.width <= frames if self.boundary == "circular" else self.width // 2 < frames
        if not fits:
            least = self.width if self.boundary == "circular" else self.width // 2 + 1
            raise ValueError(
                f"a temporal blur of {self.width} frames with a {self.boundary} boundary needs "
                f"videos of at least {least} frames, got {frames}"
            )

    def _matrix(self, like: Tensor) -> Tensor:
        return _matrix(self.width, like.shape[TIME], self.boundary).to(like)

    def extra_repr(self) -> str:
        return f"width={self.width}, boundary={self.boundary!r}"


def along_time(matrix: Tensor, x: Tensor) -> Tensor:
    """Applies a (T', T) matrix to the frames of videos (B, C, T, H, W)."""
    return (matrix @ x.flatten(3)).unflatten(3, x.shape[3:])


@dataclass(frozen=True)
class TimeFourier(Spectrum):
    """Circular convolution along time with a symmetric kernel: real eigenvalues, by FFT."""

    s: Tensor
    sign: Tensor

    def Vt(self, x: Tensor) -> Tensor:
        return torch.fft.fft(x, dim=TIME, norm="ortho")

    def V(self, coefficients: Tensor) -> Tensor:
        return torch.fft.ifft(coefficients, dim=TIME, norm="ortho").real

    def Ut(self, y: Tensor) -> Tensor:
        return self.sign * self.Vt(y)

    def U(self, coefficients: Tensor) -> Tensor:
        return self.V(self.sign * coefficients)

    def to(self, like: Tensor) -> TimeFourier:
        return TimeFourier(self.s.to(like.real), self.sign.to(like.real))


@dataclass(frozen=True)
class TimeMatrix(Spectrum):
    """Any small square matrix along time, through its SVD."""

    s: Tensor
    left: Tensor
    right: Tensor

    def Vt(self, x: Tensor) -> Tensor:
        return along_time(self.right.mT, x)

    def V(self, coefficients: Tensor) -> Tensor:
        return along_time(self.right, coefficients)

    def Ut(self, y: Tensor) -> Tensor:
        return along_time(self.left.mT, y)

    def U(self, coefficients: Tensor) -> Tensor:
        return along_time(self.left, coefficients)

    def to(self, like: Tensor) -> TimeMatrix:
        return TimeMatrix(self.s.to(like.real), self.left.to(like), self.right.to(like))


@lru_cache(maxsize=16)
def _matrix(width: int, frames: int, boundary: str) -> Tensor:
    with torch.inference_mode(False):
        return torch.from_numpy(toeplitz(np.full(width, 1 / width), frames, boundary))


@lru_cache(maxsize=16)
def _fourier(width: int, frames: int) -> TimeFourier:
    with torch.inference_mode(False):
        values = torch.fft.fft(_matrix(width, frames, "circular")[0]).real[:, None, None]
        return TimeFourier(values.abs(), torch.where(values < 0, -1.0, 1.0).double())


@lru_cache(maxsize=16)
def _dense(width: int, frames: int, boundary: str) -> TimeMatrix:
    with torch.inference_mode(False):
        u, s, vt = torch.linalg.svd(_matrix(width, frames, boundary))
        return TimeMatrix(s[:, None, None], u, vt.mT)
