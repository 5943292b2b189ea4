"""The noise corruptions of ImageNet-C with their five levels."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from plugip.noise.base import Noise
from plugip.noise.compound import CompoundNoise
from plugip.noise.gaussian import GaussianNoise
from plugip.noise.pixels import ImpulseNoise, SpeckleNoise
from plugip.noise.poisson import ShotNoise
from plugip.noise.scales import convert_level, require_range
from plugip.options import choose


def _levels(*values: float) -> Mapping[int, float]:
    return MappingProxyType(dict(enumerate(values, start=1)))


# Kind -> severity -> level; "gaussian" is a standard deviation on [0, 1], "shot" photons at white,
# "impulse" a density, "speckle" a relative standard deviation.
IMAGENET_C: Mapping[str, Mapping[int, float]] = MappingProxyType(
    {
        "gaussian": _levels(0.08, 0.12, 0.18, 0.26, 0.38),
        "shot": _levels(60, 25, 12, 5, 3),
        "impulse": _levels(0.03, 0.06, 0.09, 0.17, 0.27),
        "speckle": _levels(0.15, 0.2, 0.35, 0.45, 0.6),
    }
)


def imagenet_c(kind: str, severity: int, scale: str = "signed") -> Noise:
    """Returns a noise corruption of ImageNet-C, clamped to the range as it is there.

    Args:
        kind: "gaussian", "shot", "impulse" or "speckle".
        severity: 1 (mild) to 5.
        scale: The range that y is on: "signed" for [-1, 1], "unit" for [0, 1].

    Raises:
        ValueError: If the kind, the severity or the scale is unknown, or the scale has no ends.

    Source: Hendrycks and Dietterich 2019, and its code, ``make_imagenet_c.py``.
    """
    levels = choose(IMAGENET_C, kind, "noise of ImageNet-C")
    if severity not in tuple(levels):
        raise ValueError(
            f"severity must be a whole number, 1 (mild) to 5 (strong), got {severity!r}"
        )
    require_range(scale, "a corruption of ImageNet-C")
    level = levels[severity]
    if kind == "gaussian":
        part = GaussianNoise(convert_level(level, "unit", scale), scale)
        return CompoundNoise([part], clip=True, scale=scale)
    if kind == "impulse":
        return ImpulseNoise(level, scale=scale)
    return (ShotNoise if kind == "shot" else SpeckleNoise)(level, scale=scale, clip=True)
