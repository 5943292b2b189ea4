import pytest
import torch

from plugip.operator import BlindOperator, LinearOperator
from plugip.operators.blur import Blur
from plugip.operators.separable_blur import gaussian_taps
from plugip.operators.turbulence import BlindTurbulence, TiltSampler, turbulence
from plugip.operators.warp import Warp
from plugip.rng import Rng
from plugip.testing import check_operator


def rng(*ids):
    return Rng(0, "operator", ids)


def golden_tilt():
    h, w = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    across = 1.5 * (((3 * h + 5 * w) % 11) / 5 - 1)
    down = 1.25 * (((7 * h + 2 * w) % 13) / 6 - 1)
    return torch.stack([across, down])[None].double()


def gaussian(std, size):
    taps = torch.from_numpy(gaussian_taps(std, size))
    return torch.outer(taps, taps)[None, None]


class Given:
    def draw(self, rng, x_shape):
        return gaussian(1.0, 5)[0].expand(len(rng), 5, 5)


def test_golden_tilt(tools):
    # The golden was computed in float32 coordinates: the spec states agreement to 2e-6.
    case = tools.golden("turbulence")["cases"]["tilt_16"]
    tools.case(Warp(golden_tilt(), outside="zero")(tools.hash_image(1, 3, 16, 16)), case, 2e-6)


def test_golden_tilt_and_blur(tools):
    case = tools.golden("turbulence")["cases"]["tilt_blur_16"]
    A = turbulence(golden_tilt(), gaussian(1.0, 8), origin=(3, 3))
    tools.case(A(tools.hash_image(1, 3, 16, 16)), case, 2e-6)


def test_tilt_statistics_of_the_published_sampler(tools):
    # Tilt maps themselves are not portable: the reference draws from NumPy's global state.
    want = tools.golden("turbulence")["tilt_map_statistics_12_draws_256"]
    tilt = TiltSampler(patch=64).draw(rng("a", "b"), (2, 3, 256, 256))
    assert tilt.shape == (2, 2, 256, 256)
    assert float(tilt[..., 96:160, 96:160].std()) == pytest.approx(
        want["std_centre_64px"], rel=0.08
    )
    assert float(tilt.std()) == pytest.approx(want["std_all"], rel=0.08)
    edge = torch.ones(256, 256, dtype=torch.bool)
    edge[16:-16, 16:-16] = False
    assert float(tilt[..., edge].std()) == pytest.approx(want["std_outer_16px"], rel=0.1)
    assert float(tilt.abs().max()) <= 2.5


def test_an_image_keeps_its_tilt():
    sampler, shape = TiltSampler(patches=20), (2, 3, 32, 24)
    both = sampler.draw(rng("a", "b"), shape)
    assert torch.equal(sampler.draw(rng("b"), (1, *shape[1:])), both[1:])
    assert not torch.equal(both[0], both[1])
    assert torch.equal(both, TiltSampler(patches=20, patch=6).draw(rng("a", "b"), shape))


def test_without_tilt_it_is_a_blur(tools):
    k, x = gaussian(1.0, 5), tools.normal(2, 3, 9, 8)
    A = turbulence(torch.zeros(1, 2, 9, 8).double(), k)
    assert isinstance(A, LinearOperator)
    tools.close(A(x), Blur(k, "zero")(x), 1e-12)


@pytest.mark.parametrize("size", [(16, 16), (17, 20)])
def test_turbulence_obeys_the_laws(tools, size):
    blind = BlindTurbulence(7, tilt=TiltSampler(patches=30), truth=Given())
    A = blind.draw(rng("a", "b"), (2, 3, *size))
    assert isinstance(A, LinearOperator)
    check_operator(A, (2, 3, *size)).require()


def test_theta_has_two_parts(tools):
    A, like = BlindTurbulence((7, 5)), torch.zeros(2, 3, 16, 12).double()
    theta = A.init_theta(rng("a", "b"), like)
    assert {k: tuple(v.shape) for k, v in theta.items()} == {
        "tilt": (2, 2, 16, 12),
        "kernel": (2, 1, 7, 5),
    }
    assert float(theta["tilt"].std()) == pytest.approx(0.01, rel=0.1)
    known = A.constrain(theta)
    tools.close(known["tilt"], theta["tilt"])
    tools.close(known["kernel"].sum((-2, -1)), torch.ones(2, 1).double())
    assert A.learning_rate_hint == {"tilt": 0.01, "kernel": 0.1}
    assert isinstance(A, BlindOperator) and A.measurement_shape((2, 3, 8, 9)) == (2, 3, 8, 9)
    alone = A.init_theta(rng("b"), like[:1])
    assert all(torch.equal(alone[name][0], theta[name][1]) for name in theta)


def test_gradients_reach_both_parts(tools):
    A, x = BlindTurbulence(3), tools.normal(1, 1, 5, 5)
    tilt, logits = 0.3 + 0.1 * tools.normal(1, 2, 5, 5, seed=1), tools.normal(1, 1, 3, 3, seed=2)

    def y(t, k):
        return A.at(A.constrain({"tilt": t, "kernel": k}))(x)

    assert torch.autograd.gradcheck(y, (tilt.requires_grad_(), logits.requires_grad_()))


def test_errors():
    with pytest.raises(ValueError, match="patch must be even, got 7"):
        TiltSampler(patch=7)
    with pytest.raises(ValueError, match="0 <= low <= high"):
        TiltSampler(strength=(0.4, 0.1))
    with pytest.raises(ValueError, match="patches must be a whole number"):
        TiltSampler(patches=0)
    with pytest.raises(ValueError, match="patches of 64 pixels do not fit images of 32 x 48"):
        TiltSampler(patch=64).draw(rng("a"), (1, 3, 32, 48))
    with pytest.raises(ValueError, match="no middle pixel"):
        BlindTurbulence(64)
    with pytest.raises(TypeError, match="cannot simulate"):
        BlindTurbulence(3).draw(rng("a"), (1, 3, 16, 16))
    with pytest.raises(ValueError, match="reaches 16 pixels beyond the edge"):
        BlindTurbulence(33, boundary="reflect").check_domain((1, 3, 16, 16))
