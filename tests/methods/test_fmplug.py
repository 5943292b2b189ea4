"""FMPlug: closed forms, its two ends, the learned time, and guides."""

import pytest
import torch
from PIL import Image
from torch import Tensor
from toys import close, normal

from plugip.engine.adam import Adam
from plugip.engine.guide import ImageGuide, InverseGuide, MeasurementGuide, picture
from plugip.engine.lbfgs import LBFGS
from plugip.engine.spaces import Free, Shell
from plugip.engine.start import GaussianStart, ZeroStart
from plugip.linalg import norm
from plugip.loop import solve
from plugip.methods import DMPlug, FMPlug
from plugip.noise import GaussianNoise, UnknownNoise
from plugip.operator import Operator
from plugip.operators import BicubicDownsample, Denoise, FourierMagnitude
from plugip.path import DiscretePath, EDMPath, FlowPath, ShiftedFlowPath, VPPath
from plugip.prior import Prior
from plugip.priors import GeneratorPrior
from plugip.priors.gaussian import GaussianPrior
from plugip.problem import Problem, measure
from plugip.reverse import Generator
from plugip.rng import Rng
from plugip.testing import check_method
from plugip.testing.methods import toy_problem

TIGHT = LBFGS(tolerance=1e-10)


def fixed(t: float, steps: int = 3, **changes) -> FMPlug:
    """A warm start whose answer has a closed form."""
    settings = {"space": Free(), "seed_weight": 1.0, "start": ZeroStart(), "solver": TIGHT}
    return FMPlug(
        80, Generator(steps), start_time=t, least_time=t, time_step=0.0, **(settings | changes)
    )


@pytest.mark.parametrize("t", [0.2, 0.7])
def test_answer_at_a_fixed_time_is_the_closed_form(t: float):
    p, method = toy_problem(), fixed(t)
    unknowns, v = method.search(p, Rng(0, "solve", ["a", "b", "c"]))
    count = p.prior.shape[0] * p.prior.shape[1] * p.prior.shape[2]
    ones = torch.cat([torch.ones(3, count).double(), v[:, count:]], dim=1)
    offset = p.operator(unknowns.image(p, v))  # z = 0
    slope = p.operator(unknowns.image(p, ones)) - offset
    z = slope * (p.y - offset) / (slope.square() + 0.05**2)
    close(solve(p, method).z.reshape(z.shape), z, 1e-6)  # type: ignore[union-attr]


def test_at_time_one_the_guide_has_no_say():
    p = toy_problem()
    plain = DMPlug(30, Generator(2), TIGHT, GaussianStart())
    close(
        solve(p, fixed(1.0, 2, start=GaussianStart())).x_hat, solve(p, plain).x_hat, tolerance=1e-7
    )


def test_near_time_zero_the_answer_is_the_guide():
    p = toy_problem()
    method = FMPlug(1, Generator(1), start_time=1e-3, least_time=1e-3, time_step=0.0)
    guide = picture(p).clamp(-1, 1)
    assert (solve(p, method).x_hat - guide).abs().max() < 0.01


@pytest.mark.parametrize("solver", [LBFGS(), Adam(0.05)])
@pytest.mark.parametrize("start_time", [0.3, 0.9])
def test_passes_check_method(solver, start_time: float):
    check_method(FMPlug(5, Generator(2), solver, start_time=start_time)).require()


@pytest.mark.parametrize("solver", [LBFGS(), Adam(0.5)])
def test_seed_stays_on_the_shell_and_time_inside(solver):
    p = toy_problem()
    method = FMPlug(10, solver=solver, space=Shell(0.01), time_step=0.5)
    state = method.init(p, Rng(0, "solve", ["a", "b", "c"]))
    for _ in range(10):
        state, _ = method.step(p, state)
        radius = norm(method.seed(state)) / 192**0.5  # type: ignore[arg-type]
        t = state.unknowns.layout.split(state.v)["f"]  # type: ignore[attr-defined]
        assert ((radius > 0.99 - 1e-9) & (radius < 1.01 + 1e-9)).all()
        assert ((t >= 0.3) & (t <= 1)).all()


@pytest.mark.parametrize("path", [FlowPath(), VPPath(), DiscretePath.linear()])
def test_the_time_s_gradient_is_exact(path):
    p = toy_problem()
    prior = GaussianPrior(0.2 * normal(3, 8, 8), 0.3, path).double()
    p = Problem(p.y, p.operator, p.noise, prior)
    method = FMPlug(5, Generator(2), start_time=0.4567)
    state = method.init(p, Rng(0, "solve", ["a", "b", "c"]))
    objective, step = method.objective(p, state), torch.zeros_like(state.v)
    step[:, -1] = 1e-6
    slope = (objective(state.v + step) - objective(state.v - step)) / 2e-6
    close(objective.evaluate(state.v).grad[:, -1], slope, 1e-4)


EVERY = [FlowPath(), ShiftedFlowPath(3.0), VPPath(), EDMPath(), DiscretePath.linear()]


@pytest.mark.parametrize("path", EVERY)
def test_times_are_the_same_noise_on_every_path(path):
    """The state at which the reverse process starts is 0.7 z + 0.3 g, up to its scale."""
    p = toy_problem()
    prior = GaussianPrior(torch.zeros(3, 8, 8), 0.3, path).double()
    p = Problem(p.y, p.operator, p.noise, prior)
    method = FMPlug(5, Generator(1), guide=White())
    unknowns, v = method.search(p, Rng(0, "solve", ["a", "b", "c"]))
    z = unknowns.seed(v)
    state = 0.7 * z + 0.3  # type: ignore[operator]
    flow = GaussianPrior(torch.zeros(3, 8, 8), 0.3, FlowPath()).double()
    close(unknowns.image(p, v), flow(state, torch.tensor(0.7).double()), 1e-7)


@pytest.mark.parametrize("path", EVERY)
def test_times_stay_within_what_path_and_prior_know(path):
    prior = GaussianPrior(torch.zeros(3, 8, 8), 0.3, path)
    p = Problem(0.2 * normal(1, 3, 8, 8).float(), Denoise(), GaussianNoise(0.1), prior)
    last = float(path.noisiest(torch.zeros((), dtype=torch.float64)))
    method = FMPlug(1, Generator(2), start_time=1.0, least_time=1e-3)
    state = method.init(p, Rng(0, "solve", ["a"]))
    f = state.v[:, -1:]
    assert float(f) == pytest.approx(last)
    # The gradient points inside there, so that a learned time can leave its end.
    grad = method.objective(p, state).evaluate(state.v).grad[:, -1]
    assert grad.isfinite().all() and float(grad.abs()) > 0
    lowest = state.unknowns.project(torch.zeros_like(state.v))[:, -1]  # type: ignore[attr-defined]
    level = max(1e-3, prior.least_level / (1 + prior.least_level))
    assert float(lowest) == pytest.approx(level)


class White:
    """A guide that knows nothing."""

    def __call__(self, problem: Problem) -> Tensor:
        return torch.ones(problem.batch, 1, *problem.prior.shape).to(problem.y)


def test_time_moves_towards_the_prior_where_the_guide_is_bad():
    p = toy_problem()
    settings = {"guide": White(), "space": Free(), "seed_weight": 1.0}
    method = FMPlug(60, start_time=0.05, least_time=1e-3, time_step=0.05, **settings)
    state = method.init(p, Rng(0, "solve", ["a", "b", "c"]))
    first = method.objective(p, state)(state.v)
    for _ in range(60):
        state, _ = method.step(p, state)
    assert (state.unknowns.layout.split(state.v)["f"] > 0.06).all()  # type: ignore[attr-defined]
    assert (method.objective(p, state)(state.v) < first).all()


def test_a_guide_that_explains_y_swallows_the_prior_unless_time_has_a_bound():
    """The trivial minimum of the published range of times, and what the bound makes of it."""
    p = toy_problem()
    ends = []
    for least in (1e-3, 0.3):
        # From 0.4 all images slide; from the default 0.7 some stay in another valley.
        method = FMPlug(40, guide=InverseGuide(), start_time=0.4, least_time=least, time_step=0.05)
        state = method.init(p, Rng(0, "solve", ["a", "b", "c"]))
        for _ in range(40):
            state, _ = method.step(p, state)
        ends.append(state.unknowns.layout.split(state.v)["f"].min())  # type: ignore[attr-defined]
    assert ends[0] < 0.01 and ends[1] >= 0.3


def faces(folder, count: int) -> tuple[list[str], Tensor]:
    """Smooth pictures in files, and the same as tensors in [-1, 1]."""
    files, images = [], []
    for i in range(count):
        levels = (40 + 50 * i) * torch.ones(8, 8, 3)
        levels[i : i + 3] = 220
        files.append(str(folder / f"{i}.png"))
        Image.fromarray(levels.to(torch.uint8).numpy()).save(files[-1])
        images.append(levels.permute(2, 0, 1) / 127.5 - 1)
    return files, torch.stack(images).double()


def test_few_shot_weights_find_the_right_picture(tmp_path):
    files, x = faces(tmp_path, 3)
    operator, noise = FourierMagnitude().double(), GaussianNoise(0.01)
    prior = GaussianPrior(torch.zeros(3, 8, 8), 0.5, FlowPath()).double()
    y = measure(operator, x, noise, 0)
    method = FMPlug(40, guide=ImageGuide(files), start_time=0.1, least_time=0.1, weight_step=0.5)
    p = Problem(y, operator, noise, prior)
    # The landscape of phase retrieval has other valleys; one start in six ends in them.
    state = method.init(p, Rng(1, "solve", ["a", "b", "c"]))
    for _ in range(40):
        state, _ = method.step(p, state)
    weights = state.unknowns.layout.split(state.v)["w"]  # type: ignore[attr-defined]
    assert weights.argmax(dim=1).tolist() == [0, 1, 2]


def test_few_shot_passes_check_method(tmp_path):
    files, _ = faces(tmp_path, 2)
    check_method(FMPlug(4, Generator(2), guide=ImageGuide(files), start_time=0.3)).require()


class Halved(Operator):
    """A bend that keeps the shape."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * x**3


def test_pictures_of_measurements():
    noise, x = GaussianNoise(0.01), 0.3 * normal(2, 3, 16, 16, seed=3)
    prior = GaussianPrior(torch.zeros(3, 16, 16), 0.5, FlowPath()).double()
    bent = Problem(Halved()(x), Halved(), noise, prior)
    assert torch.equal(picture(bent), bent.y)
    small = BicubicDownsample(4).double()
    linear = Problem(small(x), small, noise, prior)
    assert picture(linear).shape == (2, 3, 16, 16)
    inverse = InverseGuide()(linear)[:, 0]
    assert norm(small(inverse) - linear.y).max() < 0.02 * norm(linear.y).max()
    lam = 5 * 0.01**2
    expected = small.solve_normal(small.adjoint(linear.y), lam).clamp(-1, 1)
    close(inverse, expected)
    unknown = Problem(small(x), small, UnknownNoise(), prior)
    assert InverseGuide()(unknown).shape == MeasurementGuide()(unknown).shape == (2, 1, 3, 16, 16)
    with pytest.raises(TypeError, match="needs a linear operator"):
        InverseGuide()(bent)


def test_what_cannot_guide_says_what_can():
    operator, x = FourierMagnitude().double(), 0.3 * normal(1, 3, 8, 8)
    prior = GaussianPrior(torch.zeros(3, 8, 8), 0.5, FlowPath()).double()
    p = Problem(operator(x), operator, GaussianNoise(0.01), prior)
    with pytest.raises(TypeError, match="cannot guide; give pictures of the same kind"):
        solve(p, FMPlug(2))


def test_pictures_must_have_the_prior_s_size(tmp_path):
    Image.new("RGB", (9, 8)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a.png has shape \(3, 8, 9\)"):
        solve(toy_problem(), FMPlug(2, guide=ImageGuide([str(tmp_path / "a.png")])))
    with pytest.raises(ValueError, match="at least one picture"):
        ImageGuide([])


def test_generators_without_a_denoiser_are_refused():
    net: Prior = GeneratorPrior(torch.nn.Tanh(), (3, 8, 8), probe=False)
    p = toy_problem()
    with pytest.raises(TypeError, match="FMPlug needs E"):
        solve(Problem(p.y.float(), p.operator.float(), p.noise, net), FMPlug(2))


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match=r"need 0\.001 <= least_time <= start_time"):
        FMPlug(start_time=0.0)
    with pytest.raises(ValueError, match="must not be negative"):
        FMPlug(time_step=-1.0)
    with pytest.raises(ValueError, match="grid must be uniform"):
        FMPlug(generator=Generator(grid="leading"))
