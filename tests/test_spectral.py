"""The three structured decompositions against dense matrices."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from toys import Fixed, close, normal

from plugip.linalg import dot
from plugip.spectral import DiagonalSpectrum, FourierSpectrum, KroneckerSpectrum, Spectrum


@dataclass(frozen=True)
class Case:
    """Factors, the dense matrix they stand for (of one channel), and the sizes."""

    spectrum: Spectrum
    matrix: Tensor
    size: tuple[int, int]
    y_size: tuple[int, int]


def diagonal(h: int, w: int) -> Case:
    s = normal(h, w).abs()
    s[0, 0], s[-1, 0] = 0, 1e-6
    return Case(DiagonalSpectrum(s), torch.diag(s.flatten()), (h, w), (h, w))


def kronecker(h: int, big_h: int, w: int, big_w: int) -> Case:
    left, right = normal(h, big_h), normal(w, big_w, seed=1)
    left[-1] *= 1e-5
    spectrum = KroneckerSpectrum.of(left, right)
    return Case(spectrum, torch.kron(left, right), (big_h, big_w), (h, w))


def fourier(h: int, w: int) -> Case:
    transfer = torch.fft.fft2(normal(h, w))
    transfer[0, 0] *= 1e-5
    kernel = torch.fft.ifft2(transfer).real
    # Column (i, j) of a circular convolution is the kernel moved to pixel (i, j).
    columns = [kernel.roll((i, j), (0, 1)).flatten() for i in range(h) for j in range(w)]
    matrix = torch.stack(columns, dim=1)
    return Case(FourierSpectrum.of(transfer), matrix, (h, w), (h, w))


CASES = {
    "diagonal 4x5": diagonal(4, 5),
    "kronecker 3x5 of 4x7": kronecker(3, 5, 4, 7),
    "kronecker square 4x4 of 6x6": kronecker(4, 4, 6, 6),
    "kronecker tall 6x4 of 5x3": kronecker(6, 4, 5, 3),
    "kronecker mixed 5x3 of 2x6": kronecker(5, 3, 2, 6),
    "fourier even 4x6": fourier(4, 6),
    "fourier odd 5x3": fourier(5, 3),
    "fourier mixed 4x5": fourier(4, 5),
}


@pytest.fixture(params=CASES.values(), ids=list(CASES))
def case(request: Any) -> Case:
    return request.param


def apply(matrix: Tensor, x: Tensor, size: tuple[int, int]) -> Tensor:
    """Applies a dense matrix to every channel of (B, C, H, W)."""
    return (x.flatten(2) @ matrix.T).unflatten(2, size)


def operator(case: Case, rcond: float = 1e-3) -> Fixed:
    return Fixed(case.spectrum, case.size, rcond)


def test_forward_is_the_matrix(case: Case):
    x = normal(3, 2, *case.size, seed=2)
    close(operator(case)(x), apply(case.matrix, x, case.y_size))


def test_adjoint_is_the_transpose(case: Case):
    y = normal(3, 2, *case.y_size, seed=3)
    close(operator(case).adjoint(y), apply(case.matrix.T, y, case.size))


def test_normal_is_the_product(case: Case):
    x = normal(2, 1, *case.size, seed=4)
    close(operator(case).normal(x), apply(case.matrix.T @ case.matrix, x, case.size))


@pytest.mark.parametrize("rcond", [1e-3, 0.3, 1e-12])
def test_pinv_drops_what_lies_below_rcond(case: Case, rcond: float):
    y = normal(2, 2, *case.y_size, seed=5)
    inverse = torch.linalg.pinv(case.matrix, rtol=rcond)
    scale = float(inverse.abs().max())  # up to 1e6 where tiny values are kept
    close(operator(case, rcond).pinv(y) / scale, apply(inverse, y, case.size) / scale, 1e-9)


@pytest.mark.parametrize("lam", [1e-3, 0.5, 100.0])
def test_solve_normal_is_the_dense_solve(case: Case, lam: float):
    b = normal(2, 2, *case.size, seed=6)
    n = case.matrix.shape[1]
    inverse = torch.linalg.inv(case.matrix.T @ case.matrix + lam * torch.eye(n).double())
    close(operator(case).solve_normal(b, lam), apply(inverse, b, case.size), 1e-8)


def test_solve_normal_takes_one_damping_per_image(case: Case):
    b, lam = normal(3, 2, *case.size, seed=7), torch.tensor([0.1, 1.0, 10.0])
    together = operator(case).solve_normal(b, lam)
    for i in range(3):
        close(together[i : i + 1], operator(case).solve_normal(b[i : i + 1], float(lam[i])), 1e-6)


def test_v_is_an_orthonormal_basis_of_the_images(case: Case):
    x = normal(2, 2, *case.size, seed=8)
    coefficients = case.spectrum.Vt(x)
    close(case.spectrum.V(coefficients), x)
    close(coefficients.abs().square().flatten(1).sum(1), dot(x, x))


def test_singular_values_are_those_of_the_matrix(case: Case):
    known = torch.linalg.svdvals(case.matrix)
    values = case.spectrum.s.flatten().sort(descending=True).values
    close(values[: len(known)], known)
    assert not values[len(known) :].any()  # what A does not see has s = 0


def test_factors_follow_the_precision_of_x(case: Case):
    x = normal(2, 2, *case.size)
    single = operator(case)(x.float())
    assert single.dtype == torch.float32
    close(single.double(), operator(case)(x), 1e-5)
    assert case.spectrum.s.dtype == torch.float64  # the master is as it was


@pytest.mark.parametrize("name", ["kronecker 3x5 of 4x7", "fourier odd 5x3"])
def test_factors_are_cast_once(name: str):
    spectrum, x = CASES[name].spectrum, torch.zeros(1)
    assert spectrum.to(x) is spectrum.to(x)
    assert spectrum.to(x) is not spectrum.to(x.double())


def test_factors_cast_in_inference_mode_serve_training():
    case = kronecker(2, 4, 3, 3)
    with torch.inference_mode():
        operator(case)(torch.zeros(1, 1, *case.size))
    x = torch.zeros(1, 1, *case.size, requires_grad=True)
    operator(case)(x).sum().backward()
    assert x.grad is not None


def test_factors_cast_inside_a_derivative_serve_outside_of_it():
    case = fourier(4, 4)
    x = normal(1, 1, 4, 4, dtype=torch.float32)
    first = torch.func.jvp(operator(case), (x,), (x,))
    again = torch.func.jvp(operator(case), (x,), (x,))
    for image in (*first, *again):
        close(image, operator(case)(x), 1e-6)


def test_pinv_cuts_each_image_by_its_own_largest_value():
    s = torch.tensor([1.0, 1e4]).reshape(2, 1, 1, 1).expand(2, 1, 2, 2).double()
    pinv = Fixed(DiagonalSpectrum(s), (2, 2)).pinv(torch.ones(2, 1, 2, 2).double())
    close(pinv, 1 / s)


def test_pinv_of_zero_is_zero():
    a = Fixed(DiagonalSpectrum(torch.zeros(2, 2)), (2, 2))
    assert not a.pinv(torch.ones(1, 1, 2, 2)).any()


def test_a_transfer_function_with_zeros_stays_finite():
    spectrum = FourierSpectrum.of(torch.zeros(3, 3, dtype=torch.complex128))
    a = Fixed(spectrum, (3, 3))
    x = normal(1, 1, 3, 3)
    for image in (a(x), a.pinv(x), a.adjoint(x)):
        assert not image.any()
    close(a.solve_normal(x, 0.5), 2 * x)


def test_one_transfer_function_per_image():
    kernels = normal(2, 1, 4, 4)
    a = Fixed(FourierSpectrum.of(torch.fft.fft2(kernels)), (4, 4))
    x = normal(2, 3, 4, 4, seed=1)
    for i in range(2):
        one = Fixed(FourierSpectrum.of(torch.fft.fft2(kernels[i])), (4, 4))
        close(a(x)[i : i + 1], one(x[i : i + 1]))
        close(a.pinv(x)[i : i + 1], one.pinv(x[i : i + 1]), 1e-8)
