"""The prior of methods that bring their own: it knows the shape of images, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from plugip.path import Path
from plugip.prior import Prior
from plugip.priors.network import state_shape


class Untrained(Prior):
    """Says that no trained prior is used, for methods such as DIP whose network is the prior.

    Its counter books their networks' calls. Whatever asks it about images gets a TypeError.

    Args:
        shape: Shape of an image, (C, H, W).

    Raises:
        ValueError: If the shape is not three positive numbers.
    """

    denoises = False
    value_range = None

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = state_shape(shape)
        self.freeze()

    @property
    def path(self) -> Path:  # pyright: ignore[reportIncompatibleVariableOverride]
        """There is none; asking is a TypeError."""
        raise _nothing_learnt("a noise path")

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        raise _nothing_learnt("E[x_0 | x_t]")

    def decode(self, h: Tensor) -> Tensor:
        raise _nothing_learnt("images of seeds")

    def encode(self, x: Tensor) -> Tensor:
        raise _nothing_learnt("seeds of images")


def _nothing_learnt(asked: str) -> TypeError:
    return TypeError(
        f"the prior is Untrained and has no {asked}; take a method that brings its own network, "
        "such as method=dip, or a trained prior, such as prior=faces64"
    )
