"""What the courses say: PSNR at equal numbers of forward calls."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean, stdev

from experiments.ledger import Ledger
from experiments.solver_baseline.courses import TASKS, at
from experiments.warm_start.ways import WAYS

Course = list[dict[str, float]]
PAIRS = (  # a warm start against the start from noise with all else equal, then the two methods
    ("FMPlug, fixed time", "FMPlug from noise"),
    ("FMPlug", "FMPlug from noise"),
    ("D-Flow, 3 Euler steps", "D-Flow, 3 Euler steps, from noise"),
    ("FMPlug", "D-Flow"),
    ("FMPlug, fixed time", "D-Flow, 3 Euler steps"),
    ("FMPlug, fixed time", "DMPlug"),
)
COLOURS = ("#0b6e99", "#53b3d6", "#9fd3e8", "#c2571a", "#e08d4f", "#f2c39b", "#1a1a1a")


class Findings:
    """Courses by task, way and face.

    Args:
        ledger: The rows.
        nfe: Forward calls of a course; rows of other budgets are left out.
    """

    def __init__(self, ledger: Ledger, nfe: int) -> None:
        self.nfe = nfe
        self.budgets = [nfe // 4, nfe // 2, nfe]
        self.courses: dict[tuple[str, str], dict[str, Course]] = {}
        for row in ledger.rows.values():
            if int(row["key"].rpartition("|")[2]) == nfe:
                place = self.courses.setdefault((row["task"], row["way"]), {})
                place[row["face"]] = row["course"]

    def values(self, task: str, way: str, name: str, nfe: float) -> list[float]:
        """Returns one score of all faces after so many forward calls."""
        found = self.courses.get((task, way), {}).values()
        return [at(course, nfe, "nfe")[name] for course in found]

    def gains(self, task: str, first: str, second: str) -> list[float]:
        """Returns how many dB the first way is ahead at the end, face by face."""
        a, b = (self.courses.get((task, way), {}) for way in (first, second))
        ends = [(at(a[f], self.nfe, "nfe"), at(b[f], self.nfe, "nfe")) for f in a if f in b]
        return [x["psnr"] - y["psnr"] for x, y in ends]


def table(findings: Findings, command: str) -> str:
    """Returns the figures as Markdown: mean ± standard deviation over faces."""
    heads = [f"PSNR at {nfe}" for nfe in findings.budgets]
    parts = [f"Made by `{command}`.", ""]
    for task in TASKS:
        parts += [f"**{task}**", "", f"| method | faces | {' | '.join(heads)} | SSIM | χ² | s |"]
        parts += ["|---" * (len(heads) + 5) + "|"]
        parts += [_line(findings, task, way) for way in _sorted(findings, task)] + [""]
    return "\n".join(parts + _pairs(findings)) + "\n"


def _sorted(findings: Findings, task: str) -> list[str]:
    known = [way for way in WAYS if (task, way) in findings.courses]
    return sorted(known, key=lambda way: -fmean(findings.values(task, way, "psnr", findings.nfe)))


def _line(findings: Findings, task: str, way: str) -> str:
    def mean(name: str, nfe: float, digits: int) -> str:
        return f"{fmean(findings.values(task, way, name, nfe)):.{digits}f}"

    end, ends = findings.nfe, findings.values(task, way, "psnr", findings.nfe)
    scores = [mean("psnr", nfe, 2) for nfe in findings.budgets]
    scores[-1] += _spread(ends)
    rest = [mean("ssim", end, 3), mean("chi_square", end, 2), mean("seconds", end, 0)]
    return f"| {' | '.join([way, str(len(ends)), *scores, *rest])} |"


def _spread(values: list[float]) -> str:
    return f" ± {stdev(values):.2f}" if len(values) > 1 else ""


def _pairs(findings: Findings) -> list[str]:
    lines = [
        f"What the first is ahead of the second after {findings.nfe} calls, dB, and on how many "
        "faces:",
        "",
        f"| first | second | {' | '.join(TASKS)} |",
        "|---" * (len(TASKS) + 2) + "|",
    ]
    for pair in PAIRS:
        cells = [_gain(findings.gains(task, *pair)) for task in TASKS]
        lines.append(f"| {' | '.join([*pair, *cells])} |")
    return lines


def _gain(gains: list[float]) -> str:
    if not gains:
        return "–"
    ahead = sum(gain > 0 for gain in gains)
    return f"{fmean(gains):+.2f}{_spread(gains)} ({ahead} of {len(gains)})"


def draw(findings: Findings, file: Path) -> None:
    """Writes the figure: mean PSNR over forward calls, one panel for each task."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 3.9), layout="constrained")
    axes = figure.subplots(1, len(TASKS))
    grid = list(range(20, findings.nfe + 1, 10))
    for ax, task in zip(axes, TASKS, strict=True):
        for way, colour in zip(WAYS, COLOURS, strict=True):
            if (task, way) in findings.courses:
                psnr = [fmean(findings.values(task, way, "psnr", nfe)) for nfe in grid]
                ax.plot(grid, psnr, color=colour, lw=1.6, label=way)
        ax.set_title(task, fontsize=11)
        ax.set_xlabel("forward calls of the network", fontsize=9)
        ax.grid(axis="y", color="#e5e5e5", lw=0.6)
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=8)
    axes[0].set_ylabel("PSNR of the current iterate, dB", fontsize=9)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=115)
