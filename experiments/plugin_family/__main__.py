"""All plug-in methods on six problems, each through the command that a user types.

Run: ``python -m experiments.plugin_family --faces FOLDER --out runs/plugin_family``. It calls
``plugip`` for each method, task and batch of faces; each of these runs has its own folder below
``--out`` and goes on where it was interrupted. It writes table.md and figure.png. README.md beside
this file says what is measured.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from experiments.options import face_options
from experiments.plugin_family.findings import Findings, draw, table

TASKS = {
    "super-resolution": "super_resolution",
    "inpainting": "inpaint_random",
    "camera blur": "nonlinear_deblur",
    "blind motion blur": "blind/motion_deblur",
    "blind Gaussian blur": "blind/gaussian_deblur",
    "phase retrieval": "phase_retrieval",
}
TUNING = 5  # the first faces of the folder: no result is told of them
BLIND = ("blind motion blur", "blind Gaussian blur")
KNOWN = tuple(task for task in TASKS if task not in BLIND)
NEED_PICTURE = "phase retrieval"  # its measurement guides nobody
PICTURES = tuple(task for task in TASKS if task != NEED_PICTURE)


@dataclass(frozen=True)
class Entry:
    """A method as it is run.

    Attributes:
        words: What is said to plugip; ``{guides}`` stands for the tuning faces.
        without: Tasks that it does not solve.
        stopping: The stopping rule that picks, while the method goes on to its end.
    """

    words: tuple[str, ...]
    without: tuple[str, ...] = ()
    stopping: str = "discrepancy"


METHODS = {
    "DMPlug": Entry(("method=dmplug", "method.iterations=100", "method.start.scale=1.0")),
    "DMPlug, published": Entry(("method=dmplug_paper", "method.iterations=125")),
    "DMPlug, 4 starts": Entry(
        ("method=dmplug", "method.iterations=100", "method.start.scale=1.0",
         "restarts=multi_start", "restarts.starts=4", "restarts.trial=10")
    ),
    "DMPlug from zero": Entry(
        ("method=dmplug", "method.iterations=100", "method.start.scale=0"), PICTURES
    ),
    "Least misfit on the shell": Entry(("method=constrained_misfit", "method.iterations=100")),
    "Shortest seed that explains y": Entry(("method=constrained_seed", "method.iterations=100")),
    "FMPlug": Entry(
        ("method=fmplug", "method.iterations=100", "method.time_step=0.01"), (NEED_PICTURE,)
    ),
    "FMPlug, warm start": Entry(
        ("method=fmplug_warm_start", "method.iterations=100"), (NEED_PICTURE,)
    ),
    "FMPlug, few-shot": Entry(
        ("method=fmplug_few_shot", "method.iterations=100", "method.guide.files=[{guides}]"),
        PICTURES
    ),
    "D-Flow": Entry(("method=dflow", "method.iterations=30"), (NEED_PICTURE,)),
    "DMILO": Entry(("method=dmilo", "method.outer=3", "method.inner=40"), BLIND),
    "DMILO-PGD": Entry(("method=dmilo_pgd", "method.outer=3", "method.inner=40"), BLIND),
    "DIP": Entry(
        ("method=dip", "prior=untrained", "method.iterations=600", "stopping.window=50",
         "stopping.patience=200"), (), "es_wmv"
    ),
    "SelfDeblur": Entry(
        ("method=self_deblur", "prior=untrained", "method.iterations=600", "stopping.window=50",
         "stopping.patience=200"), KNOWN, "es_wmv"
    ),
    "DPS": Entry(("method=dps",), BLIND),
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One call of plugip."""

    method: str
    task: str
    folder: Path
    words: tuple[str, ...]


def runs(options: argparse.Namespace) -> list[Run]:
    """Returns all calls: some faces through all tasks and methods, then the next faces."""
    return [run for faces in _batches(options) for run in _runs_of(faces, options)]


def _runs_of(faces: Sequence[Path], options: argparse.Namespace) -> Iterator[Run]:
    place = options.out / f"{faces[0].stem}_to_{faces[-1].stem}"
    prior = ("prior=diffusers", f"prior.source={options.prior}") if options.prior else ()
    for (task, name), (method, entry) in product(TASKS.items(), METHODS.items()):
        if task in entry.without or not _wanted(options, task, method):
            continue
        folder = place / name / method.replace(",", "").replace(" ", "_")
        own = () if any(w.startswith("prior=") for w in entry.words) else prior
        said = [word.format(guides=_listed(_faces(options)[:TUNING])) for word in entry.words]
        words = (
            f"task={name}", *said, *own, f"stopping={entry.stopping}", "halt=false",
            "data=folder", f"data.path=[{_listed(faces)}]", f"output.folder={folder}",
        )  # fmt: skip
        yield Run(method, task, folder, words)


def _wanted(options: argparse.Namespace, task: str, method: str) -> bool:
    tasks, methods = options.tasks or TASKS, options.methods or METHODS
    return task in tasks and method in methods


def _batches(options: argparse.Namespace) -> Iterator[list[Path]]:
    """Yields the faces that are restored together."""
    if options.batch < 1:
        raise SystemExit(f"--batch must be at least 1, got {options.batch}")
    files = _faces(options)[TUNING:][: options.count]
    if not files:
        raise SystemExit(f"{options.faces} holds no faces beyond the first {TUNING}")
    yield from (files[i : i + options.batch] for i in range(0, len(files), options.batch))


def _faces(options: argparse.Namespace) -> list[Path]:
    return sorted(options.faces.glob("*.png"))


def _listed(files: Sequence[Path]) -> str:
    return ",".join(map(str, files))


def call(run: Run) -> int:
    """Calls plugip for one run; its words go to a log beside the results."""
    run.folder.mkdir(parents=True, exist_ok=True)
    with (run.folder.parent / f"{run.folder.name}.log").open("a") as log:
        command = [sys.executable, "-m", "plugip", *run.words]
        done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False)
    said = "done" if done.returncode == 0 else f"FAILED, see {log.name}"
    print(f"{run.folder}: {said}", flush=True)
    return done.returncode


def options_of(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = face_options(__doc__, "plugin_family")
    parser.add_argument("--count", type=int, default=27, help="faces, after the first five")
    parser.add_argument("--batch", type=int, default=27, help="faces in one call of plugip")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, help="some tasks only")
    parser.add_argument("--methods", nargs="+", choices=METHODS, help="some methods only")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Makes all runs, then table and figure; returns how many runs failed."""
    options = options_of(words)
    planned, failed = runs(options), 0
    if not options.draw:
        with ThreadPoolExecutor(options.processes) as pool:
            failed = sum(code != 0 for code in pool.map(call, planned))
    findings = Findings([(r.method, r.task, r.folder) for r in planned])
    given = words if words is not None else sys.argv[1:]
    text = table(findings, shlex.join(["python", "-m", "experiments.plugin_family", *given]))
    (options.out / "table.md").write_text(text, "utf-8")
    draw(findings, options.out / "figure.png")
    print(f"\n{text}\n{options.out}: table.md, figure.png")
    return failed


if __name__ == "__main__":
    sys.exit(main())
