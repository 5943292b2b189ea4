import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plugip.operator import LinearOperator, SpectralOperator
from plugip.operators.blind_blur import (
    CONSTRAINTS,
    BlindBlur,
    align_shift,
    drawn_kernel,
    find_shift,
    move,
)
from plugip.operators.blur import Blur
from plugip.operators.separable import BOUNDARIES
from plugip.operators.separable_blur import gaussian_taps
from plugip.rng import Rng
from plugip.testing import check_operator


def rng(*ids):
    return Rng(0, "operator", ids)


def gaussian(std, size):
    taps = torch.from_numpy(gaussian_taps(std, size))
    return torch.outer(taps, taps)[None, None]


def some_kernels(tools, *shape):
    return CONSTRAINTS["simplex"].apply(tools.normal(*shape, seed=5))


class Given:
    """A sampler that always draws one kernel."""

    def __init__(self, kernel):
        self.kernel = kernel

    def draw(self, rng, x_shape):
        return self.kernel.expand(len(rng), *self.kernel.shape[-2:])


def test_golden_blind_blur_of_dmplug(tools):
    case = tools.golden("blind_blur")["cases"]["dmplug_bid_gaussian_64_3_same"]
    A = BlindBlur(64, origin=(31, 31)).at(gaussian(3.0, 64))
    tools.case(A(tools.hash_image(1, 3, 64, 64)), case)
    tools.case(A(tools.hash_image(1, 3, 64, 64, dtype=torch.float32)), case, 1e-5)


def test_the_golden_is_shifted_by_one_pixel(tools):
    x, k = tools.hash_image(1, 3, 64, 64), gaussian(3.0, 64)
    legacy, centred = (Blur(k, "zero", origin=(o, o))(x) for o in (31, 32))
    tools.close(legacy[..., :-1, :-1], centred[..., 1:, 1:], 1e-12)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("size", [(8, 7), (7, 10)])
@pytest.mark.parametrize(
    ("kernel", "origin"), [((3, 5), None), ((4, 2), (1, 1)), ((4, 3), (3, 0))]
)
def test_a_blur_is_its_definition(tools, boundary, size, kernel, origin):
    from plugip.operators.separable import fold

    k, x = some_kernels(tools, 2, 1, *kernel), tools.normal(2, 3, *size)
    A = Blur(k, boundary, origin=origin)
    o = origin or (kernel[0] // 2, kernel[1] // 2)
    want = torch.zeros_like(x)
    for i in range(size[0]):
        for j in range(size[1]):
            for a in range(kernel[0]):
                for b in range(kernel[1]):
                    r, c = (int(fold(torch.tensor(p).numpy(), n, boundary)) for p, n in
                            zip((i + a - o[0], j + b - o[1]), size, strict=True))  # fmt: skip
                    if r >= 0 and c >= 0:
                        want[:, :, i, j] += k[:, :, a, b] * x[:, :, r, c]
    tools.close(A(x), want, 1e-12)
    assert isinstance(A, SpectralOperator) == (boundary == "circular")
    check_operator(A, (2, 3, *size)).require()


@pytest.mark.parametrize("boundary", ["zero", "circular"])
def test_adjoints(tools, boundary):
    A = Blur(some_kernels(tools, 2, 3, 5, 5), boundary)
    tools.adjoint(A, (2, 3, 8, 9))
    tools.adjoint(A, (2, 3, 8, 9), 1e-4, torch.float32)
    if isinstance(A, SpectralOperator):
        tools.spectrum(A, (2, 3, 8, 9))
        tools.penrose(A, (2, 3, 8, 9))


def test_a_kernel_that_is_lost_spoils_its_own_image_only(tools):
    k, x = some_kernels(tools, 2, 1, 5, 5), tools.normal(2, 3, 8, 8)
    lost = torch.cat([k[:1], k[1:] / 0])
    y = BlindBlur(5).at(lost)(x)
    tools.close(y[0], BlindBlur(5).at(k)(x)[0], 0)
    assert not bool(y[1].isfinite().any())


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_constants_pass_any_kernel(data):
    h, w = data.draw(st.integers(4, 12)), data.draw(st.integers(4, 12))
    rows, columns = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    origin = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, columns - 1))
    boundary = data.draw(st.sampled_from(["reflect", "symmetric", "replicate", "circular"]))
    k = torch.rand(1, 1, rows, columns, dtype=torch.float64, generator=torch.Generator()) + 0.1
    x = torch.full((1, 2, h, w), 0.3, dtype=torch.float64)
    y = Blur(k / k.sum(), boundary, origin=origin)(x)
    torch.testing.assert_close(y, x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("constraint", CONSTRAINTS)
@pytest.mark.parametrize("per_channel", [False, True])
def test_kernels_are_admissible(tools, constraint, per_channel):
    A, like = BlindBlur((5, 7), constraint, per_channel=per_channel), torch.zeros(2, 3, 8, 8)
    theta = A.init_theta(rng("a", "b"), like)
    assert theta.shape == (2, 3 if per_channel else 1, 5, 7) and theta.dtype == like.dtype
    k = A.constrain(5 * theta.double() - 2)
    assert bool((k >= 0).all())
    tools.close(k.sum((-2, -1)), torch.ones_like(k[..., 0, 0]), 1e-12)
    assert isinstance(A.at(k), LinearOperator)
    tools.close(A.init_theta(rng("b"), like[:1]), theta[1:])
    assert A.learning_rate_hint == {"simplex": 0.1, "nonneg": 0.01}[constraint]
    assert A.measurement_shape((2, 3, 9, 8)) == (2, 3, 9, 8)


def test_the_first_logits_are_standard_normal():
    theta = BlindBlur(63).init_theta(rng("a"), torch.zeros(1, 3, 64, 64))
    assert abs(float(theta.mean())) < 0.06 and abs(float(theta.std()) - 1) < 0.05


@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_gradients_in_image_and_kernel(tools, constraint):
    A = BlindBlur(3, constraint, "reflect")
    theta = (1 + 0.1 * tools.normal(1, 1, 3, 3)).requires_grad_()
    x = tools.hash_image(1, 2, 4, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda v, t: A.at(A.constrain(t))(v), (x, theta))


def test_bilinear(tools):
    A, x = BlindBlur(5), tools.normal(2, 3, 8, 8)
    k, m = some_kernels(tools, 2, 1, 5, 5), tools.normal(2, 1, 5, 5)
    tools.close(A.at(2 * k - 3 * m)(x), 2 * A.at(k)(x) - 3 * A.at(m)(x), 1e-12)


def test_kernel_and_image_move_together(tools):
    k, x = some_kernels(tools, 2, 1, 9, 9), tools.normal(2, 3, 16, 16)
    k = torch.nn.functional.pad(k[..., 2:-2, 2:-2], (2, 2, 2, 2))
    shift = torch.tensor([[1, -2], [0, 2]])
    A = BlindBlur(9, boundary="circular")
    moved = A.at(move(k, shift, "zero"))(move(x, shift, "circular"))
    tools.close(moved, A.at(k)(x), 1e-12)


@pytest.mark.parametrize("boundary", ["replicate", "circular"])
def test_align_shift_undoes_a_shift(tools, boundary):
    x = tools.normal(3, 3, 32, 24)
    shift = torch.tensor([[3, -2], [0, 0], [-5, 4]])
    moved = move(x, shift, boundary) + 0.05 * tools.normal(3, 3, 32, 24, seed=3)
    assert torch.equal(find_shift(moved, x), -shift)
    inside = (..., slice(6, -6), slice(6, -6))
    assert float((align_shift(moved, x) - x)[inside].abs().max()) < 0.3
    assert torch.equal(find_shift(moved, x, 5), -shift)
    assert int(find_shift(moved, x, 2).abs().max()) <= 2
    tools.close(align_shift(x, x), x)


def test_true_kernels_are_placed_on_the_origin(tools):
    k = some_kernels(tools, 1, 1, 3, 3)[0]
    A = BlindBlur((7, 8), boundary="zero", origin=(2, 4), truth=Given(k))
    placed = A.draw_theta(rng("a", "b"), (2, 3, 16, 16))
    assert placed.shape == (2, 1, 7, 8)
    tools.close(placed[:, 0, 1:4, 3:6], k.expand(2, 3, 3))
    x = tools.normal(2, 3, 16, 16)
    tools.close(A.draw(rng("a", "b"), (2, 3, 16, 16))(x), Blur(k[None], "zero")(x))
    assert A.unknown().truth is None and A.truth is not None
    same = BlindBlur(3, truth=Given(k)).draw_theta(rng("a"), (1, 3, 8, 8))
    tools.close(same[0], k)


def test_any_kernel_sampler_is_a_truth():
    from plugip.operators.kernels import DefocusKernel

    A = BlindBlur(15, truth=DefocusKernel())
    assert A.draw(rng("a", "b"), (2, 3, 32, 32)).measurement_shape((2, 3, 32, 32))[0] == 2


def test_errors(tools):
    with pytest.raises(
        ValueError, match=r"64 x 64 taps has no middle pixel; give origin=\(31, 31\)"
    ):
        BlindBlur(64)
    with pytest.raises(ValueError, match="origin must be a tap of the kernel of 3 x 3"):
        BlindBlur(3, origin=(3, 0))
    with pytest.raises(ValueError, match=r"unknown constraint 'simplx'.*did you mean 'simplex'"):
        BlindBlur(3, "simplx")
    with pytest.raises(ValueError, match="unknown boundary"):
        BlindBlur(3, boundary="mirror")
    with pytest.raises(ValueError, match=r"33 taps reaches 16 pixels .* 16 pixels high"):
        BlindBlur(33, boundary="reflect").check_domain((1, 3, 16, 64))
    with pytest.raises(ValueError, match=r"9 taps does not fit .* 8 pixels wide"):
        Blur(gaussian(1.0, 9), "circular")(torch.zeros(1, 3, 9, 8))
    with pytest.raises(ValueError, match="2 kernels for a batch of 3 images"):
        Blur(some_kernels(tools, 2, 1, 3, 3))(torch.zeros(3, 3, 8, 8))
    with pytest.raises(ValueError, match="2 kernels for the 3 channels of each image"):
        Blur(some_kernels(tools, 1, 2, 3, 3))(torch.zeros(3, 3, 8, 8))
    with pytest.raises(ValueError, match="kernel must be floating point"):
        Blur(torch.ones(3))
    with pytest.raises(ValueError, match="a true kernel of 5 x 5 does not fit"):
        drawn_kernel(Given(torch.ones(5, 5)), rng("a"), (1, 3, 8, 8), (3, 3), (1, 1))
    with pytest.raises(TypeError, match=r"BlindBlur cannot simulate .* give truth="):
        BlindBlur(3).draw(rng("a"), (1, 3, 8, 8))
    with pytest.raises(TypeError, match="BlindBlur has an unknown part"):
        BlindBlur(3)(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match=r"two .* batches of the same shape"):
        align_shift(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 9))
    with pytest.raises(ValueError, match=r"max_shift must lie in \[0, 8\), got 8"):
        find_shift(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8), 8)
