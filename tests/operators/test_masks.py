import hashlib

import numpy as np
import pytest
import torch
from PIL import Image

from plugip.operators import BoxMask, FileMask, MaskSampler, RandomMask, legacy_dps_mask
from plugip.rng import Rng

SAMPLERS = [RandomMask(0.7), RandomMask((0.2, 0.9)), BoxMask(), BoxMask((3, 5), 0)]
LEGACY = [
    "random_0_(0.7, 0.7)",
    "random_0_(0.92, 0.92)",
    "random_0_(0.3, 0.7)",
    "random_123_(0.7, 0.7)",
    "box_0_(128, 129)",
    "box_7_(105, 180)",
]


def rng(*ids, seed=0):
    return Rng(seed, "operator", ids or ("a",))


@pytest.mark.parametrize("name", LEGACY)
def test_golden_legacy_masks(tools, name):
    case = tools.golden("inpainting_legacy_masks")["cases"][name]
    ((_, between),) = case["params"].items()
    state = np.random.RandomState(case["seed"])
    mask = legacy_dps_mask(state, name.split("_")[0], between=tuple(between))[0, 0].numpy()
    missing = np.nonzero(mask.ravel() == 0)[0]
    assert missing.size == case["n_missing"] and int(missing.sum()) == case["sum_index"]
    assert missing[:10].tolist() == case["first10"]
    packed = np.packbits(mask.astype(np.uint8)).tobytes()
    assert hashlib.sha256(packed).hexdigest() == case["sha256_packbits"]


@pytest.mark.parametrize("missing", [0.0, 0.29, 0.7, 0.92])
@pytest.mark.parametrize("size", [(10, 10), (7, 9)])
def test_random_mask_counts_exactly(missing, size):
    mask = RandomMask(missing).draw(rng("a", "b"), (2, 3, *size))
    assert mask.shape == (2, 1, *size)
    assert (mask == 0).flatten(1).sum(1).tolist() == [int(missing * size[0] * size[1])] * 2


def test_drawn_ratios_fill_their_range():
    ids = [str(i) for i in range(300)]
    holes = RandomMask((0.3, 0.7)).draw(rng(*ids), (300, 3, 20, 20)) == 0
    ratio = holes.flatten(1).double().mean(1)
    assert 0.3 <= float(ratio.min()) < 0.32 and 0.68 < float(ratio.max()) < 0.7
    assert abs(float(ratio.mean()) - 0.5) < 4 * 0.4 / 12**0.5 / 300**0.5
    assert float(holes.double().mean(0).std()) < 0.04  # every pixel alike


def test_a_range_of_one_ratio_is_that_ratio():
    for pair in ((0.6, 0.6), [0.6, 0.6]):
        mask = RandomMask(pair).draw(rng("a", "b"), (2, 3, 9, 10))  # pyright: ignore[reportArgumentType]
        assert torch.equal(mask, RandomMask(0.6).draw(rng("a", "b"), (2, 3, 9, 10)))


def test_box_mask_defaults_are_the_published_ones():
    ids = [str(i) for i in range(20)]
    holes = BoxMask().draw(rng(*ids), (20, 3, 256, 256))[:, 0] == 0
    for hole in holes:
        rows, columns = hole.any(1).nonzero()[:, 0], hole.any(0).nonzero()[:, 0]
        assert len(rows) == len(columns) == 128 and int(hole.sum()) == 128**2
        assert min(rows[0], columns[0]) >= 16 and max(rows[-1], columns[-1]) < 240


def test_box_mask_reaches_every_place():
    ids = [str(i) for i in range(200)]
    holes = BoxMask(2, 1).draw(rng(*ids), (200, 1, 5, 6))[:, 0] == 0
    corners = {tuple(hole.nonzero()[0].tolist()) for hole in holes}
    assert corners == {(row, column) for row in (1, 2) for column in (1, 2, 3)}


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_masks_do_not_depend_on_the_batch(sampler):
    assert isinstance(sampler, MaskSampler)
    both = sampler.draw(rng("a", "b"), (2, 3, 16, 18))
    alone = sampler.draw(rng("b"), (1, 3, 16, 18))
    assert bool((both[1] == alone[0]).all()) and not bool((both[0] == both[1]).all())
    assert not bool((alone == sampler.draw(rng("b", seed=1), (1, 3, 16, 18))).all())


def stored(path, values, dtype=np.uint8):
    array = np.array(values, dtype=dtype)
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        Image.fromarray(array).save(path)
    return str(path)


@pytest.mark.parametrize(
    ("name", "values", "dtype"),
    [
        ("m.png", [[255, 0, 200], [0, 100, 255]], np.uint8),
        ("m.png", [[1, 0, 1], [0, 0, 1]], np.uint8),
        ("m.png", [[65535, 0, 60000], [0, 20000, 65535]], np.uint16),
        ("m.npy", [[255, 0, 200], [0, 100, 255]], np.uint8),
        ("m.npy", [[1, 0, 0.55], [0, 0.45, 1]], np.float32),
        ("m.npy", [[1, 0, 1], [0, 0, 1]], bool),
    ],
)
def test_file_mask(tmp_path, name, values, dtype):
    path = stored(tmp_path / name, values, dtype)
    want = torch.tensor([[1.0, 0, 1], [0, 0, 1]])
    mask = FileMask(path).draw(rng("a", "b"), (2, 3, 2, 3))
    assert mask.shape == (2, 1, 2, 3) and bool((mask == want).all())
    assert bool((FileMask(path, observed="black").draw(rng(), (1, 3, 2, 3)) == 1 - want).all())


def test_file_mask_reads_colour_and_scales(tmp_path):
    colour = np.zeros((2, 2, 3), dtype=np.uint8)
    colour[0] = 255
    path = tmp_path / "m.png"
    Image.fromarray(colour).save(path)
    mask = FileMask(str(path), resize="nearest").draw(rng(), (1, 3, 4, 6))[0, 0]
    assert mask.tolist() == [[1.0] * 6] * 2 + [[0.0] * 6] * 2


def test_file_mask_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no mask file 'nowhere.png'"):
        FileMask("nowhere.png")
    path = stored(tmp_path / "m.png", [[255, 0], [255, 255]])
    with pytest.raises(ValueError, match=r"unknown mask polarity 'whit'.*did you mean 'white'"):
        FileMask(path, observed="whit")
    with pytest.raises(ValueError, match="unknown resize 'bilinear'"):
        FileMask(path, resize="bilinear")
    with pytest.raises(ValueError, match="has 2 x 2 pixels, but the images have 4 x 4"):
        FileMask(path).draw(rng(), (1, 3, 4, 4))
    white = stored(tmp_path / "w.png", [[255, 255], [255, 255]])
    with pytest.raises(ValueError, match=r"no pixel observed .*try the other polarity"):
        FileMask(white, observed="black").draw(rng(), (1, 3, 2, 2))
    cube = stored(tmp_path / "c.npy", [[[0, 1]]])
    with pytest.raises(ValueError, match="two-dimensional array"):
        FileMask(cube).draw(rng(), (1, 3, 1, 2))
    (tmp_path / "broken.png").write_text("this is no picture")
    with pytest.raises(ValueError, match="cannot read a mask from"):
        FileMask(str(tmp_path / "broken.png")).draw(rng(), (1, 3, 2, 2))


def test_errors():
    with pytest.raises(ValueError, match=r"missing must lie in \[0, 1\), got 70"):
        RandomMask(70)
    for wrong in ((0.7, 0.3), (0.3, 1.0), (-0.1, 0.5), (0.1, 0.2, 0.3)):
        with pytest.raises(ValueError, match=r"got \(.*\); a range is \[least, largest\]"):
            RandomMask(wrong)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="size must be one positive whole number or two"):
        BoxMask(size=0)
    with pytest.raises(ValueError, match=r"size must be .* or two \(h, w\), got \(3,\)"):
        BoxMask(size=(3,))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="margin must be a whole number, at least 0, got -1"):
        BoxMask(margin=-1)
    with pytest.raises(ValueError, match="a box of 60 pixels with margins of 4 does not fit"):
        BoxMask(size=60).draw(rng(), (1, 3, 64, 64))
    with pytest.raises(ValueError, match=r"unknown kind of mask 'boxes'.*did you mean 'box'"):
        legacy_dps_mask(np.random.RandomState(0), "boxes")
