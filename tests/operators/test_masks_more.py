import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plugip.operators import BoxMask, Inpaint, MaskSampler
from plugip.operators.brush import BrushMask, distance_to_path
from plugip.operators.masks import BernoulliMask, ExtremeMask
from plugip.rng import Rng
from plugip.testing import check_operator

SAMPLERS = [BernoulliMask(0.6), ExtremeMask(), ExtremeMask((3, 5), 0), BrushMask()]


def rng(*ids, seed=0):
    return Rng(seed, "operator", ids or ("a",))


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_masks_do_not_depend_on_the_batch(sampler):
    assert isinstance(sampler, MaskSampler)
    both = sampler.draw(rng("a", "b"), (2, 3, 16, 18))
    alone = sampler.draw(rng("b"), (1, 3, 16, 18))
    assert both.shape == (2, 1, 16, 18) and set(both.flatten().tolist()) == {0.0, 1.0}
    assert torch.equal(both[1], alone[0]) and not torch.equal(both[0], both[1])
    assert not torch.equal(alone, sampler.draw(rng("b", seed=1), (1, 3, 16, 18)))


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
@pytest.mark.parametrize("size", [(16, 18), (13, 11)])
def test_inpainting_with_them(sampler, size):
    check_operator(Inpaint(sampler), (2, 3, *size)).require()


def test_bernoulli_rate():
    masks = BernoulliMask(0.7).draw(rng("a", "b"), (2, 3, 200, 200))
    missing = (masks == 0).flatten(1).double().mean(1)
    assert bool(((missing - 0.7).abs() < 4 * math.sqrt(0.21) / 200).all())
    assert missing[0] != missing[1]  # the count varies
    assert bool((BernoulliMask(0.0).draw(rng(), (1, 1, 9, 9)) == 1).all())


def test_extreme_is_the_complement_of_a_box():
    cases: list[tuple] = [(), (5, 2), ((3, 4), 0)]
    for arguments in cases:
        box = BoxMask(*arguments).draw(rng("a", "b"), (2, 3, 16, 18))
        assert torch.equal(ExtremeMask(*arguments).draw(rng("a", "b"), (2, 3, 16, 18)), 1 - box)
    assert float(ExtremeMask().draw(rng(), (1, 3, 64, 64)).mean()) == 0.25


@settings(max_examples=10, deadline=None)
@given(st.floats(0.05, 0.6), st.floats(0.08, 0.3), st.integers(20, 60), st.integers(20, 60))
def test_brush_ratio_lies_in_the_range(low, width, h, w):
    holes = BrushMask((low, low + width)).draw(rng("a", "b", "c"), (3, 3, h, w)) == 0
    ratio = holes.flatten(1).double().mean(1)
    assert bool((ratio >= low).all()) and bool((ratio <= low + width).all())


def test_brush_uses_the_whole_range_and_image():
    ids = [str(i) for i in range(40)]
    holes = BrushMask().draw(rng(*ids), (40, 3, 48, 40))[:, 0] == 0
    ratio = holes.double().mean((1, 2))
    assert ratio.min() < 0.18 and ratio.max() > 0.42 and 0.25 < ratio.mean() < 0.35
    often = holes.double().mean(0)
    assert often.min() > 0 and often.max() < 0.7  # no pixel is spared, none always hit


def test_brush_scales_with_the_image():
    small, large = (BrushMask().draw(rng("a"), (1, 1, side, side)) for side in (64, 256))
    shrunk = torch.nn.functional.avg_pool2d(large, 4)
    assert float((small - shrunk).abs().mean()) < 0.08


def test_distance_to_a_path():
    points = torch.tensor([[1.5, 1.5], [1.5, 4.5], [1.5, 4.5]], dtype=torch.float64)
    d = distance_to_path(points, 4, 7)
    assert d[1, 1:5].tolist() == [0, 0, 0, 0]  # on the line
    assert d[3, 2] == 2 and d[1, 6] == 2 and d[1, 0] == 1  # beside it, and beyond its ends
    assert float(d[2, 5]) == pytest.approx(2**0.5)  # caps are round


def test_errors():
    with pytest.raises(ValueError, match=r"missing must lie in \[0, 1\), got 1"):
        BernoulliMask(1)
    with pytest.raises(ValueError, match="margin must be a whole number, at least 0, got -1"):
        ExtremeMask(margin=-1)
    with pytest.raises(ValueError, match="a box of 60 pixels with margins of 4 does not fit"):
        ExtremeMask(size=60).draw(rng(), (1, 3, 64, 64))
    for wrong in ((0.5, 0.1), (0.0, 0.5), (0.5, 1.0), (0.5,), 0.5):
        with pytest.raises(ValueError, match=r"missing must be two numbers in \(0, 1\), in order"):
            BrushMask(missing=wrong)  # pyright: ignore[reportArgumentType]
    for wrong in ((1, 4), (4, 3), (4.5, 6)):
        with pytest.raises(ValueError, match="vertices must be two whole numbers, 2 or more"):
            BrushMask(vertices=wrong)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"width must be two numbers in \(0, 1\], in order"):
        BrushMask(width=(0.1, 2.0))
    with pytest.raises(ValueError, match=r"length must be two numbers in \(0, 1\], in order"):
        BrushMask(length=(0.0, 0.1))
    with pytest.raises(RuntimeError, match=r"1000 strokes did not give a hole of 0.001 to 0.002"):
        BrushMask((0.001, 0.002)).draw(rng(), (1, 3, 12, 12))
