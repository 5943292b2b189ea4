"""Shared seeds: the sum written out, their rank, and that all parts can move."""

import pytest
import torch
from toys import close, normal

from plugip.engine.shared import shared_seeds
from plugip.reverse import Generator
from plugip.rng import Rng
from plugip.testing.methods import toy_problem

IDS = ["a", "b", "c"]


def opened(frames: int = 4, rank: int = 2, weight: float = 0.5):
    p = toy_problem()
    return p, *shared_seeds(p, Rng(0, "solve", IDS), Generator(2), frames, rank, weight)


def test_frames_start_equal():
    _, unknowns, v = opened()
    z = unknowns.frames(v)
    assert torch.equal(z, z[:, :1].expand_as(z))
    assert torch.equal(unknowns.seed(v), z[:, 0])


def test_frames_are_the_sum_written_out():
    _, unknowns, v = opened()
    v = normal(*v.shape)
    parts, z = unknowns.layout.split(v), unknowns.frames(v)
    for f in range(4):
        expected = parts["shared"].clone()
        for r in range(2):
            share = parts["shares"][:, f, r].reshape(-1, 1, 1, 1)
            expected += share * parts["directions"][:, r]
        close(z[:, f], expected)


def test_differences_of_frames_have_the_rank():
    _, unknowns, v = opened()
    z = unknowns.frames(normal(*v.shape))
    apart = (z - z[:, :1]).flatten(2)
    assert [int(torch.linalg.matrix_rank(scene)) for scene in apart] == [2, 2, 2]


def test_images_and_penalty_are_those_of_single_frames():
    p, unknowns, v = opened()
    v = normal(*v.shape)
    z, x = unknowns.frames(v), unknowns.image(p, v)
    assert x.shape == (3, 3, 4, 8, 8)
    close(x[:, :, 1], Generator(2)(p.prior, z[:, 1]))
    close(unknowns.penalty(v), 0.25 * z.square().flatten(1).sum(dim=1))


def test_the_first_gradient_moves_the_shares():
    p, unknowns, v = opened()
    v.requires_grad_()
    x = unknowns.image(p, v)
    target = normal(*x.shape)
    (grad,) = torch.autograd.grad((x - target).square().sum(), v)
    parts = unknowns.layout.split(grad)
    assert parts["shared"].abs().max() > 0 and parts["shares"].abs().max() > 0


def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match="got 0 frames"):
        opened(frames=0, rank=0)
    with pytest.raises(ValueError, match="rank 5"):
        opened(frames=4, rank=5)
