"""How many reverse steps, on which grid, by which rule: the study that decides the defaults.

Run: ``python -m experiments.reverse_steps --faces FOLDER --train ZIP``. It writes rows.jsonl,
table.md, figure.png and sheet.png into ``--out``; the same command goes on where it was
interrupted. README.md beside this file says what is measured.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from experiments.ledger import Ledger, workers
from experiments.reverse_steps.bench import open_bench, run
from experiments.reverse_steps.figures import Findings, draw, draw_sheet, table
from experiments.reverse_steps.study import Study
from plugip.data import ImageFolder

TUNING = 5  # the first faces of the folder: decisions may look at them


def study_of(options: argparse.Namespace) -> Study:
    """Turns the command line into a study.

    Raises:
        ValueError: If the folder holds too few faces.
    """
    faces = ImageFolder(options.faces).items()
    if len(faces) <= TUNING:
        raise ValueError(
            f"--faces must be a folder of at least {TUNING + 1} images, {TUNING} for decisions "
            f"and the rest to report on, got {len(faces)} in {options.faces}"
        )
    study = Study(
        out=options.out,
        train=options.train,
        tuning=tuple(faces[:TUNING]),
        reporting=tuple(faces[TUNING : TUNING + options.reporting]),
        budgets=tuple(sorted(options.passes)),
        samples=options.samples,
    )
    return quick(study) if options.quick else study


def quick(study: Study) -> Study:
    """Returns a study of the same settings that takes minutes and proves nothing."""
    return replace(
        study,
        tuning=study.tuning[:1],
        reporting=study.reporting[:1],
        budgets=(20, 40),
        samples=16,
        judged=4,
        fitted=2,
        fine=12,
        real=600,
    )


def options_of(words: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faces", type=Path, required=True, help="folder of faces to fit")
    parser.add_argument("--train", type=Path, required=True, help="zip or folder of real images")
    parser.add_argument("--out", type=Path, default=Path("runs/reverse_steps"))
    parser.add_argument("--prior", help="a diffusers folder; default: the embedded prior")
    parser.add_argument("--processes", type=int, default=2, help="of one thread each")
    parser.add_argument("--passes", type=int, nargs="+", default=[300, 900], help="of a fit")
    parser.add_argument("--reporting", type=int, default=4, help="faces that the range is told of")
    parser.add_argument("--samples", type=int, default=256, help="samples of each setting")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see whether it runs")
    parser.add_argument("--draw", action="store_true", help="only draw what has been found so far")
    return parser.parse_args(words)


def main() -> None:
    """Measures what is missing, then writes table and figures."""
    options = options_of()
    torch.set_num_threads(1)
    opening = partial(open_bench, options.prior, study_of(options))
    bench, ledger = opening(), Ledger(options.out / "rows.jsonl")
    if not options.draw:
        with workers(opening, options.processes) as hands:
            run(bench, ledger, hands)
    findings = Findings(bench, ledger)
    command = shlex.join(["python", "-m", "experiments.reverse_steps", *sys.argv[1:]])
    text = table(findings, command)
    (options.out / "table.md").write_text(text, "utf-8")
    draw(findings, options.out / "figure.png")
    draw_sheet(bench.sheet(findings.learned[3]), findings.learned[3], options.out / "sheet.png")
    print(f"\n{text}\n{options.out}: table.md, figure.png, sheet.png")


if __name__ == "__main__":
    main()
