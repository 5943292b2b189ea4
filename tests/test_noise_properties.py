"""Properties of the noise models over sizes, levels, precisions: moments, streams, densities."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor
from torch.distributions import Laplace, Normal, Poisson

from plugip.noise import (
    CompoundNoise,
    GaussianNoise,
    Hidden,
    ImpulseNoise,
    LaplaceNoise,
    Noise,
    PoissonGaussianNoise,
    PoissonNoise,
    RicianNoise,
    ShotNoise,
    SpeckleNoise,
    UniformNoise,
    UnknownNoise,
)
from plugip.rng import Rng

few = settings(max_examples=25, deadline=None)
dtypes = st.sampled_from([torch.float32, torch.float64])
levels = st.floats(0.01, 2)
sides = st.integers(1, 9)
seeds = st.integers(0, 2**32)


def rng(ids: list[str], seed: int = 0) -> Rng:
    return Rng(seed, "measure", ids)


# Mean and variance


def rice_moments(u: float, s: float) -> tuple[float, float, float]:
    mean, variance, kurtosis = stats.rice.stats(u / s, 0, s, moments="mvk")
    return float(mean), float(variance), float(kurtosis)


# Model of a level on [0, 1], and its law around an intensity u: mean, variance, excess kurtosis.
LAWS: list[tuple[Callable[[float], Noise], Callable[[float, float], tuple[float, float, float]]]]
LAWS = [
    (lambda s: GaussianNoise(s, "unit"), lambda s, u: (u, s**2, 0)),
    (lambda s: LaplaceNoise(s, "unit"), lambda s, u: (u, 2 * s**2, 3)),
    (lambda s: UniformNoise(s, "unit"), lambda s, u: (u, s**2 / 3, -1.2)),
    (lambda s: SpeckleNoise(s, "unit"), lambda s, u: (u, (u * s) ** 2, 0)),
    (lambda s: ShotNoise(100 * s, "unit"), lambda s, u: (u, u / (100 * s), 1 / (100 * s * u))),
    (
        lambda s: PoissonNoise(s, "unit"),
        lambda s, u: (u, u / (255 * s), 1 / (255 * s * u)),
    ),
    (
        lambda s: PoissonGaussianNoise(1, s, "unit"),
        lambda s, u: (u, u / 255 + s**2, u / 255**3 / (u / 255 + s**2) ** 2),
    ),
    (lambda s: RicianNoise(s + 0.05, "unit"), lambda s, u: rice_moments(u, s + 0.05)),
    (
        lambda s: CompoundNoise([GaussianNoise(s, "unit"), UniformNoise(s, "unit")], scale="unit"),
        lambda s, u: (u, s**2 * 4 / 3, -1.2 / 16),
    ),
]
NAMES = [type(make(0.1)).__name__ for make, _ in LAWS]


@pytest.mark.parametrize(("make", "law"), LAWS, ids=NAMES)
@few
@given(
    s=levels,
    u=st.floats(0.1, 1),
    rows=st.integers(40, 80),
    columns=st.integers(40, 80),
    dtype=dtypes,
    seed=seeds,
)
def test_samples_have_the_mean_and_variance_of_their_law(
    make: Any, law: Any, s: float, u: float, rows: int, columns: int, dtype: Any, seed: int
):
    y = make(s).sample(torch.full((1, rows, columns), u, dtype=dtype), rng(["a"], seed)).double()
    (mean, variance, kurtosis), n = law(s, float(torch.tensor(u, dtype=dtype))), rows * columns
    # Six standard errors: one run of all examples in ten million leaves them by chance.
    assert abs(float(y.mean()) - mean) < 6 * math.sqrt(variance / n) + 1e-6
    assert abs(float(y.var()) / variance - 1) < 6 * math.sqrt((kurtosis + 2) / n) + 1e-5


# Streams


MODELS: list[Callable[[float], Noise]] = [
    *(make for make, _ in LAWS),
    lambda s: ImpulseNoise(s / 3, per_pixel=s > 1, scale="unit"),
    lambda s: SpeckleNoise(s, "unit", clip=True),
    lambda s: Hidden(ShotNoise(20 * s, "unit")),
    lambda s: CompoundNoise(
        [ShotNoise(9, "unit"), ImpulseNoise(s / 3, scale="unit")], clip=True, scale="unit"
    ),
]


@pytest.mark.parametrize("make", MODELS)
@few
@given(
    s=levels,
    shape=st.tuples(st.integers(1, 4), sides, sides),
    order=st.permutations(["a", "b", "c", "d"]),
    count=st.integers(1, 4),
    dtype=dtypes,
    seed=seeds,
)
def test_an_image_draws_alike_in_any_batch(
    make: Any, s: float, shape: Any, order: list[str], count: int, dtype: Any, seed: int
):
    noise, ids = make(s), ["a", "b", "c", "d"]
    clean = torch.rand(4, *shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    together = noise.sample(clean, rng(ids, seed))
    assert together.dtype == dtype and together.shape == clean.shape
    rows = [ids.index(name) for name in order[:count]]
    assert torch.equal(noise.sample(clean[rows], rng(order[:count], seed)), together[rows])


@few
@given(s=levels, shape=st.tuples(sides, sides), seed=seeds, dtype=dtypes)
def test_complex_parts_draw_alike_in_any_batch(s: float, shape: Any, seed: int, dtype: Any):
    clean = torch.zeros(3, *shape, dtype=dtype.to_complex())
    for noise in (GaussianNoise(s, "other"), LaplaceNoise(s, "other"), UniformNoise(s, "other")):
        together = noise.sample(clean, rng(["a", "b", "c"], seed))
        assert torch.equal(noise.sample(clean[1:2], rng(["b"], seed)), together[1:2])
        assert together.dtype == clean.dtype
        assert bool((together.real != 0).all()) and bool((together.imag != 0).all())


# Densities: the closed form that each likelihood leaves a constant of, written with that constant.


class Case(NamedTuple):
    """Makes a model of a level, and -log p(y | u) less what does not depend on u."""

    make: Callable[[float], Noise]
    want: Callable[[float, Tensor, Tensor], Tensor]


def gaussian(s: float, u: Tensor, y: Tensor) -> Tensor:
    return -Normal(u, s).log_prob(y) - math.log(s * math.sqrt(2 * math.pi))


def counted(gain: float, u: Tensor, y: Tensor) -> Tensor:
    n = (gain * y).round()
    best = Poisson(n.clamp_min(1e-300)).log_prob(n)  # of the rate that explains n best
    return torch.where(n > 0, best, 0.0) - Poisson(gain * u).log_prob(n)


def read_out(s: float, u: Tensor, y: Tensor) -> Tensor:
    spread = Normal(u, (u / 25.5 + s**2).sqrt())
    return -spread.log_prob(y) - math.log(s * math.sqrt(2 * math.pi))


def rician(s: float, u: Tensor, y: Tensor) -> Tensor:
    s += 0.05  # scipy's density underflows far out
    log = stats.rice.logpdf(y.numpy(), u.numpy() / s, scale=s) - np.log(y.numpy() / s**2)
    return -torch.from_numpy(log)


CASES = {
    "Gaussian": Case(lambda s: GaussianNoise(s, "unit"), gaussian),
    "two Gaussians": Case(
        lambda s: CompoundNoise([GaussianNoise(0.6 * s), GaussianNoise(0.8 * s)]), gaussian
    ),
    "Laplace": Case(
        lambda s: LaplaceNoise(s, "unit"),
        lambda s, u, y: -Laplace(u, s).log_prob(y) - math.log(2 * s),
    ),
    "shot": Case(lambda s: ShotNoise(50 * s, "unit"), lambda s, u, y: counted(50 * s, u, y)),
    "Poisson": Case(lambda s: PoissonNoise(s, "other"), lambda s, u, y: counted(255 * s, u, y)),
    "Poisson-Gaussian": Case(lambda s: PoissonGaussianNoise(0.1, s, "unit"), read_out),
    "Rician": Case(lambda s: RicianNoise(s + 0.05, "unit"), rician),
}


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
@few
@given(
    s=levels,
    batch=st.integers(1, 3),
    shape=st.tuples(st.integers(1, 3), sides, sides),
    masked=st.booleans(),
    dtype=dtypes,
    seed=seeds,
)
def test_nll_is_the_closed_form(
    case: Case, s: float, batch: int, shape: Any, masked: bool, dtype: Any, seed: int
):
    draw = torch.Generator().manual_seed(seed)
    noise, ids = case.make(s), [str(i) for i in range(batch)]
    truth, u = (0.1 + 0.9 * torch.rand(2, batch, *shape, generator=draw)).to(dtype)
    y = noise.sample(truth, rng(ids, seed))
    mask = (torch.rand(batch, 1, *shape[1:], generator=draw) < 0.6).to(dtype)
    want = case.want(s, u.double(), y.double())
    want = (want * mask.double() if masked else want).flatten(1).sum(1)
    got = noise.nll(u, y, mask if masked else None)
    rel, abs_ = (1e-4, 1e-3) if dtype == torch.float32 else (1e-9, 1e-8)
    assert got.dtype == dtype and got.shape == (batch,)
    assert got.double().tolist() == pytest.approx(want.tolist(), rel=rel, abs=abs_)


@few
@given(batch=st.integers(1, 4), shape=st.tuples(sides, sides), dtype=dtypes, seed=seeds)
def test_without_a_level_nll_is_the_mean_square(batch: int, shape: Any, dtype: Any, seed: int):
    u, y = torch.rand(2, batch, *shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    want = (u.double() - y.double()).square().flatten(1).mean(1)
    for noise in (UnknownNoise(), Hidden(ShotNoise(3))):
        assert noise.nll(u, y).double().tolist() == pytest.approx(want.tolist(), rel=1e-5)


@few
@given(s=levels, size=sides, dtype=dtypes, seed=seeds)
def test_nll_of_complex_parts_is_that_of_real_ones(s: float, size: int, dtype: Any, seed: int):
    parts = torch.randn(2, 2, size, 2, generator=torch.Generator().manual_seed(seed)).to(dtype)
    u, y = torch.view_as_complex(parts)
    for noise in (GaussianNoise(s, "other"), LaplaceNoise(s, "other")):
        want = noise.nll(parts[0], parts[1])
        assert noise.nll(u, y).tolist() == pytest.approx(want.tolist(), rel=1e-4)
