"""Seeds of several frames that share most of what they are: one seed plus a low-rank residual."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from plugip.engine.penalties import GaussianPenalty, Penalty
from plugip.engine.unknowns import Layout, Unknowns
from plugip.problem import Problem
from plugip.reverse import Generator
from plugip.rng import Rng


@dataclass(frozen=True)
class SharedSeeds(Unknowns):
    r"""Frames f with seeds that differ from a shared one in a few directions only.

    .. math:: z_f = z + \sum_{r} a_{fr} w_r

    A measurement belongs to all frames of a scene: x is (B, C, F, H, W). v holds ``shared`` z,
    ``shares`` a and ``directions`` w, (B, n).

    Args:
        generator: The map R, applied to every frame.
        layout: Where the three parts lie.
        penalty_of: Penalty on the seeds of the frames, summed over them.

    Source: arXiv 2503.14863 (video restoration with image models), the shared-seed part.
    """

    generator: Generator
    layout: Layout
    penalty_of: Penalty

    def frames(self, v: Tensor) -> Tensor:
        """Returns the seeds of all frames, (B, F, *prior.shape)."""
        parts = self.layout.split(v)
        moved = torch.einsum("bfr,br...->bf...", parts["shares"], parts["directions"])
        return parts["shared"][:, None] + moved

    def image(self, problem: Problem, v: Tensor) -> Tensor:
        z = self.frames(v)
        x = self.generator(problem.prior, z.flatten(0, 1)).unflatten(0, z.shape[:2])
        return x.movedim(1, 2)

    def penalty(self, v: Tensor) -> Tensor:
        z = self.frames(v)
        return self.penalty_of(z.flatten(0, 1)).unflatten(0, z.shape[:2]).sum(dim=1)

    def seed(self, v: Tensor) -> Tensor:
        """Returns the shared seed, (B, *prior.shape)."""
        return self.layout.split(v)["shared"]

    @property
    def weighted(self) -> str:
        return self.penalty_of.setting


def shared_seeds(
    problem: Problem, rng: Rng, generator: Generator, frames: int, rank: int, weight: float = 0.0
) -> tuple[SharedSeeds, Tensor]:
    """Returns the unknowns and a first value: a Gaussian shared seed, all frames equal.

    The shares start at zero and the directions at noise, so that both can move: a product of two
    zeros would have no gradient.

    Args:
        problem: The problem; one measurement for each scene.
        rng: Streams of the scenes.
        generator: The map R.
        frames: Frames of a scene, at least 1.
        rank: Directions in which they may differ, from 0 to ``frames``.
        weight: lambda of lambda ‖z_f‖² / 2, summed over frames.

    Raises:
        ValueError: If ``frames`` or ``rank`` is out of range.
    """
    if frames < 1 or not 0 <= rank <= frames:
        raise ValueError(
            f"need frames >= 1 and rank from 0 to frames, got {frames} frames and rank {rank}"
        )
    shape, like = problem.prior.shape, problem.y.real
    parts = {
        "shared": rng.normal(shape, like=like),
        "shares": like.new_zeros((problem.batch, frames, rank)),
        "directions": rng.normal((rank, *shape), like=like),
    }
    layout = Layout.of(parts)
    return SharedSeeds(generator, layout, GaussianPenalty(weight)), layout.join(parts)
