"""The README's table and figure: one photograph, three tasks, DMPlug, DPS and DIP.

Run: ``python -m experiments.main_job --out runs/main_job``. It calls ``plugip`` for each task and
method, and writes table.md and figure.png; finished runs are not made again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from PIL import Image

TASKS = {
    "super_resolution": "4× super-resolution",
    "inpaint_random": "inpainting, 70 % missing",
    "nonlinear_deblur": "camera-response blur",
}
METHODS = {"dmplug": "DMPlug", "dps": "DPS, 100 steps", "dip": "DIP, 600 steps"}
WORDS = {  # beside method=...
    "dip": ["prior=untrained", "method.iterations=600", "stopping=es_wmv", "stopping.window=50",
            "stopping.patience=200"],
}  # fmt: skip
INPUTS = {"super_resolution": "bicubic", "inpaint_random": "masked", "nonlinear_deblur": "blurred"}


def rows_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Returns the rows of a run by kind."""
    lines = (folder / "scores.jsonl").read_text("utf-8").splitlines()
    return {row["kind"]: row for row in map(json.loads, lines)}


def pictures_of(folder: Path) -> Path:
    """Returns the folder of the run's only image."""
    (found,) = (folder / "images").iterdir()
    return found


def picture_of(folder: Path) -> Path:
    """Returns the picture of a run's answer."""
    found = pictures_of(folder)
    stopped = found / "stopped.png"
    return stopped if stopped.exists() else found / "reconstruction.png"


def answer_of(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Returns the row of the answer: what the stopping rule picked, or the last iterate."""
    return rows.get("stopped", rows["last"])


def table(out: Path) -> str:
    """Returns the figures as Markdown."""
    heads = ["task", "input", "method", "iterate", "PSNR / SSIM", "residual / noise"]
    heads += ["NFE = VJP", "s", "oracle"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for task, title in TASKS.items():
        for method, name in METHODS.items():
            rows = rows_of(out / f"{task}_{method}")
            start, said, best = rows["input"], answer_of(rows), rows["oracle"]
            first = f"{title} | {INPUTS[task]} {_scores(start)}" if method == "dmplug" else " | "
            # A rule that never fires leaves the last iterate as the answer.
            fired = said["explains_y"] or said["step"] < rows["last"]["step"]
            kind = "stopped" if said["kind"] == "stopped" and fired else "last"
            cells = [first, name, f"{kind}, {said['step']}", _scores(said)]
            cells += [f"{said['residual_to_noise']:.2f}", f"{rows['last']['nfe']}"]
            cells += [f"{rows['last']['seconds']:.0f}", f"{best['metrics']['psnr']:.2f}"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _scores(row: dict[str, Any]) -> str:
    return f"{row['metrics']['psnr']:.2f} / {row['metrics']['ssim']:.3f}"


def draw(out: Path, file: Path) -> None:
    """Writes the figure: truth, measurement and the answers of each method, a line a task."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13.4, 7.2), layout="constrained")
    axes = figure.subplots(len(TASKS), 3 + len(METHODS))
    for line, (task, title) in zip(axes, TASKS.items(), strict=True):
        folders = [out / f"{task}_{method}" for method in METHODS]
        rows = [rows_of(folder) for folder in folders]
        base = pictures_of(folders[0])
        enlarged = base / "input.png"
        shown = [
            (base / "truth.png", "truth", "64 × 64"),
            (base / "measurement.png", "measurement", ""),
            (enlarged if enlarged.exists() else base / "measurement.png", INPUTS[task],
             _scores(rows[0]["input"])),
        ]  # fmt: skip
        for folder, row, name in zip(folders, rows, METHODS.values(), strict=True):
            shown.append((picture_of(folder), name, _scores(answer_of(row))))
        for ax, (path, head, below) in zip(line, shown, strict=True):
            ax.imshow(Image.open(path).convert("RGB"), interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            ax.set_title(head, fontsize=9)
            ax.set_xlabel(below, fontsize=9)
        line[0].set_ylabel(title, fontsize=9)
    figure.savefig(file, dpi=100)


def main() -> int:
    """Makes what is missing, then table and figure; returns the exit code of a failed run."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/main_job"))
    out = parser.parse_args().out
    for task in TASKS:
        for method in METHODS:
            words = [f"task={task}", f"method={method}", *WORDS.get(method, [])]
            words += [f"output.folder={out}/{task}_{method}"]
            done = subprocess.run([sys.executable, "-m", "plugip", *words], check=False)
            if done.returncode:
                return done.returncode
    text = table(out)
    (out / "table.md").write_text(text, "utf-8")
    draw(out, out / "figure.png")
    print(f"\n{text}\n{out}: table.md, figure.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
