"""Times that are learned or tiny: exact slopes on and off a table's grid, and never NaN."""

import pytest
import torch
from torch.testing import assert_close
from toys import close, normal

from plugip.loop import solve
from plugip.methods import DPS, FMPlug
from plugip.noise import GaussianNoise
from plugip.operators import Denoise
from plugip.path import (
    DiscretePath,
    EDMPath,
    FlowPath,
    Path,
    ShiftedFlowPath,
    VEPath,
    VPPath,
)
from plugip.prior import as_flow
from plugip.priors import EDMPrior, GaussianPrior
from plugip.problem import Problem
from plugip.reverse import GRIDS, STEPS, Generator, reverse
from plugip.rng import Rng

TABLES = [DiscretePath.linear(), DiscretePath.cosine(200), DiscretePath.linear(100)]
OTHERS = [FlowPath(), ShiftedFlowPath(3.0), VPPath(), EDMPath(), VEPath(2.0, 3.0)]
SHAPE = (1, 6, 6)
# A step that a table of 1000 entries sees as a fifth of an interval, and one far below it.
STRIDES = [2e-4, 1e-6]


def central(function, t: torch.Tensor, h: float) -> torch.Tensor:
    return (function(t + h) - function(t - h)) / (2 * h)


def slope(function, t: torch.Tensor) -> torch.Tensor:
    leaf = t.clone().requires_grad_()
    (grad,) = torch.autograd.grad(function(leaf).sum(), leaf)
    return grad


@pytest.mark.parametrize("path", TABLES)
@pytest.mark.parametrize("h", STRIDES)
def test_a_table_s_slope_on_its_grid_is_the_mean_of_both_sides(path: DiscretePath, h: float):
    total = len(path.table) - 1
    t = torch.arange(1, total, dtype=torch.float64) / total
    for function in (path.alpha_bar, path.index):
        close(slope(function, t), central(function, t, h), 1e-6)
    for function in (path.alpha, path.sigma, path.flow_time):
        # Its bend makes the difference quotient second order in h.
        inner = slice(20, -10)
        close(
            slope(function, t)[inner], central(function, t, h)[inner], 2e-3 if h > 1e-5 else 1e-5
        )
    assert torch.equal(path.alpha_bar(t), path.table[1:-1])


@pytest.mark.parametrize("path", TABLES)
def test_a_table_s_inverse_has_the_slope_of_both_sides_too(path: DiscretePath):
    t = torch.arange(30, 90, dtype=torch.float64) / 100
    f = path.flow_time(t)
    close(slope(path.time_of, f), central(path.time_of, f, 1e-6), 1e-3)
    assert torch.equal(path.time_of(f), t)
    # There and back is the identity, on the grid and off it.
    for there in (t, t + 0.00041):
        close(
            slope(lambda u: path.time_of(path.flow_time(u)), there), torch.ones(60).double(), 1e-3
        )


@pytest.mark.parametrize("path", [*TABLES, *OTHERS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gradient_points_inside_at_the_last_time(path: Path, dtype: torch.dtype):
    one = torch.ones(1, dtype=dtype)
    last, back = path.flow_time(one).to(dtype), 1 - 1e-5
    want = (path.time_of(last.double()) - path.time_of(last.double() * back)) / (last * 1e-5)
    assert 0.5 < float(slope(path.time_of, last) / want) < 2
    want = (path.flow_time(one.double()) - path.flow_time(one.double() * back)) / 1e-5
    assert 0.5 < float(slope(path.flow_time, one) / want) < 2


@pytest.mark.parametrize("path", [VPPath(1.0, 2.0), EDMPath(2.0), DiscretePath.linear(100)])
def test_beyond_the_path_nothing_changes(path: Path):
    beyond = path.flow_time(torch.ones(1, dtype=torch.float64)) + 0.01
    assert float(path.time_of(beyond)) == 1
    assert float(slope(path.time_of, beyond)) == 0


@pytest.mark.parametrize("path", [DiscretePath.linear(), VPPath(), FlowPath(), EDMPath()])
@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("solver", list(STEPS))
def test_the_reverse_process_has_the_slope_of_its_differences(path: Path, steps: int, solver: str):
    """Times on the grid, such as FMPlug's first and least ones, and their even parts."""
    prior = GaussianPrior(0.1 * normal(*SHAPE), 0.4, path).double()
    guide, z = normal(1, *SHAPE, seed=1), normal(1, *SHAPE, seed=2)

    def error(t: torch.Tensor) -> torch.Tensor:
        alpha, sigma = path.coefficients(t, z)
        shares = torch.linspace(1, 0, steps + 1, dtype=torch.float64)[:-1, None]
        times = torch.cat([shares * t, torch.zeros_like(t)[None]])
        state = alpha * guide + sigma * z
        return (reverse(prior, state, times, STEPS[solver]) - 0.2).square().sum()

    for start in (0.7, 0.5, 0.3):
        t = torch.tensor([start], dtype=torch.float64)
        close(slope(error, t), central(error, t, 2e-5)[None], 2e-3)


@pytest.mark.parametrize("path", [DiscretePath.linear(), DiscretePath.cosine(), VPPath()])
@pytest.mark.parametrize("start", [0.7, 0.5, 0.3])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_fmplug_s_gradient_is_exact_where_it_starts(path: Path, start: float, steps: int):
    flow = as_flow(GaussianPrior(0.1 * normal(*SHAPE), 0.4, path).double())
    prior = GaussianPrior(0.1 * normal(*SHAPE), 0.4, path).double()
    y = 0.3 * normal(1, *SHAPE, seed=3)
    # A flow time whose own time lies on the grid, and the same number as a flow time.
    on_grid = float(path.flow_time(torch.tensor(start, dtype=torch.float64)))
    for served in (prior, flow):
        for first in (start, on_grid):
            method = FMPlug(generator=Generator(steps), start_time=first, least_time=0.01)
            problem = Problem(y, Denoise(), GaussianNoise(0.1), served)
            state = method.init(problem, Rng(0, "solve", ["a"]))
            objective, step = method.objective(problem, state), torch.zeros_like(state.v)
            step[:, -1] = 1e-6
            here = objective.evaluate(state.v)
            # A table bends at its times: the slope lies in the middle of both sides' slopes.
            sides = [(objective(state.v + s * step) - here.loss) / (s * 1e-6) for s in (1, -1)]
            middle, bend = (sides[0] + sides[1]) / 2, (sides[0] - sides[1]).abs()
            gap = (here.grad[:, -1] - middle).abs()
            assert gap <= 5e-4 * (1 + middle.abs()) + 0.1 * bend, (gap, middle, bend)


# --- tiny times


TINY = (1e-3, 1e-5, 1e-7, 1e-12, 1e-30)


@pytest.mark.parametrize("path", [*TABLES, *OTHERS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_only_time_zero_is_without_noise(path: Path, dtype: torch.dtype):
    t, like = torch.tensor(TINY, dtype=dtype), torch.zeros(len(TINY), 1, dtype=dtype)
    sigma = path.coefficients(t, like)[1].flatten()
    assert (sigma > 0).all() and (sigma.diff() <= 0).all()
    assert (path.time_of(torch.tensor(TINY, dtype=torch.float64)) > 0).all()
    assert all(float(path.coefficients(at, like)[1]) > 0 for at in t)
    assert float(path.coefficients(t[:1] * 0, like)[1][0]) == 0


@pytest.mark.parametrize("path", [*TABLES, *OTHERS])
@pytest.mark.parametrize("solver", list(STEPS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tiny_times_change_nothing(path: Path, solver: str, dtype: torch.dtype):
    prior = GaussianPrior(0.1 * normal(*SHAPE).to(dtype), 0.4, path)
    z = normal(2, *SHAPE, seed=1).to(dtype)
    for shared in (True, False):

        def end(*times: float, shared: bool = shared) -> torch.Tensor:
            grid = torch.tensor([*times, 0.0], dtype=torch.float64 if shared else dtype)
            return reverse(
                prior, z, grid if shared else grid[:, None].expand(-1, 2), STEPS[solver]
            )

        for tiny in (1e-7, 1e-12, 1e-30):
            # A table's slope is infinite near t = 0, so a tiny time is not yet a tiny noise.
            assert_close(end(1, 0.5, tiny), end(1, 0.5, tiny / 10), rtol=0, atol=2e-3)


@pytest.mark.parametrize("path", [DiscretePath.linear(40), EDMPath(), VPPath()])
@pytest.mark.parametrize("grid", ["uniform", "quadratic", "poly7"])
def test_fine_grids_end_finite(path: Path, grid: str):
    prior = GaussianPrior(torch.zeros(SHAPE), 0.4, path)
    problem = Problem(0.3 * normal(1, *SHAPE).float(), Denoise(), GaussianNoise(0.1), prior)
    answer = solve(problem, DPS(220, grid=grid)).x_hat  # (1 / 220)^2 of 40 entries is below 1e-3
    assert answer.isfinite().all() and answer.std() > 0.05
    times = GRIDS[grid](path, 220)[-5:]
    for solver in STEPS.values():
        assert reverse(prior, normal(1, *SHAPE).float(), times, solver).isfinite().all()


def test_an_edm_network_at_its_last_level_keeps_its_slope():
    class Net(torch.nn.Module):
        def forward(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
            return x * 0.16 / (0.16 + sigma.reshape(-1, 1, 1, 1) ** 2)

    prior, x = EDMPrior(Net(), SHAPE, probe=False), normal(1, *SHAPE)
    one = torch.ones(1, dtype=torch.float64)
    for dtype in (torch.float32, torch.float64):
        got = slope(lambda t, d=dtype: prior(x.to(d), t.to(d)), one)
        want = (prior(x, one).sum() - prior(x, one - 1e-6).sum()) / 1e-6
        close(got, want[None], 1e-3)
