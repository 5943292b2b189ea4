"""What the runs say: one table for each task, last, stopped and oracle apart."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

KINDS = ("last", "stopped", "oracle")
YARDSTICK = "DMPlug"  # every method is compared with it image by image


class Findings:
    """Rows of scores.jsonl by method, task and kind of iterate.

    Args:
        folders: Method, task and folder of each run; those without scores are left out.
    """

    def __init__(self, folders: Iterable[tuple[str, str, Path]]) -> None:
        rows: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = {}
        for method, task, folder in folders:
            for row in _rows(folder / "scores.jsonl"):
                rows.setdefault((method, task), {}).setdefault(row["kind"], []).append(row)
        self.rows = {place: kinds for place, kinds in rows.items() if "last" in kinds}

    def tasks(self) -> list[str]:
        """Returns the tasks that have results, in order."""
        return list(dict.fromkeys(task for _, task in self.rows))

    def methods(self, task: str) -> list[str]:
        """Returns the methods with results on a task, the best last iterate first."""
        found = [m for m, t in self.rows if t == task]
        return sorted(found, key=lambda m: -fmean(self.values(m, task, "last", "psnr")))

    def values(self, method: str, task: str, kind: str, name: str) -> list[float]:
        """Returns one score or cost of all images; those without it are left out."""
        rows = self.rows[method, task].get(kind, [])
        found = [row["metrics"].get(name, row.get(name)) for row in rows]
        return [float(v) for v in found if v is not None]

    def gains(self, method: str, task: str) -> list[float]:
        """Returns how many dB a method's last iterate is ahead of DMPlug's, image by image."""
        if (YARDSTICK, task) not in self.rows:
            return []
        ours, theirs = (
            {row["id"]: row["metrics"]["psnr"] for row in self.rows[m, task]["last"]}
            for m in (method, YARDSTICK)
        )
        return [ours[image] - theirs[image] for image in ours if image in theirs]

    def count(self, method: str, task: str) -> int:
        """Returns the number of images."""
        return len(self.rows[method, task]["last"])


def _rows(file: Path) -> list[dict[str, Any]]:
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def table(findings: Findings, command: str) -> str:
    """Returns the figures as Markdown: mean ± standard deviation over images."""
    heads = [
        "method", "images", *(f"PSNR {kind}" for kind in KINDS), "beside DMPlug", "SSIM last",
        "residual / noise", "NFE", "VJP", "s",
    ]  # fmt: skip
    parts = [f"Made by `{command}`.", ""]
    for task in findings.tasks():
        parts += [f"**{task}**", "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
        parts += [_line(findings, method, task) for method in findings.methods(task)]
        parts += [*_measured(findings, task, len(heads)), ""]
    return "\n".join(parts)


def _line(findings: Findings, method: str, task: str) -> str:
    def said(kind: str, name: str, digits: int, spread: bool = False) -> str:
        values = findings.values(method, task, kind, name)
        if not values:
            return "–"
        wide = f" ± {stdev(values):.{digits}f}" if spread and len(values) > 1 else ""
        return f"{fmean(values):.{digits}f}{wide}"

    cells = [
        method,
        str(findings.count(method, task)),
        *(said(kind, "psnr", 2, spread=True) for kind in KINDS),
        _gain([] if method == YARDSTICK else findings.gains(method, task)),
        said("last", "ssim", 3, spread=True),
        said("last", "residual_to_noise", 2),
        *(said("last", name, 0) for name in ("nfe", "vjps", "seconds")),
    ]
    return f"| {' | '.join(cells)} |"


def _gain(gains: list[float]) -> str:
    """Returns mean ± standard deviation of paired differences, and how many are above 0."""
    if not gains:
        return "–"
    spread = f" ± {stdev(gains):.2f}" if len(gains) > 1 else ""
    return f"{fmean(gains):+.2f}{spread} ({sum(g > 0 for g in gains)} of {len(gains)})"


def _measured(findings: Findings, task: str, cells: int) -> list[str]:
    """Returns the scores of the measurement itself, enlarged where it is smaller."""
    method = findings.methods(task)[0]
    found = [findings.values(method, task, "input", name) for name in ("psnr", "ssim")]
    if not all(found):
        return []
    line = ["*the measurement*", str(len(found[0])), f"{fmean(found[0]):.2f}", "–", "–", "–"]
    line += [f"{fmean(found[1]):.3f}"]
    return [f"| {' | '.join(line + ['–'] * (cells - len(line)))} |"]


def draw(findings: Findings, file: Path) -> None:
    """Writes the figure: PSNR of the three kinds of iterate, one panel for each task."""
    from matplotlib.figure import Figure

    tasks = findings.tasks()
    if not tasks:
        return
    figure = Figure(figsize=(4.2 * min(len(tasks), 3), 3.4 * -(-len(tasks) // 3)))
    figure.set_layout_engine("constrained")
    axes = figure.subplots(-(-len(tasks) // 3), min(len(tasks), 3), squeeze=False).ravel()
    colours, marks = ("#0b6e99", "#c2571a", "#9a9a9a"), ("o", "D", "|")
    for ax, task in zip(axes, tasks, strict=False):
        methods = findings.methods(task)[::-1]
        for kind, colour, mark in zip(KINDS, colours, marks, strict=True):
            points = [(findings.values(m, task, kind, "psnr"), i) for i, m in enumerate(methods)]
            x = [fmean(v) for v, _ in points if v]
            ax.plot(x, [i for v, i in points if v], mark, color=colour, ms=6, ls="", label=kind)
        ax.set_yticks(range(len(methods)), methods, fontsize=8)
        ax.set_title(task, fontsize=10)
        ax.set_xlabel("PSNR, dB", fontsize=8)
        ax.tick_params(axis="x", labelsize=8)
        ax.grid(color="#ececec", lw=0.6)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].legend(fontsize=8, frameon=False, loc="lower right")
    for ax in axes[len(tasks) :]:
        ax.set_axis_off()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
