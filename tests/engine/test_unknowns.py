"""Vectors of unknowns: laying parts out and taking them apart; a blind operator's theta."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor
from toys import ExactPrior, close, normal

from plugip.engine.adam import Adam
from plugip.engine.misfit import Misfit
from plugip.engine.spaces import Shell, Sphere
from plugip.engine.unknowns import Layout, Seeds, Unknowns, WithTheta, seeds, with_theta
from plugip.linalg import norm
from plugip.method import take
from plugip.noise import GaussianNoise
from plugip.operators.blind_blur import BlindBlur
from plugip.operators.turbulence import BlindTurbulence
from plugip.problem import Problem
from plugip.reverse import Generator
from plugip.rng import Rng

PARTS = {"a": normal(2, 3, 4), "b": normal(2, 1, seed=1), "c": normal(2, 2, 2, 2, seed=2)}
IDS = ["x", "y"]
SIDE = 8


def problem(operator: torch.nn.Module) -> Problem:
    y = 0.3 * normal(2, 3, SIDE, SIDE)
    return Problem(y, operator, GaussianNoise(0.1), ExactPrior(0.1 * normal(3, SIDE, SIDE)))  # type: ignore[arg-type]


def blur() -> Problem:
    return problem(BlindBlur(3))


def turbulence() -> Problem:
    return problem(BlindTurbulence(3))


def unknown(p: Problem, inner: Unknowns | None = None, steps=None) -> tuple[WithTheta, Tensor]:
    inner = seeds(Generator(2)) if inner is None else inner
    found, v = with_theta(p, inner, normal(2, 3, SIDE, SIDE, seed=7), Rng(0, "solve", IDS), steps)
    assert isinstance(found, WithTheta)
    return found, v


def test_parts_are_laid_out_in_order_and_come_back_bit_for_bit():
    layout = Layout.of(PARTS)
    v = layout.join(PARTS)
    assert v.shape == (2, 12 + 1 + 8)
    assert torch.equal(v[1, 12], PARTS["b"][1, 0]) and torch.equal(v[0, :4], PARTS["a"][0, 0])
    back = layout.split(v)
    assert list(back) == list(PARTS)
    assert all(torch.equal(back[name], PARTS[name]) for name in PARTS)
    assert torch.equal(layout.join(back), v)


def test_split_passes_gradients_to_the_right_places():
    layout, v = Layout.of(PARTS), torch.zeros(2, 21).double().requires_grad_()
    (grad,) = torch.autograd.grad(layout.split(v)["b"].sum(), v)
    expected = layout.join({n: torch.full_like(p, n == "b") for n, p in PARTS.items()})
    assert torch.equal(grad, expected)


def test_spread_fills_each_part_with_its_number():
    layout = Layout.of(PARTS)
    flat = layout.spread({"c": 3.0, "a": 1.0, "b": 2.0}, like=PARTS["a"])
    assert flat.tolist() == [1.0] * 12 + [2.0] + [3.0] * 8 and flat.dtype == torch.float64


def test_layout_and_unknowns_survive_the_dropping_of_images():
    unknowns, v = unknown(turbulence())
    kept = take(unknowns, [1])
    assert kept.layout == unknowns.layout and kept.steps == unknowns.steps
    close(kept.project(v[[1]]), unknowns.project(v)[[1]])


def test_known_operators_add_nothing():
    p = problem(BlindBlur(3).at(torch.full((1, 1, 3, 3), 1 / 9, dtype=torch.float64)))
    inner, z = seeds(Generator(2)), normal(2, 3, SIDE, SIDE)
    found, v = with_theta(p, inner, z, Rng(0, "solve", IDS))
    assert found is inner and v is z
    assert found.theta(p, v) is None and found.rates(v) is None


def test_one_tensor_comes_back_as_one_tensor():
    p = blur()
    unknowns, v = unknown(p)
    free = p.operator.init_theta(Rng(0, "solve", IDS).child("theta"), p.y)  # type: ignore[operator]
    assert torch.equal(unknowns.theta(p, v), p.operator.constrain(free))  # type: ignore[arg-type,operator]
    assert torch.equal(unknowns.seed(v), normal(2, 3, SIDE, SIDE, seed=7))  # type: ignore[arg-type]


def test_a_dict_comes_back_as_a_dict():
    p = turbulence()
    unknowns, v = unknown(p)
    free = p.operator.init_theta(Rng(0, "solve", IDS).child("theta"), p.y)  # type: ignore[operator]
    theta, expected = unknowns.theta(p, v), p.operator.constrain(free)  # type: ignore[operator]
    assert isinstance(theta, dict) and list(theta) == ["tilt", "kernel"]
    assert all(torch.equal(theta[name], expected[name]) for name in expected)


@pytest.mark.parametrize("make", [blur, turbulence])
def test_the_first_theta_of_an_image_does_not_depend_on_its_neighbours(make):
    p = make()
    _, v = unknown(p)
    z = normal(2, 3, SIDE, SIDE, seed=7)[[1]]
    _, alone = with_theta(p.select([1]), seeds(Generator(2)), z, Rng(0, "solve", ["y"]))
    assert torch.equal(alone, v[[1]])


@pytest.mark.parametrize(
    ("make", "steps", "expected"),
    [
        (blur, None, {"theta": 10.0}),  # the hint 0.1, where the seed's step is 0.01
        (blur, 0.02, {"theta": 2.0}),
        (turbulence, None, {"tilt": 1.0, "kernel": 10.0}),
        (turbulence, 0.05, {"tilt": 5.0, "kernel": 5.0}),
        (turbulence, {"kernel": 0.1, "tilt": 1e-7}, {"tilt": 1e-5, "kernel": 10.0}),
        (turbulence, {"kernel": 0.1, "tilt": 0}, {"tilt": 0.0, "kernel": 10.0}),
    ],
)
def test_rates_are_steps_relative_to_the_seeds(make, steps, expected):
    unknowns, v = unknown(make(), steps=steps)
    parts = unknowns.layout.split(unknowns.rates(v)[None])
    first, *rest = parts.values()
    assert (first == 1).all()
    for rate, wanted in zip(rest, expected.values(), strict=True):
        close(rate, torch.full_like(rate, wanted), 1e-12)


@dataclass(frozen=True)
class Rated(Seeds):
    """Seeds whose steps grow along the first axis."""

    def rates(self, v: Tensor) -> Tensor:
        return torch.arange(1.0, 4).double().reshape(3, 1, 1).expand(v.shape[1:])


def test_rates_of_the_inner_unknowns_are_kept():
    unknowns, v = unknown(blur(), Rated(Generator(2)))
    close(unknowns.rates(v)[: 3 * SIDE**2].mean(), torch.tensor(2.0).double())


def test_adam_moves_each_part_by_its_step():
    p = turbulence()
    unknowns, v = unknown(p, steps={"tilt": 1e-7, "kernel": 0.1})
    solver = Adam(0.01)
    objective = Misfit(p, unknowns, "sum")
    state, *_ = solver.step(objective, solver.init(v))
    grad = unknowns.layout.split(objective.evaluate(v).grad)
    moved = unknowns.layout.split((state.z - v).abs())
    for name, step in (("tilt", 1e-7), ("kernel", 0.1), (next(iter(moved)), 0.01)):
        clear = grad[name].abs() > 1e-3  # Adam's floor of 1e-8 does not count there
        assert clear.any()
        close(moved[name][clear], torch.full_like(moved[name][clear], step), 1e-4 * step)


def test_only_the_inner_part_is_projected():
    p = blur()
    unknowns, v = unknown(p, seeds(Generator(2), space=Sphere()))
    v = 3 * v
    projected = unknowns.project(v)
    before, after = (unknowns.layout.split(u) for u in (v, projected))
    rest, theta = before
    close(after[rest], Sphere()(before[rest]))
    assert torch.equal(after[theta], before[theta])
    close(norm(after[rest]), torch.full((2,), math.sqrt(3 * SIDE**2), dtype=torch.float64))


def test_penalty_and_image_are_those_of_the_inner_part():
    p, inner = blur(), seeds(Generator(2), 0.7, Shell())
    unknowns, v = unknown(p, inner)
    z = normal(2, 3, SIDE, SIDE, seed=7)
    close(unknowns.penalty(v), inner.penalty(z))
    close(unknowns.image(p, v), inner.image(p, z))
    assert unknowns.weighted == "seed_weight"


@pytest.mark.parametrize("make", [blur, turbulence])
def test_gradients_in_seed_and_theta_equal_finite_differences(make):
    p = make().select([0])
    unknowns, v = with_theta(p, seeds(Generator(2)), normal(1, 3, SIDE, SIDE), Rng(0, "s", ["x"]))
    objective, direction = Misfit(p, unknowns), normal(*v.shape, seed=5)
    h = 1e-6
    slope = (objective(v + h * direction) - objective(v - h * direction)) / (2 * h)
    close((objective.evaluate(v).grad * direction).sum(1), slope, 1e-5)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ({"kernel": 0.1}, "theta_steps names kernel, but the unknown part of BlindTurbulence is "),
        (
            {"kernel": 0.1, "tilt": 1.0, "gain": 1.0},
            r"names gain, kernel, tilt, but .* is tilt, kernel",
        ),
        ({"kernel": -0.1, "tilt": 1.0}, "theta_steps must not be negative, got"),
        (-1.0, "theta_steps must not be negative, got"),
    ],
)
def test_bad_theta_steps_are_refused(steps, message):
    with pytest.raises(ValueError, match=message):
        unknown(turbulence(), steps=steps)


def test_names_of_a_single_theta_are_refused_as_well():
    with pytest.raises(ValueError, match=r"theta_steps names kernel, but .* BlindBlur is theta"):
        unknown(blur(), steps={"kernel": 0.1})


def test_a_fixed_operator_has_no_theta_to_find():
    p = blur()
    unknowns, v = unknown(p)
    fixed = replace(p, operator=p.known(unknowns.theta(p, v)).operator)
    with pytest.raises(TypeError, match="Blur has no unknown part"):
        unknowns.theta(fixed, v)
