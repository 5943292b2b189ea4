"""The random projector: what is fitted and what stays, its objective, and that it restores."""

import pytest
import torch
from torch.testing import assert_close

from plugip.building import build, resolved
from plugip.cli.compose import compose_config
from plugip.engine.adam import Adam
from plugip.loop import solve
from plugip.methods import RandomProjector
from plugip.methods.random_projector import CODE, SCALE, SHIFT, Projection, total_variation
from plugip.metrics import psnr, to_unit
from plugip.noise import GaussianNoise
from plugip.operators import Inpaint
from plugip.prior import probe_signal
from plugip.priors import Untrained
from plugip.problem import Problem, measure
from plugip.rng import Rng
from plugip.testing import check_method
from plugip.testing.methods import toy_problem
from plugip.untrained import MLP, Skip

TINY = Skip(scales=1, channels=4, skip_channels=2, code_channels=2)


def toy() -> Problem:
    p = toy_problem()
    return Problem(p.y, p.operator, p.noise, Untrained(p.prior.image_shape))


def searched(method: RandomProjector) -> tuple[Projection, torch.Tensor]:
    unknowns, v = method.search(toy(), Rng(0, "solve", ["a", "b", "c"]))
    assert isinstance(unknowns, Projection)
    return unknowns, v


def test_passes_check_method():
    check_method(RandomProjector(4, TINY, Adam(0.1)), toy()).require()


def test_only_code_and_norms_are_fitted():
    unknowns, v = searched(RandomProjector(1, TINY))
    named = set(unknowns.layout.shapes) - {CODE, SCALE, SHIFT}
    assert named and all("norm" in n or n.split(".")[-2] == "1" for n in named)
    norms = 2 * (2 + 4 + 4 + 6 + 4 + 4)  # skip, two of "down", the joint one, two of "up"
    assert v.shape == (3, 2 * 8 * 8 + 2 * 2 + norms)


def test_at_the_start_the_image_is_the_network_of_the_normalised_code():
    unknowns, v = searched(RandomProjector(1, TINY))
    code = unknowns.layout.split(v)[CODE]
    level = (code - code.mean((2, 3), keepdim=True)) / (
        code.var((2, 3), keepdim=True, correction=0) + 1e-5
    ).sqrt()
    networks = unknowns.networks
    expected = torch.tanh(networks.made(networks.layout.split(unknowns.weights), level) / 2)
    assert_close(unknowns.image(toy(), v), expected)


def test_total_variation_of_a_step():
    step = torch.zeros(1, 1, 4, 4)
    step[..., 2:] = 1
    assert_close(total_variation(step), torch.tensor([4 / 16]))


def test_the_objective_is_a_root_mean_square_plus_total_variation():
    p, method = toy(), RandomProjector(1, TINY, tv_weight=0.3)
    state = method.init(p, Rng(0, "solve", ["a", "b", "c"]))
    here = method.objective(p, state).evaluate(state.v)
    assert_close(here.loss, here.residual + 0.3 * total_variation(here.x))


def test_fills_in_missing_pixels_of_a_smooth_picture():
    x = probe_signal((3, 16, 16))
    mask = (torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    y = measure(Inpaint(mask), x, GaussianNoise(0.01), ids=["a"])
    problem = Problem(y, Inpaint(mask), GaussianNoise(0.01), Untrained((3, 16, 16)))
    network = Skip(scales=1, channels=16, code_channels=3)
    solution = solve(problem, RandomProjector(150, network, Adam(0.1), tv_weight=0.05))
    before, after = (float(psnr(to_unit(v), to_unit(x))) for v in (y, solution.x_hat))
    assert after > before + 6
    assert solution.nfe == solution.vjps == [150]


def test_the_config_holds_the_defaults():
    config = resolved(compose_config(["method=random_projector", "prior=untrained"], None))
    assert build(config["method"]) == RandomProjector()


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="code_std > 0 and tv_weight >= 0"):
        RandomProjector(tv_weight=-1)
    with pytest.raises(ValueError, match="code is an image, such as Skip; that of MLP"):
        searched(RandomProjector(1, MLP(3, 4)))
