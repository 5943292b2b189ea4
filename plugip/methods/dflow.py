r"""D-Flow: optimise the seed of a flow, from the seed of a rough estimate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from plugip.engine.lbfgs import LBFGS
from plugip.engine.penalties import ChiPenalty
from plugip.engine.plugin import PlugIn, require_iterations
from plugip.engine.solver import AnySolver
from plugip.engine.start import InvertedStart, Start
from plugip.engine.unknowns import Seeds, Unknowns
from plugip.problem import Problem
from plugip.reverse import Generator
from plugip.rng import Rng


@dataclass(frozen=True)
class DFlow(PlugIn):
    r"""Restores images by optimising the seed of a flow that many steps resolve.

    .. math:: \min_z\; \|A(R(z)) - y\|^2
        + \lambda \left( \tfrac12 \|z\|^2 - (d - 1) \log \|z\| \right)

    The defaults follow the open version: five midpoint steps (ten network calls), the sum of
    squares, lambda 0.001, a start at the seed of a rough estimate, L-BFGS with a strong-Wolfe
    line search. There one search serves a batch; here each image has its own. There an outer loop
    of 3 to 20 rounds makes 20 inner iterations each and forgets the history in between; here
    ``iterations`` counts all of them, 200 for the 10 rounds of super-resolution.

    Args:
        iterations: Solver iterations.
        generator: The map R.
        solver: What minimises the objective.
        start: First seed.
        seed_weight: lambda, the weight of the norm's density.
        loss: "sum" as published, "likelihood" or "mean".
        theta_steps: Adam's step of the unknown part of a blind operator where the seed's is 0.01;
            by name where there are several; None for what the operator suggests.

    Raises:
        ValueError: If ``iterations`` is below 1, or another argument is out of range.

    Source: Ben-Hamu et al. 2024 (D-Flow, ICML); settings as in Martin et al. 2025 (PnP-Flow).
    """

    iterations: int = 200
    generator: Generator = field(default_factory=lambda: Generator(5, solver="midpoint"))
    solver: AnySolver = field(default_factory=LBFGS)
    start: Start = field(default_factory=InvertedStart)
    seed_weight: float = 1e-3
    loss: str = "sum"
    theta_steps: float | Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        require_iterations(self.iterations)

    def search(self, problem: Problem, rng: Rng) -> tuple[Unknowns, Tensor]:
        """Looks for the seed, from where ``start`` puts it."""
        return Seeds(self.generator, ChiPenalty(self.seed_weight)), self.start(problem, rng)
