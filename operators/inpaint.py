"""Inpainting: part of the pixels is observed, the others are to be filled in."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from plugip.operator import Shape, SpectralOperator
from plugip.operators._complex import not_drawn, require_streams
from plugip.operators._options import as_sides, require_sampler
from plugip.operators.masks import MaskSampler, RandomMask
from plugip.options import require_choice
from plugip.spectral import DiagonalSpectrum

if TYPE_CHECKING:
    from plugip.rng import Rng


class Masked(SpectralOperator):
    """What both forms of inpainting share: a mask, given or drawn once per image.

    Args:
        mask: 1 observed, 0 missing, (1|B, 1|C, H, W); or a sampler such as ``RandomMask(0.7)``.

    Raises:
        TypeError: If the mask is neither tensor nor sampler.
        ValueError: If a mask has another number of axes or other values, or observes nothing.
    """

    per_image = ("mask",)
    mask: Tensor

    def __init__(self, mask: Tensor | MaskSampler) -> None:
        super().__init__()
        self.sampler = None if isinstance(mask, Tensor) else _drawn_by(mask)
        # Without a mask yet, an empty one keeps the device.
        fixed = _require_mask(mask) if isinstance(mask, Tensor) else torch.empty(0, 1, 0, 0)
        self.register_buffer("mask", fixed)

    @abstractmethod
    def with_mask(self, mask: Tensor) -> Self:
        """Returns the same operator with this mask, (1|B, 1|C, H, W)."""

    def realise(self, rng: Rng, x_shape: Shape) -> Self:
        if self.sampler is None:
            return self
        require_streams(rng, x_shape)
        mask = self.sampler.draw(rng.child("mask"), x_shape)
        return self.with_mask(mask.to(self.mask))

    def check_domain(self, x_shape: Shape) -> None:
        if self.sampler is None and not _fits(tuple(self.mask.shape), x_shape):
            raise ValueError(
                f"a mask of shape {tuple(self.mask.shape)} does not fit images of shape "
                f"{tuple(x_shape)}; it must be (1 or B, 1 or C, H, W)"
            )

    def _fixed(self) -> Tensor:
        if self.sampler is not None:
            raise not_drawn(type(self).__name__, "mask", self.sampler)
        return self.mask

    def extra_repr(self) -> str:
        return f"mask={tuple(self.mask.shape)}" if self.sampler is None else str(self.sampler)


class Inpaint(Masked):
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

    spectrum_type = DiagonalSpectrum

    def __init__(self, mask: Tensor | MaskSampler, noise_on: str = "observed") -> None:
        super().__init__(mask)
        self.noise_on = require_choice(noise_on, ("observed", "all"), "noise_on")

    @classmethod
    def random(
        cls,
        missing: float | tuple[float, float],
        size: int | tuple[int, int],
        rng_seed: int = 0,
        ids: Sequence[str] = ("0",),
    ) -> Inpaint:
        """Builds the operator with one random mask per image; for scripts.

        Args:
            missing: Fraction of missing pixels, in [0, 1), or (least, largest).
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
        # Small images take microseconds, of which self.mask and a needless .to() would be two.
        mask: Tensor = self._buffers["mask"]  # type: ignore[assignment]
        if not _fits(mask.shape, x.shape):
            self._fixed()
            self.check_domain(tuple(x.shape))
        return (mask if mask.dtype == x.dtype else mask.to(x.dtype)) * x

    def adjoint(self, y: Tensor) -> Tensor:
        return self.forward(y)

    def pinv(self, y: Tensor) -> Tensor:
        return self.forward(y)

    def spectrum(self, x_shape: Shape) -> DiagonalSpectrum:
        mask = self._fixed()
        self.check_domain(x_shape)
        return DiagonalSpectrum(mask)

    def measurement_shape(self, x_shape: Shape) -> Shape:
        self.check_domain(x_shape)
        return tuple(x_shape)

    def with_mask(self, mask: Tensor) -> Self:
        return type(self)(mask, self.noise_on)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, noise_on={self.noise_on!r}"


def _fits(mask: Shape, x: Shape) -> bool:
    if len(x) != 4:
        return False
    rows, channels, h, w = mask
    return h == x[2] and w == x[3] and rows in (1, x[0]) and channels in (1, x[1])


def _drawn_by(mask: object) -> MaskSampler:
    return require_sampler(mask, MaskSampler, "mask", "RandomMask(0.7)")


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
