"""Where image files come from: a folder or a zip file, listed and read in one way."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from plugip.data import SUFFIXES
from plugip.training.checks import TrainingError


class Source(Protocol):
    """Lists image files by name, and reads them; safe to read from several threads."""

    def names(self) -> list[str]:
        """Returns the names of all image files, sorted."""
        ...

    def stamp(self, name: str) -> str:
        """Returns a short text that changes when the file does, without reading it."""
        ...

    def read(self, name: str) -> bytes:
        """Returns a file's content; OSError or ValueError if it cannot be read."""
        ...


def open_source(path: str) -> Source:
    """Opens a folder or a zip file of images.

    Raises:
        TrainingError: If there is neither at this path, or no image in it.
    """
    place = Path(path).expanduser()
    if not place.exists():
        raise TrainingError(
            f"data.path {place} does not exist; give a folder or a zip file of images"
        )
    source = FolderSource(place) if place.is_dir() else _open_zip(place)
    if not source.names():
        raise TrainingError(
            f"data.path {place} holds no image; looked, also in its folders, for "
            f"{' '.join(SUFFIXES)}"
        )
    return source


@dataclass(frozen=True)
class FolderSource:
    """The images in a folder and below it; hidden names are skipped."""

    root: Path

    def names(self) -> list[str]:
        found = (file.relative_to(self.root) for file in self.root.rglob("*") if file.is_file())
        return sorted(name.as_posix() for name in found if _is_image(name.as_posix()))

    def stamp(self, name: str) -> str:
        facts = (self.root / name).stat()
        return f"{facts.st_size} {facts.st_mtime_ns}"

    def read(self, name: str) -> bytes:
        return (self.root / name).read_bytes()


@dataclass(frozen=True)
class ZipSource:
    """The images in a zip file."""

    archive: zipfile.ZipFile

    def names(self) -> list[str]:
        return sorted({name for name in self.archive.namelist() if _is_image(name)})

    def stamp(self, name: str) -> str:
        facts = self.archive.getinfo(name)
        return f"{facts.file_size} {facts.CRC}"

    def read(self, name: str) -> bytes:
        try:
            return self.archive.read(name)
        # zipfile says so of an encrypted member, and NotImplementedError of an odd compression.
        except (RuntimeError, zipfile.BadZipFile) as error:
            raise ValueError(str(error)) from error


def _open_zip(place: Path) -> ZipSource:
    try:
        return ZipSource(zipfile.ZipFile(place))
    except (zipfile.BadZipFile, OSError) as error:
        raise TrainingError(
            f"data.path {place} is neither a folder nor a readable zip file ({error})"
        ) from error


def _is_image(name: str) -> bool:
    path = PurePosixPath(name)
    # macOS adds a shadow of every file to its zip files.
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return path.suffix.lower() in SUFFIXES and not hidden
