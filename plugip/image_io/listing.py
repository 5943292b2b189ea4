"""The pictures in a folder: which are taken, which are not and why, and what they are called."""

from __future__ import annotations

import os
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

from plugip.image_io.samples import ImageError

# Still pictures that Pillow reads, in all their spellings.
SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"),
    *(".apng", ".avif", ".dib", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpx", ".mpo"),
    *(".pbm", ".pgm", ".pnm", ".ppm", ".qoi", ".tga"),
)
# Files that together tell a folder of results: of a run, of a training, of several runs.
RESULTS = (
    ("config.yaml", "provenance.json"),
    ("train.yaml", "train.log"),
    ("multirun.yaml",),
)
NAMED = 8  # skipped entries that are named one by one
_UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")


@dataclass(frozen=True)
class Listing:
    """What a folder holds.

    Attributes:
        files: The pictures by id, sorted.
        skipped: Why an entry is not taken, by id, sorted; hidden names do not appear.
    """

    files: dict[str, Path] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


def list_pictures(root: Path) -> Listing:
    """Lists the pictures in a folder and below it, without opening them.

    Hidden names are passed over. Links are followed, except those to folders that are listed
    anyway. Folders of results are skipped; the given one is taken as it is.

    Raises:
        ImageError: If two pictures would have one id.
    """
    found, followed = Listing(), [Path(os.path.realpath(root))]
    folders = [root]
    while folders:
        for entry in _entries(folders.pop(), root, found):
            path, name = Path(entry.path), _id(Path(entry.path), root)
            reason = _refusal(entry, followed)
            if reason:
                found.skipped[name] = reason
            elif os.path.isdir(path):
                folders.append(path)
            else:
                _add(found.files, name, path)
    return Listing(dict(sorted(found.files.items())), dict(sorted(found.skipped.items())))


def left_out(skipped: dict[str, str]) -> str:
    """Returns what a listing skips as the end of a sentence; nothing if it skips nothing."""
    if not skipped:
        return ""
    named = [f"{name} ({reason})" for name, reason in skipped.items()][:NAMED]
    more = f" and {len(skipped) - NAMED} more" if len(skipped) > NAMED else ""
    what = "entry of the folder is" if len(skipped) == 1 else "entries of the folder are"
    return f"; {len(skipped)} {what} left out: {', '.join(named)}{more}"


def is_picture(name: str) -> bool:
    """Tells by its suffix whether a file is a picture of a kind that is read."""
    return name.lower().endswith(SUFFIXES)


def printable(name: str) -> str:
    r"""Returns a name that can be printed, hashed and written; ordinary ones stay as they are.

    Bytes that are not UTF-8 become ``\xe9``, control characters ``\n`` or ``\x1b``.
    """
    if not any(unicodedata.category(c) in _UNPRINTABLE for c in name):
        return name
    # Backslashes are doubled in such names, so that no two of them become alike.
    return "".join(_escaped(c) for c in name.replace("\\", "\\\\"))


def _escaped(character: str) -> str:
    kind = unicodedata.category(character)
    if kind not in _UNPRINTABLE:
        return character
    if kind == "Cs":  # a byte that is not UTF-8, as os.fsdecode hands it on
        return f"\\x{ord(character) & 0xFF:02x}"
    return character.encode("unicode_escape").decode()


def _entries(folder: Path, root: Path, found: Listing) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
    except OSError as error:
        if folder == root:
            raise
        found.skipped[_id(folder, root)] = f"cannot be opened ({error.strerror})"
        return []


def _refusal(entry: os.DirEntry[str], followed: list[Path]) -> str:
    """Says why an entry is not taken; nothing if it is."""
    try:
        return _reason(entry, Path(entry.path), followed)
    except OSError as error:  # in a folder that may be listed, but not entered
        return f"cannot be opened ({error.strerror})"


def _reason(entry: os.DirEntry[str], path: Path, followed: list[Path]) -> str:
    if path.is_dir():
        link = entry.is_symlink()
        return _overlap(Path(os.path.realpath(path)), followed) if link else _results(path)
    if not path.is_file():
        dead = entry.is_symlink() and not os.path.exists(path)
        return "a link to nothing" if dead else "neither a file nor a folder"
    if not is_picture(entry.name):
        return "no picture of a kind that is read"
    return "the sheet of a fitted prior" if _is_sheet(path) else ""


def _overlap(target: Path, followed: list[Path]) -> str:
    if any(target.is_relative_to(other) or other.is_relative_to(target) for other in followed):
        return "a link to a folder that is listed anyway"
    followed.append(target)
    return _results(target)


def _results(folder: Path) -> str:
    for names in RESULTS:
        if all((folder / name).is_file() for name in names):
            return f"a folder of results, which holds {' and '.join(names)}"
    return ""


def _is_sheet(path: Path) -> bool:
    """Tells the picture that plugip-fit-gaussian draws beside its prior."""
    prior = path.with_suffix(".safetensors")
    try:
        if not prior.is_file():
            return False
        with prior.open("rb") as file:
            return b"plugip.priors.LowRankGaussian" in file.read(1 << 16)
    except OSError:  # a name that is too long with this suffix, or a file of somebody else's
        return False


def _id(path: Path, root: Path) -> str:
    return printable(path.relative_to(root).as_posix())


def _add(files: dict[str, Path], name: str, path: Path) -> None:
    if name in files:
        raise ImageError(
            f"{printable(str(files[name]))} and {printable(str(path))} would both have the id "
            f"{name!r}, which names results and random streams; rename one"
        )
    files[name] = path
