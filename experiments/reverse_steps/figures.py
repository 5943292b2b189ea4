"""The table and the figures of the study, drawn from its rows."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.ledger import Ledger, Row
from experiments.reverse_steps.bench import Bench, learned_of
from experiments.reverse_steps.measures import DEFAULT, Setting, Times
from experiments.reverse_steps.study import (
    CLIPS,
    HEUN,
    MIDPOINT,
    NAMED,
    SWEEP,
    Job,
    fit_settings,
    learning_jobs,
    sampled,
    sheet_columns,
)

COLOURS = ("#0b6e99", "#c2571a", "#3a7d44", "#7a4b94")
MARKS = ("o", "s", "^", "D")
DASH = "—"
CURVES = {
    "rmse": "Truncation: RMSE to a fine solution; lower is better",
    "frechet": "Samples: Fréchet distance to real faces; lower is better",
    "high": "Samples: high-frequency power over that of real faces",
}


class Findings:
    """The rows of one study, by setting.

    Attributes:
        settings: All settings, in the order of the table.
        samples: Rows of samples.
        scores: By kind of fit and setting: PSNR in dB, one list of budgets for each face, None
            where a budget was too small; only the faces on which all settings have been tried.
        look: The row of real images.
    """

    def __init__(self, bench: Bench, ledger: Ledger) -> None:
        def row(job: Job) -> Row | None:
            return ledger.rows.get(bench.key(job))

        if missing := [str(job) for job in [Job("look"), *learning_jobs()] if row(job) is None]:
            raise ValueError(f"too little is done to draw; {missing[0]} has no row yet")
        self.study, self.prior = bench.study, bench.name
        self.learned = learned_of(bench, ledger)
        self.look = ledger.rows[bench.key(Job("look"))]
        self.settings = sampled(self.learned)
        found = {s: row(Job("samples", s)) for s in self.settings}
        self.samples = {s: r for s, r in found.items() if r is not None}
        faces = {"restoration": self.study.tuning, "range": self.study.reporting}
        self.scores: dict[str, dict[Setting, list[list[float | None]]]] = {}
        for kind, settings in fit_settings(self.learned).items():
            tried = [[row(Job(kind, s, face)) for s in settings] for face in faces[kind]]
            done = [[r["psnr"] for r in rows if r is not None] for rows in tried]
            whole = [scores for scores in done if len(scores) == len(settings)]
            self.scores[kind] = {s: [face[i] for face in whole] for i, s in enumerate(settings)}

    def mean(self, kind: str, setting: Setting, budget: int) -> float | None:
        """Returns the mean PSNR over faces at a budget, by its number; None if there is none."""
        scores = _known([face[budget] for face in self.scores[kind].get(setting, [])])
        return statistics.fmean(scores) if scores else None

    def gain(self, kind: str, setting: Setting) -> tuple[float, float] | None:
        """Returns mean and standard error, over faces, of the dB gained on the default.

        At the largest budget; the error is NaN for a single face. None if there are no scores.
        """
        ours, theirs = (
            _known([face[-1] for face in self.scores[kind].get(s, [])]) for s in (setting, DEFAULT)
        )
        if not ours or not theirs:
            return None
        gains = [a - b for a, b in zip(ours, theirs, strict=True)]
        spread = statistics.stdev(gains) if len(gains) > 1 else float("nan")
        return statistics.fmean(gains), spread / len(gains) ** 0.5


def _known(scores: list[float | None]) -> list[float]:
    """Returns the scores if all are there, so that means are over the same faces; else none."""
    known = [s for s in scores if s is not None]
    return known if len(known) == len(scores) else []


# -----------------------------------------------------------------------------------------------
# table


def table(findings: Findings, command: str) -> str:
    """Returns Markdown: what was done, one line for each setting, and the learned times."""
    study, budgets = findings.study, findings.study.budgets
    head = ["K", "grid", "solver", "clip", "NFE", "RMSE", "Fréchet", "high"]
    for name in ("range", "SR"):
        head += [*(f"{name}, {b}" for b in budgets), f"{name}, gain"]
    lines = [
        f"`{command}`, torch {torch.__version__}, prior {findings.prior}. "
        f"{study.samples} samples; {study.judged} seeds against {study.fine} Heun steps; range on "
        f"{len(findings.scores['range'][DEFAULT])} faces, restoration on "
        f"{len(findings.scores['restoration'][DEFAULT])}, PSNR in dB after so many passes. "
        f"As many other real images: Fréchet {findings.look['floor']:.3f}, high 1.",
        "",
        "| " + " | ".join(head) + " |",
        "|---:|---|---|---|" + "---:|" * (len(head) - 4),
        *("| " + " | ".join(_cells(findings, s)) + " |" for s in findings.settings),
        "",
        *(f"Learned times, K = {k}: {list(t)}." for k, t in sorted(findings.learned.items())),
    ]
    return "\n".join(lines) + "\n"


def _cells(findings: Findings, s: Setting) -> list[str]:
    row = findings.samples.get(s)
    cells = [str(s.steps), s.grid_name, s.solver, s.clip, str(s.nfe)]
    forms = {"rmse": "{:.4f}", "frechet": "{:.3f}", "high": "{:.2f}"}
    cells += [DASH if row is None else form.format(row[name]) for name, form in forms.items()]
    for kind in ("range", "restoration"):
        means = [findings.mean(kind, s, i) for i in range(len(findings.study.budgets))]
        cells += [DASH if m is None else f"{m:.2f}" for m in means]
        gain = None if s == DEFAULT else findings.gain(kind, s)
        cells.append(DASH if gain is None else f"{gain[0]:+.2f} ± {gain[1]:.2f}")
    return [cell.removesuffix(" ± nan") for cell in cells]


# -----------------------------------------------------------------------------------------------
# figures


def draw(findings: Findings, file: Path) -> None:
    """Draws the six panels into a PNG, 1600 pixels wide."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(16, 8.8))
    axes = figure.subplots(2, 3)
    figure.subplots_adjust(0.04, 0.06, 0.985, 0.96, wspace=0.28, hspace=0.25)
    _draw_budgets(axes[0, 0], findings, "range", "Range: best fit of R(z) to an unseen face")
    _draw_budgets(axes[0, 1], findings, "restoration", "4× super-resolution, noise 0.01, by MAP")
    _draw_gains(axes[0, 2], findings)
    for panel, (name, title) in zip(axes[1], CURVES.items(), strict=True):
        _draw_curves(panel, findings, name, title)
    axes[1, 0].set_yscale("log")
    axes[1, 2].set_yscale("log", base=2)
    for panel in (axes[1, 0], axes[1, 2]):
        panel.yaxis.set_major_formatter("{x:g}")
        panel.yaxis.set_minor_formatter("{x:g}")
    axes[1, 1].axhline(findings.look["floor"], color="k", lw=1, ls="--", label="real faces")
    axes[1, 2].axhline(1, color="k", lw=1, ls="--", label="real faces")
    axes[1, 1].legend(fontsize=9)
    figure.savefig(file, dpi=100)


def _draw_budgets(axes: Any, findings: Findings, kind: str, title: str) -> None:
    sweep = [s for s in SWEEP if findings.mean(kind, s, 0) is not None]
    for i, budget in enumerate(findings.study.budgets):
        values = [findings.mean(kind, s, i) for s in sweep]
        label = f"{budget} network passes"
        style = {"color": COLOURS[i % 4], "marker": MARKS[i % 4]}
        axes.plot([s.steps for s in sweep], values, label=label, **style)
    axes.set(xlabel="reverse steps K (Euler, uniform grid)", ylabel="PSNR, dB", title=title)
    axes.set_xscale("log")
    axes.set_xticks([s.steps for s in sweep], [str(s.steps) for s in sweep])
    axes.set_xticks([], minor=True)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)


def _draw_gains(axes: Any, findings: Findings) -> None:
    others = {
        **{s.grid_name: s for s in NAMED},
        "learned": Setting(3, findings.learned[3]),
        "hard clip": CLIPS[0],
        "straight-\nthrough clip": CLIPS[1],
        "Heun K = 2": HEUN[0],
        "midpoint K = 2": MIDPOINT[1],
    }
    names = {"range": "range", "restoration": "4× super-resolution"}
    tried = {k: s for k, s in others.items() if any(findings.gain(kind, s) for kind in names)}
    for i, (kind, label) in enumerate(names.items()):
        gains = {n: g for n, s in tried.items() if (g := findings.gain(kind, s))}
        places = [list(tried).index(n) + 0.4 * i - 0.2 for n in gains]
        means, errors = [g[0] for g in gains.values()], [g[1] for g in gains.values()]
        axes.barh(places, means, 0.38, xerr=errors, color=COLOURS[i], label=label)
    axes.set_yticks(range(len(tried)), list(tried))
    axes.invert_yaxis()
    axes.axvline(0, color="k", lw=1)
    budget = findings.study.budgets[-1]
    axes.set(
        xlabel=f"change of PSNR at {budget} passes, dB (± standard error over faces)",
        title="Instead of K = 3, Euler, uniform grid, no clip",
    )
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize=9)


def _draw_curves(axes: Any, findings: Findings, name: str, title: str) -> None:
    learned = [Setting(k, t) for k, t in sorted(findings.learned.items())]
    curves: dict[str, Sequence[Setting]] = {
        "Euler, uniform grid": SWEEP,
        "Euler, learned grid": learned,
        "Heun": HEUN,
        "midpoint": MIDPOINT,
    }
    for (label, settings), colour, mark in zip(curves.items(), COLOURS, MARKS, strict=True):
        known = [s for s in settings if s in findings.samples]
        values = [findings.samples[s][name] for s in known]
        axes.plot([s.nfe for s in known], values, color=colour, marker=mark, label=label)
    for setting in NAMED:
        if setting in findings.samples and setting.grid != "trailing":
            at = (setting.nfe, findings.samples[setting][name])
            axes.plot(*at, "x", color="#777777")
            axes.annotate(setting.grid, at, xytext=(5, -3), textcoords="offset points", fontsize=8)
    axes.set(xlabel="network calls for one sample (NFE)", title=title)
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=9)


def draw_sheet(x: Tensor, learned: Times, file: Path) -> None:
    """Draws samples (rows, columns, C, H, W) in [-1, 1], twice their size."""
    from matplotlib.figure import Figure

    gap, side = 4, x.shape[-1] + 4
    framed = F.pad((x + 1).clamp(0, 2) / 2, (0, gap, 0, gap), value=1.0)
    # (rows, columns, C, H, W) -> (rows * H, columns * W, C)
    mosaic = framed.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
    figure = Figure(figsize=(0.02 * mosaic.shape[1], 0.02 * mosaic.shape[0] + 0.3))
    axes = figure.add_axes((0.0, 0.0, 1.0, 0.02 * mosaic.shape[0] / figure.get_figheight()))
    axes.imshow(mosaic.numpy(), interpolation="nearest")
    axes.axis("off")
    for k, setting in enumerate(sheet_columns(learned)):
        note = "" if setting.grid_name == "uniform" else f", {setting.grid_name} grid"
        axes.text(k * side + (side - gap) / 2, -4, f"K = {setting.steps}{note}", ha="center")
    figure.savefig(file, dpi=100)
