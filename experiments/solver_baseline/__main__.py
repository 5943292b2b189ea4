"""How many network passes does each solver need? The ruler for faster ones.

Run: ``python -m experiments.solver_baseline --faces FOLDER --out runs/solver_baseline``. It writes
rows.jsonl, table.md and figure.png into ``--out``; the same command goes on where it was
interrupted. README.md beside this file says what is measured.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from functools import partial

import torch

from experiments.ledger import Ledger, work_off, workers
from experiments.options import face_options
from experiments.prior import load_prior
from experiments.solver_baseline.courses import (
    BUDGETS,
    PUBLISHED,
    RATES,
    TASKS,
    Bench,
    Job,
    Setting,
)
from experiments.solver_baseline.figures import draw
from experiments.solver_baseline.findings import Findings, table
from plugip.data import ImageFolder, Item

TUNING = 5  # the first faces of the folder: settings may be chosen on them
STARTS, WEIGHTS = ("zero", "gaussian"), (1.0, 0.0)


def settings(solvers: dict[str, tuple[float, ...]]) -> list[Setting]:
    """Returns all combinations of solver, number, start and seed weight."""
    pairs = [(s, w) for s in STARTS for w in WEIGHTS]
    numbers = [(name, rate) for name, rates in solvers.items() for rate in rates]
    return [Setting(name, rate, *pair) for pair in pairs for name, rate in numbers]


def tuning_jobs(faces: list[Item], passes: int) -> list[Job]:
    """Returns the trials on which step lengths and histories are chosen."""
    trials = settings({name: tuple(map(float, rates)) for name, rates in RATES.items()})
    return [Job(task, face, s, passes) for face in faces for task in TASKS for s in trials]


def test_jobs(faces: list[Item], passes: int, ledger: Ledger) -> list[Job]:
    """Returns the courses to be told of: each solver as tuned, and DMPlug as published."""
    tuned = Findings(ledger, passes).tuned()
    chosen = [*tuned.values(), PUBLISHED]
    return [Job(task, face, s, passes) for face in faces for task in TASKS for s in chosen]


def options_of(words: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = face_options(__doc__, "solver_baseline")
    parser.add_argument("--tuning", type=int, default=2, help="faces to tune on, 5 at most")
    parser.add_argument("--tuning-passes", type=int, default=300, help="of each trial")
    parser.add_argument("--testing", type=int, default=4, help="faces to report on")
    parser.add_argument("--passes", type=int, default=BUDGETS[-1], help="of each course")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> None:
    """Tunes, measures what is missing, then writes table and figure."""
    options = options_of(words)
    torch.set_num_threads(1)
    faces = ImageFolder(options.faces).items()
    tuning, testing = faces[: min(options.tuning, TUNING)], faces[TUNING:][: options.testing]
    ledger = Ledger(options.out / "rows.jsonl")
    if not options.draw:
        with workers(partial(Bench, partial(load_prior, options.prior)), options.processes) as do:
            work_off(tuning_jobs(tuning, options.tuning_passes), str, ledger, do)
            work_off(test_jobs(testing, options.passes, ledger), str, ledger, do)
    findings = Findings(ledger, options.passes)
    command = shlex.join(["python", "-m", "experiments.solver_baseline", *(words or sys.argv[1:])])
    text = table(findings, command)
    (options.out / "table.md").write_text(text, "utf-8")
    draw(findings, options.out / "figure.png")
    print(f"\n{text}\n{options.out}: table.md, figure.png")


if __name__ == "__main__":
    main()
