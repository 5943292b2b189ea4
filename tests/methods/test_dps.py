"""DPS: a hand computation, the per-image norm, and the prior alone."""

import math

import pytest
import torch

from plugip.loop import solve
from plugip.methods import DPS
from plugip.noise import GaussianNoise
from plugip.path import FlowPath
from plugip.priors.gaussian import GaussianPrior
from plugip.problem import Problem
from plugip.rng import Rng
from plugip.testing import check_method
from plugip.testing.methods import Attenuate, toy_problem


def test_one_step_by_hand():
    # x0 ~ N(m, v), flow path at t = 1/2: x0_hat = m + g (x_t - m / 2), g = (v / 2) / (v / 4 + 1 /
    # 4).
    m, std, zeta = 0.1, 0.6, 0.4
    prior = GaussianPrior(torch.full((1, 2, 2), m), std, FlowPath()).double()
    y = torch.tensor([[[[0.3, -0.2], [0.5, 0.0]]]], dtype=torch.float64)
    problem = Problem(y, torch_identity(), GaussianNoise(0.1), prior)
    method = DPS(steps=2, zeta=zeta, clip="none")
    state = method.init(problem, Rng(0, "solve", ["a"]))
    noise = Rng(0, "solve", ["a"])
    x_1 = noise.normal((1, 2, 2), like=y)
    n_1 = noise.normal((1, 2, 2), like=y)
    # From t = 1, where x0_hat = m and carries no gradient, to t = 1/2 by the ancestral step.
    x_half = 0.5 * m + 0.5 * n_1
    state, _ = method.step(problem, state)
    torch.testing.assert_close(state.x_t, x_half)
    # From t = 1/2 to 0: the posterior mean, minus zeta times the gradient of the norm.
    gain = (std**2 / 2) / (std**2 / 4 + 0.25)
    x0 = m + gain * (x_half - m / 2)
    pull = -gain * (y - x0) / (y - x0).norm()
    state, info = method.step(problem, state)
    torch.testing.assert_close(state.x_t, x0 - zeta * pull)
    torch.testing.assert_close(info.loss, (y - x0).norm()[None])
    assert x_1.shape == y.shape


def torch_identity():
    from plugip.operators import Denoise

    return Denoise()


def test_the_norm_is_per_image():
    p = toy_problem()
    ids = ["a", "b", "c"]
    together = solve(p, DPS(steps=10), Rng(0, "solve", ids), rows=3)
    for i, image_id in enumerate(ids):
        alone = solve(p.select([i]), DPS(steps=10), Rng(0, "solve", [image_id]))
        torch.testing.assert_close(together.x_hat[i : i + 1], alone.x_hat)


def test_without_guidance_it_samples_the_prior():
    prior = GaussianPrior(torch.full((3, 8, 8), 0.1), 0.2, FlowPath()).double()
    y = torch.zeros(4, 3, 8, 8, dtype=torch.float64)
    problem = Problem(y, Attenuate().double(), GaussianNoise(0.1), prior)
    x = solve(problem, DPS(steps=200, zeta=0.0, clip="none"), rows=4).x_hat
    error = 0.2 / math.sqrt(x.numel())
    assert abs(float(x.mean()) - 0.1) < 4 * error
    assert abs(float(x.std()) - 0.2) < 4 * error


def test_guidance_brings_the_answer_to_the_measurement():
    p = toy_problem()
    free, guided = (solve(p, DPS(steps=50, zeta=z, clip="none"), rows=3) for z in (0.0, 0.3))
    for a, b in zip(guided.diagnostics, free.diagnostics, strict=True):
        assert a.chi_square is not None and b.chi_square is not None
        assert a.chi_square < b.chi_square / 2


@pytest.mark.parametrize("eta", [0.0, 0.85, 1.0])
def test_passes_check_method(eta: float):
    check_method(DPS(steps=6, eta=eta)).require()


def test_one_forward_and_one_backward_a_step():
    solution = solve(toy_problem(), DPS(steps=7))
    assert (solution.nfe, solution.vjps) == ([7] * 3, [7] * 3)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="eta in"):
        DPS(eta=1.5)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        DPS(steps=0)
