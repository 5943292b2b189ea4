"""What is shown beside the answer: a baseline made from y alone, and unknowns as pictures."""

from __future__ import annotations

from torch import Tensor

from plugip.operator import Operator, Unknown
from plugip.pictures import fits, image_of, signed


def naive(
    y: Tensor, image_shape: tuple[int, ...], operator: Operator | None = None
) -> Tensor | None:
    """Makes an image of y without any prior: y itself, or y enlarged by bicubic interpolation.

    Args:
        y: Measurements, (B, *Y).
        image_shape: Shape of the images, (C, H, W).
        operator: What has measured y, which tells where its pixels lie; None: they cover the image
            exactly.

    Returns:
        Images, (B, C, H, W), in [-1, 1]; None where y is no picture of them.
    """
    if not (fits(y, image_shape) and signed(y[0])):
        return None
    images = image_of(y, image_shape, operator)
    return None if images is None else images.clamp(-1, 1)


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
