"""What is shown beside the answer: a baseline made from y alone; y and unknowns as pictures."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from plugip.operator import Unknown


def naive(y: Tensor, image_shape: tuple[int, ...]) -> Tensor | None:
    """Makes an image of y without any prior: y itself, or y enlarged by bicubic interpolation.

    Args:
        y: Measurements, (B, *Y).
        image_shape: Shape of the images, (C, H, W).

    Returns:
        Images, (B, C, H, W), in [-1, 1]; None where y is no picture of them.
    """
    if not looks_like_image(y[0], image_shape):
        return None
    if tuple(y.shape[1:]) == tuple(image_shape):
        return y.clamp(-1, 1)
    enlarged = F.interpolate(y, tuple(image_shape[-2:]), mode="bicubic", align_corners=False)
    return enlarged.clamp(-1, 1)


def looks_like_image(y: Tensor, image_shape: tuple[int, ...]) -> bool:
    """Tells whether one measurement is a picture: same channels, not larger, about in [-1, 1]."""
    if y.is_complex() or y.ndim != 3 or y.shape[0] != image_shape[0]:
        return False
    if float(y.min()) >= 0 and float(y.max()) > 1.2:  # intensities, not grey values
        return False
    smaller = all(a <= b for a, b in zip(y.shape, image_shape, strict=True))
    # The median is blind to noise and outliers, and a spectrum's is far outside or one-sided.
    return smaller and float(y.abs().median()) <= 1.5


def picture_of(y: Tensor, image_shape: tuple[int, ...]) -> tuple[Tensor, str]:
    """Returns one measurement as a picture, (C, h, w) in [-1, 1], and how it was made.

    Pictures stay as they are ("" is the note); anything else is shown by log(1 + |y|).
    """
    if looks_like_image(y, image_shape):
        return y, ""
    size = y.abs().double().log1p()
    flat = size if size.ndim == 3 else size.reshape(1, -1, size.shape[-1])
    flat = flat.mean(dim=0, keepdim=True) if flat.shape[0] not in (1, 3) else flat
    if flat.shape[1] == 1:  # a list of numbers becomes a strip
        flat = flat.expand(-1, max(flat.shape[2] // 8, 1), -1)
    low, high = flat.min(), flat.max()
    return 2 * (flat - low) / (high - low).clamp_min(1e-12) - 1, "log scale"


def named_parts(name: str, theta: Unknown | None) -> dict[str, Tensor]:
    """Returns the parts of one image's unknown under their names: theta, or theta_kernel, ..."""
    if theta is None:
        return {}
    if isinstance(theta, Tensor):
        return {name: theta[0]}
    return {f"{name}_{part}": value[0] for part, value in theta.items()}


def drawn(theta: Tensor) -> list[Tensor]:
    """Returns a part of an unknown as a picture, stretched to [-1, 1], if it looks like one."""
    if theta.ndim != 3 or theta.shape[0] not in (1, 2, 3) or min(theta.shape[1:]) < 3:
        return []
    # A map of two channels, such as tilts (down, right), is shown by their lengths.
    shown = theta.norm(dim=0, keepdim=True) if theta.shape[0] == 2 else theta
    low, high = shown.min(), shown.max()
    return [2 * (shown - low) / (high - low).clamp_min(1e-12) - 1]
