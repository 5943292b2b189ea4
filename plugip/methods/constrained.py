"""Constrained searches: the best fit among plausible seeds, or the likeliest seed that fits."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from plugip.diagnostics import Certificate
from plugip.engine.augmented_lagrangian import AugmentedLagrangian, Bound, Constrained
from plugip.engine.misfit import Misfit
from plugip.engine.objective import Evaluation
from plugip.engine.plugin import PlugIn, PlugInState, require_iterations
from plugip.engine.pygranso import PyGRANSO
from plugip.engine.start import GaussianStart, Start, ZeroStart
from plugip.engine.unknowns import Unknowns, seeds
from plugip.linalg import dot, norm
from plugip.problem import Problem
from plugip.reverse import Generator
from plugip.rng import Rng


@dataclass(frozen=True)
class FitOnShell(Constrained):
    """f is the data term, c is ‖z‖ / sqrt(d) - 1, the relative excess of the seed's norm."""

    def cost(self, z: Tensor, data: Tensor) -> Tensor:
        return data

    def constraint(self, z: Tensor, squared: Tensor) -> Tensor:
        return norm(z) / math.sqrt(z[0].numel()) - 1


@dataclass(frozen=True)
class SeedWithinNoise(Constrained):
    """f is ‖z‖² / 2, c is ‖A(x) - y‖ / delta - 1; needs a data term that is a sum of squares."""

    delta: Tensor

    def evaluate(self, v: Tensor) -> Evaluation:
        return replace(super().evaluate(v), unit=None)  # f is a likelihood's as it stands

    def cost(self, z: Tensor, data: Tensor) -> Tensor:
        return 0.5 * dot(z, z)

    def constraint(self, z: Tensor, squared: Tensor) -> Tensor:
        # Not its square: far from y, L is then quadratic in the residual, not quartic.
        return squared.clamp_min(torch.finfo(squared.dtype).tiny).sqrt() / self.delta - 1


class _Constrained(PlugIn):
    """A plug-in method whose solver keeps a constraint."""

    solver: AugmentedLagrangian | PyGRANSO  # type: ignore[assignment]

    @abstractmethod
    def objective(self, problem: Problem, state: PlugInState) -> Constrained:  # type: ignore[override]
        """Returns the augmented Lagrangian at the state's multipliers, one value per image."""

    def certificate(self, state: PlugInState) -> Certificate:
        """Returns how nearly the last evaluation is a constrained minimum, per image."""
        return Certificate(state.solver.stationarity, state.solver.violation)


@dataclass(frozen=True)
class ConstrainedMisfit(_Constrained):
    r"""Finds the image that fits y best among those whose seed has the length of noise.

    .. math:: \min_z\; -\log p(y \mid A(R(z))) \quad\text{subject to}\quad
        (1 - \epsilon) \sqrt d \le \|z\| \le (1 + \epsilon) \sqrt d

    A projection (``space=Shell``) keeps every iterate on the shell; here iterates may leave it and
    come back, and the answer has a certificate: stationarity, and the violation of
    ‖z‖ / sqrt(d) - 1. It overfits noise as any fit without a seed prior does; a stopping rule
    helps.

    Args:
        iterations: L-BFGS iterations, all rounds together; each costs an evaluation or a few.
        generator: The map R.
        solver: An augmented Lagrangian, whose penalty is in units of the number of observed
            entries of y for a likelihood or a sum, of 1 for a mean; or ``PyGRANSO``.
        start: Where the search starts; from z = 0 a shell has no direction.
        epsilon: Half the relative width of the shell; 0 is the sphere.
        loss: "likelihood", "mean" or "sum".
        theta_steps: Step of the unknown part of a blind operator where the seed's is 0.01; by name
            where there are several; None for what the operator suggests.

    Raises:
        ValueError: If an argument is out of range.

    Source: the formulation of NCVX, Liang, Mitchell and Sun 2021, for generators; the shell as in
    FMPlug, 2025 (arXiv 2511.16520).
    """

    iterations: int = 300
    generator: Generator = field(default_factory=Generator)
    solver: AugmentedLagrangian | PyGRANSO = field(default_factory=AugmentedLagrangian)
    start: Start = field(default_factory=GaussianStart)
    epsilon: float = 0.025
    loss: str = "likelihood"
    theta_steps: float | Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        require_iterations(self.iterations)
        if not 0 <= self.epsilon < 1:
            raise ValueError(f"epsilon must lie in [0, 1), got {self.epsilon}")

    def search(self, problem: Problem, rng: Rng) -> tuple[Unknowns, Tensor]:
        """Looks for the seed, from where ``start`` puts it."""
        return seeds(self.generator), self.start(problem, rng)

    def init(self, problem: Problem, rng: Rng) -> PlugInState:
        state = super().init(problem, rng)
        mean = Misfit(problem, state.unknowns, self.loss).averages
        return state if mean else _scaled(state, _counts(problem))

    def objective(self, problem: Problem, state: PlugInState) -> FitOnShell:  # type: ignore[override]
        data, al = Misfit(problem, state.unknowns, self.loss), state.solver
        bound = Bound(-self.epsilon, self.epsilon)
        return FitOnShell(data, bound, al.multiplier, al.penalty)


@dataclass(frozen=True)
class ConstrainedSeed(_Constrained):
    r"""Finds the likeliest seed whose image explains y to within the noise.

    .. math:: \min_z \tfrac{1}{2} \|z\|^2 \quad\text{subject to}\quad \|A(R(z)) - y\| \le \delta

    It is the MAP estimate (DMPlug with a seed weight) whose weight is chosen so that the residual
    is as large as the noise: the discrepancy principle as part of the problem. Certified by
    stationarity, and by the violation of ‖A(x) - y‖ / delta - 1.

    Args:
        iterations: L-BFGS iterations, all rounds together; each costs an evaluation or a few.
        generator: The map R.
        solver: An augmented Lagrangian, whose penalty is in units of the number of observed
            entries of y; or ``PyGRANSO``.
        start: Where the search starts.
        delta: Allowed norm of A(x) - y over observed entries, the same for all images, in units of
            y; None: std times the root of their number, the length of pure noise.
        theta_steps: As in ``ConstrainedMisfit``.

    Raises:
        ValueError: If an argument is out of range.
        TypeError: When a search begins, if delta is None and the noise level is not known.

    Source: Morozov 1966, in seed space; the formulation of NCVX, Liang, Mitchell and Sun 2021.
    """

    iterations: int = 300
    generator: Generator = field(default_factory=Generator)
    solver: AugmentedLagrangian | PyGRANSO = field(default_factory=AugmentedLagrangian)
    start: Start = field(default_factory=ZeroStart)
    delta: float | None = None
    theta_steps: float | Mapping[str, float] | None = None
    loss: str = field(default="sum", init=False)

    def __post_init__(self) -> None:
        require_iterations(self.iterations)
        if self.delta is not None and self.delta <= 0:
            raise ValueError(f"delta must be positive, or null for the noise's, got {self.delta}")

    def search(self, problem: Problem, rng: Rng) -> tuple[Unknowns, Tensor]:
        """Looks for the seed, from where ``start`` puts it."""
        if self.delta is None and problem.noise.std is None:
            raise TypeError(
                f"ConstrainedSeed needs a known noise level, which {type(problem.noise).__name__} "
                "does not have; give method.delta, the allowed norm of A(x) - y"
            )
        return seeds(self.generator), self.start(problem, rng)

    def init(self, problem: Problem, rng: Rng) -> PlugInState:
        return _scaled(super().init(problem, rng), _counts(problem))

    def objective(self, problem: Problem, state: PlugInState) -> SeedWithinNoise:  # type: ignore[override]
        data, al = Misfit(problem, state.unknowns, self.loss), state.solver
        bound = Bound(-math.inf, 0.0)
        return SeedWithinNoise(data, bound, al.multiplier, al.penalty, self._delta(problem))

    def _delta(self, problem: Problem) -> Tensor:
        count = _counts(problem)
        if self.delta is not None:
            return torch.full_like(count, self.delta)
        return count.sqrt() * (problem.noise.std or 0.0)


def _counts(problem: Problem) -> Tensor:
    """Returns the number of observed entries of y per image, (B,)."""
    count = torch.as_tensor(problem.observed_count(), device=problem.y.device)
    return count.to(problem.y.real.dtype).expand(problem.batch)


def _scaled(state: PlugInState, size: Tensor) -> PlugInState:
    penalty = state.solver.penalty * size
    return replace(state, solver=replace(state.solver, penalty=penalty))
