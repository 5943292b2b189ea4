"""Several noise models one after the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from plugip.noise.base import (
    Moments,
    Noise,
    Simulator,
    additive_moments,
    excess_kurtosis,
    residual_moments,
)
from plugip.noise.checks import no_likelihood, require_unclipped
from plugip.noise.gaussian import GaussianNoise
from plugip.noise.scales import SCALES, require_range, require_scale, say_clip, say_scale
from plugip.noise.unknown import require_drawable

if TYPE_CHECKING:
    from plugip.rng import Rng


@dataclass(frozen=True, repr=False)
class CompoundNoise(Simulator):
    """Applies noise models in order: what the first one drew is the next one's clean signal.

    Args:
        parts: The models, first to last.
        clip: Whether to clamp the outcome to the range of ``scale``; there is no level and no
            likelihood then.
        scale: The range that y is on: "signed" for [-1, 1], "unit" for [0, 1], "other" for y that
            is no image.

    Attributes:
        std: Root of the sum of the squared levels if every part has one, else None.

    Raises:
        TypeError: If there is no list of parts, or a part cannot be drawn from.
        ValueError: If the scale is unknown or, for clip, has no ends, or a part is on another
            scale.
    """

    parts: Sequence[Noise]
    clip: bool = False
    scale: str = "signed"

    def __post_init__(self) -> None:
        if self.clip:
            require_range(self.scale, "CompoundNoise with clip=True")
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

    def __repr__(self) -> str:
        parts = ", then ".join(repr(part) for part in self.parts)
        end = f"; {say_scale(self.scale)}{say_clip(self.clip)}" if self.clip else ""
        return f"CompoundNoise({parts}{end})"

    @property
    def std(self) -> float | None:
        """The level of the sum, in the units of y, or None."""
        levels = self._levels()
        return None if levels is None else math.hypot(*levels)

    @property
    def excess_kurtosis(self) -> float | None:
        """That of the sum, if every part has a level and states its own; else None."""
        levels, own = self._levels(), [excess_kurtosis(part) for part in self.parts]
        known = [kurtosis for kurtosis in own if kurtosis is not None]
        if levels is None or len(known) < len(own):
            return None
        # Fourth cumulants of independent parts add.
        fourth = sum(k * level**4 for k, level in zip(known, levels, strict=True))
        return fourth / math.hypot(*levels) ** 4

    def check(self, y_clean: Tensor, rng: Rng) -> None:
        """Lets each part look at the clean measurements, not at what others drew."""
        super().check(y_clean, rng)
        for part in self.parts:
            if isinstance(part, Simulator):
                part.check(y_clean, rng)

    def draw(self, y_clean: Tensor, rng: Rng) -> Tensor:
        """Draws y given A(x); the parts share each image's stream in order."""
        y = y_clean
        for part in self.parts:
            y = part.draw(y, rng) if isinstance(part, Simulator) else part.sample(y, rng)
        return y.clamp(*SCALES[self.scale]) if self.clip else y

    def nll(self, y_clean: Tensor, y: Tensor, observed: Tensor | None = None) -> Tensor:
        """Returns the likelihood where it is known: of one part, or a sum of Gaussians, (B,)."""
        require_unclipped(self.clip, "CompoundNoise", "its ends")
        if len(self.parts) == 1:
            return self.parts[0].nll(y_clean, y, observed)
        if self.std is not None and all(isinstance(p, GaussianNoise) for p in self.parts):
            return GaussianNoise(self.std, self.scale).nll(y_clean, y, observed)
        names = ", ".join(type(part).__name__ for part in self.parts)
        raise no_likelihood("CompoundNoise", f"that of {names} in a row is not known")

    def residual_moments(self, y_clean: Tensor, observed: Tensor | None = None) -> Moments | None:
        """Returns mean and variance of ‖y - y_clean‖²: of one part, where levels add, or None."""
        if len(self.parts) == 1 and not self.clip:
            return residual_moments(self.parts[0], y_clean, observed)
        return additive_moments(self, y_clean, observed)

    def _levels(self) -> list[float] | None:
        levels = [part.std for part in self.parts]
        known = [level for level in levels if level is not None]
        return None if self.clip or len(known) < len(levels) else known


def _require_same_scale(part: Noise, scale: str) -> None:
    own = getattr(getattr(part, "noise", part), "scale", scale)
    if own != scale:
        raise ValueError(
            f"{type(part).__name__} has scale={own!r}, but CompoundNoise has scale={scale!r}; "
            "all parts act on one y, so give all the same scale"
        )
