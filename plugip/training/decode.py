"""One picture file to pixels of a fixed size, fast.

``plugip.data.load_image`` measures, so it keeps 16 bits and float precision. Training needs
neither: here a large JPEG is decoded at a fraction of its size, and resized in 8 bits.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

Array = np.ndarray[Any, Any]


def decode(data: bytes, size: int, channels: int) -> tuple[Array, bool]:
    """Decodes a picture: upright, transparency laid on white, centred square, resized.

    Args:
        data: Content of the file.
        size: Side of the square in pixels (bicubic, antialiased).
        channels: 3, or 1 for grey by BT.601.

    Returns:
        Pixels, (channels, size, size), uint8; and whether the picture was smaller than that.

    Raises:
        ValueError: If it is damaged, an animation, or of a depth without a defined range.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            # The decoder's own halvings, down to four times the asked size; only JPEG has them.
            image.draft(None, (4 * size, 4 * size))
            image.load()
            return _pixels(image, size, channels)
    except UnidentifiedImageError as error:
        raise ValueError("it is no picture of a known kind") from error
    # Decoders meet damaged files with a dozen exception types; all mean the same here.
    except Exception as error:
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error


def _pixels(image: Image.Image, size: int, channels: int) -> tuple[Array, bool]:
    if getattr(image, "n_frames", 1) > 1:
        raise ValueError("it holds several pictures")
    upright = _eight_bit(ImageOps.exif_transpose(image), "L" if channels == 1 else "RGB")
    side = min(upright.size)
    left, top = (upright.width - side) // 2, (upright.height - side) // 2
    # Cropped first: resize's own box would let pixels outside of it bleed in.
    square = upright.crop((left, top, left + side, top + side))
    if side != size:
        square = square.resize((size, size), Image.Resampling.BICUBIC, reducing_gap=3.0)
    pixels = np.array(square)
    return (pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)), side < size


def _eight_bit(image: Image.Image, mode: str) -> Image.Image:
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode} have no defined range; save 8 or 16 bits")
    if image.mode.startswith("I;16"):
        deep = np.asarray(image).astype(np.uint16)
        image = Image.fromarray(((deep.astype(np.uint32) + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image if image.mode == mode else image.convert(mode)
