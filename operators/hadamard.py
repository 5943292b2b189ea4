"""Compressed sensing by the Walsh-Hadamard transform: few coefficients, at the cost of an FFT."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from plugip.linalg import wide
from plugip.operator import Shape
from plugip.operators._options import as_sides, require_sampler
from plugip.operators._vectors import (
    RowOrthonormal,
    image_shape,
    picked,
    placed,
    require_image_size,
)
from plugip.operators.sensing_samplers import RowSampler, SignSampler
from plugip.spectral import Spectrum

if TYPE_CHECKING:
    from plugip.rng import Rng


def walsh_hadamard(v: Tensor) -> Tensor:
    """Applies the orthonormal Walsh-Hadamard transform, which is its own inverse.

    Args:
        v: (..., n), n a power of two.

    Returns:
        Coefficients in natural (Sylvester) order, same shape.

    Raises:
        ValueError: If n is not a power of two.

    Source: Sylvester 1867; four butterfly stages at a time.
    """
    n = v.shape[-1]
    if not _is_power_of_two(n):
        raise ValueError(f"the Walsh-Hadamard transform needs a power of two, got {n}")
    out, left = v.reshape(-1, n), n
    while left > 1:
        radix = min(16, left)
        # Each pass transforms the leading digit of the index and moves it to the end.
        out = (out.reshape(-1, radix, n // radix).mT @ _sylvester(radix, v)).reshape(-1, n)
        left //= radix
    return out.reshape(v.shape)


class WalshHadamard(RowOrthonormal):
    r"""Measures some Walsh-Hadamard coefficients of each channel: compressed sensing.

    .. math:: y = \big(H\, (\epsilon \odot x)\big)_{rows}, \qquad H H = I

    x is (B, C, H, W) with n = H W a power of two, read row by row; y is (B, C, m). Rows are
    orthonormal: the adjoint is the pseudo-inverse, and s is 0 or 1. For [-1, 1] images |y| is at
    most sqrt(n). DDRM lists y with channels innermost: ``y.mT.flatten(1)``.

    Rows and signs may be given, or samplers that draw them: then call ``realise(rng, x_shape)``
    first (the experiment does so).

    Args:
        rows: Indices of the kept coefficients in natural order, (m,) or (1|B, m); or a sampler
            such as ``RandomRows(0.5)``.
        signs: 1 or -1 for every pixel, (n,) or (1|B, n); a sampler such as ``RandomSigns()``; or
            None for none, as in DDRM. Signs spread smooth images over all coefficients.
        image_size: Side of the images, or (height, width); ``realise`` fills it in. The adjoint
            needs it.

    Raises:
        TypeError: If rows or signs are neither tensor nor sampler.
        ValueError: If rows repeat or are out of range, signs are not 1 or -1; when called, if n is
            not a power of two.
        RuntimeError: When used before ``realise``.

    Source: Kawar et al. 2022 (DDRM), code.
    """

    per_image = ("rows", "signs")
    rows: Tensor
    signs: Tensor | None

    def __init__(
        self,
        rows: Tensor | RowSampler,
        signs: Tensor | SignSampler | None = None,
        image_size: int | tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.image_size = None if image_size is None else as_sides(image_size, "image_size")
        self.row_sampler = None if isinstance(rows, Tensor) else _require_row_sampler(rows)
        self.sign_sampler = None if isinstance(signs, Tensor) else _require_sign_sampler(signs)
        # Without rows yet, an empty tensor keeps the device.
        drawn = _require_rows(rows) if isinstance(rows, Tensor) else torch.empty(0, 0).long()
        self.register_buffer("rows", drawn)
        # A number on the host, so that no call waits for the GPU.
        self._reach = int(drawn.max()) if drawn.numel() else -1
        self.register_buffer("signs", _require_signs(signs) if isinstance(signs, Tensor) else None)

    def realise(self, rng: Rng, x_shape: Shape) -> WalshHadamard:
        self.check_domain(x_shape)
        rows, signs, n = self.rows, self.signs, x_shape[-2] * x_shape[-1]
        if self.row_sampler is not None:
            rows = self.row_sampler.draw(rng.child("rows"), n).to(self.rows.device)
        if self.sign_sampler is not None:
            signs = self.sign_sampler.draw(rng.child("signs"), n).to(self.rows.device)
        return WalshHadamard(rows, signs, (x_shape[-2], x_shape[-1]))

    def forward(self, x: Tensor) -> Tensor:
        rows = self._fixed(tuple(x.shape))
        return picked(self._analysed(x.flatten(2)), rows)

    def adjoint(self, y: Tensor) -> Tensor:
        x_shape = self.domain_shape(tuple(y.shape))
        rows = self._fixed(x_shape)
        n = x_shape[-2] * x_shape[-1]
        return self._synthesised(placed(y, rows, n)).reshape(x_shape)

    def spectrum(self, x_shape: Shape) -> Spectrum:
        rows = self._fixed(x_shape)
        one = torch.ones(rows.shape, dtype=wide(rows), device=rows.device)
        s = placed(one[:, None], rows, x_shape[-2] * x_shape[-1])
        return HadamardSpectrum(s.unflatten(-1, x_shape[-2:]), self)

    def check_domain(self, x_shape: Shape) -> None:
        h, w = x_shape[-2:]
        if not _is_power_of_two(h * w):
            raise ValueError(
                f"WalshHadamard needs images with a power of two of pixels per channel, got {h} x "
                f"{w}; crop or resize, such as to 64 x 64"
            )
        require_image_size("WalshHadamard", self.image_size, x_shape)
        self._require_fit(x_shape[0], h * w)

    def measurement_shape(self, x_shape: Shape) -> Shape:
        self.check_domain(x_shape)
        if self.row_sampler is not None:
            return (*x_shape[:2], self.row_sampler.count(x_shape[-2] * x_shape[-1]))
        return (*x_shape[:2], self.rows.shape[1])

    def domain_shape(self, y_shape: Shape) -> Shape:
        count = None if self.row_sampler is not None else self.rows.shape[1]
        return image_shape("WalshHadamard", y_shape, count, self.image_size)

    def _analysed(self, v: Tensor) -> Tensor:
        signs = self.signs
        return walsh_hadamard(v if signs is None else v * signs[:, None].to(v.dtype))

    def _synthesised(self, coefficients: Tensor) -> Tensor:
        v, signs = walsh_hadamard(coefficients), self.signs
        return v if signs is None else v * signs[:, None].to(v.dtype)

    def _fixed(self, x_shape: Shape) -> Tensor:
        if self.row_sampler is not None or self.sign_sampler is not None:
            source = self.row_sampler or self.sign_sampler
            raise RuntimeError(
                f"WalshHadamard has drawn nothing yet from {source}; "
                "call operator = operator.realise(rng, x.shape) first"
            )
        self.check_domain(x_shape)
        return self.rows

    def _require_fit(self, batch: int, n: int) -> None:
        if self._reach >= n:
            raise ValueError(f"rows reach {self._reach}, but images have {n} pixels")
        if self.signs is not None and self.signs.shape[1] != n:
            raise ValueError(f"there are {self.signs.shape[1]} signs, but images have {n} pixels")
        sets = [t for t in (self.rows, self.signs) if t is not None and t.shape[0] > 1]
        if any(t.shape[0] != batch for t in sets):
            raise ValueError(
                f"rows and signs were drawn for {sets[0].shape[0]} images, got {batch}"
            )

    def extra_repr(self) -> str:
        rows = tuple(self.rows.shape) if self.row_sampler is None else self.row_sampler
        signs = self.sign_sampler if self.signs is None else tuple(self.signs.shape)
        return f"rows={rows}, signs={signs}, image_size={self.image_size}"


@dataclass(frozen=True, eq=False)
class HadamardSpectrum(Spectrum):
    """Walsh-Hadamard coefficients, laid out like the image; s marks the kept ones."""

    s: Tensor
    operator: WalshHadamard

    def Vt(self, x: Tensor) -> Tensor:
        return self.operator._analysed(x.flatten(2)).reshape(x.shape)

    def V(self, coefficients: Tensor) -> Tensor:
        return self.operator._synthesised(coefficients.flatten(2)).reshape(coefficients.shape)

    def Ut(self, y: Tensor) -> Tensor:
        sides = self.s.shape[-2:]
        return placed(y, self.operator.rows, sides.numel()).unflatten(-1, sides)

    def U(self, coefficients: Tensor) -> Tensor:
        return picked(coefficients.flatten(2), self.operator.rows)

    def to(self, like: Tensor) -> HadamardSpectrum:
        return HadamardSpectrum(self.s.to(like.real), self.operator)


@lru_cache(maxsize=32)
def _sylvester_of(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        h = torch.ones(1, 1, dtype=torch.float64)
        while h.shape[0] < size:
            h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)])
        return (h / size**0.5).to(device, dtype)


def _sylvester(size: int, like: Tensor) -> Tensor:
    return _sylvester_of(size, like.dtype, like.device)


def _is_power_of_two(n: int) -> bool:
    return n >= 1 and n & (n - 1) == 0


def _require_row_sampler(rows: object) -> RowSampler:
    return require_sampler(rows, RowSampler, "rows", "RandomRows(0.5)")


def _require_sign_sampler(signs: object) -> SignSampler | None:
    if signs is None or isinstance(signs, SignSampler):
        return signs
    raise TypeError(
        f"signs must be a tensor, None, or a sampler such as RandomSigns(), "
        f"got {type(signs).__name__}"
    )


def _require_rows(rows: Tensor) -> Tensor:
    each = rows[None] if rows.ndim == 1 else rows
    if each.ndim != 2 or each.numel() == 0 or each.dtype != torch.int64:
        raise ValueError(
            f"rows must be int64 indices, (m,) or (1 or B, m), got {rows.dtype} of shape "
            f"{tuple(rows.shape)}"
        )
    ordered = each.sort(dim=1).values
    if bool((ordered[:, 0] < 0).any()) or bool((ordered.diff(dim=1) == 0).any()):
        raise ValueError("rows must be distinct indices, 0 or more, for each image")
    return each


def _require_signs(signs: Tensor) -> Tensor:
    each = signs[None] if signs.ndim == 1 else signs
    if each.ndim != 2 or not bool((each.abs() == 1).all()):
        raise ValueError(
            f"signs must be 1 or -1, (n,) or (1 or B, n), got shape {tuple(signs.shape)}"
        )
    return each
