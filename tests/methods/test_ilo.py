"""ILO: closed forms at each layer, a recipe in a straight line, costs, and refusals."""

import math

import pytest
import torch
from test_dmilo import built
from torch import Tensor, nn
from toys import Identity, close, normal

from plugip.engine.start import ZeroStart
from plugip.linalg import norm
from plugip.loop import solve
from plugip.methods import ILO
from plugip.methods.ilo import Ramp
from plugip.noise import GaussianNoise
from plugip.priors import GeneratorPrior
from plugip.problem import Problem
from plugip.reverse import Generator
from plugip.rng import Rng
from plugip.stopping import BestLoss, Stopped
from plugip.testing import check_method
from plugip.testing.methods import toy_problem

IMAGE = (3, 4, 4)


def linear(matrix: Tensor) -> nn.Linear:
    layer = nn.Linear(*matrix.shape[::-1], bias=False, dtype=torch.float64)
    layer.weight.data = matrix
    return layer


FIRST, SECOND = normal(9, 4, seed=1) / 3, normal(48, 9, seed=2) / 7


def network() -> nn.Sequential:
    """z (4) -> code (9) -> image, linear: what each layer reaches is a known subspace."""
    return nn.Sequential(linear(FIRST), nn.Sequential(linear(SECOND), nn.Unflatten(1, IMAGE)))


def problem(code: Tensor, prior: GeneratorPrior) -> Problem:
    """Noise-free images of codes after the first layer."""
    return Problem((code @ SECOND.T).reshape(-1, *IMAGE), Identity(), GaussianNoise(0.1), prior)


def prior() -> GeneratorPrior:
    return GeneratorPrior(network(), [4], probe=False)


def test_each_layer_finds_the_best_image_that_it_reaches():
    p = problem(normal(2, 9, seed=3), prior())
    y, whole = p.y.flatten(1), SECOND @ FIRST
    best = (whole @ torch.linalg.lstsq(whole, y.T).solution).T
    assert float((y - best).norm(dim=1).min()) > 0.3  # no seed explains y
    shallow = ILO([200], keep_radius=False, lr=0.2)
    close(solve(p, shallow).x_hat.flatten(1), best.clamp(-1, 1), 1e-4)
    deep = ILO([50, 200], keep_radius=False, lr=0.2)
    close(solve(p, deep).x_hat.flatten(1), y.clamp(-1, 1), 1e-4)


def test_follows_a_straight_line():
    p, steps, radius = problem(normal(1, 9, seed=3), prior()), (12, 9), 0.3
    method = ILO(steps, l1_radii=[radius])
    state, tried = method.init(p, Rng(0, "solve", ["a"])), []
    code = state.v
    for _ in range(sum(steps)):
        tried.append(state.solver.z)
        state, _ = method.step(p, state)
    expected = []
    for layer, count in enumerate(steps):
        first = code.clone()
        code = code.clone().requires_grad_()
        adam = torch.optim.Adam([code])
        rest = SECOND @ FIRST if layer == 0 else SECOND
        for k in range(count):
            expected.append(code.detach().clone())
            fall = 0.5 - 0.5 * math.cos(math.pi * min(1, (1 - k / count) / 0.75))
            adam.param_groups[0]["lr"] = 0.1 * fall * min(1, k / count / 0.05)
            adam.zero_grad()
            (code @ rest.T - p.y.flatten(1)).square().mean().backward()
            adam.step()
            if layer == 0:
                code.data *= first.norm() / code.data.norm()
            else:
                code.data = first + shrunk(code.data - first, radius)
        code = code.detach() if layer else code.detach() @ FIRST.T
    for reference, v in zip(expected, tried, strict=True):
        close(v, reference, 1e-8)
    assert float((expected[-1] - expected[12]).abs().sum()) == pytest.approx(radius)


def shrunk(v: Tensor, radius: float) -> Tensor:
    """The projection onto the l1 ball, by bisection on how much every entry shrinks."""
    low, high = 0.0, float(v.abs().max())
    if float(v.abs().sum()) <= radius:
        return v
    for _ in range(200):
        middle = (low + high) / 2
        total = float((v.abs() - middle).clamp_min(0).sum())
        low, high = (middle, high) if total > radius else (low, middle)
    return v.sign() * (v.abs() - low).clamp_min(0)


def test_the_seed_keeps_its_radius_and_codes_stay_near():
    p, method = problem(normal(2, 9, seed=3), prior()), ILO([6, 0], lr=0.5)
    state = first = method.init(p, Rng(0, "solve", ["a", "b"]))
    for _ in range(6):
        state, _ = method.step(p, state)
    close(norm(state.v), norm(first.v))
    assert float((state.v - first.v).abs().max()) > 0.1


def test_costs_of_a_network_and_of_a_reverse_process():
    p = problem(normal(1, 9, seed=3), prior())
    solution = solve(p, ILO([3, 4]))
    assert (solution.steps, solution.nfe, solution.vjps) == ([7], [7], [7])
    # A reverse process of three layers: 3, 2, then 1 call a step, and one for each layer left.
    solution = solve(toy_problem(), ILO([2, 2, 2], Generator(3)))
    assert (solution.nfe, solution.vjps) == ([2 * (3 + 2 + 1) + 2] * 3, [12] * 3)
    solution = solve(toy_problem(), ILO([0, 0, 2], Generator(3)))
    assert (solution.nfe, solution.vjps) == ([4] * 3, [2] * 3)


def test_deeper_layers_of_a_reverse_process_start_where_the_one_before_ended():
    p, method = toy_problem(), ILO([3, 2, 1], Generator(3), lr=1e-12)
    seen, state = [], method.init(p, Rng(0, "solve", ["a", "b", "c"]))
    for _ in range(6):
        state, info = method.step(p, state)
        seen.append(info.x_hat)
    for x_hat in seen[1:]:
        close(x_hat, seen[0], 1e-9)


def test_ramp_by_hand():
    ramp = Ramp(100)
    assert [ramp(0), ramp(5), ramp(25)] == pytest.approx([0, 1, 1])
    assert ramp(2) == pytest.approx(0.4)
    assert ramp(70) == pytest.approx(0.5 - 0.5 * math.cos(0.4 * math.pi))
    assert [Ramp(10, 0, 0)(k) for k in range(10)] == [1] * 10


@pytest.mark.parametrize(
    "method",
    [
        ILO([2, 0, 2], Generator(3)),
        ILO([2, 2], Generator(2, checkpoint=True), l1_radii=[0.5], loss="likelihood"),
        Stopped(ILO([3, 3], Generator(2)), BestLoss()),
    ],
)
def test_passes_check_method(method):
    check_method(method).require()


def test_a_generator_that_cannot_be_split_is_refused():
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = network()

        def forward(self, z: Tensor) -> Tensor:
            return self.inside(z)

    p = problem(normal(1, 9), GeneratorPrior(Whole(), [4], probe=False))
    with pytest.raises(TypeError, match="Whole cannot be split into layers"):
        solve(p, ILO([1, 1]))
    with pytest.raises(ValueError, match="steps has 4 entries, but the generator has 2 layers"):
        solve(problem(normal(1, 9), prior()), ILO())


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match=r"for each layer, and one of them positive, got \[0\]"):
        ILO([0])
    with pytest.raises(ValueError, match=r"each of the 1 layers after the first, got \[1, 2\]"):
        ILO([1, 1], l1_radii=[1, 2])
    with pytest.raises(ValueError, match="ramp_up and ramp_down must lie"):
        ILO(ramp_up=2)
    with pytest.raises(ValueError, match="lr must be positive"):
        ILO(lr=0)
    with pytest.raises(ValueError, match="a seed at 0 has no radius to keep"):
        solve(toy_problem(), ILO([1], start=ZeroStart()))


def test_the_yaml_is_the_default_method_for_three_layers():
    assert built("inpaint_random", "ilo") == ILO([50, 50, 25])
