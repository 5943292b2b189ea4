"""Kernels and masks from files: the numbers that are meant, or a refusal."""

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from plugip.data import load_image
from plugip.operators import FileKernel, FileMask
from plugip.rng import Rng

ROW, COLUMN = np.mgrid[-7:8, -7:8]
PEAK = np.exp(-(ROW**2 + 2 * COLUMN**2) / 8.0)
WANTED = PEAK / PEAK.sum()
SHAPE = (1, 3, 40, 40)


def picture(path: Path, pixels: np.ndarray, **options) -> str:
    Image.fromarray(pixels).save(path, **options)
    return str(path)


def bits(values: np.ndarray, full: int, dtype: type) -> np.ndarray:
    return np.rint(values * full).astype(dtype)


def inked(colour: int) -> np.ndarray:
    """The kernel as the transparency of one colour."""
    pixels = np.full((15, 15, 4), colour, np.uint8)
    pixels[..., 3] = bits(PEAK, 255, np.uint8)
    pixels[pixels[..., 3] == 0] = 0  # what is invisible has no colour
    return pixels


KERNELS = {
    "8.png": bits(PEAK, 255, np.uint8),
    "16.png": bits(PEAK, 65535, np.uint16),
    "16.tif": bits(PEAK, 65535, np.uint16),
    "int32.tif": bits(PEAK, 10**6, np.int32),
    "one.tif": PEAK.astype(np.float32),
    "ten.tif": (10 * PEAK).astype(np.float32),
    "sum.tif": WANTED.astype(np.float32),
    "white.png": inked(255),
    "black.png": inked(0),
    "la.png": inked(255)[..., 2:],
    "rgb.png": bits(PEAK, 255, np.uint8)[..., None].repeat(3, 2),
    "opaque.png": np.dstack([bits(PEAK, 255, np.uint8)] * 3 + [np.full((15, 15), 255, np.uint8)]),
}
ARRAYS = {
    "plain": PEAK,
    "half": PEAK.astype(np.float16),
    "big": PEAK.astype(">f8"),
    "big whole": bits(PEAK, 65535, np.uint16).astype(">u2"),
    "columns first": np.asfortranarray(PEAK),
    "long": PEAK.astype(np.longdouble),
    "int64": bits(PEAK, 10**9, np.int64),
    "uint64": bits(PEAK, 10**9, np.uint64),
}


@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_from_a_picture_is_that_of_the_array(tmp_path, name):
    kernel = FileKernel(picture(tmp_path / name, KERNELS[name])).build()
    assert kernel.dtype == torch.float64
    np.testing.assert_allclose(kernel.numpy(), WANTED, atol=2e-4)


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("suffix", [".npy", ".NPY", ".bin"])
def test_a_kernel_from_an_array_is_read_in_any_layout(tmp_path, name, suffix):
    path = tmp_path / f"k{suffix}"
    with path.open("wb") as file:
        np.save(file, ARRAYS[name])
    np.testing.assert_allclose(FileKernel(str(path)).build().numpy(), WANTED, atol=1e-4)


def wrongs() -> dict[str, tuple[bytes, str]]:
    """Contents of files called k.npy that are no kernel, and what the refusal must name."""

    def saved(values: object) -> bytes:
        stream = io.BytesIO()
        np.save(stream, np.asarray(values), allow_pickle=True)
        return stream.getvalue()

    torched, zipped = io.BytesIO(), io.BytesIO()
    torch.save(torch.ones(3, 3), torched)
    np.savez(zipped, PEAK)
    huge = saved(PEAK).replace(b"(15, 15)", b"(99999999999, 15)")[:200]
    nan = PEAK.copy()
    nan[0, 0] = np.nan
    return {
        "empty": (b"", "empty"),
        "npz": (zipped.getvalue(), "zip"),
        "torch": (torched.getvalue(), "zip"),
        "pickle": (pickle.dumps(PEAK), "pickle"),
        "matlab": (b"MATLAB 5.0 MAT-file, Platform" + bytes(200), "MATLAB"),
        "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(200), "HDF5"),
        "text": (b"0 1 0\n1 2 1\n", "NumPy"),
        "cut": (saved(PEAK)[:-9], "array"),
        "cut head": (saved(PEAK)[:40], "array"),
        "huge": (huge, "array"),
        "objects": (saved(np.array([[1, None]], object)), "array"),
        "complex": (saved(PEAK * 1j), "complex"),
        "structured": (saved(np.zeros((3, 3), [("a", "f4")])), "real"),
        "texts": (saved(np.array([["a"]])), "real"),
        "dates": (saved(np.zeros((2, 2), "M8[s]")), "real"),
        "nan": (saved(nan), "finite"),
        "zero": (saved(PEAK * 0), "positive sum"),
        "negative": (saved(-PEAK), "positive sum"),
        "endless": (saved(np.full((3, 3), 1e308)), "finite"),
        "cube": (saved(np.ones((3, 3, 3))), "two-dimensional"),
        "none": (saved(np.ones((0, 3))), "positive sum|array"),
    }


@pytest.mark.parametrize("name", wrongs())
def test_other_files_named_npy_are_refused_by_name(tmp_path, name):
    content, noun = wrongs()[name]
    (tmp_path / "k.npy").write_bytes(content)
    with pytest.raises(ValueError, match=rf"k\.npy[\s\S]*{noun}|{noun}[\s\S]*k\.npy"):
        FileKernel(str(tmp_path / "k.npy")).build()
    if name not in ("zero", "cube", "nan"):
        with pytest.raises(ValueError, match=r"k\.npy"):
            FileMask(str(tmp_path / "k.npy")).draw(Rng(0, "m", ["a"]), SHAPE)


@pytest.mark.parametrize("kind", ["plot", "colours and alpha"])
def test_pictures_that_leave_the_kernel_open_are_refused(tmp_path, kind):
    grey = bits(PEAK, 255, np.uint8)
    plot = np.dstack([grey, 255 - grey, grey // 2])
    pixels = plot if kind == "plot" else np.dstack([grey, grey, grey, grey.T])
    with pytest.raises(ValueError, match=r"channels|transparency"):
        FileKernel(picture(tmp_path / "k.png", pixels)).build()


BOX = np.full((40, 40), 255, np.uint8)
BOX[8:20, 6:30] = 0


def kept(path: str, shape=SHAPE, **options) -> np.ndarray:
    return FileMask(path, **options).draw(Rng(0, "m", ["a"]), shape)[0, 0].numpy()


def over(colour: int, alpha: np.ndarray) -> np.ndarray:
    return np.dstack([np.full((*alpha.shape, 3), colour, np.uint8), alpha])


MASKS = {
    "u8.png": BOX,
    "share.png": BOX // 255,
    "u16.png": BOX.astype(np.uint16) * 257,
    "u16_255.png": BOX.astype(np.uint16),
    "u16_255.tif": BOX.astype(np.uint16),
    "int32.tif": BOX.astype(np.int32),
    "float.tif": (BOX / 255).astype(np.float32),
    "float_255.tif": BOX.astype(np.float32),
    "white_alpha.png": over(255, BOX),
    "black_alpha.png": over(0, 255 - BOX),
    "grey_alpha.png": np.dstack([BOX, np.full_like(BOX, 255)]),
    "int64.npy": BOX.astype(int),
    "int16.npy": BOX.astype(np.int16),
    "int32_65535.npy": BOX.astype(np.int32) * 257,
    "float_255.npy": BOX.astype(float),
    "big.npy": BOX.astype(">u2"),
    "bool.npy": BOX > 0,
    "fortran.npy": np.asfortranarray(BOX),
}


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_is_read_from_any_depth_and_alpha(tmp_path, name):
    path = str(tmp_path / name)
    if name.endswith(".npy"):
        np.save(path, MASKS[name])
    else:
        picture(tmp_path / name, MASKS[name])
    np.testing.assert_array_equal(kept(path), BOX / 255)
    np.testing.assert_array_equal(kept(path, observed="black"), 1 - BOX / 255)


def test_masks_that_mean_nothing_certain_are_refused_or_warned_about(tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)
    photo = picture(tmp_path / "a.png", np.dstack([grey, grey, grey, BOX]))
    with pytest.raises(ValueError, match="transparency"):
        kept(photo)
    for name, values in (("b", BOX - 0.5), ("c", BOX * 1e3), ("d", -1.0 * BOX), ("e", BOX * 1j)):
        np.save(tmp_path / f"{name}.npy", values)
        with pytest.raises(ValueError, match=rf"{name}\.npy"):
            kept(str(tmp_path / f"{name}.npy"))
    full = picture(tmp_path / "full.png", np.full((40, 40), 255, np.uint8))
    with pytest.warns(UserWarning, match="hides nothing"):
        assert kept(full).all()


@pytest.mark.parametrize("size", [None, 40, 20, 80])
@pytest.mark.parametrize("orientation", [None, *range(1, 9)])
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_a_mask_follows_its_photograph(tmp_path, orientation, size, depth):
    """The mask hides exactly the red box of the photograph, whatever is done to both."""
    missing = np.zeros((40, 64), bool)
    missing[8:20, 14:40] = True
    photo = np.where(missing[..., None], [255, 0, 0], [255, 255, 255]).astype(np.uint8)
    mask = np.where(missing, 0, np.iinfo(depth).max).astype(depth)
    exif = Image.Exif()
    if orientation is not None:
        exif[274] = orientation
    x = load_image(picture(tmp_path / "p.tif", photo, exif=exif), size)[None]
    red = ((x[0, 0] > 0) & (x[0, 1] < 0)).numpy()
    path = picture(tmp_path / "m.tif", mask, exif=exif)
    resize = "nearest" if size in (20, 80) else "error"
    np.testing.assert_array_equal(kept(path, tuple(x.shape), resize=resize) == 0, red)
    assert red.sum() == {None: 312, 40: 312, 20: 78, 80: 1248}[size]


def test_the_advice_for_another_size_does_not_squeeze(tmp_path):
    wide = np.full((40, 64), 255, np.uint8)
    wide[:, :32] = 0
    path = picture(tmp_path / "m.png", wide)
    with pytest.raises(ValueError, match=r"40 x 64 pixels.*20 x 20.*nearest.*crops"):
        kept(path, (1, 3, 20, 20))
    halves = kept(path, (1, 3, 20, 20), resize="nearest")
    assert not halves[:, :10].any() and halves[:, 10:].all()
