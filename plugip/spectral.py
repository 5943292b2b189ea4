"""The three structured singular value decompositions: diagonal, Kronecker and Fourier."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Cast = tuple[torch.dtype, torch.device]


class Spectrum(ABC):
    """The factors of A = U diag(s) V*, as functions on coefficients that keep the image's layout.

    V is a complete orthonormal basis of the images; coefficients that A does not see have s = 0.

    Attributes:
        s: Singular values, real and not negative, broadcastable over the coefficients.
    """

    s: Tensor

    @abstractmethod
    def Vt(self, x: Tensor) -> Tensor:
        """Analyses images, (B, *X) -> coefficients."""

    @abstractmethod
    def V(self, coefficients: Tensor) -> Tensor:
        """Synthesises images from coefficients."""

    @abstractmethod
    def Ut(self, y: Tensor) -> Tensor:
        """Analyses measurements, (B, *Y) -> coefficients, zero where A sees nothing."""

    @abstractmethod
    def U(self, coefficients: Tensor) -> Tensor:
        """Synthesises measurements from coefficients."""

    def to(self, like: Tensor) -> Spectrum:
        """Returns the factors in the precision and on the device of ``like``."""
        return self


@dataclass(frozen=True)
class DiagonalSpectrum(Spectrum):
    """Pixel-wise scaling by ``s``, real and not negative (a mask, an exposure map)."""

    s: Tensor

    def Vt(self, x: Tensor) -> Tensor:
        return x

    def V(self, coefficients: Tensor) -> Tensor:
        return coefficients

    def Ut(self, y: Tensor) -> Tensor:
        return y

    def U(self, coefficients: Tensor) -> Tensor:
        return coefficients

    def to(self, like: Tensor) -> DiagonalSpectrum:
        return DiagonalSpectrum(self.s.to(like.real))


@dataclass(frozen=True, eq=False)
class KroneckerSpectrum(Spectrum):
    """Separable map y = L x R^T on the last two axes, through the SVD of each small factor.

    Build with ``KroneckerSpectrum.of(L, R)``.
    """

    s: Tensor
    left: tuple[Tensor, Tensor]
    right: tuple[Tensor, Tensor]
    _casts: dict[Cast, KroneckerSpectrum] = field(default_factory=dict, repr=False)

    @staticmethod
    def of(left: Tensor, right: Tensor) -> KroneckerSpectrum:
        """Decomposes the two factors.

        Args:
            left: Acts on rows, (h, H).
            right: Acts on columns, (w, W).
        """
        u_left, s_left, vt_left = _svd(left)
        u_right, s_right, vt_right = _svd(right)
        return KroneckerSpectrum(
            torch.outer(s_left, s_right), (u_left, vt_left), (u_right, vt_right)
        )

    def Vt(self, x: Tensor) -> Tensor:
        return self.left[1] @ x @ self.right[1].mT

    def V(self, coefficients: Tensor) -> Tensor:
        return self.left[1].mT @ coefficients @ self.right[1]

    def Ut(self, y: Tensor) -> Tensor:
        small = self.left[0].mT @ y @ self.right[0]
        rows, columns = self.s.shape[0] - small.shape[-2], self.s.shape[1] - small.shape[-1]
        return torch.nn.functional.pad(small, (0, columns, 0, rows))

    def U(self, coefficients: Tensor) -> Tensor:
        h, w = self.left[0].shape[1], self.right[0].shape[1]
        return self.left[0] @ coefficients[..., :h, :w] @ self.right[0].mT

    def to(self, like: Tensor) -> KroneckerSpectrum:
        return _cast_once(self._casts, like, self._cast)

    def _cast(self, like: Tensor) -> KroneckerSpectrum:
        (u_left, vt_left), (u_right, vt_right) = self.left, self.right
        left = (u_left.to(like), vt_left.to(like))
        right = (u_right.to(like), vt_right.to(like))
        return KroneckerSpectrum(self.s.to(like.real), left, right)


@dataclass(frozen=True, eq=False)
class FourierSpectrum(Spectrum):
    """Circular convolution on the last two axes, through its transfer function.

    Build with ``FourierSpectrum.of(transfer)``.
    """

    s: Tensor
    phase: Tensor
    _casts: dict[Cast, FourierSpectrum] = field(default_factory=dict, repr=False)

    @staticmethod
    def of(transfer: Tensor) -> FourierSpectrum:
        """Splits a transfer function (complex, (..., H, W)) into magnitude and phase."""
        s = transfer.abs()
        phase = torch.where(s > 0, transfer / torch.where(s > 0, s, 1.0), 1.0)
        return FourierSpectrum(s, phase)

    def Vt(self, x: Tensor) -> Tensor:
        return torch.fft.fft2(x, norm="ortho")

    def V(self, coefficients: Tensor) -> Tensor:
        return torch.fft.ifft2(coefficients, norm="ortho").real

    def Ut(self, y: Tensor) -> Tensor:
        return self.phase.conj() * self.Vt(y)

    def U(self, coefficients: Tensor) -> Tensor:
        return self.V(self.phase * coefficients)

    def to(self, like: Tensor) -> FourierSpectrum:
        return _cast_once(self._casts, like, self._cast)

    def _cast(self, like: Tensor) -> FourierSpectrum:
        phase = self.phase.to(device=like.device, dtype=like.dtype.to_complex())
        return FourierSpectrum(self.s.to(like.real), phase)


def _cast_once(casts: dict[Cast, Any], like: Tensor, cast: Callable[[Tensor], Any]) -> Any:
    # Casting five factors at every solve, or moving them to a GPU, would cost more than the solve.
    key = (like.dtype, like.device)
    if key not in casts:
        with torch.inference_mode(False):  # what inference mode makes cannot be used in training
            casts[key] = cast(like)
    return casts[key]


def _svd(factor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    # V complete, U only where A reaches, s with zeros for what A does not see.
    u, s, vt = torch.linalg.svd(factor, full_matrices=True)
    return u[:, : s.shape[0]], torch.cat([s, s.new_zeros(vt.shape[0] - s.shape[0])]), vt


def multiplies(outer: type[Spectrum] | None, inner: type[Spectrum] | None) -> bool:
    """Whether A B has an exact SVD of the same kind where A's and B's spectra have these types."""
    return outer is inner and outer in _PRODUCTS


def product(outer: Spectrum, inner: Spectrum) -> Spectrum:
    """Returns the spectrum of A B, from those of A (outer) and B (inner).

    Raises:
        TypeError: If the two do not multiply exactly.
    """
    if not multiplies(type(outer), type(inner)):
        raise TypeError(
            f"a {type(outer).__name__} times a {type(inner).__name__} has no closed form; "
            "set spectrum_type of one of the operators to None"
        )
    return _PRODUCTS[type(outer)](outer, inner)


def _diagonal_product(outer: DiagonalSpectrum, inner: DiagonalSpectrum) -> DiagonalSpectrum:
    return DiagonalSpectrum(outer.s * inner.s)


def _fourier_product(outer: FourierSpectrum, inner: FourierSpectrum) -> FourierSpectrum:
    return FourierSpectrum(outer.s * inner.s, outer.phase * inner.phase)


def _kronecker_product(outer: KroneckerSpectrum, inner: KroneckerSpectrum) -> KroneckerSpectrum:
    (l_outer, r_outer), (l_inner, r_inner) = _factors(outer), _factors(inner)
    return KroneckerSpectrum.of(l_outer @ l_inner, r_outer @ r_inner)


def _factors(a: KroneckerSpectrum) -> tuple[Tensor, Tensor]:
    # s is the outer product of two falling sequences, so its first row and column give them back.
    top = torch.where(a.s[0, 0] > 0, a.s[0, 0], 1.0)
    return _matrix(a.left, a.s[:, 0]), _matrix(a.right, a.s[0] / top)


def _matrix(basis: tuple[Tensor, Tensor], s: Tensor) -> Tensor:
    u, vt = basis
    return u @ (s[: u.shape[1], None] * vt[: u.shape[1]])


_PRODUCTS: dict[type[Spectrum], Callable[[Any, Any], Spectrum]] = {
    DiagonalSpectrum: _diagonal_product,
    FourierSpectrum: _fourier_product,
    KroneckerSpectrum: _kronecker_product,
}
