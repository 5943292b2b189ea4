"""Strategies and laws of the property tests: hypothesis drives sizes, options and values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor
from toys import close, normal

from plugip.linalg import dot, norm
from plugip.operator import LinearOperator, SpectralOperator

sides = st.integers(1, 9)
channels = st.integers(1, 3)
batches = st.integers(1, 3)
numbers = st.floats(-1, 1, allow_subnormal=False)


def values(draw: st.DrawFn, *shape: int, least: float = -1, most: float = 1) -> Tensor:
    """Images whose pixels are chosen by hypothesis, float64."""
    pixels = st.floats(least, most, allow_subnormal=False)
    return torch.from_numpy(draw(arrays.arrays(np.float64, shape, elements=pixels)))


def bits(draw: st.DrawFn, *shape: int) -> Tensor:
    """Masks whose entries are chosen by hypothesis; each image's has a 1."""
    mask = torch.from_numpy(draw(arrays.arrays(np.bool_, shape))).double()
    mask.flatten(1)[:, draw(st.integers(0, mask[0].numel() - 1))] = 1.0
    return mask


def images(draw: st.DrawFn, h: int, w: int) -> Tensor:
    """A batch of images of this size, (B, C, h, w)."""
    return values(draw, draw(batches), draw(channels), h, w)


def one_of(draw: st.DrawFn, options: Sequence):
    return draw(st.sampled_from(list(options)))


def laws(A: LinearOperator, x: Tensor, tolerance: float = 1e-9) -> Tensor:
    """Checks superposition, the adjoint and, where it is known, the SVD; returns A x."""
    y, other = A(x), normal(*x.shape, dtype=x.dtype)
    w = normal(*y.shape, 2, seed=1)
    w = torch.view_as_complex(w) if y.is_complex() else w[..., 0]
    assert A.measurement_shape(tuple(x.shape)) == tuple(y.shape)
    close(A(2 * x - other), 2 * y - A(other), tolerance)
    back = A.adjoint(w)
    assert back.shape == x.shape and back.dtype == x.dtype
    gap = (dot(y, w) - dot(x, back)).abs()
    assert bool((gap <= tolerance * (1 + norm(y) * norm(w))).all())
    if isinstance(A, SpectralOperator):
        spectral_laws(A, x, y, tolerance)
    return y


def spectral_laws(A: SpectralOperator, x: Tensor, y: Tensor, tolerance: float) -> None:
    """Checks A = U s V* and that the damped solve is its closed form, one damping per image."""
    a = A.spectrum(tuple(x.shape)).to(x)
    close(a.V(a.Vt(x)), x, tolerance)
    close(a.U(a.s * a.Vt(x)), y, tolerance)
    lam = torch.linspace(0.2, 2.0, x.shape[0], dtype=x.dtype)
    solved = A.solve_normal(x, lam)
    close(A.normal(solved) + lam.reshape(-1, *[1] * (x.ndim - 1)) * solved, x, tolerance)
    seen = A.pinv(y)
    close(A.pinv(A(seen)), seen, 1e3 * tolerance)
