import torch

from plugip.operator import SpectralOperator
from plugip.spectral import DiagonalSpectrum, FourierSpectrum

SHAPE = (2, 3, 6, 7)


class Toy(SpectralOperator):
    """An operator with nothing but a spectrum."""

    def __init__(self, spectrum):
        super().__init__()
        self.toy = spectrum

    def spectrum(self, x_shape):
        return self.toy


def test_fourier_backend_with_an_asymmetric_kernel(tools):
    kernel = torch.zeros(6, 7, dtype=torch.float64)
    kernel[0, 0], kernel[1, 0], kernel[0, 2] = 1.0, 0.5, 0.25
    A = Toy(FourierSpectrum.of(torch.fft.fft2(kernel)))
    x = tools.normal(*SHAPE)
    tools.close(A(x), x + 0.5 * x.roll(1, -2) + 0.25 * x.roll(2, -1), 1e-13)
    tools.close(A.adjoint(x), x + 0.5 * x.roll(-1, -2) + 0.25 * x.roll(-2, -1), 1e-13)
    tools.adjoint(A, SHAPE)
    tools.spectrum(A, SHAPE)
    tools.penrose(A, SHAPE)


def test_cut_of_the_pseudo_inverse_is_per_image(tools):
    s = torch.tensor([1e-6, 1.0], dtype=torch.float64).reshape(2, 1, 1, 1)
    y = tools.normal(*SHAPE)
    tools.close(Toy(DiagonalSpectrum(s)).pinv(y), y / s, 1e-12)


def test_spectra_follow_precision(tools):
    kernel = torch.fft.fft2(tools.normal(6, 7))
    for spectrum in (DiagonalSpectrum(kernel.abs()), FourierSpectrum.of(kernel)):
        for dtype in (torch.float32, torch.float64):
            A, x = Toy(spectrum), tools.normal(*SHAPE, dtype=dtype)
            assert A(x).dtype == A.pinv(x).dtype == A.solve_normal(x, 0.1).dtype == dtype
