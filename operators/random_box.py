"""Inpainting masks whose hole is a box of random height and width."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from plugip.operator import Shape
from plugip.operators._options import as_sides, require_count
from plugip.operators.masks import BoxMask, require_room

if TYPE_CHECKING:
    from plugip.rng import Rng


@dataclass(frozen=True)
class RandomBoxMask:
    """Drops one box of random sides, at a random place that keeps a margin to the edge.

    Height and width are drawn independently, every whole number with the same probability, and
    then the place, as in ``BoxMask``.

    Args:
        sides: Shortest and longest side of the box in pixels, both included; None: 105 to 180 at
            256 x 256, and in proportion to each image side elsewhere.
        margin: Least distance to the edge in pixels; None: an eighth of the shorter image side,
            32 at 256 x 256.

    Raises:
        ValueError: If sides or margin are not whole numbers in range and in order; when drawn, if
            the largest box with its margins does not fit the image.

    Source: Zheng et al. 2025 (InverseBench), code.
    """

    sides: tuple[int, int] | None = None
    margin: int | None = None

    def __post_init__(self) -> None:
        if self.sides is not None:
            low, high = as_sides(self.sides, "sides")
            if low > high:
                raise ValueError(
                    f"sides must be the shortest and the longest side, in order, got {self.sides}"
                )
        if self.margin is not None:
            require_count(self.margin, 0, "margin")

    def draw(self, rng: Rng, x_shape: Shape) -> Tensor:
        h, w = x_shape[-2:]
        margin = min(h, w) // 8 if self.margin is None else self.margin
        ranges = [self._range(side) for side in (h, w)]
        for (_, longest), side in zip(ranges, (h, w), strict=True):
            require_room(longest, margin, side)
        one_by_one = (rng.select([i]) for i in range(len(rng)))
        return torch.cat([self._one(one, ranges, margin, x_shape) for one in one_by_one])

    def _one(self, rng: Rng, ranges: list[tuple[int, int]], margin: int, x_shape: Shape) -> Tensor:
        height, width = (rng.integers(low, high + 1)[0] for low, high in ranges)
        return BoxMask((height, width), margin).draw(rng, x_shape)

    def _range(self, side: int) -> tuple[int, int]:
        if self.sides is not None:
            return as_sides(self.sides, "sides")
        return max(1, side * 105 // 256), max(1, side * 180 // 256)
