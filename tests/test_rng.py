"""Random streams: one for each image and purpose, the same under any batching."""

import hashlib

import numpy as np
import pytest
import torch

import plugip.rng
from plugip.rng import Rng, open_stream, seed_torch, stream_key, stream_seed

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


def test_keys_are_the_same_on_every_machine():
    # sha256 of "0 solve a" with unit separators; a change here changes every published result.
    assert stream_key(0, "solve", "a").hex() == (
        "380af3e1c6668b9fc16ca2d0a3f1ec182428f3ee85cf1789c265717e3db466aa"
    )
    assert stream_seed(0, "solve", "a") == 4038308166912871327


def test_numbers_are_the_same_on_every_machine():
    drawn = Rng(0, "solve", ["a"]).uniform((3,))[0]
    assert torch.allclose(drawn, torch.tensor([0.6436560, 0.7056106, 0.8252666]), atol=1e-6)


@pytest.mark.parametrize(
    "triples",
    [
        ((0, "ab", "c"), (0, "a", "bc")),
        ((0, "a\x1fb", "c"), (0, "a", "b\x1fc")),
        ((0, "a\x1e_b", "c"), (0, "a\x1fb", "c")),
        ((0, "a\x1e", "c"), (0, "a", "\x1ec")),
        ((1, "a", "b"), (1 + 2**32, "a", "b")),
        ((1, "a", "b"), (1 + 2**64, "a", "b")),
        ((-1, "a", "b"), (1, "a", "b")),
        ((0, "a", "\udce9.png"), (0, "a", "\udce8.png")),  # names that are not UTF-8
    ],
)
def test_no_two_triples_run_into_each_other(triples):
    first, second = (stream_key(*triple) for triple in triples)
    assert first != second
    assert not torch.equal(*(Rng(r, p, [i]).normal((4,)) for r, p, i in triples))


def test_streams_of_many_names_and_purposes_have_a_key_each():
    names = [f"{i:06d}.png" for i in range(50_000)]
    purposes = ("operator", "measure", "solve", "check")
    seeds = {stream_seed(0, purpose, name) for purpose in purposes for name in names}
    assert len(seeds) == 200_000


@pytest.mark.parametrize(
    ("one", "other"),
    [
        # Equal in the 32 bits that torch's manual_seed keeps of a stream's seed.
        (("solve", "44899.png"), ("solve", "136333.png")),
        (("solve", "21027.png"), ("solve", "119198.png")),
        (("measure", "05002.png"), ("solve", "85723.png")),
    ],
)
def test_streams_whose_seeds_share_32_bits_differ(one, other):
    first, second = (Rng(0, purpose, [name]).normal((64,)) for purpose, name in (one, other))
    assert float((first - second).abs().min()) > 0


def test_generators_seeded_by_numbers_that_share_32_bits_differ():
    keys = [bytes([i]) + bytes(31) for i in (0, 1)]
    first, second = (torch.rand(64, generator=open_stream(key)) for key in keys)
    assert not torch.equal(first, second)
    states = []
    for key in keys:
        with torch.random.fork_rng():
            seed_torch(key)
            states.append(torch.rand(64))
    assert torch.equal(states[0], first)
    assert torch.equal(states[1], second)


def test_torch_draws_what_the_mersenne_twister_of_numpy_draws():
    words = np.frombuffer(hashlib.shake_256(bytes(32)).digest(4 * 624), "<u4").copy()
    words[0] |= 2**31
    twister = np.random.MT19937(0)
    twister.state = {"bit_generator": "MT19937", "state": {"key": words, "pos": 624}}
    raw = torch.from_numpy(twister.random_raw(2000).astype(np.int64))
    drawn = torch.rand(2000, generator=open_stream(bytes(32)))
    assert torch.equal(drawn, (raw % 2**24).float() / 2**24)


@pytest.mark.parametrize("words", [slice(2, 626), slice(0, 624), slice(600, 1224)])
def test_a_torch_with_another_layout_is_refused(monkeypatch, words):
    monkeypatch.setattr(plugip.rng, "WORDS", words)
    plugip.rng._require_layout.cache_clear()
    with pytest.raises(RuntimeError, match="layout"):
        open_stream(bytes(32))
    plugip.rng._require_layout.cache_clear()


@pytest.mark.parametrize("seed", [1.5, 1.0, True, "0", None, torch.Generator()])
def test_a_seed_is_an_integer(seed):
    with pytest.raises(TypeError, match="rng_seed must be an integer"):
        Rng(seed, "solve", ["a"])
    assert len(Rng(np.int64(3), "solve", ["a"])) == 1  # type: ignore[arg-type]


@pytest.mark.parametrize("ids", [3, None, [0, 1], [b"a"], torch.zeros(2)])
def test_ids_are_texts(ids):
    with pytest.raises(TypeError, match="ids must be a list"):
        Rng(0, "solve", ids)


def held_by(rng):
    """All that a stream holds, down to texts, numbers and bytes."""
    seen, todo = [], [rng]
    while todo:
        thing = todo.pop()
        if isinstance(thing, (list, tuple, set)):
            todo += thing
        elif isinstance(thing, dict):
            todo += [*thing, *thing.values()]
        elif hasattr(thing, "__dict__") and not isinstance(thing, torch.Tensor):
            todo.append(vars(thing))
        else:
            seen.append(thing)
    return seen


@pytest.mark.parametrize("make", [lambda r: r, lambda r: r.child("x"), lambda r: r.branch(2)])
def test_a_stream_knows_neither_its_seed_nor_its_ids(make):
    held = held_by(make(Rng(90210, "solve", ["secret.png"])))
    assert not [v for v in held if isinstance(v, int)]
    for word in ("secret", "90210", "solve"):
        assert not [v for v in held if isinstance(v, (str, bytes)) and word in str(v)]


def test_no_key_of_a_stream_opens_it_or_another_purpose_again():
    rng = Rng(0, "solve", ["a"])
    keys = [v for v in held_by(rng) if isinstance(v, bytes)]
    again = [torch.randn((8,), generator=open_stream(key)) for key in keys]
    known = [Rng(0, p, ["a"]).normal((8,))[0] for p in ("solve", "measure", "operator")]
    assert keys
    assert not any(torch.equal(a, b) for a in again for b in known)


def test_the_shared_stream_is_one_for_any_batch_and_no_images():
    one = Rng(0, "operator", IDS).child("rows").shared().normal((4,))
    assert one.shape == (1, 4)
    assert torch.equal(one, Rng(0, "operator", ["d"]).child("rows").shared().normal((4,)))
    for name in ("all images", ""):
        own = Rng(0, "operator", [name]).child("rows").normal((4,))
        assert not torch.equal(one, own)
    assert not torch.equal(one, Rng(0, "operator", IDS).shared().normal((4,)))


def test_a_selection_goes_on_where_its_images_stand():
    whole, part = Rng(0, "solve", IDS), Rng(0, "solve", IDS)
    first, second = whole.normal((3,)), whole.normal((3,))
    assert torch.equal(part.normal((3,)), first)
    chosen = part.select([3, 1])
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


def test_counts_that_are_no_whole_numbers_any_more_are_refused():
    rng = Rng(0, "a", ["x"])
    assert float(rng.poisson(torch.full((1, 1), 1e14, dtype=torch.float64))) > 9e13
    with pytest.raises(ValueError, match=r"rates must be at most 1e\+15, got 1e\+17"):
        rng.poisson(torch.full((1, 1), 1e17, dtype=torch.float64))


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
