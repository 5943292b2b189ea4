import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plugip.linalg import conjugate_gradient
from plugip.operator import SpectralOperator
from plugip.operators import BicubicDownsample
from plugip.operators.blur_downsample import (
    BicubicKernel,
    BlurDownsample,
    CircularBlurDownsample,
)
from plugip.operators.kernels import MotionKernel
from plugip.rng import Rng
from plugip.testing import check_operator

BOUNDARIES = ["reflect", "symmetric", "replicate", "zero", "circular"]


def pnp_flow():
    return CircularBlurDownsample(BicubicKernel(4), 4, flip=True, origin=8)


def diffpir(flip=True):
    i = torch.arange(5, dtype=torch.float64)
    k = (5 * i[:, None] + i).square() + 1
    return BlurDownsample(k / k.sum(), 2, "circular", flip)


def test_golden(tools):
    cases = tools.golden("linear_small")["cases"]
    x = tools.hash_image(1, 3, 16, 16)
    # PnP-Flow's taps are float32.
    tools.case(pnp_flow()(x), cases["circ_bicubic_subsample_16_x4"], 2e-7)
    tools.case(pnp_flow()(x.float()), cases["circ_bicubic_subsample_16_x4"], 1e-5)
    tools.case(diffpir()(x[:, :1]), cases["diffpir_classical_16_x2"])
    assert not torch.allclose(diffpir(flip=False)(x), diffpir()(x), atol=0.1)


@pytest.mark.parametrize("factor", [2, 4])
def test_symmetric_boundary_is_bicubic_reduction(tools, factor):
    A = BlurDownsample(BicubicKernel(factor), factor, "symmetric", origin=3 * factor // 2)
    x = tools.normal(2, 3, 24, 32)
    tools.close(A(x), BicubicDownsample(factor)(x), 1e-12)


@pytest.mark.parametrize("offset", ["upper-left", "centre"])
@pytest.mark.parametrize(
    ("factor", "size"), [(1, (5, 6)), (2, (8, 10)), (3, (9, 15)), (4, (12, 8))]
)
def test_circular_is_spectral(tools, factor, size, offset):
    k, shape = tools.normal(5, 4), (2, 3, *size)
    A = BlurDownsample(k, factor, "circular", origin=(0, 3), offset=offset)
    check_operator(A, shape).require()
    tools.adjoint(A, shape)
    tools.adjoint(A, shape, 1e-4, torch.float32)
    tools.spectrum(A, shape)
    tools.penrose(A, shape, 1e-8)


def test_kernels_with_zeros_in_their_spectrum(tools):
    box = torch.full((4, 4), 1 / 16, dtype=torch.float64)  # its transfer has exact zeros
    A = BlurDownsample(box, 2, "circular", origin=0)
    check_operator(A, (2, 2, 8, 12)).require()
    # Taps that differ in sign cancel: whole groups of aliases vanish.
    B = CircularBlurDownsample(torch.tensor([[1.0, 0, -1.0]]).double(), 2)
    check_operator(B, (2, 2, 8, 12)).require()
    tools.spectrum(B, (2, 2, 8, 12))
    tools.penrose(B, (2, 2, 8, 12))
    assert B.spectrum((1, 1, 8, 12)).s.isfinite().all()


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_other_boundaries_are_linear(tools, boundary):
    k = tools.normal(2, 3, 4)
    A = BlurDownsample(k, 2, boundary, origin=(2, 1), offset="centre")
    assert isinstance(A, SpectralOperator) == (boundary == "circular")
    check_operator(A, (2, 3, 6, 10)).require()
    tools.adjoint(A, (2, 3, 6, 10))


def test_inside_all_boundaries_agree(tools):
    k, x = tools.normal(5, 5), tools.normal(1, 2, 24, 20)
    inner = [BlurDownsample(k, 2, boundary)(x)[..., 2:-2, 2:-2] for boundary in BOUNDARIES]
    for other in inner[1:]:
        tools.close(inner[0], other, 1e-12)
    valid = BlurDownsample(k, 2, "valid")(x)
    tools.close(valid[..., 1:-1, 1:-1], inner[0], 1e-12)


def test_pinv_is_the_dense_pseudo_inverse(tools):
    A = CircularBlurDownsample(tools.normal(3, 3), 2, offset="centre")
    A.rcond = 1e-9
    eye = torch.eye(48, dtype=torch.float64).reshape(48, 1, 6, 8)
    dense = A(eye).flatten(1).mT
    y = tools.normal(1, 1, 3, 4)
    tools.close(A.pinv(y).flatten(), torch.linalg.pinv(dense) @ y.flatten(), 1e-10)
    s = A.spectrum((1, 1, 6, 8)).s.flatten().sort(descending=True).values[:12]
    tools.close(s, torch.linalg.svdvals(dense), 1e-12)


def test_pinv_drops_what_the_spectral_one_drops(tools):
    A, y = CircularBlurDownsample(tools.normal(2, 3, 3), 2), tools.normal(2, 1, 6, 8)
    A.rcond = 0.5
    tools.close(A.pinv(y), SpectralOperator.pinv(A, y), 1e-10)
    assert not torch.allclose(A(A.pinv(y)), y)


def test_closed_solve_agrees_with_conjugate_gradients(tools):
    A, b = pnp_flow(), tools.normal(2, 1, 16, 16)
    solved = conjugate_gradient(lambda v: A.normal(v) + 0.1 * v, b, tolerance=1e-9)
    tools.close(A.solve_normal(b, 0.1), solved, 1e-7)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(2, 4), st.integers(2, 4), st.data())
def test_any_size_and_origin(rows, columns, factor, cells, data):
    origin = (data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, columns - 1)))
    k = torch.rand(rows, columns, dtype=torch.float64) + 0.1
    x = torch.randn(2, 1, factor * cells, factor * (cells + 1), dtype=torch.float64)
    A = BlurDownsample(k, factor, "circular", origin=origin)
    direct = torch.zeros_like(x)
    for i in range(rows):
        for j in range(columns):
            direct += k[i, j] * x.roll((origin[0] - i, origin[1] - j), (-2, -1))
    if rows > x.shape[-2] or columns > x.shape[-1]:
        return
    torch.testing.assert_close(A(x), direct[..., ::factor, ::factor], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(A(A.pinv(A(x))), A(x), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("boundary", ["circular", "reflect"])
def test_one_kernel_per_image(tools, boundary):
    A = BlurDownsample(MotionKernel(5), 2, boundary)
    x, ids = tools.normal(2, 3, 8, 10), ["a", "b"]
    fixed = A.realise(Rng(0, "operator", ids), (2, 3, 8, 10))
    alone = A.realise(Rng(0, "operator", ["b"]), (1, 3, 8, 10))
    assert type(fixed) is type(A) is type(copy.deepcopy(fixed))
    tools.close(fixed(x)[1:], alone(x[1:]), 1e-12)
    tools.close(fixed.select([1])(x[1:]), alone(x[1:]), 1e-12)
    assert not torch.allclose(
        fixed(x[:1].expand(2, -1, -1, -1))[0], fixed(x[:1].repeat(2, 1, 1, 1))[1]
    )
    tools.split(fixed, (2, 3, 8, 10))


def test_copies_keep_their_type():
    for boundary, kind in (("circular", CircularBlurDownsample), ("zero", BlurDownsample)):
        A = BlurDownsample(torch.ones(3, 3), 2, boundary)
        assert type(A) is type(copy.copy(A)) is type(copy.deepcopy(A)) is kind


def test_gradients(tools):
    x, k = tools.normal(1, 1, 6, 8).requires_grad_(), tools.normal(3, 3).requires_grad_()
    for boundary in ("circular", "reflect"):
        assert torch.autograd.gradcheck(lambda x, k: BlurDownsample(k, 2, boundary)(x), (x, k))  # noqa: B023


def test_errors():
    k = torch.ones(4, 3)
    with pytest.raises(ValueError, match=r"4 x 3 taps has no middle .*origin=\("):
        BlurDownsample(k)
    with pytest.raises(ValueError, match="origin must be a tap of the kernel of 4 x 3"):
        BlurDownsample(k, origin=(4, 0))
    with pytest.raises(TypeError, match="kernel must be a tensor"):
        BlurDownsample("bicubic")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"unknown boundary 'circle'.*did you mean 'circular'"):
        BlurDownsample(torch.ones(3, 3), 2, "circle")
    with pytest.raises(ValueError, match="9 x 8 pixels cannot be divided by 2"):
        BlurDownsample(torch.ones(3, 3), 2)(torch.zeros(1, 3, 9, 8))
    with pytest.raises(ValueError, match="a kernel of 9 taps does not fit an image that is 8"):
        BlurDownsample(torch.ones(9, 9), 2)(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="factor must be a whole number, at least 1, got 0"):
        BicubicKernel(0)
    with pytest.raises(ValueError, match="is circular, got boundary 'zero'; use BlurDownsample"):
        CircularBlurDownsample(torch.ones(3, 3), 2, "zero")
    reflect = BlurDownsample(torch.ones(3, 3), 2, "reflect")
    with pytest.raises(TypeError, match="BlurDownsample has no closed-form pseudo-inverse"):
        reflect.pinv(torch.zeros(1, 1, 4, 4))
    with pytest.raises(RuntimeError, match=r"draws one .*realise\(rng, x.shape\)"):
        BlurDownsample(MotionKernel(5), 2)(torch.zeros(1, 1, 8, 8))
