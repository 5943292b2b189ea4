import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plugip import GaussianNoise, Rng, measure
from plugip.operators import BernoulliMask, BoxMask, GaussianBlur, Inpaint, RandomMask
from plugip.operators.packed_inpaint import PackedInpaint
from plugip.testing import check_operator

SHAPE = (2, 3, 6, 7)


def drawn(sampler, shape=SHAPE):
    ids = [str(i) for i in range(shape[0])]
    return PackedInpaint(sampler).realise(Rng(0, "operator", ids), shape)


def test_lists_channels_and_rows_in_order():
    mask = torch.tensor([[1.0, 0, 1], [0, 1, 0]])[None, None]
    x = torch.arange(12.0).reshape(1, 2, 2, 3)
    A = PackedInpaint(mask)
    assert A(x).tolist() == [[0, 2, 4, 6, 8, 10]]
    assert A.adjoint(A(x)).tolist() == [[[[0, 0, 2], [0, 4, 0]], [[6, 0, 8], [0, 10, 0]]]]


def test_masks_may_differ_by_image_and_channel():
    mask = torch.tensor([[[1.0, 0]], [[1, 1]], [[0, 0]], [[0, 1]], [[1, 0]], [[0, 1]]])
    x = torch.arange(12.0).reshape(2, 3, 1, 2)
    A = PackedInpaint(mask.reshape(2, 3, 1, 2))
    assert A(x).tolist() == [[0, 2, 3], [7, 8, 11]]
    assert A.measurement_shape((2, 3, 1, 2)) == (2, 3) and A.domain_shape((2, 3)) == (2, 3, 1, 2)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("batch", [1, 2])
def test_is_a_spectral_operator(tools, batch, channels):
    chosen = tools.normal(batch, channels * 42).argsort(1) < 11 * channels
    A = PackedInpaint(chosen.reshape(batch, channels, 6, 7).float())
    tools.adjoint(A, SHAPE)
    tools.adjoint(A, SHAPE, 1e-5, torch.float32)
    tools.spectrum(A, SHAPE)
    tools.penrose(A, SHAPE)
    tools.split(A, SHAPE)
    check_operator(A, SHAPE).require()
    s = A.spectrum(SHAPE).s.expand(SHAPE)
    assert float(s.sum()) == A.measurement_shape(SHAPE)[1] * 2  # as many ones as numbers
    assert set(s.flatten().tolist()) == {0.0, 1.0}


def test_nothing_measured_is_lost(tools):
    A, y = drawn(RandomMask(0.6)), tools.normal(2, 3 * 17)
    assert A.measurement_shape(SHAPE) == (2, 51)
    tools.close(A(A.pinv(y)), y, 0)


def test_agrees_with_the_zero_filled_form(tools):
    A, x = drawn(RandomMask(0.6)), tools.normal(*SHAPE)
    full = Inpaint(A.mask)
    tools.close(A.adjoint(A(x)), full(x), 0)
    tools.close(A.pinv(A(x)), full.pinv(full(x)), 0)
    tools.close(A.solve_normal(x, 0.3), full.solve_normal(x, 0.3), 1e-14)
    tools.close(A(x).square().sum(1), full(x).square().sum((1, 2, 3)), 1e-12)
    assert A.observed is None


def test_noise_falls_on_every_number(tools):
    A = drawn(BoxMask(3, 1))
    y = measure(A, torch.zeros(SHAPE), GaussianNoise(0.1), 0, ("0", "1"))
    assert y.shape == (2, 3 * (42 - 9)) and bool((y != 0).all())


def test_each_image_has_its_mask_in_any_batch(tools):
    both, x = drawn(RandomMask(0.6)), tools.normal(*SHAPE)
    alone = PackedInpaint(RandomMask(0.6)).realise(Rng(0, "operator", ["1"]), (1, 3, 6, 7))
    tools.close(both(x)[1:], alone(x[1:]), 0)
    tools.close(both.select([1])(x[1:]), alone(x[1:]), 0)
    assert both.realise(Rng(1, "operator", ["a", "b"]), SHAPE) is both
    check_operator(PackedInpaint(RandomMask(0.6)), SHAPE).require()


def test_follows_a_blur(tools):
    A = drawn(RandomMask(0.5)) @ GaussianBlur(1.0, 3)
    tools.adjoint(A, SHAPE)
    check_operator(A, SHAPE).require()


def test_gradients(tools):
    A = drawn(RandomMask(0.5), (1, 1, 4, 5))
    assert torch.autograd.gradcheck(A, tools.normal(1, 1, 4, 5).requires_grad_())


@settings(max_examples=25, deadline=None)
@given(st.floats(0, 0.95), st.integers(1, 9), st.integers(2, 9), st.integers(1, 3), st.data())
def test_any_ratio_and_size(missing, h, w, channels, data):
    shape = (2, channels, h, w)
    A = drawn(RandomMask(missing), shape)
    m = channels * (h * w - int(missing * h * w))
    assert A.measurement_shape(shape) == (2, m)
    values = st.floats(-1e3, 1e3, allow_subnormal=False)
    x = torch.tensor(data.draw(st.lists(values, min_size=4, max_size=4))).double()
    x = x.repeat(2 * channels * h * w)[: 2 * channels * h * w].reshape(shape)
    y = torch.linspace(-1, 2, 2 * m, dtype=torch.float64).reshape(2, m)
    left, right = (A(x) * y).sum(1), (x * A.adjoint(y)).sum((1, 2, 3))
    torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-9)
    assert torch.equal(A(A.pinv(y)), y)


def test_errors():
    uneven = torch.ones(2, 1, 6, 7)
    uneven[0, :, 0] = 0
    with pytest.raises(ValueError, match=r"equally many observed pixels .* got 35 to 42; draw"):
        PackedInpaint(uneven)
    with pytest.raises(ValueError, match="equally many observed pixels"):
        drawn(BernoulliMask(0.5))
    with pytest.raises(ValueError, match="equally many observed pixels"):
        drawn(RandomMask((0.1, 0.9)))
    unknown = PackedInpaint(RandomMask(0.7))
    for use in (unknown, unknown.adjoint, lambda x: unknown.measurement_shape(x.shape)):
        with pytest.raises(RuntimeError, match=r"PackedInpaint has no mask yet.*RandomMask"):
            use(torch.zeros(SHAPE))
    A = drawn(RandomMask(0.5))
    with pytest.raises(ValueError, match="does not fit images of shape"):
        A(torch.zeros(2, 3, 7, 6))
    for wrong in ((2, 20), (2, 0), (2, 3, 6, 7)):
        with pytest.raises(ValueError, match="with m a multiple of the 21 observed pixels, got"):
            A.adjoint(torch.zeros(wrong))
    with pytest.raises(ValueError, match="does not fit images of shape"):
        A.adjoint(torch.zeros(3, 63))
    with pytest.raises(TypeError, match="mask must be a tensor or a sampler such as RandomMask"):
        PackedInpaint(0.7)  # pyright: ignore[reportArgumentType]
