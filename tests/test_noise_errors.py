"""What the noise models refuse: one sentence each, with the value, the range and what to do."""

import math
from typing import Any

import pytest
import torch

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
    convert_level,
    imagenet_c,
)
from plugip.rng import Rng

WRONG: Any = "0.1"  # text where a number belongs
Y = torch.zeros(2, 3, 4, 4)
ADDITIVE: list[Noise] = [GaussianNoise(0.1), LaplaceNoise(0.1), UniformNoise(0.1)]
LIGHT: list[Noise] = [
    PoissonNoise(),
    ShotNoise(5),
    PoissonGaussianNoise(1, 0.1),
    SpeckleNoise(0.1),
    RicianNoise(0.1),
]
ALL: list[Noise] = [
    *ADDITIVE,
    *LIGHT,
    ImpulseNoise(0.1),
    CompoundNoise([GaussianNoise(0.1), ShotNoise(5)]),
    Hidden(LaplaceNoise(0.1)),
]
SCORING: list[Noise] = [
    GaussianNoise(0.1),
    LaplaceNoise(0.1),
    PoissonNoise(),
    ShotNoise(5),
    PoissonGaussianNoise(1, 0.1),
    RicianNoise(0.1),
    CompoundNoise([LaplaceNoise(0.1)]),
    CompoundNoise([GaussianNoise(0.1), GaussianNoise(0.1)]),
    UnknownNoise(),
    Hidden(UniformNoise(0.1)),
]


def rng(*ids: str) -> Rng:
    return Rng(0, "measure", ids or ("a",))


def name(noise: Noise) -> str:
    return type(noise).__name__


# Levels and scales


@pytest.mark.parametrize("std", [0, -0.1, math.nan, math.inf])
def test_a_bad_std_is_refused(std: float):
    message = f"noise std must be positive and finite, got {std}; .* 1e-3 for nearly noise-free"
    with pytest.raises(ValueError, match=message):
        GaussianNoise(std)


@pytest.mark.parametrize("std", [WRONG, None, [0.1], torch.tensor(0.1), True, 0.1j])
def test_a_level_that_is_no_number_is_refused(std: Any):
    for model in (GaussianNoise, LaplaceNoise, UniformNoise, ShotNoise, SpeckleNoise, RicianNoise):
        with pytest.raises(ValueError, match=r"must be a number, got .*; (give|ImageNet-C has)"):
            model(std)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PoissonNoise(0), "in photons per grey level, must be positive .* got 0; DPS has"),
        (lambda: ShotNoise(-1), "the count at white, must be positive .* got -1; ImageNet-C has"),
        (lambda: PoissonGaussianNoise(1, 0), "read_std of PoissonGaussianNoise must be positive"),
        (lambda: PoissonGaussianNoise(math.inf, 1), "must be positive and finite, got inf; less"),
        (lambda: LaplaceNoise(math.nan), "width b of LaplaceNoise must be positive and finite"),
        (lambda: UniformNoise(0), "half_width of UniformNoise must be positive and finite, got 0"),
        (lambda: SpeckleNoise(-0.1), "relative_std of SpeckleNoise must be positive .* share of"),
        (lambda: RicianNoise(WRONG), "channel_std of RicianNoise must be a number, got '0.1'"),
        (lambda: ImpulseNoise(1), "density of ImpulseNoise must be between 0 and 1, got 1; give"),
        (lambda: ImpulseNoise(0), "density of ImpulseNoise must be between 0 and 1, got 0; give"),
        (lambda: LaplaceNoise(1, "units"), "unknown scale 'units'.* did you mean 'unit'"),
        (
            lambda: GaussianNoise(1, "[-1, 1]"),
            r"unknown scale '\[-1, 1\]', choose from signed \(y on \[-1, 1\]\), unit \(y on ",
        ),
        (lambda: CompoundNoise([LaplaceNoise(1)], scale="x"), "unknown scale 'x', choose from"),
        (
            lambda: CompoundNoise([GaussianNoise(1), ShotNoise(5, "unit")]),
            "ShotNoise has scale='unit', but CompoundNoise has scale='signed'; .* the same scale",
        ),
        (
            lambda: CompoundNoise([Hidden(ShotNoise(5, "unit"))]),
            "Hidden has scale='unit', but CompoundNoise",
        ),
        (lambda: convert_level(1, "unit", "sined"), "unknown scale 'sined'.* 'signed'"),
        (
            lambda: convert_level(1, "other", "unit"),
            "cannot convert .*'other' is no image's; give",
        ),
        (lambda: imagenet_c("shoot", 1), "unknown noise of ImageNet-C 'shoot'.* 'shot'"),
        (lambda: imagenet_c("shot", 6), r"whole number, 1 \(mild\) to 5 \(strong\), got 6"),
        (lambda: imagenet_c("shot", WRONG), r"whole number, 1 \(mild\) .* got '0.1'"),
        (lambda: imagenet_c("shot", 1, "other"), "of ImageNet-C needs to know black and white"),
    ],
)
def test_bad_arguments_are_refused(make: Any, message: str):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: ImpulseNoise(0.1, scale="other"),
        lambda: PoissonNoise(1, "other", clip=True),
        lambda: ShotNoise(5, "other", clip=True),
        lambda: PoissonGaussianNoise(1, 1, "other", clip=True),
        lambda: SpeckleNoise(1, "other", clip=True),
        lambda: CompoundNoise([GaussianNoise(1, "other")], clip=True, scale="other"),
    ],
)
def test_a_scale_without_ends_has_no_black_and_white(make: Any):
    with pytest.raises(ValueError, match=r"needs to know black and white, .* give scale='signed'"):
        make()


@pytest.mark.parametrize("parts", [[], GaussianNoise(0.1), None])
def test_a_compound_needs_a_list(parts: Any):
    with pytest.raises(TypeError, match="needs a list of noise models, such as"):
        CompoundNoise(parts)


# Clean measurements


@pytest.mark.parametrize("noise", ALL, ids=name)
@pytest.mark.parametrize(
    ("clean", "error", "message"),
    [
        ([[0.1]], TypeError, "needs y_clean as a torch tensor, got list"),
        (Y[:1].long(), TypeError, r"in floating point, got torch.int64; use y_clean.float\(\)"),
        (Y[:1].bool(), TypeError, r"in floating point, got torch.bool; use y_clean.float\(\)"),
        (torch.tensor(0.0), ValueError, r"y_clean of shape \(\) and an rng of 1 stream"),
        (Y, ValueError, r"of shape \(2, 3, 4, 4\) and an rng of 1 stream.* one id for each"),
        (Y[:1] + math.nan, ValueError, "with 48 NaN or infinite values of 48; check the operator"),
        (Y[:1] + math.inf, ValueError, "with 48 NaN or infinite values of 48"),
    ],
)
def test_clean_measurements_that_are_no_numbers_or_fit_no_stream_are_refused(
    noise: Noise, clean: Any, error: type[Exception], message: str
):
    with pytest.raises(error, match=message):
        noise.sample(clean, rng())


@pytest.mark.parametrize("noise", [*LIGHT, ImpulseNoise(0.1)], ids=name)
def test_complex_measurements_are_refused_where_they_mean_nothing(noise: Noise):
    message = f"{name(noise)} acts on real measurements, got torch.complex64; .* GaussianNoise"
    with pytest.raises(TypeError, match=message):
        noise.sample(Y[:1] + 0j, rng())
    with pytest.raises(TypeError, match=message):
        CompoundNoise([GaussianNoise(0.1), noise]).sample(Y[:1] + 0j, rng())


@pytest.mark.parametrize(
    "noise",
    [
        PoissonNoise(1, "unit"),
        ShotNoise(5, "unit"),
        PoissonGaussianNoise(1, 1, "unit"),
        SpeckleNoise(1, "unit"),
        RicianNoise(1, "unit"),
        GaussianNoise(1, "unit"),
        LaplaceNoise(1, "unit"),
        UniformNoise(1, "unit"),
        ImpulseNoise(0.1, scale="unit"),
    ],
    ids=name,
)
def test_signed_measurements_on_the_unit_scale_are_refused(noise: Noise):
    message = r"scale='unit', y on \[0, 1\], .* reaches -0\.9, far below .* give scale='signed'"
    with pytest.raises(ValueError, match=message):
        noise.sample(torch.tensor([[0.5, -0.9]]), rng())


@pytest.mark.parametrize("noise", LIGHT, ids=name)
def test_light_far_below_black_is_refused(noise: Noise):
    message = rf"{name(noise)} has scale='signed', .* reaches -5, .* is -1; check its units"
    with pytest.raises(ValueError, match=message):
        noise.sample(torch.tensor([[0.5, -5.0]]), rng())
    with pytest.raises(ValueError, match=r"scale='other', .* reaches -5, .* is 0; check its uni"):
        ShotNoise(5, "other").sample(torch.tensor([[0.5, -5.0]]), rng())


@pytest.mark.parametrize("noise", ADDITIVE, ids=name)
def test_additive_noise_asks_no_sign_of_measurements_that_are_no_light(noise: Noise):
    assert noise.sample(torch.full((1, 4), -50.0), rng()).isfinite().all()


def test_whole_pixels_need_channels():
    with pytest.raises(ValueError, match=r"needs measurements \(B, C, ...\), got shape \(1, 5\)"):
        ImpulseNoise(0.1, per_pixel=True).sample(torch.zeros(1, 5), rng())


# Candidates and measurements


@pytest.mark.parametrize("noise", SCORING, ids=name)
@pytest.mark.parametrize(
    ("y", "observed", "error", "message"),
    [
        (Y[:, :1], None, ValueError, r"got y of shape \(2, 1, 4, 4\) and y_clean .* one operator"),
        (Y[:1], None, ValueError, r"got y of shape \(1, 3, 4, 4\) and y_clean of shape \(2, 3,"),
        (Y, torch.ones(5, 5), ValueError, r"observed of shape \(5, 5\) for y .* broadcasts to y"),
        (Y, torch.ones(4, 2, 3, 4, 4), ValueError, "observed of shape .* a mask that broadcasts"),
        (Y + 0j, None, TypeError, "got y of torch.complex64 and y_clean of torch.float32; give"),
        (
            Y.long(),
            None,
            TypeError,
            r"needs y in floating point, got torch.int64; use y.float\(\)",
        ),
        ([0.0], None, TypeError, "needs y as a torch tensor, got list"),
    ],
)
def test_candidates_and_measurements_that_do_not_belong_together_are_refused(
    noise: Noise, y: Any, observed: Any, error: type[Exception], message: str
):
    with pytest.raises(error, match=message):
        noise.nll(Y, y, observed)


@pytest.mark.parametrize("noise", [n for n in SCORING if name(n) in map(name, LIGHT)], ids=name)
def test_complex_candidates_of_light_are_refused(noise: Noise):
    with pytest.raises(TypeError, match=r"acts on real measurements, got torch\.complex64"):
        noise.nll(Y + 0j, Y + 0j)


@pytest.mark.parametrize("make", [PoissonNoise, lambda clip: ShotNoise(5, clip=clip)])
def test_a_clipped_likelihood_names_the_way_out(make: Any):
    with pytest.raises(TypeError, match=r"cuts off the brightest values; give clip=False, give "):
        make(clip=True).nll(Y, Y)
