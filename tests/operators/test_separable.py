import numpy as np
import pytest
from toys import close, normal

from plugip.operators import GaussianBlur, UniformBlur
from plugip.operators.separable import BOUNDARIES, fold, toeplitz

NUMPY_MODES = {
    "reflect": "reflect",
    "symmetric": "symmetric",
    "replicate": "edge",
    "circular": "wrap",
}


@pytest.mark.parametrize("boundary", NUMPY_MODES)
@pytest.mark.parametrize("side", [2, 5, 8])
def test_fold_is_numpy_padding(boundary, side):
    x, margin = np.arange(side), 3 * side
    padded = np.pad(x, margin, mode=NUMPY_MODES[boundary])  # pyright: ignore
    assert (fold(np.arange(-margin, side + margin), side, boundary) == padded).all()


def test_zero_boundary_marks_outside():
    assert fold(np.arange(-2, 5), 3, "zero").tolist() == [-1, -1, 0, 1, 2, -1, -1]


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_toeplitz_correlates(boundary):
    taps, x = np.array([1.0, 2.0, 4.0]), np.array([3.0, 5.0, 7.0, 11.0])
    ends = {"zero": (0, 0), "reflect": (5, 7), "circular": (11, 3)}.get(boundary, (3, 11))
    want = np.correlate(np.array([ends[0], *x, ends[1]]), taps, "valid")
    assert np.allclose(toeplitz(taps, 4, boundary) @ x, want, rtol=1e-14)


def test_unknown_boundary():
    with pytest.raises(ValueError, match=r"unknown boundary 'reflct'.*did you mean 'reflect'"):
        fold(np.arange(3), 3, "reflct")


@pytest.mark.parametrize("boundary", ["circular", "zero", "reflect"])
@pytest.mark.parametrize("side", [128, 131])
def test_large_images_take_another_route_to_the_same_blur(boundary, side):
    x = normal(1, 2, side, side + 1)
    for operator in (GaussianBlur(2.0, 25, boundary), UniformBlur(9, boundary)):
        factors = operator.spectrum(tuple(x.shape)).to(x)
        close(operator(x), factors.U(factors.s * factors.Vt(x)), 1e-10)
        close(operator.adjoint(x), factors.V(factors.s * factors.Ut(x)), 1e-10)
