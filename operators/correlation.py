"""Correlation with a kernel at any boundary, by sums or by FFT, and its exact transpose."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from plugip.options import require_choice

BOUNDARIES = ("reflect", "symmetric", "replicate", "circular", "zero", "valid")
Size = tuple[int, int]
# What torch pads by itself, several times as fast as our parts for small images.
_PADS = {"zero": "constant", "reflect": "reflect", "replicate": "replicate"}


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

    @cached_property
    def wraps(self) -> bool:
        """Whether an FFT handles the boundary itself, without padding the image first."""
        return self.boundary in ("circular", "zero")

    @cached_property
    def margins(self) -> tuple[Size, Size]:
        """Pixels (before, after) by which rows and columns are extended."""
        if self.boundary == "valid":
            return (0, 0), (0, 0)
        down, right = ((o, n - 1 - o) for o, n in zip(self.origin, self.size, strict=True))
        return down, right

    def is_small(self, planes: int, like: Tensor, back: bool = False) -> bool:
        """Whether plain sums are faster than an FFT, for images with so many planes (H, W) each.

        The batch has no say: an image's result shall not depend on its neighbours.

        Args:
            planes: Planes (H, W) of one image: its channels, times its kernels if several.
            like: Images; their precision and device count.
            back: Whether the transpose is asked for, which must fold the margins back.
        """
        taps, pixels = self.size[0] * self.size[1], planes * self.image[0] * self.image[1]
        wraps = self.boundary == "circular"  # its FFT needs no margin
        if like.device.type != "cpu":
            # NVIDIA GPUs round float32 convolutions to ten bits (TF32) unless told otherwise.
            return like.dtype != torch.float32 and taps <= (25 if wraps else 81)
        # Measured on a CPU, one thread. Sums cost 3 ns per pixel and 0.03 ns per pixel and tap,
        # at least 0.15 ms; the FFT 6 (circular) to 12 ns per pixel and little else. Above 13 x 13
        # taps sums slow down. In float64 they lack fast code: 9 x 9 taps cost ten FFTs.
        if like.dtype != torch.float32:
            return taps <= 9
        if wraps:
            return taps <= min(100, pixels // 2000)
        return taps <= min(150, pixels // (200 if back else 100))

    @cached_property
    def output(self) -> Size:
        """Size of y."""
        if self.boundary != "valid":
            return self.image
        return self.image[0] - self.size[0] + 1, self.image[1] - self.size[1] + 1

    @cached_property
    def grid(self) -> Size:
        """Size of the FFT."""
        if self.boundary == "circular":
            return self.image
        room = [sum(m) for m in self.margins]
        if self.boundary == "zero":  # both margins may share one, if no kernel spans the image
            room = [
                max(m) if max(m) < n else sum(m)
                for m, n in zip(self.margins, self.image, strict=True)
            ]
        return fast_length(self.image[0] + room[0]), fast_length(self.image[1] + room[1])

    def transfer(self, kernel: Tensor) -> Tensor:
        """Returns the kernel's transfer function on ``grid``, the half that a real FFT keeps."""
        return torch.fft.rfft2(self._placed(kernel)).conj().resolve_conj()

    def full_transfer(self, kernel: Tensor) -> Tensor:
        """Returns the whole transfer function, exactly Hermitian, so that phases cancel."""
        whole = torch.fft.fft2(self._placed(kernel)).conj().resolve_conj()
        mirrored = whole.flip(-2, -1).roll((1, 1), (-2, -1)).conj()
        return (whole + mirrored) / 2

    def by_fft(self, x: Tensor, transfer: Tensor) -> Tensor:
        """Correlates images, to (..., *output)."""
        return self.from_spectrum(self.to_spectrum(x) * transfer)

    def by_fft_adjoint(self, y: Tensor, mirrored: Tensor) -> Tensor:
        """Correlates with the transpose, (..., *output) -> (..., H, W).

        Args:
            y: What ``by_fft`` gives.
            mirrored: The complex conjugate of the transfer function.
        """
        return self.from_spectrum_adjoint(self.to_spectrum_adjoint(y) * mirrored)

    def to_spectrum(self, x: Tensor) -> Tensor:
        """Returns the spectrum of extended images, which a transfer function may multiply."""
        return torch.fft.rfft2(x if self.wraps else self.extend(x), s=self.grid)

    def from_spectrum(self, spectrum: Tensor) -> Tensor:
        """Returns the measurement, (..., *output), with this spectrum."""
        y = torch.fft.irfft2(spectrum, s=self.grid)
        return y if self.output == self.grid else y[..., : self.output[0], : self.output[1]]

    def to_spectrum_adjoint(self, y: Tensor) -> Tensor:
        """Returns the spectrum of measurements, for ``from_spectrum_adjoint``."""
        return torch.fft.rfft2(y, s=self.grid)

    def from_spectrum_adjoint(self, spectrum: Tensor) -> Tensor:
        """Returns images, (..., H, W), whose margins are folded back into them."""
        spread = torch.fft.irfft2(spectrum, s=self.grid)
        down, right = ((0, 0), (0, 0)) if self.wraps else self.margins
        rows, columns = self.image[0] + sum(down), self.image[1] + sum(right)
        spread = spread[..., :rows, :columns]
        return spread if self.wraps else self.fold_back(spread)

    def directly(self, x: Tensor, kernel: Tensor) -> Tensor:
        """Correlates by plain sums, (..., H, W) with (..., kh, kw) -> (..., *output)."""
        if self._own_zeros is not None:
            return correlate_sums(x, kernel, self._own_zeros)
        return correlate_sums(self.extend(x), kernel)

    def directly_adjoint(self, y: Tensor, kernel: Tensor) -> Tensor:
        """Applies the transpose of ``directly``."""
        if self._own_zeros is not None:
            return spread_sums(y, kernel, self._own_zeros)
        return self.fold_back(spread_sums(y, kernel))

    @cached_property
    def _own_zeros(self) -> Size | None:
        """The zeros, (rows, columns), that a convolution itself adds on both sides, if it can."""
        (top, bottom), (left, right) = self.margins
        alike = top == bottom and left == right
        return (top, left) if self.boundary == "zero" and alike else None

    def extend(self, x: Tensor) -> Tensor:
        """Extends images beyond their edges by the boundary rule."""
        down, right = self.margins
        mode = _PADS.get(self.boundary)
        # Reflection and repetition: on GPUs their gradient would not be the same in each run.
        if mode == "constant" or (mode and x.device.type == "cpu" and x.ndim > 2):
            small = x.flatten(0, -4) if x.ndim > 4 else x
            wide = torch.nn.functional.pad(small, (*right, *down), mode)
            return wide.reshape(*x.shape[:-2], *wide.shape[-2:])
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
        if boundary in ("reflect", "symmetric", "replicate") and reach >= side:
            raise ValueError(
                f"a kernel of {taps} taps reaches {reach} pixels beyond the edge, but the image "
                f"is only {side} pixels {axis}; use a smaller kernel, larger images, or a zero or "
                "circular boundary"
            )


def _repeated(edge: Tensor, times: int, dim: int) -> Tensor:
    shape = list(edge.shape)
    shape[dim] = times
    return edge.expand(shape)


def correlate_sums(x: Tensor, kernel: Tensor, room: Size = (0, 0)) -> Tensor:
    """Correlates by plain sums, without any boundary rule.

    Args:
        x: Images, (..., h, w).
        kernel: (..., kh, kw), small; its leading axes broadcast to those of x.
        room: Zeros to add (above and below, left and right) first, (rows, columns).

    Returns:
        Sums, (..., h + 2 rows - kh + 1, w + 2 columns - kw + 1).
    """
    lead, (rows, columns) = x.shape[:-2], kernel.shape[-2:]
    # Every channel of every image is a group: on CPUs by far the fastest layout.
    planes = x.flatten(0, -3)
    weight = kernel.expand(*lead, rows, columns).reshape(-1, 1, rows, columns)
    strips = _strips(planes, rows, columns)
    # Convolutions add zeros by themselves, but on CPUs more than half a kernel takes 6 times as
    # long (9 x 9 taps, 8 zeros).
    if any(room) and (strips > 1 or room[0] > rows // 2 or room[1] > columns // 2):
        planes = torch.nn.functional.pad(planes, (room[1], room[1], room[0], room[0]))
        room = 0, 0
    if strips > 1:
        y = _in_strips(planes, weight, strips)
    else:
        y = torch.nn.functional.conv2d(planes[None], weight, None, 1, room, 1, len(weight))
    return y.reshape(*lead, *y.shape[-2:])


def spread_sums(y: Tensor, kernel: Tensor, room: Size = (0, 0)) -> Tensor:
    """Applies the transpose of ``correlate_sums``; arguments as there."""
    lead, (rows, columns) = y.shape[:-2], kernel.shape[-2:]
    planes = y.flatten(0, -3)
    # For one plane a transposed convolution takes 10 times as long as a convolution.
    if len(planes) == 1 or _strips(planes, rows, columns) > 1:
        beyond = rows - 1 - room[0], columns - 1 - room[1]
        return correlate_sums(y, kernel.flip(-2, -1), beyond)
    weight = kernel.expand(*lead, rows, columns).reshape(-1, 1, rows, columns)
    spread = torch.nn.functional.conv_transpose2d
    x = spread(planes[None], weight, None, 1, room, groups=len(weight))
    return x.reshape(*lead, *x.shape[-2:])


def _in_strips(planes: Tensor, weight: Tensor, strips: int) -> Tensor:
    """Correlates planes (N, h, w) in strips, which are groups of their own."""
    count, rows = len(planes), weight.shape[-2]
    height = planes.shape[1] - rows + 1
    step = height // strips
    tall = height - step * (strips - 1)  # what the last strip needs; the others may overlap
    cut = planes.unfold(1, tall + rows - 1, step).mT.flatten(0, 1)[None]
    weight = weight[:, None].expand(-1, strips, -1, -1, -1).flatten(0, 1)
    y = torch.nn.functional.conv2d(cut, weight, groups=len(weight))
    y = y.view(count, strips, tall, -1)
    if tall == step:
        return y.flatten(1, 2)
    return torch.cat([*y[:, :-1, :step].unbind(1), y[:, -1]], dim=1)


def _strips(planes: Tensor, rows: int, columns: int) -> int:
    """Returns into how many strips to cut each plane, so that a vector has enough of them."""
    # Measured on a CPU: a grouped convolution takes as long for 3 groups as for 12 to 16. So 3
    # planes of 256 x 256 take 2.9 ms with 9 x 9 taps, their 15 strips 0.9 ms. Small work is not
    # worth it: at 64 x 64 with 3 x 3 taps, cutting costs more than the sums.
    if planes.device.type != "cpu" or planes.numel() * rows * columns < 400_000:
        return 1
    height = planes.shape[1] - rows + 1
    return _even_strips(height, min(16 // len(planes), height // rows))


@lru_cache(maxsize=1024)
def _even_strips(height: int, most: int) -> int:
    """Returns the number of strips, up to ``most``, with the lowest strips."""
    return min(range(1, most + 1), key=lambda n: height - height // n * (n - 1), default=1)
