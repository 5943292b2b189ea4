import pytest
import torch
from kornia.color import rgb_to_grayscale

from plugip.operators.grayscale import WEIGHTS, Grayscale
from plugip.testing import check_operator


def test_golden(tools):
    cases = tools.golden("linear_small")["cases"]
    tools.case(Grayscale("ddrm")(tools.hash_image(1, 3, 4, 4)), cases["color_ddrm_4"])
    tools.case(Grayscale("ddrm").pinv(tools.hash_image(1, 1, 4, 4)), cases["color_pinv"])
    single = tools.hash_image(1, 3, 4, 4, dtype=torch.float32)
    tools.case(Grayscale("ddrm")(single), cases["color_ddrm_4"], 1e-5)


def test_rec601_is_kornias_grey(tools):
    x = tools.normal(2, 3, 5, 6)
    tools.close(Grayscale()(x), rgb_to_grayscale(x), 1e-14)


@pytest.mark.parametrize("weights", ["rec601", "ddrm", (0.25, 0.75), (1.0,), (0.5, 0.5, 0.0, 0.0)])
@pytest.mark.parametrize("size", [(5, 7), (8, 6)])
def test_is_a_spectral_operator(tools, weights, size):
    A = Grayscale(weights)
    shape = (2, len(A.weights), *size)
    check_operator(A, shape).require()
    tools.adjoint(A, shape)
    tools.adjoint(A, shape, 1e-5, torch.float32)
    tools.spectrum(A, shape)
    tools.penrose(A, shape)


def test_known_answers(tools):
    for name, weights in WEIGHTS.items():
        A = Grayscale(name)
        assert sum(weights) == pytest.approx(1, abs=1e-12)
        tools.close(
            A(torch.full((1, 3, 2, 2), 0.7).double()), torch.full((1, 1, 2, 2), 0.7).double()
        )
        y = tools.normal(1, 1, 2, 2)
        tools.close(A(A.pinv(y)), y, 1e-12)
    s = Grayscale("ddrm").spectrum((1, 3, 2, 2)).s.flatten()
    assert s.tolist() == pytest.approx([0.57735, 0, 0], abs=1e-5)


def test_device_and_dtype_follow_the_image(tools):
    for dtype in (torch.float32, torch.float64):
        x = tools.normal(1, 3, 4, 4, dtype=dtype)
        A = Grayscale()
        assert A(x).dtype == A.pinv(A(x)).dtype == A.solve_normal(x, 0.1).dtype == dtype
    with torch.inference_mode():
        Grayscale((0.1, 0.2, 0.7))(x)
    leaf = x.clone().requires_grad_()
    Grayscale((0.1, 0.2, 0.7))(leaf).sum().backward()
    assert torch.autograd.gradcheck(Grayscale(), tools.normal(1, 3, 2, 2).requires_grad_())


def test_errors():
    with pytest.raises(ValueError, match=r"unknown weights 'rec602'.*did you mean 'rec601'"):
        Grayscale("rec602")
    for wrong in ((0.5, 0.6), (1.5, -0.5), (), ("a", "b")):
        with pytest.raises(ValueError, match="one per channel, not negative and with sum 1, got"):
            Grayscale(wrong)  # pyright: ignore[reportArgumentType]
    for shape in ((1, 1, 4, 4), (1, 4, 4, 4)):
        with pytest.raises(ValueError, match=r"weighs 3 channels, .*must be \(B, 3, H, W\)"):
            Grayscale()(torch.zeros(shape))
    with pytest.raises(ValueError, match=r"shape \(B, 1, H, W\), got \(1, 3, 4, 4\)"):
        Grayscale().adjoint(torch.zeros(1, 3, 4, 4))
