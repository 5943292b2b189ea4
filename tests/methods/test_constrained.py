"""Constrained searches against closed forms: Morozov's point, and least squares on the sphere."""

import math
from collections.abc import Callable

import pytest
import torch
from scipy.optimize import brentq
from torch import Tensor
from toys import close

from plugip.diagnostics import diagnose
from plugip.engine.augmented_lagrangian import AugmentedLagrangian
from plugip.engine.start import GaussianStart, ZeroStart
from plugip.linalg import norm
from plugip.loop import solve
from plugip.method import Solution
from plugip.methods import ConstrainedMisfit, ConstrainedSeed, MultiStart
from plugip.noise import GaussianNoise, UnknownNoise
from plugip.operators.blind_blur import BlindBlur
from plugip.problem import Problem
from plugip.reverse import Generator
from plugip.rng import Rng
from plugip.stopping import Budget, Stopped
from plugip.testing import check_method
from plugip.testing.methods import toy_problem

MAP = Generator(2)
TIGHT = AugmentedLagrangian(stationarity=1e-7, feasibility=1e-9)
D = 192


def affine(problem: Problem) -> tuple[Tensor, Tensor]:
    """Slope s and target b with A(R(z)) - y = s z - b, pixel by pixel."""
    with torch.no_grad():
        ends = [torch.full((1, *problem.prior.shape), v).double() for v in (0.0, 1.0)]
        offset, end = (problem.operator(MAP(problem.prior, z)) for z in ends)
    return end - offset, problem.y - offset


def root(function: Callable[[float], float], low: float) -> float:
    return brentq(function, low, 30, xtol=1e-13)  # type: ignore[return-value]


def morozov(s: Tensor, b: Tensor, delta: float) -> Tensor:
    """The shortest z with ‖s z - b‖ <= delta: Tikhonov's with the weight that meets delta."""

    def excess(log_weight: float) -> float:
        weight = math.exp(log_weight)
        return float((b * weight / (s.square() + weight)).norm()) - delta

    weight = math.exp(root(excess, -30))
    return s * b / (s.square() + weight)


def on_sphere(s: Tensor, b: Tensor, radius: float) -> Tensor:
    """The least of ‖s z - b‖ with ‖z‖ = radius: the root of the secular equation above -min s²."""
    least = float(s.square().min())

    def excess(log_gap: float) -> float:
        return float((s * b / (s.square() - least + math.exp(log_gap))).norm()) - radius

    return s * b / (s.square() - least + math.exp(root(excess, -60)))


def test_the_shortest_seed_within_the_noise_is_morozovs_point():
    p = toy_problem()
    s, b = affine(p)
    delta = 0.05 * math.sqrt(D)
    expected = torch.cat([morozov(s, b[i : i + 1], delta) for i in range(3)])
    solution = solve(p, ConstrainedSeed(200, MAP, TIGHT), rows=3)
    assert solution.z is not None
    close(solution.z, expected, 1e-6)
    for checks, trace in zip(solution.diagnostics, solution.trace, strict=True):
        assert checks.stationarity is not None and checks.stationarity < 1e-7
        assert checks.violation is not None and checks.violation < 1e-9
        assert float(trace.residual[-1]) == pytest.approx(0.05, rel=1e-8)


def test_each_image_has_multipliers_of_its_own():
    p, delta = toy_problem(), 0.5
    s, b = affine(p)
    p = Problem(p.y * torch.tensor([1.0, 2.0, 1.5]).double().reshape(3, 1, 1, 1), *rest(p))
    b = affine(p)[1]
    expected = torch.cat([morozov(s, b[i : i + 1], delta) for i in range(3)])
    method = ConstrainedSeed(200, MAP, TIGHT, delta=delta)
    for rows in (1, 3):
        found = solve(p, method, rows=rows).z
        assert found is not None
        close(found, expected, 1e-6)


def rest(p: Problem) -> tuple:
    return p.operator, p.noise, p.prior


def test_the_multiplier_is_the_weight_of_tikhonov():
    # Where z + mu (s z - b) s / delta² = 0, Tikhonov's weight is delta² / mu.
    p, delta = toy_problem().select([0]), 1.0
    s, b = affine(p)
    method = ConstrainedSeed(200, MAP, TIGHT, delta=delta)
    state = method.init(p, Rng(0, "solve", ["a"]))
    for _ in range(200):
        state, _ = method.step(p, state)
    weight = delta**2 / float(state.solver.multiplier)
    close(s * b / (s.square() + weight), state.v, 1e-3)


def test_a_seed_of_zero_that_explains_y_is_the_answer_at_once():
    solution = solve(toy_problem(), ConstrainedSeed(50, MAP, delta=1e3), rows=3)
    assert solution.z is not None
    assert float(solution.z.abs().max()) == 0 and solution.steps == [1, 1, 1]


def test_an_inactive_bound_leaves_the_shortest_seed_from_any_start():
    method = ConstrainedSeed(200, MAP, TIGHT, start=GaussianStart(), delta=1e3)
    solution = solve(toy_problem(), method, rows=3)
    assert solution.z is not None
    assert float(norm(solution.z).max()) < 1e-5


@pytest.mark.parametrize("start", [ZeroStart(), GaussianStart()])
def test_the_best_fit_on_the_sphere_solves_the_secular_equation(start):
    p = toy_problem()
    s, b = affine(p)
    expected = torch.cat([on_sphere(s, b[i : i + 1], math.sqrt(D)) for i in range(3)])
    solution = solve(p, ConstrainedMisfit(400, MAP, TIGHT, start, epsilon=0.0), rows=3)
    assert solution.z is not None
    close(norm(solution.z), torch.full((3,), math.sqrt(D), dtype=torch.float64), 1e-7)
    close(solution.z, expected, 1e-5)
    for checks in solution.diagnostics:
        assert checks.stationarity is not None and checks.stationarity < 1e-6
        assert checks.violation is not None and checks.violation < 1e-8


def test_where_least_squares_lies_within_the_shell_the_shell_does_not_matter():
    p = toy_problem()
    s, _ = affine(p)
    z = 1.01 * math.sqrt(D) * torch.nn.functional.normalize(p.y.flatten(1)).reshape(p.y.shape)
    exact = Problem(p.y + (s * z - affine(p)[1]), *rest(p))
    found = solve(exact, ConstrainedMisfit(300, MAP, TIGHT, epsilon=0.05), rows=3).z
    assert found is not None
    close(found, z, 1e-5)


@pytest.mark.parametrize(("scale", "end"), [(3.0, 1.05), (0.3, 0.95)])
def test_where_it_lies_beyond_the_answer_is_on_the_nearer_edge(scale: float, end: float):
    p = toy_problem()
    s, b = affine(p)
    z = scale * math.sqrt(D) * torch.nn.functional.normalize(p.y.flatten(1)).reshape(p.y.shape)
    exact = Problem(p.y + (s * z - b), *rest(p))
    found = solve(exact, ConstrainedMisfit(400, MAP, TIGHT, epsilon=0.05), rows=3).z
    assert found is not None
    close(norm(found), torch.full((3,), end * math.sqrt(D), dtype=torch.float64), 1e-6)


def test_a_mean_loss_without_a_noise_level_finds_the_same_point():
    p = toy_problem()
    s, b = affine(p)
    unknown = Problem(p.y, p.operator, UnknownNoise(), p.prior)
    method = ConstrainedMisfit(400, MAP, TIGHT, ZeroStart(), 0.0, "mean")
    found = solve(unknown, method, rows=3).z
    expected = torch.cat([on_sphere(s, b[i : i + 1], math.sqrt(D)) for i in range(3)])
    assert found is not None
    close(found, expected, 1e-3)


def test_a_short_search_says_that_it_is_no_minimum_yet():
    solution = solve(toy_problem(), ConstrainedSeed(3, MAP), rows=3)
    for checks in solution.diagnostics:
        assert checks.violation is not None and checks.violation > 1e-2
        assert any("constraint violated by" in said for said in checks.sentences())


def test_methods_without_a_certificate_state_none():
    p = toy_problem()
    checks = diagnose(p, p.prior.mean.expand(3, -1, -1, -1), None)[0]  # type: ignore[operator]
    assert (checks.stationarity, checks.violation) == (None, None)


def certified(solution: Solution) -> list[tuple[float | None, float | None]]:
    return [(d.stationarity, d.violation) for d in solution.diagnostics]


def test_wrappers_pass_the_certificate_of_their_answer_on():
    p, picked = toy_problem(), Stopped(ConstrainedSeed(12, MAP), Budget(5), halt=False)
    assert certified(solve(p, picked)) == certified(solve(p, ConstrainedSeed(5, MAP)))
    several = MultiStart(ConstrainedSeed(6, MAP, start=GaussianStart()), 3, 3)
    assert (None, None) not in certified(solve(p, several))


@pytest.mark.parametrize(
    "method",
    [
        ConstrainedSeed(8, MAP, AugmentedLagrangian(3)),
        ConstrainedMisfit(8, MAP, AugmentedLagrangian(3)),
        ConstrainedMisfit(8, MAP, AugmentedLagrangian(3), epsilon=0.0, loss="mean"),
    ],
)
def test_passes_check_method(method):
    check_method(method).require()


def test_a_blind_kernel_is_searched_along():
    base = toy_problem()
    kernel = torch.tensor([[0.0, 0.1, 0.0], [0.2, 0.5, 0.1], [0.0, 0.1, 0.0]]).double()
    operator = BlindBlur(3, boundary="circular").double()
    x = base.prior.mean + 0.3 * base.y  # type: ignore[operator]
    y = operator.at(kernel[None, None])(x)
    p = Problem(y + 0.02 * base.y.roll(1, 0), operator, GaussianNoise(0.02), base.prior)
    solution = solve(p, ConstrainedSeed(60, MAP), rows=3)
    assert isinstance(solution.theta, Tensor) and solution.theta.shape == (3, 1, 3, 3)
    close(solution.theta.sum((1, 2, 3)), torch.ones(3).double())
    for checks in solution.diagnostics:
        assert checks.violation is not None and checks.violation < 1e-2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConstrainedSeed(delta=0.0), "delta must be positive, or null .* got 0.0"),
        (lambda: ConstrainedSeed(0), "iterations must be at least 1, got 0"),
        (lambda: ConstrainedMisfit(epsilon=1.0), r"epsilon must lie in \[0, 1\), got 1.0"),
        (lambda: AugmentedLagrangian(1), "inner_iterations must be at least 2, got 1"),
        (
            lambda: AugmentedLagrangian(growth=1.0),
            "growth > 1 and 0 < shrink < 1, got 10.0, 1.0 and 0.5",
        ),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_unknown_noise_level_asks_for_delta_before_any_network_call():
    p = toy_problem()
    unknown = Problem(p.y, p.operator, UnknownNoise(), p.prior)
    before = p.prior.counter.nfe
    with pytest.raises(TypeError, match="ConstrainedSeed needs a known noise level, which Unknow"):
        solve(unknown, ConstrainedSeed(5, MAP), rows=3)
    assert p.prior.counter.nfe == before
    assert solve(unknown, ConstrainedSeed(40, MAP, delta=0.7)).steps
