"""The prior of methods that bring their own: a shape, a counter, and clear refusals."""

import pytest
import torch

from plugip.loop import solve
from plugip.methods import DPS, DMPlug
from plugip.noise import GaussianNoise
from plugip.operators import Denoise
from plugip.priors import Untrained
from plugip.problem import Problem


def test_knows_the_shape_of_images():
    prior = Untrained([3, 8, 6])
    assert prior.shape == prior.image_shape == (3, 8, 6)
    assert (prior.counter.nfe, prior.counter.vjps) == (0, 0)


def test_whatever_else_is_asked_is_a_type_error():
    prior, x = Untrained((1, 4, 4)), torch.zeros(1, 1, 4, 4)
    asked = [
        lambda: prior(x, torch.tensor(0.5)),
        lambda: prior.decode(x),
        lambda: prior.encode(x),
        lambda: prior.path,
    ]
    for question in asked:
        with pytest.raises(TypeError, match=r"the prior is Untrained .* method=dip"):
            question()


@pytest.mark.parametrize("method", [DMPlug(2), DPS(2)])
def test_methods_that_need_a_prior_are_refused(method):
    problem = Problem(torch.zeros(1, 1, 4, 4), Denoise(), GaussianNoise(0.1), Untrained((1, 4, 4)))
    with pytest.raises(TypeError, match="Untrained"):
        solve(problem, method)


def test_a_shape_has_three_positive_numbers():
    with pytest.raises(ValueError, match="shape must be"):
        Untrained((3, 0, 4))
