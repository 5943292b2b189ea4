"""Free-form inpainting masks: strokes of a brush that wanders over the image."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral, Real
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from plugip.operator import Shape

if TYPE_CHECKING:
    from plugip.rng import Rng

TRIES = 1000  # strokes per image before giving up
TURN = math.pi / 2  # largest change of direction at a vertex


@dataclass(frozen=True)
class BrushMask:
    """Paints over images with random strokes until a drawn part of the pixels is missing.

    Each stroke is a random walk with straight segments, of one width, with round ends and joints.
    A target is drawn uniformly from ``missing``, and strokes are added until it is reached; one
    that would take more than the upper end is left out, so that the ratio always lies within.
    The ratio range and the shape of the strokes are our choice.

    Args:
        missing: Least and largest fraction of missing pixels, in (0, 1).
        vertices: Least and largest number of corners of a stroke, at least 2.
        width: Least and largest width, as a part of the shorter side: 5 to 20 pixels at 256.
        length: Least and largest length of a segment, as a part of the shorter side.

    Raises:
        ValueError: If a range is out of order or out of bounds.
        RuntimeError: When drawn, if 1000 strokes do not reach the range.

    Source: Yu et al. 2019 for the kind of mask.
    """

    missing: tuple[float, float] = (0.1, 0.5)
    vertices: tuple[int, int] = (4, 12)
    width: tuple[float, float] = (0.02, 0.08)
    length: tuple[float, float] = (0.05, 0.25)

    def __post_init__(self) -> None:
        if not _ordered(self.missing) or not 0 < self.missing[0] <= self.missing[1] < 1:
            raise ValueError(f"missing must be two numbers in (0, 1), in order: {self.missing}")
        whole = _ordered(self.vertices) and all(isinstance(n, Integral) for n in self.vertices)
        if not whole or self.vertices[0] < 2:
            raise ValueError(
                f"vertices must be two whole numbers, 2 or more, in order: {self.vertices}"
            )
        for name in ("width", "length"):
            between = getattr(self, name)
            if not _ordered(between) or not 0 < between[0] <= between[1] <= 1:
                raise ValueError(f"{name} must be two numbers in (0, 1], in order: {between}")

    def draw(self, rng: Rng, x_shape: Shape) -> Tensor:
        h, w = x_shape[-2:]
        holes = [self._hole(rng.select([i]), h, w) for i in range(len(rng))]
        return 1.0 - torch.stack(holes)[:, None].float()

    def _hole(self, rng: Rng, h: int, w: int) -> Tensor:
        low, high = self.missing
        target = _between(self.missing, float(rng.uniform(())))
        hole = torch.zeros(h, w, dtype=torch.bool)
        for _ in range(TRIES):
            larger = hole | self._stroke(rng, h, w)
            ratio = float(larger.double().mean())
            if ratio <= high:
                hole = larger
            done = ratio >= target if ratio <= high else float(hole.double().mean()) >= low
            if done:
                return hole
        raise RuntimeError(
            f"{TRIES} strokes did not give a hole of {low} to {high} of {h} x {w} pixels; widen "
            "missing, or use a thinner and shorter brush"
        )

    def _stroke(self, rng: Rng, h: int, w: int) -> Tensor:
        u = rng.uniform((5,))[0].double()
        walk = rng.uniform((2, self.vertices[1]))[0].double()
        count = self.vertices[0] + int(u[0] * (self.vertices[1] - self.vertices[0] + 1))
        shortest, longest = self.length
        steps = (shortest + (longest - shortest) * walk[0, : count - 1]) * min(h, w)
        angle = 2 * math.pi * u[1] + (TURN * (2 * walk[1, : count - 1] - 1)).cumsum(0)
        path = steps[:, None] * torch.stack([angle.sin(), angle.cos()], dim=1)
        size = torch.tensor([h, w], dtype=torch.float64)
        points = torch.cat([(u[2:4] * size)[None], path]).cumsum(0)
        points = size - (points % (2 * size) - size).abs()  # turned back at the edges
        radius = _between(self.width, float(u[4])) * min(h, w) / 2
        return distance_to_path(points, h, w) <= radius


def distance_to_path(points: Tensor, h: int, w: int) -> Tensor:
    """Measures how far each pixel's centre is from a line through some points.

    Args:
        points: Corners of the line, (count, 2) as (row, column); pixel (0, 0) has its centre at
            (0.5, 0.5).
        h: Rows of the image.
        w: Columns of the image.

    Returns:
        Distances in pixels, (h, w).
    """
    rows, columns = (torch.arange(side, dtype=points.dtype) + 0.5 for side in (h, w))
    nearest = torch.full((h, w), math.inf, dtype=points.dtype)
    for start, end in pairwise(points):
        down, right = rows[:, None] - start[0], columns[None] - start[1]
        along = end - start
        where = (down * along[0] + right * along[1]) / along.square().sum().clamp_min(1e-12)
        where = where.clamp(0, 1)
        gap = torch.hypot(down - where * along[0], right - where * along[1])
        nearest = torch.minimum(nearest, gap)
    return nearest


def _between(ends: tuple[float, float], u: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * u


def _ordered(pair: object) -> bool:
    if not isinstance(pair, Iterable):
        return False
    numbers = tuple(pair)
    return (
        len(numbers) == 2
        and all(isinstance(n, Real) for n in numbers)
        and (float(numbers[0]) <= float(numbers[1]))
    )
