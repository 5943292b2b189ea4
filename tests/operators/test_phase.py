import pytest
import torch

from plugip.linalg import norm
from plugip.operators import FourierMagnitude, align
from plugip.operators.phase import PaddedFourier
from plugip.testing import check_operator

CASES = {
    "dps_style_8_pad2": FourierMagnitude(),
    "daps_style_8_pad2": FourierMagnitude(range_in="unit"),
    "intensity_8_pad2": FourierMagnitude(output="intensity"),
}
# torch itself loads its forward-mode rules with a deprecated call.
FORWARD_MODE = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 1e-5)])
def test_golden_magnitudes(tools, name, dtype, tolerance):
    y = CASES[name](tools.hash_image(1, 3, 8, 8, dtype=dtype))
    assert y.dtype == dtype
    tools.case(y, tools.golden("phase_retrieval")["cases"][name], tolerance)


def test_golden_alignment(tools):
    case = tools.golden("phase_retrieval")["cases"]["align_16"]
    x, noise = tools.hash_image(1, 1, 8, 8), tools.hash_image(1, 1, 16, 16)
    r = torch.nn.functional.pad(torch.complex(x, 0.3 * x.mT), (4, 4, 4, 4))
    turned = torch.exp(torch.tensor(1.1j)) * r.flip(-2, -1).conj()
    estimate = turned.roll((3, 5), (-2, -1)) + 0.05 * torch.complex(noise, noise.flip(-1))
    aligned = align(estimate, r, shifts=True)
    assert float(norm(estimate - r)) == pytest.approx(case["err_before_l2"], rel=1e-6)
    assert float(norm(aligned - r)) == pytest.approx(case["err_after_l2"], rel=1e-6)


@pytest.mark.parametrize("oversample", [0.0, 2.0, 4.0])
def test_energy_is_kept(tools, oversample):
    x = tools.normal(2, 3, 8, 12)
    y = FourierMagnitude(oversample)(x)
    assert y.shape == (2, 3, 8 + 2 * int(oversample), 12 + 2 * int(oversample / 8 * 12))
    tools.close(norm(y), norm(x), 1e-12)


def test_padding_can_be_given():
    assert FourierMagnitude(pad=64).measurement_shape((1, 3, 8, 9)) == (1, 3, 136, 137)


def test_sign_and_turn_are_invisible(tools):
    x, A = tools.normal(2, 3, 8, 9), FourierMagnitude()
    tools.close(A(-x.flip(-2, -1)), A(x), 1e-13)
    B = FourierMagnitude(range_in="unit")
    tools.close(B(x.flip(-2, -1)), B(x), 1e-13)
    assert float((B(-x) - B(x)).abs().max()) > 0.1
    tools.split(A, (3, 3, 8, 9))


@FORWARD_MODE
@pytest.mark.parametrize("output", ["amplitude", "intensity"])
@pytest.mark.parametrize("range_in", ["signed", "unit"])
def test_gradients(tools, output, range_in):
    A = FourierMagnitude(range_in=range_in, output=output)
    x = tools.normal(1, 1, 4, 5).requires_grad_()
    assert torch.autograd.gradcheck(A, x, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(A, x)


def test_gradient_is_finite_at_zero():
    x = torch.zeros(1, 3, 8, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(FourierMagnitude()(x).sum(), x)
    assert bool(gradient.isfinite().all())


def test_align_undoes_sign_and_turn_of_each_image(tools):
    x = tools.normal(4, 3, 8, 9)
    estimate = torch.stack([x[0], -x[1], x[2].flip(-2, -1), -x[3].flip(-2, -1)])
    tools.close(align(estimate, x), x, 0)
    tools.close(align(estimate[3:], x[3:]), x[3:], 0)
    noisy = estimate + 0.1 * tools.normal(4, 3, 8, 9, seed=1)
    assert bool((norm(align(noisy, x) - x) < 0.15 * norm(x)).all())


def test_align_by_channel(tools):
    x = tools.normal(1, 3, 8, 9)
    estimate = torch.stack([x[:, 0], -x[:, 1], x[:, 2].flip(-2, -1)], dim=1)
    tools.close(align(estimate, x, joint_channels=False), x, 0)
    joint = align(estimate, x)
    assert any(bool((joint == v).all()) for v in (estimate, -estimate, estimate.flip(-2, -1)))


def test_align_shifts(tools):
    x = tools.normal(2, 3, 8, 9)
    estimate = torch.stack(
        [x[0].roll((2, -3), (-2, -1)), -x[1].flip(-2, -1).roll((3, 1), (-2, -1))]
    )
    tools.close(align(estimate, x, shifts=True), x, 0)


def test_align_knows_the_sign_of_unit_images(tools):
    x = tools.hash_image(2, 3, 8, 8)
    estimate = x.flip(-2, -1)
    tools.close(align(estimate, x, range_in="unit"), x, 1e-15)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"oversample": 4.0, "range_in": "unit"},
        {"pad": 3, "output": "intensity"},
        {"oversample_side": 2.0},
        {"oversample_side": 2.3, "output": "intensity"},
    ],
)
@pytest.mark.parametrize("size", [(8, 8), (7, 7), (6, 9)])
def test_laws(options, size):
    A = FourierMagnitude(**options)
    check_operator(A, (2, 3, *size)).require()
    check_operator(A.linear_part, (2, 3, *size)).require()


def test_y_is_the_magnitude_of_the_linear_part(tools):
    x = tools.normal(2, 3, 8, 9)
    for range_in, u in (("signed", x), ("unit", (x + 1) / 2)):
        A = FourierMagnitude(range_in=range_in)
        tools.close(A.object_of(x), u, 0)
        tools.close(A(x), A.linear_part(u).abs(), 1e-14)
        # Orthonormal and zero-padded: the adjoint undoes it.
        tools.close(A.linear_part.adjoint(A.linear_part(u)), u, 1e-13)


def test_uneven_padding_puts_the_larger_part_behind():
    assert PaddedFourier(oversample_side=2).padding(7) == (3, 4)


def test_honest_oversampling_keeps_the_autocorrelation(tools):
    x = tools.normal(1, 1, 6, 7)
    y = FourierMagnitude(oversample_side=2, output="intensity")(x)
    assert y.shape == (1, 1, 12, 14)
    found = torch.fft.ifft2(torch.fft.ifftshift(y, (-2, -1)), norm="ortho").real
    whole = torch.nn.functional.conv2d(x, x, padding=(5, 6))
    tools.close(found.roll((5, 6), (-2, -1))[..., :11, :13] * (12 * 14) ** 0.5, whole, 1e-11)


def test_align_without_turns(tools):
    x = tools.normal(2, 3, 8, 9)
    tools.close(align(-x, x, turns=False), x, 0)
    flipped = x.flip(-2, -1)
    tools.close(align(flipped, x, turns=False).abs(), flipped.abs(), 0)
    tools.close(align(x.roll(2, -1), x, shifts=True, turns=False), x, 0)


def test_align_of_two_channels_turns_one_phase(tools):
    x = tools.normal(2, 2, 8, 9)
    o = torch.complex(x[:, :1], x[:, 1:])
    other = torch.exp(torch.tensor(2.5j, dtype=torch.complex128)) * o.flip(-2, -1).conj()
    estimate = torch.cat([other.real, other.imag], dim=1)
    tools.close(align(estimate, x, domain="channels"), x, 1e-12)
    assert float(norm(align(estimate, x) - x).min()) > 0.1
    with pytest.raises(ValueError, match="images need 2 channels"):
        align(tools.normal(1, 3, 4, 4), tools.normal(1, 3, 4, 4), domain="channels")


def test_errors():
    with pytest.raises(ValueError, match="oversample must be finite and not negative"):
        FourierMagnitude(-1.0)
    with pytest.raises(ValueError, match="pad must be a whole number, at least 0, got -1"):
        FourierMagnitude(pad=-1)
    with pytest.raises(ValueError, match=r"unknown range_in 'signd'.*did you mean 'signed'"):
        FourierMagnitude(range_in="signd")
    with pytest.raises(ValueError, match="unknown output"):
        FourierMagnitude(output="phase")
    with pytest.raises(ValueError, match="oversample_side must be at least 1"):
        FourierMagnitude(oversample_side=0.9)
    with pytest.raises(ValueError, match="give pad or oversample_side, not both"):
        FourierMagnitude(pad=3, oversample_side=2)
    with pytest.raises(ValueError, match="unknown domain"):
        align(torch.zeros(1, 2, 8, 8), torch.zeros(1, 2, 8, 8), domain="channel")
    with pytest.raises(ValueError, match="same shape, got"):
        align(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 9))
