"""Blind DIP: a kernel in a window that is too large, put where its centre of mass belongs."""

import pytest
import torch

from plugip.building import build, resolved
from plugip.cli.compose import compose_config
from plugip.engine.adam import Adam
from plugip.engine.scene import gradient_ratio
from plugip.linalg import norm
from plugip.loop import solve
from plugip.methods import BlindDIP
from plugip.metrics import psnr, to_unit
from plugip.noise import GaussianNoise
from plugip.operators import BlindBlur, find_shift
from plugip.operators.blind_blur import move
from plugip.priors import Untrained
from plugip.problem import Problem
from plugip.rng import Rng
from plugip.testing import check_method
from plugip.testing.report import random_images
from plugip.untrained import MLP, Skip

TINY = Skip(scales=1, channels=4, skip_channels=2, code_channels=3)
KERNEL = torch.tensor([[0, 0.1, 0], [0, 0.3, 0.2], [0, 0, 0.4]])


def toy() -> Problem:
    y = random_images((2, 3, 12, 12), "y")
    return Problem(y, BlindBlur(5), GaussianNoise(0.05), Untrained((3, 12, 12)))


def test_passes_check_method():
    check_method(BlindDIP(4, TINY, MLP(4, 6), kernel_lr=1e-3), toy()).require()


def test_finds_a_kernel_of_unknown_size_up_to_the_predicted_shift():
    x = torch.full((1, 1, 16, 16), -0.8)
    x[..., 3:7, 2:9], x[..., 9:13, 8:11] = 0.7, 0.9
    x[..., 10:14, 2:4], x[..., 5:8, 11:14] = 0.2, 0.4
    true = torch.nn.functional.pad(KERNEL, (1, 1, 1, 1))[None, None]
    y = BlindBlur(5).at(true)(x)
    problem = Problem(y, BlindBlur(5), GaussianNoise(0.01), Untrained((1, 16, 16)))
    network = Skip(scales=2, channels=12, code_channels=8)
    solution = solve(problem, BlindDIP(150, network, MLP(20, 30), Adam(0.01), 1e-2, 0.0), 1)
    kernel = solution.theta
    assert isinstance(kernel, torch.Tensor)
    shift = find_shift(kernel, true, 2)
    # The true centre of mass lies 0.3 below and 0.6 right of the origin, so at (0, 1) in pixels.
    assert shift.tolist() == [[0, 1]]
    assert float(norm(move(kernel, shift, "zero") - true) / norm(true)) < 0.35
    blurred, found = (psnr(to_unit(v), to_unit(x)) for v in (y, move(solution.x_hat, shift)))
    assert float(found) > float(blurred) + 8


def test_the_ratio_is_weighed_against_the_mean_square():
    p = toy()
    losses = []
    for weight in (0.0, 0.01):
        method = BlindDIP(1, TINY, MLP(4, 6), ratio_weight=weight)
        state = method.init(p, Rng(0, "solve", ["a", "b"]))
        losses.append(method.objective(p, state)(state.v))
    scene = state.unknowns.image(p, state.v)
    torch.testing.assert_close(losses[1] - losses[0], 0.01 * gradient_ratio(scene))


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="ratio_weight must not be negative, got -1"):
        BlindDIP(ratio_weight=-1)


def test_the_config_holds_the_defaults():
    config = resolved(compose_config(["method=blind_dip", "prior=untrained"], None))
    assert build(config["method"]) == BlindDIP()
