import pytest
import torch

from plugip import Rng
from plugip.building import build
from plugip.operators.blur import Blur, GaussianBlur, gaussian_taps
from plugip.operators.camera_blur import (
    CameraResponseBlur,
    SaturatedBlur,
    correlate,
    signed_power,
)
from plugip.operators.kernels import DefocusKernel, MotionKernel
from plugip.operators.separable import BOUNDARIES
from plugip.testing import check_operator

BINOMIAL = torch.outer(torch.tensor([1.0, 2.0, 1.0]), torch.tensor([1.0, 2.0, 1.0])).double() / 16
# torch itself loads its forward-mode rules with a deprecated call.
FORWARD_MODE = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")


def test_golden_camera_blur(tools):
    case = tools.golden("camera_blur")["cases"]["gamma_blur"]
    y = CameraResponseBlur(kernel=BINOMIAL)(tools.hash_image(1, 3, 8, 8))
    tools.case((y + 1) / 2, case)
    single = CameraResponseBlur(kernel=BINOMIAL)(tools.hash_image(1, 3, 8, 8, dtype=torch.float32))
    tools.case((single + 1) / 2, case, 1e-5)


@pytest.mark.parametrize("boundary", ["reflect", "zero", "circular", "replicate"])
def test_golden_correlation_with_an_asymmetric_kernel(tools, boundary):
    kernel = (torch.arange(25, dtype=torch.float64).square() + 1).reshape(5, 5)
    y = correlate(tools.hash_image(1, 1, 8, 8), kernel / kernel.sum(), boundary)
    tools.case(y, tools.golden("blur")["cases"][f"asym5_corr_{boundary}"])


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_the_gaussian_equals_its_kernel(tools, boundary):
    taps, x = torch.from_numpy(gaussian_taps(1.5, 9)), tools.hash_image(2, 3, 12, 13)
    by_kernel = CameraResponseBlur(boundary=boundary, kernel=torch.outer(taps, taps))(x)
    tools.close(CameraResponseBlur(boundary=boundary)(x), by_kernel, 1e-10)


def test_gamma_one_is_the_linear_blur_everywhere(tools):
    x = 3 * tools.normal(2, 3, 12, 13)
    tools.close(CameraResponseBlur(gamma=1.0)(x), GaussianBlur(1.5, 9)(x), 1e-12)


@pytest.mark.parametrize("level", [-1.0, -0.999, 0.3, 1.0, -1.2, 1.3])
@pytest.mark.parametrize("gamma", [2.2, 0.5])
def test_constants_are_preserved(tools, level, gamma):
    x = torch.full((1, 3, 12, 12), level, dtype=torch.float64)
    tools.close(CameraResponseBlur(gamma=gamma)(x), x, 1e-12)


def test_is_monotone_and_keeps_the_range(tools):
    A, x = CameraResponseBlur(), tools.hash_image(2, 3, 12, 12)
    y = A(x)
    assert bool((y.abs() <= 1 + 1e-12).all())
    assert bool((A(x + 0.01) > y).all())
    tools.split(A, (3, 3, 12, 12))


@FORWARD_MODE
@pytest.mark.parametrize("gamma", [2.2, 0.6])
@pytest.mark.parametrize("kernel", [None, BINOMIAL])
def test_gradients(tools, kernel, gamma):
    A = CameraResponseBlur(std=1.0, size=3, gamma=gamma, kernel=kernel)
    x = (0.95 * tools.hash_image(1, 1, 5, 6)).requires_grad_()  # no black: g is too steep there
    assert torch.autograd.gradcheck(A, x, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(A, x)


def test_black_images_have_finite_gradients():
    x = torch.full((1, 3, 12, 12), -1.0, requires_grad=True)
    y = CameraResponseBlur()(x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert bool((y == -1).all()) and bool(gradient.isfinite().all())


@FORWARD_MODE
def test_power_has_exact_values_and_a_bounded_slope(tools):
    u = torch.tensor([-0.3, -1e-6, 0.0, 1e-9, 5e-5, 1e-4, 0.4], dtype=torch.float64)
    p, eps = 1 / 2.2, 1e-4
    ones = torch.ones_like(u)
    value, slope = torch.func.jvp(lambda v: signed_power(v, p, eps), (u,), (ones,))[:2]
    tools.close(value, u.sign() * u.abs() ** p, 1e-12)
    tools.close(slope, p * u.abs().clamp_min(eps) ** (p - 1), 1e-12)
    assert 69 < float(slope.max()) < 69.2
    second = torch.func.vmap(torch.func.grad(torch.func.grad(lambda v: signed_power(v, p, eps))))
    inside = u.abs() <= eps
    want = torch.where(inside, 0.0, u.sign() * p * (p - 1) * u.abs().clamp_min(eps) ** (p - 2))
    tools.close(second(u), want, 1e-9)


def test_golden_saturated_blur(tools):
    case = tools.golden("nonlinear_and_varying")["cases"]["saturated_blur"]
    x = tools.hash_image(1, 3, 8, 8)
    tools.case((SaturatedBlur(1.8, kernel=BINOMIAL)(x) + 1) / 2, case)
    tools.case((SaturatedBlur(1.8, kernel=BINOMIAL)(x.float()) + 1) / 2, case, 1e-5)
    sharp = SaturatedBlur(1.8, "soft", 1e-4, kernel=BINOMIAL)(x)
    tools.close((sharp + 1) / 2, (SaturatedBlur(1.8, kernel=BINOMIAL)(x) + 1) / 2, 1e-4)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("shape", [(2, 3, 9, 9), (2, 1, 8, 11)])
def test_operator_checks(boundary, shape):
    for A in (
        CameraResponseBlur(size=7, boundary=boundary),
        SaturatedBlur(1.5, size=7, boundary=boundary),
        SaturatedBlur(1.5, "soft", boundary=boundary, kernel=DefocusKernel(2)),
    ):
        check_operator(A, shape).require()


def test_no_saturation_is_the_camera_blur(tools):
    x = tools.hash_image(2, 3, 12, 12) - 0.5
    dark = SaturatedBlur(1.0, kernel=BINOMIAL)(x)
    tools.close(dark, CameraResponseBlur(kernel=BINOMIAL)(x), 1e-12)


def test_knees():
    x = torch.linspace(-1, 1, 101, dtype=torch.float64)[:, None, None, None].expand(-1, 1, 3, 3)
    x = x.clone().requires_grad_()
    one = torch.ones(1, 1, dtype=torch.float64)
    hard, soft = (SaturatedBlur(2.0, k, 0.05, gamma=1.0, kernel=one)(x) for k in ("hard", "soft"))
    assert float(hard.detach().max()) == 1 and float(soft.detach().max()) < 1 + 1e-6
    assert bool((soft.diff(dim=0) > 0).all()) and float(soft[0, 0, 0, 0].detach()) == -1
    assert float((hard - soft).detach().abs().max()) / 2 == pytest.approx(0.05 * 0.6931, rel=1e-3)
    (at_hard,), (at_soft,) = (torch.autograd.grad(y.sum(), x) for y in (hard, soft))
    assert bool((at_hard[60:] == 0).all()) and bool((at_soft > 0).all())


def test_one_kernel_per_image(tools):
    A, shape = CameraResponseBlur(kernel=MotionKernel(9), gamma=1.0), (2, 3, 12, 12)
    assert A.measurement_shape(shape) == shape
    fixed = A.realise(Rng(0, "operator", ["a", "b"]), shape)
    assert fixed is not A and A.kernel is None
    x = tools.hash_image(*shape)
    assert isinstance(fixed.kernel, torch.Tensor)
    tools.close(fixed(x), Blur(fixed.kernel)(x), 1e-12)
    tools.close(fixed.select([1])(x[1:]), fixed(x)[1:], 1e-12)
    check_operator(SaturatedBlur(kernel=MotionKernel(9)), shape).require()
    with pytest.raises(RuntimeError, match=r"no kernel yet.*MotionKernel.*realise"):
        A(x)
    with pytest.raises(ValueError, match="2 kernels for a batch of 3 images"):
        fixed(torch.zeros(3, 3, 12, 12))
    with pytest.raises(ValueError, match="one stream per image, got 1 for 2 images"):
        A.realise(Rng(0, "operator", ["a"]), shape)


def test_config_round_trip(tools):
    x = tools.hash_image(2, 3, 12, 12)
    node = {"_target_": "plugip.operators.camera_blur.SaturatedBlur", "knee": "soft", "gamma": 2}
    tools.close(build(node)(x), SaturatedBlur(knee="soft", gamma=2)(x), 0)


def test_errors_of_saturation():
    with pytest.raises(ValueError, match="exposure must be a positive, finite number, got 0"):
        SaturatedBlur(0)
    with pytest.raises(ValueError, match=r"unknown knee 'sof'.*did you mean 'soft'"):
        SaturatedBlur(knee="sof")
    with pytest.raises(ValueError, match="width must be a positive"):
        SaturatedBlur(width=0)
    with pytest.raises(TypeError, match=r"a sampler such as MotionKernel\(61\), got str"):
        SaturatedBlur(kernel="disk")  # pyright: ignore[reportArgumentType]


def test_errors():
    with pytest.raises(ValueError, match="gamma must be a positive, finite number, got 0"):
        CameraResponseBlur(gamma=0)
    with pytest.raises(ValueError, match="epsilon must be a positive"):
        CameraResponseBlur(epsilon=0)
    with pytest.raises(ValueError, match="unknown boundary"):
        CameraResponseBlur(boundary="mirror", kernel=BINOMIAL)
    with pytest.raises(ValueError, match=r"both odd, or one .*, got shape"):
        CameraResponseBlur(kernel=torch.ones(2, 3) / 6)
    with pytest.raises(ValueError, match="kernel must have sum 1, got 9"):
        CameraResponseBlur(kernel=torch.ones(3, 3))
    with pytest.raises(ValueError, match="not negative"):
        CameraResponseBlur(kernel=-torch.ones(1, 1))
    for A in (CameraResponseBlur(), CameraResponseBlur(kernel=torch.ones(9, 1) / 9)):
        with pytest.raises(ValueError, match=r"reaches 4 pixels .* only 4 pixels high"):
            A(torch.zeros(1, 3, 4, 12))
