"""Tools of the operator tests: golden cases, integer-hash images, and the laws of linear maps."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import settings

from plugip.linalg import dot, norm

GOLDEN = Path(__file__).resolve().parents[1] / "golden"

# The same examples on every run, and no complaint about a slow machine.
settings.register_profile("operators", derandomize=True, deadline=None)
settings.load_profile("operators")


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


def hash_image(*shape, dtype=torch.float64):
    """x[b, c, h, w] = ((131 b + 71 c + 37 h + 17 w + 7 h w) mod 101) / 50 - 1."""
    b, c, h, w = torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij")
    return (((131 * b + 71 * c + 37 * h + 17 * w + 7 * h * w) % 101).double() / 50 - 1).to(dtype)


def golden(name):
    """One golden file, its cases by id."""
    data = json.loads((GOLDEN / f"{name}.json").read_text("utf-8"))
    return data | {"cases": {case["id"]: case for case in data["cases"]}}


def check_case(value, case, tolerance=1e-8):
    """Compares a tensor with the figures of a golden case, relative to the tensor's norm."""
    flat = value.detach().double().flatten()
    weights = ((29 * torch.arange(flat.numel()) + 13) % 97).double() / 97
    assert list(value.shape) == case["shape"]
    scale = case["l2"] * flat.numel() ** 0.5  # no sum can be larger
    assert float(flat.sum()) == pytest.approx(case["sum"], abs=tolerance * scale)
    assert float((weights * flat).sum()) == pytest.approx(case["wsum"], abs=tolerance * scale)
    assert float(flat.norm()) == pytest.approx(case["l2"], rel=tolerance)
    for key in {"head", "full"} & set(case):
        want = torch.tensor(case[key], dtype=torch.float64)
        # Ten digits are given.
        torch.testing.assert_close(flat[: want.numel()], want, rtol=tolerance, atol=tolerance)


def close(a, b, tolerance=1e-10):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def check_adjoint(A, x_shape, tolerance=1e-10, dtype=torch.float64):
    """|<A x, y> - <x, A* y>| <= tolerance ‖x‖ ‖y‖, and A* is the vector-Jacobian product."""
    x = normal(*x_shape, dtype=dtype)
    y = normal(*A.measurement_shape(x_shape), seed=1, dtype=dtype)
    gap = (dot(A(x), y) - dot(x, A.adjoint(y))).abs()
    assert bool((gap <= tolerance * norm(x) * norm(y)).all())
    vjp = torch.func.vjp(A, x)[1]
    close(vjp(y)[0], A.adjoint(y), tolerance * 100)


def check_spectrum(A, x_shape, tolerance=1e-10):
    """A = U diag(s) V*, with orthonormal U and V, and (A*A + lam) solved in closed form."""
    x, y = normal(*x_shape), normal(*A.measurement_shape(x_shape), seed=1)
    a = A.spectrum(x_shape).to(x)
    close(a.U(a.s * a.Vt(x)), A(x), tolerance)
    close(a.V(a.s * a.Ut(y)), A.adjoint(y), tolerance)
    close(a.V(a.Vt(x)), x, tolerance)
    close(a.U(a.Ut(y)), y, tolerance)
    lam = torch.tensor([0.1 * (i + 1) for i in range(x_shape[0])], dtype=torch.float64)
    solved = A.solve_normal(x, lam)
    close(A.normal(solved) + lam[:, None, None, None] * solved, x, tolerance)


def check_penrose(A, x_shape, tolerance=1e-9):
    """The four identities that define the pseudo-inverse."""
    x, y = normal(*x_shape), normal(*A.measurement_shape(x_shape), seed=1)
    v, w = normal(*x_shape, seed=2), normal(*y.shape, seed=3)
    close(A(A.pinv(A(x))), A(x), tolerance)
    close(A.pinv(A(A.pinv(y))), A.pinv(y), tolerance)
    close(dot(A.pinv(A(x)), v), dot(x, A.pinv(A(v))), tolerance)
    close(dot(A(A.pinv(y)), w), dot(y, A(A.pinv(w))), tolerance)


def check_split(A, x_shape, tolerance=1e-12):
    """An image's measurement does not depend on its neighbours."""
    x = normal(*x_shape)
    rows = range(x_shape[0])
    alone = torch.cat([A.select([i])(x[i : i + 1]) for i in rows])
    close(A(x), alone, tolerance)


@pytest.fixture
def tools():
    """The functions above, for the test files of this folder."""
    return SimpleNamespace(
        hash_image=hash_image,
        golden=golden,
        case=check_case,
        close=close,
        normal=normal,
        adjoint=check_adjoint,
        spectrum=check_spectrum,
        penrose=check_penrose,
        split=check_split,
    )
