"""Does a warm start help? FMPlug against D-Flow at equal network calls on one flow.

Run: ``python -m experiments.warm_start --faces FOLDER --out runs/warm_start``. It writes
rows.jsonl, table.md and figure.png into ``--out``; the same command goes on where it was
interrupted. README.md beside this file says what is measured.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from functools import partial

import torch

from experiments.ledger import Ledger, work_off, workers
from experiments.options import face_options
from experiments.prior import load_prior
from experiments.solver_baseline.courses import TASKS
from experiments.warm_start.findings import Findings, draw, table
from experiments.warm_start.ways import WAYS, Bench, Job
from plugip.data import ImageFolder

TUNING = 5  # the first faces of the folder: settings may be chosen on them


def options_of(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = face_options(__doc__, "warm_start")
    parser.add_argument("--count", type=int, default=4, help="faces, after the first five")
    parser.add_argument("--nfe", type=int, default=300, help="forward calls of each course")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    """Measures what is missing, then writes table and figure."""
    options = options_of(words)
    torch.set_num_threads(1)
    faces = ImageFolder(options.faces).items()[TUNING:][: options.count]
    ledger = Ledger(options.out / "rows.jsonl")
    jobs = [Job(task, f, way, options.nfe) for f in faces for task in TASKS for way in WAYS]
    if not options.draw:
        with workers(partial(Bench, partial(load_prior, options.prior)), options.processes) as do:
            work_off(jobs, str, ledger, do)
    findings = Findings(ledger, options.nfe)
    given = words if words is not None else sys.argv[1:]
    text = table(findings, shlex.join(["python", "-m", "experiments.warm_start", *given]))
    (options.out / "table.md").write_text(text, "utf-8")
    draw(findings, options.out / "figure.png")
    print(f"\n{text}\n{options.out}: table.md, figure.png")


if __name__ == "__main__":
    main()
