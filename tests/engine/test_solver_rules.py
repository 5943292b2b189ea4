"""Rules inside the solvers, each by an example that has one right answer."""

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from plugip.diagnostics import Ending
from plugip.engine.augmented_lagrangian import AugmentedLagrangian, Bound
from plugip.engine.lbfgs import LBFGS, _negligible
from plugip.engine.line_search import StrongWolfe, _Bracket, choose_rows
from plugip.engine.objective import Evaluation, Objective
from plugip.methods.constrained import FitOnShell


class Plain(Objective):
    """A function of the unknowns."""

    def __init__(self, f: Any) -> None:
        self.f = f

    def evaluate(self, v: Tensor) -> Evaluation:
        with torch.enable_grad():
            leaf = v.detach().requires_grad_()
            loss = self.f(leaf)
            (grad,) = torch.autograd.grad(loss.sum(), leaf)
        return Evaluation(loss.detach(), grad, v, loss.detach())


def bumpy(v: Tensor) -> Tensor:
    """0 at 0, -5 at 1, -2 at 2, with steep slopes down at all three, and least between 1 and 2."""
    t = v[:, 0]
    return 4 * t**2 - 9 * t - 20 / (2 * math.pi) * torch.sin(2 * math.pi * t)


def test_a_trial_that_is_higher_than_the_low_end_closes_the_interval():
    function, z = Plain(bumpy), torch.zeros(1, 1, dtype=torch.float64)
    here, direction = function.evaluate(z), torch.ones_like(z)
    search = StrongWolfe(curvature=0.1, max_trials=12)
    found, there, moved = search(function, z, here, direction, torch.ones(1).double())
    assert bool(moved) and 1 < float(found) < 2 and float(there.loss) < -7
    assert abs(float(there.grad)) <= 0.1 * abs(float(here.grad))


def test_a_search_ends_at_its_trials_with_the_best_of_them():
    calls: list[float] = []

    def noted(v: Tensor) -> Tensor:
        calls.append(float(v.detach()))
        return bumpy(v)

    function, z = Plain(noted), torch.zeros(1, 1, dtype=torch.float64)
    here = function.evaluate(z)
    search = StrongWolfe(curvature=0.1, max_trials=2)
    found, there, _ = search(function, z, here, torch.ones_like(z), torch.ones(1).double())
    assert calls == [0.0, 1.0, 2.0]
    assert float(found) == 1.0 and float(there.loss) == pytest.approx(-5)


def search(
    rule: StrongWolfe, f: Any, first: float = 1.0, last: list[bool] | None = None, batch: int = 1
) -> tuple[list[float], list[float], list[bool]]:
    """Searches from 0 along 1; returns the trials of the first image, places and moves."""
    trials: list[float] = []

    def noted(v: Tensor) -> Tensor:
        trials.append(float(v.detach()[0]))
        return f(v)

    function, z = Plain(noted), torch.zeros(batch, 1, dtype=torch.float64)
    here, lengths = function.evaluate(z), torch.full((batch,), first).double()
    ends = None if last is None else torch.tensor(last)
    found, _, moved = rule(function, z, here, torch.ones_like(z), lengths, ends)
    return trials[1:], found[:, 0].tolist(), moved.tolist()


def valley(v: Tensor) -> Tensor:
    """Slope -1 at 0, least at 2/3, and -0.25 with slope 1/2 at 1."""
    return -v[:, 0] + 0.75 * v[:, 0] ** 2


def test_a_trial_needs_its_share_of_the_predicted_decrease():
    # At 1 the slope is flat enough, but only a quarter of the predicted decrease is there.
    for decrease, trials, found in ((0.2, 1, 1.0), (0.4, 2, 2 / 3)):
        called, place, _ = search(StrongWolfe(decrease=decrease), valley)
        assert len(called) == trials and place == [pytest.approx(found)]


def test_a_trial_whose_slope_is_no_number_is_not_taken():
    class Torn(torch.autograd.Function):
        """-t, whose gradient is lost beyond 1/2."""

        @staticmethod
        def forward(ctx: Any, v: Tensor) -> Tensor:
            ctx.save_for_backward(v)
            return -v[:, 0]

        @staticmethod
        def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
            (v,) = ctx.saved_tensors
            return torch.where(v > 0.5, torch.nan, -grad_outputs[0][:, None])

    called, found, moved = search(StrongWolfe(), Torn.apply)
    assert called[0] == 1 and moved == [True] and 0 < found[0] <= 0.5


@pytest.mark.parametrize(
    ("last", "trials"), [(None, 3), ([False], 3), ([True], 6)], ids=["none", "not", "last"]
)
def test_only_an_image_s_last_search_goes_on_with_ever_shorter_trials(last: Any, trials: int):
    # Least at 5e-13: no trial within twice three finds less.
    called, found, moved = search(
        StrongWolfe(max_trials=3), lambda v: -v[:, 0] + 1e12 * v[:, 0] ** 2, last=last
    )
    assert len(called) == trials and found == [0.0] and moved == [False]
    shares = [b / a for a, b in pairwise(called[2:])]
    assert all(share <= 0.1 for share in shares)


def test_a_last_search_that_has_found_less_ends_at_its_trials():
    rule = StrongWolfe(curvature=0.1, max_trials=2)
    assert search(rule, bumpy, last=[True])[0] == [1.0, 2.0]
    # Beside an image whose last search goes on, one that is done or not at its last rests.
    wall = torch.tensor([0.0, 1e12, 1e12], dtype=torch.float64)

    def mixed(v: Tensor) -> Tensor:
        return torch.where(wall > 0, -v[:, 0] + wall * v[:, 0] ** 2, bumpy(v))

    trials, found, moved = search(rule, mixed, last=[True, True, False], batch=3)
    assert trials[:2] == [1.0, 2.0] and found[1:] == [0.0, 0.0]
    assert found[0] == 1.0 and moved == [True, False, False]


def cubic(least: float, other: float) -> Any:
    """Loss and slope of the cubic with a minimum and a maximum at these places."""

    def at(t: float) -> tuple[float, float]:
        value = t**3 / 3 - (least + other) / 2 * t**2 + least * other * t + 3
        return value, (t - least) * (t - other)

    return at


def bracket(low: tuple[float, float], high: tuple[float, float]) -> float:
    """The next length within [1, 3], from loss and slope at both ends."""
    numbers = (1.0, *low, 3.0, *high)
    return float(
        _Bracket(*(torch.tensor([v]).double() for v in numbers)).next_length(torch.ones(1))
    )


@pytest.mark.parametrize(("least", "due"), [(1.4, 1.4), (2.5, 2.5), (1.05, 1.2), (2.95, 2.8)])
def test_the_next_length_is_the_least_of_the_cubic_within_the_middle_of_the_interval(least, due):
    f = cubic(least, -2.0)
    assert bracket(f(1.0), f(3.0)) == pytest.approx(due)


def test_where_no_cubic_has_a_least_point_the_next_length_is_still_within():
    assert bracket((0.0, -1.0), (-2.0, -1.0)) == pytest.approx(2.0)  # a straight line
    assert bracket((0.0, -0.5), (-1.2, -2.0)) == pytest.approx(1 + 2 * (1 - 1.3 / 1.5))
    for loss, slope in ((math.inf, 1.0), (math.nan, math.nan)):
        assert bracket((0.0, -1.0), (loss, slope)) == pytest.approx(1.2)


def test_each_row_of_an_evaluation_is_taken_whole():
    def made(of: float, unit: bool) -> Evaluation:
        flat = of + torch.arange(2.0)
        return Evaluation(flat, flat[:, None], 10 + flat, 20 + flat, 30 + flat if unit else None)

    rows = torch.tensor([True, False])
    for units in ((True, True), (True, False), (False, True), (False, False)):
        a, b = made(1, units[0]), made(100, units[1])
        mixed = choose_rows(rows, a, b)
        assert mixed.loss.tolist() == [1, 101] and mixed.grad[:, 0].tolist() == [1, 101]
        assert mixed.x.tolist() == [11, 111] and mixed.residual.tolist() == [21, 121]
        assert (None if mixed.unit is None else mixed.unit.tolist()) == (
            [31, 131] if all(units) else None
        )


def test_line_search_defaults_are_those_of_the_book():
    rule = StrongWolfe()
    assert (rule.decrease, rule.curvature, rule.max_trials) == (1e-4, 0.9, 8)


def test_a_direction_that_does_not_descend_costs_nothing():
    function, z = Plain(bumpy), torch.zeros(1, 1, dtype=torch.float64)
    here = function.evaluate(z)
    function.f = None  # any evaluation would fail
    found, _, moved = StrongWolfe()(function, z, here, -torch.ones_like(z), torch.ones(1).double())
    assert not bool(moved) and torch.equal(found, z)


def test_a_pair_of_negative_curvature_is_not_remembered():
    # Concave from 0.1 to 1.1, where the only trial lands: the gradient has grown along the step.
    function = Plain(lambda v: (0.1 * v**4 - 0.5 * v**2).sum(1))
    solver = LBFGS(line_search=StrongWolfe(max_trials=1), tolerance=1e-9)
    state = solver.init(torch.full((1, 1), 0.1, dtype=torch.float64))
    state, *_ = solver.step(function, state)
    state, z, here, _ = solver.step(function, state)
    assert float(z) == pytest.approx(1.1) and float(here.grad) < -0.4
    assert state.weight.tolist() == [[0.0]]
    _, z, after, _ = solver.step(function, state)
    assert float(z) > 1.1 and float(after.loss) < float(here.loss)


@pytest.mark.parametrize(("slope", "kept"), [(1e-8, True), (1e-12, False), (-1e-8, False)])
def test_a_pair_is_remembered_from_some_curvature_on(slope: float, kept: bool):
    # s = (1, 0) and g = (slope, 1): the cosine between them is the slope.
    zero = torch.zeros(1, 2, dtype=torch.float64)
    here = Evaluation(zero[:, 0], zero, zero, zero[:, 0])
    moved = replace(here, grad=torch.tensor([[slope, 1.0]], dtype=torch.float64))
    state = replace(LBFGS().init(zero), here=here)
    step = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    state = LBFGS()._remember(state, step, moved, torch.ones(1, dtype=torch.bool))
    assert state.weight.tolist() == [[pytest.approx(1 / slope if kept else 0.0)]]


def evaluated(grad: list[float], loss: float = 1.0, unit: float | None = None) -> Evaluation:
    row = torch.tensor([grad], dtype=torch.float64)
    flat = torch.full((1,), loss).double()
    return Evaluation(flat, row, row, flat, None if unit is None else torch.tensor([unit]))


@pytest.mark.parametrize(
    ("z", "grad", "rates", "unit", "flat"),
    [
        ([0.0, 0.0], [0.0, 0.01], None, None, True),  # the limit is 0.01 for short seeds
        ([0.0, 0.0], [0.0, 0.011], None, None, False),
        ([0.6, 0.0], [0.0, 0.009], None, None, True),
        ([3.0, 4.0], [0.04, 0.03], None, None, True),  # 0.05 for one of length 5
        ([3.0, 4.0], [0.04, 0.04], None, None, False),
        ([0.0, 0.0], [0.002, 0.0], [10.0, 1.0], None, False),
        ([0.0, 0.0], [0.09, 0.0], [0.1, 1.0], None, True),
        ([0.0, 0.0], [0.001, 0.0], None, 0.1, True),
        ([0.0, 0.0], [0.0011, 0.0], None, 0.1, False),
    ],
)
def test_where_a_gradient_counts_as_nothing(z, grad, rates, unit, flat):
    place = torch.tensor([z], dtype=torch.float64)
    given = None if rates is None else torch.tensor(rates, dtype=torch.float64)
    assert LBFGS(tolerance=0.01)._flat(evaluated(grad, unit=unit), place, given).tolist() == [flat]


def test_a_gain_that_is_rounding_is_negligible():
    floor = 100 * torch.finfo(torch.float64).eps * 4  # of a loss of 4
    for gain, small in ((0.0, False), (0.9 * floor, True), (1.2 * floor, False), (-1.0, False)):
        step = torch.tensor([[-1.0, 0.0]], dtype=torch.float64)
        assert _negligible(evaluated([gain, 5.0], loss=4.0), step).tolist() == [small]


def test_lbfgs_may_remember_one_pair():
    assert (LBFGS().history, LBFGS().tolerance) == (100, 1e-3)
    solver, function = LBFGS(history=1), Plain(lambda v: (v - 3).square().sum(1))
    state = solver.init(z := torch.zeros(1, 4, dtype=torch.float64))
    for _ in range(4):
        state, z, *_ = solver.step(function, state)
    torch.testing.assert_close(z, torch.full_like(z, 3.0))


@pytest.fixture
def shell() -> FitOnShell:
    """Five images with multiplier 2 and penalty 10, so mu / rho = 0.2."""
    two, ten = torch.full((5,), 2.0), torch.full((5,), 10.0)
    return FitOnShell(None, Bound(-0.1, 0.1), two, ten)  # type: ignore[arg-type]


def after_a_round(shell: FitOnShell, c: Tensor, before: Tensor, ready: Tensor) -> Any:
    solver = AugmentedLagrangian(growth=4.0, shrink=0.5, feasibility=1e-3)
    state = solver.init(torch.zeros(5, 3))
    state = replace(state, multiplier=shell.multiplier, penalty=shell.penalty, gap=before)
    return solver._next_round(state, shell, c, ready)


def test_the_penalty_grows_where_a_round_did_not_bring_c_closer(shell: FitOnShell):
    # For c >= -0.1 the gap is |c - 0.1|: 0.1, 0.4, 1, and twice nearly nothing.
    c = torch.tensor([0.2, 0.5, 1.1, 0.1005, 0.5])
    before = torch.tensor([1.0, 0.5, 0.8, 0.0005, torch.inf])
    state = after_a_round(shell, c, before, torch.ones(5, dtype=torch.bool))
    assert state.penalty.tolist() == [10, 40, 40, 10, 10]
    torch.testing.assert_close(state.gap, torch.tensor([0.1, 0.4, 1.0, 0.0005, 0.4]))


class Placed(FitOnShell):
    """Five images whose constraint is what the test says."""

    def place(self, v: Tensor, here: Evaluation) -> Tensor:
        return here.residual


class Still:
    """An inner solver that stays where it is, and reports slopes, endings and constraints."""

    def __init__(self, slopes: list[float], c: list[float], endings: list[Ending]) -> None:
        grad, place = torch.tensor(slopes)[:, None], torch.tensor(c)
        self.here = Evaluation(place, grad, grad, place)
        self.ending = torch.tensor([int(ending) for ending in endings])

    def init(self, z: Tensor) -> Any:
        return replace(LBFGS().init(z), ending=self.ending)

    def step(self, objective: Objective, state: Any) -> Any:
        return state, state.z, self.here, self.ending == Ending.STUCK

    def again(self, state: Any) -> Any:
        return state


def stepped(shell: FitOnShell, still: Still, steps: int, z: float = 0.0) -> Any:
    objective = Placed(shell.data, shell.bound, shell.multiplier, shell.penalty)
    solver = AugmentedLagrangian(inner_iterations=3, inner=still)  # type: ignore[arg-type]
    state = solver.init(torch.full((5, 1), z))
    state = replace(state, multiplier=shell.multiplier, penalty=shell.penalty)
    done = torch.zeros(5, dtype=torch.bool)
    for _ in range(steps):
        state, *_, done = solver.step(objective, state)
    return state, done


def test_a_round_ends_after_its_iterations_where_its_minimum_is_reached(shell: FitOnShell):
    # Gaps 0.4: a slope of 3.9 is near enough, 4.1 is not, but for a search that can do no more.
    # For a gap of 0 the limit is ten times that of the slope, 0.01.
    slopes, c = [3.9, 4.1, 4.1, 0.0099, 0.011], [0.5, 0.5, 0.5, 0.1, 0.1]
    still = Still(slopes, c, [Ending.OPEN, Ending.OPEN, Ending.STUCK, Ending.OPEN, Ending.OPEN])
    for steps in (1, 2):
        assert stepped(shell, still, steps)[0].gap.tolist() == [math.inf] * 5
    state, _ = stepped(shell, still, 3)
    assert [math.isinf(gap) for gap in state.gap.tolist()] == [False, True, False, False, True]
    assert state.multiplier.tolist() == pytest.approx([6, 2, 6, 2, 2])
    # Twice the gap of the round before: the weight grows at the end of the second round.
    assert stepped(shell, still, 5)[0].penalty.tolist() == [10] * 5
    assert stepped(shell, still, 6)[0].penalty.tolist() == [40, 10, 40, 10, 10]


def test_how_a_constrained_search_stands(shell: FitOnShell):
    slopes, c = [0.0005, 0.0005, 0.002, 0.002, 0.0005], [0.1, 0.5, 0.1, 0.1, -0.4]
    endings = [Ending.STUCK, Ending.OPEN, Ending.STUCK, Ending.OPEN, Ending.CONVERGED]
    state, done = stepped(shell, Still(slopes, c, endings), 1)
    assert done.tolist() == [True, False, False, False, False]
    wanted = [Ending.CONVERGED, Ending.OPEN, Ending.STUCK, Ending.OPEN, Ending.OPEN]
    assert state.ending.tolist() == [int(ending) for ending in wanted]
    torch.testing.assert_close(state.violation, torch.tensor([0.0, 0.4, 0.0, 0.0, 0.3]))
    torch.testing.assert_close(state.stationarity, torch.tensor(slopes))
    longer, done = stepped(shell, Still(slopes, c, endings), 1, z=4.0)
    torch.testing.assert_close(longer.stationarity, torch.tensor(slopes) / 4)
    assert done.tolist() == [True, False, True, True, False]


def test_settings_of_a_constrained_search():
    solver = AugmentedLagrangian()
    told = (solver.inner_iterations, solver.penalty, solver.growth, solver.shrink)
    assert told == (10, 10.0, 4.0, 0.5) and solver.inner.history == 20
    assert (solver.stationarity, solver.feasibility) == (1e-3, 1e-3)
    AugmentedLagrangian(inner_iterations=2, penalty=0.5, growth=1.5, shrink=0.9)
    wrongs: list[dict[str, Any]] = [
        {"penalty": 0.0},
        {"growth": 1.0},
        {"shrink": 1.0},
        {"shrink": 0.0},
    ]
    for wrong in wrongs:
        with pytest.raises(ValueError, match="need penalty > 0"):
            AugmentedLagrangian(**wrong)


def test_the_gap_is_a_distance_on_both_sides(shell: FitOnShell):
    # The point that the Lagrangian draws c to is c less the gap: the bound, or c at rest.
    c = torch.tensor([-2.0, -0.3, -0.1, 0.1, 3.0])
    torch.testing.assert_close(shell.gap(c), torch.tensor([1.9, 0.2, 0.2, 0.0, 2.9]))
    state = after_a_round(shell, c, torch.full((5,), 1.0), torch.ones(5, dtype=torch.bool))
    assert state.penalty.tolist() == [40, 10, 10, 10, 40]


def test_multipliers_move_along_the_violation(shell: FitOnShell):
    c = torch.tensor([0.2, 0.1, -0.05, -0.5, 0.0])
    state = after_a_round(shell, c, torch.full((5,), torch.inf), torch.ones(5, dtype=torch.bool))
    # mu becomes rho times the signed distance of c + 0.2 from [-0.1, 0.1].
    torch.testing.assert_close(state.multiplier, torch.tensor([3.0, 2.0, 0.5, -2.0, 1.0]))


def test_a_round_that_is_not_over_says_nothing(shell: FitOnShell):
    c, before = torch.full((5,), 0.9), torch.full((5,), 0.1)
    state = after_a_round(shell, c, before, torch.zeros(5, dtype=torch.bool))
    assert torch.equal(state.multiplier, shell.multiplier)
    assert torch.equal(state.penalty, shell.penalty) and torch.equal(state.gap, before)
