"""Files that are whole or absent: atomic writes, pictures, tables, safe names."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import math
import os
import re
import secrets
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from plugip.data import to_uint

_REASONS = {
    errno.ENOSPC: "no space is left there",
    errno.EDQUOT: "your quota is used up",
    errno.EFBIG: "a limit on the size of files is reached",
    errno.EROFS: "it is read-only",
    errno.EACCES: "you may not write there",
    errno.EPERM: "you may not write there",
    errno.ENOTDIR: "part of the path is a file",
    errno.EEXIST: "it is a file, not a folder",
    errno.EISDIR: "a folder stands where plugip writes a file",
    errno.ELOOP: "a link stands where plugip writes a file",
}
_TRIAL_BYTES = 1 << 20
# A file at this very place, without following a link, and not for programs that are started.
EXACTLY_HERE = sum(getattr(os, f"O_{n}", 0) for n in ("NOFOLLOW", "CLOEXEC", "BINARY", "NONBLOCK"))
_HALF = re.compile(r"\.plugip-[0-9a-f]{16}\.tmp")
# Names that belong to devices on Windows, whatever suffix they have.
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)
_UNSAFE = re.compile(rf"[A-Z]|^\.|\.$|^$|-[0-9a-f]{{16}}$|^{_DEVICE.pattern}")


class RecordError(OSError):
    """Says in one sentence why results cannot be written, and what to do."""


def write_atomic(path: Path, data: bytes, durable: bool = False) -> None:
    """Writes a file that is seen either whole or not at all, also after a kill.

    Args:
        path: The file; its folder is made where it is missing.
        data: Its content.
        durable: Wait until the disk has it, which also shows a full disk at once.

    Raises:
        RecordError: If the file cannot be written.
    """
    temporary = path.with_name(f".plugip-{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | EXACTLY_HERE, 0o666)
        with open(handle, "wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        _forget(temporary)
        raise cannot_write(path, error) from error


def append(path: Path, data: bytes) -> None:
    """Adds lines to a file in one piece, so that no other process's lines fall between them.

    Raises:
        RecordError: If they cannot be written.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | EXACTLY_HERE, 0o666)
        try:
            if os.write(handle, data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(handle)
    except OSError as error:
        raise cannot_write(path, error) from error


def try_folder(folder: Path) -> None:
    """Makes a folder and writes a megabyte into it, so that trouble shows before any solving.

    Raises:
        RecordError: If the folder is full, read-only, or cannot be made.
    """
    trial = folder / f".plugip-{secrets.token_hex(8)}.tmp"
    write_atomic(trial, bytes(_TRIAL_BYTES), durable=True)
    _forget(trial)


def remove_halves(*folders: Path) -> None:
    """Removes the temporary files that killed runs have left in folders."""
    for folder in folders:
        for file in folder.glob(".plugip-*.tmp"):
            if _HALF.fullmatch(file.name):
                _forget(file)


def safe_name(image_id: str) -> str:
    """Turns an id into a file name: readable, no folders, no two ids alike on any system.

    A name of small letters stays as it is, unless Windows cannot have it; any other one ends in a
    digest, since some systems take A and a for one letter.
    """
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", image_id)
    if plain == image_id and len(plain) <= 100 and not _UNSAFE.search(plain):
        return plain
    digest = hashlib.sha256(image_id.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    start = plain[:100].lstrip(".")
    return f"{'_' if _DEVICE.match(start) else ''}{start}-{digest}"


def png_bytes(x: Tensor, bits: int = 8) -> bytes:
    """Encodes an image, (C, H, W) in [-1, 1], as PNG of 8 or 16 bits per channel.

    Images with other than 1 or 3 channels are shown by their first 3 or 1.
    """
    shown = x if x.shape[0] in (1, 3) else x[:3] if x.shape[0] > 3 else x[:1]
    pixels = to_uint(shown, bits)
    if bits == 16:
        import cv2  # Pillow has no 16-bit RGB

        return cv2.imencode(".png", np.ascontiguousarray(pixels[..., ::-1]))[1].tobytes()
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(buffer, "PNG")
    return buffer.getvalue()


def npy_bytes(y: Tensor) -> bytes:
    """Encodes a tensor exactly, as NumPy's .npy."""
    buffer = io.BytesIO()
    values = y.detach().cpu()
    np.save(buffer, (values.float() if values.dtype.itemsize < 4 else values).numpy())
    return buffer.getvalue()


def csv_bytes(columns: dict[str, list[float]]) -> bytes:
    """Encodes columns of equal length; unknown values are empty cells."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in zip(*columns.values(), strict=True):
        writer.writerow(["" if isinstance(v, float) and math.isnan(v) else v for v in row])
    return text.getvalue().encode()


def read_csv(path: Path) -> dict[str, list[float]]:
    """Reads what ``csv_bytes`` wrote; empty cells become NaN."""
    with path.open(newline="") as file:
        names, *rows = csv.reader(file)
    return {n: [float(row[i] or "nan") for row in rows] for i, n in enumerate(names)}


def json_bytes(value: Any, indent: int | None = None) -> bytes:
    """Encodes strict JSON; numbers that JSON lacks (inf, NaN) become null."""
    text = json.dumps(_strict(value), indent=indent, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "backslashreplace")  # which is JSON's own escape of a surrogate


def read_json(path: Path) -> Any:
    """Reads a JSON file; None if there is none, or it is damaged."""
    try:
        # Nothing but a file: a pipe would be waited for.
        return json.loads(path.read_bytes()) if path.is_file() else None
    except (OSError, ValueError, RecursionError):
        return None


def _strict(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(k): _strict(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(v) for v in value]
    return value


def _forget(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:  # the folder itself may be missing or a file; there is nothing to remove then
        return


def cannot_write(path: Path, error: OSError) -> RecordError:
    """Returns what to tell about a file that the system does not let plugip write."""
    reason = _REASONS.get(error.errno or 0, (error.strerror or str(error)).lower())
    return RecordError(
        f"cannot write to {path.parent}: {reason}; choose another folder with output.folder=..."
    )
