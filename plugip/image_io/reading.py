"""One picture file to numbers: every reader of the project goes through here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from plugip.image_io.arrays import is_array, read_array
from plugip.image_io.colour import to_srgb
from plugip.image_io.deep import deep_samples
from plugip.image_io.samples import Array, ImageError, Samples, plain_samples

KINDS = "PNG, JPEG, WebP, BMP or TIFF, 8 or 16 bits"
_PHOTOMETRIC = 262  # TIFF tag


def read_picture(path: Path) -> Array:
    """Reads a picture as it looks, (H, W, 1 to 4) float32 in [0, 1], upright, in sRGB.

    Raises:
        ImageError: If the file cannot be read with certainty, with its name and a reason.
    """
    with _file(path) as file, open_picture(file) as image:
        samples = to_srgb(read_samples(image, file))
        return _joined(samples).astype(np.float32) / np.float32(samples.full)


def read_numbers(path: Path) -> Array | Samples:
    """Reads a file whose values mean something: a NumPy array, or a picture that stands for one.

    Returns:
        An array of any shape; or a picture's samples, upright, their colours not managed, which
        may also be int32 or float32.

    Raises:
        ImageError: As in ``read_picture``, and if an array does not hold real numbers.
    """
    require_file(path)
    if is_array(path):
        return read_array(path)
    with _file(path) as file, open_picture(file) as image:
        wide = _wide_samples(image)
        samples = wide or read_samples(image, file)
        if samples.space == "CMYK":
            raise ImageError("is a CMYK picture, whose values are inks; save it as grey")
        return samples


@contextmanager
def open_picture(file: BinaryIO) -> Iterator[Image.Image]:
    """Opens a file that holds one picture, without decoding it."""
    with Image.open(file) as image:
        frames = getattr(image, "n_frames", 1)
        # MPO is what many cameras write as .jpg: the photograph, then a preview of it.
        if frames > 1 and image.format != "MPO":
            raise ImageError(f"holds {frames} frames; save the one that is meant on its own")
        yield image


def read_samples(image: Image.Image, file: BinaryIO) -> Samples:
    """Decodes an opened picture, upright and exact."""
    samples = deep_samples(image, file)
    if samples is not None:
        return samples
    _scale_colour_key(image)
    image.load()
    return plain_samples(image)


def _scale_colour_key(image: Image.Image) -> None:
    """Brings the transparent grey of a PNG of 2 or 4 bits to the 8 bits that are read."""
    key, tiles = image.info.get("transparency"), getattr(image, "tile", [])
    if image.mode == "L" and isinstance(key, int) and tiles:
        image.info["transparency"] = key * {"L;2": 85, "L;4": 17}.get(str(tiles[0][3]), 1)


def centred(height: int, width: int) -> tuple[slice, slice]:
    """Returns rows and columns of the largest centred square of a picture."""
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return slice(top, top + side), slice(left, left + side)


def require_file(path: Path) -> None:
    """Refuses what is no ordinary file: reading a pipe or a device need not end.

    Raises:
        ImageError: If the path is missing, a folder, or anything else than a file.
    """
    if path.is_dir():
        raise ImageError(f"{path} is a folder; give one image file, or use ImageFolder")
    if not path.exists():
        raise ImageError(f"{path} does not exist; give the path of an image file")
    if not path.is_file():
        raise ImageError(f"{path} is a pipe or a device; give the path of an image file")


@contextmanager
def _file(path: Path) -> Iterator[BinaryIO]:
    """Opens a file; every failure inside becomes one sentence with its name."""
    require_file(path)
    try:
        with path.open("rb") as file:
            yield file
    except ImageError as error:
        raise ImageError(f"{path} {error}") from error
    # Decoders meet damaged files with a dozen exception types; all mean the same here.
    except Exception as error:
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "no picture of a known kind" if unknown else " ".join(str(error).split())
        raise ImageError(
            f"{path} cannot be read as an image ({reason}); it is damaged, not readable, or of a "
            f"kind that is not supported: save it as {KINDS}"
        ) from error


def _joined(samples: Samples) -> Array:
    parts = [samples.colours] if samples.alpha is None else [samples.colours, samples.alpha]
    return np.concatenate(parts, axis=2)


def _wide_samples(image: Image.Image) -> Samples | None:
    """Reads the int32 or float32 values of a TIFF or PFM file; None where there are none."""
    if image.mode not in ("I", "F") or image.format not in ("TIFF", "PPM"):
        return None
    if image.mode == "I" and image.format == "PPM":
        return None  # 16 bits
    if getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0:
        raise ImageError(f"counts {image.mode} values from white; save them as a .npy file")
    image.load()
    return Samples("L", np.array(ImageOps.exif_transpose(image))[..., None])
