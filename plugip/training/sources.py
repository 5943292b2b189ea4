"""Where image files come from: a folder or a zip file, listed and read in one way."""

from __future__ import annotations

import lzma
import zipfile
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Protocol

from plugip.image_io import SUFFIXES, Listing, is_picture, left_out, list_pictures, printable
from plugip.training.checks import TrainingError

MOST = 1 << 28  # bytes of one file: several threads hold one each
_SMALL, _RATIO = 1 << 24, 100  # no picture above this size is packed better than so


class Source(Protocol):
    """Lists image files by name, and reads them; safe to read from several threads."""

    @property
    def skipped(self) -> dict[str, str]:
        """Why entries that are no images are left out, by name."""
        ...

    def names(self) -> list[str]:
        """Returns the names of all image files, sorted."""
        ...

    def stamp(self, name: str) -> str:
        """Returns a short text that changes when the file does, without reading it."""
        ...

    def read(self, name: str) -> bytes:
        """Returns a file's content; OSError or ValueError if it cannot be read."""
        ...

    def close(self) -> None:
        """Closes what is open; nothing can be read afterwards."""
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
    if not place.is_dir() and not place.is_file():
        raise TrainingError(f"data.path {place} is a pipe or a device, no folder or zip file")
    source = FolderSource(place) if place.is_dir() else _open_zip(place)
    if not source.names():
        source.close()
        raise TrainingError(
            f"data.path {place} holds no image; looked, also in its folders, for "
            f"{' '.join(SUFFIXES)}{left_out(source.skipped)}"
        )
    return source


@dataclass(frozen=True)
class FolderSource:
    """The images in a folder and below it, as ``plugip.image_io.list_pictures`` finds them."""

    root: Path

    @cached_property
    def _listing(self) -> Listing:
        return list_pictures(self.root)

    @property
    def skipped(self) -> dict[str, str]:
        return self._listing.skipped

    def names(self) -> list[str]:
        return list(self._listing.files)

    def stamp(self, name: str) -> str:
        facts = self._listing.files[name].stat()
        return f"{facts.st_size} {facts.st_mtime_ns}"

    def read(self, name: str) -> bytes:
        path = self._listing.files[name]
        _require_size(path.stat().st_size)
        return path.read_bytes()

    def close(self) -> None:
        """Does nothing: a folder is not open."""


@dataclass(frozen=True)
class ZipSource:
    """The images in a zip file; nothing is unpacked to the disk."""

    archive: zipfile.ZipFile

    @property
    def skipped(self) -> dict[str, str]:
        return {}

    @cached_property
    def _members(self) -> dict[str, zipfile.ZipInfo]:
        found: dict[str, zipfile.ZipInfo] = {}
        for info in self.archive.infolist():
            name = printable(info.filename)
            if info.is_dir() or not _is_image(info.filename):
                continue
            if name in found:
                raise ValueError(
                    f"{self.archive.filename} holds two members called {name}; pack it again"
                )
            found[name] = info
        return found

    def names(self) -> list[str]:
        return sorted(self._members)

    def stamp(self, name: str) -> str:
        facts = self._members[name]
        return f"{facts.file_size} {facts.CRC}"

    def read(self, name: str) -> bytes:
        member = self._members[name]
        _require_size(member.file_size)
        if member.file_size > max(_SMALL, _RATIO * member.compress_size):
            raise ValueError(
                f"it would unpack {member.compress_size} bytes to {member.file_size}, as no "
                "picture does"
            )
        try:
            # By no more than its declared size; zipfile checks that it has that size.
            with self.archive.open(member) as file:
                return file.read(member.file_size)
        # zipfile says so of an encrypted member, and NotImplementedError of an odd compression;
        # damaged streams raise what their decoders raise.
        except (RuntimeError, EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError) as error:
            raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error

    def close(self) -> None:
        self.archive.close()


def _require_size(count: int) -> None:
    if count > MOST:
        raise ValueError(f"it has {count / 1e6:.0f} MB; at most {MOST / 1e6:.0f} MB are read")


def _open_zip(place: Path) -> ZipSource:
    try:
        return ZipSource(zipfile.ZipFile(place))
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise TrainingError(
            f"data.path {place} is neither a folder nor a readable zip file ({error})"
        ) from error


def _is_image(name: str) -> bool:
    path = PurePosixPath(name)
    # macOS adds a shadow of every file to its zip files.
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return is_picture(name) and not hidden
