"""The one loop: order, compaction, books, observers and interruption, with tiny methods."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor
from toys import ExactPrior, Identity, JointDescent, Masked, Matrix, Scale, close, normal

from plugip.loop import Interrupted, solve
from plugip.method import Info, Solution, join, take
from plugip.noise import GaussianNoise
from plugip.operators import BlindTurbulence
from plugip.problem import Problem
from plugip.rng import Rng
from plugip.stopping import Budget, Stopped

IMAGE = (1, 4, 4)
IDS = ["a", "b", "c", "d"]


def problem(batch: int = 4) -> Problem:
    """Images of size 0.1, 0.2, ...: a method that counts to the size ends at other steps."""
    y = torch.arange(1.0, batch + 1).reshape(-1, 1, 1, 1) / 10 * torch.ones(batch, *IMAGE)
    scale = Scale(torch.ones(batch, 1, 1, 1))
    return Problem(y, scale, GaussianNoise(0.1), ExactPrior(torch.zeros(IMAGE)))


@dataclass(frozen=True)
class State:
    """Estimate, streams, and the steps left of each image, nested on purpose."""

    x: Tensor
    rng: Rng
    left: dict[str, list[Tensor]]


@dataclass(frozen=True)
class Counted:
    """Makes k steps for the image whose y is k / 10; each adds fresh noise of that image.

    A step costs one NFE and one VJP, ``finish`` one NFE.
    """

    scale: float = 0.01

    def init(self, problem: Problem, rng: Rng) -> State:
        left = (problem.y.flatten(1).amax(1) * 10).round()
        return State(torch.zeros_like(problem.y), rng, {"steps": [left]})

    def step(self, problem: Problem, state: State) -> tuple[State, Info]:
        with torch.enable_grad():
            x = state.x.detach().requires_grad_()
            x0 = problem.prior(x, torch.tensor(0.5))
            (grad,) = torch.autograd.grad(x0.sum(), x)
        noise = state.rng.normal(IMAGE, like=state.x)
        left = state.left["steps"][0] - 1
        moved = State(state.x + self.scale * (grad + noise), state.rng, {"steps": [left]})
        return moved, Info(moved.x, left, left <= 0)

    def finish(self, problem: Problem, state: State) -> Tensor:
        with torch.no_grad():
            return problem.prior(state.x, torch.tensor(0.5))

    def seed(self, state: State) -> Tensor:
        return 10 * state.x


@dataclass(frozen=True)
class Endless(Counted):
    """Never says that it is done; ends by its number of iterations."""

    iterations: int = 3

    def step(self, problem: Problem, state: State) -> tuple[State, Info]:
        state, info = super().step(problem, state)
        return state, replace(info, done=torch.zeros_like(info.done))


@dataclass(frozen=True)
class Interrupts(Counted):
    """Ctrl-C comes in the step, or in the init, of one image."""

    at: float = 0.3
    after: int = 1
    where: str = "step"

    def init(self, problem: Problem, rng: Rng) -> State:
        state = super().init(problem, rng)
        self.interrupt("init", problem, state, 0)
        return state

    def step(self, problem: Problem, state: State) -> tuple[State, Info]:
        self.interrupt("step", problem, state, self.after)
        return super().step(problem, state)

    def interrupt(self, where: str, problem: Problem, state: State, after: int) -> None:
        size = problem.y.flatten(1).amax(1)
        made = (10 * size - state.left["steps"][0]).round()
        if where == self.where and bool(((size - self.at).abs() < 1e-6)[made == after].any()):
            raise KeyboardInterrupt


class Log:
    """An observer that writes down what it sees."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, list[int]]] = []

    def __call__(self, step: int, rows: list[int], info: Info) -> None:
        assert len(info.x_hat) == len(info.loss) == len(info.done) == len(rows)
        assert info.residual is not None
        self.seen.append((step, list(rows)))


def equal(a: Solution, b: Solution) -> None:
    """Everything but time and memory."""
    for name in ("x_hat", "last", "z"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    for name in ("steps", "nfe", "vjps", "diagnostics"):
        assert getattr(a, name) == getattr(b, name), name
    for one, other in zip(a.trace, b.trace, strict=True):
        assert torch.equal(one.loss, other.loss) and torch.equal(one.residual, other.residual)


# -----------------------------------------------------------------------------------------------
# order and batching


def test_answers_come_in_the_order_of_the_batch():
    p = problem()
    back = p.select([3, 2, 1, 0])
    forwards = solve(p, Counted(), ids=IDS, rows=4)
    backwards = solve(back, Counted(), ids=IDS[::-1], rows=4)
    assert forwards.steps == [1, 2, 3, 4] and backwards.steps == [4, 3, 2, 1]
    assert torch.equal(forwards.x_hat.flip(0), backwards.x_hat)


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 9])
def test_any_number_of_rows_gives_the_same(rows: int):
    equal(solve(problem(), Counted(), ids=IDS, rows=rows), solve(problem(), Counted(), ids=IDS))


def test_on_a_cpu_images_are_solved_one_at_a_time():
    log = Log()
    solve(problem(3), Counted(), observer=log)
    assert log.seen == [(1, [0]), (1, [1]), (2, [1]), (1, [2]), (2, [2]), (3, [2])]


def test_images_that_are_done_leave_the_batch():
    log = Log()
    solve(problem(3), Counted(), rows=3, observer=log)
    assert log.seen == [(1, [0, 1, 2]), (2, [1, 2]), (3, [2])]


def test_chunks_keep_their_positions():
    log = Log()
    solve(problem(4).select([1, 0, 3, 2]), Counted(), rows=2, observer=log)
    assert log.seen == [(1, [0, 1]), (2, [0]), (1, [2, 3]), (2, [2, 3]), (3, [2, 3]), (4, [2])]


def test_an_image_is_solved_as_if_it_were_alone():
    p = problem()
    together = solve(p, Counted(), ids=IDS, rows=4)
    for i in range(4):
        equal(solve(p.select([i]), Counted(), ids=[IDS[i]]), together.select(i))


def test_streams_may_be_given():
    p = problem()
    given = solve(p, Counted(), Rng(5, "solve", IDS))
    equal(given, solve(p, Counted(), 5, ids=IDS))
    assert not torch.equal(given.x_hat, solve(p, Counted(), 6, ids=IDS).x_hat)


def test_the_number_of_streams_must_fit():
    with pytest.raises(ValueError, match="rng has 3 streams for a batch of 4 images"):
        solve(problem(), Counted(), Rng(0, "solve", IDS[:3]))


@pytest.mark.parametrize("rows", [0, -2])
def test_rows_must_be_positive(rows: int):
    with pytest.raises(ValueError, match=f"rows must be at least 1, got {rows}"):
        solve(problem(), Counted(), rows=rows)


# -----------------------------------------------------------------------------------------------
# books


@pytest.mark.parametrize("rows", [1, 4])
def test_costs_are_counted_per_image(rows: int):
    solution = solve(problem(), Counted(), rows=rows)
    assert solution.steps == [1, 2, 3, 4]
    assert solution.vjps == [1, 2, 3, 4]
    assert solution.nfe == [2, 3, 4, 5]  # one more in ``finish``, for these images only


def test_costs_start_at_zero_for_each_run():
    p = problem()
    assert solve(p, Counted()).nfe == solve(p, Counted()).nfe


@pytest.mark.parametrize("rows", [1, 4])
def test_traces_are_as_long_as_the_steps(rows: int):
    solution = solve(problem(), Counted(), rows=rows)
    assert [len(t.loss) for t in solution.trace] == [1, 2, 3, 4]
    assert [t.loss.tolist() for t in solution.trace][2] == [2, 1, 0]
    assert [len(t.residual) for t in solution.trace] == [1, 2, 3, 4]


def test_the_residual_is_computed_where_the_method_has_none():
    p = problem()
    solution = solve(p, Counted(), rows=4)
    for i, trace in enumerate(solution.trace):
        want = (solution.last[i] - p.y[i]).square().mean().sqrt()
        close(trace.residual[-1], want, 1e-6)


def test_the_answer_the_last_iterate_and_the_seed_are_kept_apart():
    solution = solve(problem(), Counted(), rows=4)
    close(solution.z, 10 * solution.last, 1e-6)  # type: ignore[arg-type]
    gain = 0.5 * 0.09 / (0.25 * 0.09 + 0.25)
    close(solution.x_hat, gain * solution.last, 1e-6)


def test_diagnostics_belong_to_the_answer():
    p = problem()
    solution = solve(p, Counted(), rows=4)
    want = (solution.x_hat - p.y).square().flatten(1).mean(1).sqrt() / 0.1
    got = torch.tensor([d.residual_to_noise for d in solution.diagnostics])
    close(got, want, 1e-5)


def test_iterations_are_the_limit():
    solution = solve(problem(), Endless(), rows=4)
    assert solution.steps == [3, 3, 3, 3] and solution.vjps == [3, 3, 3, 3]
    assert solve(problem(), Endless(iterations=1)).steps == [1, 1, 1, 1]


def test_an_image_may_end_before_the_limit():
    @dataclass(frozen=True)
    class Limited(Counted):
        iterations: int = 3

    assert solve(problem(), Limited(), rows=4).steps == [1, 2, 3, 3]


def test_time_and_memory_are_measured():
    solution = solve(problem(), Counted(), rows=4)
    assert all(s > 0 for s in solution.seconds) and solution.seconds == sorted(solution.seconds)
    assert (solution.peak_memory or 0) > 2**20


def test_a_loss_that_was_not_detached_keeps_no_graph():
    class Careless(Endless):
        def step(self, problem: Problem, state: State) -> tuple[State, Info]:
            state, info = super().step(problem, state)
            return state, replace(info, loss=info.loss.clone().requires_grad_() * 1)

    assert not solve(problem(), Careless()).trace[0].loss.requires_grad


def test_a_method_without_a_seed_has_none():
    class Seedless:
        iterations = 1

        def init(self, problem: Problem, rng: Rng) -> None:
            return None

        def step(self, problem: Problem, state: None) -> tuple[None, Info]:
            loss = torch.zeros(problem.batch)
            return None, Info(problem.y, loss, loss > 0, loss)

        def finish(self, problem: Problem, state: None) -> Tensor:
            return problem.y

    solution = solve(problem(), Seedless())
    assert solution.z is None and solution.diagnostics[0].seed_norm is None
    assert torch.equal(solution.x_hat, problem().y)


# -----------------------------------------------------------------------------------------------
# interruption


def positions(parts: list[tuple[int, Solution]]) -> list[int]:
    return [i for i, _ in parts]


def test_ctrl_c_carries_what_was_reached():
    with pytest.raises(Interrupted) as caught:
        solve(problem(), Interrupts(after=2), ids=IDS)  # in the third image's third step
    assert positions(caught.value.finished) == [0, 1]
    assert positions(caught.value.partial) == [2]
    whole = solve(problem(), Counted(), ids=IDS)
    for i, solution in caught.value.finished:
        equal(solution, whole.select(i))
    partial = caught.value.partial[0][1]
    assert partial.steps == [2] and torch.equal(partial.trace[0].loss, whole.trace[2].loss[:2])


def test_ctrl_c_in_a_batch_that_lost_images():
    with pytest.raises(Interrupted) as caught:
        solve(problem(), Interrupts(after=2), ids=IDS, rows=4)  # two are done
    assert positions(caught.value.finished) == [0, 1]
    assert positions(caught.value.partial) == [2, 3]

    @dataclass(frozen=True)
    class Twice(Endless):
        iterations: int = 2

    short = solve(problem(), Twice(), ids=IDS)
    for i, solution in caught.value.partial:
        equal(solution, short.select(i))  # the right image, also for the last iterate


def test_ctrl_c_before_the_first_step():
    with pytest.raises(Interrupted) as caught:
        solve(problem(), Interrupts(after=0), ids=IDS)
    assert positions(caught.value.finished) == [0, 1] and caught.value.partial == []


def test_ctrl_c_while_an_image_is_being_set_up():
    with pytest.raises(Interrupted) as caught:
        solve(problem(), Interrupts(where="init"), ids=IDS)
    assert positions(caught.value.finished) == [0, 1] and caught.value.partial == []


def test_an_observer_may_interrupt():
    def stop(step: int, rows: list[int], info: Info) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted) as caught:
        solve(problem(), Counted(), rows=4, observer=stop)
    assert positions(caught.value.finished) == [0]
    assert [s.steps for _, s in caught.value.partial] == [[2], [2], [2]]


def test_an_interruption_is_a_keyboard_interrupt():
    assert issubclass(Interrupted, KeyboardInterrupt)


# -----------------------------------------------------------------------------------------------
# take, join, select


Pair = namedtuple("Pair", ["x", "count"])


@dataclass(frozen=True)
class Deep:
    """A state with everything that a state may hold."""

    parts: tuple[Tensor, list[Any], dict[str, Any]]
    pair: Pair
    rng: Rng
    operator: Masked
    shared: Tensor
    number: int
    nothing: None
    derived: int = field(init=False, default=7)


def deep() -> Deep:
    x = torch.arange(3.0)
    return Deep(
        (x, [x + 10, {"h": x[:, None, None].expand(3, 2, 2)}], {"none": None}),
        Pair(x + 20, 5),
        Rng(0, "solve", ["a", "b", "c"]),
        Masked(torch.arange(3.0).reshape(3, 1, 1, 1)),
        torch.tensor(9.0),
        4,
        None,
    )


def test_take_reaches_every_part_of_a_state():
    taken = take(deep(), [2, 0])
    assert taken.parts[0].tolist() == [2, 0] and taken.parts[1][0].tolist() == [12, 10]
    assert taken.parts[1][1]["h"][:, 1, 1].tolist() == [2, 0]
    assert isinstance(taken.pair, Pair) and taken.pair.x.tolist() == [22, 20]
    assert taken.pair.count == 5 and taken.number == 4 and taken.nothing is None
    assert taken.operator.mask.flatten().tolist() == [2, 0]
    assert float(taken.shared) == 9 and taken.derived == 7


def test_taken_streams_go_on_where_they_stand():
    rng, same = Rng(0, "solve", ["a", "b"]), Rng(0, "solve", ["a", "b"])
    rng.normal((2,))
    same.normal((2,))
    assert torch.equal(take(rng, [1]).normal((3,)), same.normal((3,))[1:])


def test_take_of_a_problem_selects_its_images():
    assert take(problem(), [3]).y.flatten()[0] == pytest.approx(0.4)


def test_take_copies_rather_than_points():
    state = [torch.zeros(3)]
    take(state, [0, 1])[0] += 1
    assert not state[0].any()


def test_a_solution_of_one_image_is_a_batch_of_one():
    one = solve(problem(), Counted(), rows=4).select(2)
    assert one.x_hat.shape == (1, *IMAGE) and one.steps == [3]
    assert len(one.trace) == len(one.diagnostics) == len(one.seconds) == 1


def test_join_undoes_select():
    whole = solve(problem(), Counted(), rows=4)
    equal(join([whole.select(i) for i in range(4)]), whole)


def test_join_keeps_a_blind_unknown():
    whole = replace(solve(problem(2), Counted()), theta=normal(2, 5))
    joined = join([whole.select(0), whole.select(1)])
    assert joined.theta is not None and torch.equal(joined.theta, whole.theta)  # type: ignore[arg-type]


def test_several_unknowns_are_selected_and_joined_by_name():
    theta = {"gain": normal(2, 1), "kernel": normal(2, 1, 3, 3)}
    whole = replace(solve(problem(2), Counted()), theta=theta)
    joined = join([whole.select(0), whole.select(1)])
    assert isinstance(joined.theta, dict) and whole.select(1).theta["gain"].shape == (1, 1)  # type: ignore[index]
    assert all(torch.equal(joined.theta[name], theta[name]) for name in theta)


def blind_problem(batch: int = 2) -> Problem:
    prior = ExactPrior(torch.zeros(3, 12, 12))
    y = normal(batch, 3, 12, 12, dtype=torch.float32).clamp(-1, 1)
    return Problem(y, BlindTurbulence(5), GaussianNoise(0.1), prior)


def test_a_blind_problem_is_known_once_theta_is():
    p = blind_problem()
    assert p.blind and p.known(p.operator.init_theta(Rng(0, "z", ["a", "b"]), p.y)).blind is False  # type: ignore[operator]
    with pytest.raises(TypeError, match="BlindTurbulence has an unknown part; give theta"):
        p.known(None)
    plain = problem()
    assert not plain.blind and plain.known(None) is plain


def test_residuals_of_a_blind_solution_belong_to_its_unknown():
    p = blind_problem()
    solution = solve(p, JointDescent(4), ids=["a", "b"])
    known = p.known(solution.theta)
    short = solve(p, JointDescent(3), ids=["a", "b"])
    assert all(
        a < b for a, b in zip(solution.trace[0].loss[1:], solution.trace[0].loss[:-1], strict=True)
    )
    assert not torch.equal(solution.theta["kernel"], short.theta["kernel"])  # type: ignore[index]
    residual = known.residual(known.operator(solution.last))
    close(residual, torch.stack([t.residual[-1] for t in solution.trace]), 1e-6)


def test_the_picked_unknown_belongs_to_the_picked_image():
    p, short = blind_problem(), solve(blind_problem(), JointDescent(2), ids=["a", "b"])
    picked = solve(p, Stopped(JointDescent(5), Budget(2), halt=False), ids=["a", "b"])
    assert picked.steps == [5, 5] and picked.answer_steps == [2, 2]
    assert all(torch.equal(picked.theta[n], short.theta[n]) for n in ("tilt", "kernel"))  # type: ignore[index]


def test_what_one_image_lacks_the_batch_lacks():
    whole = solve(problem(2), Counted())
    assert join([whole.select(0), replace(whole.select(1), z=None)]).z is None


def test_operators_of_any_output_can_be_solved():
    prior = ExactPrior(torch.zeros(IMAGE))
    matrix = Matrix(normal(5, 16, dtype=torch.float32), IMAGE)

    class Still(Endless):
        def init(self, problem: Problem, rng: Rng) -> State:
            x = torch.zeros(problem.batch, *IMAGE)
            return State(x, rng, {"steps": [torch.ones(problem.batch)]})

    p = Problem(torch.zeros(2, 5), matrix @ Identity(), GaussianNoise(0.1), prior)
    assert solve(p, Still()).x_hat.shape == (2, *IMAGE)
