"""One network per image: a batch of two is two alone, and jitter is drawn per image."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from plugip.engine.unknowns import Layout, WithTheta
from plugip.engine.weights import OwnNetworks, Weights, shaken
from plugip.noise import GaussianNoise
from plugip.operators import Denoise
from plugip.priors import Untrained
from plugip.problem import Problem
from plugip.rng import Rng
from plugip.untrained import MLP, Fourier, Network, Siren, Skip

LIKE = torch.zeros(1, dtype=torch.float64)
SHAPE = (3, 9, 8)
NETWORKS = [
    Skip(channels=4, code_channels=3),
    Skip(scales=1, channels=4, skip_channels=0, upsampling="nearest"),
    MLP(inputs=5, hidden=7),
    Siren(hidden=6, layers=2),
    Fourier(features=4, hidden=6, layers=1),
]


def draw(network: Network, *ids: str) -> tuple[OwnNetworks, Tensor]:
    return OwnNetworks.draw(network, SHAPE, Rng(0, "solve", ids), LIKE)


def value_and_gradient(networks: OwnNetworks, v: Tensor) -> tuple[Tensor, Tensor]:
    free = v.clone().requires_grad_()
    made = networks(free)
    weights = torch.linspace(-1, 1, made[0].numel(), dtype=made.dtype).reshape(made[0].shape)
    return made.detach(), torch.autograd.grad((weights * made).sum(), free)[0]


@pytest.mark.parametrize("network", NETWORKS)
def test_a_batch_of_two_is_two_alone(network: Network):
    both = value_and_gradient(*draw(network, "a", "b"))
    alone = [value_and_gradient(*draw(network, i)) for i in ("a", "b")]
    assert (both[0][0] - both[0][1]).abs().max() > 1e-3
    for found, parts in zip(both, zip(*alone, strict=True), strict=True):
        assert_close(found, torch.cat(parts), rtol=1e-9, atol=1e-9)


def test_layers_use_the_given_weights():
    networks, v = draw(MLP(inputs=2, hidden=3), "a")
    w = networks.layout.split(v)
    hidden = (networks.code @ w["0.weight"][0].T + w["0.bias"]).clamp(0, 6)
    expected = (hidden @ w["2.weight"][0].T + w["2.bias"]).reshape(1, *SHAPE)
    assert_close(networks(v), expected)


def test_jitter_is_noise_on_the_code_of_each_image():
    networks, _ = draw(Skip(code_channels=200), "a", "b")
    moved = networks.shaken(0.03, Rng(0, "jitter", ["a", "b"]))
    noise = moved.code - networks.code
    assert_close(noise.std(), torch.tensor(0.03, dtype=torch.float64), rtol=0.02, atol=0)
    alone = draw(Skip(code_channels=200), "b")[0].shaken(0.03, Rng(0, "jitter", ["b"]))
    assert torch.equal(alone.code[0], moved.code[1])


def test_jitter_reaches_networks_behind_a_theta():
    networks, _ = draw(MLP(inputs=2, hidden=3), "a")
    unknowns = WithTheta(Weights(networks), Layout({}), {}, True)
    moved = shaken(unknowns, 0.1, Rng(0, "jitter", ["a"]))
    assert isinstance(moved, WithTheta) and isinstance(moved.inner, Weights)
    assert (moved.inner.networks.code != networks.code).all()


def test_images_are_squashed_and_calls_are_booked():
    networks, v = draw(Siren(hidden=6, layers=2), "a", "b")
    prior = Untrained(SHAPE)
    problem = Problem(torch.zeros(2, *SHAPE).double(), Denoise(), GaussianNoise(0.1), prior)
    free = v.clone().requires_grad_()
    x = Weights(networks).image(problem, free)
    assert_close(x, torch.tanh(networks(v) / 2))
    assert (prior.counter.nfe, prior.counter.vjps) == (1, 0)
    x.sum().backward()
    assert (prior.counter.nfe, prior.counter.vjps) == (1, 1)
