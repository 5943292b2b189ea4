"""Where a seed optimisation starts."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from plugip.engine.guide import Guide, MeasurementGuide
from plugip.options import choose
from plugip.prior import Prior, earliest
from plugip.problem import Problem
from plugip.reverse import STEPS, reverse
from plugip.rng import Rng


class Start(Protocol):
    """Chooses the first seed of each image."""

    def __call__(self, problem: Problem, rng: Rng) -> Tensor:
        """Returns seeds, (B, *prior.shape)."""
        ...


@dataclass(frozen=True)
class ZeroStart:
    """Starts at z = 0, the mode of the seed prior: smooth first, details as y asks for them."""

    def __call__(self, problem: Problem, rng: Rng) -> Tensor:
        """Returns zeros, (B, *prior.shape)."""
        like = problem.y.real
        shape = (problem.batch, *problem.prior.shape)
        return torch.zeros(shape, dtype=like.dtype, device=like.device)


@dataclass(frozen=True)
class GaussianStart:
    """Starts at scale * N(0, I), each image from its own stream; DMPlug published scale 1."""

    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.scale < 0:
            raise ValueError(f"scale must not be negative, got {self.scale}")

    def __call__(self, problem: Problem, rng: Rng) -> Tensor:
        """Returns Gaussian seeds, (B, *prior.shape)."""
        return self.scale * rng.normal(problem.prior.shape, like=problem.y.real)


@dataclass(frozen=True)
class InvertedStart:
    """Starts at the seed of a rough estimate, mixed with fresh noise.

    The estimate runs backwards through the flow, y0, and the start is
    sqrt(share) y0 + sqrt(1 - share) N(0, I).

    Args:
        share: Weight of the estimate's seed, in [0, 1]; 0.1 in the open version.
        steps: Steps of the way back.
        solver: Step rule: ddim, heun or midpoint.
        guide: Where the estimate comes from; published is A* y.

    Raises:
        ValueError: If an argument is out of range.

    Source: Ben-Hamu et al. 2024 (D-Flow).
    """

    share: float = 0.1
    steps: int = 20
    solver: str = "midpoint"
    guide: Guide = field(default_factory=MeasurementGuide)

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"share must lie in [0, 1], got {self.share}")
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        choose(STEPS, self.solver, "solver")

    def __call__(self, problem: Problem, rng: Rng) -> Tensor:
        """Returns the mixed seeds, (B, *prior.shape)."""
        with torch.no_grad():
            back = invert(problem.prior, self.guide(problem)[:, 0], self.steps, self.solver)
        fresh = rng.normal(problem.prior.shape, like=back)
        return math.sqrt(self.share) * back + math.sqrt(1 - self.share) * fresh


def invert(prior: Prior, h: Tensor, steps: int, solver: str = "midpoint") -> Tensor:
    """Runs the reverse process backwards, from clean states to their seeds.

    The way begins at a little noise, since at t = 0 its direction is not defined: at a flow time
    sigma / (alpha + sigma) of 0.001, or at the least noise that the prior was trained on.

    Args:
        prior: The prior; it must denoise.
        h: Clean states, (B, *prior.shape).
        steps: Steps, equally spaced in time.
        solver: Step rule: ddim, heun or midpoint.

    Returns:
        Seeds z with R(z) close to h for a fine enough R, (B, *prior.shape).
    """
    first = prior.path.time_of(torch.tensor(earliest(prior), dtype=torch.float64))
    times = torch.linspace(float(first), 1, steps + 1, dtype=torch.float64)
    alpha, _ = prior.path.coefficients(times[0], h)
    return reverse(prior, alpha * h, times, STEPS[solver])
