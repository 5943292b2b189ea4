import math

import pytest
import torch

from plugip import Rng
from plugip.linalg import norm
from plugip.operators.blind_pupil import (
    FORMS,
    BlindFourierPtychography,
    PupilAberrations,
    zernike,
)
from plugip.operators.ptychography import FourierPtychography, disk_pupil, led_grid
from plugip.testing import check_operator

LAMPS = led_grid(3, 2)


def blind(constraint="phase", truth=None, kind="unit"):
    return BlindFourierPtychography(
        LAMPS, 3.0, 8, 16, kind, constraint=constraint, truth=truth
    ).double()


def rng(*ids):
    return Rng(0, "operator", ids or ("a", "b"))


def test_aberrations_are_orthonormal():
    maps = zernike(401, 200.0).flatten(1)
    gram = maps @ maps.T / disk_pupil(401, 200.0).sum()
    assert float((gram - torch.eye(8)).abs().max()) < 0.02
    assert float(maps.mean(1).abs().max()) < 0.01


def test_aberrations_have_their_names():
    defocus, oblique, upright, down, right, *_, spherical = zernike(9, 4.0)
    assert float(defocus[4, 4]) == pytest.approx(-(3**0.5))
    assert float(defocus[4, 8]) == float(defocus[0, 4]) == pytest.approx(3**0.5)
    assert float(upright[4, 8]) == -float(upright[8, 4]) == pytest.approx(6**0.5)
    assert float(oblique[4, 8]) == pytest.approx(0, abs=1e-12)
    assert float(oblique[6, 6]) == pytest.approx(6**0.5 / 2)
    assert float(right[4, 8]) == float(down[8, 4]) == pytest.approx(8**0.5)
    assert float(spherical[4, 4]) == pytest.approx(5**0.5)
    assert float(defocus[0, 0]) == 0  # outside


def test_drawn_lenses_are_clear_with_the_stated_phase():
    ids = [str(i) for i in range(100)]
    pupils = PupilAberrations(0.2).draw(Rng(0, "x", ids), 17, 8.0)
    disk = disk_pupil(17, 8.0)
    torch.testing.assert_close(pupils.abs(), disk.expand(100, -1, -1))
    rms = pupils[:, disk == 1].angle().square().mean().sqrt()
    assert float(rms) == pytest.approx(0.2, rel=0.1)
    assert torch.equal(pupils[7:8], PupilAberrations(0.2).draw(Rng(0, "x", ["7"]), 17, 8.0))


@pytest.mark.parametrize("kind", ["unit", "phase", "channels", "complex"])
@pytest.mark.parametrize("constraint", FORMS)
def test_draws_and_guesses_are_known_operators(tools, constraint, kind):
    A = blind(constraint, PupilAberrations(0.5), kind)
    shape = (2, 2 if kind == "channels" else 1, 16, 16)
    check_operator(A.draw(rng(), shape), shape).require()
    like = torch.zeros(shape, dtype=torch.complex128 if kind == "complex" else torch.float64)
    theta = A.init_theta(rng(), like)
    assert theta.shape == (2, FORMS[constraint].parts, 8, 8) and theta.dtype == torch.float64
    known = A.at(A.constrain(theta))
    check_operator(known, shape).require()
    assert known.measurement_shape(shape) == A.measurement_shape(shape) == (2, 9, 8, 8)
    assert A.complex_domain == known.complex_domain
    assert A.unknown().truth is None and A.truth is not None


def test_the_first_guess_is_nearly_the_clear_lens(tools):
    x = tools.normal(2, 1, 16, 16)
    clear = FourierPtychography(LAMPS, 3.0, 8, 16)(x)
    for constraint in FORMS:
        A = blind(constraint)
        y = A.at(A.constrain(A.init_theta(rng(), x)))(x)
        gap = (y - clear).norm() / clear.norm()
        assert 0 < float(gap) < 0.1


@pytest.mark.parametrize("constraint", FORMS)
def test_constrained_pupils_lie_in_the_disks(tools, constraint):
    A = blind(constraint)
    theta = 3 * tools.normal(2, FORMS[constraint].parts, 8, 8)
    pupil = A.constrain(theta)
    modulus, inside = pupil.norm(dim=1), disk_pupil(8, 3.0) == 1
    assert bool((modulus <= 1 + 1e-12).all()) and bool((modulus[:, ~inside] == 0).all())
    if constraint == "phase":
        tools.close(modulus[:, inside], torch.ones(2, int(inside.sum())).double(), 1e-12)
        tools.close(pupil[:, 1][:, inside], theta[:, 0][:, inside].sin(), 1e-12)
    # A clear lens and a black one are both reached.
    ends = torch.zeros(1, 2, 8, 8).double()
    ends[:, 0, 4, 4] = 1
    lens = blind("unit_disk").constrain(ends)
    assert float(lens[0, 0, 4, 4]) == 1 and float(lens.abs().sum()) == 1


def test_gradients_reach_the_free_parameters(tools):
    x = tools.normal(2, 1, 6, 6).requires_grad_()
    for constraint in FORMS:
        A = BlindFourierPtychography([(0, 0), (1, -1)], 1.5, 4, 6, constraint=constraint).double()
        theta = tools.normal(2, FORMS[constraint].parts, 4, 4, seed=1).requires_grad_()
        assert torch.autograd.gradcheck(lambda v, t, A=A: A.at(A.constrain(t))(v), (x, theta))


def test_a_plane_of_phase_moves_the_object(tools):
    """P exp(2 pi i k t / N) and the object moved back by t give the same pictures."""
    o = torch.complex(tools.normal(1, 1, 16, 16), tools.normal(1, 1, 16, 16, seed=1))
    pupil = PupilAberrations(0.5).draw(rng("a"), 8, 3.0)
    k = torch.arange(8).double() - 4
    plane = torch.exp(2j * math.pi * (k[:, None] * 3 - k * 5) / 16)
    A = FourierPtychography(LAMPS, 3.0, 8, 16, "complex")
    tools.close(A.through(pupil * plane)(o.roll((3, -5), (-2, -1))), A.through(pupil)(o), 1e-10)
    tools.close(A.through(1j * pupil)(o), A.through(pupil)(o), 1e-12)


@pytest.mark.parametrize("constraint", FORMS)
def test_the_learning_rate_hint_finds_the_lens_of_a_known_object(tools, constraint):
    A = blind(constraint, PupilAberrations(0.5), "complex")
    o = torch.complex(tools.normal(2, 1, 16, 16), tools.normal(2, 1, 16, 16, seed=1))
    truth = A.draw_theta(rng(), (2, 1, 16, 16))
    y = A.at(truth)(o)
    theta = A.init_theta(rng(), o).requires_grad_()
    assert isinstance(A.learning_rate_hint, float)
    adam = torch.optim.Adam([theta], lr=A.learning_rate_hint)
    for _ in range(150):
        adam.zero_grad()
        (A.at(A.constrain(theta))(o) - y).square().sum().backward()
        adam.step()
    found = A.constrain(theta).detach()
    overlap = torch.complex(found[:, 0], found[:, 1]) * torch.complex(truth[:, 0], -truth[:, 1])
    likeness = overlap.sum((1, 2)).abs() / (norm(found) * norm(truth))
    assert float(likeness.min()) > 0.99  # up to the global phase, which y does not tell


def test_one_image_one_answer(tools):
    A, x = blind(truth=PupilAberrations()), tools.normal(2, 1, 16, 16)
    both, alone = A.draw(rng(), (2, 1, 16, 16)), A.draw(rng("b"), (1, 1, 16, 16))
    tools.close(both(x)[1:], alone(x[1:]), 1e-12)
    tools.close(both.select([1])(x[1:]), alone(x[1:]), 1e-12)
    guess = A.init_theta(rng(), x)
    tools.close(guess[1:], A.init_theta(rng("b"), x[1:]), 0)


def test_errors():
    with pytest.raises(ValueError, match=r"unknown constraint 'phases'.*did you mean 'phase'"):
        blind("phases")
    with pytest.raises(ValueError, match=r"\(B, 2, 8, 8\), got \(1, 1, 8, 8\); use constrain"):
        blind().at(torch.zeros(1, 1, 8, 8))
    with pytest.raises(TypeError, match="cannot simulate a measurement"):
        blind().draw(rng(), (2, 1, 16, 16))
    with pytest.raises(ValueError, match="rms must be a positive"):
        PupilAberrations(0.0)
    with pytest.raises(ValueError, match=r"was built for images of \(16, 16\)"):
        blind().check_domain((1, 1, 8, 8))
    with pytest.raises(ValueError, match="leaves the array"):
        BlindFourierPtychography([(8, 0)], 3.0, 8, 16)
