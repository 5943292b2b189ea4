import pytest
import torch

from plugip.operators.blind_camera import BlindExposure, BlindShift, Exposure, Shift
from plugip.rng import Rng
from plugip.testing import check_operator


def rng(*ids):
    return Rng(0, "operator", ids)


def test_whole_shifts_move_pixels(tools):
    x = tools.normal(2, 3, 7, 6)
    y = Shift(torch.tensor([[2.0, -1.0]]))(x)
    tools.close(y[..., 2:, :-1], x[..., :-2, 1:], 1e-12)
    tools.close(y[..., 0, :-1], x[..., 0, 1:], 1e-12)  # replicated


def test_half_shifts_average(tools):
    x = tools.normal(1, 1, 5, 6)
    y = Shift(torch.tensor([[0.0, 0.5]]))(x)
    tools.close(y[..., 1:], (x[..., 1:] + x[..., :-1]) / 2, 1e-12)


@pytest.mark.parametrize("outside", ["replicate", "zero", "reflect"])
@pytest.mark.parametrize("size", [(7, 8), (6, 6)])
def test_shifts_obey_the_laws(outside, size):
    A = BlindShift(3.0, outside).draw(rng("a", "b"), (2, 3, *size))
    check_operator(A, (2, 3, *size)).require()


@pytest.mark.parametrize("per_channel", [False, True])
def test_exposures_obey_the_laws(per_channel):
    A = BlindExposure(per_channel=per_channel).draw(rng("a", "b"), (2, 3, 5, 6))
    check_operator(A, (2, 3, 5, 6)).require()


def test_exposure_scales_light(tools):
    x = tools.normal(2, 3, 4, 4)
    y = BlindExposure().at(torch.tensor([0.5, 2.0]).reshape(2, 1, 1, 1))(x)
    tools.close((y + 1)[0], (x + 1)[0] / 2, 1e-12)
    tools.close((y + 1)[1], (x + 1)[1] * 2, 1e-12)
    black = torch.full((1, 3, 4, 4), -1.0)
    assert torch.equal(Exposure(torch.full((1, 1, 1, 1), 3.0))(black), black)


def test_constraints_and_guesses(tools):
    like = torch.zeros(2, 3, 16, 16).double()
    shift, gain = BlindShift(2.0), BlindExposure(per_channel=True)
    d = shift.constrain(torch.tensor([[100.0, -100.0], [1e-3, 0.0]]).double())
    tools.close(d, torch.tensor([[2.0, -2.0], [1e-3, 0.0]]).double(), 1e-8)
    assert shift.init_theta(rng("a", "b"), like).shape == (2, 2)
    theta = gain.init_theta(rng("a", "b"), like)
    assert theta.shape == (2, 3, 1, 1) and theta.dtype == like.dtype
    tools.close(gain.constrain(theta), theta.exp())
    tools.close(gain.init_theta(rng("b"), like[:1]), theta[1:])
    assert shift.learning_rate_hint == 0.05 and gain.learning_rate_hint == 0.02


def test_truths_lie_in_their_ranges():
    ids = [str(i) for i in range(300)]
    d = BlindShift(3.0).draw_theta(rng(*ids), (300, 3, 8, 8))
    assert 2.8 < float(d.max()) <= 3 and -3 <= float(d.min()) < -2.8
    g = BlindExposure((0.25, 4.0)).draw_theta(rng(*ids), (300, 3, 8, 8))
    assert 0.25 <= float(g.min()) < 0.28 and 3.6 < float(g.max()) <= 4
    assert abs(float(g.log().mean())) < 0.15


def test_gradients_in_theta(tools):
    x = tools.normal(1, 2, 5, 5).requires_grad_()
    shift, gain = BlindShift(2.0), BlindExposure()
    theta = torch.tensor([[0.3, -0.6]]).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda v, t: shift.at(shift.constrain(t))(v), (x, theta))
    level = torch.full((1, 1, 1, 1), 0.2).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda v, t: gain.at(gain.constrain(t))(v), (x, level))


def test_errors():
    with pytest.raises(ValueError, match="max_shift must be a positive"):
        BlindShift(0)
    with pytest.raises(ValueError, match="unknown outside 'circular'"):
        BlindShift(outside="circular")
    with pytest.raises(ValueError, match="not smaller than images of 4 x 9"):
        BlindShift().check_domain((1, 3, 4, 9))
    with pytest.raises(ValueError, match="distance must be"):
        Shift(torch.zeros(2))
    with pytest.raises(ValueError, match="0 < low <= high"):
        BlindExposure((0.0, 1.0))
    with pytest.raises(ValueError, match="gain must be"):
        Exposure(torch.ones(1))
    with pytest.raises(TypeError, match="BlindShift has an unknown part"):
        BlindShift()(torch.zeros(1, 3, 8, 8))
