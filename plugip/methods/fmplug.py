r"""FMPlug: optimise a seed that is mixed with a guide at a learned time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from plugip.engine.guide import Guide, MeasurementGuide
from plugip.engine.lbfgs import LBFGS
from plugip.engine.penalties import GaussianPenalty
from plugip.engine.plugin import PlugIn, require_iterations
from plugip.engine.solver import AnySolver
from plugip.engine.spaces import SeedSpace, Shell
from plugip.engine.start import GaussianStart, Start
from plugip.engine.unknowns import Layout, Unknowns
from plugip.engine.warm import WarmSeeds
from plugip.prior import EARLIEST, Prior, earliest, lacks_denoiser
from plugip.problem import Problem
from plugip.reverse import Generator
from plugip.rng import Rng


@dataclass(frozen=True)
class FMPlug(PlugIn):
    r"""Restores images by a reverse process that starts half-way, at a mix of guide and seed.

    .. math:: \min_{z, t}\; -\log p(y \mid A(R_{t \to 0}(\alpha_t g + \sigma_t z)))
        \quad \text{with } z \text{ on the shell}

    The guide g is the measurement as a picture, or a learned mix of a few pictures where y is
    none. The time t balances what the guide knows against what the prior adds: at t = 1 this is
    DMPlug, at t = 0 the guide. Any denoising prior serves, in pixels or latent.

    Published is t in [0, 1]. There the minimum can be trivial: with linear operators the guide may
    explain y by itself (a masked image does), and a good solver then lets t run to 0, where no
    prior is left. So t has a lower bound here. The paper leaves solver, iterations and first time
    open.

    ``FMPlug()`` answers with its last iterate. On the command line ``method=fmplug`` adds a
    stopping rule: it runs ``Stopped(FMPlug(), ByNoise(unknown=ESWMV(4, 8)))``, and some tasks
    advise another ``time_step``.

    Times are flow times f = sigma / (alpha + sigma), so that they mean the same noise whatever the
    prior's own path; f = 0.7 is a noise of 2.3 times the image.

    Args:
        iterations: Solver iterations.
        generator: Steps, step rule and clip mode from t to the image; a uniform grid.
        solver: What minimises the objective.
        guide: Where the guide comes from.
        start: First seed.
        start_time: First f, from ``least_time`` to 1; 0 is the image, 1 noise (or the noisiest
            that the prior knows).
        least_time: Least f, at least 0.001, and never below the least noise that the prior knows.
        time_step: Adam's step of f where the seed's is 0.01; 0 keeps it fixed (warm start only).
        weight_step: Adam's step of the guide's weights where the seed's is 0.01.
        space: Where the seed may lie; ``Free`` together with ``seed_weight`` is the soft form.
        seed_weight: lambda, the weight of a Gaussian seed prior; 0 as published.
        loss: "likelihood", "mean" or "sum".
        theta_steps: Adam's step of the unknown part of a blind operator where the seed's is 0.01;
            by name where there are several; None for what the operator suggests.

    Raises:
        ValueError: If a number is out of range, or the grid is not uniform.

    Source: FMPlug, 2025 (arXiv 2508.00721 and 2511.16520).
    """

    iterations: int = 250
    generator: Generator = field(default_factory=Generator)
    solver: AnySolver = field(default_factory=LBFGS)
    guide: Guide = field(default_factory=MeasurementGuide)
    start: Start = field(default_factory=GaussianStart)
    start_time: float = 0.7
    least_time: float = 0.3
    time_step: float = 0.01
    weight_step: float = 0.1
    space: SeedSpace = field(default_factory=Shell)
    seed_weight: float = 0.0
    loss: str = "likelihood"
    theta_steps: float | Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        require_iterations(self.iterations)
        if not EARLIEST <= self.least_time <= self.start_time <= 1:
            raise ValueError(
                f"need {EARLIEST} <= least_time <= start_time <= 1, got {self.least_time} and "
                f"{self.start_time}"
            )
        if self.time_step < 0 or self.weight_step < 0:
            raise ValueError(
                "time_step and weight_step must not be negative, got "
                f"{self.time_step} and {self.weight_step}"
            )
        if self.generator.grid != "uniform":
            raise ValueError(
                f"generator.grid must be uniform, since t is learned, got {self.generator.grid}"
            )

    def search(self, problem: Problem, rng: Rng) -> tuple[Unknowns, Tensor]:
        """Looks for seed and time, and for the guide's weights where there are several."""
        if not problem.prior.denoises:
            raise lacks_denoiser(problem.prior, "FMPlug")
        with torch.no_grad():
            guides = self.guide(problem)
        z, batch = self.start(problem, rng), problem.batch
        bounds = self._bounds(problem.prior)
        parts = {"z": z, "f": z.new_full((batch, 1), self.start_time).clamp(*bounds)}
        if guides.shape[1] > 1:
            parts["w"] = z.new_zeros((batch, guides.shape[1]))
        layout, penalty = Layout.of(parts), GaussianPenalty(self.seed_weight)
        steps = (self.time_step, self.weight_step)
        unknowns = WarmSeeds(self.generator, guides, layout, penalty, self.space, steps, bounds)
        return unknowns, layout.join(parts)

    def _bounds(self, prior: Prior) -> tuple[float, float]:
        noisiest = float(prior.path.noisiest(torch.zeros((), dtype=torch.float64)))
        return max(self.least_time, earliest(prior)), noisiest
