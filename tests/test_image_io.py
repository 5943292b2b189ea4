"""The one reader of pictures: 16-bit files look like their 8-bit twins, or are refused."""

import io
import itertools
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from plugip.data import ImageError, load_image

RNG = np.random.default_rng(5)
# A picture with structure, 20 x 36, so that no side is a multiple of a tile; and an alpha.
DOWN, ACROSS = np.mgrid[0:20, 0:36] / 36
PICTURE = np.stack([DOWN, ACROSS, 0.5 + 0.5 * np.sin(9 * DOWN * ACROSS)], axis=2)
GREY, ALPHA = PICTURE[..., :1], PICTURE[..., 1:2]
WHITED = PICTURE * ALPHA + 1 - ALPHA
TWINS = 0.002  # mean error that 8 bits leave


def seen(path: Path) -> np.ndarray:
    """(C, H, W) in [-1, 1] to (H, W, C) in [0, 1]."""
    return ((load_image(path).double() + 1) / 2).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_the_transparent_grey_of_a_png_is_one_of_its_own_levels(tmp_path, bits):
    """Pixels of the key are shown on white, all others as they are."""
    key, levels = 1, (np.arange(8) % 2**bits).astype(np.uint8)
    rows = np.array([levels, levels[::-1]])
    packed = np.packbits(
        np.unpackbits(rows[..., None], axis=2)[..., -bits:].reshape(2, -1), axis=1
    )
    head = struct.pack(">IIBBBBB", 8, 2, bits, 0, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in packed))
    file = tmp_path / "key.png"
    file.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
            for kind, body in (
                (b"IHDR", head),
                (b"tRNS", struct.pack(">H", key)),
                (b"IDAT", data),
                (b"IEND", b""),
            )
        )
    )
    want = np.where(rows == key, 1.0, rows / (2**bits - 1))
    np.testing.assert_allclose(seen(file)[..., 0], want, atol=1e-6)


def stored(values: np.ndarray, bits: int) -> np.ndarray:
    return np.rint(values * (2**bits - 1)).astype(np.uint8 if bits == 8 else np.uint16)


def packbits(data: bytes) -> bytes:
    parts = [data[i : i + 128] for i in range(0, len(data), 128)]
    return b"".join(bytes([len(part) - 1]) + part for part in parts)


COMPRESSED = {1: bytes, 8: zlib.compress, 32946: zlib.compress, 32773: packbits}


def segments(samples: np.ndarray, order: str, options: dict) -> list[bytes]:
    """Strips or tiles of (H, W, C), with its predictor undone by nobody but the reader."""
    high, wide = options.get("tile", (options.get("rows", len(samples)), samples.shape[1]))
    found = []
    for top, left in itertools.product(
        range(0, samples.shape[0], high), range(0, samples.shape[1], wide)
    ):
        part = samples[top : top + high, left : left + wide]
        if "tile" in options:
            part = np.pad(part, [(0, high - len(part)), (0, wide - part.shape[1]), (0, 0)])
        if options.get("predictor"):
            part = np.diff(part, axis=1, prepend=np.zeros_like(part[:, :1]))
        raw = part.astype(np.dtype(f"{order}u{part.itemsize}")).tobytes()
        found.append(COMPRESSED[options.get("compression", 1)](raw))
    return found


def tiff(path: Path, pixels: np.ndarray, photometric: int, **options) -> Path:
    """Writes a TIFF by hand: every layout that the standard calls the same picture."""
    order = options.get("order", "<")
    planes = options.get("planar", False)
    channels = pixels.shape[2]
    parts = np.split(pixels, channels, axis=2) if planes else [pixels]
    data = [segment for part in parts for segment in segments(part, order, options)]
    tiled = "tile" in options
    tags: dict[int, list[int]] = {
        256: [pixels.shape[1]],
        257: [pixels.shape[0]],
        258: [pixels.dtype.itemsize * 8] * channels,
        259: [options.get("compression", 1)],
        262: [photometric],
        277: [channels],
        284: [2 if planes else 1],
        317: [2 if options.get("predictor") else 1],
    }
    if tiled:
        tags |= {322: [options["tile"][1]], 323: [options["tile"][0]]}
    else:
        tags[278] = [options.get("rows", pixels.shape[0])]
    tags |= options.get("tags", {})
    places, sizes = (324, 325) if tiled else (273, 279)
    tags |= {places: [0] * len(data), sizes: [len(segment) for segment in data]}
    begin = 8 + 2 + 12 * len(tags) + 4 + sum(4 * len(v) for v in tags.values() if len(v) > 1)
    tags[places] = [begin + sum(map(len, data[:i])) for i in range(len(data))]
    rows, lists, place = b"", b"", 8 + 2 + 12 * len(tags) + 4
    for tag in sorted(tags):
        values = struct.pack(f"{order}{len(tags[tag])}I", *tags[tag])
        where = values if len(values) == 4 else struct.pack(f"{order}I", place + len(lists))
        lists += b"" if len(values) == 4 else values
        rows += struct.pack(f"{order}HHI", tag, 4, len(tags[tag])) + where
    head = struct.pack(f"{order}2sHIH", b"II" if order == "<" else b"MM", 42, 8, len(tags))
    path.write_bytes(head + rows + bytes(4) + lists + b"".join(data))
    return path


LAYOUTS = [
    {},
    {"planar": True},
    {"rows": 7},
    {"tile": (16, 16)},
    {"order": ">", "planar": True, "rows": 7},
    {"order": ">", "tile": (16, 16), "planar": True},
    {"compression": 8, "predictor": True},
    {"compression": 8, "predictor": True, "planar": True, "order": ">"},
    {"compression": 32946, "predictor": True, "tile": (16, 16)},
    {"compression": 8, "predictor": True, "tile": (16, 16), "planar": True},
    {"compression": 32773, "rows": 3},
]
KINDS = {  # channels, photometric interpretation, further tags, and what is seen
    "rgb": (PICTURE, 2, {}, PICTURE),
    "straight alpha": (np.dstack([PICTURE, ALPHA]), 2, {338: [2]}, WHITED),
    "multiplied alpha": (np.dstack([PICTURE * ALPHA, ALPHA]), 2, {338: [1]}, WHITED),
    "alpha untold": (np.dstack([PICTURE, ALPHA]), 2, {}, WHITED),
    "no alpha": (np.dstack([PICTURE, ALPHA]), 2, {338: [0]}, PICTURE),
    "ink": (np.dstack([1 - PICTURE, 0 * ALPHA]), 5, {}, PICTURE),
    "grey": (GREY, 1, {}, GREY.repeat(3, 2)),
    "from white": (1 - GREY, 0, {}, GREY.repeat(3, 2)),
    "grey alpha": (np.dstack([GREY, ALPHA]), 1, {338: [2]}, (GREY * ALPHA + 1 - ALPHA)),
}


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("kind", KINDS)
def test_every_layout_of_a_tiff_is_the_same_picture_or_refused(tmp_path, kind, bits):
    values, photometric, tags, right = KINDS[kind]
    read = 0
    for number, layout in enumerate(LAYOUTS):
        path = tmp_path / f"{number}.tif"
        tiff(path, stored(values, bits), photometric, **layout, tags=tags)
        try:
            error = np.abs(seen(path) - right).mean()
        except ImageError as refusal:
            assert "known kind" in str(refusal)  # by Pillow, which opens all files first
        else:
            assert error < TWINS, layout
            read += 1
    assert read >= (0 if kind == "grey alpha" else 7)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("planar", [False, True])
def test_16_bit_tiffs_are_upright_in_all_orientations(tmp_path, orientation, planar):
    twins = []
    for bits in (8, 16):
        pixels, tags = stored(PICTURE, bits), {274: [orientation]}
        twins.append(seen(tiff(tmp_path / "a.tif", pixels, 2, planar=planar, tags=tags)))
    assert twins[0].shape == ((36, 20, 3) if orientation > 4 else (20, 36, 3))
    assert np.abs(twins[0] - twins[1]).mean() < TWINS


@pytest.mark.parametrize(
    ("tags", "noun"),
    [
        ({258: [12] * 3}, "bits|kind"),
        ({259: [7]}, "compression"),
        ({262: [6]}, "photometric|kind"),
        ({262: [8]}, "photometric|kind"),
        ({339: [2, 2, 2]}, "signed|kind"),
        ({317: [3]}, "predictor"),
        ({273: [1 << 30]}, "damaged"),
        ({279: [1 << 30]}, "damaged|not fit"),
        ({279: [100]}, "damaged|cannot be read"),
    ],
)
def test_16_bit_tiffs_of_an_unknown_kind_are_refused(tmp_path, tags, noun):
    path = tiff(tmp_path / "a.tif", stored(PICTURE, 16), 2, tags={339: [1] * 3})
    data = bytearray(path.read_bytes())
    for tag, values in tags.items():  # patched where it stands: a single value, or a list of them
        place = next(p for p in range(10, 200, 12) if data[p : p + 2] == struct.pack("<H", tag))
        if len(values) > 1:
            place = struct.unpack("<I", data[place + 8 : place + 12])[0] - 8
        data[place + 8 : place + 8 + 4 * len(values)] = struct.pack(f"<{len(values)}I", *values)
    path.write_bytes(bytes(data))
    with pytest.raises(ImageError, match=noun):
        load_image(path)


def chunk(kind: bytes, data: bytes) -> bytes:
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def png16(path: Path, pixels: np.ndarray, colour: int, *extra: bytes) -> Path:
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", head), *extra, chunk(b"IDAT", zlib.compress(rows))]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize("channels", [1, 3])
def test_the_transparent_colour_of_a_16_bit_png_is_white(tmp_path, channels):
    pixels = stored(PICTURE[..., :channels], 16)
    key = struct.pack(f">{channels}H", *pixels[3, 4].tolist())
    path = png16(tmp_path / "a.png", pixels, 2 if channels == 3 else 0, chunk(b"tRNS", key))
    clear = (pixels == pixels[3, 4]).all(axis=2, keepdims=True)
    right = np.where(clear, 1, pixels / 65535) * np.ones(3)
    assert clear.any() and not clear.all()
    np.testing.assert_allclose(seen(path), right, atol=1e-5)


@pytest.mark.parametrize("most", [255, 1023, 4095, 65535])
@pytest.mark.parametrize("channels", [1, 3])
def test_portable_maps_count_to_their_own_maximum(tmp_path, most, channels):
    pixels = np.rint(PICTURE[..., :channels] * most).astype(np.uint8 if most == 255 else ">u2")
    kind = b"P5" if channels == 1 else b"P6"
    head = kind + b"\n# a comment\n%d %d\n%d\n" % (36, 20, most)
    (tmp_path / "a.ppm").write_bytes(head + pixels.tobytes())
    assert np.abs(seen(tmp_path / "a.ppm") - PICTURE[..., :channels]).mean() < TWINS


def test_16_bit_jpeg_2000_is_read_in_grey_and_refused_in_colour(tmp_path):
    Image.fromarray(stored(GREY, 16)[..., 0]).save(tmp_path / "g.jp2")
    assert np.abs(seen(tmp_path / "g.jp2") - GREY).mean() < TWINS
    large = stored(PICTURE, 16).repeat(4, 0).repeat(4, 1)
    done, data = cv2.imencode(".jp2", large, [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000])
    assert done
    (tmp_path / "c.jp2").write_bytes(data.tobytes())
    with pytest.raises(ImageError, match=r"JPEG 2000 .* 16 bits"):
        load_image(tmp_path / "c.jp2")


def swapped_profile() -> bytes:
    """An sRGB profile with red and blue exchanged: every other one is less drastic."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    places = {}
    for i in range(struct.unpack(">I", data[128:132])[0]):
        name, place, _ = struct.unpack(">4sII", data[132 + 12 * i : 144 + 12 * i])
        places[name] = place
    red, blue = places[b"rXYZ"], places[b"bXYZ"]
    data[red : red + 20], data[blue : blue + 20] = data[blue : blue + 20], data[red : red + 20]
    return bytes(data)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("alpha", [False, True])
def test_an_embedded_profile_is_honoured(tmp_path, bits, alpha):
    colour = np.full((2, 2, 3), [220, 40, 40]) / 255
    values = np.dstack([colour, np.full((2, 2), 0.5)]) if alpha else colour
    profile = swapped_profile()
    if bits == 8:
        Image.fromarray(stored(values, 8)).save(tmp_path / "a.png", icc_profile=profile)
    else:
        wrapped = chunk(b"iCCP", b"p\0\0" + zlib.compress(profile))
        png16(tmp_path / "a.png", stored(values, 16), 6 if alpha else 2, wrapped)
    right = np.array([40, 40, 220]) / 255
    right = 0.5 * right + 0.5 if alpha else right
    np.testing.assert_allclose(seen(tmp_path / "a.png")[0, 0], right, atol=0.02)


def test_srgb_damaged_and_misplaced_profiles_change_nothing(tmp_path):
    plain = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    pixels = RNG.integers(0, 256, (9, 9, 3), dtype=np.uint8)
    for profile, kind in ((plain, "RGB"), (b"no profile" * 30, "RGB"), (swapped_profile(), "L")):
        picture = Image.fromarray(pixels).convert(kind)
        picture.save(tmp_path / "bare.png")
        picture.save(tmp_path / "with.png", icc_profile=profile)
        np.testing.assert_array_equal(seen(tmp_path / "with.png"), seen(tmp_path / "bare.png"))


def test_big_pictures_are_decoded_in_bands(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20 * 36)  # the channels side by side are more
    monkeypatch.setattr("plugip.image_io.tiff._BAND", 400)
    for layout in ({"rows": 3}, {"tile": (16, 16), "planar": True}):
        path = tiff(tmp_path / "a.tif", stored(PICTURE, 16), 2, **layout)
        assert np.abs(seen(path) - PICTURE).mean() < TWINS


def test_pillow_and_opencv_agree_on_16_bits(tmp_path):
    pixels = RNG.integers(0, 65536, (9, 13, 3), dtype=np.uint16)
    for suffix in ("png", "tif", "ppm"):
        cv2.imwrite(str(tmp_path / f"a.{suffix}"), pixels[..., ::-1])
        np.testing.assert_allclose(seen(tmp_path / f"a.{suffix}"), pixels / 65535, atol=1e-6)
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0]).save(buffer, "TIFF", compression="tiff_lzw")
    (tmp_path / "l.tif").write_bytes(buffer.getvalue())
    np.testing.assert_allclose(seen(tmp_path / "l.tif")[..., 0], pixels[..., 0] / 65535, atol=1e-6)
