"""Measurements as pictures: one answer to whether y is a picture, for methods, runs and sheets."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from plugip.operator import Operator
from plugip.places import Places, centred, find_places

HEAVY = 10.0  # largest size over typical size from which a linear scale shows little


def image_of(
    y: Tensor, image_shape: tuple[int, ...], operator: Operator | None = None
) -> Tensor | None:
    """Makes images of pictures y without any prior: y itself, or y read where its pixels lie.

    A smaller y is enlarged by bicubic interpolation; grey is repeated for all channels.

    Args:
        y: Measurements, (B, *Y).
        image_shape: Shape of the images, (C, H, W), or (C, T, H, W) of videos.
        operator: What has measured y; None: pixels of y cover the image exactly.

    Returns:
        Images, (B, C, H, W), in the range of y; None where y is no picture of them.
    """
    if not fits(y, image_shape):
        return None
    places = _places(y, image_shape, operator)
    if places is None:
        return None
    same = tuple(y.shape[-2:]) == tuple(image_shape[-2:])
    enlarged = y if same else enlarge(y, places, (image_shape[-2], image_shape[-1]))
    return enlarged.expand(-1, image_shape[0], *[-1] * (y.ndim - 2))


def _places(y: Tensor, image_shape: tuple[int, ...], operator: Operator | None) -> Places | None:
    if operator is None:
        return centred(y.shape, image_shape)
    return find_places(operator, y, image_shape)


def fits(y: Tensor, image_shape: tuple[int, ...]) -> bool:
    """Tells whether y, (B, *Y), has the shape of pictures: real, colour or grey, not larger."""
    if y.is_complex() or y.ndim != len(image_shape) + 1 or y.ndim < 4:
        return False
    if y.shape[1] not in (1, image_shape[0]) or tuple(y.shape[2:-2]) != image_shape[1:-2]:
        return False
    return all(a <= b for a, b in zip(y.shape[-2:], image_shape[-2:], strict=True))


def signed(y: Tensor) -> bool:
    """Tells whether values are about in [-1, 1], blind to noise and outliers."""
    if float(y.min()) >= 0 and float(y.max()) > 1.2:  # intensities, not grey values
        return False
    # A spectrum's median is far outside or one-sided.
    return float(y.abs().median()) <= 1.5


def enlarge(y: Tensor, places: Places, sides: tuple[int, int]) -> Tensor:
    """Reads pictures at all pixels of an image by bicubic interpolation.

    Args:
        y: (B, ..., h, w).
        places: Where the pixels of y lie on the image.
        sides: Height and width of the image.

    Returns:
        (B, ..., H, W); beyond the outer pixels of y their values go on.
    """
    lines = []
    for axis, (n, m) in enumerate(zip(sides, y.shape[-2:], strict=True)):
        i = torch.arange(n, dtype=torch.float64)
        j = (i - places.first[:, axis, None]) / places.stride[:, axis, None]
        lines.append(((2 * j + 1) / m - 1).expand(len(y), -1))
    down, right = lines
    grid = torch.stack(
        [right[:, None].expand(-1, sides[0], -1), down[:, :, None].expand(-1, -1, sides[1])], -1
    )
    flat = y.reshape(len(y), -1, *y.shape[-2:]).cpu()  # bicubic is missing on some devices
    read = F.grid_sample(flat, grid.to(flat), "bicubic", "border", align_corners=False)
    return read.reshape(*y.shape[:-2], *sides).to(y)


def show(y: Tensor, side: int) -> tuple[Tensor, str]:
    """Returns one measurement as a picture, (1 or 3, h, w) in [-1, 1], and how it was made.

    Pictures stay as they are, for a writer to clamp, of videos the middle frame; intensities run
    from black at 0 to white; of complex numbers sizes are shown. Lists are folded to squares and
    stacks are tiled. The rest has a linear scale, or a logarithmic one where few values tower
    above the others.

    Args:
        y: One measurement, without its batch axis.
        side: Longer side of the images.
    """
    if y.ndim == 4:
        middle = y.shape[1] // 2
        return _noted(f"frame {middle + 1} of {y.shape[1]}", show(y[:, middle], side))
    if y.is_complex():
        return _scaled(y.abs(), "|y|")
    if y.ndim == 3 and y.shape[0] in (1, 3) and max(y.shape[1:]) <= side:
        if signed(y):
            return y, "clamped" if float(y.abs().max()) > 1.1 else ""
        if float(y.min()) >= 0 and float(y.median()) <= 1.5:  # light; spectra lie far beyond
            return 2 * y / y.max() - 1, f"white = {float(y.max()):.2g}"
    return _scaled(y)


def _noted(note: str, shown: tuple[Tensor, str]) -> tuple[Tensor, str]:
    picture, more = shown
    return picture, f"{note}, {more}" if more else note


def _scaled(y: Tensor, name: str = "") -> tuple[Tensor, str]:
    """Shows real numbers of any kind: folded or tiled, on the scale that suits them."""
    y = y.cpu().double()
    flat, layout = _as_pictures(y)
    sizes = y.abs()[y != 0].sort().values
    if len(sizes) and float(sizes[-1]) > HEAVY * float(sizes[len(sizes) // 2]):
        # log(1 + |y|) has contrast above |y| = 1: small values are brought there.
        picture, scale = _stretched((flat / sizes[len(sizes) // 4]).abs().log1p()), "log scale"
        scale = f"log {name}" if name else scale
    else:
        picture = _stretched(flat)
        scale = f"{name}{name and ' '}{float(y.min()):.2g} to {float(y.max()):.2g}"
    return picture.float(), f"{layout}, {scale}" if layout else scale


def _stretched(values: Tensor) -> Tensor:
    low, high = values.min(), values.max()
    return 2 * (values - low) / (high - low).clamp_min(1e-12) - 1


def _as_pictures(y: Tensor) -> tuple[Tensor, str]:
    """Folds lists, (n) or (C, n), to squares, and lays stacks, (K, h, w), out as tiles."""
    if y.ndim < 3:
        y = y.reshape(-1, y.shape[-1])
        side = math.ceil(math.sqrt(y.shape[1]))
        rows = math.ceil(y.shape[1] / side)
        square = F.pad(y, (0, rows * side - y.shape[1])).unflatten(1, (rows, side))
        return _as_pictures(square)[0], "folded"
    if y.shape[0] in (1, 3):
        return y, ""
    count, height, width = y.shape
    across = math.ceil(math.sqrt(count))
    down = math.ceil(count / across)
    gap = int(min(height, width) >= 16)
    tiles = F.pad(y, (0, gap, 0, gap, 0, across * down - count))
    tiles = tiles.unflatten(0, (down, across)).movedim(1, 2).flatten(2, 3).flatten(0, 1)
    return tiles[None], "tiled"
