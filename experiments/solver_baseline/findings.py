"""What the courses say: the tuned settings, a table, and the passes that solvers save."""

from __future__ import annotations

from statistics import fmean, median, stdev
from typing import Any

import torch

from experiments.ledger import Ledger
from experiments.solver_baseline.courses import (
    BUDGETS,
    TASKS,
    Setting,
    at,
    passes_to,
    stopped,
)

Course = list[dict[str, float]]
Family = tuple[str, str, float]
SLACK = 0.1  # dB below the tuned Adam's last figure that count as equal
ALL = "all four tasks"
NAMES = {"zero": "z = 0", "gaussian": "N(0, I)"}


class Findings:
    """Courses by setting, task and face.

    Args:
        ledger: The rows; those with ``passes`` as their limit are told of, others are trials.
        passes: Limit of the courses.
    """

    def __init__(self, ledger: Ledger, passes: int) -> None:
        self.passes = passes
        self.trials: dict[Setting, dict[tuple[str, str], Course]] = {}
        self.courses: dict[Setting, dict[tuple[str, str], Course]] = {}
        for row in ledger.rows.values():
            told = int(row["key"].rpartition("|")[2]) == passes
            place = (self.courses if told else self.trials).setdefault(
                Setting(**row["setting"]), {}
            )
            place[row["task"], row["face"]] = row["course"]

    def tuned(self) -> dict[Family, Setting]:
        """Returns the best setting of each family by mean PSNR at the end of its trials."""
        best: dict[Family, tuple[float, Setting]] = {}
        for setting, courses in self.trials.items():
            score = fmean(course[-1]["psnr"] for course in courses.values())
            if setting.family not in best or score > best[setting.family][0]:
                best[setting.family] = (score, setting)
        return {family: setting for family, (_, setting) in best.items()}

    def values(self, setting: Setting, task: str, name: str, passes: float) -> list[float]:
        """Returns one score of all faces after so many passes."""
        return [at(course, passes)[name] for course in self.on(setting, task)]

    def on(self, setting: Setting, task: str) -> list[Course]:
        """Returns the courses of all faces on one task, or on ``ALL`` of them."""
        return [c for (t, _), c in self.courses[setting].items() if task in (t, ALL)]

    def savings(self, setting: Setting, reference: Setting, task: str) -> list[float]:
        """Returns per face how many times fewer passes a setting needs than the reference.

        The level is the reference's last PSNR less 0.1 dB. A setting that never gets there counts
        as 0: it is not dropped.
        """
        found = []
        for (t, face), course in self.courses[reference].items():
            mine = self.courses[setting].get((t, face))
            if t == task and mine is not None:
                level = course[-1]["psnr"] - SLACK
                needed = passes_to(mine, level)
                found.append(passes_to(course, level) / needed if needed < torch.inf else 0.0)
        return found


def table(findings: Findings, command: str) -> str:
    """Returns the figures as Markdown."""
    parts = [f"Made by `{command}`.", ""]
    for task in (*TASKS, ALL):
        parts += [f"**{task}**", "", *_task(findings, task), ""]
    return "\n".join(parts + _verdict(findings)) + "\n"


def _task(findings: Findings, task: str) -> list[str]:
    budgets = [*(b for b in BUDGETS if b < findings.passes), findings.passes]
    heads = [f"PSNR at {b}" for b in budgets]
    lines = [
        "| solver | start | λ | "
        + " | ".join(heads)
        + " | SSIM | χ² | RMS z | PSNR at χ² 1.1 | s |",
        "|---" * (len(heads) + 8) + "|",
    ]
    return lines + [_row(findings, s, task, budgets) for s in _sorted(findings, task)]


def _sorted(findings: Findings, task: str) -> list[Setting]:
    last = {
        s: fmean(v)
        for s in findings.courses
        if (v := findings.values(s, task, "psnr", findings.passes))
    }
    return sorted(last, key=lambda s: -last[s])


def _row(findings: Findings, setting: Setting, task: str, budgets: list[int]) -> str:
    def mean(name: str, passes: float = torch.inf) -> float:
        return fmean(findings.values(setting, task, name, passes))

    ends = findings.values(setting, task, "psnr", torch.inf)
    spread = f" ± {stdev(ends):.2f}" if len(ends) > 1 and task != ALL else ""
    early = fmean(stopped(c)["psnr"] for c in findings.on(setting, task))
    scores = [f"{mean('psnr', b):.2f}" for b in budgets]
    scores[-1] += spread
    cells = [
        label(setting),
        NAMES[setting.start],
        f"{setting.seed_weight:g}",
        *scores,
        f"{mean('ssim'):.3f}",
        f"{mean('chi_square'):.2f}",
        f"{mean('seed_rms'):.2f}",
        f"{early:.2f}",
        f"{mean('seconds'):.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def label(setting: Setting) -> str:
    """Returns how a setting is called in table and figure."""
    if setting.published:
        return "DMPlug as published"
    return f"{setting.solver} {setting.rate:g}"


def _verdict(findings: Findings) -> list[str]:
    """Says how many passes L-BFGS saves beside the tuned Adam and beside the published setting."""
    lines = [
        "Passes of another solver over passes of L-BFGS until the other's last PSNR less "
        f"{SLACK} dB, median over faces (0: never reached):",
        "",
        "| other | start | λ | " + " | ".join(TASKS) + " |",
        "|---" * (len(TASKS) + 3) + "|",
    ]
    chosen = {s.family: s for s in findings.courses if not s.published}
    published = [s for s in findings.courses if s.published]
    for (solver, start, weight), setting in chosen.items():
        others = [chosen[f] for f in [("Adam", start, weight)] if f in chosen] + published
        if solver == "L-BFGS":
            lines += [_saved(findings, setting, other) for other in others]
    return lines


def _saved(findings: Findings, setting: Setting, other: Setting) -> str:
    ratios = [findings.savings(setting, other, task) for task in TASKS]
    cells = [f"{median(r):.1f}" if r else "–" for r in ratios]
    place = [label(other), NAMES[setting.start], f"{setting.seed_weight:g}"]
    return f"| {' | '.join(place + cells)} |"


def spread(findings: Findings, setting: Setting, task: str, grid: list[int]) -> dict[str, Any]:
    """Returns mean PSNR over faces on a grid of passes, for the figure."""
    return {
        "passes": grid,
        "psnr": [fmean(findings.values(setting, task, "psnr", p)) for p in grid],
    }
