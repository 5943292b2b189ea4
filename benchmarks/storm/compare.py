"""Holds two folders against each other, and says what is broken, lost or left over in one.

These values may differ between two runs and are left out; every other byte counts:

- ``seconds`` and ``peak_memory`` of rows (``rows.json``, ``scores.jsonl``) and of the tables made
  from them (``summary.json``, ``summary.md``), and with them the ``sha256`` that ``rows.json``
  gives of itself;
- ``provenance.json``: how many starts there were, and of the last one the times, the command,
  the working folder, the commit and the number of processes;
- of a training: ``images_per_second`` and ``seconds`` in ``train.csv`` and in checkpoints, the
  time in the model card, and ``train.log``, which tells of every start.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from safetensors import safe_open

ROW = ("seconds", "peak_memory")
START = ("start", "end", "command", "folder", "git", "processes")
CURVE = ("images_per_second", "seconds")


def contents(folder: Path) -> dict[str, bytes]:
    """Returns the visible files of a folder by relative path, without what may differ."""
    return {name: _lasting(folder / name) for name in visible(folder)}


def changes(expected: dict[str, bytes], found: dict[str, bytes]) -> dict[str, int]:
    """Returns the files that differ, with the number of bytes that do; all of one that is missing.

    Args:
        expected: Contents of the undisturbed folder.
        found: Contents of the other one.
    """
    names = sorted(expected.keys() | found.keys())
    counts = {name: _distance(expected.get(name), found.get(name)) for name in names}
    return {name: count for name, count in counts.items() if count}


def visible(folder: Path) -> list[str]:
    """Returns the relative paths of all files that are not hidden, nor in a hidden folder."""
    names = [file.relative_to(folder) for file in sorted(folder.rglob("*")) if file.is_file()]
    return [str(name) for name in names if not _hidden(name)]


def hidden(folder: Path) -> list[str]:
    """Returns the relative paths of hidden files and folders: what a kill may leave over."""
    names = [file.relative_to(folder) for file in sorted(folder.rglob("*"))]
    return [str(name) for name in names if _hidden(name)]


def broken(folder: Path) -> list[str]:
    """Returns the visible files that cannot be read as what their names say.

    The last line of a table to which lines are added may be torn: the next start mends it.
    """
    return [name for name in visible(folder) if not _whole(folder / name)]


def finished(folder: Path) -> dict[str, str]:
    """Returns a digest of all parts of each finished image, by the path of its folder."""
    found = {}
    for marker in sorted(folder.rglob("images/*/rows.json")):
        saved = _json(marker)
        rows = saved.get("rows") if isinstance(saved, dict) else None
        if rows and all(row["status"] == "ok" for row in rows):
            found[str(marker.parent.relative_to(folder))] = _digest(marker.parent)
    return found


def reached(folder: Path) -> int:
    """Returns the newest checkpoint's step of a training; 0 where there is none."""
    return max((int(file.stem[5:]) for file in folder.glob("checkpoints/step_*.pt")), default=0)


def _hidden(name: Path) -> bool:
    return any(part.startswith(".") for part in name.parts)


def _digest(images: Path) -> str:
    digest = hashlib.sha256()
    trace = images.parents[1] / "trace" / f"{images.name}.csv"
    for file in [*(images / name for name in visible(images)), trace]:
        digest.update(file.name.encode() + (file.read_bytes() if file.is_file() else b"absent"))
    return digest.hexdigest()


def _distance(a: bytes | None, b: bytes | None) -> int:
    if a is None or b is None:
        return max(1, len(a or b or b""))
    differing = sum(x != y for x, y in zip(a, b, strict=False))
    return differing + abs(len(a) - len(b))


# what lasts


def _lasting(file: Path) -> bytes:
    """Returns what two runs must have in common; all bytes of a file that cannot be read."""
    data = file.read_bytes()
    reduce = _REDUCE.get(file.name) or _REDUCE.get(file.suffix)
    if reduce is None:
        return data
    try:
        return reduce(data)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RuntimeError):
        return data


def _rows(data: bytes) -> bytes:
    saved = _without(json.loads(data), ("sha256",))
    return _plain(saved | {"rows": [_without(row, ROW) for row in saved["rows"]]})


def _scores(data: bytes) -> bytes:
    return b"\n".join(_plain(_without(json.loads(line), ROW)) for line in data.splitlines())


def _summary(data: bytes) -> bytes:
    summary = json.loads(data)
    kinds = {kind: _without(values, ROW) for kind, values in summary["kinds"].items()}
    return _plain(summary | {"kinds": kinds})


def _table(data: bytes) -> bytes:
    """Empties the column ``seconds`` of a Markdown table."""
    lines, column = [], None
    for line in data.decode().splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        column = (cells.index("seconds") if "seconds" in cells else column) if cells[1:] else None
        if column is not None and column < len(cells):
            line = "|".join(cells[:column] + cells[column + 1 :])
        lines.append(line)
    return "\n".join(lines).encode()


def _provenance(data: bytes) -> bytes:
    return _plain(_without(json.loads(data)[-1], START))


def _curve(data: bytes) -> bytes:
    rows = csv.DictReader(io.StringIO(data.decode()))
    return "\n".join(str(_without(row, CURVE)) for row in rows).encode()


def _card(data: bytes) -> bytes:
    return re.sub(rb"[\d.]+ (minutes|hours) on ", b"", data)


def _checkpoint(data: bytes) -> bytes:
    state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    rows = [_without(row, CURVE) for row in state.get("rows", [])]
    return b"".join(_leaves(_without(state, CURVE) | {"rows": rows}, "state"))


def _leaves(value: Any, name: str) -> Iterator[bytes]:
    """Yields what a checkpoint holds; equal ones may be different files, as pickle stores them."""
    if isinstance(value, torch.Tensor):
        yield f"{name} {value.dtype} {tuple(value.shape)}".encode()
        yield value.contiguous().flatten().view(torch.uint8).numpy().tobytes()
    elif isinstance(value, (dict, list, tuple)):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, child in pairs:
            yield from _leaves(child, f"{name}.{key}")
    else:
        yield f"{name} {value!r}".encode()


def _without(values: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}


def _plain(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, indent=0).encode()


_REDUCE: dict[str, Callable[[bytes], bytes]] = {
    "rows.json": _rows,
    "scores.jsonl": _scores,
    "summary.json": _summary,
    "summary.md": _table,
    "provenance.json": _provenance,
    "train.csv": _curve,
    "train.log": lambda data: b"",
    "README.md": _card,
    ".pt": _checkpoint,
}


# what is whole


def _whole(file: Path) -> bool:
    read = _READ.get(file.suffix)
    try:
        return read is None or read(file) is not False
    except Exception:  # whatever a reader raises, the file is not whole
        return False


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None


def _lines(file: Path) -> bool:
    whole = file.read_bytes().rpartition(b"\n")[0]
    return all(isinstance(json.loads(line), dict) for line in whole.splitlines())


def _columns(file: Path) -> bool:
    text = file.read_text("utf-8")
    whole = text.rpartition("\n")[0] if file.name == "train.csv" else text
    return len({len(row) for row in csv.reader(io.StringIO(whole))}) <= 1 and bool(text)


def _picture(file: Path) -> None:
    with Image.open(file) as picture:
        picture.load()


def _weights(file: Path) -> None:
    with safe_open(file, "pt") as weights:
        for name in weights.keys():
            weights.get_tensor(name)


_READ: dict[str, Callable[[Path], Any]] = {
    ".json": lambda file: json.loads(file.read_bytes()),
    ".jsonl": _lines,
    ".csv": _columns,
    ".yaml": lambda file: isinstance(yaml.safe_load(file.read_text("utf-8")), dict),
    ".png": _picture,
    ".npy": np.load,
    ".pt": lambda file: torch.load(file, map_location="cpu", weights_only=True),
    ".safetensors": _weights,
}
