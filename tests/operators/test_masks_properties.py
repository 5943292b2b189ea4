"""Masks and inpainting at sizes, ratios and values that nobody chose."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plugip.operators import BernoulliMask, BoxMask, ExtremeMask, Inpaint, RandomMask
from plugip.rng import Rng

few = settings(max_examples=30, deadline=None)
sides = st.integers(1, 14)
ratios = st.floats(0, 0.99)
names = st.lists(st.text("abc01", min_size=1), min_size=1, max_size=4, unique=True)
values = st.floats(-1e6, 1e6, allow_subnormal=False)


def missing(mask):
    """Missing pixels of each mask."""
    return (mask == 0).flatten(1).sum(1).tolist()


def tile(numbers, shape):
    flat = torch.tensor(numbers, dtype=torch.float64).repeat(torch.Size(shape).numel())
    return flat[: torch.Size(shape).numel()].reshape(shape)


@few
@given(ratios, sides, sides, names, st.integers(0, 2**31))
def test_random_masks_miss_exactly_the_ratio(ratio, h, w, ids, seed):
    mask = RandomMask(ratio).draw(Rng(seed, "mask", ids), (len(ids), 3, h, w))
    assert mask.shape == (len(ids), 1, h, w) and set(mask.flatten().tolist()) <= {0.0, 1.0}
    assert missing(mask) == [int(ratio * h * w)] * len(ids)


@few
@given(st.lists(ratios, min_size=2, max_size=2), sides, sides, names, st.integers(0, 2**31))
def test_drawn_ratios_lie_between_the_ends(ends, h, w, ids, seed):
    low, high = sorted(ends)
    mask = RandomMask((low, high)).draw(Rng(seed, "mask", ids), (len(ids), 1, h, w))
    assert all(int(low * h * w) <= n <= int(high * h * w) for n in missing(mask))


@few
@given(st.data(), names, sides, sides)
def test_an_image_keeps_its_mask_in_any_batch(data, ids, h, w):
    samplers = [RandomMask(0.5), RandomMask((0.1, 0.8)), BernoulliMask(0.4), BoxMask()]
    sampler = data.draw(st.sampled_from([*samplers, ExtremeMask(1, 0)]))
    one = data.draw(st.sampled_from(ids))
    together = sampler.draw(Rng(3, "mask", ids), (len(ids), 1, h, w))
    alone = sampler.draw(Rng(3, "mask", [one]), (1, 1, h, w))
    assert torch.equal(together[ids.index(one)], alone[0])


@few
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 3), st.integers(0, 4), names)
def test_boxes_have_their_size_and_margin(box_h, box_w, margin, extra, ids):
    h, w = box_h + 2 * margin + extra, box_w + 2 * margin + extra // 2
    mask = BoxMask((box_h, box_w), margin).draw(Rng(0, "mask", ids), (len(ids), 1, h, w))
    assert missing(mask) == [box_h * box_w] * len(ids)
    inner = mask[..., margin : h - margin, margin : w - margin]
    assert missing(inner) == [box_h * box_w] * len(ids)


@few
@given(
    st.lists(values, min_size=1, max_size=9),
    st.lists(values, min_size=1, max_size=9),
    st.integers(1, 3),
    sides,
    sides,
    st.floats(0, 0.9),
)
def test_inpainting_is_an_orthogonal_projection(numbers, others, channels, h, w, ratio):
    A, shape = Inpaint.random(ratio, (h, w), ids=("a", "b")), (2, channels, h, w)
    x, y = tile(numbers, shape), tile(others, shape)
    assert torch.equal(A(A(x)), A(x)) and torch.equal(A.pinv(A(x)), A(x))
    left, right = (A(x) * y).sum(), (x * A.adjoint(y)).sum()
    scale = float(x.norm() * y.norm())
    assert float(left) == pytest.approx(float(right), abs=1e-13 * scale)
    assert float(A(x).norm()) <= float(x.norm())
    lam = 0.5
    want = torch.where(A.mask == 1, x / (1 + lam), x / lam)
    torch.testing.assert_close(A.solve_normal(x, lam), want, rtol=1e-12, atol=0)
