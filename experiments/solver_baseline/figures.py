"""The figure: PSNR over network passes, one panel for each task."""

from __future__ import annotations

from pathlib import Path

from experiments.solver_baseline.courses import TASKS, Setting
from experiments.solver_baseline.findings import NAMES, Findings, label, spread

COLOURS = {"Adam": "#c2571a", "Nesterov": "#3a7d44", "L-BFGS": "#0b6e99"}
LINES = {("zero", 1.0): "-", ("zero", 0.0): "--", ("gaussian", 1.0): "-.", ("gaussian", 0.0): ":"}


def draw(findings: Findings, file: Path) -> None:
    """Writes the figure as a PNG."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import ScalarFormatter

    figure = Figure(figsize=(14, 3.8), layout="constrained")
    axes = figure.subplots(1, len(TASKS))
    grid = [int(30 * 1.15**k) for k in range(40)]
    grid = [p for p in grid if p <= findings.passes]
    for ax, task in zip(axes, TASKS, strict=True):
        for setting in findings.courses:
            if findings.values(setting, task, "psnr", findings.passes):
                _line(ax, findings, setting, task, grid)
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(ScalarFormatter())
        ax.set_xticks([75, 150, 300, 600, 1200])
        ax.minorticks_off()
        ax.set_title(task, fontsize=11)
        ax.set_xlabel("network passes, forward and backward", fontsize=9)
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", color="#e5e5e5", lw=0.6)
        ax.tick_params(labelsize=8)
    axes[0].set_ylabel("PSNR of the current iterate, dB", fontsize=9)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=115)


def _line(ax: object, findings: Findings, setting: Setting, task: str, grid: list[int]) -> None:
    found = spread(findings, setting, task, grid)
    if setting.published:
        style, name = {"color": "#1a1a1a", "ls": ":", "lw": 1.8}, label(setting)
    else:
        line = LINES[setting.start, setting.seed_weight]
        style = {"color": COLOURS[setting.solver], "ls": line, "lw": 1.5}
        name = f"{label(setting)}, {NAMES[setting.start]}, λ = {setting.seed_weight:g}"
    ax.plot(found["passes"], found["psnr"], label=name, **style)  # type: ignore[attr-defined]
