"""The scale of y, which every noise level is stated on: [-1, 1], [0, 1], or units of its own."""

from __future__ import annotations

from torch import Tensor

from plugip.options import choose, nearest

# The range that y is on, and with it every level in the units of y.
SCALES = {"signed": (-1.0, 1.0), "unit": (0.0, 1.0)}
OTHER = "other"  # y is no image: k-space, line integrals, amplitudes


def convert_level(level: float, given: str, wanted: str) -> float:
    """Converts a noise level between scales: 0.05 on [0, 1] is 0.1 on [-1, 1].

    Args:
        level: A standard deviation, or anything else in the units of y.
        given: The scale it is stated on, "signed" or "unit".
        wanted: The scale it is needed on.

    Raises:
        ValueError: If a scale is unknown, or "other", which is no image's.
    """
    if OTHER in (given, wanted):
        raise ValueError(
            f"cannot convert a level from scale={given!r} to scale={wanted!r}: 'other' is no "
            "image's; give 'signed' or 'unit'"
        )
    (low, high), (least, most) = choose(SCALES, given, "scale"), choose(SCALES, wanted, "scale")
    return level * (most - least) / (high - low)


def say_level(level: float, scale: str) -> str:
    """Returns a level with its scale in words: "0.01 on [-1, 1] = 0.005 on [0, 1]"."""
    if scale == OTHER:
        return f"{level:g} in units of y"
    also = "unit" if scale == "signed" else "signed"
    both = {scale: level, also: convert_level(level, scale, also)}
    return " = ".join(f"{value:g} on {_range(name)}" for name, value in both.items())


def say_scale(scale: str) -> str:
    """Returns a scale in words: "y on [-1, 1]"."""
    return "y in its own units" if scale == OTHER else f"y on {_range(scale)}"


def say_photons(gain: float, scale: str) -> str:
    """Returns the level of photon counting with its scale in words."""
    if scale == OTHER:
        return f"{gain:g} photons per unit of y"
    return f"{gain:g} photons at white, {say_scale(scale)}"


def say_clip(clip: bool) -> str:
    """Returns the end of a printout of a model that may clamp what it drew."""
    return ", clipped" if clip else ""


def to_unit(y: Tensor, scale: str) -> Tensor:
    """Returns y as intensities, where 0 is black and, on the two known scales, 1 is white."""
    return (y + 1) / 2 if scale == "signed" else y


def from_unit(u: Tensor, scale: str, clip: bool = False) -> Tensor:
    """Returns intensities in the units of y, clamped to [0, 1] first if ``clip``."""
    u = u.clamp(0, 1) if clip else u
    return 2 * u - 1 if scale == "signed" else u


def length(scale: str) -> float:
    """Returns the units of y that one unit of intensity is: 2 on [-1, 1], else 1."""
    return 2.0 if scale == "signed" else 1.0


def require_scale(scale: str) -> None:
    """Raises a ValueError unless ``scale`` is "signed", "unit" or "other"."""
    if scale not in (*SCALES, OTHER):
        listed = [*(f"{name} ({say_scale(name)})" for name in SCALES), f"{OTHER} (any other y)"]
        raise ValueError(
            f"unknown scale {scale!r}, choose from {', '.join(listed)}"
            f"{nearest(scale, (*SCALES, OTHER))}"
        )


def require_range(scale: str, what: str) -> None:
    """Raises a ValueError if ``scale`` has no ends, black and white, which ``what`` needs."""
    require_scale(scale)
    if scale == OTHER:
        raise ValueError(
            f"{what} needs to know black and white, which scale='other' does not say; give "
            "scale='signed' for y on [-1, 1] or scale='unit' for y on [0, 1]"
        )


def _range(scale: str) -> str:
    low, high = SCALES[scale]
    return f"[{low:g}, {high:g}]"
