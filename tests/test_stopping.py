"""Stopping rules: hand-computed picks, per image, blind to neighbours."""

import math
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from plugip.diagnostics import Certificate
from plugip.loop import solve
from plugip.method import Info
from plugip.methods import DMPlug
from plugip.noise import GaussianNoise, LaplaceNoise, Noise, UnknownNoise
from plugip.problem import Problem
from plugip.rng import Rng
from plugip.stopping import ESEMV, ESWMV, BestLoss, Budget, ByNoise, Discrepancy, Rule, Stopped
from plugip.testing import check_method
from plugip.testing.methods import toy_problem


class Script:
    """A method that plays given images, with given losses and residuals."""

    def __init__(self, images: Tensor, residual: Tensor | None = None) -> None:
        self.images, self.iterations = images, len(images)
        self.residual = (
            residual if residual is not None else torch.ones(len(images), images.shape[1])
        )

    def init(self, problem: Problem, rng: Rng) -> int:
        return 0

    def step(self, problem: Problem, state: int) -> tuple[int, Info]:
        x, r = self.images[state], self.residual[state]
        return state + 1, Info(x, r, torch.zeros_like(r, dtype=torch.bool), r)

    def finish(self, problem: Problem, state: int) -> Tensor:
        return self.images[state - 1]


def play(rule, images: Tensor, residual: Tensor | None = None):
    p = toy_problem()
    stopped = Stopped(Script(images, residual), rule, halt=False)
    state = stopped.init(p, Rng(0, "solve", ["a", "b", "c"]))
    for _ in range(len(images)):
        state, _ = stopped.step(p, state)
    return stopped, state


def walk(steps: int) -> Tensor:
    # Each image settles, rests for a while, and then drifts off; rests end at different steps.
    t = torch.arange(steps, dtype=torch.float64)[:, None]
    rest = torch.tensor([20.0, 30.0, 40.0])
    level = torch.where(t < rest, (t - rest).square() / 2000, (t - rest) / 300)
    pattern = torch.linspace(0.1, 1, 192, dtype=torch.float64).reshape(3, 8, 8)
    return level[:, :, None, None, None] * pattern


def brute_force_pick(images: Tensor, window: int) -> list[int]:
    def variance(end: int, b: int) -> float:
        part = images[end - window : end, b].flatten(1)
        return float((part - part.mean(0)).square().sum() / window / part.shape[1])

    ends = range(window, len(images) + 1)
    return [min(ends, key=lambda end: variance(end, b)) for b in range(images.shape[1])]


@pytest.mark.parametrize("window", [2, 5, 10])
def test_es_wmv_picks_the_window_of_least_variance(window: int):
    images = walk(70)
    stopped, state = play(ESWMV(window, 1000), images)
    assert stopped.picked_step(state).tolist() == brute_force_pick(images, window)


def test_es_wmv_keeps_the_image_of_its_pick():
    images = walk(70)
    stopped, state = play(ESWMV(5, 1000), images)
    for b, step in enumerate(stopped.picked_step(state).tolist()):
        assert torch.equal(stopped.finish(toy_problem(), state)[b], images[step - 1, b])


def test_es_wmv_by_hand():
    # Values 4, 2, 1, 1, 3 with W = 2 have variances 1, 1/4, 0, 1: the pick is step 4.
    levels = torch.tensor([4.0, 2.0, 1.0, 1.0, 3.0]).double() / 10
    images = levels[:, None, None, None, None].expand(5, 3, 3, 8, 8)
    stopped, state = play(ESWMV(2, 100), images)
    assert stopped.picked_step(state).tolist() == [4, 4, 4]


def test_es_wmv_stops_after_its_patience():
    rule, p = ESWMV(2, 3), toy_problem()
    state = rule.init(p)
    stops = []
    for x in walk(60):
        state, verdict = rule.update(p, state, Info(x, x[:, 0, 0, 0], x[:, 0, 0, 0] > 9))
        stops.append(verdict.stop)
    first = torch.stack(stops).int().argmax(0) + 1
    assert first.tolist() == [s + 3 for s in brute_force_pick(walk(60), 2)]


RULES: list[Rule[Any]] = [
    ESWMV(3, 100),
    ESEMV(0.5, 100, 1),
    Discrepancy(),
    BestLoss(),
    Budget(4),
    ByNoise(unknown=ESWMV(3, 100)),
]


def unchanged(state: Any) -> list[Any]:
    """All that a state holds, copied."""
    return [v.clone() if isinstance(v, Tensor) else v for v in flattened(state)]


def flattened(state: Any) -> list[Any]:
    if is_dataclass(state) and not isinstance(state, type):
        return [v for f in fields(state) for v in flattened(getattr(state, f.name))]
    if isinstance(state, tuple):
        return [v for part in state for v in flattened(part)]
    return [state]


@pytest.mark.parametrize("rule", RULES, ids=lambda r: type(r).__name__)
def test_a_rule_leaves_the_state_that_it_is_given(rule: Rule[Any]):
    p, images = toy_problem(), walk(8)
    state = rule.init(p)

    def report(x: Tensor) -> Info:
        return Info(x, x.flatten(1).mean(1), x[:, 0, 0, 0] > 9, x.flatten(1).norm(dim=1))

    for x in images[:5]:
        state, _ = rule.update(p, state, report(x))
    before = unchanged(state)
    verdicts = [rule.update(p, state, report(x))[1] for x in (images[5], 3 * images[6], images[5])]
    for was, now in zip(before, flattened(state), strict=True):
        assert torch.equal(was, now) if isinstance(was, Tensor) else was == now
    assert torch.equal(verdicts[0].pick, verdicts[2].pick)


@pytest.mark.parametrize("rule", [ESWMV(3, 100), ESEMV(0.5, 100, 1)], ids=["wmv", "emv"])
def test_one_image_that_is_no_number_is_never_picked_and_soon_forgotten(rule: Rule[Any]):
    p, images = toy_problem(), walk(40)
    images[10] = torch.nan
    images[30, :, 0, 0, 0] = torch.inf  # one pixel suffices
    images[20:] = images[20] + 1e-3 * (images[20:] - images[20])  # it settles at last
    state = rule.init(p)
    for step, x in enumerate(images):
        state, verdict = rule.update(p, state, Info(x, x[:, 0, 0, 0], x[:, 0, 0, 0] > 9))
        assert step not in (10, 30) or not bool(verdict.pick.any())
    assert torch.isfinite(state.best).all() and float(state.best.max()) < 1e-6


def test_es_wmv_without_a_full_window_answers_with_the_last_iterate():
    images = walk(6)
    stopped, state = play(ESWMV(10, 5), images)
    assert stopped.picked_step(state).tolist() == [0, 0, 0]
    assert torch.equal(stopped.finish(toy_problem(), state), images[-1])


def test_es_emv_by_hand():
    # Values 4, 2, 2, 2, 2, 3 in tenths with alpha 1/2: delta 0, -2, -1, -1/2, -1/4, 7/8 and
    # v = 0, 1, 3/4, 7/16, 15/64, 79/256: without the first step the pick is step 5.
    levels = torch.tensor([4.0, 2.0, 2.0, 2.0, 2.0, 3.0]).double() / 10
    images = levels[:, None, None, None, None].expand(6, 3, 3, 8, 8)
    stopped, state = play(ESEMV(0.5, 100, 1), images)
    assert stopped.picked_step(state).tolist() == [5, 5, 5]
    expected = torch.full((3,), 0.01 * 79 / 256).double()
    torch.testing.assert_close(state.rule.variance, expected)


def test_es_emv_stops_after_its_patience():
    rule, p = ESEMV(0.5, 2, 1), toy_problem()
    state, stops = rule.init(p), []
    for level in (4.0, 2.0, 2.0, 3.0, 1.0, 4.0):
        x = torch.full((3, 3, 8, 8), level / 10).double()
        state, verdict = rule.update(p, state, Info(x, x[:, 0, 0, 0], x[:, 0, 0, 0] > 9))
        stops.append(verdict.stop.tolist())
    assert stops.index([True] * 3) + 1 == 6  # the least variance at step 4, two more without


def test_discrepancy_picks_the_first_residual_below_the_noise():
    # m = 192 observed entries: the limit is 1 + 2 sqrt(2/192) = 1.204, std 0.05.
    ratio = torch.tensor([[3.0, 3.0, 3.0], [1.2, 1.09, 2.0], [0.9, 0.5, 1.5], [0.8, 0.4, 1.3]])
    stopped, state = play(Discrepancy(), walk(4), 0.05 * ratio)
    assert stopped.picked_step(state).tolist() == [3, 2, 0]


def test_discrepancy_needs_a_noise_level():
    p = toy_problem()
    unknown = Problem(p.y, p.operator, UnknownNoise(), p.prior)
    with pytest.raises(TypeError, match="es_wmv"):
        solve(unknown, Stopped(DMPlug(), Discrepancy()))


def test_the_noise_chooses_the_rule():
    p, method = toy_problem(), DMPlug(iterations=12, seed_weight=0.0)
    rule = ByNoise(Discrepancy(3.0), ESWMV(3, 4))
    unknown = Problem(p.y, p.operator, UnknownNoise(), p.prior)
    for problem, chosen in ((p, rule.known), (unknown, rule.unknown)):
        found, due = (solve(problem, Stopped(method, r)) for r in (rule, chosen))
        assert found.answer_steps == due.answer_steps
        assert torch.equal(found.x_hat, due.x_hat)


def test_best_loss_picks_the_least():
    losses = torch.tensor([[3.0, 1.0, 2.0], [1.0, 2.0, 2.5], [2.0, 3.0, 0.5]])
    stopped, state = play(BestLoss(), walk(3), losses)
    assert stopped.picked_step(state).tolist() == [2, 1, 3]


def test_budget_ends_a_run_and_answers_with_its_last_step():
    solution = solve(toy_problem(), Stopped(DMPlug(iterations=9), Budget(4)))
    plain = solve(toy_problem(), DMPlug(iterations=4))
    assert solution.steps == solution.answer_steps == [4, 4, 4]
    assert torch.equal(solution.x_hat, plain.x_hat)


def test_the_seed_belongs_to_the_pick():
    p, method = toy_problem(), DMPlug(iterations=12)
    solution = solve(p, Stopped(method, Discrepancy(tau=3.0), halt=False))
    assert solution.z is not None
    x = method.generator(p.prior, solution.z).clamp(-1, 1)
    torch.testing.assert_close(x, solution.x_hat)


def test_halt_off_keeps_the_last_iterate_beside_the_pick():
    method = DMPlug(iterations=12)
    solution = solve(toy_problem(), Stopped(method, Discrepancy(tau=3.0), halt=False))
    assert torch.equal(solution.last, solve(toy_problem(), method).last)
    assert not torch.equal(solution.last, solution.x_hat)
    assert all(
        0 < pick < step for pick, step in zip(solution.answer_steps, solution.steps, strict=True)
    )


@pytest.mark.parametrize(
    "rule", [ESWMV(3, 4), ESEMV(0.3, 4, 2), Discrepancy(), BestLoss(), Budget(3), ByNoise()]
)
def test_stopped_methods_pass_check_method(rule):
    check_method(Stopped(DMPlug(iterations=8), rule)).require()


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="window >= 2"):
        ESWMV(window=1)
    with pytest.raises(ValueError, match="alpha must lie in"):
        ESEMV(alpha=1.0)
    with pytest.raises(ValueError, match="patience >= 1"):
        ESEMV(patience=0)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        Budget(0)
    with pytest.raises(ValueError, match="tau must be positive"):
        Discrepancy(tau=0.0)


# --- limits, bounds and ends


@dataclass(frozen=True)
class OneLevel(GaussianNoise):
    """Noise whose level is known, but not how much its residuals vary."""

    excess_kurtosis = None  # type: ignore[assignment]


def limits(noise: Noise, tau: float | None) -> Tensor:
    p = toy_problem()
    return Discrepancy(tau).init(Problem(p.y, p.operator, noise, p.prior)).limit


@pytest.mark.parametrize("std", [0.3, 0.05])
def test_the_discrepancy_s_limit_in_numbers(std: float):
    # m = 192: the mean of the squared residual over m is std², its deviation sqrt((2 + k) / m).
    for noise, kurtosis in ((GaussianNoise(std), 0.0), (LaplaceNoise(std / math.sqrt(2)), 3.0)):
        want = std * math.sqrt(1 + 2 * math.sqrt((2 + kurtosis) / 192))
        assert limits(noise, None).tolist() == pytest.approx([want] * 3)
    for noise in (GaussianNoise(std), OneLevel(std)):
        for tau in (0.5, 1.0, 3.0):
            assert limits(noise, tau).tolist() == pytest.approx([std * math.sqrt(tau)] * 3)
    with pytest.raises(TypeError, match="OneLevel does not state as excess_kurtosis"):
        limits(OneLevel(std), None)


def test_the_discrepancy_stops_on_its_limit_too():
    p, rule = toy_problem(), Discrepancy()
    state = rule.init(p)
    _, verdict = rule.update(p, state, Info(p.y, state.limit, state.limit > 9, state.limit))
    assert verdict.pick.all() and verdict.stop.all()


def test_the_best_loss_is_the_first_of_equal_ones_and_stops_nothing():
    losses = torch.tensor([[3.0, 1.0, 2.0], [1.0, 1.0, 2.0], [1.0, 1.0, 2.0]])
    stopped, state = play(BestLoss(), walk(3), losses)
    assert stopped.picked_step(state).tolist() == [2, 1, 1]
    method = DMPlug(iterations=3)
    assert solve(toy_problem(), Stopped(method, BestLoss())).steps == [3, 3, 3]


def test_a_budget_of_one_step_makes_one():
    assert solve(toy_problem(), Stopped(DMPlug(iterations=9), Budget(1))).steps == [1, 1, 1]


class Telling(Script):
    """A script that also tells of a seed, an unknown of two parts and a certificate."""

    def told(self, step: int, of: float) -> Tensor:
        return of * torch.arange(3.0) + step

    def seed(self, state: int) -> Tensor:
        return self.told(state, 10)

    def theta(self, state: int) -> dict[str, Tensor]:
        return {"a": self.told(state, 100), "b": self.told(state, 1000)}

    def certificate(self, state: int) -> Certificate:
        return Certificate(self.told(state, 7), self.told(state, 70))


def test_all_that_is_told_of_an_iterate_belongs_to_the_pick():
    # The first image is picked at step 1, the second at step 3, the last one never.
    residual = 0.05 * torch.tensor([[0.5, 2.0, 2.0], [0.4, 2.0, 2.0], [0.3, 0.5, 2.0], [3.0] * 3])
    images = walk(4)
    stopped = Stopped(Telling(images, residual), Discrepancy(), halt=False)
    state = stopped.init(toy_problem(), Rng(0, "solve", ["a", "b", "c"]))
    assert torch.equal(stopped.seed(state), stopped.method.told(0, 10))  # type: ignore
    for _ in range(4):
        state, _ = stopped.step(toy_problem(), state)
    assert stopped.picked_step(state).tolist() == [1, 3, 0]
    steps = torch.tensor([1.0, 3.0, 4.0])
    answer = stopped.finish(toy_problem(), state)
    assert torch.equal(answer, torch.stack([images[0, 0], images[2, 1], images[3, 2]]))
    told = {"z": stopped.seed(state), **stopped.theta(state)}  # type: ignore[dict-item]
    certificate = stopped.certificate(state)
    told |= {"s": certificate.stationarity, "v": certificate.violation}  # type: ignore
    for of, found in zip((10, 100, 1000, 7, 70), told.values(), strict=True):
        assert torch.equal(found, of * torch.arange(3.0) + steps)


@pytest.mark.parametrize(
    ("rule", "first", "stop"),
    [(ESWMV(4, 3), 4, 7), (ESWMV(2, 1), 2, 3), (ESEMV(0.5, 3, 2), 3, 6), (ESEMV(0.5, 1, 1), 2, 3)],
)
def test_images_at_rest_are_picked_and_end_at_the_first_moment(
    rule: Rule[Any], first: int, stop: int
):
    p, x = toy_problem(), torch.zeros(3, 3, 8, 8)
    state, picks, stops = rule.init(p), [], []
    for step in range(1, 9):
        state, verdict = rule.update(p, state, Info(x, x[:, 0, 0, 0], x[:, 0, 0, 0] > 9))
        picks += [step] * bool(verdict.pick.all())
        stops += [step] * bool(verdict.stop.all())
    assert picks == [first] and stops[0] == stop


def test_the_windowed_variance_is_one_and_never_negative():
    p, images, rule = toy_problem(), walk(8), ESWMV(5, 100)
    state = rule.init(p)
    for x in images[:5]:
        state, _ = rule.update(p, state, Info(x, x[:, 0, 0, 0], x[:, 0, 0, 0] > 9))
    part = images[:5].flatten(2)
    torch.testing.assert_close(state.best, (part - part.mean(0)).square().mean((0, 2)))
    # Sums of equal numbers leave rounding errors of either sign.
    for level in torch.linspace(0.1, 0.9, 40):
        state, x = rule.init(p), torch.full((3, 3, 8, 8), float(level)).double()
        for _ in range(9):
            state, _ = rule.update(p, state, Info(x, x[:, 0, 0, 0], x[:, 0, 0, 0] > 9))
        assert (state.best >= 0).all()


def test_defaults_are_the_published_ones():
    assert (ESWMV().window, ESWMV().patience) == (100, 1000)
    assert (ESEMV().alpha, ESEMV().patience, ESEMV().warmup) == (0.1, 1000, 100)
    assert (Budget().steps, Discrepancy().tau) == (100, None)
