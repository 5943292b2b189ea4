"""DMPlug: closed-form answers, the noise floor, and parity with the published recipe."""

import pytest
import torch
from torch import Tensor

from plugip.engine.adam import Adam
from plugip.engine.lbfgs import LBFGS
from plugip.engine.start import GaussianStart, ZeroStart
from plugip.linalg import dot
from plugip.loop import solve
from plugip.methods import DMPlug
from plugip.noise import GaussianNoise, UnknownNoise
from plugip.operator import Operator
from plugip.path import SIGNED, DiscretePath, Prediction, to_x0
from plugip.prior import Prior
from plugip.problem import Problem
from plugip.reverse import Generator
from plugip.rng import Rng
from plugip.testing import check_method
from plugip.testing.methods import toy_problem


def affine_map(problem: Problem, generator: Generator) -> tuple[Tensor, Tensor]:
    """Returns offset and pixel-wise slope of z -> A(R(z)), affine for a Gaussian prior."""
    shape = (1, *problem.prior.shape)
    with torch.no_grad():
        offset = problem.operator(generator(problem.prior, torch.zeros(shape).double()))
        slope = problem.operator(generator(problem.prior, torch.ones(shape).double())) - offset
    return offset, slope


@pytest.mark.parametrize("steps", [1, 3])
def test_answer_is_the_closed_form_map_estimate(steps: int):
    p, generator = toy_problem(), Generator(steps=steps)
    offset, slope = affine_map(p, generator)
    z = slope * (p.y - offset) / (slope.square() + 0.05**2)
    method = DMPlug(iterations=60, generator=generator, solver=LBFGS(tolerance=1e-9))
    solution = solve(p, method)
    torch.testing.assert_close(solution.z, z, rtol=1e-6, atol=1e-6)


def test_without_seed_prior_the_residual_falls_below_the_noise():
    solution = solve(toy_problem(), DMPlug(iterations=40, seed_weight=0.0))
    for checks, trace in zip(solution.diagnostics, solution.trace, strict=True):
        assert checks.explains_y
        assert trace.residual[-1] < 0.05 < trace.residual[0]


def test_an_evaluation_costs_one_forward_and_one_backward_per_reverse_step():
    method = DMPlug(iterations=5, solver=Adam(), generator=Generator(steps=4))
    solution = solve(toy_problem(), method)
    assert solution.nfe == [20] * 3
    assert solution.vjps == [20] * 3


class Wave(Prior):
    """A smooth nonlinear epsilon predictor on the discrete path, cheap and untrained."""

    def __init__(self) -> None:
        super().__init__()
        self.shape, self.value_range = (3, 8, 8), SIGNED
        self.path = self.schedule = DiscretePath.linear()

    @staticmethod
    def eps(x_t: Tensor, index: Tensor | float) -> Tensor:
        return torch.sin(1.3 * x_t + 0.001 * index) + 0.3 * x_t.roll(1, -1)

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = self.path.coefficients(t, x_t)
        return to_x0(Prediction.EPS, self.eps(x_t, self.schedule.index(t)), x_t, alpha, sigma)


class Squash(Operator):
    """A nonlinear operator."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(2 * x)


def published_iterates(y: Tensor, z: Tensor, count: int) -> list[Tensor]:
    """DMPlug's recipe in a straight line: DDIM 666, 333, 0 with hard clipping, MSE, Adam 0.01."""
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    bars = (1 - betas).cumprod(0)
    z = z.clone().requires_grad_()
    optimiser, out = torch.optim.Adam([z], lr=0.01), []
    for _ in range(count):
        x = z
        for i, after in ((666, 333), (333, 0), (0, None)):
            bar, next_bar = bars[i], torch.tensor(1.0) if after is None else bars[after]
            x0 = ((x - (1 - bar).sqrt() * Wave.eps(x, float(i))) / bar.sqrt()).clamp(-1, 1)
            eps = (x - bar.sqrt() * x0) / (1 - bar).sqrt()
            x = next_bar.sqrt() * x0 + (1 - next_bar).sqrt() * eps
        out.append(z.detach().clone())
        optimiser.zero_grad()
        (torch.tanh(2 * x) - y).square().mean().backward()
        optimiser.step()
    return out


def test_paper_preset_follows_the_published_recipe():
    y = 0.5 * torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double().tanh()
    prior = Wave().double()
    problem = Problem(y, Squash(), GaussianNoise(0.01), prior)
    generator = Generator(steps=3, grid="leading", clip="hard")
    method = DMPlug(20, generator, Adam(0.01), GaussianStart(), 0.0, "mean")
    state = method.init(problem, Rng(0, "solve", ["a"]))
    expected = published_iterates(y, state.v, 20)
    for reference in expected:
        state, _ = method.step(problem, state)
        torch.testing.assert_close(state.v, reference, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("solver", [LBFGS(), Adam(lr=0.05)])
@pytest.mark.parametrize("start", [ZeroStart(), GaussianStart()])
@pytest.mark.parametrize("checkpoint", [False, True])
def test_passes_check_method(solver, start, checkpoint: bool):
    generator = Generator(steps=2, checkpoint=checkpoint)
    check_method(DMPlug(6, generator, solver, start)).require()


@pytest.mark.parametrize(
    "generator", [Generator(2, "uniform", "heun"), Generator(2, "quadratic", "midpoint")]
)
def test_other_generators_pass_check_method(generator: Generator):
    check_method(DMPlug(5, generator)).require()


def test_stops_when_nothing_can_be_gained():
    solution = solve(toy_problem(), DMPlug(iterations=500, solver=LBFGS(tolerance=1e-6)))
    assert max(solution.steps) < 100


def test_a_loss_without_a_scale_does_not_stop_early():
    p = toy_problem()
    unknown = Problem(p.y, p.operator, UnknownNoise(), p.prior)
    runs = [
        solve(unknown, DMPlug(iterations=60, seed_weight=0.0)),
        solve(p, DMPlug(iterations=60, seed_weight=0.0, loss="mean")),
    ]
    for solution in runs:
        for trace in solution.trace:
            assert trace.residual[-1] < 1e-3 * trace.residual[0]


def test_map_seed_is_shorter_than_gaussian_noise():
    solution = solve(toy_problem(), DMPlug(iterations=40))
    assert solution.z is not None
    assert (dot(solution.z, solution.z) < solution.z[0].numel()).all()


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="iterations must be at least 1, got 0"):
        DMPlug(iterations=0)
    with pytest.raises(ValueError, match="did you mean 'uniform'"):
        Generator(grid="unifrom")
