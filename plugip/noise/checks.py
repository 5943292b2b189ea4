"""What the noise models refuse, each with one sentence that says what to do."""

from __future__ import annotations

import math
from numbers import Real
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from plugip.noise.scales import say_scale, to_unit

if TYPE_CHECKING:
    from plugip.rng import Rng

SMALL = "give it in the units of y, or 1e-3 for nearly noise-free images"
FAR_BELOW = -0.5  # of black; bicubic weights overshoot by less


def require_level(value: float, what: str, advice: str, most: float = math.inf) -> None:
    """Raises a ValueError unless ``value`` is a positive number below ``most``."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise ValueError(f"{what} must be a number, got {value!r}; {advice}")
    if not 0 < value < most:
        allowed = "positive and finite" if most == math.inf else f"between 0 and {most:g}"
        raise ValueError(f"{what} must be {allowed}, got {value!r}; {advice}")


def require_clean(y_clean: Tensor, rng: Rng, scale: str, takes: str, who: str) -> None:
    """Raises unless noise can be drawn for clean measurements.

    Small overshoots below black, as bicubic weights make them, pass.

    Args:
        y_clean: A(x), (B, *Y).
        rng: The streams, one per image.
        scale: The scale that the noise model says y is on.
        takes: "any", "real" or "light".
        who: Names the model.

    Raises:
        TypeError: If y_clean is no tensor of floating-point numbers, or complex unless "any".
        ValueError: If it holds a NaN, B is not the number of streams, or it reaches far below
            black where it is light, or the scale "unit".
    """
    if takes != "any":
        require_real(y_clean, who)
    _require_float(y_clean, "y_clean", who)
    if not y_clean.ndim or y_clean.shape[0] != len(rng):
        raise ValueError(
            f"{who} got y_clean of shape {tuple(y_clean.shape)} and an rng of {len(rng)} "
            "stream(s); give (B, *Y) and one id for each of the B images"
        )
    bad = int((~torch.isfinite(y_clean)).sum())
    if bad:
        raise ValueError(
            f"{who} got y_clean with {bad} NaN or infinite values of {y_clean.numel()}; check the "
            "operator and its input"
        )
    if takes == "light" or (scale == "unit" and not y_clean.is_complex()):
        _require_light(y_clean, scale, who)


def require_real(y: Tensor, who: str) -> None:
    """Raises a TypeError if measurements are complex."""
    if isinstance(y, Tensor) and y.is_complex():
        raise TypeError(
            f"{who} acts on real measurements, got {y.dtype}; complex ones take GaussianNoise, "
            "LaplaceNoise or UniformNoise"
        )


def require_pair(y_clean: Tensor, y: Tensor, observed: Tensor | None, who: str) -> None:
    """Raises unless a candidate, a measurement and a mask belong together; reads no values.

    Raises:
        TypeError: If one is no tensor of floating-point numbers, or only one of them is complex.
        ValueError: If shapes differ, or the mask does not fit.
    """
    _require_float(y_clean, "y_clean", who)
    _require_float(y, "y", who)
    if y.is_complex() != y_clean.is_complex():
        raise TypeError(
            f"{who} got y of {y.dtype} and y_clean of {y_clean.dtype}; give both complex or both "
            "real, as one operator makes them"
        )
    if y.shape != y_clean.shape:
        raise ValueError(
            f"{who} got y of shape {tuple(y.shape)} and y_clean of shape {tuple(y_clean.shape)}; "
            "give both (B, *Y), as one operator makes them"
        )
    if observed is not None and not _fits(observed, y):
        raise ValueError(
            f"{who} got observed of shape {tuple(observed.shape)} for y of shape "
            f"{tuple(y.shape)}; give a mask that broadcasts to y, 1 where there is a measurement"
        )


def no_likelihood(who: str, why: str, instead: str = "") -> TypeError:
    """Returns the error of a noise model that cannot score candidates."""
    return TypeError(
        f"{who} has no likelihood that a method could use: {why}; {instead}give the problem "
        f"UnknownNoise(), or simulate with Hidden({who}(...)), which scores by the mean square"
    )


def require_unclipped(clip: bool, who: str, why: str = "the brightest values") -> None:
    """Raises a TypeError if what was drawn is clamped, so that its likelihood is not known."""
    if clip:
        raise no_likelihood(who, f"clip=True cuts off {why}", "give clip=False, ")


def _require_float(y: Tensor, name: str, who: str) -> None:
    if not isinstance(y, Tensor):
        raise TypeError(f"{who} needs {name} as a torch tensor, got {type(y).__name__}")
    if not (y.is_floating_point() or y.is_complex()):
        raise TypeError(
            f"{who} needs {name} in floating point, got {y.dtype}; use {name}.float(), and for "
            "8-bit images divide by 127.5 and subtract 1"
        )


def _require_light(y_clean: Tensor, scale: str, who: str) -> None:
    if not y_clean.numel():
        return
    least = y_clean.detach().min()
    if float(to_unit(least, scale)) >= FAR_BELOW:
        return
    advice = "check its units"
    if scale == "unit":
        advice = "for y on [-1, 1] give scale='signed', and levels on [-1, 1] too"
    raise ValueError(
        f"{who} has scale={scale!r}, {say_scale(scale)}, but y_clean reaches {float(least):.3g}, "
        f"far below black, which is {-1 if scale == 'signed' else 0}; {advice}"
    )


def _fits(observed: Tensor, y: Tensor) -> bool:
    try:
        return torch.broadcast_shapes(observed.shape, y.shape) == y.shape
    except RuntimeError:  # the shapes do not broadcast at all
        return False
