"""Penalties on seeds: their minima, found numerically, and densities that they stand for."""

import math

import pytest
import torch
from scipy import stats
from scipy.optimize import minimize_scalar
from toys import close, normal

from plugip.engine.penalties import ChiPenalty, GaussianPenalty


def radial(penalty: ChiPenalty, direction: torch.Tensor, radius: float) -> float:
    return float(penalty(radius * direction / direction.norm()))


@pytest.mark.parametrize("side", [2, 5, 16])
def test_chi_is_least_at_the_root_of_d_less_one(side):
    d, direction = 3 * side**2, normal(1, 3, side, side)
    found = minimize_scalar(
        lambda r: radial(ChiPenalty(0.7), direction, r), bounds=(0.1, 3 * side), method="bounded"
    )
    assert found.x == pytest.approx(math.sqrt(d - 1), rel=1e-4)


def test_chi_is_the_density_of_the_norm_up_to_a_constant():
    direction, d, radii = normal(1, 12), 12, (0.5, 2.0, 3.3, 6.0)
    ours = [radial(ChiPenalty(), direction, r) for r in radii]
    theirs = [-float(stats.chi.logpdf(r, d)) for r in radii]
    gaps = [a - b for a, b in zip(ours, theirs, strict=True)]
    assert gaps == pytest.approx([gaps[0]] * 4, abs=1e-10)


def test_gaussian_is_its_density_up_to_a_constant():
    z = normal(3, 2, 4)
    exact = -torch.from_numpy(stats.norm.logpdf(z.numpy())).flatten(1).sum(1)
    close(
        GaussianPenalty(1.0)(z) - exact,
        torch.full((3,), -4 * math.log(2 * math.pi), dtype=torch.float64),
    )


def test_gradients_equal_finite_differences():
    z = normal(2, 1, 2, 3).requires_grad_()
    for penalty in (ChiPenalty(0.3), GaussianPenalty(0.3)):
        assert torch.autograd.gradcheck(penalty, (z,))


@pytest.mark.parametrize("penalty", [ChiPenalty(), GaussianPenalty()])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_are_finite_at_zero(penalty, dtype):
    z = torch.cat([torch.zeros(1, 3, 4, 4), normal(1, 3, 4, 4)]).to(dtype).requires_grad_()
    value = penalty(z)
    (grad,) = torch.autograd.grad(value.sum(), z)
    assert value.isfinite().all() and grad.isfinite().all()
    assert float(grad[0].abs().max()) == 0


@pytest.mark.parametrize("penalty", [ChiPenalty, GaussianPenalty])
def test_weight_scales_names_itself_and_is_not_negative(penalty):
    z = normal(2, 6)
    close(penalty(2.5)(z), 2.5 * penalty()(z))
    assert (penalty(2.5).setting, penalty(0.0).setting) == ("seed_weight", "")
    with pytest.raises(ValueError, match="seed_weight must not be negative, got -1"):
        penalty(-1.0)
