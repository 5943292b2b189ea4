"""Files made to harm: each is refused in one sentence or skipped; none hangs or runs code."""

import io
import json
import os
import pickle
import signal
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from plugip.cli.compose import compose_config
from plugip.cli.said import RefusedError
from plugip.data import ImageFolder, load_image
from plugip.operators import FileKernel, FileMask
from plugip.priors import DiffusersUNet, LowRankGaussian, load_weights
from plugip.rng import Rng
from plugip.training.checkpoint import Checkpoints
from plugip.training.decode import decode
from plugip.training.images import load_images
from plugip.training.sections import Data

SECONDS = 5.0  # for one file, on a busy machine


class Late(BaseException):
    """Is raised in a test that hangs; no reader catches it."""


class Touch:
    """Makes a file when it is unpickled: the canary."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self):
        return (Path.touch, (self.place,))


@pytest.fixture(autouse=True)
def canary(tmp_path):
    """Fails a test that ran a file's code, or wrote beside its folder."""
    before = set(tmp_path.parent.iterdir())
    yield
    assert not (tmp_path / "canary").exists(), "code of the file was run"
    assert set(tmp_path.parent.iterdir()) == before


@contextmanager
def bounded() -> Iterator[None]:
    """Ends a reader that hangs."""

    def late(*_: object) -> None:
        raise Late(f"still reading after {SECONDS} s")

    earlier = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, earlier)


# readers


def image(path: Path) -> object:
    return load_image(path, 8)


def mask(path: Path) -> object:
    return FileMask(str(path)).draw(Rng(0, "m", ["a"]), (1, 3, 8, 8))


def kernel(path: Path) -> object:
    return FileKernel(str(path)).build()


def training(path: Path) -> object:
    return decode(path.read_bytes(), 8, 3)


def weights(path: Path) -> object:
    return load_weights(nn.Linear(2, 2), path)


def fitted(path: Path) -> object:
    return LowRankGaussian.load(path)


def checkpoint(path: Path) -> object:
    return Checkpoints(path.parent).load(path)


def diffusers(path: Path) -> object:
    return DiffusersUNet.from_pretrained(str(path), probe=False)


def images(path: Path) -> object:
    return load_images(Data(str(path), 8), 0, lambda _: None)


def folder(path: Path) -> object:
    return ImageFolder(path).items()


# makers: bytes, or a function that makes something at a path


def chunk(kind: bytes, data: bytes, claimed: int | None = None) -> bytes:
    size = len(data) if claimed is None else claimed
    return struct.pack(">I", size) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes, depth: int = 8, body: bytes = b"") -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0))
    rest = chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + rest


def picture(kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def film(kind: str) -> bytes:
    pages = [Image.new("RGB", (40, 40), (i, 0, 0)) for i in (1, 99)]
    return picture(kind, save_all=True, append_images=pages)


def tiff16(**tags: int) -> bytes:
    """A 16-bit RGB TIFF of 8 x 8 pixels whose tags lie."""
    places = {"width": 256, "height": 257, "rows": 278, "place": 273, "bytes": 279}
    body = bytes(8 * 8 * 6)
    values = {256: 8, 257: 8, 258: 16, 259: 1, 262: 2, 273: 200, 277: 3, 278: 8, 279: len(body)}
    values |= {places[name]: value for name, value in tags.items()}
    rows = b"".join(struct.pack("<HHII", tag, 4, 1, v) for tag, v in sorted(values.items()))
    head = struct.pack("<2sHIH", b"II", 42, 8, len(values)) + rows + bytes(4)
    return head.ljust(200, b"\0") + body


def npy(header: str, body: bytes = b"") -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text + body


def header(shape: object, kind: str = "<f8") -> str:
    return f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("../canary"))
    return buffer.getvalue()


def safetensors(head: object, body: bytes = b"", size: int | None = None) -> bytes:
    text = json.dumps(head).encode() if not isinstance(head, bytes) else head
    return struct.pack("<Q", len(text) if size is None else size) + text + body


def tensor(kind: str, shape: list[int], offsets: list[int]) -> dict[str, object]:
    return {"weight": {"dtype": kind, "shape": shape, "data_offsets": offsets}}


def pickled(path: Path) -> bytes:
    return pickle.dumps(Touch(path.parent / "canary"))


def torched(path: Path) -> None:
    torch.save({"weight": Touch(path.parent / "canary")}, path)


def objects(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.array([Touch(path.parent / "canary")], object), allow_pickle=True)


def npz(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, np.array([Touch(path.parent / "canary")], object))


def to(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.write(picture("PNG")[:60])
        file.truncate(1 << 40)


def sparse_npy(path: Path) -> None:
    with path.open("wb") as file:
        file.write(npy(header((1 << 20, 1 << 16))))
        file.truncate(1 << 30)


PIXELS = {
    "empty.png": b"",
    "text.png": b"this is no picture",
    "script.png": b"#!/bin/sh\ntouch canary\n",
    "cut.png": picture("PNG")[:-500],
    "cut.jpg": picture("JPEG")[:300],
    "cut.webp": picture("WEBP")[:300],
    "cut.tif": picture("TIFF")[:900],
    "cut.gif": picture("GIF")[:300],
    "cut.avif": picture("AVIF")[:300],
    "cut.jp2": picture("JPEG2000")[:120],
    "film.gif": film("GIF"),
    "film.webp": film("WEBP"),
    "pages.tif": film("TIFF"),
    "huge.png": png(2**31 - 1, 2**31 - 1),
    "bomb.png": png(30000, 30000, body=bytes(1 << 20)),
    "deep_bomb.png": png(30000, 30000, depth=16),
    "none.png": png(0, 0),
    "long_chunk.png": png(8, 8, chunk(b"tEXt", b"a", claimed=2**31 - 1)),
    "text_bomb.png": png(8, 8, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 25)))),
    "short_rows.png": png(40, 40, body=b"\0"),
    "deep_short.png": png(40, 40, depth=16, body=b"\0"),
    "wide.tif": tiff16(width=2**31, rows=1),
    "high.tif": tiff16(height=2**20),
    "outside.tif": tiff16(place=2**31),
    "many_bytes.tif": tiff16(bytes=2**31),
    "no_rows.tif": tiff16(rows=0),
    "itself.tif": struct.pack("<2sHIHHHIII", b"II", 42, 8, 1, 256, 4, 1, 8, 8),
    "big.ppm": b"P6 99999999 99999999 65535\n",
    "short.pgm": b"P5 40 40 65535\n" + bytes(9),
    "zero.pgm": b"P5 8 8 0\n" + bytes(64),
    "vector.svg": b"<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>",
    "post.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(%pipe%touch canary) run\n",
    "zip.png": zipped({"a.png": picture("PNG")}),
    "tar.png": tarred(),
    "pickle.png": pickled,
    "pipe.png": os.mkfifo,
    "endless.png": to("/dev/zero"),
    "random.png": to("/dev/urandom"),
    "kernel.png": to("/proc/self/maps"),
    "memory.png": to("/proc/self/mem"),
    "dead.png": to("nowhere"),
    "loop.png": to("loop.png"),
    "folder.png": os.mkdir,
    "sparse.png": sparse,
}
ARRAYS = {
    "objects.npy": objects,
    "objects.npz": npz,
    "pickle.npy": pickled,
    "torch.npy": torched,
    "huge.npy": npy(header((2**40, 2**20))),
    "negative.npy": npy(header((-1, 3))),
    "wrapped.npy": npy(header((2**32, 2**32))),
    "deep.npy": npy("(" * 100),
    "code.npy": npy("__import__('pathlib').Path('canary').touch()"),
    "object_kind.npy": npy(header((3,), "|O"), bytes(24)),
    "long.npy": b"\x93NUMPY\2\0" + struct.pack("<I", 2**32 - 1) + b"{" * 99,
    "future.npy": b"\x93NUMPY\x63\0" + bytes(200),
    "sparse.npy": sparse_npy,
    "pipe.npy": os.mkfifo,
    "endless.npy": to("/dev/zero"),
}
WEIGHTS = {
    "code.pt": torched,
    "code.pth": pickled,
    "code.safetensors": pickled,
    "script.pt": zipped(
        {"archive/constants.pkl": b"N.", "archive/code/__torch__.py": b"import os"}
    ),
    "empty.safetensors": b"",
    "long.safetensors": safetensors(b"{}", size=2**63),
    "longer.safetensors": safetensors(b"{}", size=2**40),
    "text.safetensors": safetensors(b"__import__('os')"),
    "list.safetensors": safetensors([1, 2]),
    "outside.safetensors": safetensors(tensor("F32", [4], [0, 16])),
    "backwards.safetensors": safetensors(tensor("F32", [4], [16, 0]), bytes(16)),
    "huge.safetensors": safetensors(tensor("F32", [2**62, 2**62], [0, 16]), bytes(16)),
    "kind.safetensors": safetensors(tensor("OBJECT", [4], [0, 16]), bytes(16)),
    "nested.safetensors": safetensors(b'{"a":' * 5000),
    "zip.pt": zipped({"archive/data.pkl": b"cpathlib\nPath\n(S'canary'\ntR."}),
    "pipe.pt": os.mkfifo,
    "pipe.safetensors": os.mkfifo,
    "endless.pt": to("/dev/zero"),
}
CASES = [
    *((reader, name, PIXELS[name]) for name in PIXELS for reader in (image, mask, kernel)),
    *((reader, name, ARRAYS[name]) for name in ARRAYS for reader in (mask, kernel, image)),
    *((reader, name, WEIGHTS[name]) for name in WEIGHTS for reader in (weights, fitted)),
    *((training, n, data) for n, data in PIXELS.items() if isinstance(data, bytes)),
    (checkpoint, "step_00000001.pt", torched),
    (checkpoint, "step_00000002.pt", pickled),
    (checkpoint, "step_00000003.pt", WEIGHTS["zip.pt"]),
    (images, "bomb.zip", zipped({"a.png": bytes(1 << 25)})),
    (images, "deep.zip", zipped({"a.png": zipped({"a.png": bytes(1 << 25)})})),
    (images, "pixels.zip", zipped({"a.png": PIXELS["bomb.png"]})),
    (images, "outside.zip", zipped({"../canary": b"", "../../canary.png": b"x"})),
    (images, "cut.zip", zipped({"a.png": picture("PNG")})[:-30]),
    (images, "pipe.zip", os.mkfifo),
    (images, "endless.zip", to("/dev/zero")),
]


def made(path: Path, content: bytes | Callable[[Path], bytes | None]) -> Path:
    data = content if isinstance(content, bytes) else content(path)
    if data is not None:
        path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("reader", "name", "content"), CASES, ids=[f"{c[0].__name__}-{c[1]}" for c in CASES]
)
def test_a_hostile_file_is_refused_in_one_sentence(tmp_path, monkeypatch, reader, name, content):
    monkeypatch.chdir(tmp_path)
    path = made(tmp_path / name, content)
    with pytest.raises((ValueError, OSError)) as caught, bounded():
        reader(path)
    text = str(caught.value)
    assert not isinstance(caught.value, UnicodeError) and "\n" not in text
    assert name in text or reader in (training, images)


def test_a_folder_of_hostile_files_is_listed_and_nothing_opened(tmp_path):
    for name, content in PIXELS.items():
        made(tmp_path / name, content)
    (tmp_path / "a\n\x1b[2Jb.png").write_bytes(picture("PNG"))
    (tmp_path / "up").symlink_to("..")
    (tmp_path / "all").symlink_to("/")
    listed = ImageFolder(tmp_path)
    ids = {item.id for item in listed.items()}
    assert "a\\n\\x1b[2Jb.png" in ids and all(one.isprintable() for one in ids)
    not_files = {"pipe.png", "endless.png", "random.png", "dead.png", "loop.png", "up", "all"}
    assert not_files <= set(listed.skipped) and not ids & not_files


def unet(path: Path, **config: object) -> None:
    from diffusers.models.unets.unet_2d import UNet2DModel

    net = UNet2DModel(
        sample_size=8,
        block_out_channels=(8,),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        norm_num_groups=4,
        attention_head_dim=4,
    )
    net.save_pretrained(path)
    file = path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    code = "import pathlib\npathlib.Path('canary').touch()\nclass Net: ...\n"
    (path / "mine.py").write_text(code)


def card(path: Path, text: str) -> None:
    (path / "plugip_prior.json").write_text(text)


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"_class_name": "mine.Net", "auto_map": {"AutoModel": "mine.Net"}}, "{}"),
        ({"_class_name": "os.system"}, "{}"),
        ({"_class_name": ["mine", "Net"]}, "{}"),
        ({"down_block_types": ["mine.Net"]}, '{"prediction": "velocity", "path": "flow"}'),
        ({"auto_map": {"UNet2DModel": "mine.Net"}}, '{"prediction": "mine.Net", "path": "flow"}'),
        ({}, '{"prediction": "velocity", "path": {"_target_": "pathlib.Path.touch"}}'),
        ({}, '{"prediction": "velocity", "path": "mine:Net"}'),
        ({}, "[" * 99),
        ({}, "[1]"),
    ],
)
def test_a_diffusers_folder_that_points_to_code_runs_none(tmp_path, monkeypatch, config, text):
    monkeypatch.chdir(tmp_path)
    unet(tmp_path / "net", **config)
    card(tmp_path / "net", text)
    with pytest.raises((ValueError, OSError)):
        diffusers(tmp_path / "net")


@pytest.mark.parametrize(
    "text",
    [
        "a: !!python/object/apply:pathlib.Path.touch [canary]",
        "a: !!python/object/new:pathlib.PosixPath [canary]",
        "a: !!python/name:os.system",
        "a: !!python/module:os",
    ],
)
def test_python_tags_in_yaml_run_nothing(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "mine.yaml").write_text(text)
    with pytest.raises(RefusedError, match="tag"):
        compose_config(["method=mine"], str(tmp_path))
