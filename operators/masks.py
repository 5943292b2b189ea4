"""Where an image is observed: generators and files of inpainting masks, 1 observed, 0 missing."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from plugip.image_io import centred
from plugip.operator import Shape
from plugip.operators._from_file import white_pixels
from plugip.operators._options import as_sides, require_count
from plugip.options import require_choice

if TYPE_CHECKING:
    from plugip.rng import Rng


@runtime_checkable
class MaskSampler(Protocol):
    """Draws masks, one for each image."""

    def draw(self, rng: Rng, x_shape: Shape) -> Tensor:
        """Draws masks for images of shape (B, C, H, W), as (B, 1, H, W), 1 observed, 0 missing."""
        ...


@dataclass(frozen=True)
class RandomMask:
    """Drops single pixels at random, exactly int(missing * H * W) of them, in all channels alike.

    Args:
        missing: Fraction of missing pixels, in [0, 1); or (least, largest), between which each
            image draws its own, uniformly. 0.7 in DMPlug, 0.92 in the DPS paper; the code of DPS
            draws it from 0.3 to 0.7, that of DAPS from 0.7 to 0.71.

    Raises:
        ValueError: If ``missing`` is not in [0, 1), or not in order.

    Source: Chung et al. 2023 (DPS) and Wang et al. 2024 (DMPlug), code.
    """

    missing: float | tuple[float, float] = 0.7

    def __post_init__(self) -> None:
        between = self._between
        if len(between) != 2 or not 0 <= between[0] <= between[1] < 1:
            raise ValueError(
                f"missing must lie in [0, 1), got {self.missing}; a range is [least, largest]"
            )

    @property
    def _between(self) -> tuple[float, ...]:
        given = self.missing
        return tuple(given) if isinstance(given, Iterable) else (given, given)

    def draw(self, rng: Rng, x_shape: Shape) -> Tensor:
        h, w = x_shape[-2:]
        mask, order = torch.ones(len(rng), h * w), rng.permutation(h * w)
        for row, places, share in zip(mask, order, self._shares(rng), strict=True):
            row[places[: int(share * h * w)]] = 0.0
        return mask.reshape(-1, 1, h, w)

    def _shares(self, rng: Rng) -> list[float]:
        low, high = self._between
        if low == high:
            return [low] * len(rng)
        return (low + (high - low) * rng.uniform(()).double()).tolist()


@dataclass(frozen=True)
class BernoulliMask:
    """Drops each pixel with the same probability, in all channels alike; the count varies.

    Args:
        missing: Probability that a pixel is missing, in [0, 1); 0.7 in PnP-Flow.

    Raises:
        ValueError: If ``missing`` is not in [0, 1).

    Source: Martin et al. 2025 (PnP-Flow).
    """

    missing: float = 0.7

    def __post_init__(self) -> None:
        if not 0 <= self.missing < 1:
            raise ValueError(f"missing must lie in [0, 1), got {self.missing}")

    def draw(self, rng: Rng, x_shape: Shape) -> Tensor:
        return (rng.uniform((1, *x_shape[-2:])) >= self.missing).float()


@dataclass(frozen=True)
class BoxMask:
    """Drops one box at a random place that keeps a margin to the edge.

    At 256 x 256 the defaults are the published 128 x 128 box with margin 16; ``BoxMask(80, 88)``
    is the box in the middle of PnP-Flow.

    Args:
        size: Side of the box in pixels, or (height, width); half of each image side by default.
        margin: Least distance to the edge in pixels; a sixteenth of each image side by default.

    Raises:
        ValueError: If size or margin is not a whole number in range; when drawn, if the box with
            its margins does not fit the image.

    Source: Chung et al. 2023 (DPS), code; DAPS uses margin 32.
    """

    size: int | tuple[int, int] | None = None
    margin: int | None = None

    def __post_init__(self) -> None:
        if self.size is not None:
            as_sides(self.size, "size")
        if self.margin is not None:
            require_count(self.margin, 0, "margin")

    def draw(self, rng: Rng, x_shape: Shape) -> Tensor:
        h, w = x_shape[-2:]
        box_h, box_w = (h // 2, w // 2) if self.size is None else as_sides(self.size, "size")
        tops, lefts = self._starts(rng, box_h, h), self._starts(rng, box_w, w)
        mask = torch.ones(len(rng), 1, h, w)
        for hole, top, left in zip(mask, tops, lefts, strict=True):
            hole[:, top : top + box_h, left : left + box_w] = 0.0
        return mask

    def _starts(self, rng: Rng, box: int, side: int) -> list[int]:
        margin = side // 16 if self.margin is None else self.margin
        require_room(box, margin, side)
        return rng.integers(margin, side - margin - box + 1)


def require_room(box: int, margin: int, side: int) -> None:
    """Raises a ValueError if a box with its margins is longer than the side of the image."""
    if box + 2 * margin > side:
        raise ValueError(
            f"a box of {box} pixels with margins of {margin} does not fit a side of {side} "
            f"pixels; need size + 2 * margin <= {side}"
        )


@dataclass(frozen=True)
class ExtremeMask:
    """Keeps one box at a random place and drops all around it, the complement of ``BoxMask``.

    Args:
        size: Side of the kept box in pixels, or (height, width); half of each image side by
            default.
        margin: Least distance to the edge in pixels; a sixteenth of each image side by default.

    Raises:
        ValueError: As in ``BoxMask``.

    Source: Chung et al. 2023 (DPS), code, where it is called "extreme".
    """

    size: int | tuple[int, int] | None = None
    margin: int | None = None

    def __post_init__(self) -> None:
        BoxMask(self.size, self.margin)

    def draw(self, rng: Rng, x_shape: Shape) -> Tensor:
        return 1 - BoxMask(self.size, self.margin).draw(rng, x_shape)


@dataclass(frozen=True)
class FileMask:
    """Reads one mask for all images from a PNG (another picture) or a NumPy file.

    The file is treated as a photograph is by ``data.size``: turned upright by its EXIF tag, and,
    where the images are square, cropped to its largest centred square. So the mask of a photograph
    that has the photograph's own size hides the same pixels.

    Grey values above half of the full range are white; colour pictures are turned to grey first.
    Values may be boolean, in [0, 1], or whole ones in 0..255 or 0..65535 of any type. What is
    transparent counts as black where all that is visible is white, and the other way round. A mask
    that hides nothing is used with a warning.

    Args:
        path: File, read when the masks are drawn; relative paths start at the working directory.
        observed: Which pixels are known: "white" or "black".
        resize: "error" refuses a mask that has another size than the images after that crop,
            "nearest" scales it.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If an option is unknown; when drawn, if the file holds no two-dimensional mask,
            leaves nothing observed, or does not fit the images.
    """

    path: str
    observed: str = "white"
    resize: str = "error"

    def __post_init__(self) -> None:
        require_choice(self.observed, ("white", "black"), "mask polarity")
        require_choice(self.resize, ("error", "nearest"), "resize")
        if not Path(self.path).is_file():
            raise FileNotFoundError(f"no mask file {self.path!r} (from {Path.cwd()})")

    def draw(self, rng: Rng, x_shape: Shape) -> Tensor:
        white = torch.from_numpy(white_pixels(Path(self.path)))
        mask = self._fitted((white if self.observed == "white" else ~white).float(), x_shape)
        if not mask.any():
            raise ValueError(
                f"mask {self.path} leaves no pixel observed with observed={self.observed!r}; "
                "try the other polarity"
            )
        if mask.all():
            warnings.warn(
                f"mask {self.path} hides nothing of the images with observed={self.observed!r}; "
                "look at the file, or try the other polarity",
                stacklevel=2,
            )
        return mask.repeat(len(rng), 1, 1, 1)

    def _fitted(self, mask: Tensor, x_shape: Shape) -> Tensor:
        """Returns a mask, (H, W), as (1, 1, H, W) of the images."""
        given, wanted = tuple(mask.shape), tuple(x_shape[-2:])
        if given != wanted and wanted[0] == wanted[1]:
            mask = mask[centred(*given)]
        if tuple(mask.shape) == wanted:
            return mask[None, None]
        if self.resize == "nearest":
            return torch.nn.functional.interpolate(mask[None, None], wanted, mode="nearest-exact")
        raise ValueError(
            f"mask {self.path} has {given[0]} x {given[1]} pixels, but the images have "
            f"{wanted[0]} x {wanted[1]}; give a mask of that size, or resize='nearest', which "
            "crops it to a square as data.size does, where the images are square, and scales it"
        )


def legacy_dps_mask(
    state: np.random.RandomState,
    kind: str = "random",
    size: int = 256,
    between: tuple[float, float] = (0.7, 0.7),
    margin: int = 16,
) -> Tensor:
    """Draws the mask that the DPS and DMPlug code draws from the same NumPy state.

    ``legacy_dps_mask(np.random.RandomState(123))`` is the mask of DMPlug's inpainting task.

    Args:
        state: NumPy's legacy generator, such as ``np.random.RandomState(123)``; it advances.
        kind: "random" for single pixels, "box" for one box.
        size: Side of the square image in pixels.
        between: For "random" the range of the missing fraction, for "box" the range of the box's
            sides in pixels, the upper end excluded, such as (128, 129).
        margin: Least distance of a box to the edge in pixels.

    Returns:
        Mask, (1, 1, size, size), 1 observed, 0 missing.

    Raises:
        ValueError: If the kind is unknown.

    Source: Chung et al. 2023 (DPS), the order of draws in their mask generator.
    """
    mask = np.ones((size, size), dtype=np.float32)
    if require_choice(kind, ("random", "box"), "kind of mask") == "random":
        count = int(size * size * state.uniform(*between))
        mask.reshape(-1)[state.choice(size * size, count, replace=False)] = 0.0
    else:
        box_h, box_w = (state.randint(int(between[0]), int(between[1])) for _ in range(2))
        top, left = (state.randint(margin, size - margin - box) for box in (box_h, box_w))
        mask[top : top + box_h, left : left + box_w] = 0.0
    return torch.from_numpy(mask)[None, None]
