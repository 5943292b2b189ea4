"""Likelihoods of the noise models against scipy and by hand; gradients, at black too."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from toys import close, normal

from plugip.noise import (
    CompoundNoise,
    GaussianNoise,
    ImpulseNoise,
    LaplaceNoise,
    Noise,
    PoissonGaussianNoise,
    PoissonNoise,
    RicianNoise,
    ShotNoise,
    SpeckleNoise,
    UniformNoise,
)
from plugip.noise.poisson import FLOOR
from plugip.rng import Rng

N = 200_000


def rng(*ids: str) -> Rng:
    return Rng(0, "measure", ids or ("a",))


# Likelihoods


LIKELY: list[tuple[Any, Any]] = [
    (LaplaceNoise(0.3), lambda y, c: stats.laplace.logpdf(y, c, 0.3)),
    (RicianNoise(0.2, "unit"), lambda y, c: stats.rice.logpdf(y, c / 0.2, 0, 0.2)),
    (
        PoissonNoise(0.1, "unit"),
        lambda y, c: stats.poisson.logpmf(np.rint(25.5 * y), 25.5 * c),
    ),
    (ShotNoise(7, "unit"), lambda y, c: stats.poisson.logpmf(np.rint(7 * y), 7 * c)),
    (
        PoissonGaussianNoise(0.1, 0.2, "unit"),
        lambda y, c: stats.norm.logpdf(y, c, np.sqrt(c / 25.5 + 0.04)),
    ),
    (CompoundNoise([GaussianNoise(0.3), GaussianNoise(0.4)]), lambda y, c: -2 * (y - c) ** 2),
    (CompoundNoise([LaplaceNoise(0.3)]), lambda y, c: stats.laplace.logpdf(y, c, 0.3)),
]


@pytest.mark.parametrize(("noise", "log_density"), LIKELY)
def test_nll_is_the_log_density_up_to_a_constant(noise: Noise, log_density: Any):
    generator = torch.Generator().manual_seed(3)
    a, b, truth = torch.rand(3, 4, 50, dtype=torch.float64, generator=generator) + 0.05
    y = noise.sample(truth, rng("a", "b", "c", "d"))
    mask = (torch.rand(4, 50, generator=generator) < 0.7).double()
    logs = [log_density(y.numpy(), c.numpy()) for c in (a, b)]
    gaps = torch.from_numpy(logs[1] - logs[0])
    close(noise.nll(a, y) - noise.nll(b, y), gaps.sum(1), 1e-9)
    close(noise.nll(a, y, mask) - noise.nll(b, y, mask), (gaps * mask).sum(1), 1e-9)


def test_complex_laplace_parts_are_independent():
    clean, y = torch.tensor([[1 + 2j, 0j]]), torch.tensor([[0j, 3 - 1j]])
    assert LaplaceNoise(0.5).nll(clean, y).tolist() == [14]
    assert LaplaceNoise(0.5).nll(clean, y, torch.tensor([[1, 0]])).tolist() == [6]


@settings(max_examples=50, deadline=None)
@given(st.floats(0, 300), st.floats(0.02, 300))
def test_photon_nll_of_any_number_by_its_formula(n: float, lam: float):
    clean, y = (torch.tensor([[v / 10]], dtype=torch.float64) for v in (lam, n))
    want = lam - n + (n * (math.log(n) - math.log(lam)) if n else 0.0)
    assert float(ShotNoise(10, "unit").nll(clean, y)) == pytest.approx(want, rel=1e-6, abs=1e-5)


def test_photon_nll_vanishes_for_an_exact_fit():
    y = torch.linspace(0, 1, 11, dtype=torch.float64)[None].requires_grad_()
    noise = PoissonNoise(1.0, "unit")
    close(noise.nll(y[:, 1:], y[:, 1:]), torch.zeros(1).double(), 1e-12)
    (grad,) = torch.autograd.grad(noise.nll(y, y.detach()).sum(), y)
    close(grad[:, 1:], torch.zeros(1, 10).double(), 1e-9)


def test_photon_nll_is_precise_in_single_precision():
    noise, y = PoissonNoise(100.0, "unit"), torch.full((1000, 1), 0.9)
    clean = y + 0.005 * normal(1000, 1).float()  # 25 500 photons, about one standard deviation
    close(noise.nll(clean, y).double(), noise.nll(clean.double(), y.double()), 5e-4)


def test_half_a_chi_square_is_the_photon_nll_of_the_truth():
    truth = torch.full((1, N), 0.6, dtype=torch.float64)
    noise = PoissonNoise(1.0)
    assert float(noise.nll(truth, noise.sample(truth, rng()))) / N == pytest.approx(0.5, rel=0.02)


def test_measured_values_below_black_count_as_no_photons():
    clean = torch.tensor([[0.3, 0.7, 0.0, -0.1]])
    noise = PoissonNoise(1.0, "unit")
    close(noise.nll(clean, torch.tensor([[-0.2, -1e-9, -0.2, -0.2]])), torch.tensor([255.0]), 1e-6)


DIFFERENTIABLE = [
    GaussianNoise(0.3),
    LaplaceNoise(0.3),
    PoissonNoise(0.1),
    ShotNoise(5),
    PoissonGaussianNoise(0.1, 0.1),
    RicianNoise(0.3),
]


@pytest.mark.parametrize("noise", DIFFERENTIABLE)
def test_nll_is_differentiable_in_the_candidate(noise: Noise):
    truth = normal(2, 6).clamp(-0.9, 0.9)
    y = noise.sample(truth, rng("a", "b"))
    candidate = (0.7 * truth + 0.05).requires_grad_()
    assert torch.autograd.gradcheck(lambda c: noise.nll(c, y), (candidate,))


@pytest.mark.parametrize("noise", DIFFERENTIABLE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_black_candidates_have_finite_losses_and_gradients(noise: Noise, dtype: torch.dtype):
    candidate = torch.tensor([[-1.0, -1.0, -1.3, -1.3, -0.999]], dtype=dtype).requires_grad_()
    y = torch.tensor([[-1.0, 0.5, -1.0, 0.5, 1.0]], dtype=dtype)
    loss = noise.nll(candidate, y)
    (grad,) = torch.autograd.grad(loss.sum(), candidate)
    assert loss.isfinite().all() and grad.isfinite().all()


@pytest.mark.parametrize("noise", [PoissonNoise(0.1), ShotNoise(5)])
def test_photons_pull_dark_candidates_up_and_none_push_no_further(noise: Noise):
    candidate = torch.tensor([[-1.0, -1.3, -1.3]], dtype=torch.float64, requires_grad=True)
    loss = noise.nll(candidate, torch.tensor([[1.0, 1.0, -1.0]], dtype=torch.float64))
    (grad,) = torch.autograd.grad(loss.sum(), candidate)
    assert float(grad[0, 0]) < 0 and float(grad[0, 1]) < 0
    assert float(grad[0, 2]) == 0
    dark = torch.full((1, 3), -1.5, dtype=torch.float64)
    assert float(noise.nll(dark, 0 * dark - 1)) == 0


def test_the_tangent_of_the_photon_nll_fits():
    noise, y = ShotNoise(1, "unit"), torch.full((1, 1), 3.0, dtype=torch.float64)
    values, slopes = [], []
    for step in (-1e-7, 1e-7):
        c = torch.full((1, 1), FLOOR + step, dtype=torch.float64, requires_grad=True)
        values.append(noise.nll(c, y).sum())
        slopes.append(torch.autograd.grad(values[-1], c)[0])
    assert float(values[0].detach()) == pytest.approx(float(values[1].detach()), rel=1e-4)
    assert float(slopes[0]) == pytest.approx(float(slopes[1]), rel=1e-4)


def test_the_rician_likelihood_is_flat_at_black():
    candidate = torch.tensor([[0.0]], dtype=torch.float64, requires_grad=True)
    loss = RicianNoise(0.1, "unit").nll(candidate, torch.tensor([[0.3]]).double())
    assert float(torch.autograd.grad(loss.sum(), candidate)[0]) == 0


@pytest.mark.parametrize(
    ("noise", "reason"),
    [
        (UniformNoise(0.1), "flat, or 0 beyond half_width"),
        (ImpulseNoise(0.1), "kept exactly or lost"),
        (SpeckleNoise(0.1), "no bound at black"),
        (PoissonNoise(clip=True), "clip=True cuts off"),
        (ShotNoise(5, clip=True), "clip=True cuts off"),
        (PoissonGaussianNoise(1, 0.1, clip=True), "clip=True cuts off"),
        (CompoundNoise([GaussianNoise(0.1)], clip=True), "clip=True cuts off"),
        (CompoundNoise([GaussianNoise(0.1), ShotNoise(5)]), "GaussianNoise, ShotNoise in a row"),
    ],
)
def test_a_missing_likelihood_is_said_with_advice(noise: Noise, reason: str):
    y = torch.zeros(1, 4)
    with pytest.raises(TypeError, match=f"{type(noise).__name__} has no .*{reason}") as error:
        noise.nll(y, y)
    assert f"Hidden({type(noise).__name__}(...))" in str(error.value)
