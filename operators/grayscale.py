"""Colourisation: only one weighted sum of the colour channels is measured."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from numbers import Real

import torch
from torch import Tensor

from plugip.linalg import damping_like
from plugip.operator import Shape, SpectralOperator
from plugip.options import choose
from plugip.spectral import Spectrum

WEIGHTS = {
    "rec601": (0.299, 0.587, 0.114),  # luma of ITU-R BT.601, also kornia's and OpenCV's grey
    "ddrm": (0.3333, 0.3334, 0.3333),  # DDRM and DDNM
}


class Grayscale(SpectralOperator):
    r"""Turns colour images grey; the inverse problem is colourisation.

    .. math:: y = \sum_c w_c x_c

    for every pixel of x (B, C, H, W), to y (B, 1, H, W), in the range of x since w >= 0 has sum 1.
    The pseudo-inverse is w y / ‖w‖², and the one singular value that is not 0 is ‖w‖. DDRM shows
    y three times as a colour image instead of the pseudo-inverse.

    Args:
        weights: "rec601", (0.299, 0.587, 0.114); "ddrm", (0.3333, 0.3334, 0.3333); or one number
            per channel, not negative, with sum 1.

    Raises:
        ValueError: If the weights are unknown or out of range; when called, if the images have
            another number of channels.

    Source: ITU-R BT.601; Kawar et al. 2022 (DDRM), code; Wang et al. 2023 (DDNM), code.
    """

    def __init__(self, weights: str | Iterable[float] = "rec601") -> None:
        super().__init__()
        named = choose(WEIGHTS, weights, "weights") if isinstance(weights, str) else weights
        self.weights = _require_weights(tuple(named))

    def forward(self, x: Tensor) -> Tensor:
        self.check_domain(tuple(x.shape))
        row = _row(self.weights, x.dtype, x.device)
        return (row[None] @ x.flatten(2)).unflatten(2, x.shape[2:])

    def adjoint(self, y: Tensor) -> Tensor:
        _require_grey(y)
        return y * _row(self.weights, y.dtype, y.device)[:, None, None]

    def pinv(self, y: Tensor) -> Tensor:
        return self.adjoint(y) / self._energy

    def solve_normal(self, b: Tensor, lam: float | Tensor) -> Tensor:
        damping = damping_like(lam, b)
        seen = self.pinv(self(b))  # the part of b along w: there A*A is ‖w‖²
        return (b - seen) / damping + seen / (self._energy + damping)

    def spectrum(self, x_shape: Shape) -> Spectrum:
        self.check_domain(x_shape)
        return ChannelSpectrum.of(torch.tensor([self.weights], dtype=torch.float64))

    def check_domain(self, x_shape: Shape) -> None:
        if len(x_shape) != 4 or x_shape[1] != len(self.weights):
            raise ValueError(
                f"Grayscale weighs {len(self.weights)} channels, got images of shape "
                f"{tuple(x_shape)}; they must be (B, {len(self.weights)}, H, W)"
            )

    def measurement_shape(self, x_shape: Shape) -> Shape:
        self.check_domain(x_shape)
        return (x_shape[0], 1, *x_shape[2:])

    def domain_shape(self, y_shape: Shape) -> Shape:
        return (y_shape[0], len(self.weights), *y_shape[2:])

    @property
    def _energy(self) -> float:
        return sum(w * w for w in self.weights)

    def extra_repr(self) -> str:
        return f"weights={self.weights}"


@dataclass(frozen=True, eq=False)
class ChannelSpectrum(Spectrum):
    """A small matrix that mixes the channels of every pixel, through its SVD.

    Build with ``ChannelSpectrum.of(matrix)``.
    """

    s: Tensor  # (C, 1, 1)
    u: Tensor  # (c, r)
    vt: Tensor  # (C, C)

    @staticmethod
    def of(matrix: Tensor) -> ChannelSpectrum:
        """Decomposes a matrix of (channels of y, channels of x)."""
        u, s, vt = torch.linalg.svd(matrix, full_matrices=True)
        s_all = torch.cat([s, s.new_zeros(vt.shape[0] - s.shape[0])])
        return ChannelSpectrum(s_all[:, None, None], u[:, : s.shape[0]], vt)

    def Vt(self, x: Tensor) -> Tensor:
        return _mixed(self.vt, x)

    def V(self, coefficients: Tensor) -> Tensor:
        return _mixed(self.vt.mT, coefficients)

    def Ut(self, y: Tensor) -> Tensor:
        seen = _mixed(self.u.mT, y)
        hidden = self.vt.shape[0] - seen.shape[1]
        return torch.nn.functional.pad(seen, (0, 0, 0, 0, 0, hidden))

    def U(self, coefficients: Tensor) -> Tensor:
        return _mixed(self.u, coefficients[:, : self.u.shape[1]])

    def to(self, like: Tensor) -> ChannelSpectrum:
        return ChannelSpectrum(self.s.to(like.real), self.u.to(like), self.vt.to(like))


@lru_cache(maxsize=32)
def _row(weights: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    # Made once for each device: a fresh copy to a GPU would wait for it at every call.
    with torch.inference_mode(False):
        return torch.tensor(weights, dtype=dtype, device=device)


def _mixed(matrix: Tensor, x: Tensor) -> Tensor:
    return torch.einsum("dc,bchw->bdhw", matrix, x)


def _require_grey(y: Tensor) -> None:
    if y.ndim != 4 or y.shape[1] != 1:
        raise ValueError(f"grey measurements have shape (B, 1, H, W), got {tuple(y.shape)}")


def _require_weights(weights: tuple[float, ...]) -> tuple[float, ...]:
    numbers = bool(weights) and all(isinstance(w, Real) and w >= 0 for w in weights)
    if not numbers or not abs(sum(weights) - 1) < 1e-6:
        raise ValueError(
            f"weights must be numbers, one per channel, not negative and with sum 1, got {weights}"
        )
    return tuple(float(w) for w in weights)
