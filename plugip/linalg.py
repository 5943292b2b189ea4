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


class UnsolvedError(RuntimeError):
    """Conjugate gradients ended before their tolerance.

    Attributes:
        solution: The iterates of least residual, (B, ...).
        residual: Their relative residuals ‖b - M x‖ / ‖b‖, (B,), recomputed.
    """

    def __init__(self, message: str, solution: Tensor, residual: Tensor) -> None:
        super().__init__(message)
        self.solution, self.residual = solution, residual


def products_for(lam: float | Tensor) -> int | Tensor:
    """Returns how many iterations (A* A + lam I) x = b may take, from 200 to 4000.

    The number that is needed grows like the root of the condition number, at most (1 + lam) / lam
    for operators of norm 1. Where that asks for more than 4000, rounding spoils them as well, and
    200 decide whether there is any hope.

    Args:
        lam: Damping, a number or one per image.

    Returns:
        As many numbers as ``lam`` has, (B,) or one.
    """
    if not isinstance(lam, Tensor):
        wanted = int(8 / lam**0.5)
        return max(wanted, 200) if wanted <= 4000 else 200
    wanted = 8 / lam.detach().flatten().sqrt()
    return torch.where(wanted <= 4000, wanted, 200.0).long().clamp_min(200)


def conjugate_gradient(
    matvec: Callable[[Tensor], Tensor],
    b: Tensor,
    *,
    tolerance: float = 1e-6,
    max_iterations: int | Tensor = 200,
) -> Tensor:
    """Solves M x = b for each image, M symmetric positive definite.

    An image that has converged no longer moves, so its answer does not depend on its neighbours.
    The last word has the recomputed residual b - M x, not the recursion's, which can drift away.
    Differentiable in ``b`` and in what ``matvec`` holds.

    Args:
        matvec: The map x -> M x, acting image by image.
        b: Right-hand sides, (B, ...).
        tolerance: Stop an image when ‖b - M x‖ <= tolerance * ‖b‖.
        max_iterations: Products with M allowed per image; one number, or one for each, (B,).

    Returns:
        Solutions, same shape as ``b``.

    Raises:
        UnsolvedError: If the recomputed residual of an image is not small (above ten times
            ``tolerance`` plus rounding) or not a number; it carries what was reached.

    Source: Hestenes and Stiefel 1952.
    """
    x, r = torch.zeros_like(b), b.clone()
    p, rho, target = r.clone(), dot(b, b), tolerance * norm(b)
    active = rho.sqrt() > target
    best, least = x, rho
    allowed = torch.as_tensor(max_iterations, device=rho.device).expand_as(rho)
    most = max_iterations if isinstance(max_iterations, int) else int(allowed.max())
    for spent in range(most):
        active = active & (spent < allowed)
        if not bool(active.any()):
            break
        q = matvec(p)
        alpha = _ratio(rho, dot(p, q), active)
        x = x + per_image(alpha, x) * p
        r = r - per_image(alpha, r) * q
        fresh = dot(r, r)
        # Residuals rise and fall on their way; what is best is kept for where they do not arrive.
        best, least = where(fresh < least, x, best).detach(), torch.minimum(fresh, least).detach()
        active = active & (fresh.sqrt() > target)
        p = r + per_image(_ratio(fresh, rho, active), p) * p
        rho = fresh
    with torch.no_grad():
        left = norm(b - matvec(x)) / _size(b)
        # Ten times the tolerance leaves room for the rounding of the recomputed residual.
        limit = 10 * tolerance + 50 * torch.finfo(left.dtype).eps
        worst = float(left.max())
        if not worst <= limit:  # also refuses NaN
            told = left if torch.equal(best, x) else norm(b - matvec(best)) / _size(b)
            raise UnsolvedError(
                f"conjugate gradients ended with a relative residual of {worst:.1e}, above "
                f"{limit:.1e}, within {most} iterations; raise the damping lam, and check that "
                "the right-hand side is finite and the adjoint exact",
                best,
                told,
            )
    return x


def _ratio(a: Tensor, b: Tensor, rows: Tensor) -> Tensor:
    # The inner choice keeps 0 / 0 of images at rest out of the gradient as well.
    return torch.where(rows, a / torch.where(rows, b, 1.0), 0.0)


def _size(b: Tensor) -> Tensor:
    return norm(b).clamp_min(torch.finfo(b.real.dtype).tiny)
