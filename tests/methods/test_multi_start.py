"""Several starts: the right one wins, it runs as if alone, and every call is on the bill."""

from dataclasses import dataclass, replace

import pytest
import torch
from test_dmilo import built
from torch import Tensor
from toys import ExactPrior, Identity, JointDescent, close, normal

from plugip.engine.adam import Adam
from plugip.engine.lbfgs import LBFGS
from plugip.engine.start import GaussianStart
from plugip.loop import solve
from plugip.method import Info, Solution
from plugip.methods import DMILO, DPS, DMPlug, MultiStart
from plugip.noise import GaussianNoise
from plugip.operator import BlindOperator, Operator
from plugip.problem import Problem
from plugip.reverse import Generator
from plugip.rng import Rng
from plugip.stopping import Budget, Stopped
from plugip.testing import check_method
from plugip.testing.methods import toy_problem

IDS = ("a", "b", "c")
SHAPE = (1, 4, 4)


@dataclass(frozen=True)
class WellState:
    x: Tensor
    rng: Rng


@dataclass(frozen=True)
class Well:
    """Descends f(x) = (x² - 1)² / 4 + x / 4 from N(0, 1) per image: a false minimum near 0.9."""

    iterations: int = 60
    jitter: float = 0.0

    def init(self, problem: Problem, rng: Rng) -> WellState:
        return WellState(rng.normal((1, 1, 1)).double(), rng)

    def step(self, problem: Problem, state: WellState) -> tuple[WellState, Info]:
        x = state.x
        loss = ((x**2 - 1) ** 2 / 4 + x / 4).flatten()
        info = Info(x.expand(-1, *SHAPE).clamp(-1, 1), loss, loss < -10)
        noise = self.jitter * state.rng.normal((1, 1, 1)).double()
        return replace(state, x=x - 0.2 * (x**3 - x + 0.25) + noise), info

    def finish(self, problem: Problem, state: WellState) -> Tensor:
        return state.x.expand(-1, *SHAPE).clamp(-1, 1)

    def seed(self, state: WellState) -> Tensor:
        return state.x


class Intensities(Operator):
    """Oversampled Fourier intensities: phases are lost, so there are false minima."""

    def forward(self, x: Tensor) -> Tensor:
        field = torch.fft.fft2(x, s=(8, 8), norm="ortho")
        return field.abs().square()


def flat_problem() -> Problem:
    prior = ExactPrior(torch.zeros(SHAPE, dtype=torch.float64))
    return Problem(normal(3, *SHAPE) / 4, Identity(), GaussianNoise(0.1), prior)


def phase_problem(batch: int = 3) -> Problem:
    """Phase retrieval of small images with a Gaussian prior."""
    prior, operator = ExactPrior(torch.zeros(SHAPE, dtype=torch.float64), 0.5), Intensities()
    x = (normal(batch, *SHAPE, seed=7) / 2).clamp(-1, 1)
    return Problem(operator(x), operator, GaussianNoise(0.01), prior)


def runs(problem: Problem, method, starts: int, seed: int = 0) -> list[Solution]:
    """Every start run alone, by the stream that it is promised."""
    branched = Rng(seed, "solve", IDS).branch(starts)
    streams = [branched.select([i * starts + s for i in range(len(IDS))]) for s in range(starts)]
    return [solve(problem, method, stream) for stream in streams]


def test_the_start_in_the_deeper_well_wins():
    p = flat_problem()
    alone = solve(p, Well(), Rng(0, "solve", IDS))
    several = solve(p, MultiStart(Well(), 8, 20), Rng(0, "solve", IDS))
    assert alone.z is not None and several.z is not None
    deep = -1.1072  # the lower root of x³ - x + 1/4 = 0
    assert float(alone.z.max()) > 0  # some image starts on the wrong side
    close(several.z.flatten(), torch.full((3,), deep, dtype=torch.float64), 1e-3)


PLUG = DMPlug(12, Generator(2), LBFGS(), GaussianStart())


@pytest.mark.parametrize(("method", "by"), [(PLUG, "loss"), (PLUG, "residual"), (DPS(12), "loss")])
def test_the_winner_runs_as_if_it_were_alone(method, by: str):
    p = phase_problem()
    alone = runs(p, method, 4, seed=1)
    solution = solve(p, MultiStart(method, 4, 5, by), Rng(1, "solve", IDS))
    assert solution.start_losses is not None
    winners = solution.start_losses.argmin(dim=1).tolist()
    assert set(winners) != {0}  # so that the choice matters here
    for i, winner in enumerate(winners):
        traces = [getattr(run.trace[i], by) for run in alone]
        judged = torch.stack([trace[4] for trace in traces])
        assert torch.equal(solution.start_losses[i], judged)
        assert winner == int(judged.argmin())
        assert torch.equal(solution.x_hat[i], alone[winner].x_hat[i])
        assert torch.equal(solution.trace[i].loss[5:], alone[winner].trace[i].loss[5:])
        leaders = torch.stack([trace[:5] for trace in traces]).amin(dim=0)
        assert torch.equal(getattr(solution.trace[i], by)[:5], leaders)


@pytest.mark.parametrize("method", [PLUG, DPS(6), Well(30, jitter=0.1)])
@pytest.mark.parametrize("trial", [3, 100])
def test_one_start_is_the_bare_method(method, trial: int):
    p = flat_problem()
    bare, one = solve(p, method), solve(p, MultiStart(method, 1, trial))
    assert torch.equal(bare.x_hat, one.x_hat) and torch.equal(bare.last, one.last)
    assert (bare.steps, bare.nfe, bare.vjps) == (one.steps, one.nfe, one.vjps)
    for a, b in zip(bare.trace, one.trace, strict=True):
        assert torch.equal(a.loss, b.loss) and torch.equal(a.residual, b.residual)


def test_more_starts_help_phase_retrieval():
    p = phase_problem(4)
    method = DMPlug(40, Generator(2), LBFGS(), GaussianStart())
    # The winner of the trial need not win in the end, so an image may fare worse; all do better.
    one, many = solve(p, method, 2), solve(p, MultiStart(method, 8, 8), 2)
    first, second = (torch.stack([t.loss[-1] for t in s.trace]) for s in (one, many))
    assert float(second.sum()) < 0.5 * float(first.sum())


def test_the_trial_costs_as_many_calls_as_there_are_starts():
    method = DMPlug(10, Generator(3), Adam(), GaussianStart())
    for rows in (1, 3):
        solution = solve(toy_problem(), MultiStart(method, 4, 6), rows=rows)
        assert solution.nfe == solution.vjps == [3 * (4 * 6 + 4)] * 3
    assert solution.steps == [10] * 3


def test_a_trial_of_all_steps_answers_with_the_best_end():
    p, method = phase_problem(), PLUG
    alone = runs(p, method, 3)
    solution = solve(p, MultiStart(method, 3, 12), Rng(0, "solve", IDS))
    for i in range(3):
        best = min(alone, key=lambda run, i=i: float(run.trace[i].loss[-1]))
        assert torch.equal(solution.x_hat[i], best.x_hat[i])
    together = [sum(run.nfe[i] for run in alone) for i in range(3)]
    assert all(made >= least for made, least in zip(solution.nfe, together, strict=True))


def test_an_image_ends_in_the_trial_when_all_its_starts_have():
    p = flat_problem()
    method = Stopped(Well(30), Budget(4))
    solution = solve(p, MultiStart(method, 3, 20))
    assert solution.steps == [4] * 3 and solution.answer_steps == [4] * 3


def test_a_rule_around_watches_the_leader():
    p = flat_problem()
    solution = solve(p, Stopped(MultiStart(Well(30), 4, 10), Budget(6)), Rng(0, "solve", IDS))
    assert solution.steps == [6] * 3 and solution.start_losses is not None
    lowest = solution.start_losses.amin(dim=1)
    close(torch.stack([t.loss[-1] for t in solution.trace]), lowest)


def test_a_run_that_breaks_down_never_wins():
    @dataclass(frozen=True)
    class Frail(Well):
        def step(self, problem: Problem, state: WellState) -> tuple[WellState, Info]:
            state, info = super().step(problem, state)
            broken = info.x_hat[:, 0, 0, 0] > 0
            return state, replace(info, loss=torch.where(broken, torch.nan, info.loss))

    solution = solve(flat_problem(), MultiStart(Frail(20), 8, 5), Rng(0, "solve", IDS))
    assert all(bool(torch.isfinite(t.loss).all()) for t in solution.trace)


class Gain(BlindOperator[Tensor]):
    """y = theta² x + theta with one unknown theta per image, drawn by each start."""

    learning_rate_hint = 0.05

    def init_theta(self, rng: Rng, like: Tensor) -> Tensor:
        return rng.normal((1, 1, 1), like=like)

    def constrain(self, theta: Tensor) -> Tensor:
        return theta

    def at(self, theta: Tensor) -> Operator:
        return Known(theta)


class Known(Operator):
    per_image = ("theta",)
    theta: Tensor

    def __init__(self, theta: Tensor) -> None:
        super().__init__()
        self.register_buffer("theta", theta)

    def forward(self, x: Tensor) -> Tensor:
        return self.theta.square() * x + self.theta


@pytest.mark.parametrize("by", ["loss", "residual"])
@pytest.mark.parametrize("method", [PLUG, JointDescent(8, 0.01)])
def test_blind_operators_keep_the_winners_unknown(method, by: str):
    prior = ExactPrior(torch.full(SHAPE, 0.2, dtype=torch.float64))
    p = Problem(normal(3, *SHAPE, seed=4) / 8 - 0.3, Gain(), GaussianNoise(0.1), prior)
    alone = runs(p, method, 4)
    solution = solve(p, MultiStart(method, 4, 3, by), Rng(0, "solve", IDS))
    assert isinstance(solution.theta, Tensor) and solution.start_losses is not None
    winners = solution.start_losses.argmin(dim=1).tolist()
    assert set(winners) != {0}
    for i, winner in enumerate(winners):
        assert torch.equal(solution.theta[i], alone[winner].theta[i])
        assert torch.equal(solution.x_hat[i], alone[winner].x_hat[i])


@pytest.mark.parametrize(
    "method",
    [
        MultiStart(DMPlug(6, Generator(2), start=GaussianStart()), 3, 3),
        MultiStart(DMILO(Generator(2), outer=2, inner=2), 2, 5, "residual"),
        MultiStart(DPS(6), 2, 3),
        Stopped(MultiStart(DMPlug(6, Generator(2), start=GaussianStart()), 2, 3), Budget(4)),
    ],
)
def test_passes_check_method(method):
    check_method(method).require()


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="starts and trial must be at least 1, got 0 and 20"):
        MultiStart(PLUG, 0)
    with pytest.raises(ValueError, match=r"unknown by 'los'.*did you mean 'loss'"):
        MultiStart(PLUG, by="los")


def test_csgm_runs_ten_starts_to_their_end():
    method = built("inpaint_random", "csgm")
    assert method == MultiStart(
        DMPlug(500, Generator(), Adam(0.1), GaussianStart(), 0.002, "mean"), 10, 500
    )


def test_equal_starts_are_refused():
    from_zero = DMPlug(iterations=4, start=GaussianStart(0.0))
    with pytest.raises(ValueError, match=r"all 3 starts .* method.start.scale=1"):
        solve(toy_problem(), MultiStart(from_zero, starts=3))
    assert solve(toy_problem(), MultiStart(from_zero, starts=1)).steps == [4, 4, 4]
