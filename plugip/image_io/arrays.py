"""NumPy files, read without running anything of theirs and without holding more than they do."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from plugip.image_io.samples import Array, ImageError

_MAGIC = b"\x93NUMPY"
_OTHERS = {
    b"": "is empty",
    b"PK": "is a zip file, such as .npz files and those of torch.save",
    b"\x80": "is a pickle",
    b"MATLAB": "is a MATLAB file",
    b"\x89HDF": "is an HDF5 file",
}


def is_array(path: Path) -> bool:
    """Tells by the content whether a file is meant to be an array, well or badly."""
    head = _head(path)
    return path.suffix.lower() == ".npy" or any(
        head.startswith(mark) for mark in (_MAGIC, *filter(None, _OTHERS))
    )


def read_array(path: Path) -> Array:
    """Reads a .npy file of real numbers, in the machine's own byte order.

    Raises:
        ImageError: If it is no such file, is damaged, or holds anything else.
    """
    head = _head(path)
    if not head.startswith(_MAGIC):
        kinds = [kind for mark, kind in _OTHERS.items() if mark and head.startswith(mark)]
        kind = _OTHERS[b""] if not head else kinds[0] if kinds else "is no NumPy file"
        raise ImageError(f"{path} {kind}; write one array with numpy.save")
    try:
        # Mapped: a header cannot ask for more memory than the file has, nor for objects.
        mapped = np.lib.format.open_memmap(path, mode="r")
    # Damaged headers raise half a dozen exception types; all mean the same here.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ImageError(
            f"{path} cannot be read as an array ({reason}); write real numbers with numpy.save"
        ) from error
    if mapped.dtype.kind not in "biuf":
        raise ImageError(
            f"{path} holds {mapped.dtype} of shape {mapped.shape}; it must be an array of real "
            "numbers"
        )
    # longdouble, which torch does not know, has nothing that float64 has not
    kind = np.dtype(np.float64) if mapped.dtype.itemsize > 8 else mapped.dtype.newbyteorder("=")
    return np.array(mapped, dtype=kind, order="C")


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(8)
