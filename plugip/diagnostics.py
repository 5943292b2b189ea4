"""Checks that need no true image: does the answer explain y, and is its seed a plausible one?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from plugip.linalg import norm
from plugip.problem import Problem

FITS_NOISE = 0.5  # a MAP answer may lie somewhat below 1: y's noise is in part fitted


@dataclass(frozen=True)
class Diagnostics:
    """Signs of trust for one restored image.

    Attributes:
        residual_to_noise: RMS residual over the noise's standard deviation, about 1 when the
            answer explains y; None if the level is unknown.
        chi_square: Its square, the reduced chi-square ‖A(x_hat) - y‖² / (m std²).
        chi_square_limit: 1 + 2 sqrt(2 / m), two standard deviations above 1.
        seed_norm: ‖z‖ / sqrt(d); 1 on the Gaussian shell, below 1 for smooth (MAP) answers; None
            without a seed.
        saturation: Share of values of x_hat at or beyond the ends of [-1, 1].
        explains_y: Whether chi_square is at most its limit; None if the level is unknown.
    """

    residual_to_noise: float | None
    chi_square: float | None
    chi_square_limit: float
    seed_norm: float | None
    saturation: float
    explains_y: bool | None

    def sentences(self) -> list[str]:
        """Says in words what a user without the true image should know."""
        said = [_say_residual(self), _say_seed(self.seed_norm)]
        if self.saturation > 0.1:
            said.append(
                f"{self.saturation:.0%} of the values touch black or white: check the value range"
            )
        return [s for s in said if s]


def diagnose(problem: Problem, x_hat: Tensor, z: Tensor | None) -> list[Diagnostics]:
    """Returns the checks of each image.

    Args:
        problem: The problem that was solved.
        x_hat: Answers, (B, C, H, W), in [-1, 1].
        z: Their seeds, (B, ...), if any.
    """
    with torch.no_grad():
        residual = problem.residual(problem.operator(x_hat)).tolist()
        saturated = (x_hat.abs() >= 1).flatten(1).double().mean(dim=1).tolist()
    seeds = None if z is None else (norm(z) / math.sqrt(z[0].numel())).tolist()
    counts = torch.as_tensor(problem.observed_count()).expand(problem.batch).tolist()
    std = problem.noise.std
    return [
        _one(residual[i], std, counts[i], None if seeds is None else seeds[i], saturated[i])
        for i in range(problem.batch)
    ]


def chi_square_limit(count: float) -> float:
    """Returns 1 + 2 sqrt(2 / m): a residual of pure noise exceeds it about once in forty."""
    return 1 + 2 * math.sqrt(2 / max(count, 1))


def _one(
    residual: float, std: float | None, count: float, seed_norm: float | None, saturation: float
) -> Diagnostics:
    limit = chi_square_limit(count)
    ratio = None if std is None else residual / std
    chi_square = None if ratio is None else ratio**2
    explains = None if chi_square is None else chi_square <= limit
    return Diagnostics(ratio, chi_square, limit, seed_norm, saturation, explains)


def _say_residual(d: Diagnostics) -> str:
    if d.residual_to_noise is None:
        return "noise level unknown: no statement about the fit"
    if d.explains_y and d.residual_to_noise < FITS_NOISE:
        return (
            f"the answer fits the noise as well: residual is {d.residual_to_noise:.2f} times the "
            "noise; stop earlier (stopping=discrepancy), or check the noise level"
        )
    if d.explains_y:
        return f"the answer explains y: residual is {d.residual_to_noise:.2f} times the noise"
    return (
        f"the answer does not explain y: residual is {d.residual_to_noise:.2f} times the noise; "
        "give it more iterations, or check operator and noise level"
    )


def _say_seed(seed_norm: float | None) -> str:
    if seed_norm is None or seed_norm <= 1.15:
        return ""
    return (
        f"the seed's norm is {seed_norm:.2f} times that of Gaussian noise: "
        "the answer lies outside what the prior considers plausible"
    )
