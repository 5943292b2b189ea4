"""Noise: moments of the samples, values of the likelihood, observed entries."""

import math

import pytest
import torch
from toys import close, normal

from plugip.noise import GaussianNoise, Noise, UnknownNoise, count_observed, sum_of_squares
from plugip.rng import Rng

N = 200_000


def rng(*ids: str) -> Rng:
    return Rng(0, "measure", ids or ("a",))


def test_gaussian_moments_lie_within_four_standard_errors():
    n = GaussianNoise(0.3).sample(torch.full((1, N), 2.0, dtype=torch.float64), rng()) - 2
    assert abs(float(n.mean())) < 4 * 0.3 / math.sqrt(N)
    assert abs(float(n.square().mean()) - 0.09) < 4 * 0.09 * math.sqrt(2 / N)
    assert abs(float(n.pow(3).mean())) < 4 * 0.027 * math.sqrt(15 / N)
    assert abs(float(n.pow(4).mean()) / 0.0081 - 3) < 4 * math.sqrt(96 / N)


def test_both_parts_of_complex_measurements_are_noisy():
    n = GaussianNoise(0.3).sample(torch.zeros(1, N, dtype=torch.complex128), rng())
    for part in (n.real, n.imag):
        assert abs(float(part.square().mean()) - 0.09) < 4 * 0.09 * math.sqrt(2 / N)
    assert abs(float((n.real * n.imag).mean())) < 4 * 0.09 / math.sqrt(N)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64])
def test_noise_of_one_image_is_the_same_in_any_batch(dtype: torch.dtype):
    clean = torch.zeros(3, 2, 4, 4, dtype=dtype)
    together = GaussianNoise(0.1).sample(clean, rng("a", "b", "c"))
    alone = GaussianNoise(0.1).sample(clean[:1], rng("c"))
    assert together.dtype == dtype and torch.equal(together[2:], alone)
    assert not torch.equal(together[:1], together[1:2])


def test_noise_is_added_to_the_measurement():
    clean = normal(1, 3, 4, 4)
    noise = GaussianNoise(0.2)
    close(noise.sample(clean, rng()) - clean, noise.sample(0 * clean, rng()), 1e-15)


def test_gaussian_nll_by_hand():
    # (1 + 4 + 9) / (2 * 0.25) = 28 and 4 / 0.5 = 8
    clean = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 2.0]])
    assert GaussianNoise(0.5).nll(clean, torch.zeros(2, 3)).tolist() == [28, 8]


def test_gaussian_nll_is_the_log_density_up_to_a_constant():
    a, b, y = normal(2, 5), normal(2, 5, seed=1), normal(2, 5, seed=2)
    noise, density = GaussianNoise(0.7), torch.distributions.Normal
    want = (density(b, 0.7).log_prob(y) - density(a, 0.7).log_prob(y)).sum(1)
    close(noise.nll(a, y) - noise.nll(b, y), want)


def test_nll_counts_observed_entries_only():
    clean, y = torch.ones(2, 3, 2, 2), torch.zeros(2, 3, 2, 2)
    mask = torch.tensor([[1.0, 0.0], [0.0, 0.0]]).expand(2, 1, 2, 2).clone()
    mask[1] = 1
    assert GaussianNoise(1.0).nll(clean, y, mask).tolist() == [1.5, 6.0]  # 3 and 12 entries
    assert UnknownNoise().nll(2 * clean, y, mask).tolist() == [4.0, 4.0]


def test_unknown_noise_scores_by_the_mean_square():
    clean = torch.tensor([[1.0, 2.0, 3.0, 0.0]])
    assert UnknownNoise().nll(clean, torch.zeros(1, 4)).tolist() == [3.5]


def test_sum_of_squares_of_complex_residuals_is_real():
    assert sum_of_squares(torch.tensor([[3 + 4j, 1j]]), None).tolist() == [26]
    assert sum_of_squares(torch.tensor([[3 + 4j, 1j]]), torch.tensor([[1, 0]])).tolist() == [25]


def test_the_likelihood_of_an_exact_complex_fit_has_a_gradient():
    clean = torch.zeros(1, 2, dtype=torch.complex128, requires_grad=True)
    GaussianNoise(1.0).nll(clean, torch.zeros_like(clean)).sum().backward()
    assert clean.grad is not None and not clean.grad.any()


def test_observed_entries_are_counted_per_image():
    y, mask = torch.zeros(2, 3, 2, 2), torch.ones(2, 1, 2, 2)
    mask[0, 0, 0] = 0
    assert count_observed(y, None) == 12
    assert count_observed(y, mask).tolist() == [6, 12]  # type: ignore[union-attr]
    assert count_observed(y, mask[:1]).tolist() == [6, 6]  # type: ignore[union-attr]
    assert count_observed(y, mask.bool()).tolist() == [6, 12]  # type: ignore[union-attr]


def test_a_complex_entry_counts_twice():
    y = torch.zeros(1, 2, 2, dtype=torch.complex64)
    assert count_observed(y, None) == 8
    assert count_observed(y, torch.tensor([[1.0, 0.0]])).tolist() == [4]  # type: ignore[union-attr]


@pytest.mark.parametrize("std", [0, -0.1, float("nan"), float("inf")])
def test_a_bad_std_is_refused(std: float):
    with pytest.raises(ValueError, match=f"positive and finite, got {std}; for nearly noise-free"):
        GaussianNoise(std)


def test_unknown_noise_cannot_be_drawn():
    with pytest.raises(TypeError, match="give noise=gaussian, or a measurement"):
        UnknownNoise().sample(torch.zeros(1, 3), rng())


def test_unknown_noise_has_no_level():
    assert UnknownNoise().std is None
    with pytest.raises(TypeError, match="argument"):
        UnknownNoise(0.1)  # type: ignore[call-arg]


@pytest.mark.parametrize("noise", [GaussianNoise(0.1), UnknownNoise()])
def test_both_fulfil_the_protocol(noise: Noise):
    assert isinstance(noise, Noise)
