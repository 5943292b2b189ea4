"""The linear guide at low noise: it solves, or takes what was reached, and ends no run."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from toys import close

from plugip.engine.guide import InverseGuide
from plugip.linalg import UnsolvedError, norm
from plugip.noise import GaussianNoise
from plugip.operator import LinearOperator
from plugip.operators import BicubicDownsample, DefocusBlur, MotionBlur, stack
from plugip.priors import GaussianPrior
from plugip.problem import Problem, measure
from plugip.rng import Rng

SHAPE = (3, 16, 16)
PRIOR = GaussianPrior(torch.zeros(SHAPE), 0.5)


def motion() -> LinearOperator:
    blur = MotionBlur(9).realise(Rng(0, "operator", ["a"]), (1, *SHAPE))
    assert isinstance(blur, LinearOperator)
    return blur


OPERATORS: dict[str, Callable[[], Any]] = {
    "motion blur": motion,
    "defocus": lambda: DefocusBlur(1.5),
    "stack": lambda: stack(BicubicDownsample(2), motion(), image_shape=SHAPE),
}


@pytest.mark.parametrize("std", [0.003, 1e-6])
@pytest.mark.parametrize("name", list(OPERATORS))
def test_low_noise_ends_no_guide(name: str, std: float):
    operator, noise = OPERATORS[name](), GaussianNoise(std)
    x = PRIOR.mean.expand(1, *SHAPE) + 0.5 * Rng(0, "x", ["a"]).normal(SHAPE)  # type: ignore[operator]
    p = Problem(measure(operator, x.clamp(-1, 1), noise, 0, ["a"]), operator, noise, PRIOR)
    guide = InverseGuide()(p)[:, 0]
    assert torch.isfinite(guide).all() and float(guide.abs().max()) <= 1
    start = p.residual(operator(torch.zeros_like(guide)))
    assert bool((p.residual(operator(guide)) < 0.3 * start).all())


class Stubborn(LinearOperator):
    """Passes images on; its solves end early, at what they are told to have reached."""

    def __init__(self, residual: float) -> None:
        super().__init__()
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        return x

    def solve_normal(self, b: Tensor, lam: float | Tensor) -> Tensor:
        raise UnsolvedError("relative residual", 0.5 * b, torch.full_like(norm(b), self.residual))


def guided(operator: LinearOperator) -> Tensor:
    y = 0.5 * torch.ones(2, *SHAPE)
    return InverseGuide()(Problem(y, operator, GaussianNoise(0.01), PRIOR))


def test_a_rough_solution_guides():
    close(guided(Stubborn(0.05)), torch.full((2, 1, *SHAPE), 0.25), 1e-6)


@pytest.mark.parametrize("residual", [0.5, float("nan")])
def test_a_useless_solution_is_refused(residual: float):
    with pytest.raises(UnsolvedError, match="relative residual"):
        guided(Stubborn(residual))


def test_what_a_folded_operator_reached_has_the_shape_of_images():
    from plugip.folding import per_channel

    folded = per_channel(Stubborn(0.05))
    with pytest.raises(UnsolvedError) as caught:
        folded.solve_normal(torch.ones(2, *SHAPE), 0.1)  # type: ignore[union-attr]
    assert caught.value.solution.shape == (2, *SHAPE)
    assert caught.value.residual.tolist() == pytest.approx([0.05] * 2)
