"""Several noise models one after the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from plugip.noise.base import SCALES, Noise, no_likelihood, require_scale
from plugip.noise.gaussian import GaussianNoise
from plugip.noise.unknown import require_drawable

if TYPE_CHECKING:
    from plugip.rng import Rng


@dataclass(frozen=True)
class CompoundNoise:
    """Applies noise models in order: what the first one drew is the next one's clean signal.

    Args:
        parts: The models, first to last.
        clip: Whether to clamp the outcome to the range of ``scale``; there is no level and no
            likelihood then.
        scale: The range that y is on: "signed" for [-1, 1], "unit" for [0, 1].

    Attributes:
        std: Root of the sum of the squared levels if every part has one, else None.

    Raises:
        TypeError: If there is no list of parts, or a part cannot be drawn from.
        ValueError: If the scale is unknown, or a part is on another scale.
    """

    parts: Sequence[Noise]
    clip: bool = False
    scale: str = "signed"

    def __post_init__(self) -> None:
        require_scale(self.scale)
        if not isinstance(self.parts, Sequence) or not self.parts:
            raise TypeError(
                "CompoundNoise needs a list of noise models, such as [GaussianNoise(0.1), "
                f"LaplaceNoise(0.1)], got {self.parts!r}"
            )
        object.__setattr__(self, "parts", tuple(self.parts))
        for part in self.parts:
            require_drawable(part, "CompoundNoise")
            _require_same_scale(part, self.scale)

    @property
    def std(self) -> float | None:
        """The level of the sum, in the units of y, or None."""
        levels = [part.std for part in self.parts]
        if self.clip or any(level is None for level in levels):
            return None
        return math.hypot(*(level for level in levels if level is not None))

    def sample(self, y_clean: Tensor, rng: Rng) -> Tensor:
        """Draws y given A(x); each image has its own stream, which the parts share in order."""
        y = y_clean
        for part in self.parts:
            y = part.sample(y, rng)
        return y.clamp(*SCALES[self.scale]) if self.clip else y

    def nll(self, y_clean: Tensor, y: Tensor, observed: Tensor | None = None) -> Tensor:
        """Returns the likelihood where it is known: of one part, or a sum of Gaussians, (B,)."""
        if self.clip:
            raise no_likelihood("CompoundNoise", "clip=True cuts off its ends")
        if len(self.parts) == 1:
            return self.parts[0].nll(y_clean, y, observed)
        if self.std is not None and all(isinstance(p, GaussianNoise) for p in self.parts):
            return GaussianNoise(self.std).nll(y_clean, y, observed)
        names = ", ".join(type(part).__name__ for part in self.parts)
        raise no_likelihood("CompoundNoise", f"that of {names} in a row is not known")


def _require_same_scale(part: Noise, scale: str) -> None:
    own = getattr(getattr(part, "noise", part), "scale", scale)
    if own != scale:
        raise ValueError(
            f"{type(part).__name__} has scale={own!r}, but CompoundNoise has scale={scale!r}; "
            "all parts act on one y, so give all the same scale"
        )
