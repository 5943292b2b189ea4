"""The course of a training as a picture."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

_INK, _MUTED, _TRAIN, _HELD_OUT = "#1a1a1a", "#6b6b6b", "#9cc3d5", "#c2571a"
_SMOOTH = "#0b6e99"
WINDOW = 25  # rows of the running mean, at most; fewer than two windows have none


def loss_curve(rows: Sequence[dict[str, float]], title: str) -> bytes:
    """Draws training and held-out loss over the steps.

    Args:
        rows: Rows of train.csv.
        title: Stands above.

    Returns:
        A PNG file.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8, 4), layout="constrained")
    ax = figure.subplots()
    steps, losses = [row["step"] for row in rows], [row["loss"] for row in rows]
    ax.plot(steps, losses, color=_TRAIN, lw=1, label="training, as logged")
    if len(rows) >= 2 * WINDOW:
        mean = _running_mean(losses)
        ax.plot(steps, mean, color=_SMOOTH, lw=1.6, label="training, running mean")
    kept = [row for row in rows if not math.isnan(row["held_out_loss"])]
    if kept:
        points = [row["step"] for row in kept], [row["held_out_loss"] for row in kept]
        ax.plot(*points, "o-", color=_HELD_OUT, lw=1.4, ms=3, label="held out, averaged weights")
    if losses and min(losses) > 0:
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter("{x:g}")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("step", fontsize=9, color=_MUTED)
    ax.set_ylabel("mean squared error", fontsize=9, color=_MUTED)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", which="both", color="#e5e5e5", lw=0.6)
    ax.tick_params(which="both", labelsize=8, colors=_MUTED)
    ax.legend(fontsize=8, frameon=False)
    ax.set_title(title, fontsize=11, color=_INK)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def _running_mean(values: Sequence[float]) -> list[float]:
    """Returns the mean over the last tenth of what came before, ``WINDOW`` values at most."""
    found = []
    for i in range(len(values)):
        width = max(1, min(WINDOW, (i + 1) // 10))
        found.append(sum(values[i + 1 - width : i + 1]) / width)
    return found
