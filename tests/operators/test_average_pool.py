import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plugip.operators.average_pool import AveragePool
from plugip.testing import check_operator


def test_golden(tools):
    cases = tools.golden("linear_small")["cases"]
    tools.case(AveragePool(2)(tools.hash_image(1, 3, 8, 8)), cases["avgpool_8_x2"])
    y = tools.hash_image(1, 3, 4, 4)
    tools.case(AveragePool(2).adjoint(y), cases["avgpool_adj"])
    tools.case(AveragePool(2).pinv(y), cases["avgpool_pinv"])
    single = tools.hash_image(1, 3, 8, 8, dtype=torch.float32)
    tools.case(AveragePool(2)(single), cases["avgpool_8_x2"], 1e-5)


@pytest.mark.parametrize(
    ("factor", "size"), [(1, (5, 4)), (2, (8, 10)), (3, (9, 15)), (4, (4, 8))]
)
def test_is_a_spectral_operator(tools, factor, size):
    A, shape = AveragePool(factor), (2, 3, *size)
    check_operator(A, shape).require()
    tools.adjoint(A, shape)
    tools.adjoint(A, shape, 1e-5, torch.float32)
    tools.spectrum(A, shape)
    tools.penrose(A, shape)
    tools.split(A, shape)


def test_singular_values_are_constant(tools):
    s = AveragePool(4).spectrum((1, 1, 8, 12)).s
    tools.close(s[s > 1e-12], torch.full((6,), 0.25, dtype=torch.float64), 1e-14)
    assert s.shape == (8, 12)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 4))
def test_closed_solve_is_the_spectral_one(factor, rows, columns):
    A = AveragePool(factor)
    b = torch.randn(2, 1, factor * rows, factor * columns, dtype=torch.float64)
    lam = torch.tensor([0.02, 3.0], dtype=torch.float64)
    a = A.spectrum(tuple(b.shape)).to(b)
    want = a.V(a.Vt(b) / (a.s.square() + lam.reshape(2, 1, 1, 1)))
    torch.testing.assert_close(A.solve_normal(b, lam), want, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(A(A.pinv(A(b))), A(b))


def test_gradients(tools):
    x = tools.normal(1, 2, 4, 6).requires_grad_()
    assert torch.autograd.gradcheck(AveragePool(2), x)


def test_errors():
    with pytest.raises(ValueError, match="factor must be a whole number, at least 1, got 0"):
        AveragePool(0)
    for use in (AveragePool(4), AveragePool(4).measurement_shape, AveragePool(4).spectrum):
        what = torch.zeros(1, 3, 30, 8) if isinstance(use, AveragePool) else (1, 3, 30, 8)
        with pytest.raises(ValueError, match=r"30 x 8 pixels .* by 4 without a rest.* 28 x 8"):
            use(what)  # pyright: ignore[reportArgumentType]
