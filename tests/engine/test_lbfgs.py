"""L-BFGS and its line search: known minima, Wolfe conditions, and no word between images."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from plugip.engine.lbfgs import LBFGS
from plugip.engine.line_search import StrongWolfe
from plugip.engine.objective import Evaluation, Objective
from plugip.engine.spaces import Free, Shell


@dataclass(frozen=True)
class Function(Objective):
    """A plain function of the seed in the place of an objective."""

    f: object

    def evaluate(self, v: Tensor) -> Evaluation:
        with torch.enable_grad():
            leaf = v.detach().requires_grad_()
            loss = self.f(leaf)  # type: ignore[operator]
            (grad,) = torch.autograd.grad(loss.sum(), leaf)
        return Evaluation(loss.detach(), grad, v, loss.detach())


def quadratic(scales: Tensor, centre: float = 1.5) -> Function:
    return Function(lambda z: (scales * (z - centre) ** 2).flatten(1).sum(1))


def rosenbrock(z: Tensor) -> Tensor:
    x, y = z[:, 0], z[:, 1]
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def run(solver: LBFGS, function: Function, z: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    state, done = solver.init(z), torch.zeros(len(z), dtype=torch.bool)
    for _ in range(steps):
        state, z, _, done = solver.step(function, state)
    return z, done


def test_ill_conditioned_quadratic_is_minimised_to_high_accuracy():
    scales = torch.logspace(0, 3, 20, dtype=torch.float64).expand(2, 20)
    z, done = run(LBFGS(tolerance=1e-6), quadratic(scales), torch.zeros(2, 20).double(), 150)
    torch.testing.assert_close(z, torch.full_like(z, 1.5), atol=1e-6, rtol=0)
    assert done.all()


def test_it_needs_no_more_evaluations_than_scipy():
    scales, count = torch.logspace(0, 3, 20, dtype=torch.float64)[None], [0]
    function = quadratic(scales)

    def value(v: np.ndarray) -> tuple[float, np.ndarray]:
        here = function.evaluate(torch.tensor(v)[None])
        return float(here.loss), here.grad[0].numpy()

    def counted(z: Tensor) -> Tensor:
        count[0] += 1
        return (scales * (z - 1.5) ** 2).flatten(1).sum(1)

    options = {"maxiter": 60, "maxcor": 20, "ftol": 1e-20, "gtol": 1e-12}
    theirs = minimize(value, np.zeros(20), jac=True, method="L-BFGS-B", options=options)
    z, _ = run(LBFGS(tolerance=1e-12), Function(counted), torch.zeros(1, 20).double(), 61)
    assert count[0] <= 1.1 * theirs.nfev
    assert float(function.evaluate(z).loss) < 3 * theirs.fun


def test_rosenbrock_valley_is_followed_to_its_end():
    start = torch.tensor([[-1.2, 1.0], [2.0, -1.0]], dtype=torch.float64)
    z, _ = run(LBFGS(tolerance=1e-9), Function(rosenbrock), start, 80)
    torch.testing.assert_close(z, torch.ones_like(z), atol=1e-6, rtol=0)


def test_an_image_does_not_change_with_its_neighbours():
    scales = torch.stack([torch.logspace(0, k, 10, dtype=torch.float64) for k in (0, 2, 5)])
    start = torch.linspace(-3, 3, 30, dtype=torch.float64).reshape(3, 10)
    together, _ = run(LBFGS(), quadratic(scales), start, 7)
    for i in range(3):
        alone, _ = run(LBFGS(), quadratic(scales[i : i + 1]), start[i : i + 1], 7)
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("first", [1e-3, 1.0, 300.0])
def test_accepted_steps_satisfy_both_wolfe_conditions(first: float):
    function = Function(lambda z: (z**4 - 3 * z**2 + z).flatten(1).sum(1))
    z = torch.tensor([[0.1], [-2.5], [4.0]], dtype=torch.float64)
    here = function.evaluate(z)
    direction, search = -here.grad, StrongWolfe(max_trials=40)
    length = torch.full((3,), first, dtype=torch.float64)
    new, there, moved = search(function, z, here, direction, length)
    taken = ((new - z) / direction).squeeze(1)
    slope, new_slope = (here.grad * direction).sum(1), (there.grad * direction).sum(1)
    assert moved.all()
    assert (there.loss <= here.loss + 1e-4 * taken * slope).all()
    assert (new_slope.abs() <= 0.9 * slope.abs()).all()


def test_at_a_minimum_nothing_moves_and_the_image_is_done():
    function = quadratic(torch.ones(1, 4, dtype=torch.float64))
    z, done = run(LBFGS(), function, torch.full((1, 4), 1.5).double(), 2)
    assert done.all()
    assert torch.equal(z, torch.full_like(z, 1.5))


def test_history_is_bounded():
    solver, state = LBFGS(history=3), LBFGS(history=3).init(torch.zeros(1, 6).double())
    function = quadratic(torch.logspace(0, 3, 6, dtype=torch.float64)[None])
    for _ in range(8):
        state, *_ = solver.step(function, state)
    assert state.s.shape == (1, 3, 6)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="history must be at least 1, got 0"):
        LBFGS(history=0)
    with pytest.raises(ValueError, match="0 < decrease < curvature < 1"):
        StrongWolfe(decrease=0.95)
    with pytest.raises(ValueError, match="max_trials must be at least 1, got 0"):
        StrongWolfe(max_trials=0)


@dataclass(frozen=True)
class Bounded(Function):
    """A function with a projection, and with steps of different lengths."""

    space: object = Free()
    step_rates: Tensor | None = None

    def project(self, v: Tensor) -> Tensor:
        return self.space(v)  # type: ignore[operator]

    def rates(self, v: Tensor) -> Tensor | None:
        return self.step_rates


def test_rates_equal_a_rescaled_variable():
    # With v = r u, metric r² in v is the identity in u: the same iterates, one for one.
    rates = torch.logspace(-3, 0, 12, dtype=torch.float64)
    scales, start = torch.linspace(1, 9, 12).double(), torch.linspace(-3, 3, 24).double()
    inner = lambda u: (scales * (u - 1) ** 2 + 0.1 * u**4).flatten(1).sum(1)  # noqa: E731
    plain, rated = Function(inner), Bounded(lambda v: inner(v / rates), step_rates=rates)
    solver = LBFGS(tolerance=1e-12)
    u, v = solver.init(start.reshape(2, 12)), solver.init(rates * start.reshape(2, 12))
    for _ in range(15):
        u, at_u, _, _ = solver.step(plain, u)
        v, at_v, _, _ = solver.step(rated, v)
        torch.testing.assert_close(at_v, rates * at_u, rtol=1e-8, atol=1e-10)


def test_rates_above_one_are_for_adam():
    rates = torch.tensor([1.0, 10.0, 300.0]).double()
    function = lambda z: ((z - 2) ** 4).flatten(1).sum(1)  # noqa: E731
    fast, _ = run(LBFGS(), Bounded(function, step_rates=rates), torch.zeros(1, 3).double(), 4)
    plain, _ = run(LBFGS(), Function(function), torch.zeros(1, 3).double(), 4)
    torch.testing.assert_close(fast, plain)


def test_a_part_without_a_rate_stays_and_does_not_keep_an_image_from_ending():
    rates = torch.tensor([1.0, 1.0, 0.0]).double()
    function = Bounded(lambda z: ((z - 2) ** 2).flatten(1).sum(1), step_rates=rates)
    z, done = run(LBFGS(tolerance=1e-8), function, torch.zeros(1, 3).double(), 10)
    torch.testing.assert_close(z, torch.tensor([[2.0, 2.0, 0.0]]).double())
    assert done.all()


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_least_point_of_a_linear_function_on_the_shell(epsilon: float):
    c = torch.linspace(-1, 2, 14).double().reshape(2, 7)
    function = Bounded(lambda z: (c * z).sum(1), space=Shell(epsilon))
    z, done = run(LBFGS(tolerance=1e-6), function, torch.ones(2, 7).double(), 40)
    best = -(1 + epsilon) * 7**0.5 * c / c.norm(dim=1, keepdim=True)
    torch.testing.assert_close(z, best, rtol=1e-5, atol=1e-5)
    assert done.all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_least_point_of_a_quadratic_on_the_sphere_is_an_eigenvector(dtype: torch.dtype):
    scales = torch.linspace(1, 10, 30, dtype=dtype)
    function = Bounded(lambda z: (scales * z**2).sum(1), space=Shell(0.0))
    start = torch.linspace(0.5, 2, 60, dtype=dtype).reshape(2, 30)
    z, _ = run(LBFGS(tolerance=1e-4), function, Shell(0.0)(start), 80)
    assert (z[:, 0].abs() > 0.999 * 30**0.5).all()


def test_a_minimum_inside_the_shell_is_found_as_if_it_were_free():
    centre = torch.linspace(0.9, 1.1, 20).double()
    bounded = Bounded(lambda z: ((z - centre) ** 2).sum(1), space=Shell(0.2))
    start = 0.85 * torch.ones(1, 20).double()
    z, _ = run(LBFGS(tolerance=1e-9), bounded, start, 20)
    free, _ = run(LBFGS(tolerance=1e-9), Function(bounded.f), start, 20)
    assert torch.equal(z, free)
    torch.testing.assert_close(z, centre[None], rtol=1e-8, atol=1e-8)


def test_least_squares_in_a_box_stops_at_the_edge():
    space = lambda v: v.clamp(0, 1)  # noqa: E731
    target, scales = torch.tensor([[-1.0, 0.3, 4.0]]), torch.tensor([[1.0, 30.0, 5.0]])
    function = Bounded(lambda z: (scales * (z - target) ** 2).sum(1), space=space)
    z, done = run(LBFGS(tolerance=1e-8), function, torch.full((1, 3), 0.5), 30)
    torch.testing.assert_close(z, torch.tensor([[0.0, 0.3, 1.0]]), rtol=1e-4, atol=1e-4)
    assert done.all()
