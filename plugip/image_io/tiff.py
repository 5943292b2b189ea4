"""TIFF files that Pillow reads in part only: 16 bits per channel, and one plane for each channel.

The file's own strips or tiles are handed to Pillow under the header of a grey picture, whose
samples it returns as they are stored; what the tags say of them is done here.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, TiffImagePlugin

from plugip.image_io.samples import Array, ImageError, Samples

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL = 256, 257, 258, 259, 262, 266
_STRIPS, _PER_PIXEL, _STRIP_ROWS, _STRIP_BYTES, _PLANAR = 273, 277, 278, 279, 284
_PREDICTOR, _TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_BYTES = 317, 322, 323, 324, 325
_EXTRA, _FORMAT = 338, 339

# Photometric interpretation -> space; 0 counts from white.
_SPACES = {0: "L", 1: "L", 2: "RGB", 5: "CMYK"}
_CHANNELS = {"L": 1, "RGB": 3, "CMYK": 4}
# Without loss, and with nothing outside of the strips: none, LZW, deflate twice, PackBits, LZMA
# and Zstandard.
_COMPRESSIONS = (1, 5, 8, 32773, 32946, 34925, 50000)
_BAND = 1 << 24  # samples that Pillow decodes at once, well below its limit for one picture
_SPARE = 1 << 20  # bytes that compression may add to incompressible samples


def tiff_samples(image: Image.Image, file: BinaryIO) -> Samples | None:
    """Reads the samples of a TIFF file exactly, not turned; None where Pillow reads it rightly.

    Args:
        image: The file as Pillow opened it, not loaded.
        file: The file.

    Raises:
        ImageError: If the file uses something that is not known here.
    """
    tags: Any = getattr(image, "tag_v2", {})
    bits, channels = _values(tags, _BITS, 1), int(tags.get(_PER_PIXEL, 1))
    planes, kinds = tags.get(_PLANAR, 1) == 2, set(_values(tags, _FORMAT, 1))
    if max(bits) <= 8 and kinds != {1}:
        raise ImageError("has signed pixels, whose range is not defined; save it unsigned")
    if (max(bits) <= 8 and not planes) or max(bits) > 16 or kinds != {1}:
        return None
    space = _require_known(tags, bits, channels)
    # As stored: newer Pillows give the size of the upright picture.
    stored = _stored((tags[_WIDTH], tags[_HEIGHT]), tags, file, channels, planes)
    colours = stored[..., : _CHANNELS[space]]
    if tags[_PHOTOMETRIC] == 0:
        colours = np.iinfo(colours.dtype).max - colours
    samples = Samples(space, colours, None, image.info.get("icc_profile"))
    return _with_alpha(samples, stored[..., _CHANNELS[space] :], tags)


def _with_alpha(samples: Samples, extra: Array, tags: Any) -> Samples:
    """Takes the first extra channel that the tags call alpha; a lone one without tag is one."""
    kinds = _values(tags, _EXTRA, *((2,) if extra.shape[2] == 1 else ()))[: extra.shape[2]]
    for place, kind in enumerate(kinds):
        if kind in (1, 2):
            found = replace(samples, alpha=extra[..., place : place + 1])
            return found.with_straight_alpha() if kind == 1 else found
    return samples


def _values(tags: Any, tag: int, *default: int) -> tuple[int, ...]:
    return tuple(np.atleast_1d(tags.get(tag, default)).tolist())


def _require_known(tags: Any, bits: Sequence[int], channels: int) -> str:
    """Returns the space of the colours, or refuses what is not known to be read rightly."""
    photometric, compression = tags.get(_PHOTOMETRIC), tags.get(_COMPRESSION, 1)
    space = _SPACES.get(photometric, "")
    unknown = [
        (not space or channels < _CHANNELS[space], f"photometric interpretation {photometric}"),
        (set(bits) not in ({8}, {16}), f"{bits[0]} bits per channel"),
        (compression not in _COMPRESSIONS, f"compression {compression}"),
        (tags.get(_PREDICTOR, 1) not in (1, 2), f"predictor {tags.get(_PREDICTOR)}"),
        # The standard leaves open what alpha multiplies there: the grey, or what is left of white.
        (photometric == 0 and 1 in _values(tags, _EXTRA), "premultiplied grey counted from white"),
    ]
    for found, what in unknown:
        if found:
            raise ImageError(
                f"is a TIFF with {what}, which is not read; save it as PNG, or as grey or RGB "
                "TIFF with 8 or 16 bits per channel"
            )
    return space


def _stored(
    size: tuple[int, int], tags: Any, file: BinaryIO, channels: int, planes: bool
) -> Array:
    """Returns the samples as they are in the file, (H, W, channels)."""
    step, parts = (1, channels) if planes else (channels, 1)
    tiled = _TILES in tags
    places, sizes = (_TILES, _TILE_BYTES) if tiled else (_STRIPS, _STRIP_BYTES)
    segments = _segments(file, tags[places], tags[sizes], _bytes(size, tags, channels, tiled))
    if not segments or len(segments) % parts:
        raise ImageError(f"has {len(segments)} strips or tiles for {parts} planes; it is damaged")
    each = len(segments) // parts
    groups = [segments[first : first + each] for first in range(0, len(segments), each)]
    return np.concatenate([_plane(size, tags, plane, step, tiled) for plane in groups], axis=2)


def _plane(
    size: tuple[int, int], tags: Any, segments: list[bytes], step: int, tiled: bool
) -> Array:
    """Decodes the channels that share segments, (H, W, step), some rows of segments at a time."""
    width, height = size
    high = tags[_TILE_HEIGHT] if tiled else min(tags.get(_STRIP_ROWS, height), height)
    across = -(-width // tags[_TILE_WIDTH]) if tiled else 1
    if high < 1 or len(segments) != across * -(-height // high):
        raise ImageError(
            f"has {len(segments)} strips or tiles, not those of its size; it is damaged"
        )
    rows = max(1, _BAND // (width * step * high))
    found = []
    for band in range(0, len(segments) // across, rows):
        shape = (min(rows * high, height - band * high), width * step)
        part = segments[band * across : (band + rows) * across]
        grey = _grey(shape, tags, part, step, tiled)
        found.append(_integrated(grey.reshape(shape[0], width, step), tags, tiled))
    return np.concatenate(found)


def _bytes(size: tuple[int, int], tags: Any, channels: int, tiled: bool) -> int:
    """Returns how many bytes all samples take without compression, whole tiles counted."""
    width, height = size
    if tiled:
        wide, high = tags[_TILE_WIDTH], tags[_TILE_HEIGHT]
        width, height = -(-width // wide) * wide, -(-height // high) * high
    return width * height * channels * max(_values(tags, _BITS, 1)) // 8


def _segments(
    file: BinaryIO, places: Sequence[int], sizes: Sequence[int], most: int
) -> list[bytes]:
    if len(places) != len(sizes) or sum(sizes) > 2 * most + _SPARE:
        raise ImageError("lists strips or tiles that do not fit its size; it is damaged")
    found = []
    for place, count in zip(places, sizes, strict=True):
        file.seek(place)
        found.append(file.read(count))
        if len(found[-1]) != count:
            raise ImageError("ends before its last pixel; it is damaged")
    return found


def _grey(
    shape: tuple[int, int], tags: Any, segments: list[bytes], step: int, tiled: bool
) -> Array:
    """Lets Pillow decode segments as a grey picture whose rows hold all channels in turn."""
    entries: dict[int, tuple[int, ...]] = {
        _WIDTH: (shape[1],),
        _HEIGHT: (shape[0],),
        _BITS: (max(_values(tags, _BITS, 1)),),
        _COMPRESSION: (tags.get(_COMPRESSION, 1),),
        _PHOTOMETRIC: (1,),
        _FILL: (tags.get(_FILL, 1),),
        _PER_PIXEL: (1,),
    }
    if tiled:
        entries |= {_TILE_WIDTH: (tags[_TILE_WIDTH] * step,), _TILE_HEIGHT: (tags[_TILE_HEIGHT],)}
    else:
        entries[_STRIP_ROWS] = (min(tags.get(_STRIP_ROWS, shape[0]), shape[0]),)
    names = (_TILES, _TILE_BYTES) if tiled else (_STRIPS, _STRIP_BYTES)
    order = ">" if tags.prefix == b"MM" else "<"
    with TiffImagePlugin.TiffImageFile(io.BytesIO(_file(entries, names, segments, order))) as twin:
        twin.load()
        return np.asarray(twin).astype(np.uint8 if entries[_BITS] == (8,) else np.uint16)


def _file(
    entries: dict[int, tuple[int, ...]],
    names: tuple[int, int],
    segments: list[bytes],
    order: str,
) -> bytes:
    """Returns a TIFF file of one directory, whose values are all of the type LONG."""
    count = len(segments)
    table = 8 + 2 + 12 * (len(entries) + 2) + 4  # where lists of more than one value begin
    sizes = [len(segment) for segment in segments]
    begin = table + (8 * count if count > 1 else 0)
    places = [begin + offset for offset in np.cumsum([0, *sizes[:-1]]).tolist()]
    lists = b"" if count == 1 else struct.pack(f"{order}{2 * count}I", *places, *sizes)
    values = {tag: (1, value[0]) for tag, value in entries.items()}
    values[names[0]] = (count, places[0] if count == 1 else table)
    values[names[1]] = (count, sizes[0] if count == 1 else table + 4 * count)
    rows = [struct.pack(f"{order}HHII", tag, 4, *values[tag]) for tag in sorted(values)]
    head = struct.pack(f"{order}2sHIH", b"MM" if order == ">" else b"II", 42, 8, len(rows))
    return b"".join([head, *rows, bytes(4), lists, *segments])


def _integrated(samples: Array, tags: Any, tiled: bool) -> Array:
    """Undoes the predictor: each row of a strip or tile holds differences, channel by channel."""
    if tags.get(_PREDICTOR, 1) == 1:
        return samples
    width = tags[_TILE_WIDTH] if tiled else samples.shape[1]
    parts = [samples[:, left : left + width] for left in range(0, samples.shape[1], width)]
    return np.concatenate([part.cumsum(axis=1, dtype=samples.dtype) for part in parts], axis=1)
