r"""DMPlug: optimise the seed of a few-step reverse process until A(R(z)) fits y."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from plugip.engine.lbfgs import LBFGS
from plugip.engine.objective import Evaluation, Objective
from plugip.engine.solver import AnySolver
from plugip.engine.start import Start, ZeroStart
from plugip.method import Info
from plugip.problem import Problem
from plugip.reverse import Generator
from plugip.rng import Rng


@dataclass(frozen=True)
class DMPlugState:
    """The solver's state, and the seed and image that the last evaluation belongs to."""

    solver: Any
    z: Tensor
    x: Tensor | None


@dataclass(frozen=True)
class DMPlug:
    r"""Restores images by optimising the latent seed through the reverse process.

    .. math:: \hat z = \arg\min_z\; -\log p(y \mid A(R(z))) + \tfrac{\lambda}{2}\|z\|^2,
        \quad \hat x = R(\hat z)

    The defaults (start at zero, lambda = 1, likelihood loss, per-image L-BFGS) are the MAP
    estimate under the seed prior. The published setting is ``conf/method/dmplug_paper.yaml``:
    three DDIM steps 666, 333, 0 with hard clipping, a Gaussian start, the mean squared error, Adam
    at 0.01, 5000 iterations; it needs no noise level. Each evaluation costs ``generator.steps``
    NFE and VJP.

    Args:
        iterations: Solver iterations.
        generator: The map R.
        solver: What minimises the objective.
        start: Where it starts.
        seed_weight: lambda, the weight of the Gaussian seed prior; 0 where the noise level is
            unknown, because a misfit without a scale cannot be weighed against it.
        loss: "likelihood" (scaled by the noise level when it is known) or "mean".

    Raises:
        ValueError: If ``iterations`` is below 1, or another argument is out of range.

    Source: Wang et al. 2024 (DMPlug, NeurIPS); the seed prior as in Bora et al. 2017.
    """

    iterations: int = 250
    generator: Generator = field(default_factory=Generator)
    solver: AnySolver = field(default_factory=LBFGS)
    start: Start = field(default_factory=ZeroStart)
    seed_weight: float = 1.0
    loss: str = "likelihood"

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {self.iterations}")

    def objective(self, problem: Problem) -> Objective:
        """Returns the function of the seed that is minimised, one value per image."""
        return Objective(problem, self.generator, self.seed_weight, self.loss)

    def init(self, problem: Problem, rng: Rng) -> DMPlugState:
        """Returns the state at the start seed."""
        self.objective(problem).require_likelihood()
        z = self.start(problem, rng)
        return DMPlugState(self.solver.init(z), z, None)

    def step(self, problem: Problem, state: DMPlugState) -> tuple[DMPlugState, Info]:
        """Makes one solver iteration; the info belongs to the seed that was evaluated."""
        solver, z, here, stuck = self.solver.step(self.objective(problem), state.solver)
        return DMPlugState(solver, z, here.x), _info(here, stuck)

    def finish(self, problem: Problem, state: DMPlugState) -> Tensor:
        """Returns R(z) of the last evaluated seed, (B, C, H, W), clamped to [-1, 1]."""
        if state.x is not None:
            return state.x.clamp(-1, 1)
        with torch.no_grad():
            return self.generator(problem.prior, state.z).clamp(-1, 1)

    def seed(self, state: DMPlugState) -> Tensor:
        """Returns the seed of the last evaluation."""
        return state.z


def _info(here: Evaluation, stuck: Tensor) -> Info:
    return Info(x_hat=here.x.clamp(-1, 1), loss=here.loss, done=stuck, residual=here.residual)
