"""Correlation with a kernel at any boundary, by sums or by FFT, and its exact transpose."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from plugip.options import require_choice

BOUNDARIES = ("reflect", "symmetric", "replicate", "circular", "zero", "valid")
Size = tuple[int, int]


@dataclass(frozen=True)
class Correlation:
    """The geometry of y[i] = sum_j k[j] x[i + j - origin], for images of one size.

    Images and kernels may have any leading axes that broadcast: (..., H, W) and (..., kh, kw).

    Args:
        size: Kernel size, (kh, kw).
        origin: Tap that lies on the pixel itself, (row, column); ignored by "valid".
        boundary: One of ``BOUNDARIES``; "valid" keeps only pixels whose window is in the image.
        image: Image size, (H, W).
    """

    size: Size
    origin: Size
    boundary: str
    image: Size

    @property
    def wraps(self) -> bool:
        """Whether an FFT handles the boundary itself, without padding the image first."""
        return self.boundary in ("circular", "zero")

    @property
    def margins(self) -> tuple[Size, Size]:
        """Pixels (before, after) by which rows and columns are extended."""
        if self.boundary == "valid":
            return (0, 0), (0, 0)
        down, right = ((o, n - 1 - o) for o, n in zip(self.origin, self.size, strict=True))
        return down, right

    @property
    def is_small(self) -> bool:
        """Whether plain sums are faster than an FFT."""
        # Measured on CPUs at 64 and 256 pixels; a circular FFT needs no padding.
        return self.size[0] * self.size[1] <= (25 if self.boundary == "circular" else 81)

    @property
    def output(self) -> Size:
        """Size of y."""
        if self.boundary != "valid":
            return self.image
        return self.image[0] - self.size[0] + 1, self.image[1] - self.size[1] + 1

    @property
    def grid(self) -> Size:
        """Size of the FFT."""
        if self.boundary == "circular":
            return self.image
        reach = [max(m) if self.boundary == "zero" else sum(m) for m in self.margins]
        return fast_length(self.image[0] + reach[0]), fast_length(self.image[1] + reach[1])

    def transfer(self, kernel: Tensor) -> Tensor:
        """Returns the kernel's transfer function on ``grid``, the half that a real FFT keeps."""
        return torch.fft.rfft2(self._placed(kernel)).conj().resolve_conj()

    def full_transfer(self, kernel: Tensor) -> Tensor:
        """Returns the whole transfer function, exactly Hermitian, so that phases cancel."""
        whole = torch.fft.fft2(self._placed(kernel)).conj().resolve_conj()
        mirrored = whole.flip(-2, -1).roll((1, 1), (-2, -1)).conj()
        return (whole + mirrored) / 2

    def by_fft(self, x: Tensor, transfer: Tensor, over: int | None = None) -> Tensor:
        """Correlates images, to (..., *output); ``over`` names an axis to sum."""
        extended = x if self.wraps else self.extend(x)
        spectrum = torch.fft.rfft2(extended, s=self.grid) * transfer
        spectrum = spectrum if over is None else spectrum.sum(over)
        y = torch.fft.irfft2(spectrum, s=self.grid)
        return y if self.output == self.grid else y[..., : self.output[0], : self.output[1]]

    def by_fft_adjoint(self, y: Tensor, transfer: Tensor, over: int | None = None) -> Tensor:
        """Correlates with the transpose, (..., *output) -> (..., H, W); ``over`` as above."""
        spectrum = torch.fft.rfft2(y, s=self.grid) * transfer.conj()
        spectrum = spectrum if over is None else spectrum.sum(over)
        spread = torch.fft.irfft2(spectrum, s=self.grid)
        down, right = ((0, 0), (0, 0)) if self.wraps else self.margins
        rows, columns = self.image[0] + sum(down), self.image[1] + sum(right)
        spread = spread[..., :rows, :columns]
        return spread if self.wraps else self.fold_back(spread)

    def directly(self, x: Tensor, kernel: Tensor) -> Tensor:
        """Correlates by plain sums, (B, C, H, W) with (1 or B, kh, kw) -> (B, C, *output)."""
        batch, channels = x.shape[:2]
        weight = _groups(kernel, batch, channels)
        padded = self.extend(x).flatten(0, 1)[None]
        y = torch.nn.functional.conv2d(padded, weight, groups=batch * channels)
        return y.reshape(batch, channels, *self.output)

    def directly_adjoint(self, y: Tensor, kernel: Tensor) -> Tensor:
        """Applies the transpose of ``directly``."""
        batch, channels = y.shape[:2]
        weight, rows = _groups(kernel, batch, channels), y.flatten(0, 1)[None]
        spread = torch.nn.functional.conv_transpose2d(rows, weight, groups=batch * channels)
        return self.fold_back(spread.reshape(batch, channels, *spread.shape[-2:]))

    def extend(self, x: Tensor) -> Tensor:
        """Extends images beyond their edges by the boundary rule."""
        down, right = self.margins
        return extend(extend(x, down, self.boundary, -2), right, self.boundary, -1)

    def fold_back(self, x: Tensor) -> Tensor:
        """Applies the transpose of ``extend``."""
        down, right = self.margins
        return fold_back(fold_back(x, right, self.boundary, -1), down, self.boundary, -2)

    def _placed(self, kernel: Tensor) -> Tensor:
        rows, columns = (g - n for g, n in zip(self.grid, self.size, strict=True))
        placed = torch.nn.functional.pad(kernel, (0, columns, 0, rows))
        return placed.roll((-self.origin[0], -self.origin[1]), (-2, -1)) if self.wraps else placed


def extend(x: Tensor, margin: Size, boundary: str, dim: int) -> Tensor:
    """Extends one axis by (before, after) pixels; reflect, symmetric: fewer than it has.

    Args:
        x: Images, (..., H, W).
        margin: Pixels before and after.
        boundary: One of ``BOUNDARIES``; "valid" counts as "zero".
        dim: -2 or -1.
    """
    before, after = margin
    if before == after == 0:
        return x
    side = x.shape[dim]
    if boundary in ("zero", "valid"):
        return torch.nn.functional.pad(x, (*margin,) if dim == -1 else (0, 0, *margin))
    if boundary == "circular":
        parts = [x.narrow(dim, side - before, before), x, x.narrow(dim, 0, after)]
    elif boundary == "replicate":
        first, last = x.narrow(dim, 0, 1), x.narrow(dim, side - 1, 1)
        parts = [_repeated(first, before, dim), x, _repeated(last, after, dim)]
    else:
        skip = int(boundary == "reflect")
        left, right = x.narrow(dim, skip, before), x.narrow(dim, side - skip - after, after)
        parts = [left.flip(dim), x, right.flip(dim)]
    return torch.cat(parts, dim)


def fold_back(x: Tensor, margin: Size, boundary: str, dim: int) -> Tensor:
    """Applies the transpose of ``extend``: adds the margins to the pixels they stand for."""
    before, after = margin
    if before == after == 0:
        return x
    side = x.shape[dim] - before - after
    middle = x.narrow(dim, before, side)
    if boundary in ("zero", "valid"):
        return middle
    left, right = x.narrow(dim, 0, before), x.narrow(dim, before + side, after)
    if boundary == "circular":
        places = (side - before, left), (0, right)
    elif boundary == "replicate":
        places = (0, left.sum(dim, keepdim=True)), (side - 1, right.sum(dim, keepdim=True))
    else:
        skip = int(boundary == "reflect")
        places = (skip, left.flip(dim)), (side - skip - after, right.flip(dim))
    folded = middle.clone()
    for start, part in places:
        folded.narrow(dim, start, part.shape[dim]).add_(part)
    return folded


@lru_cache(maxsize=1024)
def fast_length(least: int) -> int:
    """Returns the smallest whole number >= ``least`` without prime factors above 5."""
    length = least
    while True:
        rest = length
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return length
        length += 1


def require_fit(size: Size, origin: Size, x_shape: tuple[int, ...], boundary: str) -> None:
    """Raises a ValueError if a kernel is too large for the images at this boundary."""
    require_choice(boundary, BOUNDARIES, "boundary")
    for taps, o, side, axis in zip(size, origin, x_shape[-2:], ("high", "wide"), strict=True):
        reach = max(o, taps - 1 - o)
        if boundary in ("circular", "valid") and taps > side:
            raise ValueError(
                f"a kernel of {taps} taps does not fit an image that is {side} pixels {axis} "
                f"with boundary={boundary!r}; use at most {side} taps, or larger images"
            )
        if boundary not in ("circular", "valid") and reach >= side:
            raise ValueError(
                f"a kernel of {taps} taps reaches {reach} pixels beyond the edge, but the image "
                f"is only {side} pixels {axis}; use a smaller kernel, or larger images"
            )


def _repeated(edge: Tensor, times: int, dim: int) -> Tensor:
    shape = list(edge.shape)
    shape[dim] = times
    return edge.expand(shape)


def _groups(kernel: Tensor, batch: int, channels: int) -> Tensor:
    # Every channel of every image is a group: on CPUs by far the fastest layout.
    return kernel.expand(batch, -1, -1).repeat_interleave(channels, 0)[:, None]
