"""DIP: it restores, stops in time, finds theta, counts, and keeps images apart."""

import pytest
import torch

from plugip.building import build, resolved
from plugip.cli.compose import compose_config
from plugip.engine.adam import Adam
from plugip.engine.untrained import Rollback
from plugip.loop import solve
from plugip.methods import DIP
from plugip.metrics import psnr, to_unit
from plugip.noise import GaussianNoise
from plugip.operators import BlindExposure, Inpaint
from plugip.prior import probe_signal
from plugip.priors import GaussianPrior, Untrained
from plugip.problem import Problem, measure
from plugip.rng import Rng
from plugip.stopping import ESEMV, ESWMV, Stopped
from plugip.testing import check_method
from plugip.testing.methods import toy_problem
from plugip.untrained import Fourier, Network, Siren, Skip

TINY = Skip(scales=1, channels=4, skip_channels=2, code_channels=3)


def toy() -> Problem:
    p = toy_problem()
    return Problem(p.y, p.operator, p.noise, Untrained(p.prior.image_shape))


@pytest.mark.parametrize(
    ("network", "jitter"), [(TINY, 0.03), (Siren(6, 2), 0.0), (Fourier(4, 2.0, 6, 1), 0.01)]
)
@pytest.mark.parametrize("average", [0.0, 0.9])
def test_passes_check_method(network: Network, jitter: float, average: float):
    check_method(DIP(4, network, Adam(0.01), jitter, average), toy()).require()


def test_fills_in_missing_pixels_of_a_smooth_picture():
    x = probe_signal((3, 16, 16))
    mask = (torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    operator = Inpaint(mask)
    y = measure(operator, x, GaussianNoise(0.01), ids=["a"])
    problem = Problem(y, operator, GaussianNoise(0.01), Untrained((3, 16, 16)))
    network = Skip(scales=2, channels=16, code_channels=8)
    solution = solve(problem, DIP(150, network, Adam(0.02), jitter=0.01))
    before, after = (float(psnr(to_unit(v), to_unit(x))) for v in (y, solution.x_hat))
    assert after > before + 8


@pytest.mark.parametrize("rule", [ESWMV(5, 10), ESEMV(0.1, 10, 5)])
def test_early_stopping_picks_an_iterate_in_between(rule):
    solution = solve(toy(), Stopped(DIP(40, TINY, Adam(0.05), jitter=0.0), rule))
    for answer, steps in zip(solution.answer_steps, solution.steps, strict=True):
        assert 0 < answer <= steps


@pytest.mark.parametrize(
    ("name", "jitter", "iterations", "lr", "average", "drop"),
    [
        ("dip", 0.03, 2000, 0.01, 0.0, 5.0),
        ("dip_denoise", 1 / 30, 3000, 0.01, 0.99, 5.0),
        ("dip_super_resolution", 0.03, 2000, 0.01, 0.0, None),
        ("dip_inpaint", 0.03, 11000, 0.001, 0.0, None),
    ],
)
def test_configs_hold_the_published_settings(name, jitter, iterations, lr, average, drop):
    config = resolved(compose_config([f"method={name}", "prior=untrained"], None))
    method, prior = build(config["method"]), build(config["prior"])
    rollback = None if drop is None else Rollback(drop, 100)
    expected = DIP(iterations, Skip(), Adam(lr), method.jitter, average, rollback)
    assert method == expected and method.jitter == pytest.approx(jitter, rel=1e-5)
    assert prior.image_shape == (3, 64, 64)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("dip_siren", Siren(256, 4, 30.0)), ("dip_fourier", Fourier(256, 2.0, 256, 3))],
)
def test_configs_of_neural_fields(name, expected):
    config = resolved(compose_config([f"method={name}", "prior=untrained"], None))
    assert build(config["method"]).generator == expected


def test_a_step_costs_one_forward_and_one_backward_of_the_network():
    solution = solve(toy(), DIP(5, TINY))
    assert solution.nfe == solution.vjps == [5] * 3


def test_finds_the_unknown_part_of_a_blind_operator():
    x, operator = probe_signal((3, 8, 8)), BlindExposure((0.5, 2.0))
    y = operator.at(operator.draw_theta(Rng(1, "theta", ["a"]), tuple(x.shape)))(x)
    problem = Problem(y, operator.unknown(), GaussianNoise(0.01), Untrained((3, 8, 8)))
    solution = solve(problem, DIP(80, TINY, Adam(0.05), jitter=0.0))
    assert isinstance(solution.theta, torch.Tensor)
    assert solution.trace[0].residual[-1] < 0.5 * solution.trace[0].residual[0]


def test_any_prior_gives_the_shape_and_none_is_called():
    p = toy_problem()
    assert isinstance(p.prior, GaussianPrior)
    before = p.prior.witnessed
    ours, bare = solve(p, DIP(3, TINY)), solve(toy(), DIP(3, TINY))
    assert p.prior.witnessed == before
    assert torch.equal(ours.x_hat, bare.x_hat)


def test_different_seeds_give_different_answers():
    first, second = (solve(toy(), DIP(3, TINY), seed).x_hat for seed in (0, 1))
    assert (first - second).abs().max() > 1e-3


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="iterations must be at least 1, got 0"):
        DIP(0)
    with pytest.raises(ValueError, match="jitter >= 0"):
        DIP(jitter=-1)
