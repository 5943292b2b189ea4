"""Neural fields: first weights, derivatives, places and features by their formulas."""

import math

import pytest
import torch
from torch.testing import assert_close

from plugip.rng import Rng
from plugip.untrained import Fourier, Siren
from plugip.untrained.network import draw_weights, empty_layers
from plugip.untrained.siren import SineLayer, places

RNG = Rng(0, "solve", ["a"])


def test_first_weights_follow_the_published_bounds():
    drawn = draw_weights(empty_layers(Siren(256, 3), (3, 8, 8)), RNG, torch.zeros(1))
    hidden = math.sqrt(6 / 256) / 30
    for name, bound in (("0.weight", 0.5), ("1.weight", hidden), ("3.weight", hidden)):
        assert drawn[name].abs().max() <= bound
        assert_close(drawn[name].std(), torch.tensor(bound / 3**0.5), rtol=0.1, atol=0)
    assert drawn["1.bias"].abs().max() > 5 * hidden  # biases keep the usual bound, 1 / 16


def test_arguments_of_hidden_sines_have_unit_variance():
    layers = Siren(256, 4).build((1, 32, 32))
    layers.load_state_dict({n: w[0] for n, w in draw_weights(layers, RNG, torch.zeros(1)).items()})
    with torch.no_grad():
        first, *others = (m for m in layers.children() if isinstance(m, SineLayer))
        h = first(places((1, 32, 32), torch.zeros(1)))
        assert len(others) == 3
        for layer in others:
            linear = torch.nn.functional.linear(h, layer.weight)
            assert 0.7 < float((30 * linear).std()) < 1.3
            h = layer(h)


def test_derivatives_of_a_sine_layer():
    layer = SineLayer(2, 3, omega=30.0).double()
    p = torch.tensor([0.3, -0.7], dtype=torch.float64)
    phase = 30 * (layer.weight @ p + layer.bias)
    slope = torch.func.jacrev(layer)(p)
    assert_close(slope, 30 * phase.cos()[:, None] * layer.weight)
    curvature = torch.func.jacfwd(torch.func.jacrev(layer))(p)
    outer = layer.weight[:, :, None] * layer.weight[:, None, :]
    assert_close(curvature, -900 * phase.sin()[:, None, None] * outer)


def test_places_are_the_middles_of_pixels():
    found = places((3, 2, 4), torch.zeros(1))
    assert found.shape == (1, 2, 4, 2)
    assert_close(found[0, :, 0, 0], torch.tensor([-0.5, 0.5]))
    assert_close(found[0, 0, :, 1], torch.tensor([-0.75, -0.25, 0.25, 0.75]))


def test_fourier_features_are_cosines_and_sines_of_random_directions():
    code = Fourier(features=300, scale=2.0).code((3, 1, 3), RNG, torch.zeros(1).double())
    assert code.shape == (1, 1, 3, 600)
    cos, sin = code.split(300, dim=-1)
    assert_close(cos.square() + sin.square(), torch.ones_like(cos))
    # E cos(2 pi b d) = exp(-2 (pi sigma d)^2) between places a distance d apart, here 1 / 3.
    product = (cos[0, 0, 0] * cos[0, 0, 1] + sin[0, 0, 0] * sin[0, 0, 1]).mean()
    assert abs(float(product) - math.exp(-2 * (math.pi * 2 / 3) ** 2)) < 0.15
    near = Fourier(features=3000, scale=0.3).code((3, 1, 3), RNG, torch.zeros(1).double())
    cos, sin = near.split(3000, dim=-1)
    product = (cos[0, 0, 0] * cos[0, 0, 1] + sin[0, 0, 0] * sin[0, 0, 1]).mean()
    assert abs(float(product) - math.exp(-2 * (math.pi * 0.3 / 3) ** 2)) < 0.02


@pytest.mark.parametrize("network", [Siren(8, 2), Fourier(4, hidden=8, layers=2)])
def test_makes_images_of_any_side(network):
    shape = (3, 5, 8)
    assert network.build(shape)(network.code(shape, RNG, torch.zeros(1))).shape == (1, *shape)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="omega positive"):
        Siren(omega=0)
    with pytest.raises(ValueError, match="scale positive"):
        Fourier(scale=0)
