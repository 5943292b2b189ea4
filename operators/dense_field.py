"""Given or random dense matrices: linear inverse scattering and Gaussian phase retrieval."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import isqrt
from typing import Self

import torch
from torch import Tensor

from plugip.linalg import widened
from plugip.operator import Shape, SpectralOperator
from plugip.operators._complex import (
    FieldOperator,
    as_channels,
    as_complex,
    complex_like,
    not_drawn,
    parts_of,
    require_complex_batch,
    require_drawer,
    require_streams,
    with_buffers,
)
from plugip.operators._memo import Memo
from plugip.operators._options import as_sides, require_positive
from plugip.operators.phase import Phaseless, split_object
from plugip.rng import Rng
from plugip.spectral import Cast, Spectrum, _cast_once

LARGEST = 4096


@dataclass(frozen=True)
class GaussianProjections:
    """Draws one random matrix for all images, independent normal entries, E|a|² = 1/m.

    Args:
        ratio: Rows over columns, m / n; real objects need m >= 2 n - 1 intensities for a unique
            answer, complex ones 4 n - 4.
        complex_valued: Whether entries are complex, variance 1/(2 m) per part, or real.

    Raises:
        ValueError: If ratio is not positive; when drawn, if images have more than 4096 pixels.

    Source: Candès, Strohmer and Voroninski 2013 (PhaseLift).
    """

    ratio: float = 4.0
    complex_valued: bool = True

    def __post_init__(self) -> None:
        require_positive(self.ratio, "ratio")

    def rows(self, x_shape: Shape) -> int:
        """Returns m for images of shape (B, C, H, W)."""
        pixels = x_shape[-2] * x_shape[-1]
        if pixels > LARGEST:
            raise ValueError(
                f"a dense matrix for {x_shape[-2]} x {x_shape[-1]} images would be too large; "
                f"use at most {LARGEST} pixels, or coded diffraction"
            )
        return max(round(self.ratio * pixels), 1)

    def draw(self, rng: Rng, x_shape: Shape) -> Tensor:
        """Draws the matrix, (m, n); it depends on the run's seed, not on the images."""
        m, n = self.rows(x_shape), x_shape[-2] * x_shape[-1]
        shared = rng.shared()
        if not self.complex_valued:
            return shared.normal((m, n))[0] / m**0.5
        return torch.view_as_complex(shared.normal((m, n, 2))[0]) / (2 * m) ** 0.5


class DenseField(FieldOperator):
    r"""Applies a dense matrix to the pixels of each channel, y = M vec(o).

    x is (B, C, H, W); y is complex, (B, C, m).

    Args:
        matrix: M, (m, H W), complex or real; or a ``GaussianProjections`` to draw.
        domain: As in ``FieldOperator``.
        size: Side of the images in pixels, or (H, W); square images by default.

    Raises:
        ValueError: If the matrix is not finite, has another number of axes, or its columns do not
            fit the size; when called, if x does not fit it.
        TypeError: If it is neither a tensor nor a sampler.
        RuntimeError: When used before ``realise``.
    """

    matrix_parts: Tensor
    sampler: GaussianProjections | None

    def __init__(
        self,
        matrix: Tensor | GaussianProjections,
        domain: str = "real",
        size: int | Iterable[int] | None = None,
    ) -> None:
        super().__init__(domain)
        given = isinstance(matrix, Tensor)
        self.sampler = (
            None if given else require_drawer(matrix, "matrix", "GaussianProjections(4)")
        )
        if given:
            require_complex_batch(matrix, 2, "matrix values", "(m, H W)")
        self.size = None if size is None else as_sides(size, "size")
        if given:
            self.size = _require_size(matrix.shape[1], self.size)
        empty = torch.empty(0, 0, 2)  # keeps the device until the matrix is drawn
        self.register_buffer("matrix_parts", parts_of(matrix) if given else empty)

    def matrix(self, like: Tensor) -> Tensor:
        """Returns M in the precision of ``like``, (m, H W), complex."""
        if self.sampler is not None:
            raise not_drawn(type(self).__name__, "matrix", self.sampler)
        return complex_like(self.matrix_parts, like)

    def propagate(self, o: Tensor) -> Tensor:
        matrix = self.matrix(o)
        return o.flatten(2).to(matrix.dtype) @ matrix.T

    def propagate_back(self, y: Tensor) -> Tensor:
        return (y @ self.matrix(y).conj()).unflatten(-1, self._sides())

    def check_domain(self, x_shape: Shape) -> None:
        super().check_domain(x_shape)
        if self.size is not None and tuple(x_shape[-2:]) != self.size:
            raise ValueError(
                f"the matrix takes images of {self.size} pixels, got {tuple(x_shape[-2:])}; for "
                "other shapes of the same number of pixels give size=(H, W)"
            )

    def measurement_shape(self, x_shape: Shape) -> Shape:
        self.check_domain(x_shape)
        m = self.matrix_parts.shape[0] if self.sampler is None else self.sampler.rows(x_shape)
        return (x_shape[0], self.objects(x_shape[1]), m)

    def domain_shape(self, y_shape: Shape) -> Shape:
        return (y_shape[0], self.image_channels(y_shape[1]), *self._sides())

    def realise(self, rng: Rng, x_shape: Shape) -> Self:
        if self.sampler is None:
            return self
        require_streams(rng, x_shape)
        self.check_domain(x_shape)
        matrix = parts_of(self.sampler.draw(rng.child("matrix"), x_shape))
        chosen = with_buffers(self, {"matrix_parts": matrix.to(self.matrix_parts.device)})
        chosen.sampler, chosen.size = None, (x_shape[-2], x_shape[-1])
        return chosen

    def _sides(self) -> tuple[int, int]:
        if self.size is None:
            raise not_drawn(type(self).__name__, "matrix", self.sampler)
        return self.size


class GaussianPhaseRetrieval(Phaseless):
    r"""Measures intensities of random projections of an image, y = |M vec(o)|².

    x is (B, C, H, W) of at most 4096 pixels, each channel on its own; y is (B, C, m), real, not
    negative. Only the global phase, a sign for real objects, is lost: ``align(..., turns=False)``.

    Args:
        matrix: M, (m, H W), complex or real; or a ``GaussianProjections``: then call
            ``realise(rng, x_shape)`` first, which draws one matrix for all images.
        object: What x stands for: "real": o = x. "unit": o = (x + 1) / 2. "phase":
            o = exp(i phase_scale x). "channels": o = x_0 + i x_1. "complex": o = x, complex.
        output: "intensity" or "amplitude".
        phase_scale: Radians at x = 1, for "phase" only.
        size: Side of the images in pixels, or (H, W); square images by default.

    Attributes:
        linear_part: The ``DenseField`` inside, with its adjoint.

    Raises:
        ValueError, TypeError: If an argument is out of range; when called, if x does not fit.
        RuntimeError: When used before ``realise``.

    Source: Candès, Strohmer and Voroninski 2013 (PhaseLift).
    """

    def __init__(
        self,
        matrix: Tensor | GaussianProjections,
        object: str = "real",
        output: str = "intensity",
        phase_scale: float = 1.0,
        size: int | Iterable[int] | None = None,
    ) -> None:
        domain, range_in = split_object(object)
        super().__init__(DenseField(matrix, domain, size), output, range_in, phase_scale)


class LinearInverseScattering(DenseField, SpectralOperator):
    r"""Applies a given dense complex matrix to an image, as first-order scattering does.

    .. math:: y = M \mathrm{vec}(x)

    x is (B, C, H, W), real (or as ``domain`` says); y is complex, (B, C, m): the fields at all
    pairs of transmitter and receiver, in the order of the rows of M. The singular value
    decomposition is computed once, in float64, at the first use of ``pinv``, ``solve_normal`` or
    ``spectrum``: for real images that of the real and imaginary parts of M on top of each other.

    Args:
        matrix: M, (m, H W), complex.
        domain: "real", "channels" or "complex": as in MRI, what x stands for.
        size: Side of the images in pixels, or (H, W); square images by default.
        rcond: ``pinv`` drops singular values below rcond times the largest.

    Raises:
        ValueError, TypeError: If the matrix is no tensor, not finite, or does not fit the size;
            when called, if x does not fit it.

    Source: Zheng et al. 2025 (InverseBench), linear inverse scattering.
    """

    def __init__(
        self,
        matrix: Tensor,
        domain: str = "real",
        size: int | Iterable[int] | None = None,
        rcond: float = 1e-3,
    ) -> None:
        if not isinstance(matrix, Tensor):
            raise TypeError(f"matrix must be a tensor, got {type(matrix).__name__}")
        if not 0 <= rcond < 1:
            raise ValueError(f"rcond must lie in [0, 1), got {rcond}")
        super().__init__(matrix, domain, size)
        self.rcond = rcond
        self._memo = Memo()

    def spectrum(self, x_shape: Shape) -> DenseSpectrum:
        self.check_domain(x_shape)
        factors, self._memo = self._memo.recall("svd", self.matrix_parts, None, self._decomposed)
        return factors

    def _decomposed(self) -> DenseSpectrum:
        matrix = torch.view_as_complex(widened(self.matrix_parts))
        return DenseSpectrum.of(matrix, self.domain, self._sides())

    def solve_normal(self, b: Tensor, lam: float | Tensor) -> Tensor:
        return SpectralOperator.solve_normal(self, b, lam)


@dataclass(frozen=True, eq=False)
class DenseSpectrum(Spectrum):
    """The singular value decomposition of a dense complex matrix on real or complex images.

    Build with ``DenseSpectrum.of(matrix, domain, sides)``. Coefficients are (B, C, n).
    """

    s: Tensor
    u: Tensor
    vh: Tensor
    domain: str
    sides: tuple[int, int]
    _casts: dict[Cast, DenseSpectrum] = field(default_factory=dict, repr=False)

    @staticmethod
    def of(matrix: Tensor, domain: str, sides: tuple[int, int]) -> DenseSpectrum:
        """Decomposes a complex matrix (m, n); for real images its two parts stacked, (2 m, n)."""
        with torch.inference_mode(False), torch.no_grad():
            stacked = torch.cat([matrix.real, matrix.imag]) if domain == "real" else matrix
            k, n = min(stacked.shape), stacked.shape[1]
            # V complete, U only where A reaches: the full U of a tall matrix would be huge.
            tall = stacked.shape[0] >= n
            u, s, vh = torch.linalg.svd(stacked, full_matrices=not tall)
            padded = torch.cat([s, s.new_zeros(n - k)])
            return DenseSpectrum(padded, u[:, :k], vh, domain, sides)

    def Vt(self, x: Tensor) -> Tensor:
        o = as_complex(x) if self.domain == "channels" else x
        return o.flatten(2) @ self.vh.T

    def V(self, coefficients: Tensor) -> Tensor:
        o = (coefficients @ self.vh.conj()).unflatten(-1, self.sides)
        return as_channels(o) if self.domain == "channels" else o

    def Ut(self, y: Tensor) -> Tensor:
        seen = torch.cat([y.real, y.imag], dim=-1) if self.domain == "real" else y
        unseen = self.s.shape[0] - self.u.shape[1]
        return torch.nn.functional.pad(seen @ self.u.conj(), (0, unseen))

    def U(self, coefficients: Tensor) -> Tensor:
        y = coefficients[..., : self.u.shape[1]] @ self.u.T
        return torch.complex(*y.chunk(2, dim=-1)) if self.domain == "real" else y

    def to(self, like: Tensor) -> DenseSpectrum:
        return _cast_once(self._casts, like.real, self._cast)

    def _cast(self, like: Tensor) -> DenseSpectrum:
        kind = like.dtype.to_complex() if self.u.is_complex() else like.dtype
        u, vh = (t.to(device=like.device, dtype=kind) for t in (self.u, self.vh))
        return DenseSpectrum(self.s.to(like), u, vh, self.domain, self.sides)


def _require_size(columns: int, size: tuple[int, int] | None) -> tuple[int, int]:
    if size is None and isqrt(columns) ** 2 == columns:
        return isqrt(columns), isqrt(columns)
    if size is not None and size[0] * size[1] == columns:
        return size
    raise ValueError(
        f"the matrix has {columns} columns, one per pixel, but images are "
        f"{'square by default' if size is None else f'{size[0]} x {size[1]}'}; give the "
        "right size=(H, W)"
    )
