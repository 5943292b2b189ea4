"""Images from files: reading any usual picture to [-1, 1], and folders of pictures with ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from plugip.refusals import named, require_tensor

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")

_ORIENTATION, _BITS_PER_SAMPLE = 274, 258  # TIFF and EXIF tags
# ITU-R BT.601, the weights of JPEG and of Pillow's convert("L").
_LUMA = (0.299, 0.587, 0.114)
# EXIF orientation -> how an (H, W, C) array becomes upright.
_UPRIGHT = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a[::-1].swapaxes(0, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a.swapaxes(0, 1)[::-1],
}

Array = np.ndarray[Any, Any]
PathInput = str | PathLike[str]


class ImageError(ValueError):
    """Says in one sentence which image cannot be used, why, and what to do."""


@dataclass(frozen=True)
class Item:
    """One image to solve: its name in every table and random stream, and its file."""

    id: str
    path: Path


@dataclass(frozen=True)
class ImageFolder:
    """Lists the images of a folder, one file, or a list of files, and loads them one by one.

    Args:
        path: A folder (searched recursively, hidden names skipped), one image file, or a list of
            image files.
        size: Side of the square that every image is cropped and resized to; None keeps it.
        channels: 3, or 1 for grey.
        limit: Number of images to keep, counted in sorted order; None keeps all.

    Raises:
        ValueError: If size, channels or limit is out of range.
    """

    path: PathInput | Sequence[PathInput]
    size: int | None = None
    channels: int = 3
    limit: int | None = None

    def __post_init__(self) -> None:
        _check_options(self.size, self.channels)
        _require_paths(self.path)
        if self.limit is not None:
            _check_positive("limit", self.limit)

    def items(self) -> list[Item]:
        """Returns the images by id, without opening them.

        An id is the path relative to the folder, with forward slashes, or the bare file name of a
        single or listed file. Folders come sorted by id, lists in their own order.

        Raises:
            ImageError: If the path does not exist, a folder holds no image, or two listed files
                have one name.
        """
        return self._all_items()[: self.limit]

    def load(self, item: Item) -> Tensor:
        """Returns one image, (C, H, W), float32 in [-1, 1].

        Raises:
            ImageError: If this image is missing or cannot be read; the others are not touched.
        """
        return load_image(item.path, self.size, self.channels)

    def _all_items(self) -> list[Item]:
        if not isinstance(self.path, (str, PathLike)):
            return _listed(self.path)
        root = Path(self.path).expanduser()
        if root.is_dir():
            return _found(root)
        if root.exists():
            return [Item(root.name, root)]
        raise ImageError(f"{root} does not exist; give an image file, a folder or a list of files")


def demo_image() -> Path:
    """Returns the path of the packaged 64 x 64 portrait; its source is in assets/README.md."""
    return Path(__file__).parent / "assets" / "astronaut64.png"


def load_image(path: PathInput, size: int | None = None, channels: int = 3) -> Tensor:
    """Reads a picture of 8 or 16 bits per channel, upright, as a tensor in [-1, 1].

    Transparency is laid on white. Grey pictures are repeated to 3 channels; colour becomes grey
    by BT.601 where channels is 1. An image that has the asked size already is not resampled.

    Args:
        path: Image file.
        size: Side to which the largest centred square is resized (bicubic, antialiased, also
            upwards, clamped); None keeps the image as it is.
        channels: 3 or 1.

    Returns:
        Image, (channels, H, W), float32 in [-1, 1].

    Raises:
        ImageError: If the file is missing, a folder, damaged, an animation, or of another depth.
        ValueError: If size or channels is out of range.
    """
    _check_options(size, channels)
    _require_path(path)
    pixels = torch.from_numpy(_on_white(_read(Path(path).expanduser())))
    x = _with_channels(pixels.permute(2, 0, 1), channels)
    x = x if size is None else _square(x, size)
    return (x * 2 - 1).contiguous()


def to_uint(x: Tensor, bits: int = 8) -> Array:
    """Turns an image in [-1, 1] into the nearest integers that a file can hold.

    Args:
        x: Image, (C, H, W), any float type; values outside [-1, 1] are clamped.
        bits: 8 or 16.

    Returns:
        Pixels, (H, W, C), uint8 in 0..255 or uint16 in 0..65535.

    Raises:
        ValueError: If bits is neither 8 nor 16, x is not a floating (C, H, W), or x holds NaN.
    """
    if bits not in (8, 16):
        raise ValueError(f"bits must be 8 or 16, got {bits}")
    require_tensor(x, "to_uint takes")
    if x.ndim != 3 or not x.is_floating_point():
        raise ValueError(
            f"to_uint takes one float image (C, H, W), got {x.dtype} {tuple(x.shape)}"
        )
    if x.isnan().any():
        raise ValueError(f"the image {tuple(x.shape)} holds NaN, which no file can store")
    unit = (x.detach().cpu().double().clamp(-1, 1) + 1) / 2
    pixels = (unit * (2**bits - 1) + 0.5).floor().permute(1, 2, 0).contiguous().numpy()
    return pixels.astype(np.uint8 if bits == 8 else np.uint16)


def _listed(paths: Sequence[PathInput]) -> list[Item]:
    items = [Item(file.name, file) for file in (Path(fspath(p)).expanduser() for p in paths)]
    if not items:
        raise ImageError("the list of image files is empty; give at least one")
    first: dict[str, Path] = {}
    for item in items:
        if item.id in first:
            raise ImageError(
                f"{first[item.id]} and {item.path} would both have the id {item.id!r}, which "
                "names results and random streams; rename one, or give their common folder"
            )
        first[item.id] = item.path
    return items


def _found(root: Path) -> list[Item]:
    names = (file.relative_to(root) for file in root.rglob("*") if file.is_file())
    ids = sorted(
        name.as_posix()
        for name in names
        if name.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in name.parts)
    )
    if not ids:
        raise ImageError(f"no image in {root} or below it; looked for {' '.join(SUFFIXES)}")
    return [Item(id, root / id) for id in ids]


def _read(path: Path) -> Array:
    """Reads (H, W, 1 to 4) float32 in [0, 1], upright."""
    if not path.exists():
        raise ImageError(f"{path} does not exist; give the path of an image file")
    if path.is_dir():
        raise ImageError(f"{path} is a folder; give one image file, or use ImageFolder")
    try:
        with Image.open(path) as image:
            image.load()
            return _pixels(image, path)
    except ImageError:
        raise
    # Decoders meet damaged files with a dozen exception types; all mean the same here.
    except Exception as error:
        raise ImageError(
            f"{path} cannot be read as an image ({error}); it is damaged, not readable, or of a "
            "kind that is not supported: save it as PNG, JPEG, WebP, BMP or TIFF, 8 or 16 bits"
        ) from error


def _pixels(image: Image.Image, path: Path) -> Array:
    frames = getattr(image, "n_frames", 1)
    # MPO is what many cameras write as .jpg: the photograph, then a preview of it.
    if frames > 1 and image.format != "MPO":
        raise ImageError(f"{path} holds {frames} frames; save the one that is meant on its own")
    pixels = _read_deep(image, path) if _is_deep(image, path) else _read_8bit(image, path)
    return pixels.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)


def _is_deep(image: Image.Image, path: Path) -> bool:
    """Tells whether the file holds more than 8 bits, which Pillow drops without a word."""
    if image.format == "PNG":
        with path.open("rb") as file:
            return file.read(25)[24] > 8
    if image.format == "TIFF":
        bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (8,))
        return max(np.atleast_1d(bits)) > 8
    return image.mode.startswith("I;16")


def _read_8bit(image: Image.Image, path: Path) -> Array:
    if image.mode in ("I", "F"):
        raise _depth_error(path, {"I": "int32", "F": "float32"}[image.mode])
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        mode = "RGBA"
    else:
        mode = "L" if image.mode in ("1", "L") else "RGB"
    pixels = np.array(image.convert(mode))
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _read_deep(image: Image.Image, path: Path) -> Array:
    """Reads 16-bit pixels exactly; Pillow has already proved that the file is whole."""
    import cv2

    # imdecode and not imread: imread fails on rotated TIFFs and on some non-ASCII paths.
    data = np.frombuffer(path.read_bytes(), np.uint8)
    pixels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise ValueError("OpenCV finds no image in it")
    if pixels.dtype != np.uint16:
        raise _depth_error(path, str(pixels.dtype))
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[pixels.shape[2]]  # BGR to RGB
    # OpenCV turns TIFFs itself, as does Pillow, which then removes the tag; neither turns PNGs.
    orientation = image.getexif().get(_ORIENTATION, 1)
    return _UPRIGHT.get(orientation, np.asarray)(pixels[..., order])


def _depth_error(path: Path, depth: str) -> ImageError:
    return ImageError(
        f"{path} has {depth} pixels, whose range is not defined; save it with 8 or 16 bits "
        "per channel, unsigned"
    )


def _on_white(pixels: Array) -> Array:
    """Lays (H, W, 4) on white; other channel counts pass."""
    if pixels.shape[2] != 4:
        return np.ascontiguousarray(pixels)
    alpha = pixels[..., 3:]
    return np.ascontiguousarray(pixels[..., :3] * alpha + (1 - alpha))


def _with_channels(x: Tensor, channels: int) -> Tensor:
    if x.shape[0] == channels:
        return x
    if channels == 3:
        return x.repeat(3, 1, 1)
    return torch.einsum("c,chw->hw", torch.tensor(_LUMA), x)[None].clamp(0, 1)


def _square(x: Tensor, size: int) -> Tensor:
    """Crops the largest centred square of (C, H, W) in [0, 1] and resizes it."""
    height, width = x.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    x = x[:, top : top + side, left : left + side]
    if side == size:
        return x
    resized = F.interpolate(x[None], (size, size), mode="bicubic", antialias=True)
    return resized[0].clamp(0, 1)


def _require_paths(path: object) -> None:
    # A tensor is a sequence too; lists of configs need not be Python's.
    if isinstance(path, Sequence) and not isinstance(path, (str, bytes)):
        for one in path:
            _require_path(one)
    else:
        _require_path(path)


def _require_path(path: object) -> None:
    if not isinstance(path, (str, PathLike)):
        raise TypeError(
            f"path must be an image file or a folder, got {named(path)}; images in memory need no "
            "loading, give measure(operator, x, noise) a tensor (B, C, H, W) in [-1, 1]"
        )


def _check_options(size: int | None, channels: int) -> None:
    if size is not None:
        _check_positive("size", size)
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 (grey) or 3 (RGB), got {channels!r}")


def _check_positive(name: str, value: int) -> None:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, or None; got {value!r}")
