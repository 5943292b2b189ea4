"""The door to PyGRANSO: a stand-in with its call, its errors, and itself where it is installed."""

import math
import sys
import types
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor
from toys import close

from plugip.engine.pygranso import PyGRANSO
from plugip.engine.start import GaussianStart
from plugip.linalg import dot, norm
from plugip.loop import solve
from plugip.methods import ConstrainedMisfit, ConstrainedSeed
from plugip.problem import Problem
from plugip.reverse import Generator
from plugip.rng import Rng
from plugip.testing.methods import toy_problem

MAP = Generator(2)
START = GaussianStart(0.5)
TIGHT = PyGRANSO(500, stationarity=1e-9, feasibility=1e-9)
try:
    from pygranso.pygranso import pygranso as REAL  # type: ignore[import-not-found]
except ImportError:
    REAL = None


class Struct:
    """Stands for pygransoStruct, an empty class."""


class StandIn:
    """Takes PyGRANSO's arguments, minimises by SciPy's SLSQP, and returns what PyGRANSO does."""

    def __init__(self) -> None:
        self.options: list[Any] = []
        self.counts = (0, 0)  # of inequalities and equalities, in the last call
        self.code = 0

    def __call__(self, var_spec: dict, combined_fn: Any, user_opts: Any = None) -> Struct:
        self.options.append(user_opts)
        (shape,) = var_spec.values()
        kind = torch.float64 if user_opts.double_precision else torch.float32

        def values(v: np.ndarray) -> tuple[Tensor, list[Tensor], list[Tensor], Tensor]:
            x, leaf = Struct(), torch.tensor(v, dtype=kind).reshape(shape).requires_grad_()
            x.v = leaf  # type: ignore[attr-defined]
            f, ci, ce = combined_fn(x)
            below, equal = ([*vars(c).values()] if c else [] for c in (ci, ce))
            return f, below, equal, leaf

        def one(pick: Any, sign: float = 1.0) -> dict[str, Any]:
            def slope(v: np.ndarray) -> np.ndarray:
                found = values(v)
                (grad,) = torch.autograd.grad(pick(found), found[3])
                return sign * grad.double().numpy().ravel()

            return {"fun": lambda v: sign * float(pick(values(v)).detach()), "jac": slope}

        first = values(user_opts.x0.double().numpy().ravel())
        self.counts = len(first[1]), len(first[2])
        limits = [
            {"type": "ineq", **one(lambda p, i=i: p[1][i], -1.0)} for i in range(len(first[1]))
        ] + [{"type": "eq", **one(lambda p, i=i: p[2][i])} for i in range(len(first[2]))]
        found = minimize(
            one(lambda p: p[0])["fun"],
            user_opts.x0.double().numpy().ravel(),
            jac=one(lambda p: p[0])["jac"],
            constraints=limits,
            method="SLSQP",
            options={"maxiter": user_opts.maxit, "ftol": 1e-14},
        )
        return self._solution(found.x, values(found.x), shape, kind)

    def _solution(self, x: np.ndarray, end: Any, shape: list[int], kind: torch.dtype) -> Struct:
        soln = Struct()
        gaps = [float(c.detach().clamp_min(0)) for c in end[1]]
        gaps += [float(c.detach().abs()) for c in end[2]]
        final = types.SimpleNamespace(x=torch.tensor(x, dtype=kind).reshape(shape), tv=max(gaps))
        soln.__dict__ |= {"final": final, "stat_value": 1e-10, "termination_code": self.code}
        if self.code:
            soln.error = ValueError("the function broke")  # type: ignore[attr-defined]
        return soln


@pytest.fixture
def stand_in(monkeypatch):
    made = StandIn()
    for name, content in (("pygranso", made), ("pygransoStruct", Struct)):
        module = types.ModuleType(f"pygranso.{name}")
        setattr(module, name, content)
        monkeypatch.setitem(sys.modules, f"pygranso.{name}", module)
    monkeypatch.setitem(sys.modules, "pygranso", types.ModuleType("pygranso"))
    return made


def small() -> Problem:
    """One image of 3 x 8 x 8 with a Gaussian prior; A(R(z)) is affine."""
    return toy_problem().select([0])


def affine(problem: Problem) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        ends = [torch.full((1, *problem.prior.shape), v).double() for v in (0.0, 1.0)]
        offset, end = (problem.operator(MAP(problem.prior, z)) for z in ends)
    return end - offset, problem.y - offset


def shortest_is_stationary(p: Problem, z: Tensor, delta: float, tolerance: float) -> None:
    """Checks Morozov's point by its conditions: z = w s (b - s z) for one w > 0, and ‖s z - b‖."""
    s, b = affine(p)
    r = b - s * z
    close(norm(r), torch.tensor([delta]).double(), tolerance)
    w = dot(z, s * r) / dot(s * r, s * r)
    assert float(w) > 0
    close(z, w * s * r, tolerance)


def test_the_shortest_seed_within_the_noise(stand_in):
    p = small()
    solution = solve(p, ConstrainedSeed(1, MAP, TIGHT, START))
    assert solution.z is not None
    shortest_is_stationary(p, solution.z, 0.05 * math.sqrt(192), 1e-4)
    checks = solution.diagnostics[0]
    assert (checks.stationarity, solution.steps) == (1e-10, [1])
    assert checks.violation is not None and checks.violation < 1e-6


def test_settings_reach_it(stand_in):
    solve(small(), ConstrainedSeed(1, MAP, PyGRANSO(7, 11, True, 1e-3, 1e-2), START))
    (given,) = stand_in.options
    assert (given.maxit, given.limited_mem_size, given.opt_tol) == (7, 11, 1e-3)
    assert (given.viol_ineq_tol, given.viol_eq_tol, given.double_precision) == (1e-2, 1e-2, True)
    assert given.torch_device == torch.device("cpu") and given.x0.shape == (192, 1)


@pytest.mark.parametrize(("double", "kind"), [(True, torch.float64), (False, torch.float32)])
def test_the_precision_inside_is_chosen_and_the_answer_has_that_of_y(stand_in, double, kind):
    solution = solve(small(), ConstrainedSeed(1, MAP, PyGRANSO(5, double=double), START))
    assert stand_in.options[0].x0.dtype == kind
    assert solution.z is not None and solution.z.dtype == torch.float64


@pytest.mark.parametrize(("epsilon", "counts"), [(0.0, (0, 1)), (0.05, (2, 0))])
def test_the_shell_is_two_inequalities_and_the_sphere_one_equality(stand_in, epsilon, counts):
    p = small()
    solution = solve(p, ConstrainedMisfit(1, MAP, TIGHT, START, epsilon))
    assert solution.z is not None and stand_in.counts == counts
    s, b = affine(p)
    slope, z = s * (s * solution.z - b), solution.z
    w = dot(z, slope) / dot(z, z)  # the gradient is along the radius
    assert float(norm(slope - w * z) / norm(slope)) < 1e-3
    size = float(norm(z)) / math.sqrt(192)
    assert 1 - epsilon - 1e-6 < size < 1 + epsilon + 1e-6


def test_images_are_solved_for_themselves(stand_in):
    p, method = toy_problem(), ConstrainedSeed(1, MAP, TIGHT, START)
    together = solve(p, method, rows=3)
    assert together.z is not None and len(stand_in.options) == 3
    for i in range(3):
        shortest_is_stationary(p.select([i]), together.z[i : i + 1], 0.05 * math.sqrt(192), 1e-4)


def test_later_steps_change_nothing(stand_in):
    p, method = small(), ConstrainedSeed(5, MAP, PyGRANSO(5), START)
    state, first = method.step(p, method.init(p, Rng(0, "solve", ["a"])))
    before = p.prior.counter.nfe
    state, second = method.step(p, state)
    assert torch.equal(first.x_hat, second.x_hat) and p.prior.counter.nfe == before
    assert bool(second.done)


def test_its_errors_are_not_swallowed(stand_in):
    stand_in.code = 11
    with pytest.raises(RuntimeError, match="PyGRANSO ended with code 11: the function broke"):
        solve(small(), ConstrainedSeed(1, MAP, PyGRANSO(5), START))


def test_it_cannot_end_the_program(stand_in, monkeypatch):
    """PyGRANSO leaves by sys.exit() where its set-up or the first evaluation fails."""
    monkeypatch.setattr(sys.modules["pygranso.pygranso"], "pygranso", lambda *_: sys.exit())
    with pytest.raises(RuntimeError, match="PyGRANSO broke off"):
        solve(small(), ConstrainedSeed(1, MAP, PyGRANSO(5), START))


def test_without_it_the_error_says_how_to_get_it_before_any_network_call(monkeypatch):
    for name in ("pygranso", "pygranso.pygranso", "pygranso.pygransoStruct"):
        monkeypatch.setitem(sys.modules, name, None)
    p = small()
    with pytest.raises(ImportError, match=r"AGPL-3.0, with pip install 'plugip\[pygranso\]'"):
        solve(p, ConstrainedSeed(1, MAP, PyGRANSO(5)))
    assert p.prior.counter.nfe == 0


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="iterations and memory must be at least 1, got 300 and"):
        PyGRANSO(memory=0)


@pytest.mark.filterwarnings("default")  # its own, of torch and OSQP
@pytest.mark.skipif(REAL is None, reason="PyGRANSO is not installed")
@pytest.mark.parametrize(("double", "tolerance"), [(True, 1e-4), (False, 2e-2)])
def test_pygranso_itself_finds_morozovs_point(double: bool, tolerance: float):
    p = small()
    solver = PyGRANSO(500, double=double, stationarity=1e-7, feasibility=1e-7)
    solution = solve(p, ConstrainedSeed(1, MAP, solver, START))
    assert solution.z is not None
    shortest_is_stationary(p, solution.z, 0.05 * math.sqrt(192), tolerance)
    violation = solution.diagnostics[0].violation
    assert violation is not None and violation < 1e-4


@pytest.mark.filterwarnings("default")  # its own, of torch and OSQP
@pytest.mark.skipif(REAL is None, reason="PyGRANSO is not installed")
@pytest.mark.parametrize("epsilon", [0.0, 0.05])
def test_pygranso_itself_fits_best_on_the_shell(epsilon: float):
    p = small()
    solver = PyGRANSO(500, stationarity=1e-7, feasibility=1e-7)
    solution = solve(p, ConstrainedMisfit(1, MAP, solver, START, epsilon))
    assert solution.z is not None
    s, b = affine(p)
    slope, z = s * (s * solution.z - b), solution.z
    w = dot(z, slope) / dot(z, z)
    assert float(norm(slope - w * z) / norm(slope)) < 1e-2
    assert abs(float(norm(z)) / math.sqrt(192) - 1) <= epsilon + 1e-6
