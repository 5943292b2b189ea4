"""Vector algebra per image: every product, norm and solve keeps the batch axis."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def wide(like: Tensor) -> torch.dtype:
    """Returns the type in which long sums are formed: float64 where the device has it."""
    return torch.float64 if has_float64(like.device) else torch.float32


def widened(x: Tensor) -> Tensor:
    """Returns a master copy in float64, on the CPU where the device of x has none."""
    return x.double() if has_float64(x.device) else x.cpu().double()


def has_float64(device: torch.device) -> bool:
    """Tells whether a device computes in float64; Apple's GPUs do not."""
    return device.type != "mps"


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


def project_l1(a: Tensor, radius: float | Tensor) -> Tensor:
    """Returns the nearest vector with a sum of absolute values of at most ``radius``, per image.

    Exact, by sorting: entries shrink towards 0 by the one amount that meets the radius. Vectors
    inside the ball stay bit for bit.

    Args:
        a: Real vectors of any shape, (B, ...).
        radius: Radius of the ball, not negative; a number or one per image, (B,).

    Raises:
        ValueError: If a radius is negative.

    Source: Duchi et al. 2008 (efficient projections onto the l1-ball).
    """
    # Sums of a long vector's entries are compared with a radius.
    sizes = a.flatten(1).abs().to(wide(a))
    limit = torch.as_tensor(radius, dtype=sizes.dtype, device=a.device).expand(len(a))[:, None]
    if bool((limit < 0).any()):
        raise ValueError(f"radius must not be negative, got {radius}")
    ordered = sizes.sort(dim=1, descending=True).values
    counts = torch.arange(1, sizes.shape[1] + 1, device=a.device)
    excess = (ordered.cumsum(dim=1) - limit) / counts
    kept = (ordered > excess).sum(dim=1, keepdim=True).clamp_min(1)
    shrunk = a.sign() * (sizes - excess.gather(1, kept - 1)).clamp_min(0).to(a).reshape(a.shape)
    return where(sizes.sum(dim=1) > limit[:, 0], shrunk, a)


def damping_like(lam: float | Tensor, b: Tensor) -> float | Tensor:
    """Returns the damping, () or (B,), so that it multiplies ``b``; it must be positive."""
    # A plain number stays on the host: no copy to the GPU, and no wait to look at it.
    positive = bool((lam > 0).all()) if isinstance(lam, Tensor) else lam > 0
    if not positive:
        raise ValueError(f"lam must be positive, got {lam}")
    if not isinstance(lam, Tensor):
        return lam
    if lam.ndim and lam.shape[0] not in (1, b.shape[0]):
        raise ValueError(f"lam has {lam.shape[0]} entries for a batch of {b.shape[0]} images")
    return per_image(lam.to(b.real), b)


def conjugate_gradient(
    matvec: Callable[[Tensor], Tensor],
    b: Tensor,
    *,
    tolerance: float = 1e-6,
    max_iterations: int = 200,
) -> Tensor:
    """Solves M x = b for each image, M symmetric positive definite.

    An image that has converged no longer moves, so its answer does not depend on its neighbours.
    The last word has the recomputed residual b - M x, not the recursion's, which can drift away.
    Differentiable in ``b`` and in what ``matvec`` holds.

    Args:
        matvec: The map x -> M x, acting image by image.
        b: Right-hand sides, (B, ...).
        tolerance: Stop an image when ‖b - M x‖ <= tolerance * ‖b‖.
        max_iterations: Products with M allowed per image.

    Returns:
        Solutions, same shape as ``b``.

    Raises:
        RuntimeError: If the recomputed residual of an image is not small (above ten times
            ``tolerance`` plus rounding) or not a number.

    Source: Hestenes and Stiefel 1952.
    """
    x, r = torch.zeros_like(b), b.clone()
    p, rho, target = r.clone(), dot(b, b), tolerance * norm(b)
    active = rho.sqrt() > target
    for _ in range(max_iterations):
        if not bool(active.any()):
            break
        q = matvec(p)
        alpha = _ratio(rho, dot(p, q), active)
        x = x + per_image(alpha, x) * p
        r = r - per_image(alpha, r) * q
        fresh = dot(r, r)
        active = active & (fresh.sqrt() > target)
        p = r + per_image(_ratio(fresh, rho, active), p) * p
        rho = fresh
    with torch.no_grad():
        _require_solved(norm(b - matvec(x)), norm(b), tolerance, max_iterations)
    return x


def _ratio(a: Tensor, b: Tensor, rows: Tensor) -> Tensor:
    # The inner choice keeps 0 / 0 of images at rest out of the gradient as well.
    return torch.where(rows, a / torch.where(rows, b, 1.0), 0.0)


def _require_solved(gap: Tensor, size: Tensor, tolerance: float, max_iterations: int) -> None:
    # Ten times the tolerance leaves room for the rounding of the recomputed residual.
    limit = 10 * tolerance + 50 * torch.finfo(gap.dtype).eps
    relative = float((gap / size.clamp_min(torch.finfo(gap.dtype).tiny)).max())
    if not relative <= limit:  # also refuses NaN
        raise RuntimeError(
            f"conjugate gradients ended with a relative residual of {relative:.1e}, above "
            f"{limit:.1e}, within {max_iterations} iterations; raise the damping lam, and check "
            "that the right-hand side is finite and the adjoint exact"
        )
