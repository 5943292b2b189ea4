"""SelfDeblur: it finds image and kernel, changes its loss in time, and keeps images apart."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from plugip.building import build, resolved
from plugip.cli.compose import compose_config
from plugip.engine.adam import Adam
from plugip.engine.misfit import Misfit
from plugip.engine.scene import Scene, StructuralMisfit
from plugip.engine.schedule import Milestones
from plugip.linalg import norm
from plugip.loop import solve
from plugip.methods import SelfDeblur
from plugip.metrics import psnr, to_unit
from plugip.noise import GaussianNoise
from plugip.operators import BlindBlur, Denoise, find_shift
from plugip.operators.blind_blur import move
from plugip.priors import Untrained
from plugip.problem import Problem
from plugip.rng import Rng
from plugip.testing import check_method
from plugip.testing.report import random_images
from plugip.untrained import MLP, Skip

TINY = Skip(scales=1, channels=4, skip_channels=2, code_channels=3)
KERNEL = torch.tensor([[0, 0.1, 0], [0, 0.3, 0.2], [0, 0, 0.4]])


def blocks() -> torch.Tensor:
    """Four bright rectangles on a dark ground, (1, 1, 16, 16)."""
    x = torch.full((1, 1, 16, 16), -0.8)
    x[..., 3:7, 2:9], x[..., 9:13, 8:11] = 0.7, 0.9
    x[..., 10:14, 2:4], x[..., 5:8, 11:14] = 0.2, 0.4
    return x


def toy(side: int = 12) -> Problem:
    y = random_images((2, 3, side, side), "y")
    return Problem(y, BlindBlur(3), GaussianNoise(0.05), Untrained((3, side, side)))


def method(steps: int, **options) -> SelfDeblur:
    return SelfDeblur(steps, TINY, MLP(4, 6), kernel_lr=1e-3, **options)


@pytest.mark.parametrize("structural_after", [None, 2])
def test_passes_check_method(structural_after: int | None):
    check_method(method(4, structural_after=structural_after), toy()).require()


def test_finds_image_and_kernel_up_to_a_shift():
    x, true = blocks(), torch.nn.functional.pad(KERNEL, (1, 1, 1, 1))[None, None]
    y = BlindBlur(5).at(true)(x)
    problem = Problem(y, BlindBlur(5), GaussianNoise(0.01), Untrained((1, 16, 16)))
    network = Skip(scales=2, channels=12, code_channels=8)
    chosen = SelfDeblur(150, network, MLP(20, 30), Adam(0.01), 1e-2, 0.0, None)
    solution = solve(problem, chosen, 1)
    kernel = solution.theta
    assert isinstance(kernel, torch.Tensor)
    shift = find_shift(kernel, true, 2)
    assert_close(kernel.sum((1, 2, 3)), torch.ones(1))
    assert (kernel >= 0).all()
    assert float(norm(move(kernel, shift, "zero") - true) / norm(true)) < 0.35
    blurred, found = (psnr(to_unit(v), to_unit(x)) for v in (y, move(solution.x_hat, shift)))
    assert float(found) > float(blurred) + 8


def test_the_loss_becomes_structural_similarity():
    p, chosen = toy(), method(4, structural_after=2)
    state, kinds, losses = chosen.init(p, Rng(0, "solve", ["a", "b"])), [], []
    for _ in range(3):
        objective = chosen.objective(p, state)
        losses.append(objective(state.v))
        kinds.append(type(objective))
        state, _ = chosen.step(p, state)
    assert kinds == [Misfit, Misfit, StructuralMisfit]
    assert (losses[2] > losses[1]).all() and (losses[2] < 2).all()


def test_published_settings():
    chosen = SelfDeblur()
    config = resolved(compose_config(["method=self_deblur", "prior=untrained"], None))
    milestones = Milestones([2000, 3000, 4000], 0.5)  # a list, as in the file
    assert build(config["method"]) == replace(chosen, solver=Adam(0.01, schedule=milestones))
    assert chosen.solver == Adam(0.01, schedule=Milestones((2000, 3000, 4000), 0.5))
    assert (chosen.kernel_lr, chosen.jitter, chosen.structural_after) == (1e-4, 0.001, 1000)
    assert chosen.generator == Skip(None, 128, 16, 8) and chosen.kernel == MLP(200, 1000)


def test_the_kernel_moves_at_its_own_rate():
    p, chosen = toy(), method(2, structural_after=None)
    state = chosen.init(p, Rng(0, "solve", ["a", "b"]))
    moved, _ = chosen.step(p, state)
    assert isinstance(state.unknowns, Scene)
    parts = state.unknowns.layout.split((moved.solver.z - state.v).abs())
    assert_close(parts["scene"].max(), torch.tensor(0.01).double(), rtol=1e-3, atol=0)
    assert_close(parts["kernel"].max(), torch.tensor(0.001).double(), rtol=1e-3, atol=0)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="kernel_lr must be positive, got 0"):
        SelfDeblur(kernel_lr=0)
    with pytest.raises(ValueError, match="structural_after must not be negative"):
        SelfDeblur(structural_after=-1)
    with pytest.raises(ValueError, match="at least 11 pixels a side, got 8"):
        solve(toy(8), method(1))
    known = Problem(toy().y, Denoise(), GaussianNoise(0.1), Untrained((3, 12, 12)))
    with pytest.raises(TypeError, match="operator=blind_blur"):
        solve(known, method(1))
