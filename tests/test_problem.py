"""The problem refuses bad input in one sentence; measure() simulates the same y in any batch."""

import numpy as np
import pytest
import torch
from torch import Tensor
from toys import (
    ExactPrior,
    Fixed,
    Fourier,
    Identity,
    Masked,
    Matrix,
    Scale,
    Shrink,
    Square,
    close,
    normal,
)

from plugip.noise import GaussianNoise, Noise, UnknownNoise
from plugip.operator import LinearOperator, Operator
from plugip.problem import Problem, measure, require_signed
from plugip.rng import Rng
from plugip.spectral import DiagonalSpectrum

IMAGE = (3, 4, 4)
PRIOR = ExactPrior(torch.zeros(IMAGE))
NOISE = GaussianNoise(0.1)


def problem(y: Tensor, operator: Operator | None = None, noise: Noise = NOISE) -> Problem:
    return Problem(y, operator or Identity(), noise, PRIOR)


def images(batch: int = 2) -> Tensor:
    return normal(batch, *IMAGE, dtype=torch.float32).clamp(-1, 1)


class Differences(LinearOperator):
    """Differences of neighbours: flat images give zero."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.roll(1, -1)


# -----------------------------------------------------------------------------------------------
# what a problem refuses


def test_a_good_problem_passes():
    assert problem(images(3)).batch == 3
    assert problem(images(2)[..., ::2, ::2], Shrink()).batch == 2


def test_uint8_is_refused():
    with pytest.raises(TypeError, match=r"got torch.uint8; .* y.float\(\) / 127.5 - 1"):
        problem(torch.zeros(1, *IMAGE, dtype=torch.uint8))


def test_arrays_are_refused():
    with pytest.raises(TypeError, match="y must be a torch tensor, got ndarray"):
        problem(np.zeros((1, *IMAGE)))  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(value: float):
    y = images()
    y[0, 0, 0, :2] = value
    with pytest.raises(ValueError, match=r"y holds 2 NaN or infinite values of 96; .* mask"):
        problem(y)


def test_nan_in_complex_measurements_is_found():
    y = torch.zeros(1, *IMAGE, dtype=torch.complex64)
    y.imag[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="y holds 1 NaN"):
        problem(y, Fourier())


def test_no_images_are_refused():
    with pytest.raises(ValueError, match=r"y is empty, shape \(0, 3, 4, 4\)"):
        problem(torch.zeros(0, *IMAGE))


def test_an_unbatched_image_is_refused():
    with pytest.raises(ValueError, match=r"\(3, 4, 4\) without a batch axis; use y\[None\]"):
        problem(images()[0])


def test_an_unbatched_image_is_refused_if_it_could_be_a_batch():
    # Three channels look like three images: the shape alone has to tell.
    with pytest.raises(ValueError, match=r"use y\[None\]"):
        Problem(torch.zeros(3, 3, 3), Identity(), NOISE, ExactPrior(torch.zeros(3, 3, 3)))


def test_a_vector_is_refused():
    with pytest.raises(ValueError, match=r"must have a batch axis, got shape \(12,\)"):
        problem(torch.zeros(12))


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 1, 4, 4), (2, 4, 4, 4), (2, 3, 4, 4, 1)])
def test_a_wrong_size_or_channel_count_is_refused(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"Identity gives \(2, 3, 4, 4\) for .* check the image"):
        problem(torch.zeros(shape))


def test_a_size_that_the_operator_cannot_take_is_refused():
    with pytest.raises(ValueError, match="Shrink needs even sizes, got 5 x 4"):
        Problem(torch.zeros(1, 3, 2, 2), Shrink(), NOISE, ExactPrior(torch.zeros(3, 5, 4)))


def test_torch_errors_of_an_operator_become_a_sentence():
    wrong = Matrix(torch.zeros(5, 7), IMAGE)
    with pytest.raises(ValueError, match=r"Matrix cannot take the prior's images of shape \(3, 4"):
        problem(torch.zeros(1, 5), wrong)


@pytest.mark.parametrize("high", [255.0, 65535.0])
def test_unscaled_images_are_refused(high: float):
    with pytest.raises(ValueError, match=r"y reaches .* Identity .* by y / 127.5 - 1"):
        problem((images() + 1) / 2 * high)


def test_the_scale_is_that_of_the_operator():
    bright = Scale(torch.full((1, 1, 1, 1), 255.0))
    assert problem(255 * images(), bright).batch == 2


def test_the_scale_of_each_operator_is_known():
    for operator in (Square(), Differences(), Fourier()):
        x = images()
        assert problem(operator(x), operator, GaussianNoise(0.001)).batch == 2


def test_differences_of_unscaled_images_are_refused():
    with pytest.raises(ValueError, match="bring y to the operator's units"):
        problem(Differences()(127.5 * (images() + 1)), Differences())


def test_loud_noise_is_no_wrong_scale():
    assert problem(30 * images(), noise=GaussianNoise(30.0)).batch == 2


def test_measurements_of_unknown_noise_pass():
    assert problem(images(), noise=UnknownNoise()).batch == 2


@pytest.mark.parametrize("part", ["operator", "prior"])
def test_parts_on_different_devices_are_refused(part: str):
    operator = Matrix(torch.eye(48), IMAGE)
    prior = ExactPrior(torch.zeros(IMAGE))
    (operator if part == "operator" else prior).to("meta")
    with pytest.raises(ValueError, match=r"different devices \(cpu, meta\); move all three"):
        Problem(torch.zeros(1, 48), operator, NOISE, prior)


def test_double_measurements_for_a_single_prior_are_refused():
    with pytest.raises(ValueError, match=r"y is torch.float64, but the prior .* use y.float\(\)"):
        problem(images().double())


def test_a_double_prior_takes_double_measurements():
    prior = ExactPrior(torch.zeros(IMAGE).double())
    operator = Matrix(torch.eye(48).double(), IMAGE)
    assert Problem(torch.zeros(2, 48).double(), operator, NOISE, prior).batch == 2


def test_building_a_problem_makes_no_network_call():
    before = PRIOR.counter.nfe
    problem(images())
    assert PRIOR.counter.nfe == before


# -----------------------------------------------------------------------------------------------
# figures


def ragged() -> Problem:
    mask = torch.zeros(2, 1, 4, 4)
    mask[0, 0, 0, :2], mask[1] = 1, 1
    return problem(torch.zeros(2, *IMAGE), Masked(mask))


def test_figures_count_observed_entries_by_hand():
    p, two = ragged(), torch.full((2, *IMAGE), 2.0)
    assert p.observed_count().tolist() == [6, 48]  # type: ignore[union-attr]
    assert p.squared_residual(two).tolist() == [24, 192]
    assert p.residual(two).tolist() == [2, 2]
    close(p.nll(two), torch.tensor([24.0, 192.0]) / 0.02, 1e-6)


def test_figures_of_complex_measurements_are_real():
    p = problem(torch.zeros(2, *IMAGE, dtype=torch.complex64), Fourier())
    r = torch.full((2, *IMAGE), 3 + 4j)
    close(p.squared_residual(r), torch.full((2,), 25.0 * 48), 1e-6)
    close(p.residual(r), torch.full((2,), 12.5**0.5), 1e-6)


def test_the_residual_of_complex_noise_is_its_std():
    operator = Fourier()
    x = torch.zeros(1, 3, 64, 64)
    y = measure(operator, x, NOISE)
    p = Problem(y, operator, NOISE, ExactPrior(x[0]))
    assert float(p.residual(operator(x))) == pytest.approx(0.1, rel=4 * (2 * 24576) ** -0.5)


def test_select_takes_images_with_their_parts():
    p = ragged().select([1])
    assert p.batch == 1 and p.observed_count().tolist() == [48]  # type: ignore[union-attr]
    assert ragged().select([1, 0]).observed_count().tolist() == [48, 6]  # type: ignore[union-attr]


def test_select_of_all_images_is_the_problem():
    p = ragged()
    assert p.select([0, 1]) is p


def test_select_does_not_ask_the_operator_again():
    class Counting(Identity):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return x

    operator = Counting()
    p = problem(images(3), operator)
    before = operator.calls
    assert torch.equal(p.select([2, 0]).y, p.y[[2, 0]])
    assert operator.calls == before


# -----------------------------------------------------------------------------------------------
# measure


def test_measure_adds_the_noise_of_each_image():
    x = images(3)
    y = measure(Identity(), x, NOISE, 7, ["a", "b", "c"])
    close(y, x + 0.1 * Rng(7, "measure", ["a", "b", "c"]).normal(IMAGE), 1e-6)


@pytest.mark.parametrize("operator", [Identity(), Square(), Shrink(), Fourier()])
def test_measure_gives_the_same_y_in_any_batch(operator: Operator):
    x, ids = images(3), ["a", "b", "c"]
    together = measure(operator, x, NOISE, 1, ids)
    for i in (2, 0, 1):
        alone = measure(operator, x[i : i + 1], NOISE, 1, [ids[i]])
        assert torch.equal(alone, together[i : i + 1])


def test_measure_depends_on_the_rng_seed_and_names_images_by_number():
    x = images()
    assert torch.equal(measure(Identity(), x, NOISE), measure(Identity(), x, NOISE, 0, ["0", "1"]))
    assert not torch.equal(measure(Identity(), x, NOISE), measure(Identity(), x, NOISE, 1))


def test_measure_leaves_unobserved_entries_at_zero():
    mask = torch.zeros(2, 1, 4, 4)
    mask[:, :, :2] = 1
    y = measure(Masked(mask), images(), NOISE)
    assert not y[:, :, 2:].any() and bool(y[:, :, :2].all())


def test_measure_with_a_spectral_operator():
    a = Fixed(DiagonalSpectrum(torch.full((4, 4), 0.5)), (4, 4))
    y = measure(a, images(), GaussianNoise(1e-6))
    close(y, images() / 2, 1e-5)


def test_measure_takes_streams():
    x = images()
    streams = Rng(3, "measure", ["a", "b"])
    assert torch.equal(
        measure(Identity(), x, NOISE, streams), measure(Identity(), x, NOISE, 3, ["a", "b"])
    )


@pytest.mark.parametrize("ids", [["a"], ["a", "b", "c"]])
def test_measure_needs_one_stream_per_image(ids: list[str]):
    # Broadcasting would give all images the same noise, or one image several.
    for rng in (0, Rng(0, "measure", ids)):
        with pytest.raises(ValueError, match=f"rng has {len(ids)} streams for a batch of 2"):
            measure(Identity(), images(), NOISE, rng, ids)


@pytest.mark.parametrize(
    ("x", "sentence"),
    [
        (torch.linspace(0, 255, 48).reshape(1, *IMAGE), r"from 0 to 255; x / 127.5 - 1"),
        (torch.full((1, *IMAGE), -1.3), "from -1.3 to -1.3; clamp or rescale it"),
        (torch.full((1, *IMAGE), float("nan")), "images hold NaN or infinite values"),
        (torch.full((1, *IMAGE), float("inf")), "images hold NaN or infinite values"),
        (torch.zeros(0, *IMAGE), r"x is empty, shape \(0, 3, 4, 4\)"),
        (torch.zeros(IMAGE), r"add the batch axis with x\[None\]"),
        (torch.zeros(1, 3, 5, 4), "Shrink needs even sizes, got 5 x 4"),
    ],
)
def test_measure_refuses_bad_images(x: Tensor, sentence: str):
    with pytest.raises(ValueError, match=sentence):
        measure(Shrink(), x, NOISE)


def test_measure_refuses_integers_and_arrays():
    with pytest.raises(TypeError, match=r"use x.float\(\) / 127.5 - 1"):
        measure(Identity(), torch.zeros(1, *IMAGE, dtype=torch.uint8), NOISE)
    with pytest.raises(TypeError, match="torch tensor, got ndarray"):
        measure(Identity(), np.zeros((1, *IMAGE)), NOISE)  # type: ignore[arg-type]


def test_small_overshoots_are_no_wrong_scale():
    require_signed(torch.tensor([-1.04, 1.04]))
