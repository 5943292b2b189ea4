"""What the systematic tests try of an operator: variants, and the cases that follow from them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from toys import normal

from plugip.operator import Operator

Size = tuple[int, int]
Make = Callable[[int, int, str], Operator]

ANY: tuple[Size, ...] = ((9, 9), (8, 8), (7, 12))  # odd, even, not square
EDGES = ("reflect", "symmetric", "replicate", "zero")
FIVE = (*EDGES, "circular")
SIX = (*FIVE, "valid")
PRECISIONS = (torch.float64, torch.float32)


@dataclass(frozen=True)
class Variant:
    """One way to build an operator, and the images that it takes.

    Attributes:
        make: Builds it for images of h x w pixels at a boundary.
        boundaries: Its boundaries, or one empty name.
        sizes: Image sizes that it admits.
        channels: Channels of an image.
        between: Lengths of the axes between channels and rows: frames, or slices of a volume.
        surrogate: Whether its gradient is, on purpose, that of something smoother.
    """

    make: Make
    boundaries: tuple[str, ...] = ("",)
    sizes: tuple[Size, ...] = ANY
    channels: int = 3
    between: tuple[int, ...] = ()
    surrogate: bool = False


Table = dict[str, dict[str, Variant]]


@dataclass(frozen=True)
class Case:
    """A variant of an operator at one boundary, size and precision."""

    operator: str
    option: str
    variant: Variant
    boundary: str
    size: Size
    dtype: torch.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a batch that it takes; its length differs from the number of channels."""
        batch = 3 if self.variant.channels == 2 else 2
        return (batch, self.variant.channels, *self.variant.between, *self.size)

    def build(self) -> Operator:
        """Builds the operator, which may still have to draw its random part."""
        return self.variant.make(*self.size, self.boundary)

    def __str__(self) -> str:
        side, precision = "x".join(map(str, self.size)), str(self.dtype).removeprefix("torch.")
        parts = (self.operator, self.option, self.boundary, side, precision)
        return "-".join(part for part in parts if part)


def all_cases(operator: str, variants: dict[str, Variant]) -> list[Case]:
    """Every variant x boundary x size x precision."""
    return [
        Case(operator, option, variant, *rest)
        for option, variant in variants.items()
        for rest in itertools.product(variant.boundaries, variant.sizes, PRECISIONS)
    ]


def pairwise_cases(operator: str, variants: dict[str, Variant]) -> list[Case]:
    """A selection in which any two values that can meet do meet."""
    left = all_cases(operator, variants)
    random.Random(0).shuffle(left)
    missing = {pair for case in left for pair in _pairs(case)}
    chosen = []
    while missing:
        best = max(left, key=lambda case: len(missing.intersection(_pairs(case))))
        chosen.append(best)
        missing.difference_update(_pairs(best))
    return sorted(chosen, key=str)


def _pairs(case: Case) -> Iterator[tuple]:
    values = enumerate((case.option, case.boundary, case.size, case.dtype))
    return itertools.combinations(values, 2)


def multiples(n: int) -> tuple[Size, ...]:
    """Square and other sizes that n divides."""
    return ((3 * n, 3 * n), (4 * n, 2 * n))


def weights(*shape: int, seed: int = 0) -> Tensor:
    """Positive numbers with sum 1 over the last two axes."""
    raw = normal(*shape, seed=seed).abs() + 0.1
    return raw / raw.sum((-2, -1), keepdim=True)


def complex_normal(*shape: int, seed: int = 0) -> Tensor:
    """Complex numbers whose parts are normal."""
    return torch.view_as_complex(normal(*shape, 2, seed=seed))


def binary(*shape: int, seed: int = 0) -> Tensor:
    """Zeros and ones, more ones than zeros."""
    return (normal(*shape, seed=seed) > -0.5).double()
