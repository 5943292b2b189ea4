"""Small pictures in a folder and in a zip file, and a training that takes seconds."""

import zipfile

import numpy as np
import pytest
from PIL import Image
from trainings import COUNT, SMALL, merged

from plugip.training import read_settings


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """A folder with smooth pictures of several kinds, some in a folder of their own."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "more").mkdir()
    for i in range(COUNT):
        pixels = np.random.default_rng(i).integers(30, 226, (3, 3, 3), dtype=np.uint8)
        name = f"{'more/' if i % 3 else ''}{i:02d}{('.png', '.webp')[i % 2]}"
        Image.fromarray(pixels).resize((12, 10), 3).save(folder / name, lossless=True)
    return folder


@pytest.fixture
def zipped(photos, tmp_path):
    """A factory: the same pictures as a zip file, with further members."""

    def make(extra=None):
        path = tmp_path / "photos.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for file in photos.rglob("*.*"):
                archive.write(file, file.relative_to(photos).as_posix())
            for name, data in (extra or {}).items():
                archive.writestr(name, data)
        return path

    return make


@pytest.fixture
def small(photos, tmp_path):
    """A factory: settings of a small training into a new folder, with changes."""

    def make(**changes):
        here = {"data": {"path": str(photos)}, "output": {"folder": str(tmp_path / "model")}}
        return read_settings(merged(merged(SMALL, here), changes))

    return make
