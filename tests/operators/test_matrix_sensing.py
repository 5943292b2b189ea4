import copy

import pytest
import torch

from plugip.linalg import conjugate_gradient
from plugip.operators.matrix_sensing import BlockSensing, DenseSensing
from plugip.operators.sensing_samplers import GaussianMatrix, OrthonormalRows
from plugip.rng import Rng
from plugip.testing import check_operator

SHAPE = (2, 3, 6, 4)


def streams(*ids):
    return Rng(0, "operator", ids or ("a", "b"))


CASES = [
    (DenseSensing(GaussianMatrix(0.4)), (2, 3, 6, 5)),
    (DenseSensing(GaussianMatrix(0.4, shared=False)), (2, 3, 5, 7)),
    (DenseSensing(GaussianMatrix(1.0)), (2, 1, 3, 3)),
    (BlockSensing(OrthonormalRows(0.4), 3), (2, 3, 6, 9)),
    (BlockSensing(OrthonormalRows(0.5, shared=False), 4), (2, 3, 4, 8)),
    (BlockSensing(OrthonormalRows(1.0), 2), (2, 1, 6, 2)),
]


@pytest.mark.parametrize(("operator", "shape"), CASES)
def test_is_a_spectral_operator(tools, operator, shape):
    check_operator(operator, shape).require()
    A = operator.realise(streams(), shape)
    tools.adjoint(A, shape)
    tools.adjoint(A, shape, 1e-5, torch.float32)
    lam = torch.tensor([0.1, 2.0], dtype=torch.float64)
    x = tools.normal(*shape)
    solved = A.solve_normal(x, lam)
    tools.close(A.normal(solved) + lam[:, None, None, None] * solved, x, 1e-9)
    a, y = A.spectrum(shape).to(x), A(x)
    tools.close(a.U(a.s * a.Vt(x)), y, 1e-10)
    tools.close(a.V(a.s * a.Ut(y)), A.adjoint(y), 1e-10)
    tools.close(a.U(a.Ut(y)), y, 1e-10)
    tools.penrose(A, shape)
    tools.split(A, shape)
    assert operator.measurement_shape(shape) == A.measurement_shape(shape) == tuple(y.shape)


def test_dense_is_a_matrix_product(tools):
    M, x = tools.normal(5, 24), tools.normal(*SHAPE)
    A = DenseSensing(M, (6, 4))
    tools.close(A(x)[1, 2], M @ x[1, 2].flatten(), 1e-12)
    tools.close(A.pinv(A(x))[1, 2].flatten(), torch.linalg.pinv(M) @ A(x)[1, 2], 1e-10)
    tools.close(
        A.solve_normal(x, 0.3),
        conjugate_gradient(lambda v: A.normal(v) + 0.3 * v, x, tolerance=1e-10),
        1e-8,
    )


def test_block_layout(tools):
    Q = torch.linalg.qr(tools.normal(4, 4)).Q[:3]
    A, x = BlockSensing(Q, 2), tools.normal(1, 2, 4, 6)
    y = A(x)
    assert y.shape == (1, 6, 2, 3)
    tools.close(y[0, 3:, 1, 2], Q @ x[0, 1, 2:4, 4:6].flatten(), 1e-12)
    assert A.domain_shape((1, 6, 2, 3)) == (1, 2, 4, 6)


@pytest.mark.parametrize("shared", [True, False])
def test_draws_do_not_depend_on_the_batch(tools, shared):
    for sampler in (GaussianMatrix(0.4, shared), OrthonormalRows(0.4, shared)):
        both, alone = sampler.draw(streams("a", "b"), 20), sampler.draw(streams("b"), 20)
        assert both.shape == (1 if shared else 2, 8, 20)
        assert torch.equal(both[-1], alone[0])
        assert not torch.equal(alone, sampler.draw(Rng(1, "operator", ["b"]), 20))
    A = DenseSensing(GaussianMatrix(0.4, shared)).realise(streams("a", "b"), SHAPE)
    x = tools.normal(*SHAPE)
    tools.close(A.select([1])(x[1:]), A(x)[1:], 1e-12)


def test_laws_of_the_matrices(tools):
    M = GaussianMatrix(0.5).draw(streams(), 600)[0].double()
    assert float(M.square().sum(1).mean()) == pytest.approx(600 / 300, rel=0.05)
    assert abs(float(M.mean())) < 4 / (300 * (300 * 600) ** 0.5) ** 0.5
    Q = OrthonormalRows(0.4).draw(streams(), 50)[0]
    assert Q.dtype == torch.float64 and Q.shape == (20, 50)
    tools.close(Q @ Q.mT, torch.eye(20, dtype=torch.float64), 1e-12)
    # Without the signs of R, LAPACK's rows would lean to one side.
    first = torch.stack(
        [OrthonormalRows(0.5).draw(Rng(i, "x", ["a"]), 2)[0, 0, 0] for i in range(99)]
    )
    assert 30 < int((first > 0).sum()) < 70


def test_svd_is_made_once_and_follows_the_matrix(tools, monkeypatch):
    calls, svd = [], torch.linalg.svd
    monkeypatch.setattr(torch.linalg, "svd", lambda *a, **k: calls.append(1) or svd(*a, **k))
    A = DenseSensing(tools.normal(5, 24), (6, 4))
    y = tools.normal(1, 3, 5)
    with torch.inference_mode():
        before = A.pinv(y)
    leaf = tools.normal(1, 3, 6, 4).requires_grad_()
    A.solve_normal(leaf, 0.1).sum().backward()
    assert len(calls) == 1
    A.matrix.mul_(2)
    tools.close(A.pinv(y), before / 2, 1e-10)
    assert len(calls) == 2
    tools.close(copy.deepcopy(A).pinv(y), before / 2, 1e-10)


def test_gradients(tools):
    for operator, shape in CASES[::3]:
        A = operator.realise(streams(), shape)
        assert torch.autograd.gradcheck(A, tools.normal(*shape).requires_grad_())


def test_dense_errors(tools):
    M = tools.normal(3, 24)
    with pytest.raises(ValueError, match=r"with m <= n, got torch.float64 of shape \(24, 3\)"):
        DenseSensing(M.mT)
    with pytest.raises(TypeError, match=r"sampler such as GaussianMatrix.* got float"):
        DenseSensing(0.25)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="matrix has 24 columns, but images of 5 x 5 have 25"):
        DenseSensing(M)(torch.zeros(1, 1, 5, 5).double())
    with pytest.raises(ValueError, match=r"built for images of .6, 4. pixels, got .4, 6."):
        DenseSensing(M, (6, 4))(torch.zeros(1, 1, 4, 6).double())
    with pytest.raises(ValueError, match="size of the images cannot be read from y"):
        DenseSensing(M).adjoint(torch.zeros(1, 1, 3).double())
    with pytest.raises(ValueError, match=r"have shape \(B, C, 3\), got \(1, 1, 4\)"):
        DenseSensing(M, (6, 4)).adjoint(torch.zeros(1, 1, 4).double())
    with pytest.raises(RuntimeError, match=r"no matrix yet.*GaussianMatrix.*realise\(rng"):
        DenseSensing(GaussianMatrix())(torch.zeros(1, 1, 4, 4))
    with pytest.raises(ValueError, match="dense matrix for 16384 pixels is too large, at most"):
        DenseSensing(GaussianMatrix()).realise(streams(), (2, 3, 128, 128))
    with pytest.raises(ValueError, match="matrices were drawn for 2 images, got 3"):
        DenseSensing(tools.normal(2, 3, 24))(torch.zeros(3, 1, 6, 4).double())


def test_block_errors(tools):
    with pytest.raises(ValueError, match=r"rows of the matrix must be orthonormal, .* off by"):
        BlockSensing(tools.normal(3, 16), 4)
    with pytest.raises(ValueError, match="rows of 16 numbers do not fit blocks of 9 pixels"):
        BlockSensing(torch.eye(16)[:4], 3)
    with pytest.raises(ValueError, match="6 x 4 pixels cannot be divided by 4"):
        BlockSensing(torch.eye(16)[:4], 4)(torch.zeros(1, 1, 6, 4))
    with pytest.raises(ValueError, match=r"shape \(B, C \* 4, H / 4, W / 4\), got \(1, 3, 2, 2\)"):
        BlockSensing(torch.eye(16)[:4], 4).adjoint(torch.zeros(1, 3, 2, 2))
    with pytest.raises(RuntimeError, match=r"BlockSensing has no matrix yet.*realise"):
        BlockSensing(OrthonormalRows(), 4)(torch.zeros(1, 1, 4, 4))
    with pytest.raises(ValueError, match="block must be a whole number, at least 1, got 0"):
        BlockSensing(OrthonormalRows(), 0)
    with pytest.raises(ValueError, match=r"keep must lie in \(0, 1\], got 0"):
        OrthonormalRows(0)
