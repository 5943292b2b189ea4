r"""Unknowns of a warm start: a seed, the time at which it is mixed in, and the guide's weights.

.. math:: h_t = \alpha_t \sum_k \mathrm{softmax}(w)_k g_k + \sigma_t z, \quad
    x = D(R_{t \to 0}(h_t))

The unknown is the flow time f = sigma / (alpha + sigma), which means the same noise on every path.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from plugip.engine.penalties import Penalty
from plugip.engine.spaces import SeedSpace
from plugip.engine.unknowns import SEED_STEP, Layout, Unknowns
from plugip.problem import Problem
from plugip.reverse import CLIPS, STEPS, Generator, reverse


@dataclass(frozen=True)
class WarmSeeds(Unknowns):
    """A seed mixed with a guide at a learned time; v is (B, n).

    Args:
        generator: Steps, step rule and clip mode of the way from the learned time to the image;
            its grid is stretched to that way, so it must be the uniform one.
        guides: Clean states, (B, K, *prior.shape).
        layout: Where seed ``z``, flow time ``f`` and, for K > 1, weights ``w`` lie.
        penalty_of: Penalty on the seed.
        space: Where the seed may lie.
        steps: Adam's steps of time and weights where the seed's is 0.01.
        bounds: Least and largest flow time.
    """

    generator: Generator
    guides: Tensor
    layout: Layout
    penalty_of: Penalty
    space: SeedSpace
    steps: tuple[float, float]
    bounds: tuple[float, float]

    def image(self, problem: Problem, v: Tensor) -> Tensor:
        parts, prior, chosen = self.layout.split(v), problem.prior, self.generator
        t = prior.path.time_of(parts["f"][:, 0])
        alpha, sigma = prior.path.coefficients(t, parts["z"])
        state = alpha * self._guide(parts) + sigma * parts["z"]
        step, clip = STEPS[chosen.solver], CLIPS[chosen.clip]
        times = _stretched(t, chosen.steps)
        return prior.decode(reverse(prior, state, times, step, clip, chosen.checkpoint))

    def _guide(self, parts: dict[str, Tensor]) -> Tensor:
        if "w" not in parts:
            return self.guides[:, 0]
        return torch.einsum("bk,bk...->b...", parts["w"].softmax(dim=1), self.guides)

    def penalty(self, v: Tensor) -> Tensor:
        return self.penalty_of(self.seed(v))

    def project(self, v: Tensor) -> Tensor:
        parts = self.layout.split(v)
        inside = {"z": self.space(parts["z"]), "f": parts["f"].clamp(*self.bounds)}
        return self.layout.join(parts | inside)

    def rates(self, v: Tensor) -> Tensor:
        time, weights = (step / SEED_STEP for step in self.steps)
        return self.layout.spread({"z": 1.0, "f": time, "w": weights}, v)

    def seed(self, v: Tensor) -> Tensor:
        return self.layout.split(v)["z"]

    @property
    def weighted(self) -> str:
        return self.penalty_of.setting


def _stretched(t: Tensor, steps: int) -> Tensor:
    """Returns evenly divided times from t (B,) to 0, (steps + 1, B)."""
    shares = torch.linspace(1, 0, steps + 1, dtype=t.dtype, device=t.device)[:-1, None]
    # The end is no function of t: sigma may have an infinite slope there, and 0 * inf is NaN.
    return torch.cat([shares * t, torch.zeros_like(t)[None]])
