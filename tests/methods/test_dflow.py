"""D-Flow: the sign of its penalty, its start, and its objective."""

import math

import pytest
import torch
from toys import close, normal

from plugip.engine.start import InvertedStart, invert
from plugip.linalg import dot, norm
from plugip.loop import solve
from plugip.methods import DFlow
from plugip.path import FlowPath, VPPath
from plugip.priors.gaussian import GaussianPrior
from plugip.reverse import Generator
from plugip.rng import Rng
from plugip.testing import check_method
from plugip.testing.methods import toy_problem

IDS = ["a", "b", "c"]


@pytest.mark.parametrize("path", [FlowPath(), VPPath()])
def test_inversion_of_an_exact_gaussian_is_standardisation(path):
    """The flow of N(mean, s^2) maps z to mean + s z, so backwards it standardises."""
    mean = 0.2 * normal(3, 8, 8)
    prior = GaussianPrior(mean, 0.3, path).double()
    h = mean + 0.3 * normal(2, 3, 8, 8, seed=1)
    close(invert(prior, h, 400), (h - mean) / 0.3, 0.03)


def test_reverse_undoes_inversion():
    prior = GaussianPrior(0.2 * normal(3, 8, 8), 0.3, FlowPath()).double()
    h = 0.3 * normal(2, 3, 8, 8, seed=1)
    z = invert(prior, h, 200)
    close(Generator(200, solver="midpoint")(prior, z), h, 3e-3)


def test_start_mixes_the_inverted_estimate_with_noise():
    p = toy_problem()
    share = 0.1
    z = InvertedStart(share)(p, Rng(0, "solve", IDS))
    back = InvertedStart(1.0)(p, Rng(0, "solve", IDS))
    fresh = InvertedStart(0.0)(p, Rng(0, "solve", IDS))
    close(z, math.sqrt(share) * back + math.sqrt(1 - share) * fresh)
    close(fresh, Rng(0, "solve", IDS).normal((3, 8, 8), like=p.y))


def test_objective_is_the_published_one():
    p, method = toy_problem(), DFlow(generator=Generator(2, solver="midpoint"), seed_weight=0.3)
    state = method.init(p, Rng(0, "solve", IDS))
    z = state.v
    residual = p.operator(method.generator(p.prior, z)) - p.y
    expected = dot(residual, residual) + 0.3 * (0.5 * dot(z, z) - 191 * norm(z).log())
    close(method.objective(p, state)(z), expected)


def test_strong_penalty_holds_the_seed_at_its_shell():
    """The wrong sign, once in open code, would drive the norm to 0 or to infinity."""
    solution = solve(toy_problem(), DFlow(60, Generator(1), seed_weight=100.0))
    close(norm(solution.z) ** 2, torch.full((3,), 191.0).double(), 0.05)  # type: ignore[arg-type]


def test_passes_check_method():
    check_method(DFlow(4, Generator(2, solver="midpoint"))).require()


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="iterations must be at least 1"):
        DFlow(0)
    with pytest.raises(ValueError, match="share must lie in"):
        InvertedStart(1.5)
    with pytest.raises(ValueError, match="did you mean 'midpoint'"):
        InvertedStart(solver="midpont")
    with pytest.raises(ValueError, match="steps must be at least 1"):
        InvertedStart(steps=0)
