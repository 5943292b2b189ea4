import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from plugip.building import build
from plugip.operators.separable import BOUNDARIES, Separable, toeplitz
from plugip.operators.separable_blur import (
    AnisotropicGaussianBlur,
    GaussianBlur,
    TapRows,
    UniformBlur,
    gaussian_taps,
)
from plugip.spectral import FourierSpectrum, KroneckerSpectrum
from plugip.testing import check_operator

CASES = {
    "reflect": "dps_gaussian_61_3_reflect_64",
    "zero": "gaussian_61_3_zero_64",
    "circular": "gaussian_61_3_circular_64",
}


@pytest.mark.parametrize("boundary", CASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 1e-5)])
def test_golden_blur(tools, boundary, dtype, tolerance):
    y = GaussianBlur(boundary=boundary)(tools.hash_image(1, 3, 64, 64, dtype=dtype))
    assert y.dtype == dtype
    tools.case(y, tools.golden("blur")["cases"][CASES[boundary]], tolerance)


def test_golden_kernels(tools):
    want = tools.golden("blur")["kernels"]
    first, last = want["support_61_3"]
    taps = gaussian_taps(3.0, 61)
    assert np.nonzero(taps)[0].tolist() == list(range(first, last + 1))
    line = np.array(want["taps_61_3"])
    assert np.allclose(taps[first : last + 1], line, rtol=1e-8, atol=1e-12)
    assert taps[30] ** 2 == pytest.approx(want["center_61_3"], rel=1e-9)
    for key, std, size in (("full_9_3", 3.0, 9), ("full_7_1", 1.0, 7)):
        full = np.outer(gaussian_taps(std, size), gaussian_taps(std, size)).ravel()
        assert np.allclose(full, want[key], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(("std", "size"), [(3.0, 61), (10.0, 5), (0.3, 3), (4.4, 33)])
def test_window_is_scipys(std, size):
    impulse = np.zeros((size, size))
    impulse[size // 2, size // 2] = 1
    taps = gaussian_taps(std, size)
    assert np.allclose(np.outer(taps, taps), gaussian_filter(impulse, std), atol=1e-15)


def test_golden_reflect_singular_values(tools):
    want = tools.golden("blur")["separable_reflect"]
    s = torch.linalg.svdvals(torch.from_numpy(toeplitz(gaussian_taps(3.0, 61), 256, "reflect")))
    assert float(s[0]) == pytest.approx(want["T256_sv_max"], rel=1e-9)
    assert float(s[-1]) == pytest.approx(want["T256_sv_min"], rel=1e-4)
    assert int((s > 3e-2).sum()) == want["T256_count_sv_gt_3e-2"]
    assert int((s > 1e-3).sum()) == want["T256_count_sv_gt_1e-3"]


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("size", [(9, 9), (8, 11)])
def test_is_a_linear_operator(tools, boundary, size):
    # A narrow kernel: no singular value is below rcond, so that the pseudo-inverse is exact.
    A, shape = GaussianBlur(0.6, 5, boundary), (2, 3, *size)
    tools.adjoint(A, shape)
    tools.adjoint(A, shape, 1e-5, torch.float32)
    tools.spectrum(A, shape)
    tools.penrose(A, shape)
    tools.split(A, shape)
    kind = FourierSpectrum if boundary == "circular" else KroneckerSpectrum
    assert isinstance(A.spectrum(shape), kind)


@pytest.mark.parametrize("boundary", ["reflect", "circular"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_default_blur_is_inverted_where_it_can_be(tools, boundary, dtype):
    A, x = GaussianBlur(boundary=boundary), tools.hash_image(2, 3, 64, 64, dtype=dtype)
    y = A(x)
    back = A.pinv(y)
    assert back.dtype == dtype
    assert bool((back.abs() < 10).all())  # the tiny singular values are left out
    tools.close(A(back), y, 1e-2)


@pytest.mark.parametrize("boundary", sorted(set(BOUNDARIES) - {"zero"}))
def test_constants_are_preserved(tools, boundary):
    y = GaussianBlur(boundary=boundary)(torch.full((1, 3, 64, 70), 0.7, dtype=torch.float64))
    tools.close(y, torch.full_like(y, 0.7), 1e-13)


def test_circular_blur_does_not_amplify():
    s = GaussianBlur(boundary="circular").spectrum((1, 3, 64, 64)).s
    assert float(s.max()) == pytest.approx(1, abs=1e-14)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("side", [128, 163])
def test_large_images_take_other_ways_to_the_same_answer(tools, boundary, dtype, side):
    x, single = tools.normal(2, 3, side, side + 5, dtype=dtype), dtype == torch.float32
    tolerance = 1e-5 if single else 1e-11
    for A in (GaussianBlur(boundary=boundary), AnisotropicGaussianBlur((1, 4), 5, boundary)):
        tools.close(A(x), Separable.forward(A, x), tolerance)
        tools.adjoint(A, tuple(x.shape), tolerance, dtype)
    # The narrow one is summed where sums are fast; FFTs with a margin wait for larger images.
    window = A._window(x)
    assert (window is None) == (not single and side == 128 and boundary != "circular")
    assert window is None or window[2] == single


@pytest.mark.parametrize("boundary", ["reflect", "circular"])
def test_gradients(tools, boundary):
    x = tools.normal(1, 1, 6, 7).requires_grad_()
    assert torch.autograd.gradcheck(GaussianBlur(1.0, 5, boundary), x)


@pytest.mark.parametrize(
    ("compat", "case", "tolerance"),
    # DDRM's own code computes in float32.
    [(None, "uniform9_correct_zero_16", 1e-8), ("ddrm", "ddrm_deblur_uni9_consistent_16", 1e-5)],
)
def test_golden_uniform_blur(tools, compat, case, tolerance):
    y = UniformBlur(9, compat=compat)(tools.hash_image(1, 3, 16, 16))
    tools.case(y, tools.golden("blur")["cases"][case], tolerance)


def test_ddrm_loses_light_and_small_singular_values():
    s = torch.linalg.svdvals(torch.from_numpy(UniformBlur(compat="ddrm").recipe.matrix(64)))
    assert bool(((s > 3e-2) | (s < 1e-12)).all()) and bool((s < 1e-12).any())
    y = UniformBlur(compat="ddrm")(torch.ones(1, 1, 64, 64, dtype=torch.float64))
    assert float(y[..., 32, 32]) == pytest.approx((8 / 9) ** 2, abs=0.05)


def test_ddrm_loses_the_last_tap(tools):
    matrix = TapRows((0.1, 0.2, 0.7), "zero", "ddrm").matrix(12)
    want = np.diag(np.full(12, 0.2)) + np.diag(np.full(11, 0.1), -1)
    tools.close(torch.from_numpy(matrix), torch.from_numpy(want), 1e-12)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("size", [(9, 9), (8, 11)])
def test_other_separable_blurs_are_spectral(tools, boundary, size):
    for A in (UniformBlur(5, boundary), AnisotropicGaussianBlur((0.5, 0.8), 5, boundary)):
        check_operator(A, (2, 3, *size)).require()
        tools.adjoint(A, (2, 3, *size), 1e-5, torch.float32)
        tools.spectrum(A, (2, 3, *size))


def test_anisotropic_blur_is_wide_across(tools):
    x = torch.zeros(1, 1, 15, 15, dtype=torch.float64)
    x[..., 7, 7] = 1
    y = AnisotropicGaussianBlur((1.0, 20.0), 9)(x)[0, 0, 3:12, 3:12]
    line = np.arange(9) - 4
    down, across = (np.exp(-0.5 * (line / s) ** 2) for s in (1, 20))
    want = np.outer(down / down.sum(), across / across.sum())
    tools.close(y, torch.from_numpy(want), 1e-13)
    tools.penrose(AnisotropicGaussianBlur((0.4, 0.6), 5, "reflect"), (2, 1, 9, 8))


def test_config_round_trip(tools):
    x, where = tools.hash_image(2, 3, 16, 18), "plugip.operators.separable_blur"
    node = {"_target_": f"{where}.AnisotropicGaussianBlur", "std": [1.0, 20.0], "size": 9}
    node |= {"boundary": "zero", "compat": "ddrm"}
    tools.close(build(node)(x), AnisotropicGaussianBlur(compat="ddrm")(x), 0)


def test_errors_of_other_separable_blurs():
    with pytest.raises(ValueError, match="size must be an odd, positive whole number"):
        UniformBlur(8)
    with pytest.raises(ValueError, match=r"unknown compat 'drm'.*did you mean 'ddrm'"):
        UniformBlur(compat="drm")
    with pytest.raises(ValueError, match=r"compat='ddrm' needs boundary='zero', got 'reflect'"):
        AnisotropicGaussianBlur(boundary="reflect", compat="ddrm")
    with pytest.raises(ValueError, match="std must be a positive, finite number, got -1"):
        AnisotropicGaussianBlur((1, -1))
    with pytest.raises(ValueError, match=r"9 taps reaches 4 pixels .* only 4 pixels wide"):
        UniformBlur()(torch.zeros(1, 1, 9, 4))


def test_errors():
    with pytest.raises(ValueError, match="std must be a positive, finite number, got 0"):
        GaussianBlur(std=0)
    with pytest.raises(ValueError, match=r"size must be an odd, positive whole number.*got 64"):
        GaussianBlur(size=64)
    with pytest.raises(ValueError, match=r"unknown boundary 'circlar'.*did you mean 'circular'"):
        GaussianBlur(boundary="circlar")
    with pytest.raises(ValueError, match=r"reaches 30 pixels.*only 30 pixels wide.*size <= 59"):
        GaussianBlur()(torch.zeros(1, 3, 64, 30))
    with pytest.raises(ValueError, match=r"a kernel of 61 taps does not fit .* 60 pixels high"):
        GaussianBlur(boundary="circular").check_domain((1, 3, 60, 64))
