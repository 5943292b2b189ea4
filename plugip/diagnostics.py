"""Checks that need no true image: does the answer explain y, and is its seed a plausible one?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from plugip.linalg import norm
from plugip.noise import residual_moments
from plugip.problem import Problem

FITS_NOISE = 0.5  # a MAP answer may lie somewhat below 1: y's noise is in part fitted


class Ending(IntEnum):
    """How a search stands at an iterate.

    Attributes:
        OPEN: It could go on, or does not say.
        CONVERGED: It is at a minimum, to within its tolerance or to rounding.
        STUCK: It cannot go on, but not for a minimum: no step along the gradient lowers the loss.
    """

    OPEN = 0
    CONVERGED = 1
    STUCK = 2


@dataclass(frozen=True)
class Certificate:
    """How nearly answers satisfy the first-order conditions of a constrained minimum.

    Attributes:
        stationarity: Norm of the Lagrangian's gradient, relative to max(1, norm of the unknowns);
            (B,).
        violation: Distance of the constraint from its bounds, in the constraint's own unit, (B,).
    """

    stationarity: Tensor
    violation: Tensor


@dataclass(frozen=True)
class Diagnostics:
    """Signs of trust for one restored image.

    Attributes:
        residual_to_noise: RMS residual over that of pure noise, which is its standard deviation
            where the noise has one; about 1 when the answer explains y; None if the level is
            unknown.
        chi_square: Its square, ‖A(x_hat) - y‖² over what is expected of noise around A(x_hat): the
            reduced chi-square ‖A(x_hat) - y‖² / (m std²).
        chi_square_limit: Two standard deviations of the chi-square of pure noise above 1:
            1 + 2 sqrt((2 + k) / m) for m entries of excess kurtosis k, which is 0 for Gaussian
            noise; None if the noise model does not state how much a residual varies.
        seed_norm: ‖z‖ / sqrt(d); 1 on the Gaussian shell, below 1 for smooth (MAP) answers; None
            without a seed.
        saturation: Share of values of x_hat at or beyond the ends of [-1, 1].
        explains_y: Whether chi_square is at most its limit; None if one of the two is unknown.
        stationarity, violation: See Certificate; None where the method gives none.
        ending: How the search stood when it ended.
    """

    residual_to_noise: float | None
    chi_square: float | None
    chi_square_limit: float | None
    seed_norm: float | None
    saturation: float
    explains_y: bool | None
    stationarity: float | None = None
    violation: float | None = None
    ending: Ending = Ending.OPEN

    def sentences(self) -> list[str]:
        """Says in words what a user without the true image should know."""
        said = [_say_residual(self), _say_ending(self), _say_seed(self.seed_norm)]
        if self.stationarity is not None and self.violation is not None:
            said.append(
                f"constrained minimum: relative gradient of the Lagrangian {self.stationarity:.1e}"
                f", constraint violated by {self.violation:.1e}"
            )
        if self.saturation > 0.1:
            said.append(
                f"{self.saturation:.0%} of the values touch black or white: check the value range"
            )
        return [s for s in said if s]


def diagnose(
    problem: Problem,
    x_hat: Tensor,
    z: Tensor | None,
    certificate: Certificate | None = None,
    endings: Sequence[Ending] | None = None,
) -> list[Diagnostics]:
    """Returns the checks of each image.

    Args:
        problem: The problem that was solved.
        x_hat: Answers, (B, C, H, W), in [-1, 1].
        z: Their seeds, (B, ...), if any.
        certificate: What the method states of its answers, if it is one that does.
        endings: How their searches stood at the end, if that is known.
    """
    with torch.no_grad():
        y_clean = problem.operator(x_hat)
        squared = problem.squared_residual(y_clean).tolist()
        fits = [_Fit.of(r, *e) for r, e in zip(squared, _expected(problem, y_clean), strict=True)]
        # Counted in integers: exact, and there are devices without float64.
        saturated = (x_hat.abs() >= 1).flatten(1).sum(dim=1).tolist()
    norms = [None] * problem.batch if z is None else norm(z).tolist()
    seeds = [None if z is None or n is None else n / math.sqrt(z[0].numel()) for n in norms]
    stated, ended = _stated(certificate, problem.batch), endings or [Ending.OPEN] * problem.batch
    return [
        Diagnostics(
            f.ratio, f.chi_square, f.limit, seed, n / x_hat[0].numel(), f.explains, *numbers, end
        )
        for f, seed, n, numbers, end in zip(fits, seeds, saturated, stated, ended, strict=True)
    ]


def _stated(
    certificate: Certificate | None, batch: int
) -> list[tuple[float | None, float | None]]:
    if certificate is None:
        return [(None, None)] * batch
    parts = certificate.stationarity.tolist(), certificate.violation.tolist()
    return list(zip(*parts, strict=True))


@dataclass(frozen=True)
class _Fit:
    """One image's residual against that of pure noise."""

    ratio: float | None
    chi_square: float | None
    limit: float | None
    explains: bool | None

    @classmethod
    def of(cls, squared: float, mean: float | None, std: float | None) -> _Fit:
        """Compares ‖r‖² with its mean and standard deviation under pure noise, if known."""
        if mean is None or mean == squared == 0:  # unknown, or nothing to compare
            return cls(None, None, None, None)
        # Where no noise can be, as in a black image's photons, no residual is explained.
        chi_square = squared / mean if mean != 0 else math.inf
        limit = None if std is None else 1 + (2 * std / mean if mean != 0 else 0.0)
        explains = None if limit is None else chi_square <= limit
        return cls(math.sqrt(chi_square), chi_square, limit, explains)


def _expected(problem: Problem, y_clean: Tensor) -> list[tuple[float | None, float | None]]:
    """Returns mean and standard deviation of ‖r‖² of each image, None where they are unknown."""
    moments = residual_moments(problem.noise, y_clean, problem.operator.observed)
    if moments is not None:
        mean, variance = moments
        return list(zip(mean.tolist(), variance.sqrt().tolist(), strict=True))
    std = problem.noise.std
    counts = torch.as_tensor(problem.observed_count()).expand(problem.batch).tolist()
    return [(None if std is None else count * std**2, None) for count in counts]


def _say_residual(d: Diagnostics) -> str:
    if d.residual_to_noise is None:
        return "noise level unknown, or clipped: no statement about the fit"
    size = f"residual is {d.residual_to_noise:.2f} times the noise"
    if d.explains_y is None:
        return f"{size}; how much that varies is not stated by the noise model: no verdict on it"
    if d.explains_y and d.residual_to_noise < FITS_NOISE:
        return (
            f"the answer fits the noise as well: {size}; stop earlier (stopping=discrepancy), or "
            "check the noise level"
        )
    if d.explains_y:
        return f"the answer explains y: {size}"
    more = "give it more iterations, or " if d.ending is Ending.OPEN else ""
    return f"the answer does not explain y: {size}; {more}check operator and noise level"


def _say_ending(d: Diagnostics) -> str:
    if d.explains_y or d.ending is Ending.OPEN:
        return ""
    if d.ending is Ending.CONVERGED:
        return (
            "the search converged, so more iterations change nothing; other starts may end "
            "elsewhere (restarts=multi_start)"
        )
    return (
        "the search got stuck: no step along the gradient lowers the loss, so more iterations "
        "change nothing; take a solver without a line search (Adam), or other starts "
        "(restarts=multi_start)"
    )


def _say_seed(seed_norm: float | None) -> str:
    if seed_norm is None or seed_norm <= 1.15:
        return ""
    return (
        f"the seed's norm is {seed_norm:.2f} times that of Gaussian noise: "
        "the answer lies outside what the prior considers plausible"
    )
