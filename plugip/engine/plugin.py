"""What all plug-in methods share: they minimise an objective over unknowns, step by step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from plugip.engine.misfit import Misfit
from plugip.engine.objective import Evaluation
from plugip.engine.solver import AnySolver, ending
from plugip.engine.unknowns import Unknowns, with_theta
from plugip.method import Info, residual_of
from plugip.operator import Unknown
from plugip.problem import Problem
from plugip.rng import Rng


@dataclass(frozen=True)
class PlugInState:
    """A running search.

    Attributes:
        unknowns: What is looked for.
        solver: The solver's state.
        v: Unknowns of the last evaluation, (B, ...).
        x: Their images, (B, C, H, W); None before the first evaluation.
        theta: Their admissible theta where the operator is blind.
    """

    unknowns: Unknowns
    solver: Any
    v: Tensor
    x: Tensor | None
    theta: Unknown | None


class PlugIn(ABC):
    """A method that optimises unknowns through a generator; subclasses are frozen dataclasses.

    A subclass says what is looked for (``search``) and has ``iterations``, ``solver`` and
    ``loss``. The unknown part of a blind operator is added here, for every method.

    Attributes:
        iterations: Solver iterations.
        solver: What minimises the objective.
        loss: "likelihood", "mean" or "sum".
        theta_steps: Adam's step of the unknown part of a blind operator where the seed's is 0.01;
            by name where there are several; None for what the operator suggests.
    """

    iterations: int
    solver: AnySolver
    loss: str
    theta_steps: float | Mapping[str, float] | None

    @abstractmethod
    def search(self, problem: Problem, rng: Rng) -> tuple[Unknowns, Tensor]:
        """Returns the unknowns beside theta, and their first value, (B, ...)."""

    def objective(self, problem: Problem, state: PlugInState) -> Misfit:
        """Returns the function that is minimised, one value per image."""
        return Misfit(problem, state.unknowns, self.loss)

    def init(self, problem: Problem, rng: Rng) -> PlugInState:
        """Returns the state at the start."""
        unknowns, v = self.search(problem, rng)
        unknowns, v = with_theta(problem, unknowns, v, rng, self.theta_steps)
        Misfit(problem, unknowns, self.loss).require_likelihood()
        v = unknowns.project(v)
        return PlugInState(unknowns, self.solver.init(v), v, None, unknowns.theta(problem, v))

    def step(self, problem: Problem, state: PlugInState) -> tuple[PlugInState, Info]:
        """Makes one solver iteration; the info belongs to the unknowns that were evaluated."""
        unknowns = state.unknowns
        solver, v, here, stuck = self.solver.step(self.objective(problem, state), state.solver)
        with torch.no_grad():
            theta = unknowns.theta(problem, v)
            said = info(problem.known(theta), here, stuck)
        said = replace(said, ending=ending(solver))
        return PlugInState(unknowns, solver, v, here.x, theta), said

    def finish(self, problem: Problem, state: PlugInState) -> Tensor:
        """Returns the image of the last evaluation, (B, C, H, W), clamped to [-1, 1]."""
        if state.x is not None:
            return state.x.clamp(-1, 1)
        with torch.no_grad():
            return state.unknowns.image(problem, state.v).clamp(-1, 1)

    def seed(self, state: PlugInState) -> Tensor | None:
        """Returns the seed of the last evaluation, (B, ...), where there is one."""
        return state.unknowns.seed(state.v)

    def theta(self, state: PlugInState) -> Unknown | None:
        """Returns the admissible theta of the last evaluation, where the operator is blind."""
        return state.theta


def info(known: Problem, here: Evaluation, stuck: Tensor) -> Info:
    """Returns what a step reports of an evaluation, whose theta is held in ``known``."""
    x_hat = here.x.clamp(-1, 1)
    residual = residual_of(known, x_hat, here.x, here.residual)
    return Info(x_hat=x_hat, loss=here.loss, done=stuck, residual=residual)


def require_iterations(iterations: int) -> None:
    """Raises a ValueError if there are none."""
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}")
