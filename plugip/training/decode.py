"""One picture file to pixels of a fixed size, fast.

``plugip.data.load_image`` measures, so it keeps 16 bits and float precision. Training needs
neither: here the same reader's pixels are rounded to 8 bits and resized in them, and a large JPEG
is decoded at a fraction of its size.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from plugip.image_io import (
    ImageError,
    Samples,
    centred,
    open_picture,
    read_samples,
    to_srgb,
)

Array = np.ndarray[Any, Any]
MOST = 89_478_485  # pixels, from where on Pillow warns
_LARGE = 1 << 24  # pixels, some 100 MB while they are decoded
_ALONE = threading.Lock()


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
        with io.BytesIO(data) as file, open_picture(file) as image:
            # The decoder's own halvings, down to four times the asked size; only JPEG has them.
            image.draft(None, (4 * size, 4 * size))
            with _room(image.width * image.height):
                return _pixels(to_srgb(read_samples(image, file)).in_8_bits(), size, channels)
    except UnidentifiedImageError as error:
        raise ValueError("it is no picture of a known kind") from error
    except ImageError as error:
        raise ValueError(f"it {error}") from error
    # Decoders meet damaged files with a dozen exception types; all mean the same here.
    except Exception as error:
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error


@contextmanager
def _room(count: int) -> Iterator[None]:
    """Lets small pictures be decoded side by side, large ones one after the other."""
    if count > MOST:
        raise ImageError(f"has {count} pixels; make it smaller than {MOST}")
    with _ALONE if count > _LARGE else nullcontext():
        yield


def _pixels(samples: Samples, size: int, channels: int) -> tuple[Array, bool]:
    upright = _flat(samples, "L" if channels == 1 else "RGB")
    side = min(upright.size)
    rows, columns = centred(upright.height, upright.width)
    # Cropped first: resize's own box would let pixels outside of it bleed in.
    square = upright.crop((columns.start, rows.start, columns.stop, rows.stop))
    if side != size:
        square = square.resize((size, size), Image.Resampling.BICUBIC, reducing_gap=3.0)
    pixels = np.array(square)
    return (pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)), side < size


def _flat(samples: Samples, mode: str) -> Image.Image:
    """Lays a picture on white."""
    image = Image.fromarray(samples.colours[..., 0] if samples.space == "L" else samples.colours)
    if samples.alpha is not None:
        image = image.convert("RGB")
        image.putalpha(Image.fromarray(samples.alpha[..., 0]))
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode else image.convert(mode)
