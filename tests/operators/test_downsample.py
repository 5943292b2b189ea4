import copy

import pytest
import torch

from plugip.operators import BicubicDownsample
from plugip.operators.downsample import BicubicRows

SIZES = {
    "resizer_8_x2": (8, 2),
    "resizer_16_x4": (16, 4),
    "resizer_24_x3": (24, 3),
    "resizer_32_x8": (32, 8),
    "resizer_48_x12": (48, 12),
    "resizer_256_x4": (256, 4),
    "resizer_30_x4": (30, 4),
}
# The reference rounds its weights to float32, which shows where they are no dyadic fractions.
ROUNDED = {"resizer_24_x3", "resizer_48_x12"}


@pytest.mark.parametrize("name", SIZES)
def test_golden_resizer(tools, name):
    side, factor = SIZES[name]
    y = BicubicDownsample(factor)(tools.hash_image(1, 3, side, side))
    tools.case(y, tools.golden("sr_bicubic")["cases"][name], 1e-7 if name in ROUNDED else 1e-8)


def test_golden_resizer_in_single_precision(tools):
    y = BicubicDownsample(4)(tools.hash_image(1, 3, 256, 256, dtype=torch.float32))
    assert y.dtype == torch.float32
    tools.case(y, tools.golden("sr_bicubic")["cases"]["resizer_256_x4"], 1e-5)


def test_golden_adjoint_and_pseudo_inverse(tools):
    y, cases = tools.hash_image(1, 1, 4, 4), tools.golden("sr_bicubic")["cases"]
    tools.case(BicubicDownsample(4).adjoint(y), cases["adjoint_16_x4"])
    tools.case(BicubicDownsample(4).pinv(y), cases["pinv_16_x4"])


def test_golden_weights(tools):
    rows = torch.from_numpy(BicubicRows(4).matrix(16))[:2]
    want = tools.golden("sr_bicubic")["weights_1d_N16_x4"]
    tools.close(rows, torch.tensor([want["row0"], want["row1"]], dtype=torch.float64), 1e-9)


@pytest.mark.parametrize(("side", "factor"), [(64, 2), (64, 4), (256, 4), (256, 8), (768, 12)])
def test_golden_singular_values(tools, side, factor):
    s = torch.linalg.svdvals(torch.from_numpy(BicubicRows(factor).matrix(side)))
    want = tools.golden("sr_bicubic")["singular_values_1d"][f"N{side}_x{factor}"]
    assert float(s[0]) == pytest.approx(want["max"], rel=1e-8)
    assert float(s[-1]) == pytest.approx(want["min"], rel=1e-8)


@pytest.mark.parametrize("size", [(16, 16), (12, 20), (14, 19), (4, 5)])
def test_is_a_linear_operator(tools, size):
    A, shape = BicubicDownsample(4, image_size=size), (2, 3, *size)
    tools.adjoint(A, shape)
    tools.adjoint(A, shape, 1e-5, torch.float32)
    tools.spectrum(A, shape)
    tools.penrose(A, shape)
    tools.split(A, shape)


def test_every_measurement_is_reachable(tools):
    y = tools.normal(2, 3, 4, 4)
    A = BicubicDownsample(4)
    tools.close(A(A.pinv(y)), y, 1e-12)


@pytest.mark.parametrize(("side", "factor"), [(16, 4), (30, 4), (24, 3), (5, 5), (8, 1)])
def test_constants_are_preserved(tools, side, factor):
    y = BicubicDownsample(factor)(torch.full((1, 3, side, side), 0.7, dtype=torch.float64))
    tools.close(y, torch.full_like(y, 0.7), 1e-14)


def test_gradients(tools):
    x = tools.normal(1, 1, 8, 9).requires_grad_()
    assert torch.autograd.gradcheck(BicubicDownsample(4), x)


def test_shapes_follow_the_image_size():
    assert BicubicDownsample(4).domain_shape((2, 3, 4, 5)) == (2, 3, 16, 20)
    assert BicubicDownsample(4, 30).domain_shape((2, 3, 8, 8)) == (2, 3, 30, 30)
    assert BicubicDownsample(4, 30).measurement_shape((2, 3, 30, 30)) == (2, 3, 8, 8)


def test_matrices_outlive_inference_mode_transforms_and_copies(tools):
    x = tools.normal(1, 1, 20, 21, dtype=torch.float32)
    A = BicubicDownsample(3, (20, 21))
    with torch.inference_mode():
        y = A(x)
        A.pinv(y)
    torch.func.vjp(lambda v: A.pinv(A(v)), x.double())[1](x.double())
    for B in (A, copy.deepcopy(A), A.double()):
        z = x.double().requires_grad_()
        B.pinv(B(z)).sum().backward()
    assert A.state_dict() == {}
    tools.close(A.pinv(y.clone()).double(), B.pinv(B(x.double())), 1e-4)


def test_errors():
    with pytest.raises(ValueError, match="factor must be a whole number, at least 1, got 0"):
        BicubicDownsample(0)
    with pytest.raises(ValueError, match="image_size must be one positive whole number or two"):
        BicubicDownsample(4, (8, 8, 8))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="images of 3 x 9 pixels are too small"):
        BicubicDownsample(4)(torch.zeros(1, 3, 3, 9))
    with pytest.raises(ValueError, match="built for images of 64 x 64 pixels, got 32 x 32"):
        BicubicDownsample(4, 64)(torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match="give measurements of 16 x 16, got 8 x 8"):
        BicubicDownsample(4, 64).pinv(torch.zeros(1, 3, 8, 8))
