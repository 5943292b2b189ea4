"""Images from files: exact pixels, every usual kind of picture, and errors that teach."""

import io
import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from plugip.data import ImageError, ImageFolder, Item, demo_image, load_image, to_uint

RNG = np.random.default_rng(0)
RGB8 = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)
RGB16 = RNG.integers(0, 65536, (6, 9, 3), dtype=np.uint16)


def save(path: Path, pixels: np.ndarray, **options) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


def png(path: Path, pixels: np.ndarray, colour: int, orientation: int | None = None) -> Path:
    """Writes a 16-bit PNG by hand, so that the reader is not tested against its own library."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0))]
    if orientation is not None:
        exif = Image.Exif()
        exif[274] = orientation
        parts.append(chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")))
    parts += [chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


def unit(x: Tensor) -> np.ndarray:
    """(C, H, W) in [-1, 1] to (H, W, C) in [0, 1]."""
    return ((x.double() + 1) / 2).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp"])
def test_8_bit_colour_is_exact(tmp_path, suffix):
    options = {"lossless": True} if suffix == ".webp" else {}
    x = load_image(save(tmp_path / f"a{suffix}", RGB8, **options))
    assert x.dtype == torch.float32 and x.shape == (3, 6, 9) and x.is_contiguous()
    np.testing.assert_allclose(unit(x), RGB8 / 255, atol=1e-6)
    np.testing.assert_array_equal(to_uint(x), RGB8)


def test_16_bit_colour_is_exact(tmp_path):
    x = load_image(png(tmp_path / "a.png", RGB16, colour=2))
    np.testing.assert_array_equal(to_uint(x, 16), RGB16)
    cv2.imwrite(str(tmp_path / "a.tiff"), RGB16[..., ::-1])
    np.testing.assert_array_equal(to_uint(load_image(tmp_path / "a.tiff"), 16), RGB16)


def test_every_16_bit_value_survives(tmp_path):
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    x = load_image(png(tmp_path / "ramp.png", ramp[..., None], colour=0), channels=1)
    np.testing.assert_array_equal(to_uint(x, 16)[..., 0], ramp)


@pytest.mark.parametrize("bits", [8, 16])
def test_grey_is_kept_or_repeated(tmp_path, bits):
    if bits == 8:
        path, pixels = save(tmp_path / "g.png", RGB8[..., 0]), RGB8[..., :1]
    else:
        path, pixels = png(tmp_path / "g.png", RGB16[..., :1], colour=0), RGB16[..., :1]
    np.testing.assert_array_equal(to_uint(load_image(path, channels=1), bits), pixels)
    np.testing.assert_array_equal(to_uint(load_image(path), bits), pixels.repeat(3, 2))


def test_colour_becomes_grey_by_bt601(tmp_path):
    grey = load_image(save(tmp_path / "a.png", RGB8), channels=1)
    np.testing.assert_allclose(unit(grey)[..., 0], RGB8 @ [0.299, 0.587, 0.114] / 255, atol=1e-6)


def test_transparency_is_laid_on_white(tmp_path):
    alpha = np.array([[[0], [255], [51]]], np.uint8)
    pixels = np.concatenate([np.full((1, 3, 3), 100, np.uint8), alpha], axis=2)
    expected = np.array([1.0, 100 / 255, 0.2 * 100 / 255 + 0.8])
    rgba = load_image(save(tmp_path / "rgba.png", pixels))
    la = load_image(save(tmp_path / "la.png", pixels[..., 2:]))
    for x in (rgba, la):
        np.testing.assert_allclose(unit(x), expected[None, :, None].repeat(3, 2), atol=1e-6)


@pytest.mark.parametrize("colour, keep", [(6, [0, 1, 2, 3]), (4, [0, 3])])
def test_16_bit_transparency_is_laid_on_white(tmp_path, colour, keep):
    pixels = np.array([[[9000] * 3 + [0], [9000] * 3 + [65535], [9000] * 3 + [13107]]], np.uint16)
    x = load_image(png(tmp_path / "a.png", pixels[..., keep], colour))
    expected = np.array([1.0, 9000 / 65535, 0.2 * 9000 / 65535 + 0.8])
    np.testing.assert_allclose(unit(x), expected[None, :, None].repeat(3, 2), atol=1e-6)


def test_palette_with_and_without_transparency(tmp_path):
    indexed = Image.new("P", (2, 1))
    indexed.putpalette([10, 20, 30, 200, 100, 0])
    indexed.putpixel((1, 0), 1)
    indexed.save(tmp_path / "p.png")
    indexed.save(tmp_path / "t.png", transparency=1)
    opaque, clear = (to_uint(load_image(tmp_path / f"{name}.png")) for name in "pt")
    assert opaque.tolist() == [[[10, 20, 30], [200, 100, 0]]]
    assert clear.tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_one_bit_and_cmyk_files_are_read(tmp_path):
    Image.fromarray(RGB8[..., 0] > 99).save(tmp_path / "b.png")
    assert set(np.unique(to_uint(load_image(tmp_path / "b.png")))) == {0, 255}
    Image.new("CMYK", (4, 4), (0, 255, 255, 0)).save(tmp_path / "c.jpg")
    np.testing.assert_allclose(to_uint(load_image(tmp_path / "c.jpg"))[0, 0], [255, 0, 0], atol=3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(tmp_path, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    save(tmp_path / "a8.png", RGB8, exif=exif)
    save(tmp_path / "a8.tif", RGB8, exif=exif)
    png(tmp_path / "a16.png", RGB8.astype(np.uint16) * 257, 2, orientation)
    # From the EXIF standard: where the file's first row and first column lie in the picture.
    expected = {
        1: RGB8, 2: RGB8[:, ::-1], 3: RGB8[::-1, ::-1], 4: RGB8[::-1],
        5: RGB8.transpose(1, 0, 2), 6: np.rot90(RGB8, -1),
        7: RGB8[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(RGB8, 1),
    }[orientation]  # fmt: skip
    for name in ("a8.png", "a8.tif", "a16.png"):
        np.testing.assert_array_equal(to_uint(load_image(tmp_path / name)), expected, name)


@pytest.mark.parametrize("orientation", [3, 6])
def test_16_bit_tiffs_are_turned_once(tmp_path, orientation):
    tifffile = pytest.importorskip("tifffile")
    tags = [(274, "H", 1, orientation, True)]
    tifffile.imwrite(tmp_path / "a.tif", RGB16, photometric="rgb", extratags=tags)
    expected = RGB16[::-1, ::-1] if orientation == 3 else np.rot90(RGB16, -1)
    np.testing.assert_array_equal(to_uint(load_image(tmp_path / "a.tif"), 16), expected)


def test_size_crops_the_centre_without_touching_pixels(tmp_path):
    x = load_image(save(tmp_path / "a.png", RGB8), size=6)
    np.testing.assert_array_equal(to_uint(x), RGB8[:, 1:7])
    whole = load_image(save(tmp_path / "b.png", RGB8[:, :6]))
    assert torch.equal(load_image(tmp_path / "b.png", size=6), whole)


def test_resizing_agrees_with_pillow(tmp_path):
    pixels = RNG.integers(0, 256, (40, 40), dtype=np.uint8)
    x = load_image(save(tmp_path / "a.png", pixels), size=13, channels=1)
    resized = Image.fromarray(pixels.astype(np.float32) / 255).resize((13, 13), 3)
    np.testing.assert_allclose(unit(x)[..., 0], np.clip(np.array(resized), 0, 1), atol=1e-5)


def test_sharp_edges_stay_in_range(tmp_path):
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:, 16:] = 255
    x = load_image(save(tmp_path / "a.png", pixels), size=20)
    assert x.min() >= -1 and x.max() <= 1


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".bmp"])
def test_a_truncated_file_is_an_image_error(tmp_path, suffix):
    path = save(tmp_path / f"a{suffix}", RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ImageError, match=f"a{suffix} cannot be read as an image"):
        load_image(path)


def test_a_truncated_16_bit_file_is_an_image_error(tmp_path):
    path = png(tmp_path / "a.png", RGB16.repeat(20, 0), colour=2)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ImageError, match="damaged"):
        load_image(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n", bytes(1000)])
def test_a_file_that_is_no_image_is_an_image_error(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ImageError, match=r"a\.png cannot be read as an image"):
        load_image(tmp_path / "a.png")


def test_damaged_bytes_never_escape_as_another_error(tmp_path):
    rng = np.random.default_rng(1)
    for kind in ("png", "tiff", "jpeg"):
        buffer = io.BytesIO()
        Image.fromarray(RGB8).save(buffer, kind)
        for _ in range(20):
            data = np.frombuffer(buffer.getvalue(), np.uint8).copy()
            data[rng.integers(0, len(data), 4)] = rng.integers(0, 256, 4)
            (tmp_path / "a").write_bytes(data.tobytes())
            try:
                assert load_image(tmp_path / "a").isfinite().all()
            except ImageError:
                pass


def test_other_depths_and_animations_are_refused(tmp_path):
    save(tmp_path / "f.tif", RGB8[..., 0].astype(np.float32))
    save(tmp_path / "i.tif", RGB8[..., 0].astype(np.int32))
    for name, depth in (("f.tif", "float32"), ("i.tif", "int32")):
        with pytest.raises(ImageError, match=f"{depth} pixels.*8 or 16 bits"):
            load_image(tmp_path / name)
    pages = [Image.fromarray(RGB8), Image.fromarray(RGB8[::-1].copy())]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(ImageError, match="holds 2 frames"):
        load_image(tmp_path / "pages.tif")


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(ImageError, match=r"none\.png does not exist"):
        load_image(tmp_path / "none.png")
    with pytest.raises(ImageError, match="is a folder"):
        load_image(tmp_path)


@pytest.mark.parametrize(
    "options, message",
    [({"size": 0}, "size.*got 0"), ({"size": 6.5}, "size.*6.5"), ({"channels": 4}, "channels.*4")],
)
def test_options_are_checked(tmp_path, options, message):
    path = save(tmp_path / "a.png", RGB8)
    for build in (load_image, ImageFolder):
        with pytest.raises(ValueError, match=message) as caught:
            build(path, **options)
        assert not isinstance(caught.value, ImageError)
    with pytest.raises(ValueError, match=r"limit.*got 0"):
        ImageFolder(path, limit=0)


def test_to_uint_rounds_and_clamps():
    x = torch.tensor([-9.0, -1, 2 * 0.4999 / 255 - 1, 2 * 0.5001 / 255 - 1, 0.0, 1, 9])
    assert to_uint(x.view(1, 1, 7))[0, :, 0].tolist() == [0, 0, 0, 1, 128, 255, 255]
    assert to_uint(x.view(1, 1, 7), 16).dtype == np.uint16


def test_to_uint_refuses_what_no_file_holds():
    with pytest.raises(ValueError, match="NaN"):
        to_uint(torch.full((3, 2, 2), torch.nan))
    with pytest.raises(ValueError, match=r"\(1, 3, 2, 2\)"):
        to_uint(torch.zeros(1, 3, 2, 2))
    with pytest.raises(ValueError, match="uint8"):
        to_uint(torch.zeros(3, 2, 2, dtype=torch.uint8))
    with pytest.raises(ValueError, match="8 or 16, got 12"):
        to_uint(torch.zeros(3, 2, 2), 12)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.PNG", "a.jpg", "sub/c.png", ".hidden.png", ".cache/d.png", "sub/a.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        save(tmp_path / name, RGB8)
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def test_a_folder_lists_relative_ids_in_order(folder):
    items = ImageFolder(str(folder)).items()
    assert [item.id for item in items] == ["a.jpg", "b.PNG", "sub/a.jpg", "sub/c.png"]
    assert items[3] == Item("sub/c.png", folder / "sub/c.png")
    assert ImageFolder(folder, limit=2).items() == items[:2]


def test_every_kind_that_pillow_reads_is_taken_and_the_rest_is_named(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    (here / "below").mkdir(parents=True)
    there.mkdir()
    picture = Image.fromarray(RGB8.repeat(4, 0).repeat(4, 1))
    kinds = {"avif": "AVIF", "gif": "GIF", "jp2": "JPEG2000", "ppm": "PPM", "JFIF": "JPEG"}
    kinds |= {"pgm": "PPM", "mpo": "JPEG", "qoi": "QOI", "tga": "TGA", "dib": "DIB"}
    for suffix, kind in kinds.items():
        picture.save(here / f"a.{suffix}", kind)
    save(there / "far.png", RGB8)
    for name, target in {
        "linked": there,
        "again": there,
        "file.png": there / "far.png",
        "dead.png": there / "gone.png",
        "loop.png": here / "loop.png",
        "below/up": here,
        "below/root": Path("/"),
        "below/side": here / "below",
    }.items():
        (here / name).symlink_to(target)
    (here / "g.heic").write_bytes(b"heic")
    (here / "notes.txt").write_text("no image")
    (here / "folder.png").mkdir()
    os.mkfifo(here / "pipe.png")
    (there / "back").symlink_to(here)
    images = ImageFolder(here)
    names = [item.id for item in images.items()]
    assert names == sorted(["file.png", "again/far.png", *(f"a.{suffix}" for suffix in kinds)])
    assert all(images.load(item).shape[0] == 3 for item in images.items())
    skipped = {"linked", "again/back", "below/up", "below/root", "below/side"}
    assert {name for name, why in images.skipped.items() if "listed anyway" in why} == skipped
    assert images.skipped["dead.png"] == images.skipped["loop.png"] == "a link to nothing"
    assert "neither" in images.skipped["pipe.png"] and "no picture" in images.skipped["g.heic"]
    assert set(images.skipped) - skipped == {
        *("dead.png", "loop.png", "pipe.png", "g.heic", "notes.txt")
    }


def test_a_name_of_any_length_that_the_system_has_is_listed(tmp_path):
    """With the suffix of a prior beside it the name would be too long."""
    longest = f"{251 * 'x'}.png"
    (tmp_path / longest).write_bytes(b"")
    assert [item.id for item in ImageFolder(tmp_path).items()] == [longest]


def test_a_folder_that_may_be_listed_but_not_entered_is_left_out(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "closed").mkdir()
    (tmp_path / "a.png").write_bytes(b"")
    monkeypatch.setattr("plugip.image_io.listing._results", refuse)
    images = ImageFolder(tmp_path)
    assert [item.id for item in images.items()] == ["a.png"]
    assert images.skipped == {"closed": "cannot be opened (Permission denied)"}


def test_an_empty_path_is_not_the_working_folder():
    for path in ("", ["a.png", ""]):
        with pytest.raises(ValueError, match="must name an image or a folder, got ''"):
            ImageFolder(path)


RESULTS = {
    "run": ["config.yaml", "provenance.json"],
    "training": ["train.yaml", "train.log"],
    "grid": ["multirun.yaml"],
}


@pytest.mark.parametrize("kind", RESULTS)
def test_folders_of_results_are_skipped_below_but_not_where_they_are_given(tmp_path, kind):
    run = tmp_path / "runs" / "x"
    (run / "images" / "a.png").mkdir(parents=True)
    for name in RESULTS[kind]:
        (run / name).write_text("{}")
    save(run / "images" / "a.png" / "x_hat.png", RGB8)
    save(run / "figure.png", RGB8)
    save(tmp_path / "photo.png", RGB8)
    images = ImageFolder(tmp_path)
    assert [item.id for item in images.items()] == ["photo.png"]
    assert list(images.skipped) == ["runs/x"] and "results" in images.skipped["runs/x"]
    given = [item.id for item in ImageFolder(run).items()]
    assert given == ["figure.png", "images/a.png/x_hat.png"]
    (run / RESULTS[kind][0]).unlink()
    assert len(ImageFolder(tmp_path).items()) == 3


def test_the_sheet_of_a_fitted_prior_is_no_photograph(tmp_path):
    for name in ("sheet.png", "photo.png"):
        save(tmp_path / name, RGB8)
    (tmp_path / "sheet.safetensors").write_bytes(b"{for plugip.priors.LowRankGaussian.load}")
    (tmp_path / "photo.safetensors").write_bytes(b"{a latent of the photograph}")
    assert [item.id for item in ImageFolder(tmp_path).items()] == ["photo.png"]


def test_ids_can_be_printed_hashed_and_written(tmp_path):
    names = [
        b"caf\xe9.png",
        b"caf\xe8.png",
        "café.png".encode(),
        b"a\nb\x1b[31m.png",
        b"a\\nb.png",
    ]
    for name in names:
        save(Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)), RGB8, format="PNG")
    images = ImageFolder(tmp_path)
    items = images.items()
    assert sorted(item.id for item in items) == sorted(
        ["caf\\xe9.png", "caf\\xe8.png", "café.png", "a\\nb\\x1b[31m.png", "a\\nb.png"]
    )
    for item in items:
        assert item.id.encode().decode() == item.id and "\n" not in item.id
        assert images.load(item).shape == (3, 6, 9)
        assert [one.id for one in ImageFolder(item.path).items()] == [item.id]


def test_two_files_that_would_have_one_id_are_refused(tmp_path):
    for name in (b"\xe9.png", b"\\xe9.png"):
        save(Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)), RGB8, format="PNG")
    with pytest.raises(ImageError, match="both have the id"):
        ImageFolder(tmp_path).items()


def test_one_file_and_a_list_use_file_names(folder):
    assert ImageFolder(folder / "b.PNG").items() == [Item("b.PNG", folder / "b.PNG")]
    files = ImageFolder([folder / "sub/c.png", str(folder / "a.jpg")])
    assert [item.id for item in files.items()] == ["c.png", "a.jpg"]


def test_equal_names_in_a_list_are_refused(folder):
    with pytest.raises(ImageError, match=r"sub/a\.jpg would both have the id 'a\.jpg'"):
        ImageFolder([folder / "a.jpg", folder / "sub/a.jpg"]).items()


def test_a_broken_image_does_not_stop_the_others(folder):
    (folder / "a.jpg").write_bytes(b"broken")
    images = ImageFolder(folder, size=4)
    first, *others = images.items()
    with pytest.raises(ImageError, match=r"a\.jpg"):
        images.load(first)
    assert all(images.load(item).shape == (3, 4, 4) for item in others)


def test_nothing_to_solve_is_an_error(tmp_path):
    with pytest.raises(ImageError, match=r"no image in .*looked for \.png \.jpg"):
        ImageFolder(tmp_path).items()
    with pytest.raises(ImageError, match="photos does not exist"):
        ImageFolder(tmp_path / "photos").items()
    with pytest.raises(ImageError, match="list of image files is empty"):
        ImageFolder([]).items()


def test_the_demo_image_is_the_documented_crop():
    x = load_image(demo_image(), size=64)
    assert x.shape == (3, 64, 64)
    skimage_data = pytest.importorskip("skimage.data")
    crop = Image.fromarray(skimage_data.astronaut()).crop((162, 60, 286, 184))
    expected = np.array(crop.resize((64, 64), Image.Resampling.BICUBIC))
    np.testing.assert_allclose(to_uint(x).astype(int), expected.astype(int), atol=1)
