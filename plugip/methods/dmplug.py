r"""DMPlug: optimise the seed of a few-step reverse process until A(R(z)) fits y."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from plugip.engine.lbfgs import LBFGS
from plugip.engine.plugin import PlugIn, require_iterations
from plugip.engine.solver import AnySolver
from plugip.engine.spaces import Free, SeedSpace
from plugip.engine.start import GaussianStart, Start
from plugip.engine.unknowns import Unknowns, seeds
from plugip.problem import Problem
from plugip.reverse import Generator
from plugip.rng import Rng


@dataclass(frozen=True)
class DMPlug(PlugIn):
    r"""Restores images by optimising the latent seed through the reverse process.

    .. math:: \hat z = \arg\min_z\; -\log p(y \mid A(R(z))) + \tfrac{\lambda}{2}\|z\|^2,
        \quad \hat x = R(\hat z)

    The defaults (start at N(0, I), lambda = 1, likelihood loss, per-image L-BFGS) look for the MAP
    estimate under the seed prior. The published setting is ``conf/method/dmplug_paper.yaml``:
    three DDIM steps 666, 333, 0 with hard clipping, a Gaussian start, the mean squared error, Adam
    at 0.01, 5000 iterations; it needs no noise level. Each evaluation costs ``generator.steps``
    NFE and VJP.

    ``DMPlug()`` answers with its last iterate. On the command line ``method=dmplug`` adds a
    stopping rule: it runs ``Stopped(DMPlug(), ByNoise(unknown=ESWMV(4, 8)))``, and some tasks
    advise another ``start.scale``.

    Args:
        iterations: Solver iterations.
        generator: The map R.
        solver: What minimises the objective.
        start: Where it starts.
        seed_weight: lambda, the weight of the Gaussian seed prior; 0 where the noise level is
            unknown, because a misfit without a scale cannot be weighed against it.
        loss: "likelihood" (scaled by the noise level when it is known), "mean" or "sum".
        space: Where the seed may lie.
        theta_steps: Adam's step of the unknown part of a blind operator where the seed's is 0.01;
            by name where there are several; None for what the operator suggests.

    Raises:
        ValueError: If ``iterations`` is below 1, or another argument is out of range.

    Source: Wang et al. 2024 (DMPlug, NeurIPS); the seed prior as in Bora et al. 2017.
    """

    iterations: int = 250
    generator: Generator = field(default_factory=Generator)
    solver: AnySolver = field(default_factory=LBFGS)
    start: Start = field(default_factory=GaussianStart)
    seed_weight: float = 1.0
    loss: str = "likelihood"
    space: SeedSpace = field(default_factory=Free)
    theta_steps: float | Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        require_iterations(self.iterations)

    def search(self, problem: Problem, rng: Rng) -> tuple[Unknowns, Tensor]:
        """Looks for the seed, from where ``start`` puts it."""
        return seeds(self.generator, self.seed_weight, self.space), self.start(problem, rng)
