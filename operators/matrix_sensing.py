"""Compressed sensing with explicit matrices, on whole channels or block by block."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from plugip.linalg import widened
from plugip.operator import Shape, SpectralOperator
from plugip.operators._options import as_sides, require_count, require_sampler
from plugip.operators._vectors import RowOrthonormal, image_shape, require_image_size
from plugip.operators.average_pool import require_divisible
from plugip.operators.sensing_samplers import MatrixSampler
from plugip.spectral import Spectrum

if TYPE_CHECKING:
    from plugip.rng import Rng

Cached = tuple[Tensor, int, tuple[Tensor, Tensor, Tensor]]


class _MatrixSensing(SpectralOperator):
    """What both operators share: a matrix, given or drawn, and its SVD, made once if needed."""

    per_image = ("matrix",)
    matrix: Tensor
    _factors: Cached | None

    def __init__(self, matrix: Tensor | MatrixSampler) -> None:
        super().__init__()
        self.sampler = None if isinstance(matrix, Tensor) else _drawn_by(matrix)
        # Without a matrix yet, an empty one keeps the device.
        fixed = _require_matrix(matrix) if isinstance(matrix, Tensor) else torch.empty(0, 0, 0)
        self.register_buffer("matrix", fixed)
        self._factors = None

    @abstractmethod
    def _columns(self, x: Tensor) -> Tensor:
        """Cuts images into the vectors that are measured, (B, C, H, W) -> (B, C, n, L)."""

    @abstractmethod
    def _image(self, columns: Tensor, x_shape: Shape) -> Tensor:
        """Undoes ``_columns``."""

    @abstractmethod
    def _stacked(self, y: Tensor) -> Tensor:
        """Returns the measurements of each vector, (B, *Y) -> (B, C, m, L)."""

    @abstractmethod
    def _laid_out(self, measured: Tensor, x_shape: Shape) -> Tensor:
        """Undoes ``_stacked``."""

    def forward(self, x: Tensor) -> Tensor:
        matrix = self._fixed(tuple(x.shape)).to(x.dtype)
        return self._laid_out(_times(matrix, self._columns(x)), tuple(x.shape))

    def adjoint(self, y: Tensor) -> Tensor:
        x_shape = self.domain_shape(tuple(y.shape))
        matrix = self._fixed(x_shape).to(y.dtype)
        return self._image(_times_transposed(matrix, self._stacked(y)), x_shape)

    def spectrum(self, x_shape: Shape) -> Spectrum:
        u, s, vt = self._decomposed(self._fixed(x_shape))
        return MatrixSpectrum(s[:, None, :, None], u, vt, self, x_shape)

    def _decomposed(self, matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if matrix.requires_grad:
            return _svd(matrix)
        known, version = self._factors, -1 if matrix.is_inference() else matrix._version
        if known is None or known[0] is not matrix or known[1] != version:
            with torch.inference_mode(False):  # what inference mode makes cannot train
                known = self._factors = (matrix, version, _svd(matrix))
        return known[2]

    def _fixed(self, x_shape: Shape) -> Tensor:
        if self.sampler is not None:
            raise RuntimeError(
                f"{type(self).__name__} has no matrix yet, it draws one from {self.sampler}; "
                "call operator = operator.realise(rng, x.shape) first"
            )
        self.check_domain(x_shape)
        return self.matrix

    def _require_batch_of(self, batch: int) -> None:
        if self.matrix.shape[0] > 1 and self.matrix.shape[0] != batch:
            raise ValueError(f"matrices were drawn for {self.matrix.shape[0]} images, got {batch}")

    def _rows_for(self, n: int) -> int:
        return self.matrix.shape[1] if self.sampler is None else self.sampler.count(n)


class DenseSensing(_MatrixSensing):
    r"""Multiplies each channel, read row by row, with one matrix: compressed sensing.

    .. math:: y = M\, \mathrm{vec}(x)

    for every channel of x (B, C, H, W) with n = H W pixels, to y (B, C, m). The SVD is computed
    once, when first needed; at n = 4096 this takes seconds.

    Args:
        matrix: (m, n) with m <= n, or (1|B, m, n) for one per image; or a sampler such as
            ``GaussianMatrix(0.25)``: then call ``realise(rng, x_shape)`` first.
        image_size: Side of the images, or (height, width); ``realise`` fills it in. The adjoint
            needs it.

    Raises:
        TypeError: If the matrix is neither tensor nor sampler.
        ValueError: If the matrix has another shape or more rows than columns; when called, if
            images have another number of pixels.
        RuntimeError: When used before ``realise``.

    Source: Candès and Tao 2006.
    """

    def __init__(
        self,
        matrix: Tensor | MatrixSampler,
        image_size: int | tuple[int, int] | None = None,
    ) -> None:
        super().__init__(matrix)
        self.image_size = None if image_size is None else as_sides(image_size, "image_size")

    def realise(self, rng: Rng, x_shape: Shape) -> DenseSensing:
        self.check_domain(x_shape)
        if self.sampler is None:
            return self
        h, w = x_shape[-2:]
        matrix = self.sampler.draw(rng.child("matrix"), h * w)
        return DenseSensing(matrix.to(self.matrix.device), (h, w))

    def check_domain(self, x_shape: Shape) -> None:
        h, w = x_shape[-2:]
        require_image_size("DenseSensing", self.image_size, x_shape)
        if self.sampler is None and h * w != self.matrix.shape[2]:
            raise ValueError(
                f"the matrix has {self.matrix.shape[2]} columns, but images of {h} x {w} have "
                f"{h * w} pixels per channel"
            )
        self._require_batch_of(x_shape[0])

    def measurement_shape(self, x_shape: Shape) -> Shape:
        self.check_domain(x_shape)
        return (*x_shape[:2], self._rows_for(x_shape[-2] * x_shape[-1]))

    def domain_shape(self, y_shape: Shape) -> Shape:
        count = None if self.sampler is not None else self.matrix.shape[1]
        return image_shape("DenseSensing", y_shape, count, self.image_size)

    def _columns(self, x: Tensor) -> Tensor:
        return x.flatten(2)[..., None]

    def _image(self, columns: Tensor, x_shape: Shape) -> Tensor:
        return columns.reshape(x_shape)

    def _stacked(self, y: Tensor) -> Tensor:
        return y[..., None]

    def _laid_out(self, measured: Tensor, x_shape: Shape) -> Tensor:
        return measured[..., 0]

    def extra_repr(self) -> str:
        matrix = tuple(self.matrix.shape) if self.sampler is None else self.sampler
        return f"matrix={matrix}, image_size={self.image_size}"


class BlockSensing(RowOrthonormal, _MatrixSensing):
    r"""Measures every block of every channel with the same orthonormal rows.

    .. math:: y_{block} = Q\, \mathrm{vec}(x_{block}), \qquad Q Q^\top = I

    x is (B, C, H, W) with sides that are multiples of the block's; y is (B, C m, H / b, W / b):
    all m measurements of a channel, then the next channel, each a small image with one pixel per
    block. The adjoint is the pseudo-inverse; s is 0 or 1.

    Args:
        matrix: (m, b²) with orthonormal rows, or (1|B, m, b²) for one per image; or a sampler such
            as ``OrthonormalRows(0.25)``: then call ``realise(rng, x_shape)`` first.
        block: Side of a block in pixels, b; 32 in DDNM.

    Raises:
        TypeError: If the matrix is neither tensor nor sampler.
        ValueError: If rows are not orthonormal or have another length; when called, if images
            cannot be cut into blocks.
        RuntimeError: When used before ``realise``.

    Source: Wang et al. 2023 (DDNM), code.
    """

    def __init__(self, matrix: Tensor | MatrixSampler, block: int = 32) -> None:
        super().__init__(matrix)
        self.block = require_count(block, 1, "block")
        if self.sampler is None:
            _require_orthonormal(self.matrix, self.block**2)

    def realise(self, rng: Rng, x_shape: Shape) -> BlockSensing:
        self.check_domain(x_shape)
        if self.sampler is None:
            return self
        matrix = self.sampler.draw(rng.child("matrix"), self.block**2)
        return BlockSensing(matrix.to(self.matrix.device), self.block)

    def check_domain(self, x_shape: Shape) -> None:
        require_divisible(x_shape, self.block)
        self._require_batch_of(x_shape[0])

    def measurement_shape(self, x_shape: Shape) -> Shape:
        self.check_domain(x_shape)
        (b, c, h, w), m = x_shape, self._rows_for(self.block**2)
        return (b, c * m, h // self.block, w // self.block)

    def domain_shape(self, y_shape: Shape) -> Shape:
        m = self._rows_for(self.block**2)
        if len(y_shape) != 4 or y_shape[1] % m:
            raise ValueError(
                f"measurements have shape (B, C * {m}, H / {self.block}, W / {self.block}), got "
                f"{tuple(y_shape)}"
            )
        b, stacked, h, w = y_shape
        return (b, stacked // m, h * self.block, w * self.block)

    def _columns(self, x: Tensor) -> Tensor:
        cut = torch.nn.functional.pixel_unshuffle(x, self.block)
        return cut.reshape(*x.shape[:2], self.block**2, -1)

    def _image(self, columns: Tensor, x_shape: Shape) -> Tensor:
        b, c, h, w = x_shape
        cut = columns.reshape(b, c * self.block**2, h // self.block, w // self.block)
        return torch.nn.functional.pixel_shuffle(cut, self.block)

    def _stacked(self, y: Tensor) -> Tensor:
        m = self.matrix.shape[1]
        return y.reshape(y.shape[0], y.shape[1] // m, m, -1)

    def _laid_out(self, measured: Tensor, x_shape: Shape) -> Tensor:
        h, w = x_shape[-2:]
        return measured.reshape(measured.shape[0], -1, h // self.block, w // self.block)

    def extra_repr(self) -> str:
        matrix = tuple(self.matrix.shape) if self.sampler is None else self.sampler
        return f"matrix={matrix}, block={self.block}"


@dataclass(frozen=True, eq=False)
class MatrixSpectrum(Spectrum):
    """The SVD of a small dense matrix; coefficients are (B, C, n, L), L vectors per channel."""

    s: Tensor  # (1|B, 1, n, 1)
    u: Tensor  # (1|B, m, m)
    vt: Tensor  # (1|B, n, n)
    operator: _MatrixSensing
    x_shape: Shape

    def Vt(self, x: Tensor) -> Tensor:
        return _times(self.vt, self.operator._columns(x))

    def V(self, coefficients: Tensor) -> Tensor:
        columns = _times_transposed(self.vt, coefficients)
        return self.operator._image(columns, (columns.shape[0], *self.x_shape[1:]))

    def Ut(self, y: Tensor) -> Tensor:
        seen = _times_transposed(self.u, self.operator._stacked(y))
        return torch.nn.functional.pad(seen, (0, 0, 0, self.vt.shape[-1] - seen.shape[2]))

    def U(self, coefficients: Tensor) -> Tensor:
        measured = _times(self.u, coefficients[:, :, : self.u.shape[-1]])
        return self.operator._laid_out(measured, self.x_shape)

    def to(self, like: Tensor) -> MatrixSpectrum:
        u, vt = self.u.to(like), self.vt.to(like)
        return MatrixSpectrum(self.s.to(like.real), u, vt, self.operator, self.x_shape)


def _svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Decomposes (1|B, m, n) in float64; V is complete, and s has zeros for what is not seen."""
    u, s, vt = torch.linalg.svd(widened(matrix), full_matrices=True)
    return u, torch.nn.functional.pad(s, (0, vt.shape[-1] - s.shape[-1])), vt


def _times(matrix: Tensor, v: Tensor) -> Tensor:
    """Multiplies (1|B, m, n) with the vectors of each image, (B, C, n, L) -> (B, C, m, L)."""
    if matrix.shape[0] > 1:
        return matrix[:, None] @ v
    if v.shape[-1] > 1:
        return matrix[0] @ v
    # One vector per channel: one product for the whole batch reads the matrix once.
    rows = torch.einsum("mn,kn->km", matrix[0], v[..., 0].flatten(0, 1))
    return rows.reshape(*v.shape[:2], -1, 1)


def _times_transposed(matrix: Tensor, v: Tensor) -> Tensor:
    """Multiplies the transpose, (B, C, m, L) -> (B, C, n, L)."""
    if matrix.shape[0] > 1:
        return matrix.mT[:, None] @ v
    if v.shape[-1] > 1:
        return matrix[0].mT @ v
    return (v[..., 0].flatten(0, 1) @ matrix[0]).reshape(*v.shape[:2], -1, 1)


def _drawn_by(matrix: object) -> MatrixSampler:
    return require_sampler(matrix, MatrixSampler, "matrix", "GaussianMatrix(0.25)")


def _require_matrix(matrix: Tensor) -> Tensor:
    each = matrix[None] if matrix.ndim == 2 else matrix
    wide = each.ndim == 3 and 0 < each.shape[1] <= each.shape[2]
    if not wide or not each.is_floating_point():
        raise ValueError(
            "matrix must be floating point, (m, n) or (1 or B, m, n) with m <= n, got "
            f"{matrix.dtype} of shape {tuple(matrix.shape)}"
        )
    return each


def _require_orthonormal(matrix: Tensor, n: int) -> None:
    if matrix.shape[2] != n:
        raise ValueError(
            f"rows of {matrix.shape[2]} numbers do not fit blocks of {n} pixels; change block"
        )
    gram = matrix @ matrix.mT
    gap = float((gram - torch.eye(gram.shape[1]).to(gram)).abs().max())
    if not gap < 1e-4:
        raise ValueError(
            f"the rows of the matrix must be orthonormal, but M M^T is off by {gap:.1e}; use "
            "torch.linalg.qr(M.mT)[0].mT"
        )
