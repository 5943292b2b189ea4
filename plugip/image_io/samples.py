"""The samples of one picture as its file stores them, upright, with what they mean."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image, ImageOps

Array = np.ndarray[Any, Any]

# EXIF orientation -> how an (H, W, ...) array becomes upright.
_UPRIGHT = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a[::-1].swapaxes(0, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a.swapaxes(0, 1)[::-1],
}


class ImageError(ValueError):
    """Says in one sentence which image cannot be used, why, and what to do."""


@dataclass(frozen=True)
class Samples:
    """What a picture holds.

    Attributes:
        space: "L" for grey, "RGB" or "CMYK", as Pillow names them.
        colours: Samples of the colours, (H, W, 1, 3 or 4), uint8 or uint16.
        alpha: How much of each pixel is there, (H, W, 1), not multiplied into the colours; None
            for an opaque picture.
        profile: The colour profile that the file embeds, if any.
    """

    space: str
    colours: Array
    alpha: Array | None = None
    profile: bytes | None = None

    @property
    def full(self) -> int:
        """The value of a sample that is full: 255 or 65535."""
        return int(np.iinfo(self.colours.dtype).max)

    def turned(self, orientation: int) -> Samples:
        """Returns the samples upright, given the EXIF orientation of the file."""
        turn = _UPRIGHT.get(orientation, np.asarray)
        alpha = None if self.alpha is None else turn(self.alpha)
        return replace(self, colours=turn(self.colours), alpha=alpha)

    def with_straight_alpha(self) -> Samples:
        """Returns the samples with alpha divided out of the colours, which hold it multiplied."""
        if self.alpha is None:
            return self
        share = np.maximum(self.alpha, 1).astype(np.float64) / self.full
        straight = np.minimum(np.rint(self.colours / share), self.full)
        return replace(self, colours=straight.astype(self.colours.dtype))

    def in_8_bits(self) -> Samples:
        """Returns the samples rounded to 8 bits."""
        if self.full == 255:
            return self
        alpha = None if self.alpha is None else _to_8_bits(self.alpha)
        return replace(self, colours=_to_8_bits(self.colours), alpha=alpha)


def plain_samples(image: Image.Image) -> Samples:
    """Reads what Pillow decodes exactly, 8 bits per channel; turned upright.

    Raises:
        ImageError: If the pixels have more than 8 bits, whose range Pillow does not tell.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        depth = {"I": "int32", "F": "float32"}.get(image.mode, image.mode)
        raise ImageError(
            f"has {depth} pixels, whose range is not defined; save it with 8 or 16 bits per "
            "channel, unsigned"
        )
    profile = image.info.get("icc_profile")
    image = ImageOps.exif_transpose(image)
    space = _space(image)
    if not image.has_transparency_data:
        return Samples(space, _planes(image.convert(space)), None, profile)
    if image.mode in ("La", "RGBa"):
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    pixels = _planes(image.convert(f"{space}A"))
    return Samples(space, pixels[..., :-1], pixels[..., -1:], profile)


def _space(image: Image.Image) -> str:
    if image.mode == "CMYK":
        return "CMYK"
    return "L" if image.mode in ("1", "L", "LA", "La") else "RGB"


def _planes(image: Image.Image) -> Array:
    pixels = np.array(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _to_8_bits(samples: Array) -> Array:
    return ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)
