r"""DMILO-PGD: gradient steps on the image, then its measurement is fitted layer by layer."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from plugip.engine.layerwise import LayerWise
from plugip.engine.start import GaussianStart, Start
from plugip.linalg import per_image
from plugip.options import choose
from plugip.problem import Problem
from plugip.reverse import Generator

MISFITS = {
    "squared": "‖A(x) - y‖²",
    "norm": "‖A(x) - y‖, not squared: all steps are about equally long",
}


@dataclass(frozen=True)
class DMILOPGD(LayerWise):
    r"""Restores images by gradient steps on x and projections onto the generator's range in turn.

    Each round begins with steps on the image itself, from x = 0 in the first round and from the
    last re-roll after it,

    .. math:: x \leftarrow \mathrm{clamp}\big(x - \eta\, \nabla_x \|A(x) - y\|^p,\, -1,\, 1\big)

    and ends with the layer-wise fit of DMILO, whose last layer meets A(x) instead of y. Costs,
    reports and what differs from the published grid are as in DMILO; the steps on x cost one pass
    of A and of its adjoint each, and no NFE.

    ``DMILOPGD()`` is set for inpainting. On the command line ``method=dmilo_pgd`` takes ``lr_x``,
    ``x_steps`` and ``x_misfit`` from what the task advises.

    Args:
        generator: The map R; its steps are the layers.
        start: Where the seed starts.
        outer: Rounds.
        inner: Adam updates per layer and round.
        lr_z: Adam's step of the codes.
        lr_nu: Adam's step of the deviations; 0 allows none.
        deviation_weight: Weight of mean |nu|.
        code_weight: Weight of mean z².
        x_steps: Gradient steps on x per round: 1 as published for inpainting and
            super-resolution, 1000 for deblurring.
        lr_x: Their length eta, in units that depend on A and on ``x_misfit``: 0.5 for inpainting,
            8 for 4x super-resolution, 2 for linear and 0.3 for nonlinear deblurring.
        x_misfit: "squared" (p = 2) or "norm" (p = 1), which was published for deblurring.

    Raises:
        ValueError: If a count is below 1, a name is unknown, or a step or weight is out of range.
        TypeError: When it starts, if the prior has no E[x_0 | x_t].

    Source: DMILO-PGD, 2025 (ICML, arXiv 2505.20789), and its code.
    """

    generator: Generator = field(default_factory=Generator)
    start: Start = field(default_factory=GaussianStart)
    outer: int = 5
    inner: int = 200
    lr_z: float = 0.02
    lr_nu: float = 1e-3
    deviation_weight: float = 0.1
    code_weight: float = 1e-4
    x_steps: int = 1
    lr_x: float = 0.5
    x_misfit: str = "squared"

    def __post_init__(self) -> None:
        super().__post_init__()
        choose(MISFITS, self.x_misfit, "x_misfit")
        if self.x_steps < 1 or self.lr_x <= 0:
            raise ValueError(
                f"x_steps must be at least 1 and lr_x positive, got {self.x_steps}, {self.lr_x}"
            )

    def aim(self, problem: Problem, x: Tensor | None) -> Tensor:
        """Returns A(x) after the round's gradient steps on x."""
        if x is None:
            shape = (problem.batch, *problem.prior.image_shape)
            x = problem.y.real.new_zeros(shape)
        for _ in range(self.x_steps):
            x = self._descend(problem, x)
        with torch.no_grad():
            return problem.operator(x)

    def _descend(self, problem: Problem, x: Tensor) -> Tensor:
        with torch.enable_grad():
            free = x.detach().requires_grad_()
            squared = problem.squared_residual(problem.operator(free))
            (grad,) = torch.autograd.grad(squared.sum(), free)
        if self.x_misfit == "norm":  # its gradient is that of the square over twice the norm
            length = 2 * squared.detach().sqrt()
            grad = grad / per_image(torch.where(length > 0, length, 1.0), grad)
        return (x - self.lr_x * grad).clamp(-1, 1)
