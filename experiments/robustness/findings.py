"""Where the rules end, where the best iterate is, and which settings of a rule fit a solver."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from experiments.ledger import Ledger
from experiments.robustness.courses import NOISES, WAYS

RULES = ("ES-WMV", "ES-EMV")
COLOURS, MARKS = ("#0b6e99", "#c2571a"), ("o", "s")
Row = dict[str, Any]


class Findings:
    """Courses by noise and solver, with one setting of each rule.

    Args:
        ledger: The rows.
        tuning: Ids of the faces on which the settings are chosen; the others are told of.
    """

    def __init__(self, ledger: Ledger, tuning: set[str]) -> None:
        rows = list(ledger.rows.values())
        self.trials = [row for row in rows if row["face"] in tuning]
        self.chosen = {(way, r): _best(self.trials, way, r) for way in WAYS for r in RULES}
        self.rows: dict[tuple[str, str], list[Row]] = {}
        for row in rows:
            if row["face"] not in tuning:
                self.rows.setdefault((row["noise"], row["way"]), []).append(row)

    def pick(self, row: Row, rule: str) -> int:
        """Returns the step that a rule picked, counted from 1."""
        return row["picks"][self.chosen[row["way"], rule]]


def _best(trials: list[Row], way: str, rule: str) -> str:
    """Returns the setting whose picks have the highest mean PSNR on the tuning faces."""
    names = [name for name in WAYS[way].rules if name.startswith(rule)]
    mine = [row for row in trials if row["way"] == way]
    if not mine:
        return names[0]
    return max(names, key=lambda n: fmean(r["psnr"][r["picks"][n] - 1] for r in mine))


def table(findings: Findings, command: str) -> str:
    """Returns mean PSNR over faces of the last iterate, the picks, and the oracle."""
    heads = ["noise", "solver", "faces", "last", *RULES, "oracle", *(f"{r} step" for r in RULES)]
    heads.append("oracle step")
    lines = [f"Made by `{command}`.", "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    order = [(n, w) for n in NOISES for w in WAYS if (n, w) in findings.rows]
    lines += [_line(findings, place) for place in order]
    return "\n".join([*lines, "", *_settings(findings)]) + "\n"


def _line(findings: Findings, place: tuple[str, str]) -> str:
    def mean(values: Sequence[float], digits: int) -> str:
        return f"{fmean(values):.{digits}f}"

    rows = findings.rows[place]
    steps = [[findings.pick(row, rule) for row in rows] for rule in RULES]
    ends = [[r["psnr"][s - 1] for r, s in zip(rows, of, strict=True)] for of in steps]
    best = [max(row["psnr"]) for row in rows]
    cells = [
        *place,
        str(len(rows)),
        mean([row["psnr"][-1] for row in rows], 2),
        *(mean(values, 2) for values in ends),
        mean(best, 2),
        *(mean(values, 0) for values in steps),
        mean([r["psnr"].index(b) + 1 for r, b in zip(rows, best, strict=True)], 0),
    ]
    return f"| {' | '.join(cells)} |"


def _settings(findings: Findings) -> list[str]:
    """Returns how far every setting of every rule ends below the best iterate."""
    told = [row for rows in findings.rows.values() for row in rows]
    lines = [
        "How far each setting (window, patience) ends below the best iterate, in dB: mean and "
        "largest over kinds of noise and faces; `*` marks the choice made on the tuning faces.",
        "",
        "| solver | rule | tuning faces | other faces |",
        "|---|---|---|---|",
    ]
    for way, watched in WAYS.items():
        for name in watched.rules:
            mark = " *" if findings.chosen[way, name.split()[0]] == name else ""
            cells = [_distance(rows, way, name) for rows in (findings.trials, told)]
            lines.append(f"| {way} | {name}{mark} | {cells[0]} | {cells[1]} |")
    return lines


def _distance(rows: list[Row], way: str, name: str) -> str:
    mine = [row for row in rows if row["way"] == way]
    lost = [max(row["psnr"]) - row["psnr"][row["picks"][name] - 1] for row in mine]
    return f"{fmean(lost):.2f}, {max(lost):.2f}" if lost else "–"


def draw(findings: Findings, file: Path) -> None:
    """Writes the figure: PSNR over iterations of every face, with the picks on it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 6.4), layout="constrained")
    axes = figure.subplots(2, 4)
    for ax, noise in zip(axes.T.ravel(), NOISES, strict=True):
        for way, colour in zip(WAYS, COLOURS, strict=True):
            for row in findings.rows.get((noise, way), []):
                _course(ax, findings, row, colour)
        ax.set_title(noise, fontsize=10)
        ax.set_xscale("log")
        ax.tick_params(labelsize=8)
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", color="#ececec", lw=0.6)
    for ax in axes[-1]:
        ax.set_xlabel("iteration", fontsize=9)
    for ax in axes[:, 0]:
        ax.set_ylabel("PSNR, dB", fontsize=9)
    _legend(figure, axes[0, 0])
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)


def _course(ax: Any, findings: Findings, row: Row, colour: str) -> None:
    psnr = row["psnr"]
    ax.plot(range(1, len(psnr) + 1), psnr, color=colour, lw=0.9, alpha=0.7)
    for rule, mark, face in zip(RULES, MARKS, (colour, "white"), strict=True):
        step = findings.pick(row, rule)
        ax.plot(step, psnr[step - 1], mark, mfc=face, mec=colour, ms=6)
    best = psnr.index(max(psnr))
    ax.plot(best + 1, psnr[best], "*", color="#1a1a1a", ms=8)


def _legend(figure: Any, ax: Any) -> None:
    shown = [
        *(("-", colour, colour, way) for way, colour in zip(WAYS, COLOURS, strict=True)),
        ("o", "#6b6b6b", "#6b6b6b", "ES-WMV's pick"),
        ("s", "#6b6b6b", "white", "ES-EMV's pick"),
        ("*", "#1a1a1a", "#1a1a1a", "oracle"),
    ]
    for style, colour, face, name in shown:
        ax.plot([], [], style, color=colour, mfc=face, label=name)
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=9)
