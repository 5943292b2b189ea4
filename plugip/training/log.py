"""What a training says: sentences, rows of scalars, TensorBoard."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from tqdm import tqdm

from plugip.record.files import append, write_atomic
from plugip.terminal import say

COLUMNS = ("step", "loss", "held_out_loss", "lr", "grad_norm", "images_per_second", "seconds")
MISSING = (
    "TensorBoard is not installed (pip install 'plugip[train]' brings it); the scalars are in "
    "train.csv"
)


Row = dict[str, float]


class Log:
    """Writes train.log, train.csv and TensorBoard files into a folder.

    Args:
        folder: The model's folder.
        active: Whether this process writes at all.

    Attributes:
        rows: The rows so far, which checkpoints keep.
    """

    def __init__(self, folder: Path, active: bool = True) -> None:
        self.folder, self.active = folder, active
        self.table = folder / "train.csv"
        self.rows: list[Row] = []
        self.writer: Any = None

    def say(self, text: str) -> None:
        """Prints a sentence and keeps it in train.log."""
        if not self.active:
            return
        with tqdm.external_write_mode():  # above the progress bar
            say(text)
        line = f"{datetime.now():%Y-%m-%d %H:%M:%S} {text}\n"
        append(self.folder / "train.log", line.encode("utf-8", "backslashreplace"))

    def begin(
        self, step: int, tensorboard: bool, place: str, rows: Sequence[Row] | None = None
    ) -> None:
        """Writes the rows up to a step, without those that a kill left, and opens TensorBoard.

        Args:
            step: Finished steps.
            tensorboard: Whether it is wanted.
            place: Name of its folder.
            rows: Those that a checkpoint has kept; None takes what train.csv holds.
        """
        if not self.active:
            return
        known = read_table(self.table) if rows is None else rows
        self.rows = [row for row in known if row["step"] <= step]
        lines = ([row[c] for c in COLUMNS] for row in self.rows)
        write_atomic(self.table, _lines([COLUMNS, *lines]))
        if tensorboard:
            self.writer = self._open_tensorboard(step, place)

    def row(self, values: Row) -> None:
        """Adds a row; columns that are not given stay empty."""
        if not self.active:
            return
        row = {name: values.get(name, math.nan) for name in COLUMNS}
        append(self.table, _lines([list(row.values())]))
        self.rows.append(row)
        if self.writer is not None:
            for name, value in values.items():
                if name != "step":
                    self.writer.add_scalar(name, value, int(values["step"]))

    def picture(self, name: str, pixels: Any, step: int) -> None:
        """Shows a picture, (H, W, 3) uint8, in TensorBoard, if there is one."""
        if self.writer is not None:
            self.writer.add_image(name, pixels, step, dataformats="HWC")

    def end(self) -> None:
        """Closes TensorBoard's file."""
        if self.writer is not None:
            self.writer.close()
            self.writer = None

    def _open_tensorboard(self, step: int, place: str) -> Any:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self.say(MISSING)
            return None
        return SummaryWriter(str(self.folder / place), purge_step=step + 1)


def table(rows: Any) -> list[Row]:
    """Returns the rows of a checkpoint.

    Raises:
        LookupError, TypeError, ValueError: If they are of another form.
    """
    return [{name: float(row[name]) for name in COLUMNS} for row in rows]


def read_table(path: Path) -> list[Row]:
    """Reads train.csv; lines that are cut off or damaged are left out, empty cells are NaN."""
    if not path.is_file():
        return []
    whole = path.read_text("utf-8", errors="replace").rpartition("\n")[0]
    rows = (_row(line) for line in whole.split("\n")[1:])
    return [row for row in rows if row is not None]


def _row(line: str) -> Row | None:
    try:
        values = [float(cell or "nan") for cell in line.split(",")]
    except ValueError:
        return None
    fits = len(values) == len(COLUMNS) and math.isfinite(values[0])
    return dict(zip(COLUMNS, values, strict=True)) if fits else None


def _lines(rows: list[Any]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    for row in rows:
        writer.writerow([_cell(value) for value in row])
    return text.getvalue().encode()


def _cell(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    if math.isnan(value):
        return ""
    return int(value) if value.is_integer() else value
