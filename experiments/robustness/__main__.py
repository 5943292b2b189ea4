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

import torch

from experiments.ledger import Ledger, work_off, workers
from experiments.options import face_options
from experiments.prior import load_prior
from experiments.robustness.courses import NOISES, WAYS, Bench, Job
from experiments.robustness.findings import Findings, draw, table
from plugip.data import ImageFolder

TUNING = 5  # the first faces of the folder: settings may be chosen on them


def options_of(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = face_options(__doc__, "robustness")
    parser.add_argument("--tuning", type=int, default=1, help="faces to tune the rules on, 1 to 5")
    parser.add_argument("--count", type=int, default=2, help="faces, after the first five")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    """Measures what is missing, then writes table and figure."""
    options = options_of(words)
    torch.set_num_threads(1)
    faces = ImageFolder(options.faces).items()
    tuning, testing = faces[: min(options.tuning, TUNING)], faces[TUNING:][: options.count]
    ledger = Ledger(options.out / "rows.jsonl")
    jobs = [Job(n, way, face) for face in tuning + testing for n in NOISES for way in WAYS]
    if not options.draw:
        with workers(partial(Bench, partial(load_prior, options.prior)), options.processes) as do:
            work_off(jobs, str, ledger, do)
    findings = Findings(ledger, {face.id for face in tuning})
    given = words if words is not None else sys.argv[1:]
    text = table(findings, shlex.join(["python", "-m", "experiments.robustness", *given]))
    (options.out / "table.md").write_text(text, "utf-8")
    draw(findings, options.out / "figure.png")
    print(f"\n{text}\n{options.out}: table.md, figure.png")


if __name__ == "__main__":
    main()
