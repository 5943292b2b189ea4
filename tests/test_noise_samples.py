"""Draws of the noise models: laws and moments, scales, streams and batching, photon counts."""

import math
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from toys import close, normal

from plugip.noise import (
    IMAGENET_C,
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
    imagenet_c,
)
from plugip.rng import Rng, poisson_quantile

N = 200_000
MODELS: list[Noise] = [
    GaussianNoise(0.1),
    LaplaceNoise(0.1),
    UniformNoise(0.1),
    PoissonNoise(0.5),
    PoissonNoise(0.1, clip=True),
    ShotNoise(12),
    PoissonGaussianNoise(0.5, 0.05),
    ImpulseNoise(0.3),
    ImpulseNoise(0.3, per_pixel=True),
    SpeckleNoise(0.3),
    SpeckleNoise(0.6, clip=True),
    RicianNoise(0.2),
    CompoundNoise([ShotNoise(60), GaussianNoise(0.1), ImpulseNoise(0.1)]),
    Hidden(SpeckleNoise(0.3)),
]
REAL_ONLY = [m for m in MODELS if not isinstance(m, GaussianNoise | LaplaceNoise | UniformNoise)]


def rng(*ids: str) -> Rng:
    return Rng(0, "measure", ids or ("a",))


@pytest.mark.parametrize("noise", MODELS)
def test_models_fulfil_the_protocol_and_print_their_scale(noise: Noise):
    assert isinstance(noise, Noise)
    assert "on [-1, 1]" in repr(noise) and str(noise) == repr(noise)


PRINTED = [
    (GaussianNoise(0.01), "GaussianNoise(std=0.01 on [-1, 1] = 0.005 on [0, 1])"),
    (GaussianNoise(0.05, "unit"), "GaussianNoise(std=0.05 on [0, 1] = 0.1 on [-1, 1])"),
    (GaussianNoise(0.05, "other"), "GaussianNoise(std=0.05 in units of y)"),
    (LaplaceNoise(0.3), "LaplaceNoise(b=0.3 on [-1, 1] = 0.15 on [0, 1])"),
    (UniformNoise(0.1, "other"), "UniformNoise(half_width=0.1 in units of y)"),
    (PoissonNoise(), "PoissonNoise(rate=1: 255 photons at white, y on [-1, 1])"),
    (
        PoissonNoise(0.1, clip=True),
        "PoissonNoise(rate=0.1: 25.5 photons at white, y on [-1, 1], clipped)",
    ),
    (ShotNoise(60, "unit"), "ShotNoise(60 photons at white, y on [0, 1])"),
    (ShotNoise(60, "other"), "ShotNoise(60 photons per unit of y)"),
    (
        PoissonGaussianNoise(0.2, 0.02),
        "PoissonGaussianNoise(rate=0.2: 51 photons at white, y on [-1, 1], "
        "read_std=0.02 on [-1, 1] = 0.01 on [0, 1])",
    ),
    (ImpulseNoise(0.03, True), "ImpulseNoise(density=0.03 of the pixels, y on [-1, 1])"),
    (ImpulseNoise(0.03), "ImpulseNoise(density=0.03 of the values, y on [-1, 1])"),
    (
        SpeckleNoise(0.15, "other"),
        "SpeckleNoise(relative_std=0.15 of the intensity, y in its own units)",
    ),
    (RicianNoise(0.1), "RicianNoise(channel_std=0.1 on [-1, 1] = 0.05 on [0, 1])"),
    (
        imagenet_c("gaussian", 1),
        "CompoundNoise(GaussianNoise(std=0.16 on [-1, 1] = 0.08 on [0, 1]); "
        "y on [-1, 1], clipped)",
    ),
    (
        CompoundNoise([ShotNoise(9), LaplaceNoise(1)]),
        "CompoundNoise(ShotNoise(9 photons at white, y on [-1, 1]), "
        "then LaplaceNoise(b=1 on [-1, 1] = 0.5 on [0, 1]))",
    ),
    (
        Hidden(GaussianNoise(0.36)),
        "Hidden(GaussianNoise(std=0.36 on [-1, 1] = 0.18 on [0, 1]))",
    ),
    (UnknownNoise(), "UnknownNoise(level unknown)"),
]


@pytest.mark.parametrize(("noise", "text"), PRINTED, ids=[type(n).__name__ for n, _ in PRINTED])
def test_every_printout_has_the_level_with_its_scale(noise: Noise, text: str):
    assert f"{noise}" == text


# Laws: whole distributions against scipy, moments by hand


def drawn(noise: Noise, clean: float) -> torch.Tensor:
    return noise.sample(torch.full((1, N), clean, dtype=torch.float64), rng())[0]


@pytest.mark.parametrize(
    ("noise", "clean", "law"),
    [
        (LaplaceNoise(0.3), 0.4, stats.laplace(0.4, 0.3)),
        (UniformNoise(0.3), -0.4, stats.uniform(-0.7, 0.6)),
        (SpeckleNoise(0.3, "unit"), 0.4, stats.norm(0.4, 0.12)),
        (SpeckleNoise(0.3), -0.2, stats.norm(-0.2, 0.24)),  # u = 0.4, and 2 u' - 1
        (RicianNoise(0.1, "unit"), 0.05, stats.rice(0.5, 0, 0.1)),
        (RicianNoise(0.2), -0.5, stats.rice(2.5, -1, 0.2)),  # u = 0.25, s = 0.1
        (RicianNoise(0.2), -1.0, stats.rayleigh(-1, 0.2)),
    ],
)
def test_samples_follow_their_law(noise: Noise, clean: float, law: Any):
    y = drawn(noise, clean)
    assert stats.kstest(y.numpy(), law.cdf).pvalue > 1e-3
    assert_moments(y, law.mean(), law.var())


def assert_moments(y: torch.Tensor, mean: float, variance: float) -> None:
    """Mean and variance lie within four standard errors."""
    off = y - mean
    kurtosis = float(off.pow(4).mean()) / variance**2
    assert abs(float(off.mean())) < 4 * math.sqrt(variance / N)
    assert abs(float(off.square().mean()) / variance - 1) < 4 * math.sqrt((kurtosis - 1) / N)


@pytest.mark.parametrize(
    ("noise", "clean", "mean", "variance"),
    [
        (PoissonNoise(0.1, "unit"), 0.5, 0.5, 0.5 / 25.5),
        (PoissonNoise(0.1), 0.0, 0.0, 4 * 0.5 / 25.5),
        (ShotNoise(12, "unit"), 0.5, 0.5, 0.5 / 12),
        (PoissonGaussianNoise(0.1, 0.2, "unit"), 0.5, 0.5, 0.5 / 25.5 + 0.04),
        (PoissonGaussianNoise(0.1, 0.2), 0.0, 0.0, 2 / 25.5 + 0.04),
        (CompoundNoise([GaussianNoise(0.3), UniformNoise(0.6)]), 1.0, 1.0, 0.09 + 0.12),
        (CompoundNoise([GaussianNoise(0.1), SpeckleNoise(0.5)]), 1.0, 1.0, 0.01 * 1.25 + 1),
    ],
)
def test_moments_lie_within_four_standard_errors(
    noise: Noise, clean: float, mean: float, variance: float
):
    assert_moments(drawn(noise, clean), mean, variance)


@pytest.mark.parametrize("noise", [m for m in MODELS if m.std is not None])
def test_std_is_the_level_in_the_units_of_y(noise: Noise):
    assert noise.std is not None
    assert_moments(drawn(noise, 0.3), 0.3, noise.std**2)


def test_std_of_dependent_noise_is_not_one_number():
    assert [noise.std for noise in REAL_ONLY] == [None] * len(REAL_ONLY)
    assert CompoundNoise([GaussianNoise(3), GaussianNoise(4)]).std == 5
    assert CompoundNoise([GaussianNoise(3)], clip=True).std is None
    assert CompoundNoise([GaussianNoise(3), ShotNoise(5)]).std is None


@pytest.mark.parametrize(("scale", "black"), [("signed", -1), ("unit", 0)])
def test_impulses_are_half_black_and_half_white(scale: str, black: int):
    y = drawn(ImpulseNoise(0.3, scale=scale), 0.25)
    for value, share in ((black, 0.15), (1, 0.15), (0.25, 0.7)):
        error = math.sqrt(share * (1 - share) / N)
        assert abs(float((y == value).double().mean()) - share) < 4 * error


def test_impulses_strike_values_or_whole_pixels():
    clean = torch.zeros(2, 3, 64, 64)
    pixels = ImpulseNoise(0.3, per_pixel=True).sample(clean, rng("a", "b"))
    assert torch.equal(pixels, pixels[:, :1].expand_as(pixels))
    hit = ImpulseNoise(0.3).sample(clean, rng("a", "b")) != 0
    together = float((hit[:, 0] & hit[:, 1]).double().mean())
    assert abs(together - 0.09) < 4 * math.sqrt(0.09 * 0.91 / hit[:, 0].numel())


def test_shot_noise_is_poisson_noise_with_another_unit():
    u = torch.rand(1, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    close(ShotNoise(255).sample(u, rng()), PoissonNoise(1.0).sample(u, rng()), 1e-12)


UNIT_TWINS = [
    (PoissonNoise(0.2), PoissonNoise(0.2, "unit")),
    (ShotNoise(5, clip=True), ShotNoise(5, "unit", clip=True)),
    (PoissonGaussianNoise(0.2, 0.1), PoissonGaussianNoise(0.2, 0.05, "unit")),
    (SpeckleNoise(0.4), SpeckleNoise(0.4, "unit")),
    (RicianNoise(0.2), RicianNoise(0.1, "unit")),
    (ImpulseNoise(0.3), ImpulseNoise(0.3, scale="unit")),
    (LaplaceNoise(0.2), LaplaceNoise(0.1, "unit")),
    (UniformNoise(0.2), UniformNoise(0.1, "unit")),
    *((imagenet_c(k, 4), imagenet_c(k, 4, "unit")) for k in IMAGENET_C),
]


@pytest.mark.parametrize(("signed", "unit"), UNIT_TWINS)
def test_both_scales_say_the_same(signed: Noise, unit: Noise):
    y = torch.linspace(-1, 1, 192, dtype=torch.float64).reshape(1, 3, 8, 8)
    u = (y + 1) / 2
    close(signed.sample(y, rng()), 2 * unit.sample(u, rng()) - 1, 1e-12)
    try:
        want = unit.nll(u.flip(1) / 2 + 0.25, u)
    except TypeError:
        return
    close(signed.nll(y.flip(1) / 2, y), want, 1e-10)


@pytest.mark.parametrize(
    "noise", [ShotNoise(3), PoissonNoise(0.01), PoissonGaussianNoise(0.01, 0.5), SpeckleNoise(0.6)]
)
def test_clip_clamps_to_the_range_and_nothing_else_does(noise: Any):
    clean = torch.full((1, 3, 16, 16), 0.8)
    loud = noise.sample(clean, rng())
    arguments = {f.name: getattr(noise, f.name) for f in fields(noise)} | {"clip": True}
    assert float(loud.max()) > 1
    close(type(noise)(**arguments).sample(clean, rng()), loud.clamp(-1, 1), 1e-6)


def test_overshoots_below_black_let_no_photons_arrive():
    clean = torch.full((1, 3, 4, 4), -1.2)
    assert bool((PoissonNoise(1.0).sample(clean, rng()) == -1).all())


# Streams: batching, order, types, purity


@pytest.mark.parametrize("noise", MODELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_image_is_measured_alike_in_any_batch_and_order(noise: Noise, dtype: torch.dtype):
    clean = normal(3, 3, 5, 4).clamp(-1, 1).to(dtype)
    kept = clean.clone()
    together = noise.sample(clean, rng("a", "b", "c"))
    assert together.dtype == dtype and together.shape == clean.shape
    assert torch.equal(noise.sample(clean[1:2], rng("b")), together[1:2])
    assert torch.equal(noise.sample(clean.flip(0), rng("c", "b", "a")), together.flip(0))
    assert not torch.equal(noise.sample(clean, rng("a", "b", "d"))[2], together[2])
    assert torch.equal(clean, kept)


@pytest.mark.parametrize("noise", MODELS)
def test_noise_leaves_the_global_stream_alone(noise: Noise):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    noise.sample(torch.zeros(1, 3, 4, 4), rng())
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("noise", MODELS)
def test_precision_does_not_change_the_draw(noise: Noise):
    clean = normal(1, 3, 16, 16).clamp(-1, 1).float()
    low, high = noise.sample(clean, rng()), noise.sample(clean.double(), rng())
    near = (low - high).abs() < 1e-5
    assert float(near.double().mean()) > 0.995  # a count may tip over by one photon


@pytest.mark.parametrize(
    "noise", [LaplaceNoise(0.2), UniformNoise(0.2), SpeckleNoise(0.3), RicianNoise(0.2)]
)
def test_samples_are_differentiable_in_the_clean_measurement(noise: Noise):
    clean = normal(2, 3, 2, 2).clamp(-0.9, 0.9).requires_grad_()
    assert torch.autograd.gradcheck(lambda c: noise.sample(c, rng("a", "b")), (clean,))


@pytest.mark.parametrize("noise", [LaplaceNoise(0.3), UniformNoise(0.3)])
def test_additive_noise_strikes_both_parts_of_complex_measurements(noise: Noise):
    n = noise.sample(torch.zeros(1, N, dtype=torch.complex128), rng())[0]
    assert noise.std is not None
    for part in (n.real, n.imag):
        assert_moments(part, 0, noise.std**2)
    assert abs(float((n.real * n.imag).mean())) < 4 * noise.std**2 / math.sqrt(N)


def test_additive_noise_takes_conjugate_views():
    clean = torch.view_as_complex(normal(1, 8, 2))
    assert clean.conj().is_conj()
    want = LaplaceNoise(0.3).sample(clean.conj().resolve_conj(), rng())
    assert torch.equal(LaplaceNoise(0.3).sample(clean.conj(), rng()), want)


@pytest.mark.parametrize(
    "make",
    [
        PoissonNoise,
        lambda scale: ShotNoise(20, scale),
        lambda scale: PoissonGaussianNoise(0.1, 0.3, scale),
        lambda scale: SpeckleNoise(0.3, scale),
        lambda scale: RicianNoise(0.3, scale),
    ],
)
def test_intensities_beyond_white_are_drawn_as_on_the_unit_scale(make: Any):
    clean = torch.linspace(0, 30, 64, dtype=torch.float64)[None]
    unit, other = make(scale="unit"), make(scale="other")
    y = other.sample(clean, rng())
    assert torch.equal(unit.sample(clean, rng()), y) and float(y.max()) > 20
    if not isinstance(other, SpeckleNoise):
        assert torch.equal(unit.nll(clean + 1, y), other.nll(clean + 1, y))


def test_parts_of_a_compound_may_leave_the_range_of_clean_measurements():
    clean = torch.zeros(1, 4000)
    for parts in (
        [GaussianNoise(0.5, "unit")] * 2,
        [GaussianNoise(0.5, "unit"), ShotNoise(5, "unit")],
    ):
        y = CompoundNoise(parts, scale="unit").sample(clean, rng())
        assert y.isfinite().all()
        with pytest.raises(ValueError, match=r"has scale='unit', .* reaches -0\.9"):
            CompoundNoise(parts, scale="unit").sample(clean - 0.9, rng())


# Photon counts


@pytest.mark.parametrize("rate", [1e-6, 0.05, 0.5, 5.0, 30.0, 255.0, 1e4])
def test_counts_are_quantiles(rate: float):
    u = torch.rand(3000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u[:2] = torch.tensor([2**-53, 1e-9])
    want = stats.poisson.ppf(u.numpy(), rate)
    assert np.array_equal(poisson_quantile(u, torch.full_like(u, rate)).numpy(), want)


def test_the_ends_of_the_probabilities_have_quantiles():
    u, rate = torch.tensor([0.0, 0.0, 1 - 2**-53]).double(), torch.tensor([0.0, 5.0, 1e7]).double()
    k = poisson_quantile(u, rate)
    assert k[:2].tolist() == [0, 0] and 1e7 < float(k[2]) < 1.01e7


def test_the_last_bit_of_a_rate_moves_no_other_draw():
    rate = 50 * torch.rand(1, 20_000, generator=torch.Generator().manual_seed(0)).double()
    nudged = rate * (1 + 1e-6)
    moved = (rng().poisson(nudged) - rng().poisson(rate)).abs()
    assert float(moved.max()) <= 1 and int(moved.sum()) < 10


def test_counts_keep_type_and_shape():
    counts = rng("a", "b").poisson(torch.full((2, 3, 1), 4.0))
    assert counts.dtype == torch.float32 and counts.shape == (2, 3, 1)
    assert torch.equal(counts, counts.round())
    assert not rng().poisson(torch.zeros(1, 4)).any()


@pytest.mark.parametrize("rate", [-1.0, math.nan, math.inf])
def test_impossible_rates_are_refused(rate: float):
    with pytest.raises(ValueError, match="finite and not negative; clamp them at 0"):
        rng().poisson(torch.full((1, 2), rate))


def test_rates_need_one_stream_per_image():
    with pytest.raises(ValueError, match="rates of 2 images do not fit 1 streams"):
        rng().poisson(torch.ones(2, 2))
