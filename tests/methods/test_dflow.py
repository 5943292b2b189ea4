"""D-Flow: the sign of its penalty, its start, and its objective."""

import math

import pytest
import torch
from toys import close, normal

from plugip.engine.start import InvertedStart, invert
from plugip.linalg import dot, norm
from plugip.loop import solve
from plugip.methods import DFlow
from plugip.path import DiscretePath, EDMPath, FlowPath, ShiftedFlowPath, VPPath
from plugip.prior import as_flow, as_vp, earliest
from plugip.priors import EDMPrior
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


SMOOTH = [FlowPath(), ShiftedFlowPath(3.0), VPPath(), EDMPath(), EDMPath(20.0, 3.0)]
TABLES = [DiscretePath.linear(), DiscretePath.cosine()]


@pytest.mark.parametrize("path", [*SMOOTH, *TABLES])
@pytest.mark.parametrize("solver", ["midpoint", "heun"])
def test_inverted_seeds_have_unit_variance_on_every_path(path, solver):
    prior = GaussianPrior(torch.zeros(3, 16, 16), 0.4, path)
    h = 0.4 * normal(1, 3, 16, 16).float()
    for served in (prior, as_flow(prior), as_vp(prior)):
        z = invert(served, h, 20, solver)
        assert float(norm(z)) / 768**0.5 == pytest.approx(
            float(norm(h)) / 0.4 / 768**0.5, abs=0.05
        )


class Learnt(torch.nn.Module):
    """D(x; sigma) of N(0, 0.4^2), which knows levels from 0.002 on, as EDM's networks do."""

    def forward(self, x, sigma):
        level = sigma.reshape(-1, 1, 1, 1)
        assert bool((level >= 0.002 - 1e-9).all())
        return x * 0.16 / (0.16 + level**2)


@pytest.mark.parametrize("serve", [lambda p: p, as_flow, as_vp])
def test_inversion_does_not_ask_below_the_last_level_of_training(serve):
    prior = serve(EDMPrior(Learnt(), (3, 16, 16), probe=False))
    h = 0.4 * normal(1, 3, 16, 16).float()
    z = invert(prior, h, 20)
    close(z, h / 0.4, 0.05)
    f = earliest(prior)
    assert f / (1 - f) == pytest.approx(0.002)


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
