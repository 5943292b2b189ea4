import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plugip.operators import Inpaint, MaskSampler
from plugip.operators.masks import BoxMask
from plugip.operators.random_box import RandomBoxMask
from plugip.rng import Rng
from plugip.testing import check_operator


def rng(*ids, seed=0):
    return Rng(seed, "operator", ids or ("a",))


def box_of(mask):
    """(top, left, height, width) of the hole; the hole must be a full box."""
    hole = mask == 0
    rows, columns = hole.any(1).nonzero()[:, 0], hole.any(0).nonzero()[:, 0]
    height, width = len(rows), len(columns)
    assert int(hole.sum()) == height * width
    return int(rows[0]), int(columns[0]), height, width


def test_defaults_are_the_published_ones_at_256():
    ids = [str(i) for i in range(60)]
    boxes = [box_of(m[0]) for m in RandomBoxMask().draw(rng(*ids), (60, 3, 256, 256))]
    sides = [side for box in boxes for side in box[2:]]
    assert 105 <= min(sides) < 112 and 173 < max(sides) <= 180
    assert any(height != width for _, _, height, width in boxes)
    for top, left, height, width in boxes:
        assert min(top, left) >= 32 and max(top + height, left + width) <= 224


def test_every_side_and_place_is_reached():
    ids = [str(i) for i in range(400)]
    boxes = {box_of(m[0]) for m in RandomBoxMask((2, 3), 1).draw(rng(*ids), (400, 1, 5, 6))}
    assert boxes == {
        (top, left, height, width)
        for height in (2, 3)
        for width in (2, 3)
        for top in range(1, 5 - height)
        for left in range(1, 6 - width)
    }


def test_equal_ends_are_a_box_of_that_side():
    mask = RandomBoxMask((4, 4), 2).draw(rng("a", "b"), (2, 3, 12, 10))
    assert all(box_of(m[0])[2:] == (4, 4) for m in mask)
    assert float(BoxMask(4, 2).draw(rng(), (1, 3, 12, 10)).sum()) == float(mask[0].sum())


@settings(max_examples=20, deadline=None)
@given(
    st.integers(1, 6), st.integers(0, 4), st.integers(0, 3), st.integers(0, 5), st.integers(0, 5)
)
def test_boxes_of_any_range_fit(low, more, margin, extra_h, extra_w):
    high = low + more
    h, w = high + 2 * margin + extra_h, high + 2 * margin + extra_w
    masks = RandomBoxMask((low, high), margin).draw(rng("a", "b", "c"), (3, 1, h, w))
    alone = RandomBoxMask((low, high), margin).draw(rng("c"), (1, 1, h, w))
    assert torch.equal(masks[2:], alone)
    for mask in masks[:, 0]:
        top, left, height, width = box_of(mask)
        assert low <= height <= high and low <= width <= high
        assert margin <= top <= h - margin - height and margin <= left <= w - margin - width


@pytest.mark.parametrize("size", [(16, 18), (7, 9), (64, 64)])
def test_each_image_has_its_box_in_any_batch(size):
    assert isinstance(RandomBoxMask(), MaskSampler)
    both = RandomBoxMask().draw(rng("a", "b"), (2, 3, *size))
    assert both.shape == (2, 1, *size)
    assert torch.equal(both[1:], RandomBoxMask().draw(rng("b"), (1, 3, *size)))
    assert torch.equal(both.flip(0), RandomBoxMask().draw(rng("b", "a"), (2, 3, *size)))
    check_operator(Inpaint(RandomBoxMask()), (2, 3, *size)).require()


def test_errors():
    with pytest.raises(ValueError, match=r"in order, got \(9, 4\)"):
        RandomBoxMask((9, 4))
    with pytest.raises(ValueError, match="sides must be one positive whole number or two"):
        RandomBoxMask((0, 4))
    with pytest.raises(ValueError, match="margin must be a whole number, at least 0, got -1"):
        RandomBoxMask(margin=-1)
    # Refused whatever the draw would have been.
    for seed in range(5):
        with pytest.raises(ValueError, match="a box of 180 pixels with margins of 8 does not fit"):
            RandomBoxMask((1, 180)).draw(rng(seed=seed), (1, 3, 64, 64))
