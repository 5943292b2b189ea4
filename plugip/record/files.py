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
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from plugip.data import to_uint

_REASONS = {
    errno.ENOSPC: "no space is left there",
    errno.EDQUOT: "your quota is used up",
    errno.EROFS: "it is read-only",
    errno.EACCES: "you may not write there",
    errno.EPERM: "you may not write there",
    errno.ENOTDIR: "part of the path is a file",
    errno.EEXIST: "it is a file, not a folder",
}
_TRIAL_BYTES = 1 << 20


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
    temporary = path.with_name(f".{path.name[:80]}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        _forget(temporary)
        raise _cannot_write(path, error) from error


def try_folder(folder: Path) -> None:
    """Makes a folder and writes a megabyte into it, so that trouble shows before any solving.

    Raises:
        RecordError: If the folder is full, read-only, or cannot be made.
    """
    trial = folder / f".trial.{os.getpid()}"
    write_atomic(trial, bytes(_TRIAL_BYTES), durable=True)
    _forget(trial)


def safe_name(image_id: str) -> str:
    """Turns an id into a file name: readable, no folders, no two ids alike."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", image_id)
    if plain == image_id and len(plain) <= 100 and not plain.startswith("."):
        return plain
    return f"{plain[:100].lstrip('.')}-{hashlib.sha256(image_id.encode()).hexdigest()[:8]}"


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
    return json.dumps(_strict(value), indent=indent, ensure_ascii=False, allow_nan=False).encode()


def read_json(path: Path) -> Any:
    """Reads a JSON file; None if there is none, or it is damaged."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
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


def _cannot_write(path: Path, error: OSError) -> RecordError:
    reason = _REASONS.get(error.errno or 0, (error.strerror or str(error)).lower())
    return RecordError(
        f"cannot write to {path.parent}: {reason}; choose another folder with output.folder=..."
    )
