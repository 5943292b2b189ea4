"""Images from files: any usual picture as a tensor in [-1, 1], folders of pictures with ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from plugip.image_io import (
    SUFFIXES,
    ImageError,
    Listing,
    centred,
    left_out,
    list_pictures,
    printable,
    read_picture,
)
from plugip.refusals import named, require_tensor

# ITU-R BT.601, the weights of JPEG and of Pillow's convert("L").
_LUMA = (0.299, 0.587, 0.114)
Array = np.ndarray[Any, Any]
PathInput = str | PathLike[str]


@dataclass(frozen=True)
class Item:
    """One image to solve: its name in every table and random stream, and its file."""

    id: str
    path: Path


@dataclass(frozen=True)
class ImageFolder:
    """Lists the images of a folder, one file, or a list of files, and loads them one by one.

    In a folder, links are followed, hidden names are passed over, and folders of results (of
    runs and trainings of plugip) are left out; ``skipped`` names what is not taken.

    Args:
        path: A folder (searched recursively), one image file, or a list of image files.
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
        single or listed file; what cannot be printed in it is written with backslashes. Folders
        come sorted by id, lists in their own order.

        Raises:
            ImageError: If the path does not exist, a folder holds no image, or two listed files
                have one name.
        """
        return self._all_items()[: self.limit]

    @property
    def skipped(self) -> dict[str, str]:
        """Why entries of the folder are not taken, by id: unknown kinds, dead links, results."""
        if not isinstance(self.path, (str, PathLike)):
            return {}
        root = Path(self.path).expanduser()
        return list_pictures(root).skipped if root.is_dir() else {}

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
            listing = _require_some(list_pictures(root), root)
            return [Item(id, file) for id, file in listing.files.items()]
        if root.exists():
            return [Item(printable(root.name), root)]
        raise ImageError(f"{root} does not exist; give an image file, a folder or a list of files")


def demo_image() -> Path:
    """Returns the path of the packaged 64 x 64 portrait; its source is in assets/README.md."""
    return Path(__file__).parent / "assets" / "astronaut64.png"


def load_image(path: PathInput, size: int | None = None, channels: int = 3) -> Tensor:
    """Reads a picture of 8 or 16 bits per channel, upright, as a tensor in [-1, 1].

    Transparency is laid on white. Grey pictures are repeated to 3 channels; colour becomes grey
    by BT.601 where channels is 1. An image that has the asked size already is not resampled.

    Colours are sRGB. An embedded colour profile is honoured; unless it is sRGB itself, this
    rounds pictures of 16 bits to 8. Pictures without a profile, and those whose profile is
    damaged, are taken as sRGB; gamma and colour space told in other ways are ignored.

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
    pixels = torch.from_numpy(_on_white(read_picture(Path(path).expanduser())))
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
    files = [Path(fspath(path)).expanduser() for path in paths]
    items = [Item(printable(file.name), file) for file in files]
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


def _require_some(listing: Listing, root: Path) -> Listing:
    if listing.files:
        return listing
    kinds, rest = " ".join(SUFFIXES), left_out(listing.skipped)
    raise ImageError(f"no image in {root} or below it; looked for {kinds}{rest}")


def _on_white(pixels: Array) -> Array:
    """Lays (H, W, 2 or 4) on white; opaque pictures pass."""
    if pixels.shape[2] in (1, 3):
        return np.ascontiguousarray(pixels)
    alpha = pixels[..., -1:]
    return np.ascontiguousarray(pixels[..., :-1] * alpha + (1 - alpha))


def _with_channels(x: Tensor, channels: int) -> Tensor:
    if x.shape[0] == channels:
        return x
    if channels == 3:
        return x.repeat(3, 1, 1)
    return torch.einsum("c,chw->hw", torch.tensor(_LUMA), x)[None].clamp(0, 1)


def _square(x: Tensor, size: int) -> Tensor:
    """Crops the largest centred square of (C, H, W) in [0, 1] and resizes it."""
    x = x[:, *centred(*x.shape[-2:])]
    if x.shape[-1] == size:
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
    if path == "":  # such as a variable of the shell that is not set
        raise ValueError("path must name an image or a folder, got ''; . is the working folder")


def _check_options(size: int | None, channels: int) -> None:
    if size is not None:
        _check_positive("size", size)
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 (grey) or 3 (RGB), got {channels!r}")


def _check_positive(name: str, value: int) -> None:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, or None; got {value!r}")
