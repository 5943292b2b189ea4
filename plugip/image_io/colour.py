"""Colours as a screen shows them: embedded profiles and CMYK become sRGB."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from plugip.image_io.samples import Array, Samples

_SPACES = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK"}
SAME = 3  # of 255: profiles that change no colour by more are sRGB in all but name


def to_srgb(samples: Samples) -> Samples:
    """Returns grey or RGB samples in sRGB.

    A profile that the file embeds is honoured, in 8 bits, which is what colour management
    computes in. Without one, and where it is sRGB itself, is damaged or belongs to another kind of
    picture, grey and RGB samples are taken as sRGB already, unchanged.
    """
    transform = _transform(samples.profile, samples.space) if samples.profile else None
    if transform is None:
        return _without_ink(samples) if samples.space == "CMYK" else samples
    small = samples.in_8_bits()
    pixels = _apply(transform, small.space, small.colours)
    # Grey stays grey; its three channels differ by rounding at most.
    return (
        Samples("L", pixels[..., 1:2], small.alpha)
        if small.space == "L"
        else Samples("RGB", pixels, small.alpha)
    )


@lru_cache(maxsize=16)
def _transform(profile: bytes, space: str) -> Any:
    """Returns the way from a profile to sRGB, or None where there is none to go."""
    try:
        source: Any = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if _SPACES.get(source.profile.xcolor_space.strip()) != space:
            return None
        target = ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(source, target, space, "RGB")
    except (OSError, ImageCms.PyCMSError):
        return None  # damaged: viewers show such a picture without it
    return None if _is_idle(transform, space) else transform


def _is_idle(transform: Any, space: str) -> bool:
    """Tells whether a transform leaves colours where they are, tried on a grid of them."""
    if space == "CMYK":
        return False
    levels = np.arange(0, 256, 15, dtype=np.uint8)
    axes = np.meshgrid(*[levels] * (1 if space == "L" else 3), indexing="ij")
    colours = np.stack(axes, axis=-1).reshape(1, -1, len(axes))
    moved = _apply(transform, space, colours).astype(int)
    return bool(np.abs(moved - colours).max() <= SAME)


def _apply(transform: Any, space: str, colours: Array) -> Array:
    plain = np.ascontiguousarray(colours[..., 0] if space == "L" else colours)
    image = Image.frombytes(space, plain.shape[1::-1], plain.tobytes())
    return np.asarray(ImageCms.applyTransform(image, transform))


def _without_ink(samples: Samples) -> Samples:
    share = 1 - samples.colours.astype(np.float32) / np.float32(samples.full)
    rgb = np.rint(share[..., :3] * share[..., 3:] * samples.full)
    return Samples("RGB", rgb.astype(samples.colours.dtype), samples.alpha)
