"""Inpainting: part of the pixels is observed, the others are to be filled in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from plugip.operator import Shape, SpectralOperator
from plugip.operators._options import as_sides
from plugip.operators.masks import MaskSampler, RandomMask
from plugip.options import require_choice
from plugip.spectral import DiagonalSpectrum

if TYPE_CHECKING:
    from plugip.rng import Rng


class Inpaint(SpectralOperator):
    r"""Keeps the observed pixels of an image and sets the others to 0 (mid-grey).

    .. math:: y = m \odot x

    x and y have the same shape, (B, C, H, W), and range. The mask may be given, or a sampler that
    draws one per image: then call ``realise(rng, x_shape)`` first, which returns the operator
    with its masks (the experiment does so). Adjoint and pseudo-inverse equal the operator; s is 0
    or 1.

    Args:
        mask: 1 observed, 0 missing, (1|B, 1|C, H, W); or a sampler such as ``RandomMask(0.7)``.
        noise_on: "observed": noise, likelihood and residual count observed pixels only. "all" adds
            noise to the missing ones too, as DPS and DMPlug do: the gradients are the same, and
            the loss has a floor of std² on missing pixels.

    Raises:
        ValueError: If a mask has another number of axes or other values, or observes nothing.
        RuntimeError: When used before ``realise``.

    Source: Chung et al. 2023 (DPS) and Wang et al. 2024 (DMPlug), code.
    """

    per_image = ("mask",)
    spectrum_type = DiagonalSpectrum
    mask: Tensor

    def __init__(self, mask: Tensor | MaskSampler, noise_on: str = "observed") -> None:
        super().__init__()
        self.noise_on = require_choice(noise_on, ("observed", "all"), "noise_on")
        self.sampler = None if isinstance(mask, Tensor) else _require_sampler(mask)
        # Without a mask yet, an empty one keeps the device.
        fixed = _require_mask(mask) if isinstance(mask, Tensor) else torch.empty(0, 1, 0, 0)
        self.register_buffer("mask", fixed)

    @classmethod
    def random(
        cls,
        missing: float,
        size: int | tuple[int, int],
        rng_seed: int = 0,
        ids: Sequence[str] = ("0",),
    ) -> Inpaint:
        """Builds the operator with one random mask per image; for scripts.

        Args:
            missing: Fraction of missing pixels, in [0, 1).
            size: Side of the images in pixels, or (height, width).
            rng_seed: The integer of reproducibility.
            ids: Names of the images; an image keeps its mask in any batch.
        """
        from plugip.rng import Rng

        x_shape = (len(ids), 1, *as_sides(size, "size"))
        return cls(RandomMask(missing)).realise(Rng(rng_seed, "operator", ids), x_shape)

    @property
    def observed(self) -> Tensor | None:
        return self._fixed() if self.noise_on == "observed" else None

    def forward(self, x: Tensor) -> Tensor:
        mask = self._fixed()
        self.check_domain(tuple(x.shape))
        return mask.to(x.dtype) * x

    def adjoint(self, y: Tensor) -> Tensor:
        return self.forward(y)

    def spectrum(self, x_shape: Shape) -> DiagonalSpectrum:
        mask = self._fixed()
        self.check_domain(x_shape)
        return DiagonalSpectrum(mask)

    def measurement_shape(self, x_shape: Shape) -> Shape:
        self.check_domain(x_shape)
        return tuple(x_shape)

    def check_domain(self, x_shape: Shape) -> None:
        if self.sampler is not None:
            return
        rows, channels, *sides = self.mask.shape
        fits = len(x_shape) == 4 and sides == list(x_shape[2:])
        if not (fits and rows in (1, x_shape[0]) and channels in (1, x_shape[1])):
            raise ValueError(
                f"a mask of shape {tuple(self.mask.shape)} does not fit images of shape "
                f"{tuple(x_shape)}; it must be (1 or B, 1 or C, H, W)"
            )

    def realise(self, rng: Rng, x_shape: Shape) -> Inpaint:
        if self.sampler is None:
            return self
        if len(rng) != x_shape[0]:
            raise ValueError(f"need one stream per image, got {len(rng)} for {x_shape[0]} images")
        mask = self.sampler.draw(rng.child("mask"), x_shape)
        return Inpaint(mask.to(self.mask), self.noise_on)

    def _fixed(self) -> Tensor:
        if self.sampler is not None:
            raise RuntimeError(
                f"Inpaint has no mask yet, it draws one per image from {self.sampler}; "
                "call operator = operator.realise(rng, x.shape) first"
            )
        return self.mask

    def extra_repr(self) -> str:
        source = f"mask={tuple(self.mask.shape)}" if self.sampler is None else str(self.sampler)
        return f"{source}, noise_on={self.noise_on!r}"


def _require_sampler(mask: object) -> MaskSampler:
    if isinstance(mask, MaskSampler):
        return mask
    raise TypeError(
        f"mask must be a tensor or a sampler such as RandomMask(0.7), got {type(mask).__name__}"
    )


def _require_mask(mask: Tensor) -> Tensor:
    if mask.ndim != 4:
        raise ValueError(
            f"a mask must have shape (1 or B, 1 or C, H, W), got {tuple(mask.shape)}; "
            "for one mask of shape (H, W) use mask[None, None]"
        )
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError(
            "a mask holds only 1 (observed) and 0 (missing); use (mask > 0.5).float()"
        )
    if not bool(mask.flatten(1).any(dim=1).all()):
        raise ValueError("the mask of an image observes no pixel; 1 means observed, 0 missing")
    return mask if mask.is_floating_point() else mask.to(torch.get_default_dtype())
