"""Vector algebra per image: every product, norm and solve keeps the batch axis."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Returns the inner product of each image with its partner, Re <a_i, b_i>.

    Args:
        a: Batch of vectors of any shape, (B, ...), real or complex.
        b: Same shape as ``a``.

    Returns:
        Real inner products, (B,).
    """
    product = a.conj() * b if a.is_complex() or b.is_complex() else a * b
    total = product.flatten(1).sum(dim=1)
    return total.real if total.is_complex() else total


def norm(a: Tensor) -> Tensor:
    """Returns the Euclidean norm of each image, (B, ...) -> (B,)."""
    return torch.linalg.vector_norm(a.flatten(1), dim=1)


def per_image(value: Tensor, like: Tensor) -> Tensor:
    """Reshapes one number per image, (B,) or (), so that it multiplies ``like`` (B, ...)."""
    return value.reshape(value.shape + (1,) * (like.ndim - value.ndim)) if value.ndim else value


def where(rows: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Chooses a's image where ``rows`` (B,) is true and b's elsewhere."""
    return torch.where(per_image(rows, a), a, b)


def conjugate_gradient(
    matvec: Callable[[Tensor], Tensor],
    b: Tensor,
    *,
    tolerance: float = 1e-6,
    max_iterations: int = 200,
) -> Tensor:
    """Solves M x = b for each image, M symmetric positive definite.

    The stopping test is true: it reads the recomputed residual b - M x, not the recursion's, and
    an image that has converged no longer moves, so its answer does not depend on its neighbours.

    Args:
        matvec: The map x -> M x, acting image by image.
        b: Right-hand sides, (B, ...).
        tolerance: Stop an image when ‖b - M x‖ <= tolerance * ‖b‖.
        max_iterations: Products with M allowed per image.

    Returns:
        Solutions, same shape as ``b``.

    Raises:
        RuntimeError: If an image has not reached ``tolerance`` within ``max_iterations``.

    Source: Hestenes and Stiefel 1952.
    """
    x, r = torch.zeros_like(b), b.clone()
    p, rho, target = r.clone(), dot(b, b), tolerance * norm(b)
    active = norm(r) > target
    for _ in range(max_iterations):
        if not bool(active.any()):
            break
        q = matvec(p)
        alpha = torch.where(active, rho / dot(p, q), 0.0)
        x = x + per_image(alpha, x) * p
        r = r - per_image(alpha, r) * q
        fresh = dot(r, r)
        active = active & (fresh.sqrt() > target)
        p = r + per_image(torch.where(active, fresh / rho, 0.0), p) * p
        rho = fresh
    _require_solved(norm(b - matvec(x)), norm(b), tolerance, max_iterations)
    return x


def _require_solved(gap: Tensor, size: Tensor, tolerance: float, max_iterations: int) -> None:
    # Ten times the tolerance leaves room for the rounding of the recomputed residual.
    rounding = 50 * torch.finfo(gap.dtype).eps
    relative = float((gap / size.clamp_min(torch.finfo(gap.dtype).tiny)).max())
    if relative > 10 * tolerance + rounding:
        raise RuntimeError(
            f"conjugate gradients stopped after {max_iterations} iterations at a relative "
            f"residual of {relative:.1e}, above {tolerance:.1e}; raise the damping lam"
        )
