"""What noise models say of the residuals of pure noise: by hand, by simulation, as verdicts."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from toys import ExactPrior, Identity, Masked, close

from plugip.diagnostics import diagnose
from plugip.method import Info
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
    excess_kurtosis,
    imagenet_c,
    residual_moments,
    sum_of_squares,
)
from plugip.problem import Problem, measure
from plugip.rng import Rng
from plugip.stopping import Discrepancy

STATED: list[Noise] = [
    GaussianNoise(0.3),
    LaplaceNoise(0.3),
    UniformNoise(0.3),
    CompoundNoise([LaplaceNoise(0.2), UniformNoise(0.3)]),
    CompoundNoise([ShotNoise(3)]),
    PoissonNoise(0.01),
    ShotNoise(3),
    ShotNoise(3, "unit"),
    PoissonGaussianNoise(0.01, 0.2),
    SpeckleNoise(0.4),
    SpeckleNoise(0.4, "other"),
    RicianNoise(0.2),
    RicianNoise(1.5, "unit"),
    ImpulseNoise(0.2),
    ImpulseNoise(0.2, per_pixel=True),
    ImpulseNoise(0.2, per_pixel=True, scale="unit"),
]
SIGNED = [noise for noise in STATED if getattr(noise, "scale", "signed") == "signed"]
SILENT: list[Noise] = [
    UnknownNoise(),
    Hidden(GaussianNoise(0.1)),
    PoissonNoise(clip=True),
    SpeckleNoise(0.3, clip=True),
    imagenet_c("gaussian", 1),
    CompoundNoise([GaussianNoise(0.1), ShotNoise(9)]),
]
SHAPE = (3, 6, 7)


@dataclass(frozen=True)
class Own:
    """A user's noise model that states its level, and nothing else."""

    std: float = 0.1

    def sample(self, y_clean: torch.Tensor, rng: Rng) -> torch.Tensor:
        return y_clean + self.std * rng.normal(y_clean.shape[1:], like=y_clean)

    def nll(
        self, y_clean: torch.Tensor, y: torch.Tensor, observed: torch.Tensor | None = None
    ) -> torch.Tensor:
        return sum_of_squares(y_clean - y, observed) / (2 * self.std**2)


@dataclass(frozen=True)
class Telling(Own):
    """One that states its kurtosis too."""

    excess_kurtosis: float = 0.0


def label(noise: Noise) -> str:
    return repr(noise)


def clean_image(noise: Noise, *shape: int) -> torch.Tensor:
    """Values from black to white on the model's scale, float64, the same for each image."""
    low = -1.0 if getattr(noise, "scale", "signed") == "signed" else 0.0
    return torch.linspace(low, 1, math.prod(shape), dtype=torch.float64).reshape(1, *shape)


def drawn(noise: Noise, clean: torch.Tensor, images: int) -> torch.Tensor:
    rng = Rng(0, "measure", [str(i) for i in range(images)])
    return noise.sample(clean.expand(images, *clean.shape[1:]).contiguous(), rng)


# Moments


@pytest.mark.parametrize("noise", STATED, ids=label)
@pytest.mark.parametrize("masked", [False, True])
def test_moments_of_squared_residuals_by_simulation(noise: Noise, masked: bool):
    images, clean = 2000, clean_image(noise, *SHAPE)
    mask = (torch.arange(math.prod(SHAPE[1:])) % 3 > 0).double().reshape(1, 1, *SHAPE[1:])
    observed = mask if masked else None
    found = sum_of_squares(drawn(noise, clean, images) - clean, observed)
    stated = residual_moments(noise, clean, observed)
    assert stated is not None
    mean, variance = (float(m) for m in stated)
    off = found - found.mean()
    kurtosis = float(off.pow(4).mean() / off.square().mean() ** 2)
    assert abs(float(found.mean()) - mean) < 4 * math.sqrt(variance / images)
    assert abs(float(found.var()) / variance - 1) < 4 * math.sqrt((kurtosis - 1) / images)


@pytest.mark.parametrize(
    ("noise", "kurtosis"),
    [
        (GaussianNoise(0.3), 0),
        (LaplaceNoise(0.3), stats.laplace.stats(moments="k")),
        (UniformNoise(0.3), stats.uniform.stats(moments="k")),
        (CompoundNoise([LaplaceNoise(0.3)] * 4), 3 / 4),
        (CompoundNoise([GaussianNoise(3), UniformNoise(4 * math.sqrt(3))]), -1.2 * 256 / 625),
    ],
)
def test_the_excess_kurtosis_is_that_of_the_law(noise: Noise, kurtosis: float):
    assert excess_kurtosis(noise) == pytest.approx(float(kurtosis), rel=1e-12)


def test_moments_of_additive_noise_by_hand():
    clean = torch.zeros(2, 8)
    mask = torch.ones(2, 8)
    mask[1, :6] = 0
    mean, variance = _moments(LaplaceNoise(0.5), clean, mask)
    close(mean, torch.tensor([4.0, 1.0]).double())  # 8 and 2 entries of variance 2 b² = 0.5
    close(variance, torch.tensor([10.0, 2.5]).double())  # (2 + 3) 0.5² each


def test_a_complex_entry_counts_twice():
    clean = torch.zeros(1, 8, dtype=torch.complex64)
    mean, variance = _moments(GaussianNoise(0.5), clean)
    assert (float(mean), float(variance)) == (4, 2)  # 16 parts of variance 1/4


@pytest.mark.parametrize(("scale", "unit"), [("unit", 1), ("signed", 2)])
def test_moments_of_photon_counts_by_the_law_of_poisson(scale: str, unit: float):
    u = torch.tensor([[0.0, 0.2, 0.7, 1.0]], dtype=torch.float64)
    mean, variance = _moments(ShotNoise(5, scale), u if scale == "unit" else 2 * u - 1)
    k, step = np.arange(200), unit / 5
    squares = [(k - 5 * v) ** 2 * step**2 for v in u[0].tolist()]
    laws = [stats.poisson.pmf(k, 5 * v) for v in u[0].tolist()]
    first = [float(p @ s) for p, s in zip(laws, squares, strict=True)]
    second = [float(p @ s**2) for p, s in zip(laws, squares, strict=True)]
    assert float(mean) == pytest.approx(sum(first), rel=1e-9)
    want = sum(b - a**2 for a, b in zip(first, second, strict=True))
    assert float(variance) == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("brightness", [0.0, 0.3, 1.0, 4.0, 60.0, 290.0, 5000.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_moments_of_rician_noise_by_the_law_of_rice(brightness: float, sign: int):
    s, u = 0.2, 0.2 * brightness * sign
    mean, variance = _moments(RicianNoise(s, "unit"), torch.tensor([[u]], dtype=torch.float64))
    if brightness > 100:  # Gaussian in the limit; what is negative comes out positive
        want = (s**2, 2 * s**4) if sign > 0 else (4 * u**2, 16 * u**2 * s**2)
        assert (float(mean), float(variance)) == pytest.approx(want, rel=1e-4)
        return
    grid = np.linspace(0, (brightness + 12) * s, 200_001)
    density = stats.rice.pdf(grid, brightness, scale=s)
    square = (grid - u) ** 2
    first, second = (float(np.trapezoid(density * f, grid)) for f in (square, square**2))
    assert float(mean) == pytest.approx(first, rel=1e-6)
    assert float(variance) == pytest.approx(second - first**2, rel=1e-5)


@pytest.mark.parametrize("noise", SILENT, ids=label)
def test_models_that_do_not_know_say_nothing(noise: Noise):
    assert residual_moments(noise, torch.zeros(1, *SHAPE)) is None


def _moments(noise: Noise, clean: torch.Tensor, observed: Any = None) -> Any:
    moments = residual_moments(noise, clean, observed)
    assert moments is not None
    assert all(m.dtype == torch.float64 and m.shape == clean.shape[:1] for m in moments)
    return moments


# Verdicts


def verdicts(noise: Noise, images: int, side: int = 24) -> list[Any]:
    x = clean_image(GaussianNoise(1), 1, side, side).float().expand(images, -1, -1, -1)
    prior = ExactPrior(torch.zeros(1, side, side))
    y = measure(Identity(), x, noise, ids=[str(i) for i in range(images)])
    return diagnose(Problem(y, Identity(), noise, prior), x, None)


@pytest.mark.parametrize("noise", SIGNED, ids=label)
def test_the_truth_is_refused_about_once_in_forty(noise: Noise):
    images = 500
    said = verdicts(noise, images)
    refused = sum(not d.explains_y for d in said)
    # 2.3 % for a Gaussian statistic; sums of 576 squares are a little skewed to the right.
    assert 0.004 * images < refused < 0.06 * images
    assert sum(d.chi_square for d in said) / images == pytest.approx(1, abs=0.05)


def test_the_limit_of_gaussian_noise_would_refuse_laplace_noise_far_too_often():
    said = verdicts(LaplaceNoise(0.1), 600)
    gaussian = 1 + 2 * math.sqrt(2) / 24
    assert sum(d.chi_square > gaussian for d in said) > 0.07 * 600
    assert said[0].chi_square_limit == pytest.approx(1 + 2 * math.sqrt(5) / 24)


def test_what_is_too_far_off_is_refused_whatever_the_noise():
    for noise in (LaplaceNoise(0.1), ShotNoise(60), SpeckleNoise(0.2), RicianNoise(0.1)):
        x = torch.full((1, 1, 16, 16), 0.2)
        problem = Problem(
            measure(Identity(), x, noise), Identity(), noise, ExactPrior(torch.zeros(1, 16, 16))
        )
        assert diagnose(problem, x - 0.4, None)[0].explains_y is False


def test_a_level_without_a_spread_gives_a_ratio_and_no_verdict():
    x = torch.zeros(1, 1, 4, 4)
    for noise, limit in ((Own(), None), (Telling(), 1 + 2 * math.sqrt(2 / 16))):
        problem = Problem(x + 0.1, Identity(), noise, ExactPrior(x[0]))
        (d,) = diagnose(problem, x, None)
        assert d.residual_to_noise == pytest.approx(1, rel=1e-6)
        assert d.chi_square_limit == (None if limit is None else pytest.approx(limit))
        assert d.explains_y is (None if limit is None else True)
    said = diagnose(Problem(x + 0.1, Identity(), Own(), ExactPrior(x[0])), x, None)[0].sentences()
    assert said == [
        "residual is 1.00 times the noise; how much that varies is not stated by the noise model: "
        "no verdict on it"
    ]


def test_the_discrepancy_rule_stops_at_the_limit_of_its_noise():
    # The limits for 16 entries are 1.707 for Gaussian noise and 2.118 for Laplace noise.
    x = torch.zeros(1, 1, 4, 4)
    reached = {}
    for noise in (GaussianNoise(0.1), LaplaceNoise(0.1 / math.sqrt(2))):
        problem = Problem(x, Identity(), noise, ExactPrior(x[0]))
        residual, no = torch.full((1,), 0.1 * math.sqrt(1.9)), torch.zeros(1, dtype=torch.bool)
        state = Discrepancy().init(problem)
        _, verdict = Discrepancy().update(problem, state, Info(x, residual, no, residual))
        reached[type(noise)] = bool(verdict.stop)
    assert reached == {GaussianNoise: False, LaplaceNoise: True}


def test_the_discrepancy_rule_asks_for_tau_where_the_limit_is_not_stated():
    x = torch.zeros(1, 1, 4, 4)
    problem = Problem(x, Identity(), Own(), ExactPrior(x[0]))
    with pytest.raises(
        TypeError, match=r"Own does not state as excess_kurtosis; give stopping\.tau"
    ):
        Discrepancy().init(problem)
    assert Discrepancy(tau=1.21).init(problem).limit.item() == pytest.approx(0.11)


def test_the_discrepancy_rule_knows_the_size_of_noise_that_depends_on_the_signal():
    clean = clean_image(ShotNoise(60), 1, 40, 40).float()
    for noise, off in (
        (ShotNoise(60), 0.02),
        (PoissonGaussianNoise(0.2, 0.1), 0.02),
        (SpeckleNoise(0.2), 0.06),
    ):
        y = drawn(noise, clean, 1)
        limit = Discrepancy(tau=1.0).init(Problem(y, Identity(), noise, ExactPrior(y[0]))).limit
        moments = residual_moments(noise, clean)
        assert moments is not None
        assert limit.item() == pytest.approx(math.sqrt(moments.mean.item() / 1600), rel=off)


@pytest.mark.parametrize("noise", SILENT, ids=label)
def test_a_model_that_says_nothing_gets_no_verdict(noise: Noise):
    x = torch.zeros(1, 3, 4, 4)
    (d,) = diagnose(Problem(x, Identity(), noise, ExactPrior(x[0])), x, None)
    assert (d.residual_to_noise, d.chi_square, d.chi_square_limit, d.explains_y) == (None,) * 4
    assert d.sentences() == ["noise level unknown, or clipped: no statement about the fit"]


def test_a_black_answer_has_no_photons_to_explain_light_with():
    x, noise = torch.full((2, 1, 4, 4), -1.0), PoissonNoise()
    y = x.clone()
    y[1, 0, 0, 0] = 0.0
    exact, light = diagnose(Problem(y, Identity(), noise, ExactPrior(x[0])), x, None)
    assert exact.explains_y is None  # nothing was measured that could speak for or against it
    assert light.explains_y is False and light.chi_square == math.inf


def test_an_answer_that_is_not_a_number_explains_no_photons():
    x = torch.zeros(1, 1, 4, 4)
    problem = Problem(x, Identity(), PoissonNoise(), ExactPrior(x[0]))
    assert diagnose(problem, x + math.nan, None)[0].explains_y is False


def test_an_image_without_observations_gets_no_verdict():
    x = torch.zeros(1, 1, 4, 4)
    problem = Problem(x, Masked(torch.zeros(1, 1, 4, 4)), GaussianNoise(0.1), ExactPrior(x[0]))
    assert diagnose(problem, x, None)[0].explains_y is None
