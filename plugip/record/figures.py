"""Figures as PNG bytes: the labelled comparison, and the course of loss and residual."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from plugip.record.files import read_csv
from plugip.texts import for_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Picture file, heading, and the rows whose score stands under it, the first that exists.
COLUMNS = (
    ("truth", "truth", ()),
    ("measurement", "measurement", ("input",)),
    ("input", "bicubic", ("input",)),
    ("answer", "reconstruction", ("stopped", "last")),
)
_INK, _MUTED, _LINES = "#1a1a1a", "#6b6b6b", ("#0b6e99", "#c2571a", "#3a7d44", "#7a4fa3")


@dataclass(frozen=True)
class Strip:
    """One image's line in a figure: its picture files by name, rows by kind, and trace file."""

    id: str
    pictures: dict[str, Path]
    rows: dict[str, dict[str, Any]]
    view: str
    trace: Path


def comparison(strips: list[Strip], title: str) -> bytes:
    """Draws truth, measurement, baseline, reconstruction and unknowns, PSNR under each image.

    Args:
        strips: Images, one per line.
        title: Stands above.

    Returns:
        A PNG file.
    """
    columns = [c for c in COLUMNS if any(_picture(s, c[0]) for s in strips)]
    columns += _unknowns(strips)
    figure, axes = _grid(len(strips), len(columns))
    for strip, line in zip(strips, axes, strict=True):
        for (name, heading, kinds), ax in zip(columns, line, strict=True):
            _panel(ax, strip, name, kinds)
            if strip is strips[0]:
                heading = for_figure(_heading(strips, name, heading))
                ax.set_title(heading, fontsize=11, color=_INK)
        line[0].set_ylabel(_short(strip.id), fontsize=8, color=_MUTED)
    figure.suptitle(_title(title), fontsize=12, color=_INK, wrap=True)
    return _png(figure)


def curves(strips: list[Strip], title: str) -> bytes:
    """Draws loss and residual / noise over the steps, with the noise floor, one line per image."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    traces = [read_csv(strip.trace) for strip in strips]
    known = not all(np.isnan(t["residual_to_noise"]).all() for t in traces)
    column = "residual_to_noise" if known else "residual"
    for i, trace in enumerate(traces):
        style = {"color": _LINES[i % 4], "lw": 1.4, "ls": "-" if i < 4 else "--"}
        left.plot(trace["step"], trace["loss"], label=f"line {i}", **style)
        right.plot(trace["step"], trace[column], **style)
    if known:
        right.axhline(1, color=_MUTED, lw=1, ls=":")
        place = {"transform": right.get_yaxis_transform(), "ha": "right", "va": "bottom"}
        right.text(1, 1, "noise floor", color=_MUTED, fontsize=8, **place)
    for ax, name, values in (
        (left, "loss", "loss"),
        (right, column.replace("_to_", " / "), column),
    ):
        _dress(ax, name, all(v > 0 for t in traces for v in t[values]))
    # Names are set afterwards: matplotlib leaves labels that begin with "_" out.
    for text, strip in zip(
        left.legend(fontsize=7, frameon=False).get_texts(), strips, strict=True
    ):
        text.set_text(_short(strip.id))
    figure.suptitle(_title(title), fontsize=11, color=_INK, wrap=True)
    return _png(figure)


def _unknowns(strips: list[Strip]) -> list[tuple[str, str, tuple[str, ...]]]:
    """Returns columns for the parts of unknowns, the true one before the found one."""
    names = {name for strip in strips for name in strip.pictures if name.startswith("theta")}
    parts = sorted({name.removeprefix("theta").removeprefix("_true") for name in names})
    wanted = [(f"theta{kind}{part}", kind, part) for part in parts for kind in ("_true", "")]
    return [
        (name, f"{'true' if kind else 'found'} {part.strip('_') or 'unknown'}", ())
        for name, kind, part in wanted
        if name in names
    ]


def _grid(lines: int, columns: int) -> tuple[Figure, np.ndarray]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.7 * columns, 3.0 * lines + 0.5), layout="constrained", dpi=120)
    return figure, figure.subplots(lines, columns, squeeze=False)


def _panel(ax: Axes, strip: Strip, name: str, kinds: tuple[str, ...]) -> None:
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set_visible(False)
    path = _picture(strip, name)
    if path is None:
        return
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    ax.imshow(pixels, interpolation="nearest")
    h, w = pixels.shape[:2]
    # The baseline's score stands under its own picture; without one, y itself was scored.
    scored = name != "measurement" or "input" not in strip.pictures
    label = (scored and _score(strip, kinds)) or f"{w} x {h}"
    ax.set_xlabel(label, fontsize=10, color=_INK)


def _picture(strip: Strip, name: str) -> Path | None:
    if name != "answer":
        return strip.pictures.get(name)
    # An answer that is known up to a symmetry is shown as it was scored.
    found = (strip.pictures.get(n) for n in ("aligned", "stopped", "reconstruction"))
    return next((path for path in found if path), None)


def _heading(strips: list[Strip], name: str, heading: str) -> str:
    """Returns what stands above a column: what holds for all images in it."""
    if name == "measurement" and strips[0].view:
        return f"measurement ({strips[0].view})"
    if name != "answer":
        return heading
    if "aligned" in strips[0].pictures:
        return "reconstruction (aligned to truth)"
    stopped = ["stopped" in strip.rows for strip in strips]
    if all(stopped):
        return f"{heading} (stopped)"
    return f"{heading} (stopped, or last)" if any(stopped) else f"{heading} (last)"


def _score(strip: Strip, kinds: tuple[str, ...]) -> str:
    row = next((strip.rows[kind] for kind in kinds if kind in strip.rows), None)
    if row is None:
        return ""
    psnr = row["metrics"].get("psnr")
    unfinished = ", interrupted" if row["status"] == "interrupted" else ""
    return f"{psnr:.2f} dB{unfinished}" if psnr is not None else unfinished.lstrip(", ")


def _dress(ax: Axes, name: str, positive: bool) -> None:
    from matplotlib.ticker import MaxNLocator, NullFormatter

    ax.set_xlabel("step", fontsize=9, color=_MUTED)
    ax.set_title(name, fontsize=10, color=_INK)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if positive:
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter("{x:g}")
        low, high = ax.get_ylim()
        ax.yaxis.set_minor_formatter("{x:g}" if high < 20 * low else NullFormatter())
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", color="#e5e5e5", lw=0.6)
    ax.tick_params(which="both", labelsize=8, colors=_MUTED)


def _short(image_id: str) -> str:
    return for_figure(image_id if len(image_id) <= 28 else f"…{image_id[-27:]}")


def _title(title: str) -> str:
    return for_figure(title if len(title) <= 300 else f"{title[:299]}…")


def _png(figure: Figure) -> bytes:
    # A bare Figure draws with Agg and needs no display and no global state of pyplot.
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # Names may hold letters that the font lacks; they become boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
