"""Vector algebra per image: hand computations, and conjugate gradients against dense solves."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from toys import close, normal

from plugip.linalg import (
    UnsolvedError,
    conjugate_gradient,
    dot,
    norm,
    per_image,
    products_for,
    project_l1,
    where,
)


def positive_definite(batch: int, n: int, lowest: float = 0.1) -> Tensor:
    """One matrix per image with eigenvalues from ``lowest`` to 1, (batch, n, n)."""
    q = torch.linalg.qr(normal(batch, n, n)).Q
    return q @ torch.diag(torch.linspace(lowest, 1, n, dtype=torch.float64)) @ q.mT


def product(matrices: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda v: (matrices @ v[..., None])[..., 0]


def test_dot_by_hand():
    a, b = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[5.0, 6.0], [7.0, 8.0]])
    assert dot(a, b).tolist() == [17, 53]


def test_dot_of_complex_vectors_is_the_real_part():
    # Re((1 - 2i)(3 - i)) = Re(1 - 7i) = 1
    assert dot(torch.tensor([[1 + 2j]]), torch.tensor([[3 - 1j]])).tolist() == [1]


def test_dot_of_a_real_and_a_complex_vector():
    assert dot(torch.tensor([[2.0]]), torch.tensor([[3 - 1j]])).tolist() == [6]


def test_norm_by_hand():
    assert norm(torch.tensor([[[3.0], [4.0]], [[0.0], [2.0]]])).tolist() == [5, 2]
    assert norm(torch.tensor([[3 + 4j]])).tolist() == [5]


def test_per_image_multiplies_images():
    x = torch.ones(2, 3, 4, 4)
    assert (per_image(torch.tensor([2.0, 5.0]), x) * x)[:, 0, 0, 0].tolist() == [2, 5]
    assert per_image(torch.tensor(2.0), x).ndim == 0


def test_where_chooses_whole_images():
    a, b = torch.ones(2, 3, 2, 2), torch.zeros(2, 3, 2, 2)
    assert where(torch.tensor([True, False]), a, b).flatten(1).sum(1).tolist() == [12, 0]


def test_conjugate_gradient_equals_a_dense_solve():
    matrices, b = positive_definite(3, 12), normal(3, 12, seed=1)
    x = conjugate_gradient(product(matrices), b, tolerance=1e-10)
    close(x, torch.linalg.solve(matrices, b), 1e-8)


def test_conjugate_gradient_keeps_the_layout():
    x = conjugate_gradient(lambda v: 2 * v, torch.ones(2, 3, 4, 4))
    assert torch.equal(x, torch.full((2, 3, 4, 4), 0.5))


def test_conjugate_gradient_needs_as_many_products_as_eigenvalues():
    weights = torch.tensor([1.0, 1.0, 2.0, 2.0, 5.0]).double()
    calls = []
    conjugate_gradient(lambda v: (calls.append(1), weights * v)[1], normal(2, 5))
    assert len(calls) == 3 + 1  # one more to recompute the residual


def test_conjugate_gradient_solves_complex_systems():
    m = torch.tensor([[2, 1j], [-1j, 3]], dtype=torch.complex128)
    b = torch.tensor([[1 + 1j, 2 - 1j]], dtype=torch.complex128)
    close(conjugate_gradient(lambda v: v @ m.T, b), torch.linalg.solve(m, b[0])[None], 1e-8)


def test_an_image_does_not_feel_its_neighbours():
    easy, hard = torch.ones(20), torch.logspace(-3, 0, 20)
    weights, b = torch.stack([easy, hard]).double(), normal(2, 20)
    both = conjugate_gradient(lambda v: weights * v, b)
    for i in range(2):
        alone = conjugate_gradient(lambda v, w=weights[i]: w * v, b[i : i + 1])
        close(both[i : i + 1], alone, 1e-13)


def test_a_zero_right_hand_side_gives_zero():
    b = torch.stack([torch.zeros(6), torch.ones(6)])
    x = conjugate_gradient(lambda v: torch.arange(1.0, 7) * v, b)
    assert not x[0].any() and x.isfinite().all()


def test_gradients_pass_through_conjugate_gradients():
    matrices, b = positive_definite(2, 4), normal(2, 4).requires_grad_()
    solve = product(matrices)
    assert torch.autograd.gradcheck(
        lambda v: conjugate_gradient(solve, v, tolerance=1e-12), b, atol=1e-6
    )


def test_gradients_are_finite_where_an_image_is_at_rest():
    # The first image has nothing to solve, the second is solved in one step, the third in many.
    weights = torch.stack([torch.ones(8), torch.ones(8), torch.linspace(0.1, 1, 8)]).double()
    b = (normal(3, 8) * torch.tensor([[0.0], [1.0], [1.0]])).requires_grad_()
    conjugate_gradient(lambda v: weights * v, b).sum().backward()
    assert b.grad is not None and b.grad.isfinite().all()
    close(b.grad[1:], 1 / weights[1:], 1e-4)


def test_too_few_iterations_are_an_error():
    matvec = product(positive_definite(1, 30, 1e-4))
    with pytest.raises(RuntimeError, match="within 5 iterations; raise the damping"):
        conjugate_gradient(matvec, normal(1, 30), max_iterations=5)


def test_the_error_carries_what_was_reached_and_its_true_residual():
    matrices, b = positive_definite(2, 30, 1e-4), normal(2, 30)
    with pytest.raises(UnsolvedError) as caught:
        conjugate_gradient(product(matrices), b, max_iterations=5)
    x = caught.value.solution
    close(caught.value.residual, norm(b - product(matrices)(x)) / norm(b))
    assert bool((caught.value.residual < 1).all()) and x.shape == b.shape


def test_each_image_has_its_own_allowance():
    weights, b = torch.logspace(-4, 0, 30).double().expand(2, 30), normal(2, 30)
    with pytest.raises(UnsolvedError) as caught:
        conjugate_gradient(lambda v: weights * v, b, max_iterations=torch.tensor([200, 4]))
    few, many = caught.value.residual[1], caught.value.residual[0]
    assert float(many) < 1e-5 < 1e-2 < float(few)
    with pytest.raises(UnsolvedError) as alone:
        conjugate_gradient(lambda v: weights[1:] * v, b[1:], max_iterations=4)
    close(alone.value.solution, caught.value.solution[1:])


def test_the_error_carries_the_best_iterate_and_not_the_last():
    weights, b = torch.logspace(-14, 4, 24).double(), normal(1, 24)
    with pytest.raises(UnsolvedError, match="relative residual") as caught:
        conjugate_gradient(lambda v: weights * v, b)
    assert float(caught.value.residual) <= 1
    close(caught.value.residual, norm(b - weights * caught.value.solution) / norm(b))


@pytest.mark.parametrize(
    ("lam", "number"), [(1.0, 200), (1e-4, 800), (4.1e-6, 3950), (1e-14, 200)]
)
def test_small_damping_is_allowed_more_iterations(lam: float, number: int):
    assert products_for(lam) == number
    each = products_for(torch.full((2, 1, 1), lam, dtype=torch.float64))
    assert isinstance(each, torch.Tensor) and each.tolist() == [number] * 2


def test_one_unsolved_image_is_enough():
    weights = torch.stack([torch.ones(30), torch.logspace(-4, 0, 30)]).double()
    with pytest.raises(RuntimeError, match="relative residual"):
        conjugate_gradient(lambda v: weights * v, normal(2, 30), max_iterations=5)


def test_the_stopping_test_is_true():
    # A map that changes: the recursion believes in its residual, the recomputed one is large.
    scales = iter([1.0, 1.0, 1.0, 2.0])
    weights = torch.tensor([1.0, 2.0, 3.0])
    with pytest.raises(RuntimeError, match=r"relative residual of 1\.0e\+00"):
        conjugate_gradient(lambda v: next(scales) * weights * v, torch.ones(1, 3))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_right_hand_side_that_is_not_finite_is_an_error(value: float):
    b = torch.ones(2, 4)
    b[1, 2] = value
    with pytest.raises(RuntimeError, match="nan"):
        conjugate_gradient(lambda v: 2 * v, b)


def test_single_precision_is_enough_for_the_default_tolerance():
    weights = torch.logspace(-3, 0, 64)
    x = conjugate_gradient(lambda v: weights * v, normal(2, 64, dtype=torch.float32))
    assert x.dtype == torch.float32


def nearest_in_ball(v: Tensor, radius: float) -> Tensor:
    """Projects one short vector onto the l1 ball by trying every set of entries that stay."""
    if float(v.abs().sum()) <= radius:
        return v
    best = torch.zeros_like(v)
    for kept in range(1, 2 ** len(v)):
        rows = torch.tensor([bool(kept >> i & 1) for i in range(len(v))])
        shrink = (v[rows].abs().sum() - radius) / rows.sum()
        sizes = torch.where(rows, v.abs() - shrink, 0.0)
        candidate = v.sign() * sizes
        if bool((sizes >= 0).all()) and (candidate - v).norm() < (best - v).norm():
            best = candidate
    return best


def test_l1_projection_is_the_nearest_point_of_the_ball():
    v = normal(12, 6, seed=5) * torch.linspace(2, 0.1, 12, dtype=torch.float64)[:, None]
    v[3, :2] = v[3, 2]  # ties
    radii = torch.linspace(0.2, 3, 12, dtype=torch.float64)
    pairs = zip(v, radii.tolist(), strict=True)
    expected = torch.stack([nearest_in_ball(*pair) for pair in pairs])
    inside = v.abs().sum(dim=1) <= radii
    assert bool(inside.any()) and not bool(inside.all())
    close(project_l1(v, radii), expected)
    close(project_l1(v.reshape(12, 2, 3), radii).flatten(1), expected)
    assert torch.equal(project_l1(v, radii)[inside], v[inside])


def test_l1_projection_by_hand():
    v = torch.tensor([[3.0, -1.0, 0.5], [0.0, 0.0, 0.0]])
    assert project_l1(v, 2.0).tolist() == [[2, 0, 0], [0, 0, 0]]
    assert project_l1(v, 3.0).tolist() == [[2.5, -0.5, 0], [0, 0, 0]]
    assert project_l1(v, 0.0).abs().max() == 0


def test_l1_projection_of_a_long_float32_vector_meets_the_radius():
    v = normal(2, 200_000, dtype=torch.float32)
    sums = project_l1(v, 1000.0).double().abs().sum(dim=1)
    close(sums, torch.full_like(sums, 1000.0), 1e-5)
    with pytest.raises(ValueError, match=r"radius must not be negative, got -1"):
        project_l1(v, -1.0)
