import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import correlate2d

from plugip import Rng
from plugip.building import build
from plugip.operator import LinearOperator, SpectralOperator
from plugip.operators.blur import (
    Blur,
    CircularBlur,
    DefocusBlur,
    GaussianBlur,
    MotionBlur,
    gaussian_taps,
)
from plugip.operators.correlation import (
    BOUNDARIES,
    Correlation,
    _strips,
    correlate_sums,
    fast_length,
)
from plugip.operators.kernels import DefocusKernel, GaussianKernel, MotionKernel
from plugip.testing import check_operator

SHAPE = (2, 3, 9, 10)
SINGLE = torch.float32


def asymmetric(rows=5, columns=5):
    k = (columns * torch.arange(rows)[:, None] + torch.arange(columns)).double() ** 2 + 1
    return k / k.sum()


def circular(kernel):
    A = Blur(kernel, "circular")
    assert isinstance(A, CircularBlur)
    return A


@pytest.mark.parametrize("boundary", ["reflect", "zero", "circular", "replicate"])
@pytest.mark.parametrize("flip", [False, True])
def test_golden_asymmetric_kernel(tools, boundary, flip):
    case = tools.golden("blur")["cases"][f"asym5_{'conv' if flip else 'corr'}_{boundary}"]
    x, A = tools.hash_image(1, 1, 8, 8), Blur(asymmetric(), boundary, flip)
    tools.case(A(x), case)
    tools.case(A(x.float()), case, 1e-5)


def test_golden_adjoint(tools):
    case = tools.golden("blur")["cases"]["asym5_corr_reflect_adjoint"]
    tools.case(Blur(asymmetric()).adjoint(tools.hash_image(1, 1, 8, 8)), case)


def test_golden_blind_blur_of_dmplug(tools):
    taps = np.append(gaussian_taps(3.0, 63), 0.0)  # 64 taps with the peak at 32
    taps = torch.from_numpy(np.roll(taps, 1))
    kernel = torch.outer(taps, taps)
    assert kernel.argmax() == 32 * 64 + 32
    y = Blur(kernel, "zero", origin=31)(tools.hash_image(1, 3, 64, 64))
    tools.case(y, tools.golden("blur")["cases"]["dmplug_bid_gaussian_64_3_same"])
    # The published blur is the centred one, one pixel up and left.
    centred = Blur(kernel, "zero", origin=32)(tools.hash_image(1, 3, 64, 64))
    tools.close(y[..., :-1, :-1], centred[..., 1:, 1:], 1e-12)


@pytest.mark.parametrize("boundary", ["reflect", "zero", "circular", "symmetric", "replicate"])
def test_equals_the_separable_blur(tools, boundary):
    taps, x = torch.from_numpy(gaussian_taps(1.5, 9)), tools.hash_image(2, 3, 12, 13)
    y = Blur(torch.outer(taps, taps), boundary)(x)
    tools.close(y, GaussianBlur(1.5, 9, boundary)(x), 1e-12)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("shape", [(2, 3, 9, 9), (2, 1, 8, 11)])
@pytest.mark.parametrize("kernel", [asymmetric(), asymmetric(4, 3), asymmetric(3, 8)])
def test_is_a_linear_operator(tools, boundary, shape, kernel):
    A = Blur(kernel, boundary, origin=(1, 2))
    assert isinstance(A, SpectralOperator) == (boundary == "circular")
    check_operator(A, shape).require()
    tools.adjoint(A, shape)
    tools.adjoint(A, shape, 1e-5, SINGLE)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_each_image_may_have_its_kernel(tools, boundary):
    kernels = torch.stack([asymmetric(), asymmetric().mT])
    A, x = Blur(kernels, boundary, flip=True), tools.normal(*SHAPE)
    for i in range(2):
        tools.close(A(x)[i], Blur(kernels[i], boundary, flip=True)(x[i : i + 1])[0], 1e-12)
    tools.split(A, SHAPE)
    tools.adjoint(A, SHAPE)


def test_circular_blur_is_spectral(tools):
    for kernel in (asymmetric(), asymmetric(4, 3), torch.ones(3, 5, dtype=torch.float64) / 15):
        A = Blur(kernel, "circular", origin=(2, 1))
        assert isinstance(A, CircularBlur)
        tools.spectrum(A, (2, 3, 9, 10))
        tools.penrose(A, (2, 3, 9, 10))
        x = tools.normal(2, 3, 9, 10)
        lam = torch.tensor([0.1, 0.3], dtype=torch.float64)
        # The fast solves of real FFTs equal the general ones.
        tools.close(A.solve_normal(x, lam), SpectralOperator.solve_normal(A, x, lam), 1e-11)
        tools.close(A.pinv(x), SpectralOperator.pinv(A, x), 1e-9)
        tools.close(A.solve_normal(x, 0.1), LinearOperator.solve_normal(A, x, 0.1), 1e-5)
    A = Blur(torch.stack([asymmetric(), asymmetric().mT]), "circular")
    tools.spectrum(A, (2, 3, 9, 10))


def test_circular_blur_does_not_amplify():
    s = circular(asymmetric()).spectrum((1, 3, 16, 16)).s
    assert float(s.max()) == pytest.approx(1, abs=1e-14)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_constants_are_preserved(tools, boundary):
    y = Blur(asymmetric(), boundary)(torch.full((1, 3, 12, 9), 0.7, dtype=torch.float64))
    inside = y[..., 2:-2, 2:-2] if boundary == "zero" else y
    tools.close(inside, torch.full_like(inside, 0.7), 1e-13)


@pytest.mark.parametrize("boundary", ["circular", "zero", "reflect"])
def test_an_impulse_gives_the_kernel(tools, boundary):
    x = torch.zeros(1, 1, 11, 11, dtype=torch.float64)
    x[..., 5, 5] = 1
    convolved = Blur(asymmetric(), boundary, flip=True)(x)[0, 0, 3:8, 3:8]
    tools.close(convolved, asymmetric(), 1e-14)
    tools.close(Blur(asymmetric(), boundary)(x)[0, 0, 3:8, 3:8], asymmetric().flip(0, 1), 1e-14)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_size_and_origin_equals_scipy(data):
    kh, kw, h, w = (data.draw(st.integers(1, 6)) for _ in range(4))
    h, w = h + kh, w + kw
    origin = data.draw(st.integers(0, kh - 1)), data.draw(st.integers(0, kw - 1))
    boundary, flip = data.draw(st.sampled_from(BOUNDARIES)), data.draw(st.booleans())
    modes = {"zero": "constant", "circular": "wrap", "replicate": "edge"}
    g = np.random.default_rng(kh + 7 * w)
    k, x = g.normal(size=(kh, kw)), g.normal(size=(h, w))
    taps = k[::-1, ::-1] if flip else k
    o = (kh - 1 - origin[0], kw - 1 - origin[1]) if flip else origin
    pad = [(o[0], kh - 1 - o[0]), (o[1], kw - 1 - o[1])]
    mode: Any = modes.get(boundary, boundary)
    wide = x if boundary == "valid" else np.pad(x, pad, mode=mode)
    want = correlate2d(wide, taps, "valid")
    A = Blur(torch.from_numpy(k), boundary, flip, origin)
    y = A(torch.from_numpy(x)[None, None])
    np.testing.assert_allclose(y[0, 0].numpy(), want, atol=1e-12)
    back, v = A.adjoint(y), torch.from_numpy(x)[None, None]
    assert float((back * v).sum()) == pytest.approx(float((y * y).sum()), rel=1e-10, abs=1e-10)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_gradients(tools, boundary):
    x, kernel = tools.normal(1, 1, 6, 7).requires_grad_(), asymmetric(3, 3)
    assert torch.autograd.gradcheck(Blur(kernel, boundary), x)
    assert torch.autograd.gradcheck(
        Blur(kernel, boundary).adjoint,
        tools.normal(*Blur(kernel, boundary).measurement_shape((1, 1, 6, 7))).requires_grad_(),
    )

    def of_kernel(k):
        return torch.func.functional_call(Blur(kernel, boundary), {"kernel": k}, (x.detach(),))

    assert torch.autograd.gradcheck(of_kernel, kernel[None].clone().requires_grad_())


def test_kept_transfer_functions_follow_the_kernel(tools):
    A, x = circular(asymmetric(7, 7)), tools.normal(*SHAPE)
    before = A(x)
    A.spectrum(SHAPE)
    twin = copy.deepcopy(A)
    A.kernel.mul_(2)
    tools.close(A(x), 2 * before, 1e-12)
    tools.close(SpectralOperator.forward(A, x), 2 * before, 1e-12)
    tools.close(twin(x), before, 0)
    A.kernel = asymmetric(7, 7).mT[None].contiguous()
    tools.close(A(x), Blur(asymmetric(7, 7).mT, "circular")(x), 1e-12)
    tools.close(A(x[..., :8, :]), Blur(asymmetric(7, 7).mT, "circular")(x[..., :8, :]), 1e-12)
    with torch.inference_mode():
        B = Blur(asymmetric(7, 7))
        inside = B(x)
    tools.close(inside, Blur(asymmetric(7, 7))(x), 0)
    assert A.float()(x.float()).dtype == SINGLE


def test_motion_blur_draws_one_kernel_per_image(tools):
    A, shape = MotionBlur(9), (2, 3, 16, 16)
    assert A.measurement_shape(shape) == shape
    fixed = A.realise(Rng(0, "operator", ["a", "b"]), shape)
    assert fixed.kernel.shape == (2, 9, 9) and fixed.kernel.dtype == torch.float64
    alone = A.realise(Rng(0, "operator", ["b"]), (1, 3, 16, 16))
    x = tools.normal(*shape)
    tools.close(fixed(x)[1:], alone(x[1:]), 1e-13)
    tools.close(fixed.select([1])(x[1:]), alone(x[1:]), 1e-13)
    check_operator(A, shape).require()
    circular = MotionBlur(9, boundary="circular").realise(
        Rng(0, "operator", ["a"]), (1, 3, 16, 16)
    )
    assert isinstance(circular, SpectralOperator)
    with pytest.raises(RuntimeError, match=r"no kernel yet.*MotionKernel\(size=9.*realise"):
        A(x)
    with pytest.raises(ValueError, match="one stream per image, got 1 for 2 images"):
        A.realise(Rng(0, "operator", ["a"]), shape)


@pytest.mark.parametrize("boundary", ["reflect", "circular", "valid"])
def test_defocus_blur_is_the_blur_with_a_disk(tools, boundary):
    A, x = DefocusBlur(2.0, boundary=boundary), tools.normal(2, 3, 12, 13)
    assert isinstance(A, DefocusBlur)
    assert isinstance(A, SpectralOperator) == (boundary == "circular")
    tools.close(A(x), Blur(DefocusKernel(2.0), boundary)(x), 0)
    check_operator(A, (2, 3, 12, 13)).require()
    copied = copy.deepcopy(A)
    assert type(copied) is type(A)
    tools.close(copied(x), A(x), 0)


@pytest.mark.parametrize("boundary", ["reflect", "circular"])
def test_config_round_trip(tools, boundary):
    node = "plugip.operators.kernels.GaussianKernel"
    kernel = {"_target_": node, "std": [1.0, 2.0], "size": 5, "angle": 30.0}
    target = {"_target_": "plugip.operators.blur.Blur", "kernel": kernel, "boundary": boundary}
    A, x = build(target | {"origin": [1, 2]}), tools.normal(*SHAPE)
    want = Blur(GaussianKernel((1.0, 2.0), 5, 30.0), boundary, origin=(1, 2))
    tools.close(A(x), want(x), 0)
    assert type(A) is type(want)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("size", [(5, 5), (4, 3), (1, 8)])
def test_sums_and_ffts_agree(tools, boundary, size):
    geometry = Correlation(size, (0, 2), boundary, (8, 11))
    k, x = tools.normal(2, *size), tools.normal(2, 3, 8, 11)
    k, transfer = k[:, None], geometry.transfer(k)[:, None]
    y = geometry.directly(x, k)
    tools.close(geometry.by_fft(x, transfer), y, 1e-12)
    w = tools.normal(*y.shape, seed=1)
    back = geometry.directly_adjoint(w, k)
    tools.close(geometry.by_fft_adjoint(w, transfer.conj()), back, 1e-12)
    assert float((back * x).sum()) == pytest.approx(float((w * y).sum()), rel=1e-12)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_large_kernels(tools, boundary):
    A, shape = Blur(asymmetric(11, 11), boundary, flip=True), (2, 3, 14, 13)
    assert not A._geometry(shape).is_small(3, torch.zeros(1))
    check_operator(A, shape).require()
    tools.adjoint(A, shape, 1e-5, SINGLE)


@pytest.mark.parametrize("origin", [(0, 0), (11, 5), (22, 24)])
@pytest.mark.parametrize("dtype", [torch.float64, SINGLE])
def test_a_zero_boundary_takes_kernels_beyond_the_image(tools, origin, dtype):
    k, shape = tools.normal(23, 25, dtype=dtype), (2, 3, 8, 7)
    A, x = Blur(k, "zero", origin=origin), tools.normal(*shape, dtype=dtype)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    assert not A._geometry(shape).is_small(3, x)
    tools.close(A(x), A._geometry(shape).directly(x, k), 10 * tolerance)
    tools.adjoint(A, shape, tolerance, dtype)


@pytest.mark.parametrize("count", [(1, 1), (1, 3), (3, 2)])
@pytest.mark.parametrize("side", [7, 128, 131])
def test_strips_are_exact(tools, count, side):
    # Cut into strips or not: the sums are those of float64.
    k, x = tools.normal(*count, 5, 3, dtype=SINGLE), tools.normal(*count, side, 300, dtype=SINGLE)
    want = torch.nn.functional.conv2d(
        x.double().flatten(0, 1)[None],
        k.double().flatten(0, 1)[:, None],
        groups=k[..., 0, 0].numel(),
    )
    tools.close(correlate_sums(x, k).flatten(0, 1)[None], want.float(), 1e-5)
    assert (_strips(x.flatten(0, 1), 5, 3) > 1) == (side > 7)


@pytest.mark.parametrize("boundary", ["reflect", "zero", "valid"])
def test_learnt_kernels_take_ffts_to_the_same_answer(tools, boundary):
    x, kernel = tools.normal(2, 3, 64, 64, dtype=SINGLE), tools.normal(1, 1, 5, 5, dtype=SINGLE)
    fixed, learnt = Blur(kernel, boundary), Blur(kernel.clone().requires_grad_(), boundary)
    geometry = fixed._geometry(tuple(x.shape), x)
    assert fixed._by_sums(geometry, x) and not learnt._by_sums(geometry, x)
    tools.close(learnt(x).detach(), fixed(x), 1e-4)
    y = fixed(x)
    tools.close(learnt.adjoint(y).detach(), fixed.adjoint(y), 1e-4)
    (grad,) = torch.autograd.grad(learnt(x), learnt.kernel, y)
    (of_sums,) = torch.func.vjp(lambda k: geometry.directly(x, k), kernel)[1](y)
    tools.close(grad, of_sums, 1e-4 * float(of_sums.abs().max()))


def test_one_kernel_per_channel(tools):
    k, x = tools.normal(1, 3, 4, 5), tools.normal(*SHAPE)
    for boundary in BOUNDARIES:
        A = Blur(k, boundary, flip=True, origin=(1, 3))
        alone = [Blur(k[:, i], boundary, True, (1, 3))(x[:, i : i + 1]) for i in range(3)]
        tools.close(A(x), torch.cat(alone, 1), 1e-12)
        tools.adjoint(A, SHAPE)
    tools.spectrum(circular(k[..., :3, :3]), SHAPE)


def test_fast_lengths():
    assert [fast_length(n) for n in (1, 7, 11, 124, 125, 316)] == [1, 8, 12, 125, 125, 320]
    assert Correlation((61, 61), (30, 30), "reflect", (64, 64)).grid == (125, 125)


def test_errors():
    k = asymmetric()
    with pytest.raises(TypeError, match=r"kernel must be a tensor, a kernel such as .* got float"):
        Blur(0.7)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"shape \(kh, kw\).*got torch.float64 of shape \(5,\)"):
        Blur(k[0])
    with pytest.raises(ValueError, match=r"got torch\.int64"):
        Blur(torch.ones(3, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="not finite"):
        Blur(k / 0)
    with pytest.raises(ValueError, match=r"unknown boundary 'mirror'.*reflect, symmetric"):
        Blur(k, "mirror")
    with pytest.raises(ValueError, match=r"4 x 5 taps has no middle pixel; give origin=\(1, 2\)"):
        Blur(asymmetric(4, 5))
    with pytest.raises(ValueError, match=r"64 x 64 taps has no middle pixel; give origin=\(31,"):
        MotionBlur(64)
    with pytest.raises(ValueError, match=r"must be a tap of the kernel of 5 x 5, got \(5, 5\)"):
        Blur(k, origin=5)
    with pytest.raises(ValueError, match=r"origin must be one whole number or two .* got -1"):
        Blur(k, origin=-1)
    with pytest.raises(ValueError, match="2 kernels for a batch of 3 images"):
        Blur(torch.stack([k, k]))(torch.zeros(3, 1, 8, 8))
    with pytest.raises(ValueError, match=r"reaches 2 pixels beyond the edge.*only 2 pixels wide"):
        Blur(k)(torch.zeros(1, 1, 8, 2))
    for boundary in ("circular", "valid"):
        with pytest.raises(ValueError, match=f"does not fit .* 4 pixels high .*{boundary}"):
            Blur(k, boundary).check_domain((1, 1, 4, 8))
    with pytest.raises(TypeError, match=r"works in float32 or float64, got torch\.float16"):
        Blur(k)(torch.zeros(1, 1, 8, 8, dtype=torch.float16))
    with pytest.raises(ValueError, match="x is on meta but the kernel on cpu"):
        Blur(k)(torch.zeros(1, 1, 8, 8, device="meta"))
    with pytest.raises(ValueError, match="intensity must lie in"):
        MotionBlur(9, 2.0)
    assert isinstance(Blur(MotionKernel(9)), Blur)
