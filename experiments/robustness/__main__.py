"""Noise that the method does not know: where does early stopping end, where is the best iterate?

Run: ``python -m experiments.robustness --faces FOLDER --out runs/robustness``. It writes
rows.jsonl, table.md and figure.png into ``--out``; the same command goes on where it was
interrupted. README.md beside this file says what is measured.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from experiments.ledger import Ledger, work_off, workers
from experiments.prior import load_prior
from experiments.robustness.courses import NOISES, WAYS, Bench, Job
from plugip.data import ImageFolder

Rows = dict[tuple[str, str], list[dict[str, Any]]]


def grouped(ledger: Ledger) -> Rows:
    """Returns the rows by noise and way."""
    found: Rows = {}
    for row in ledger.rows.values():
        found.setdefault((row["noise"], row["way"]), []).append(row)
    return found


def table(rows: Rows, command: str) -> str:
    """Returns mean PSNR over faces of the last iterate, the picks, and the oracle."""
    titles = list(next(iter(WAYS.values())).rules)
    heads = ["noise", "solver", "faces", "last", *titles, "oracle", *(f"{t} step" for t in titles)]
    heads.append("oracle step")
    lines = [f"Made by `{command}`.", "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    order = [(noise, way) for noise in NOISES for way in WAYS if (noise, way) in rows]
    return "\n".join([*lines, *(_line(place, rows[place], titles) for place in order)]) + "\n"


def _line(place: tuple[str, str], rows: list[dict[str, Any]], titles: list[str]) -> str:
    def mean(values: list[float], digits: int) -> str:
        return f"{fmean(values):.{digits}f}"

    picked = [mean([r["psnr"][r["picks"][t] - 1] for r in rows], 2) for t in titles]
    steps = [mean([r["picks"][t] for r in rows], 0) for t in titles]
    best = mean([r["psnr"].index(max(r["psnr"])) + 1 for r in rows], 0)
    last = mean([r["psnr"][-1] for r in rows], 2)
    oracle = mean([max(r["psnr"]) for r in rows], 2)
    return f"| {' | '.join([*place, str(len(rows)), last, *picked, oracle, *steps, best])} |"


def draw(rows: Rows, file: Path) -> None:
    """Writes the figure: mean PSNR over iterations, with the picks on it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 6.4), layout="constrained")
    axes = figure.subplots(2, 4)
    colours, marks = ("#0b6e99", "#c2571a"), ("o", "s")
    for ax, noise in zip(axes.T.ravel(), NOISES, strict=True):
        for way, colour in zip(WAYS, colours, strict=True):
            for row in rows.get((noise, way), []):
                psnr = row["psnr"]
                ax.plot(range(1, len(psnr) + 1), psnr, color=colour, lw=0.9, alpha=0.7)
                for (title, step), mark in zip(row["picks"].items(), marks, strict=True):
                    face = colour if title == "ES-WMV" else "white"
                    ax.plot(step, psnr[step - 1], mark, mfc=face, mec=colour, ms=6)
                best = psnr.index(max(psnr))
                ax.plot(best + 1, psnr[best], "*", color="#1a1a1a", ms=8)
        ax.set_title(noise, fontsize=10)
        ax.set_xscale("log")
        ax.tick_params(labelsize=8)
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", color="#ececec", lw=0.6)
    for ax in axes[-1]:
        ax.set_xlabel("iteration", fontsize=9)
    for ax in axes[:, 0]:
        ax.set_ylabel("PSNR, dB", fontsize=9)
    shown = [
        *(("-", colour, colour, way) for way, colour in zip(WAYS, colours, strict=True)),
        ("o", "#6b6b6b", "#6b6b6b", "ES-WMV's pick"),
        ("s", "#6b6b6b", "white", "ES-EMV's pick"),
        ("*", "#1a1a1a", "#1a1a1a", "oracle"),
    ]
    for style, colour, face, name in shown:
        axes[0, 0].plot([], [], style, color=colour, mfc=face, label=name)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)


def options_of(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faces", type=Path, required=True, help="folder of faces to restore")
    parser.add_argument("--out", type=Path, default=Path("runs/robustness"))
    parser.add_argument("--prior", help="a diffusers folder; default: the embedded prior")
    parser.add_argument("--processes", type=int, default=2, help="of one thread each")
    parser.add_argument("--count", type=int, default=2, help="faces, after the first five")
    parser.add_argument("--draw", action="store_true", help="only draw what has been found so far")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    """Measures what is missing, then writes table and figure."""
    options = options_of(words)
    torch.set_num_threads(1)
    faces = ImageFolder(options.faces).items()[5:][: options.count]
    ledger = Ledger(options.out / "rows.jsonl")
    jobs = [Job(noise, way, face) for face in faces for noise in NOISES for way in WAYS]
    if not options.draw:
        with workers(partial(Bench, partial(load_prior, options.prior)), options.processes) as do:
            work_off(jobs, str, ledger, do)
    rows = grouped(ledger)
    given = words if words is not None else sys.argv[1:]
    text = table(rows, shlex.join(["python", "-m", "experiments.robustness", *given]))
    (options.out / "table.md").write_text(text, "utf-8")
    draw(rows, options.out / "figure.png")
    print(f"\n{text}\n{options.out}: table.md, figure.png")


if __name__ == "__main__":
    main()
