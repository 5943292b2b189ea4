"""Double DIP: magnitude and phase by their formulas, and complex objects from intensities."""

import math

import pytest
import torch
from torch.testing import assert_close

from plugip.building import build, resolved
from plugip.cli.compose import compose_config
from plugip.engine.adam import Adam
from plugip.linalg import norm
from plugip.loop import solve
from plugip.methods import DoubleDIP
from plugip.methods.double_dip import PARTS
from plugip.noise import GaussianNoise
from plugip.operators import CodedDiffraction, Denoise, FarFieldCDI, OctanaryCodes, align
from plugip.prior import probe_signal
from plugip.priors import Untrained
from plugip.problem import Problem
from plugip.rng import Rng
from plugip.testing import check_method
from plugip.untrained import Skip

TINY = Skip(scales=1, channels=4, skip_channels=2, code_channels=3)


def thing(side: int) -> torch.Tensor:
    """A smooth complex object as two channels, (1, 2, side, side)."""
    first, second, _ = (probe_signal((3, side, side))[:, i : i + 1] for i in range(3))
    return (0.5 + 0.4 * first) * torch.cat([torch.cos(second), torch.sin(second)], dim=1)


def coded(x: torch.Tensor, output: str = "amplitude") -> Problem:
    operator = CodedDiffraction(OctanaryCodes(4), object="channels", output=output)
    operator = operator.realise(Rng(0, "operator", [str(i) for i in range(len(x))]), x.shape)
    operator = operator.to(x.dtype)
    return Problem(operator(x), operator, GaussianNoise(0.01), Untrained(x.shape[1:]))


def test_parts_make_a_complex_object():
    first, second = torch.tensor([0.0, 50.0, 0.0]), torch.tensor([0.0, math.log(3), -50.0])
    shape = (1, 1, 1, 3)
    polar = PARTS["polar"](first.reshape(shape), second.reshape(shape))
    # magnitudes 1/2, 1, 1/2; phases 0, pi/2, -pi
    assert_close(polar[0, :, 0], torch.tensor([[0.5, 0, -0.5], [0, 1, 0]]), atol=1e-6, rtol=0)
    cartesian = PARTS["cartesian"](first.reshape(shape), second.reshape(shape))
    assert_close(cartesian[0, :, 0], torch.tensor([[0, 1, 0], [0, 0.5, -1]]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("parts", ["polar", "cartesian"])
def test_passes_check_method(parts: str):
    x = torch.cat([thing(8), thing(8).flip(-1)]).double()
    check_method(DoubleDIP(4, TINY, parts), coded(x)).require()


def test_retrieves_an_object_up_to_a_global_phase():
    x = thing(12)
    network = Skip(scales=1, channels=12, code_channels=8)
    solution = solve(coded(x), DoubleDIP(150, network, solver=Adam(0.02), jitter=0.0))
    found = align(solution.x_hat, x, turns=False, domain="channels")
    assert float(norm(found - x) / norm(x)) < 0.1
    assert solution.nfe == solution.vjps == [300]


def test_far_field_intensities_are_fitted():
    x = thing(8)
    operator = FarFieldCDI(object="channels", beam_stop=0)
    problem = Problem(operator(x), operator, GaussianNoise(0.01), Untrained((2, 8, 8)))
    trace = solve(problem, DoubleDIP(60, TINY, solver=Adam(0.05), jitter=0.0)).trace[0].residual
    assert trace[-1] < 0.3 * trace[0]


def test_images_of_other_channels_are_refused():
    problem = Problem(torch.zeros(1, 3, 8, 8), Denoise(), GaussianNoise(0.1), Untrained((3, 8, 8)))
    with pytest.raises(TypeError, match="images of two channels, but the prior's have 3"):
        solve(problem, DoubleDIP(2, TINY))


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="did you mean 'polar'"):
        DoubleDIP(parts="polr")


def test_the_config_holds_the_defaults():
    config = resolved(compose_config(["method=double_dip", "prior=untrained"], None))
    assert build(config["method"]) == DoubleDIP()
