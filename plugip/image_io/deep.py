"""Pictures with more than 8 bits per channel, which Pillow drops without a word."""

from __future__ import annotations

import re
from typing import BinaryIO

import numpy as np
from PIL import Image

from plugip.image_io.samples import Array, ImageError, Samples
from plugip.image_io.tiff import tiff_samples

ORIENTATION = 274  # TIFF and EXIF tag
_SPARE = 1 << 24  # bytes of a PNG beside its pixels
# P5 or P6, width, height and the largest value, with comments in between; then one white space.
_PNM = re.compile(rb"P[56]" + 3 * rb"(?:\s|#[^\n\r]*[\n\r])+(\d{1,9})" + rb"\s")
_J2K_SIZE = b"\xff\x4f\xff\x51"  # start of codestream, then its sizes


def deep_samples(image: Image.Image, file: BinaryIO) -> Samples | None:
    """Reads a picture that Pillow would cut to 8 bits or misread, upright; None for the others.

    Args:
        image: The file as Pillow opened it, not loaded.
        file: The file.

    Raises:
        ImageError: If it cannot be read with certainty.
    """
    read = {"PNG": _png, "TIFF": tiff_samples, "PPM": _pnm, "JPEG2000": _jpeg2000}
    samples = read.get(image.format or "", lambda *_: None)(image, file)
    return samples and samples.turned(image.getexif().get(ORIENTATION, 1))


def _png(image: Image.Image, file: BinaryIO) -> Samples | None:
    import cv2

    file.seek(0)
    if file.read(25)[24] <= 8:
        return None
    image.load()  # OpenCV reads damaged files as far as it can; Pillow refuses them
    file.seek(0)
    most = 2 * 8 * image.width * image.height + _SPARE
    data = file.read(most + 1)
    if len(data) > most:
        raise ImageError(f"holds more than {most} bytes for its {image.size} pixels")
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16 or pixels.shape[:2] != image.size[::-1]:
        raise ImageError("cannot be decoded by OpenCV; save it with 8 bits, or as TIFF")
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[pixels.shape[2]]  # BGR to RGB
    return _with_key(image, pixels[..., order])


def _with_key(image: Image.Image, pixels: Array) -> Samples:
    """Splits the alpha off, or makes it from the one colour that the file calls transparent."""
    profile, key = image.info.get("icc_profile"), image.info.get("transparency")
    if pixels.shape[2] == 4:
        space = "L" if image.mode in ("LA", "L") else "RGB"
        colours = pixels[..., :1] if space == "L" else pixels[..., :3]
        return Samples(space, colours, pixels[..., 3:], profile)
    space = "L" if pixels.shape[2] == 1 else "RGB"
    if key is None:
        return Samples(space, pixels, None, profile)
    differs = (pixels != np.asarray(key)).any(axis=2, keepdims=True)
    return Samples(space, pixels, (65535 * differs).astype(np.uint16), profile)


def _pnm(image: Image.Image, file: BinaryIO) -> Samples | None:
    file.seek(0)
    found = _PNM.match(file.read(1 << 16))
    if found is None or int(found[3]) <= 255:
        return None
    space, channels = ("L", 1) if image.mode in ("I", "L", "I;16") else ("RGB", 3)
    shape = (image.height, image.width, channels)
    file.seek(found.end())
    data = file.read(2 * int(np.prod(shape)))
    if len(data) != 2 * int(np.prod(shape)):
        raise ImageError("ends before its last pixel; it is damaged")
    share = np.frombuffer(data, ">u2").reshape(shape) / int(found[3])
    return Samples(space, np.rint(65535 * np.minimum(share, 1)).astype(np.uint16))


def _jpeg2000(image: Image.Image, file: BinaryIO) -> Samples | None:
    file.seek(0)
    head = file.read(1 << 16)
    place = head.find(_J2K_SIZE)
    if place < 0 or place + 42 >= len(head):
        raise ImageError("is a JPEG 2000 file without a size; it is damaged")
    bits = (head[place + 42] & 0x7F) + 1
    if bits <= 8:
        return None
    if image.mode != "I;16":
        raise ImageError(
            f"is a JPEG 2000 file with {bits} bits per channel, which is read in grey only; save "
            "it as PNG or TIFF"
        )
    image.load()
    pixels = np.asarray(image).astype(np.uint16)[..., None]  # Pillow has scaled them to 16 bits
    return Samples("L", pixels, None, image.info.get("icc_profile"))
