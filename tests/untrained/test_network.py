"""First weights: usual bounds, per image, and nothing drawn from the global stream."""

import pytest
import torch
from torch.testing import assert_close

from plugip.rng import Rng
from plugip.testing.report import keeps_global_stream
from plugip.untrained import MLP, Fourier, Network, Siren, Skip
from plugip.untrained.network import ChannelNorm, draw_weights, empty_layers

NETWORKS = [
    Skip(channels=4, code_channels=3),
    MLP(inputs=5, hidden=7),
    Siren(hidden=6, layers=2),
    Fourier(features=4, hidden=6, layers=1),
]


def rng(*ids: str) -> Rng:
    return Rng(0, "solve", ids)


@pytest.mark.parametrize("network", NETWORKS)
def test_weights_and_codes_are_the_same_alone_and_in_a_batch(network: Network):
    layers, like = empty_layers(network, (3, 9, 8)), torch.zeros(1)
    both, alone = (draw_weights(layers, streams, like) for streams in (rng("a", "b"), rng("b")))
    for name, weights in both.items():
        assert torch.equal(weights[1], alone[name][0])
    codes = network.code((3, 9, 8), rng("a", "b"), like)
    assert torch.equal(codes[1], network.code((3, 9, 8), rng("b"), like)[0])


@pytest.mark.parametrize("network", NETWORKS)
def test_building_and_drawing_leave_the_global_stream_alone(network: Network):
    def action() -> None:
        draw_weights(empty_layers(network, (3, 9, 8)), rng("a"), torch.zeros(1))

    assert keeps_global_stream(action)[0]


def test_weights_fill_the_usual_bounds():
    drawn = draw_weights(empty_layers(MLP(100, 400), (1, 5, 5)), rng("a"), torch.zeros(1))
    for name, bound in (("0.weight", 0.1), ("0.bias", 0.1), ("2.weight", 0.05)):
        assert drawn[name].abs().max() <= bound
        assert_close(drawn[name].std(), torch.tensor(bound / 3**0.5), rtol=0.1, atol=0)


def test_norms_begin_as_pure_norms():
    drawn = draw_weights(
        empty_layers(Skip(scales=1, channels=4), (1, 8, 8)), rng("a"), torch.zeros(1)
    )
    assert torch.equal(drawn["0.norm.weight"], torch.ones(1, 8))
    assert torch.equal(drawn["0.norm.bias"], torch.zeros(1, 8))


def test_channel_norm_is_a_batch_norm_on_a_batch_of_one():
    x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    published = torch.nn.BatchNorm2d(3).train()
    norm = ChannelNorm(3)
    with torch.no_grad():
        for layer in (published, norm):
            layer.weight.copy_(torch.tensor([0.5, 1.0, 2.0]))
            layer.bias.copy_(torch.tensor([0.1, 0.0, -0.3]))
        expected = torch.cat([published(image[None]) for image in x])
        assert_close(norm(x), expected, rtol=1e-5, atol=1e-5)
