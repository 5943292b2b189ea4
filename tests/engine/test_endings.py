"""How searches end: forgotten histories, lying gradients, and what is said of them."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from plugip.diagnostics import Ending
from plugip.engine.adam import Adam
from plugip.engine.augmented_lagrangian import AugmentedLagrangian
from plugip.engine.lbfgs import LBFGS
from plugip.engine.objective import Evaluation, Objective
from plugip.engine.spaces import Shell
from plugip.loop import solve
from plugip.method import Method, take
from plugip.methods import DIP, ConstrainedSeed, DFlow, DMPlug, FMPlug, MultiStart
from plugip.noise import GaussianNoise, Noise, UnknownNoise
from plugip.operator import Operator
from plugip.problem import Problem
from plugip.stopping import ESWMV, Discrepancy, Stopped
from plugip.testing.methods import toy_problem


@dataclass(frozen=True)
class Logged(Objective):
    """A weighted quadratic per image that notes which images are evaluated."""

    weight: Tensor
    name: Tensor
    log: list[list[int]] = field(default_factory=list)
    sign: float = 1.0

    def evaluate(self, v: Tensor) -> Evaluation:
        self.log.append(self.name.tolist())
        loss = (self.weight * (v - 1) ** 2).sum(1)
        return Evaluation(loss, self.sign * 2 * self.weight * (v - 1), v, loss.sqrt())

    def evaluate_rows(self, v: Tensor, rows: list[int]) -> Evaluation:
        return replace(take(self, rows), log=self.log).evaluate(v[rows])


def logged(*exponents: float, sign: float = 1.0) -> Logged:
    weight = torch.stack([torch.logspace(0, e, 6, dtype=torch.float64) for e in exponents])
    return Logged(weight, torch.arange(len(exponents)), sign=sign)


def test_only_images_whose_line_search_goes_on_are_evaluated():
    together, start = logged(0, 3, 5), torch.zeros(3, 6, dtype=torch.float64)
    state, alone = LBFGS().init(start), [0, 0, 0]
    for _ in range(6):
        state, *_ = LBFGS().step(together, state)
    for i, exponent in enumerate((0, 3, 5)):
        single = logged(exponent)
        state = LBFGS().init(start[:1])
        for _ in range(6):
            state, *_ = LBFGS().step(single, state)
        alone[i] = len(single.log)
    counts = [sum(i in rows for rows in together.log) for i in range(3)]
    assert counts == alone and len(set(counts)) > 1


def misled(objective: Logged, z: Tensor) -> Any:
    """A state whose history expects steps of a length that no search comes back from."""
    state, *_ = LBFGS().step(objective, LBFGS().init(z))
    s = torch.full_like(z, 1e30)[:, None]
    return replace(state, s=s, g=s * 1e-60, weight=torch.ones(len(z), 1).to(z))


def test_a_failed_search_forgets_its_history_and_goes_on():
    objective, solver = logged(2), LBFGS(tolerance=1e-8)
    state = misled(objective, torch.zeros(1, 6, dtype=torch.float64))
    state, z, _, done = solver.step(objective, state)
    assert not bool(done) and torch.equal(z, torch.zeros_like(z))
    for _ in range(40):
        state, *_ = solver.step(objective, state)
    assert state.ending.tolist() == [Ending.CONVERGED]
    torch.testing.assert_close(state.z, torch.ones_like(z), atol=1e-6, rtol=0)


def test_a_gradient_that_points_uphill_leaves_the_image_stuck_and_unbilled():
    objective = logged(0, sign=-1.0)
    state = LBFGS().init(torch.zeros(1, 6, dtype=torch.float64))
    state, *_ = LBFGS().step(objective, state)
    state, *_, done = LBFGS().step(objective, state)
    assert bool(done) and state.ending.tolist() == [Ending.STUCK]
    spent = len(objective.log)
    state, *_ = LBFGS().step(objective, state)
    state, z, _, done = LBFGS().step(objective, state)
    assert len(objective.log) == spent and bool(done) and torch.equal(z, torch.zeros_like(z))
    assert LBFGS().again(state).ending.tolist() == [Ending.OPEN]


@dataclass(frozen=True)
class Plain(Objective):
    """A function of the seed."""

    f: Any

    def evaluate(self, v: Tensor) -> Evaluation:
        with torch.enable_grad():
            leaf = v.detach().requires_grad_()
            loss = self.f(leaf)
            (grad,) = torch.autograd.grad(loss.sum(), leaf)
        return Evaluation(loss.detach(), grad, v, loss.detach())


@pytest.mark.parametrize(
    ("f", "least"),
    [
        (lambda v: -(1e-3 - v[:, 0]).log() - 2000 * v[:, 0], 5e-4),  # no number beyond 1e-3
        (lambda v: (1e4 * v[:, 0]).exp() - 1e5 * v[:, 0], 2.302585093e-4),  # overflows at 0.07
    ],
)
def test_a_wall_far_nearer_than_the_first_trial_is_no_end(f: Any, least: float):
    state, solver = LBFGS().init(torch.zeros(1, 1, dtype=torch.float64)), LBFGS(tolerance=1e-6)
    for _ in range(20):
        state, *_ = solver.step(Plain(f), state)
    assert state.ending.tolist() == [Ending.CONVERGED]
    assert float(state.z) == pytest.approx(least, rel=1e-6)


def test_a_start_without_a_number_ends_at_once():
    state, solver = LBFGS().init(-torch.ones(2, 1)), LBFGS()
    for _ in range(2):
        state, *_ = solver.step(Plain(lambda v: v[:, 0].log()), state)
    assert state.ending.tolist() == [Ending.STUCK] * 2


def test_what_rounding_leaves_at_an_edge_does_not_spoil_steepest_descent():
    box = lambda v: v.clamp(0, 1)  # noqa: E731
    target = torch.tensor([[-1.0, 0.3, 4.0]])

    @dataclass(frozen=True)
    class Boxed(Plain):
        def project(self, v: Tensor) -> Tensor:
            return box(v)

    function = Boxed(lambda z: (torch.tensor([[1.0, 30.0, 5.0]]) * (z - target) ** 2).sum(1))
    state = LBFGS().init(torch.tensor([[0.0, 0.296, 1.0]]))
    for _ in range(6):
        state, *_ = LBFGS(tolerance=1e-8).step(function, state)
    torch.testing.assert_close(state.z, torch.tensor([[0.0, 0.3, 1.0]]), rtol=1e-4, atol=1e-4)


class Rounded(Operator):
    """Rounds, and passes a gradient of the wrong sign through, as a bad surrogate would."""

    def forward(self, x: Tensor) -> Tensor:
        return x.detach() - (x - x.detach())


def lying(noise: Noise) -> Problem:
    p = toy_problem()
    return Problem(p.y, Rounded(), noise, p.prior)


@pytest.mark.parametrize(
    "method",
    [
        DMPlug(30),
        Stopped(DMPlug(30), Discrepancy()),
        MultiStart(DMPlug(30), 2, 3),
        Stopped(MultiStart(DMPlug(30), 2, 3), Discrepancy()),
        ConstrainedSeed(12, solver=AugmentedLagrangian(inner_iterations=6)),
    ],
    ids=["bare", "stopped", "starts", "stopped starts", "constrained"],
)
def test_a_stuck_search_is_named_and_not_sent_on(method: Method[Any]):
    for d in solve(lying(GaussianNoise(0.05)), method).diagnostics:
        assert d.ending is Ending.STUCK and d.explains_y is False
        said = "; ".join(d.sentences())
        assert "stuck" in said and "give it more iterations" not in said


def test_a_stuck_search_is_named_where_the_noise_is_unknown():
    method = Stopped(DMPlug(30, seed_weight=0.0), ESWMV(4, 8))
    for d in solve(lying(UnknownNoise()), method).diagnostics:
        assert any("stuck" in said for said in d.sentences())


def test_a_search_that_was_cut_off_is_sent_on():
    d = solve(toy_problem(), DMPlug(1)).diagnostics[0]
    assert d.ending is Ending.OPEN and "give it more iterations" in d.sentences()[0]
    d = solve(toy_problem(), DMPlug(3, solver=Adam())).diagnostics[0]
    assert d.ending is Ending.OPEN


def test_a_converged_search_that_does_not_explain_y_is_not_sent_on():
    # A seed prior a million times too strong: the minimum is z = 0, far from y.
    d = solve(toy_problem(), DMPlug(60, seed_weight=1e6)).diagnostics[0]
    assert d.ending is Ending.CONVERGED and d.explains_y is False
    said = "; ".join(d.sentences())
    assert "converged" in said and "give it more iterations" not in said


METHODS: list[Method[Any]] = [
    DMPlug(25),
    DMPlug(25, space=Shell()),
    FMPlug(12),
    DFlow(10),
    Stopped(DMPlug(40), Discrepancy()),
    MultiStart(DMPlug(12), 3, 4),
    Stopped(MultiStart(DMPlug(20), 2, 3), Discrepancy()),
    MultiStart(Stopped(DMPlug(20), Discrepancy()), 2, 3),
    ConstrainedSeed(30),
]


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_an_image_pays_for_itself_whatever_the_batch(method: Method[Any]):
    p = toy_problem()
    alone, pairs, all_three = (solve(p, method, 0, rows=rows) for rows in (1, 2, 3))
    assert alone.nfe == pairs.nfe == all_three.nfe
    assert alone.vjps == pairs.vjps == all_three.vjps
    assert alone.steps == pairs.steps == all_three.steps
    assert sum(p.prior.counter._bill.nfe.values()) == 0  # nothing is left open


def test_untrained_networks_are_billed_per_image_too():
    from plugip.untrained import Skip

    method = DIP(3, Skip(scales=1, channels=4, skip_channels=2, code_channels=2))
    assert solve(toy_problem(), method, rows=3).nfe == [3, 3, 3]
