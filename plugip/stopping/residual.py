"""Rules that look at residual, loss or the number of steps."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from plugip.linalg import wide
from plugip.method import Info
from plugip.noise import Moments, residual_moments
from plugip.problem import Problem
from plugip.stopping.rule import Verdict


@dataclass(frozen=True)
class DiscrepancyState:
    """Which images have stopped, (B,) bool, and at which residual each of them does, (B,)."""

    stopped: Tensor
    limit: Tensor


@dataclass(frozen=True)
class Discrepancy:
    """Stops at the first iterate whose residual is as small as the noise (Morozov).

    Where the noise depends on the signal (photons), its size is that of noise around y.

    Args:
        tau: Stop when chi-square, ‖A(x) - y‖² over its mean for pure noise, is at most tau. None
            means two standard deviations above 1: 1 + 2 sqrt((2 + k) / m) for m entries of noise
            of one level, whose excess kurtosis k is 0 for Gaussian noise.

    Source: Morozov 1966; the limit as in the chi-square test.
    """

    tau: float | None = None

    def __post_init__(self) -> None:
        if self.tau is not None and self.tau <= 0:
            raise ValueError(f"tau must be positive, got {self.tau}")

    def init(self, problem: Problem) -> DiscrepancyState:
        """Returns each image's limit; needs to know how large residuals of pure noise are."""
        squared = self._limit(problem) / problem.observed_count()
        limit = squared.sqrt().to(problem.y.real)
        return DiscrepancyState(torch.zeros_like(limit, dtype=torch.bool), limit)

    def update(
        self, problem: Problem, state: DiscrepancyState, info: Info
    ) -> tuple[DiscrepancyState, Verdict]:
        """Picks the first iterate below the limit."""
        stopped = state.stopped | (info.residual <= state.limit)  # type: ignore[operator]
        return replace(state, stopped=stopped), Verdict(stopped & ~state.stopped, stopped)

    def _limit(self, problem: Problem) -> Tensor:
        """Returns the largest ‖A(x) - y‖² of each image that passes for noise, (B,) float64."""
        noise, moments = problem.noise, expected_moments(problem)
        if moments is not None:
            mean, variance = moments
            return mean + 2 * variance.sqrt() if self.tau is None else self.tau * mean
        if noise.std is None:
            raise TypeError(
                f"Discrepancy needs a known noise level, which {type(noise).__name__} "
                "does not have; use stopping=es_wmv, or give noise.std"
            )
        if self.tau is None:
            raise TypeError(
                f"Discrepancy needs to know how much a residual varies, which "
                f"{type(noise).__name__} does not state as excess_kurtosis; give "
                "stopping.tau, such as 1.1"
            )
        count = torch.as_tensor(problem.observed_count(), device=problem.y.device)
        return self.tau * noise.std**2 * count.to(wide(problem.y)).expand(problem.batch)


def expected_moments(problem: Problem) -> Moments | None:
    """Returns mean and variance of ‖n‖² for noise around y, or None if they are not known."""
    return residual_moments(problem.noise, problem.y, problem.operator.observed)


@dataclass(frozen=True)
class BestLoss:
    """Answers with the iterate of least loss, measured on y alone; never stops early."""

    def init(self, problem: Problem) -> Tensor:
        """Returns the least losses so far, infinite."""
        return torch.full((problem.batch,), torch.inf, device=problem.y.device)

    def update(self, problem: Problem, state: Tensor, info: Info) -> tuple[Tensor, Verdict]:
        """Picks the iterate if its loss is the least so far."""
        better = info.loss < state
        return torch.where(better, info.loss, state), Verdict(better, torch.zeros_like(better))


@dataclass(frozen=True)
class Budget:
    """Stops after a number of steps and answers with the last one.

    Args:
        steps: Steps allowed per image.
    """

    steps: int = 100

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")

    def init(self, problem: Problem) -> int:
        """Returns the number of steps made."""
        return 0

    def update(self, problem: Problem, state: int, info: Info) -> tuple[int, Verdict]:
        """Picks every iterate until the budget is spent."""
        spent = torch.full_like(info.done, state + 1 >= self.steps)
        within = torch.full_like(info.done, state + 1 <= self.steps)
        return state + 1, Verdict(within, spent)
