"""Random streams: one for each image and purpose, the same under any batching."""

import pytest
import torch

from plugip.rng import Rng, stream_seed

IDS = ["a", "b", "c", "d"]


def draws(rng):
    """One draw of each kind, as floats, image by image."""
    parts = [rng.normal((2, 3)), rng.uniform((5,)), rng.permutation(7).double()]
    numbers = torch.tensor(rng.integers(0, 1000))[:, None].double()
    return torch.cat([*(part.flatten(1).double() for part in parts), numbers], dim=1)


@pytest.mark.parametrize("order", [[0], [2, 0], [3, 2, 1, 0], [1, 3, 0]])
def test_an_image_draws_the_same_in_any_batch_and_order(order):
    everything = draws(Rng(7, "solve", IDS))
    assert torch.equal(draws(Rng(7, "solve", [IDS[i] for i in order])), everything[order])


def test_seed_purpose_and_id_each_give_another_stream():
    streams = [Rng(0, "solve", ["a"]), Rng(1, "solve", ["a"]), Rng(0, "measure", ["a"])]
    streams += [Rng(0, "solve", ["b"]), Rng(0, "solve", ["a"]).child("restart")]
    numbers = {float(rng.normal((1,))) for rng in streams}
    assert len(numbers) == len(streams)


def test_seeds_are_the_same_on_every_machine():
    # sha256 of "0 solve a" with unit separators; a change here changes every published result.
    assert stream_seed(0, "solve", "a") == 2019154083456435663
    # No two triples run into each other.
    assert stream_seed(0, "ab", "c") != stream_seed(0, "a", "bc")


def test_a_selection_goes_on_where_its_images_stand():
    whole, part = Rng(0, "solve", IDS), Rng(0, "solve", IDS)
    first, second = whole.normal((3,)), whole.normal((3,))
    assert torch.equal(part.normal((3,)), first)
    chosen = part.select([3, 1])
    assert chosen.ids == ("d", "b")
    assert len(chosen) == 2
    assert torch.equal(chosen.normal((3,)), second[[3, 1]])


def test_children_do_not_depend_on_what_was_drawn():
    fresh, used = Rng(0, "solve", IDS), Rng(0, "solve", IDS)
    used.normal((100,))
    assert torch.equal(fresh.child("x").normal((2,)), used.child("x").normal((2,)))


def test_numbers_come_on_the_type_of_like_with_the_same_values():
    low, high = Rng(0, "a", IDS), Rng(0, "a", IDS)
    like = torch.zeros(1, dtype=torch.float64)
    assert torch.equal(high.normal((4,), like), low.normal((4,)).double())
    assert high.uniform((4,), like).dtype is torch.float64


def test_distributions():
    rng = Rng(0, "law", ["a"])
    normal, uniform = rng.normal((100_000,)), rng.uniform((100_000,))
    assert abs(float(normal.mean())) < 0.01
    assert abs(float(normal.std()) - 1) < 0.01
    assert 0 <= float(uniform.min()) and float(uniform.max()) < 1
    assert abs(float(uniform.mean()) - 0.5) < 0.01
    assert sorted(rng.permutation(50)[0].tolist()) == list(range(50))
    assert all(3 <= rng.integers(3, 6)[0] < 6 for _ in range(50))


def test_the_global_stream_is_not_touched():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    draws(Rng(0, "solve", IDS))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("ids", [[], ["a", "a"]])
def test_ids_must_be_distinct(ids):
    with pytest.raises(ValueError, match="one distinct name per image"):
        Rng(0, "solve", ids)


def test_branches_keep_the_images_own_stream_and_add_fresh_ones():
    rng = Rng(0, "solve", ["a", "b"])
    rng.normal((2,))
    going_on = Rng(0, "solve", ["a", "b"])
    going_on.normal((2,))
    drawn, own = rng.branch(3).normal((5,)).reshape(2, 3, 5), going_on.normal((5,))
    assert torch.equal(drawn[:, 0], own)
    assert len(drawn.reshape(6, 5).unique(dim=0)) == 6
    alone = Rng(0, "solve", ["b"]).branch(3).normal((5,))
    assert torch.equal(drawn[1, 1:], alone[1:])
