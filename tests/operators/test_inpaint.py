import copy

import pytest
import torch

from plugip import GaussianNoise, Rng, measure
from plugip.operators import BicubicDownsample, BoxMask, Inpaint, RandomMask

SHAPE = (2, 3, 8, 10)


def masked(*ids):
    return Inpaint.random(0.6, (8, 10), ids=ids or ("a", "b"))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("batch", [1, 2])
def test_is_a_linear_operator(tools, batch, channels):
    mask = (tools.normal(batch, channels, 8, 10) > 0).float()
    A = Inpaint(mask)
    tools.adjoint(A, SHAPE)
    tools.spectrum(A, SHAPE)
    tools.penrose(A, SHAPE)
    tools.split(A, SHAPE)


def test_is_a_projection(tools):
    A, x = masked(), tools.normal(*SHAPE)
    tools.close(A(A(x)), A(x), 0)
    tools.close(A.pinv(A(x)), A(x), 0)
    assert bool((A(x)[A.mask.expand(SHAPE) == 1] == x[A.mask.expand(SHAPE) == 1]).all())
    assert bool((A(x)[A.mask.expand(SHAPE) == 0] == 0).all())


def test_precision_is_that_of_the_image(tools):
    for dtype in (torch.float32, torch.float64):
        x = tools.normal(*SHAPE, dtype=dtype)
        assert masked()(x).dtype == masked().pinv(x).dtype == dtype


def test_each_image_has_its_mask_in_any_batch(tools):
    both, x = masked("a", "b"), tools.normal(*SHAPE)
    tools.close(both(x)[1:], masked("b")(x[1:]), 0)
    tools.close(both.select([1])(x[1:]), both(x)[1:], 0)
    again = Inpaint(RandomMask(0.6)).realise(Rng(0, "operator", ["b", "a"]), SHAPE)
    tools.close(again.mask, both.mask[[1, 0]], 0)
    assert int((both.mask == 0).sum()) == 2 * 48


def test_realising_leaves_the_sampler_alone():
    A = Inpaint(BoxMask())
    fixed = A.realise(Rng(0, "operator", ["a", "b"]), SHAPE)
    assert fixed is fixed.realise(Rng(1, "operator", ["a", "b"]), SHAPE)
    assert A.sampler == BoxMask() and fixed.mask.shape == (2, 1, 8, 10)
    assert A.measurement_shape(SHAPE) == fixed.measurement_shape(SHAPE) == SHAPE
    assert A.double().realise(Rng(0, "operator", ["a", "b"]), SHAPE).mask.dtype == torch.float64


def test_compositions_are_realised_too(tools):
    A = BicubicDownsample(2) @ Inpaint(RandomMask(0.6))
    assert A.measurement_shape(SHAPE) == (2, 3, 4, 5)
    fixed = A.realise(Rng(0, "operator", ["a", "b"]), SHAPE)
    tools.adjoint(fixed, SHAPE)
    tools.split(fixed, SHAPE)


def test_noise_on_observed_or_all_pixels():
    x, noise = torch.zeros(SHAPE), GaussianNoise(0.1)
    A = masked()
    full = Inpaint(A.mask, noise_on="all")
    assert full.observed is None
    assert bool((A.observed == A.mask).all())
    seen = A.mask.expand(SHAPE) == 1
    y, y_full = (measure(op, x, noise, 0, ("a", "b")) for op in (A, full))
    assert bool((y[~seen] == 0).all()) and bool((y[seen] == y_full[seen]).all())
    assert bool((y_full[~seen] != 0).all())


def test_gradients_and_copies(tools):
    x = tools.normal(1, 1, 8, 10).requires_grad_()
    A = copy.deepcopy(masked("a"))
    assert torch.autograd.gradcheck(A, x)
    tools.close(A.mask, masked("a").mask, 0)


def test_use_before_realise():
    A = Inpaint(RandomMask(0.7))
    message = r"no mask yet.*RandomMask\(missing=0.7\).*operator.realise\(rng, x.shape\)"
    for use in (A, A.adjoint, A.pinv, lambda x: A.observed):
        with pytest.raises(RuntimeError, match=message):
            use(torch.zeros(SHAPE))
    with pytest.raises(ValueError, match="one stream per image, got 1 for 2 images"):
        A.realise(Rng(0, "operator", ["a"]), SHAPE)


def test_errors():
    with pytest.raises(ValueError, match=r"use mask\[None, None\]"):
        Inpaint(torch.ones(8, 8))
    with pytest.raises(ValueError, match=r"holds only 1 \(observed\) and 0"):
        Inpaint(torch.full((1, 1, 8, 8), 255.0))
    with pytest.raises(ValueError, match="observes no pixel"):
        Inpaint(torch.tensor([1.0, 0.0]).reshape(2, 1, 1, 1).expand(2, 1, 4, 4))
    with pytest.raises(TypeError, match=r"mask must be a tensor or a sampler .* got float"):
        Inpaint(0.7)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"unknown noise_on 'observd'.*did you mean 'observed'"):
        Inpaint(RandomMask(), noise_on="observd")
    A = masked()
    for shape in ((3, 3, 8, 10), (2, 3, 8, 8), (2, 3, 1, 1)):
        for use in (A, A.adjoint, A.pinv):
            with pytest.raises(ValueError, match="does not fit images of shape"):
                use(torch.zeros(shape))
    for shape in ((3, 8, 10), (2, 2, 3, 8, 10)):  # both would broadcast
        with pytest.raises(ValueError, match="does not fit images of shape"):
            A.adjoint(torch.zeros(shape))
    with pytest.raises(ValueError, match="does not fit images of shape"):
        A.select([0, 0, 1])(torch.zeros(SHAPE))
