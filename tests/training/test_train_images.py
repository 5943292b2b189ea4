"""Images from folders and zip files: their pixels, what is skipped, the cache."""

import io
import json
import os
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from trainings import COUNT

from plugip.data import load_image, to_uint
from plugip.training import TrainingError
from plugip.training import images as module
from plugip.training.decode import decode
from plugip.training.images import load_images
from plugip.training.sections import Data


def load(path, holdout=0.0, rng_seed=0, **options):
    said = []
    images = load_images(Data(str(path), 8, holdout=holdout, **options), rng_seed, said.append)
    return images, said


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_a_picture_of_the_right_size_keeps_its_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    got, small = decode(encoded(Image.fromarray(pixels)), 8, 3)
    assert (got == pixels.transpose(2, 0, 1)).all() and not small


def test_resizing_is_that_of_load_image(tmp_path):
    # Away from black and white, where two passes in 8 bits clamp and one in float does not.
    pixels = np.random.default_rng(0).integers(60, 190, (7, 9, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((45, 33), 3).save(tmp_path / "a.png")
    got, _ = decode((tmp_path / "a.png").read_bytes(), 8, 3)
    reference = to_uint(load_image(tmp_path / "a.png", 8)).transpose(2, 0, 1).astype(int)
    assert np.abs(got - reference).max() <= 1


def test_a_large_jpeg_is_halved_by_its_decoder(tmp_path):
    pixels = np.random.default_rng(0).integers(60, 190, (9, 9, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((512, 300), 3).save(tmp_path / "a.jpg", quality=95)
    got, _ = decode((tmp_path / "a.jpg").read_bytes(), 16, 3)
    reference = to_uint(load_image(tmp_path / "a.jpg", 16)).transpose(2, 0, 1).astype(int)
    assert np.abs(got - reference).max() <= 8 and np.abs(got - reference).mean() < 2


def test_kinds_of_pictures():
    clear = Image.new("RGBA", (8, 8), (200, 0, 0, 0))
    assert (decode(encoded(clear), 8, 3)[0] == 255).all()
    deep = Image.fromarray(np.full((8, 8), 257 * 40, np.uint16))
    assert (decode(encoded(deep), 8, 1)[0] == 40).all()
    grey = Image.new("L", (8, 8), 77)
    assert (decode(encoded(grey), 8, 3)[0] == 77).all()
    red = Image.new("RGB", (8, 8), (255, 0, 0))
    assert (decode(encoded(red), 8, 1)[0] == 76).all()  # 0.299 of 255
    assert decode(encoded(red), 9, 3)[1]


def test_a_turned_photograph_becomes_upright():
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[0] = 255  # stored with its top row white
    exif = Image.Exif()
    exif[274] = 3  # to be turned by 180 degrees
    got, _ = decode(encoded(Image.fromarray(pixels), exif=exif), 8, 3)
    assert (got[:, 7] == 255).all() and (got[:, :7] == 0).all()


@pytest.mark.parametrize("damage", ["cut", "text", "film", "float"])
def test_what_cannot_be_used_says_why(damage):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8))
    film = encoded(picture, "GIF", save_all=True, append_images=[picture.rotate(90)])
    data, said = {
        "cut": (encoded(picture)[:-40], "truncated"),
        "text": (b"no picture", "no picture of a known kind"),
        "film": (film, "holds 2 frames"),
        "float": (encoded(Image.new("F", (9, 9)), "TIFF"), "range is not defined"),
    }[damage]
    with pytest.raises(ValueError, match=said):
        decode(data, 8, 3)


def test_folder_and_zip_are_the_same(photos, zipped):
    extra = {".hidden.png": b"", "__MACOSX/01.png": b"", "notes.txt": b""}
    (a, said), (b, _) = load(photos), load(zipped(extra))
    assert torch.equal(a.pixels, b.pixels) and a.digest == b.digest
    assert a.pixels.shape == (COUNT, 3, 8, 8) and len(a) == len(a.train) == COUNT
    assert said == [f"{COUNT} images to train on, 0 held out; 0 MB of pixels in memory"]


def test_a_damaged_image_is_named_and_skipped(photos, zipped):
    whole, _ = load(photos)
    images, said = load(zipped({"05a.png": b"nothing"}), holdout=0.1)
    assert len(images) == COUNT and images.skipped == {
        "05a.png": "it is no picture of a known kind"
    }
    assert "skipped 05a.png: it is no picture of a known kind" in said
    used = images.pixels[torch.cat([images.train, images.held_out]).sort().values]
    assert torch.equal(used, whole.pixels)


def test_small_pictures_are_counted(tmp_path):
    for side in (4, 8, 9):
        Image.new("RGB", (side, side)).save(tmp_path / f"{side}.png")
    images, said = load(tmp_path)
    assert images.enlarged == 1 and any(line.startswith("1 images are smaller") for line in said)


def test_held_out_images_stay_held_out_when_others_come(photos, zipped):
    few, _ = load(photos, holdout=0.25, limit=None)
    names = sorted(p.relative_to(photos).as_posix() for p in photos.rglob("*.*"))
    more, _ = load(zipped({"zz.png": encoded(Image.new("RGB", (8, 8)))}), holdout=0.25)
    chosen = {names[row] for row in few.held_out}
    assert len(chosen) == 6 and not set(few.held_out.tolist()) & set(few.train.tolist())
    assert len(chosen & {[*names, "zz.png"][row] for row in more.held_out}) >= 5
    other, _ = load(photos, holdout=0.25, rng_seed=1)
    assert chosen != {names[row] for row in other.held_out}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "does not exist; give a folder or a zip file of images"),
        ({}, "holds no image; looked, also in its folders, for .png"),
        (
            {"a.png": b"x", "b.png": b""},
            "none of the 2 images of data.path can be read; a.png: it is",
        ),
        (b"PK but no zip", "is neither a folder nor a readable zip file"),
    ],
)
def test_unusable_data_is_one_sentence(tmp_path, content, said):
    place = tmp_path / "data"
    if isinstance(content, bytes):
        place.write_bytes(content)
    elif content is not None:
        place.mkdir()
        for name, data in content.items():
            (place / name).write_bytes(data)
    with pytest.raises(TrainingError, match=r"data\.path") as caught:
        load(place)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_the_cache_is_read_and_not_decoded_again(photos, tmp_path, monkeypatch):
    fresh, _ = load(photos)
    first, _ = load(photos, cache=str(tmp_path / "cache"))
    monkeypatch.setattr(module, "decode", lambda *_: 1 / 0)
    again, said = load(photos, cache=str(tmp_path / "cache"))
    assert torch.equal(again.pixels, fresh.pixels) and again.digest == first.digest == fresh.digest
    assert said[0].endswith(f"of pixels in {tmp_path / 'cache'}")
    with pytest.raises(ZeroDivisionError):
        load(photos, cache=str(tmp_path / "cache"), channels=1)


def test_a_changed_file_is_decoded_again(tmp_path):
    folder, cache = tmp_path / "in", str(tmp_path / "cache")
    folder.mkdir()
    Image.new("RGB", (8, 8), "black").save(folder / "a.png")
    load(folder, cache=cache)
    Image.new("RGB", (8, 8), "white").save(folder / "a.png")
    os.utime(folder / "a.png", ns=(1, 1))
    assert (load(folder, cache=cache)[0].pixels == 255).all()


def test_too_much_for_the_memory_is_said_before_decoding(photos, monkeypatch):
    monkeypatch.setattr(os, "sysconf", lambda name: 1)
    monkeypatch.setattr(module, "decode", lambda *_: 1 / 0)
    with pytest.raises(TrainingError, match=r"keep them on a disk with data.cache=FOLDER"):
        load(photos)


def test_the_reader_of_the_solvers_is_the_reader_of_the_trainings(tmp_path):
    """Previews, planes, premultiplied alpha, 16 bits: pixels are those of load_image."""
    tifffile = pytest.importorskip("tifffile")
    pixels = np.random.default_rng(0).integers(0, 256, (9, 9, 4), dtype=np.uint8)
    photo = Image.fromarray(pixels[..., :3])
    photo.save(tmp_path / "a.mpo", save_all=True, append_images=[photo.resize((4, 4))])
    deep = pixels.astype(np.uint16) * 257
    tifffile.imwrite(tmp_path / "b.tif", deep[..., :3], photometric="rgb", planarconfig="contig")
    planes = deep[..., :3].transpose(2, 0, 1).copy()
    tifffile.imwrite(tmp_path / "c.tif", planes, photometric="rgb", planarconfig="separate")
    tifffile.imwrite(tmp_path / "d.tif", deep[..., 0], photometric="miniswhite")
    deep[..., :3] = deep[..., :3] * (deep[..., 3:] / 65535)
    tifffile.imwrite(tmp_path / "e.tif", deep, photometric="rgb", extrasamples=["assocalpha"])
    for name in ("a.mpo", "b.tif", "c.tif", "d.tif", "e.tif"):
        for channels in (1, 3):
            got, _ = decode((tmp_path / name).read_bytes(), 9, channels)
            right = to_uint(load_image(tmp_path / name, 9, channels)).transpose(2, 0, 1)
            assert np.abs(got.astype(int) - right).max() <= 1, name


def squeezed(path, members, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_small_zip_never_takes_much_memory(tmp_path, method):
    good = encoded(Image.new("RGB", (8, 8), (9, 99, 200)))
    path = squeezed(tmp_path / "bomb.zip", {"a.png": good, "b.png": bytes(1 << 26)}, method)
    assert path.stat().st_size < 1 << 20
    tracemalloc.start()
    images, _ = load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(images) == 1 and peak < 1 << 25
    assert "unpack" in images.skipped["b.png"]


def test_a_zip_that_lies_about_sizes_is_skipped(tmp_path):
    good = encoded(Image.new("RGB", (8, 8), (9, 99, 200)))
    path = squeezed(tmp_path / "lie.zip", {"a.png": good, "b.png": bytes(1 << 20)})
    data = path.read_bytes()
    declared = (1 << 20).to_bytes(4, "little")
    assert data.count(declared) == 2
    path.write_bytes(data.replace(declared, (100).to_bytes(4, "little")))
    images, _ = load(path)
    assert len(images) == 1 and list(images.skipped) == ["b.png"]


def test_a_picture_of_too_many_pixels_is_skipped(monkeypatch):
    monkeypatch.setattr("plugip.training.decode.MOST", 63)
    with pytest.raises(ValueError, match="64 pixels"):
        decode(encoded(Image.new("RGB", (8, 8))), 8, 3)
    monkeypatch.setattr("plugip.training.decode.MOST", 64)
    monkeypatch.setattr("plugip.training.decode._LARGE", 63)  # decoded alone, and let go again
    for _ in range(2):
        decode(encoded(Image.new("RGB", (8, 8))), 8, 3)


def test_names_in_a_zip_that_point_outside_are_only_names(tmp_path):
    good = encoded(Image.new("RGB", (8, 8), (9, 99, 200)))
    names = ["../../out.png", "/abs.png", "a\nb.png", "folder.png/"]
    path = squeezed(tmp_path / "z.zip", {name: good for name in names})
    before = set(tmp_path.parent.rglob("*"))
    images, _ = load(path, cache=None)
    assert len(images) == 2 and set(tmp_path.parent.rglob("*")) == before


@pytest.mark.parametrize(
    "damage", ["pixels", "cut", "empty", "other", "zip", "marker", "list", "short", "no marker"]
)
def test_a_damaged_cache_is_made_again(photos, tmp_path, damage):
    whole, _ = load(photos, cache=str(tmp_path))
    (file,), (marker,) = tmp_path.glob("*.npy"), tmp_path.glob("*.json")
    data = bytearray(file.read_bytes())
    if damage == "pixels":
        data[-7] ^= 255
        file.write_bytes(data)
    elif damage in ("cut", "empty", "zip"):
        file.write_bytes({"cut": data[:-9], "empty": b"", "zip": b"PK\3\4" + bytes(99)}[damage])
    elif damage == "other":
        np.save(file, np.zeros((2, 2)))
    elif damage == "no marker":
        marker.unlink()
    else:
        facts = json.loads(marker.read_text())
        facts["checksums"] = facts["checksums"][:-1]
        texts = {"marker": "{", "list": "[]", "short": json.dumps(facts)}
        marker.write_text(texts[damage])
    again, _ = load(photos, cache=str(tmp_path))
    assert torch.equal(again.pixels, whole.pixels) and again.digest == whole.digest


def test_what_a_folder_holds_besides_images_is_said(tmp_path):
    Image.new("RGB", (8, 8), (9, 99, 200)).save(tmp_path / "a.png")
    (tmp_path / "g.heic").write_bytes(b"heic")
    (tmp_path / "run").mkdir()
    for name in ("config.yaml", "provenance.json"):
        (tmp_path / "run" / name).write_text("{}")
    Image.new("RGB", (8, 8)).save(tmp_path / "run" / "figure.png")
    images, said = load(tmp_path)
    assert len(images) == 1 and "2 entries" in said[0]
    assert "g.heic" in said[0] and "run (a folder of results" in said[0]
