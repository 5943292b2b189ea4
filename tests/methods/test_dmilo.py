"""DMILO and DMILO-PGD: closed forms, the published recipe in a straight line, costs, and range."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from toys import ExactPrior, Identity, close, normal

from plugip.building import build, resolved
from plugip.cli.compose import compose_config
from plugip.engine.layers import split
from plugip.engine.lbfgs import LBFGS
from plugip.loop import solve
from plugip.methods import DMILO, DMILOPGD, DMPlug
from plugip.noise import GaussianNoise
from plugip.operator import Operator
from plugip.path import SIGNED, DiscretePath, Prediction, to_x0
from plugip.prior import Prior
from plugip.problem import Problem
from plugip.reverse import Generator
from plugip.rng import Rng
from plugip.stopping import Discrepancy, Stopped
from plugip.testing import check_method
from plugip.testing.methods import toy_problem

SHAPE = (3, 8, 8)
TIMES = (1.0, 0.667, 0.334)  # indices 999, 666 and 333


class Wave(Prior):
    """A smooth nonlinear epsilon predictor on the discrete path, cheap and untrained."""

    def __init__(self) -> None:
        super().__init__()
        self.shape, self.value_range = SHAPE, SIGNED
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


def wavy_problem() -> Problem:
    y = torch.tanh(normal(1, *SHAPE, seed=1)) / 2
    return Problem(y, Squash(), GaussianNoise(0.01), Wave().double())


def published_step(x: Tensor, i: int, after: int | None) -> Tensor:
    """One clipped DDIM step from index i; the noise is derived again from the clipped estimate."""
    bars = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)
    bar, next_bar = bars[i], torch.tensor(1.0) if after is None else bars[after]
    x0 = ((x - (1 - bar).sqrt() * Wave.eps(x, float(i))) / bar.sqrt()).clamp(-1, 1)
    eps = (x - bar.sqrt() * x0) / (1 - bar).sqrt()
    return next_bar.sqrt() * x0 + (1 - next_bar).sqrt() * eps


JUMPS = ((999, 666), (666, 333), (333, None))


def published_rounds(
    z: Tensor, aims: list[Tensor], inner: int, rates: tuple[float, float]
) -> tuple[list[Tensor], list[Tensor]]:
    """The released recipe without classes: returns every code that Adam evaluated, and each x."""
    codes, nus = [z, z, z, z], [torch.zeros_like(z) for _ in range(3)]
    for i, jump in enumerate(JUMPS):
        codes[i + 1] = published_step(codes[i], *jump)
    tried, images = [], []
    for aim in aims:
        codes[3] = aim
        for i in (2, 1, 0):
            z, nu = (v.detach().clone().requires_grad_() for v in (codes[i], nus[i]))
            groups = [{"params": [nu], "lr": rates[1]}, {"params": [z], "lr": rates[0]}]
            optimiser = torch.optim.Adam(groups)
            for _ in range(inner):
                tried.append(z.detach().clone())
                reached = published_step(z, *JUMPS[i]) + nu
                reached = torch.tanh(2 * reached) if i == 2 else reached
                loss = (reached - codes[i + 1]).square().mean()
                loss = loss + 0.1 * nu.abs().mean() + 1e-4 * z.square().mean()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            codes[i], nus[i] = z.detach(), nu.detach()
        for i, jump in enumerate(JUMPS):
            codes[i + 1] = published_step(codes[i], *jump) + nus[i]
        images.append(codes[3].clamp(-1, 1))
    return tried, images


def ours(method: DMILO | DMILOPGD, problem: Problem) -> tuple[list[Tensor], list[Tensor]]:
    state = method.init(problem, Rng(0, "solve", ["a"]))
    size, tried, images = problem.prior.shape, [], []
    for k in range(method.iterations):
        tried.append(state.v[:, : state.v.shape[1] // 2].reshape(1, *size))
        state, info = method.step(problem, state)
        if (k + 1) % (3 * method.inner) == 0:
            images.append(info.x_hat)
    return tried, images


def test_follows_the_published_recipe():
    problem, generator = wavy_problem(), Generator(3, TIMES, clip="hard")
    method = DMILO(generator, outer=2, inner=5, lr_z=0.02, lr_nu=1e-3)
    tried, images = ours(method, problem)
    aims = [problem.y] * 2
    expected, rolled = published_rounds(first_seed(method, problem), aims, 5, (0.02, 1e-3))
    assert len(tried) == len(expected) == 30
    for reference, v in zip(expected + rolled, tried + images, strict=True):
        close(v, reference, 1e-8)


def first_seed(method: DMILO | DMILOPGD, problem: Problem) -> Tensor:
    return method.init(problem, Rng(0, "solve", ["a"])).codes[0]


@pytest.mark.parametrize("misfit", ["squared", "norm"])
def test_pgd_follows_the_published_recipe(misfit: str):
    problem, generator = wavy_problem(), Generator(3, TIMES, clip="hard")
    method = DMILOPGD(generator, outer=1, inner=4, x_steps=3, lr_x=0.3, x_misfit=misfit)
    x = torch.zeros(1, *SHAPE, dtype=torch.float64, requires_grad=True)
    for _ in range(3):
        length = torch.linalg.norm(torch.tanh(2 * x) - problem.y)
        (grad,) = torch.autograd.grad(length**2 if misfit == "squared" else length, x)
        x = (x - 0.3 * grad).clamp(-1, 1).detach().requires_grad_()
    aims = [torch.tanh(2 * x.detach())]
    expected, images = published_rounds(first_seed(method, problem), aims, 4, (0.02, 1e-3))
    tried, made = ours(method, problem)
    for reference, v in zip(expected + images, tried + made, strict=True):
        close(v, reference, 1e-8)


def test_pgd_goes_on_from_the_last_image():
    # With A = 1 and a step of 1/2 on the squared norm, x lands on y, whatever x was; a shorter
    # step tells where it came from.
    mean = torch.zeros(SHAPE, dtype=torch.float64)
    problem = Problem(normal(1, *SHAPE) / 4, Identity(), GaussianNoise(0.1), ExactPrior(mean))
    method = DMILOPGD(Generator(1), outer=2, inner=2, lr_x=0.1)
    close(method.aim(problem, None), 0.2 * problem.y)
    x = torch.full_like(problem.y, 0.5)
    close(method.aim(problem, x), 0.8 * x + 0.2 * problem.y)


def affine(problem: Problem, generator: Generator) -> tuple[Tensor, Tensor]:
    """Offset and pixel-wise slope of z -> A(R(z)), affine for a Gaussian prior."""
    zero, one = (torch.full((1, *SHAPE), v, dtype=torch.float64) for v in (0.0, 1.0))
    with torch.no_grad():
        offset = problem.operator(generator(problem.prior, zero))
        return offset, problem.operator(generator(problem.prior, one)) - offset


@pytest.mark.parametrize(("lr_nu", "tolerance"), [(0.0, 1e-5), (1e-4, 1e-3)])
def test_one_layer_without_deviation_is_dmplug(lr_nu: float, tolerance: float):
    p, generator = toy_problem().select([1]), Generator(1, (0.3,))
    offset, slope = affine(p, generator)
    assert float(slope.min()) > 0.1  # the seed matters
    z = slope * (p.y - offset) / (slope.square() + 1e-4)  # the closed form
    weight = 2e-4 / p.y[0].numel()
    dmplug = solve(
        p, DMPlug(60, generator, LBFGS(tolerance=1e-9), loss="mean", seed_weight=weight)
    )
    torch.testing.assert_close(dmplug.z, z, rtol=1e-4, atol=1e-4)
    method = DMILO(generator, outer=2, inner=250, lr_z=0.05, lr_nu=lr_nu, deviation_weight=1e6)
    solution = solve(p, method)
    assert solution.z is not None
    torch.testing.assert_close(solution.x_hat, dmplug.x_hat, rtol=0, atol=tolerance)


def test_each_update_holds_one_network_call_in_its_graph():
    solution = solve(toy_problem(), DMILO(Generator(4), outer=2, inner=3))
    assert solution.steps == [24] * 3
    assert solution.vjps == [24] * 3  # one a step, though R has four layers
    assert solution.nfe == [24 + 4 + 2 * 4] * 3  # and the first roll and two re-rolls


def test_the_deviation_reaches_what_no_seed_does():
    # R makes only images near 0.1, so the best fit of y is the deviation alone: the minimiser of
    # (nu - gap)^2 + 0.1 |nu| is the gap shrunk by 0.05.
    prior = ExactPrior(torch.full(SHAPE, 0.1, dtype=torch.float64), std=1e-4)
    gap = 0.5 * (normal(1, *SHAPE, seed=3) > 1.5).double()
    assert 0 < int((gap > 0).sum()) < 30
    problem = Problem(0.1 + gap, Identity(), GaussianNoise(0.01), prior)
    widened = DMILO(Generator(2), outer=1, inner=300, lr_nu=5e-3)
    found, within = solve(problem, widened), solve(problem, replace(widened, lr_nu=0.0))
    close(found.x_hat - 0.1, (gap - 0.05).clamp_min(0), 6e-3)
    assert float(found.trace[0].residual[-1]) < 0.2 * float(within.trace[0].residual[-1])


def test_image_and_residual_are_those_of_the_last_re_roll():
    p, method = toy_problem(), DMILO(Generator(2), outer=2, inner=3)
    state, residuals = method.init(p, Rng(0, "solve", ["a", "b", "c"])), []
    layers = split(p.prior, method.generator)
    for _ in range(method.iterations):
        state, info = method.step(p, state)
        assert info.residual is not None
        close(info.residual, p.residual(p.operator(info.x_hat)))
        residuals.append(float(info.residual[0]))
    assert len(set(residuals)) == 3 and residuals.count(residuals[0]) == 5
    rolled = layers.roll(method.seed(state), state.deviations)
    close(state.x, layers.decode(rolled[-1]).detach().clamp(-1, 1))


def test_discrepancy_ends_a_fit_at_a_re_roll():
    method = DMILO(Generator(2), outer=20, inner=20, lr_z=0.1)
    solution = solve(toy_problem(), Stopped(method, Discrepancy()))
    assert all(steps % 40 == 0 and steps < 800 for steps in solution.steps)
    assert all(checks.explains_y for checks in solution.diagnostics)


@pytest.mark.parametrize(
    "method",
    [
        DMILO(Generator(2), outer=2, inner=2),
        DMILO(Generator(2, solver="heun", checkpoint=True), outer=1, inner=2),
        DMILOPGD(Generator(2), outer=2, inner=2),
        DMILOPGD(Generator(2), outer=2, inner=2, x_steps=3, x_misfit="norm"),
    ],
)
def test_passes_check_method(method: DMILO | DMILOPGD):
    check_method(method).require()


class Blob(Prior):
    """Maps seeds to images at once, so there are no reverse steps."""

    denoises = False
    shape, value_range = SHAPE, None

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        raise AssertionError("nobody may ask")


def test_a_prior_without_reverse_steps_is_refused():
    y = torch.zeros(1, *SHAPE)
    problem = Problem(y, Identity(), GaussianNoise(0.1), Blob())
    for method in (DMILO(), DMILOPGD()):
        with pytest.raises(TypeError, match=rf"{type(method).__name__} needs E\[x_0"):
            solve(problem, method)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="outer and inner must be at least 1, got 0 and 200"):
        DMILO(outer=0)
    with pytest.raises(ValueError, match=r"lr_nu not negative, got 0\.02 and -1"):
        DMILO(lr_nu=-1)
    with pytest.raises(ValueError, match="code_weight must not be negative"):
        DMILO(code_weight=-1)
    with pytest.raises(ValueError, match="did you mean 'squared'"):
        DMILOPGD(x_misfit="square")
    with pytest.raises(ValueError, match=r"lr_x positive, got 1, 0\.0"):
        DMILOPGD(lr_x=0.0)


PUBLISHED = {  # lr_z, rounds, updates; then those of the PGD variant, and its steps on x
    "super_resolution": ((0.01, 5, 1000), (0.01, 10, 400), (1, 8.0, "squared")),
    "inpaint_random": ((0.02, 5, 200), (0.02, 5, 200), (1, 0.5, "squared")),
    "gaussian_deblur": ((0.008, 10, 300), (0.02, 5, 500), (1000, 2.0, "norm")),
    "motion_deblur": ((0.008, 10, 300), (0.02, 5, 500), (1000, 2.0, "norm")),
    "nonlinear_deblur": ((0.01, 10, 200), (0.02, 10, 200), (1000, 0.3, "norm")),
}


def built(task: str, method: str) -> Any:
    words = [f"task={task}", f"method={method}"]
    return build(resolved(compose_config(words, None))["method"])


@pytest.mark.parametrize("task", PUBLISHED)
def test_presets_hold_the_published_settings(task: str):
    plain, pgd, on_x = PUBLISHED[task]
    method = built(task, "dmilo_paper")
    assert (method.lr_z, method.outer, method.inner) == plain
    assert list(method.generator.times(DiscretePath.linear())) == pytest.approx([*TIMES, 0])
    method = built(task, "dmilo_pgd_paper")
    assert (method.lr_z, method.outer, method.inner) == pgd
    assert (method.x_steps, method.lr_x, method.x_misfit) == on_x


def test_the_default_yaml_is_the_default_method():
    made = [built("inpaint_random", name) for name in ("dmilo", "dmilo_pgd")]
    assert made == [DMILO(), DMILOPGD()]
