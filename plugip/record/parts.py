"""One image's files: written with their digests, read back whole or not at all."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

from plugip.arguments import fits
from plugip.record.files import (
    RecordError,
    cannot_write,
    csv_bytes,
    json_bytes,
    npy_bytes,
    png_bytes,
    read_json,
    safe_name,
    write_atomic,
)
from plugip.record.provenance import file_digest
from plugip.record.rows import Parts, Row

FORMAT = 2  # of rows.json; it grows when a reader of the one before would misread it
# Files of an image beside rows.json; what has another name belongs to somebody else.
_OURS = re.compile(
    r"(truth|measurement|input|reconstruction|stopped|aligned|start_losses|theta.*)\.(png|npy)"
    r"|error\.txt"
)
_FIELDS = {field.name for field in fields(Row)}


class DamagedError(ValueError):
    """Says why an image's files do not count as its result."""


@dataclass(frozen=True)
class Saved:
    """What rows.json says of an image.

    Attributes:
        digest: sha256 of the image's file.
        config_hash: Names the settings.
        view: How the measurement is shown, if not as it is.
        rows: The image's rows.
        files: sha256 of every other file, by its path in the run folder.
    """

    digest: str
    config_hash: str
    view: str
    rows: list[Row]
    files: dict[str, str]


@dataclass(frozen=True)
class Shelf:
    """The place of one image's files in a run folder.

    Args:
        root: The run folder.
        id: The image.
    """

    root: Path
    id: str

    @property
    def folder(self) -> Path:
        """Where rows, pictures and arrays are."""
        return self.root / "images" / safe_name(self.id)

    @property
    def trace(self) -> Path:
        """Where the course of the solve is, if it was kept."""
        return self.root / "trace" / f"{safe_name(self.id)}.csv"

    def write(self, parts: Parts, config_hash: str, choices: Mapping[str, str], bits: int) -> None:
        """Writes an image's files; rows.json comes last and marks the others as whole."""
        self.require_room()
        self._clear()
        files = {}
        for path, data in self._encoded(parts, bits):
            write_atomic(path, data)
            files[path.relative_to(self.root).as_posix()] = hashlib.sha256(data).hexdigest()
        saved = {
            "format": FORMAT,
            "id": parts.id,
            "digest": parts.digest,
            "config_hash": config_hash,
            "choices": dict(choices),
            "view": parts.view,
            "rows": [asdict(row) for row in parts.rows],
            "files": files,
        }
        write_atomic(self._marker, json_bytes(saved | {"sha256": _sum(saved)}, indent=1))

    def read(self) -> Saved | None:
        """Returns what rows.json says; None where the image was not solved.

        Raises:
            DamagedError: If it is damaged, or from an earlier version.
            RecordError: If a newer version wrote it.
        """
        if not os.path.lexists(self._marker):
            return None
        saved = read_json(self._marker)
        if not isinstance(saved, dict):
            raise DamagedError("its rows.json cannot be read")
        self._refuse_newer(saved)
        if saved.get("format", 1) == 1:
            raise DamagedError("an earlier version of plugip solved it")
        if saved.get("sha256") != _sum({k: v for k, v in saved.items() if k != "sha256"}):
            raise DamagedError("its rows.json was changed since it was written")
        if saved.get("id") != self.id:
            raise DamagedError(f"its rows.json is that of {saved.get('id')}")
        try:
            rows = [Row(**row) for row in saved["rows"]]
            named = saved["digest"], saved["config_hash"], saved["view"]
            found = Saved(*named, rows, saved["files"])
        except (KeyError, TypeError) as error:
            raise DamagedError("its rows.json is not of the form that plugip writes") from error
        if not all(map(_suits, (found, *rows))) or not all(map(self._is_ours, found.files)):
            raise DamagedError("its rows.json is not of the form that plugip writes")
        return found

    def require_whole(self, saved: Saved) -> None:
        """Raises a DamagedError if a file is missing, or not the one that was written."""
        for name, digest in saved.files.items():
            path = self.root / name
            if not os.path.isfile(path):
                raise DamagedError(f"{name} is missing")
            if file_digest(path) != digest:
                raise DamagedError(f"{name} was changed since it was written")

    def pictures(self, saved: Saved) -> dict[str, Path]:
        """Returns the pictures by name."""
        paths = (self.root / name for name in sorted(saved.files))
        return {path.stem: path for path in paths if path.suffix == ".png" and path.is_file()}

    def require_room(self) -> None:
        """Refuses links, which lead elsewhere, and folders in the place of files.

        Raises:
            RecordError: If there is one; plugip writes nothing behind it.
        """
        for folder in (self.root / "images", self.folder, self.root / "trace"):
            if os.path.islink(folder):
                raise _in_the_way(folder, "link")
            if os.path.lexists(folder) and not os.path.isdir(folder):
                raise _in_the_way(folder, "file")
        require_files(self._marker, self.trace, *self._written())

    def _is_ours(self, name: str) -> bool:
        return (self.root / name).parent in (self.folder, self.trace.parent)

    @property
    def _marker(self) -> Path:
        return self.folder / "rows.json"

    def _encoded(self, parts: Parts, bits: int) -> Iterator[tuple[Path, bytes]]:
        for name, x in parts.pictures.items():
            yield self.folder / f"{name}.png", png_bytes(x, bits)
            if x.shape[0] not in (1, 3) and name not in parts.arrays:
                yield self.folder / f"{name}.npy", npy_bytes(x)
        for name, array in parts.arrays.items():
            yield self.folder / f"{name}.npy", npy_bytes(array)
        if parts.trace is not None:
            yield self.trace, csv_bytes(parts.trace)
        if parts.error:
            yield self.folder / "error.txt", parts.error.encode("utf-8", "backslashreplace")

    def _clear(self) -> None:
        """Removes an earlier try, the finished marker first."""
        for old in (self._marker, self.trace, *self._written()):
            try:
                old.unlink(missing_ok=True)
            except OSError as error:
                raise cannot_write(old, error) from error

    def _written(self) -> Iterator[Path]:
        yield from (path for path in self.folder.glob("*.*") if _OURS.fullmatch(path.name))

    def _refuse_newer(self, saved: dict[str, Any]) -> None:
        number, rows = saved.get("format", 1), saved.get("rows")
        found = rows if isinstance(rows, list) else []
        unknown = {name for row in found if isinstance(row, dict) for name in row} - _FIELDS
        if unknown or (isinstance(number, int) and number > FORMAT):
            what = f"fields {', '.join(sorted(unknown))}" if unknown else f"format {number}"
            raise RecordError(
                f"a newer plugip wrote {self._marker}: this one knows format {FORMAT} and not its "
                f"{what}; update plugip, or choose another output.folder"
            )


@cache
def _annotations(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _suits(found: Row | Saved) -> bool:
    hints = _annotations(type(found))
    return all(fits(getattr(found, name), kind) for name, kind in hints.items())


def _sum(saved: dict[str, Any]) -> str:
    return hashlib.sha256(json_bytes(saved)).hexdigest()


def require_files(*files: Path) -> None:
    """Raises a RecordError if a folder stands where plugip writes a file."""
    for file in files:
        if os.path.isdir(file) and not os.path.islink(file):
            raise _in_the_way(file, "folder")


def _in_the_way(path: Path, what: str) -> RecordError:
    return RecordError(
        f"a {what} is in the way: {path} is a {what}, and plugip writes there; remove it, or "
        "choose another output.folder"
    )
