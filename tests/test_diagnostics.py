"""Diagnostics: numbers computed by hand, and the sentences that they lead to."""

import math

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from toys import ExactPrior, Fourier, Identity, Masked, normal

from plugip.diagnostics import Diagnostics, diagnose
from plugip.noise import GaussianNoise, LaplaceNoise, Noise, UniformNoise, UnknownNoise
from plugip.problem import Problem, measure

IMAGE = (1, 2, 4)  # 8 entries: the limit is 1 + 2 sqrt(2 / 8) = 2
PRIOR = ExactPrior(torch.zeros(IMAGE))


def problem(std: float | None = 0.1) -> Problem:
    noise = UnknownNoise() if std is None else GaussianNoise(std)
    return Problem(torch.zeros(2, *IMAGE), Identity(), noise, PRIOR)


def answers(first: float, second: float) -> torch.Tensor:
    return torch.tensor([first, second]).reshape(2, 1, 1, 1).expand(2, *IMAGE)


def diagnostic(**changes: object) -> Diagnostics:
    usual = {
        "residual_to_noise": 1.0,
        "chi_square": 1.0,
        "chi_square_limit": 1.2,
        "seed_norm": 1.0,
        "saturation": 0.0,
        "explains_y": True,
    }
    return Diagnostics(**(usual | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("noise", "limit"),
    [
        (GaussianNoise(0.1), 2.0),
        (LaplaceNoise(0.1), 2.5811388301),  # an excess kurtosis of 3
        (UniformNoise(0.1), 1.632456),  # and of -1.2
    ],
)
def test_the_limit_depends_on_the_kurtosis_of_the_noise(noise: Noise, limit: float):
    p = Problem(torch.zeros(2, *IMAGE), Identity(), noise, PRIOR)
    for d in diagnose(p, answers(0.1, 0.1), None):
        assert d.chi_square_limit == pytest.approx(limit)


def test_residual_and_chi_square_by_hand():
    good, bad = diagnose(problem(), answers(0.14, 0.3), None)
    assert good.residual_to_noise == pytest.approx(1.4)
    assert good.chi_square == pytest.approx(1.96)
    assert good.chi_square_limit == pytest.approx(2, rel=1e-12)
    assert bad.residual_to_noise == pytest.approx(3) and bad.chi_square == pytest.approx(9)
    assert (good.explains_y, bad.explains_y) == (True, False)


def test_the_seed_norm_by_hand():
    z = torch.zeros(2, 3, 3)
    z[0, 0, 0], z[1] = 3, 2
    assert [d.seed_norm for d in diagnose(problem(), answers(0.0, 0.0), z)] == [1, 2]
    assert [d.seed_norm for d in diagnose(problem(), answers(0.0, 0.0), None)] == [None, None]


def test_saturation_by_hand():
    x = torch.zeros(2, *IMAGE)
    x[0, 0, 0, :3] = torch.tensor([1.0, -1.0, 0.999])
    assert [d.saturation for d in diagnose(problem(), x, None)] == [0.25, 0]


def test_an_unknown_noise_level_leaves_the_fit_open():
    d = diagnose(problem(None), answers(0.3, 0.3), None)[0]
    assert (d.residual_to_noise, d.chi_square, d.explains_y) == (None, None, None)


def test_each_image_counts_its_own_observed_entries():
    mask = torch.zeros(2, 1, 2, 4)
    mask[0, 0, 0, :2], mask[1] = 1, 1
    p = Problem(torch.zeros(2, *IMAGE), Masked(mask), GaussianNoise(0.1), PRIOR)
    x = answers(0.14, 0.14).clone()
    x[0, 0, 1] = 0.9  # not observed
    few, many = diagnose(p, x, None)
    assert (few.chi_square_limit, many.chi_square_limit) == pytest.approx((3, 2), rel=1e-12)
    assert few.chi_square == pytest.approx(1.96) and many.chi_square == pytest.approx(1.96)


def test_the_truth_explains_a_complex_measurement():
    x = torch.zeros(2, 3, 32, 32)
    noise = GaussianNoise(0.05)
    p = Problem(measure(Fourier(), x, noise), Fourier(), noise, ExactPrior(x[0]))
    for d in diagnose(p, x, None):
        assert d.chi_square == pytest.approx(1, abs=4 * math.sqrt(2 / 6144))
        assert d.chi_square_limit == pytest.approx(1 + 2 * math.sqrt(2 / 6144))


def test_diagnosing_makes_no_graph():
    x = answers(0.1, 0.1).clone().requires_grad_()
    assert diagnose(problem(), x, x)[0].residual_to_noise == pytest.approx(1)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "the answer explains y: residual is 1.00 times the noise"),
        (
            {"residual_to_noise": 3.0, "explains_y": False},
            "the answer does not explain y: residual is 3.00 times the noise; "
            "give it more iterations, or check operator and noise level",
        ),
        (
            {"residual_to_noise": None, "explains_y": None},
            "noise level unknown, or clipped: no statement about the fit",
        ),
        (
            {"chi_square_limit": None, "explains_y": None},
            "residual is 1.00 times the noise; how much that varies is not stated by the noise "
            "model: no verdict on it",
        ),
        (
            {"residual_to_noise": 0.3},
            "the answer fits the noise as well: residual is 0.30 times the noise; stop earlier "
            "(stopping=discrepancy), or check the noise level",
        ),
    ],
)
def test_the_sentence_about_the_fit(changes: dict[str, object], sentence: str):
    assert diagnostic(**changes).sentences() == [sentence]


@pytest.mark.parametrize("seed_norm", [None, 0.2, 1.0, 1.15])
def test_a_plausible_seed_needs_no_sentence(seed_norm: float | None):
    assert len(diagnostic(seed_norm=seed_norm).sentences()) == 1


def test_a_seed_beyond_the_shell_is_named():
    said = diagnostic(seed_norm=1.5).sentences()[1]
    assert said.startswith("the seed's norm is 1.50 times that of Gaussian noise")


@pytest.mark.parametrize(("share", "number"), [(0.1, 1), (0.35, 2)])
def test_much_saturation_is_named(share: float, number: int):
    said = diagnostic(saturation=share).sentences()
    assert len(said) == number
    assert number == 1 or said[1].startswith("35% of the values touch black or white")


def test_an_answer_that_is_not_a_number_explains_nothing():
    d = diagnose(problem(), answers(math.nan, 0.0), None)
    assert [one.explains_y for one in d] == [False, True]


def test_a_diagnosis_needs_no_float64_on_the_device():
    """Apple's GPUs have none; a number without axes may be one, since it lives on the CPU."""

    class NoFloat64(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            arrays = any(isinstance(a, Tensor) and a.ndim and not is_wide(a) for a in args)
            assert not (arrays and is_wide(out)), f"{function} gives float64"
            return out

    def is_wide(value):
        return isinstance(value, Tensor) and value.dtype == torch.float64

    x = normal(2, 3, 4, 4, dtype=torch.float32)
    noisy = Problem(x, Identity(), GaussianNoise(0.1), ExactPrior(torch.zeros(3, 4, 4)))
    with NoFloat64():
        found = [d.saturation for d in diagnose(noisy, x, x)]
    assert found == (x.abs() >= 1).flatten(1).double().mean(1).tolist()
