"""Which lines or points of k-space an MRI scan acquires: samplers and the published masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from plugip.operator import Shape
from plugip.options import choose

if TYPE_CHECKING:
    from plugip.rng import Rng


@dataclass(frozen=True)
class _Undersampling:
    acceleration: float = 4.0
    centre: float = 0.08

    def __post_init__(self) -> None:
        if not 1 <= self.acceleration < float("inf"):
            raise ValueError(
                f"acceleration must be at least 1 (all of k-space), got {self.acceleration}"
            )
        if not 0 <= self.centre <= 1:
            raise ValueError(
                f"centre must lie in [0, 1], a fraction of the lines, got {self.centre}"
            )


@dataclass(frozen=True)
class RandomLines(_Undersampling):
    """Acquires the middle columns of k-space and each other column by the toss of a coin.

    On average W / acceleration of the W columns are acquired; the number differs from mask to
    mask. Masks are (B, 1, H, W), 1 acquired, 0 not.

    Args:
        acceleration: W over the mean number of acquired columns. 4 and 8 in fastMRI.
        centre: Fraction of columns in the middle that is always acquired, 0.08 at 4, 0.04 at 8.

    Raises:
        ValueError: If an argument is out of range; when drawn, if the middle alone exceeds
            W / acceleration.

    Source: Zbontar et al. 2018 (fastMRI), random mask.
    """

    def draw(self, rng: Rng, x_shape: Shape) -> Tensor:
        h, w = x_shape[-2:]
        low = round(w * self.centre)
        lines = rng.uniform((w,)) < _chance(w, low, self.acceleration)
        return _columns(lines, _fastmri_middle(w, low), h)


@dataclass(frozen=True)
class EquispacedLines(_Undersampling):
    """Acquires the middle columns of k-space and evenly spaced others, from a random first one.

    Masks are (B, 1, H, W), 1 acquired, 0 not.

    Args:
        acceleration: W over the number of acquired columns. 4 and 8 in fastMRI.
        centre: Fraction of columns in the middle that is always acquired.
        exact: Widens the spacing so that the acceleration holds with the middle counted in;
            otherwise each ``acceleration``-th column is taken, and the middle comes on top.

    Raises:
        ValueError: If an argument is out of range, or a spacing that is not exact is not whole;
            when drawn, if the middle alone exceeds W / acceleration.

    Source: Zbontar et al. 2018 (fastMRI), equispaced and equispaced-fraction masks.
    """

    exact: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.exact and self.acceleration != int(self.acceleration):
            raise ValueError(
                f"acceleration must be a whole number with exact=False, got {self.acceleration}"
            )

    def draw(self, rng: Rng, x_shape: Shape) -> Tensor:
        h, w = x_shape[-2:]
        low = round(w * self.centre)
        step = _spacing(w, low, self.acceleration) if self.exact else self.acceleration
        lines = torch.zeros(len(rng), w, dtype=torch.bool)
        for row, offset in zip(lines, rng.integers(0, max(round(step), 1)), strict=True):
            row[torch.from_numpy(_evenly(offset, w - 0.5, step))] = True
        return _columns(lines, _fastmri_middle(w, low), h)


@dataclass(frozen=True)
class ExactLines(_Undersampling):
    """Acquires exactly floor(W / acceleration) columns of k-space: the middle, and random others.

    Masks are (B, 1, H, W), 1 acquired, 0 not.

    Args:
        acceleration: W over the number of acquired columns. 4 and 8 in InverseBench.
        centre: Fraction of columns in the middle that is always acquired.

    Raises:
        ValueError: If an argument is out of range; when drawn, if the middle alone exceeds the
            number of columns.

    Source: Zheng et al. 2025 (InverseBench), random mask.
    """

    def draw(self, rng: Rng, x_shape: Shape) -> Tensor:
        h, w = x_shape[-2:]
        middle = _inversebench_middle(w, self.centre)
        outer = torch.tensor([c for c in range(w) if c not in middle])
        count = _left_over(w, middle, self.acceleration)
        lines = torch.zeros(len(rng), w, dtype=torch.bool)
        for row, order in zip(lines, rng.permutation(len(outer)), strict=True):
            row[outer[order[:count]]] = True
        return _columns(lines, middle, h)


@dataclass(frozen=True)
class GaussianPoints(_Undersampling):
    """Acquires single points of k-space, denser in the middle, exactly H W / acceleration of them.

    A box in the middle is complete; the others are drawn without replacement, with chances
    that fall off as a Gaussian of the distance from zero frequency. Masks are (B, 1, H, W).

    Args:
        acceleration: H W over the number of acquired points. 4, 8 and 15 in Score-MRI.
        centre: Side of the complete box in the middle, as a fraction of each side.
        spread: Standard deviation of the density, as a fraction of each side.

    Raises:
        ValueError: If an argument is out of range; when drawn, if the box alone exceeds the
            number of points.

    Source: Chung and Ye 2022 (Score-MRI), Gaussian 2-D masks.
    """

    spread: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.spread < float("inf"):
            raise ValueError(f"spread must be positive and finite, got {self.spread}")

    def draw(self, rng: Rng, x_shape: Shape) -> Tensor:
        h, w = x_shape[-2:]
        score = self._log_density(h)[:, None] + self._log_density(w)[None, :]
        rows, columns = (_inversebench_middle(n, self.centre) for n in (h, w))
        score[rows.start : rows.stop, columns.start : columns.stop] = float("inf")
        count = int(h * w / self.acceleration)
        if len(rows) * len(columns) > count:
            raise ValueError(
                f"the middle box of {len(rows)} x {len(columns)} points exceeds the {count} "
                f"points of acceleration {self.acceleration}; lower centre"
            )
        # The largest scores with Gumbel noise are a weighted draw without replacement.
        gumbel = -torch.log(-torch.log(rng.uniform((h, w)).double().clamp(1e-12, 1 - 1e-9)))
        chosen = (score + gumbel).flatten(1).topk(count, dim=1).indices
        return torch.zeros(len(rng), h * w).scatter_(1, chosen, 1.0).reshape(-1, 1, h, w)

    def _log_density(self, side: int) -> Tensor:
        offsets = torch.arange(side, dtype=torch.float64) - side // 2
        return -0.5 * (offsets / (self.spread * side)) ** 2


def legacy_mri_mask(
    state: np.random.RandomState,
    kind: str = "fastmri_random",
    width: int = 320,
    acceleration: int = 4,
    centre: float = 0.08,
) -> Tensor:
    """Draws the mask that published code draws from the same NumPy state.

    Args:
        state: NumPy's legacy generator, such as ``np.random.RandomState(42)``; it advances.
        kind: "fastmri_random", "fastmri_equispaced", "fastmri_equispaced_fraction",
            "inversebench_random" or "inversebench_equispaced", which takes each R-th of the
            outer columns on top of the middle, so that R = 4 is 3.2 in truth.
        width: Number of columns.
        acceleration: R, as the code calls it.
        centre: Fraction of columns in the middle.

    Returns:
        Mask, (1, 1, 1, width), 1 acquired, 0 not.

    Raises:
        ValueError: If the kind is unknown, or the middle alone exceeds width / acceleration.

    Source: Zbontar et al. 2018 (fastMRI) and Zheng et al. 2025 (InverseBench), code.
    """
    draw = choose(_LEGACY, kind, "kind of mask")
    lines = np.zeros(width, dtype=np.float32)
    lines[draw(state, width, acceleration, centre)] = 1.0
    return torch.from_numpy(lines)[None, None, None]


def _fastmri_random(state: np.random.RandomState, w: int, r: int, centre: float) -> np.ndarray:
    low = round(w * centre)
    tossed = np.flatnonzero(state.uniform(size=w) < _chance(w, low, r))
    return np.union1d(tossed, _fastmri_middle(w, low))


def _fastmri_even(state: np.random.RandomState, w: int, r: int, centre: float) -> np.ndarray:
    even = _evenly(state.randint(0, r), w, r)
    return np.union1d(even, _fastmri_middle(w, round(w * centre)))


def _fastmri_fraction(state: np.random.RandomState, w: int, r: int, centre: float) -> np.ndarray:
    low = round(w * centre)
    step = _spacing(w, low, r)
    # The code stops one column early.
    even = _evenly(state.randint(0, round(step)), w - 1, step)
    return np.union1d(even, _fastmri_middle(w, low))


def _inverse_random(state: np.random.RandomState, w: int, r: int, centre: float) -> np.ndarray:
    middle = _inversebench_middle(w, centre)
    outer = np.setdiff1d(np.arange(w), middle)
    return np.union1d(state.choice(outer, _left_over(w, middle, r), replace=False), middle)


def _inverse_even(state: np.random.RandomState, w: int, r: int, centre: float) -> np.ndarray:
    middle = _inversebench_middle(w, centre)
    return np.union1d(np.setdiff1d(np.arange(w), middle)[:: int(r)], middle)


_LEGACY = {
    "fastmri_random": _fastmri_random,
    "fastmri_equispaced": _fastmri_even,
    "fastmri_equispaced_fraction": _fastmri_fraction,
    "inversebench_random": _inverse_random,
    "inversebench_equispaced": _inverse_even,
}


def _fastmri_middle(w: int, low: int) -> range:
    start = (w - low + 1) // 2
    return range(start, start + low)


def _inversebench_middle(w: int, centre: float) -> range:
    low = int(w * centre)
    return range((w - low) // 2, (w + low) // 2)


def _evenly(offset: int, stop: float, step: float) -> np.ndarray:
    """Returns the columns offset, offset + step, ..., below stop, rounded."""
    return np.rint(np.arange(offset, stop, step)).astype(np.int64)


def _chance(w: int, low: int, acceleration: float) -> float:
    _require_room(w, low, acceleration)
    return (w / acceleration - low) / (w - low) if w > low else 0.0


def _spacing(w: int, low: int, acceleration: float) -> float:
    """Spacing of the outer columns with which W / acceleration holds for all of them."""
    _require_room(w, low, acceleration)
    if w <= low * acceleration:
        return float(w)
    return acceleration * (w - low) / (w - low * acceleration)


def _left_over(w: int, middle: range, acceleration: float) -> int:
    _require_room(w, len(middle), acceleration)
    return max(int(w / acceleration) - len(middle), 0)


def _require_room(w: int, low: int, acceleration: float) -> None:
    if low > w / acceleration:
        raise ValueError(
            f"the {low} columns in the middle exceed the {w / acceleration:.4g} columns that "
            f"acceleration {acceleration} leaves of {w}; lower centre or acceleration"
        )


def _columns(lines: Tensor, middle: range, h: int) -> Tensor:
    lines[:, middle.start : middle.stop] = True
    return lines.float()[:, None, None, :].repeat(1, 1, h, 1)
