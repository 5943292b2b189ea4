"""Batches as a function of seed and step, and what the network is given."""

import pytest
import torch

from plugip.path import SIGNED, FlowPath, Prediction
from plugip.priors import DiffusersUNet
from plugip.training.batches import Batches, states
from plugip.training.network import make_network
from plugip.training.sections import Network
from plugip.training.times import TIMES, stratified

CPU = torch.device("cpu")


def batches(count=10, size=4, rng_seed=0, **options):
    return Batches(torch.arange(100, 100 + count), size, (3, 4, 4), rng_seed, **options)


def test_every_round_shows_every_image_once():
    rows = torch.cat([batches().draw(step, CPU).rows for step in range(15)])
    rounds = rows.reshape(6, 10)
    assert (rounds.sort(1).values == torch.arange(100, 110)).all()
    assert not torch.equal(rounds[0], rounds[1])


def test_a_step_depends_on_seed_and_number_alone():
    walked = batches()
    for step in range(7):
        walked.draw(step, CPU)
    a, b = walked.draw(7, CPU), batches().draw(7, CPU)
    for name in ("rows", "flip", "level", "eps"):
        assert torch.equal(getattr(a, name), getattr(b, name))
        assert not torch.equal(getattr(a, name), getattr(batches(rng_seed=3).draw(7, CPU), name))
    assert not torch.equal(a.eps, walked.draw(8, CPU).eps)


@pytest.mark.parametrize("times", TIMES.values())
def test_processes_share_one_batch(times):
    whole = batches(times=times).draw(5, CPU)
    parts = [batches(times=times, index=i, processes=2).draw(5, CPU) for i in range(2)]
    for name in ("rows", "flip", "level", "eps"):
        both = torch.cat([getattr(part, name) for part in parts])
        assert torch.equal(both, getattr(whole, name))


def test_noise_and_flips_have_the_right_moments():
    draw = batches(count=5000, size=5000).draw(0, CPU)
    assert abs(draw.eps.mean()) < 0.01 and abs(draw.eps.std() - 1) < 0.01
    assert abs(draw.flip.float().mean() - 0.5) < 0.03


def test_times():
    level = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    bins = (stratified(level) * 1000).floor().sort().values
    assert torch.equal(bins, torch.arange(1000.0)) or len(bins.unique()) >= 998  # rounding
    middle = TIMES["logit_normal"](level)
    # P(|n| < ln 3) of a standard normal is 0.728: that many lie between 1/4 and 3/4.
    assert abs(((middle > 0.25) & (middle < 0.75)).float().mean() - 0.728) < 0.05
    assert TIMES["logit_normal"](torch.tensor([0.0, 1.0])).isfinite().all()


@pytest.mark.parametrize("patch", [1, 2])
def test_states_are_those_of_the_prior(patch):
    pixels = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    pixels[0, 0, 0, :2] = torch.tensor([0, 255])
    network = Network(patch, (8, 8), 1, (False, False), 8, 4)
    net = make_network(network, 3, 8, 0)
    prior = DiffusersUNet(net, FlowPath(), Prediction.VELOCITY, SIGNED, patch)
    h = states(pixels, patch)
    assert h.shape[1:] == prior.shape
    x = prior.decode(h)
    assert torch.equal(x[0, 0, 0, :2], torch.tensor([-1.0, 1.0]))
    torch.testing.assert_close(x, pixels.double().div(127.5).sub(1).float(), atol=1e-6, rtol=0)
    mirrored = states(pixels, patch, torch.tensor([False, True]))
    assert torch.equal(mirrored[0], h[0])
    assert torch.equal(prior.decode(mirrored)[1], x[1].flip(-1))
