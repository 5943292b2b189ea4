import pytest
import torch

from plugip.operators import GaussianBlur
from plugip.operators.decimate import Decimate
from plugip.testing import check_operator


def test_golden(tools):
    case = tools.golden("linear_small")["cases"]["decimate_16_x4"]
    tools.case(Decimate(4)(tools.hash_image(1, 3, 16, 16)), case)
    tools.case(Decimate(4)(tools.hash_image(1, 3, 16, 16, dtype=torch.float32)), case, 1e-5)


@pytest.mark.parametrize("offset", ["upper-left", "centre"])
@pytest.mark.parametrize(
    ("factor", "size"), [(1, (5, 4)), (2, (8, 10)), (3, (9, 15)), (4, (4, 8))]
)
def test_is_a_spectral_operator(tools, factor, size, offset):
    A, shape = Decimate(factor, offset), (2, 3, *size)
    check_operator(A, shape).require()
    tools.adjoint(A, shape)
    tools.adjoint(A, shape, 1e-6, torch.float32)
    tools.spectrum(A, shape)
    tools.penrose(A, shape)


def test_keeps_the_right_pixels():
    x = torch.arange(36.0).reshape(1, 1, 6, 6)
    assert Decimate(3)(x).flatten().tolist() == [0, 3, 18, 21]
    assert Decimate(3, "centre")(x).flatten().tolist() == [7, 10, 25, 28]
    assert Decimate(2, "centre")(x).flatten().tolist() == Decimate(2)(x).flatten().tolist()


def test_measurement_is_a_copy():
    x = torch.ones(1, 1, 4, 4)
    Decimate(2)(x).zero_()
    Decimate(1)(x).zero_()
    assert bool((x == 1).all())


def test_decimation_after_a_blur(tools):
    A = Decimate(2) @ GaussianBlur(1.0, 5)
    check_operator(A, (2, 3, 8, 10)).require()


def test_errors():
    with pytest.raises(ValueError, match=r"factor must be a whole number, at least 1, got 1.5"):
        Decimate(1.5)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"unknown offset 'center'.*did you mean 'centre'"):
        Decimate(2, "center")
    with pytest.raises(ValueError, match="9 x 9 pixels cannot be divided by 2"):
        Decimate(2)(torch.zeros(1, 1, 9, 9))
