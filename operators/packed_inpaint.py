"""Inpainting whose measurement lists the observed pixels and leaves the missing ones out."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from plugip.operator import Shape
from plugip.operators._vectors import RowOrthonormal, SelectionSpectrum, picked, placed
from plugip.operators.inpaint import Masked
from plugip.operators.masks import MaskSampler


class PackedInpaint(RowOrthonormal, Masked):
    r"""Lists the observed pixels of an image and leaves the missing ones out.

    .. math:: y = (x_i)_{m_i = 1}

    x is (B, C, H, W); y is (B, m) in the same range: channel by channel, each row by row. Every
    measured number has singular value 1, so the adjoint, which puts the pixels back and sets the
    others to 0 (mid-grey), is the pseudo-inverse. ``Inpaint`` keeps the missing pixels as zeros;
    A* A is the same. All images of a batch observe equally many pixels, for y is one tensor.

    Args:
        mask: 1 observed, 0 missing, (1|B, 1|C, H, W); or a sampler such as ``RandomMask(0.7)``:
            then call ``realise(rng, x_shape)`` first (the experiment does so).

    Raises:
        TypeError: If the mask is neither tensor nor sampler.
        ValueError: If a mask has another number of axes or other values, observes nothing, or
            observes more in one image than in another.
        RuntimeError: When used before ``realise``.

    Source: Kawar et al. 2022 (DDRM), code: measurements without the missing pixels.
    """

    per_image = ("mask", "index")
    index: Tensor

    def __init__(self, mask: Tensor | MaskSampler) -> None:
        super().__init__(mask)
        known = self.sampler is None
        self.register_buffer("index", _places(self.mask) if known else torch.empty(0, 0).long())

    def forward(self, x: Tensor) -> Tensor:
        pixels = self._fixed()[0].numel()
        self.check_domain(tuple(x.shape))
        return picked(x.reshape(x.shape[0], -1, pixels), self.index).flatten(1)

    def adjoint(self, y: Tensor) -> Tensor:
        x_shape = self.domain_shape(tuple(y.shape))
        self.check_domain(x_shape)
        lists = y.reshape(y.shape[0], -1, self.index.shape[1])
        return placed(lists, self.index, self.mask[0].numel()).reshape(x_shape)

    def spectrum(self, x_shape: Shape) -> SelectionSpectrum:
        mask = self._fixed()
        self.check_domain(x_shape)
        return SelectionSpectrum(mask, self)

    def measurement_shape(self, x_shape: Shape) -> Shape:
        channels = self._fixed().shape[1]
        self.check_domain(x_shape)
        return (x_shape[0], self.index.shape[1] * (x_shape[1] // channels))

    def domain_shape(self, y_shape: Shape) -> Shape:
        _, channels, h, w = self._fixed().shape
        count = self.index.shape[1]
        lists = y_shape[-1] // count
        if len(y_shape) != 2 or lists < 1 or lists * count != y_shape[1]:
            raise ValueError(
                f"measurements have shape (B, m) with m a multiple of the {count} observed "
                f"pixels, got {tuple(y_shape)}"
            )
        return (y_shape[0], channels * lists, h, w)

    def with_mask(self, mask: Tensor) -> Self:
        return type(self)(mask)


def _places(mask: Tensor) -> Tensor:
    """Returns where each mask is 1, (1|B, count), int64."""
    seen = mask.flatten(1) != 0
    counts = seen.sum(1)
    fewest, most = int(counts.min()), int(counts.max())
    if fewest != most:
        raise ValueError(
            f"PackedInpaint needs equally many observed pixels in each image of a batch, got "
            f"{fewest} to {most}; draw masks of one count, such as RandomMask(0.7), or use Inpaint"
        )
    return seen.nonzero()[:, 1].reshape(len(mask), fewest)
