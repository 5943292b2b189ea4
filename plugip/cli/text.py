"""What a run says on the terminal: one line before, a small table and the diagnostics after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from plugip.texts import for_terminal

if TYPE_CHECKING:
    from plugip.experiment import Experiment, Summary
    from plugip.record import Row

MANY = 8  # images; the lines of more are in scores.jsonl
FAILED = 50  # images; the reasons of more are in summary.md
_told: set[str] = set()  # metrics whose absence this process has told


def opening(experiment: Experiment) -> str:
    """Returns one line that says what is about to happen, and one for files that are left out."""
    method: Any = experiment.method
    while hasattr(method, "method"):  # a wrapper, such as a stopping rule, keeps it there
        method = method.method
    name = type(method).__name__
    count = len(experiment.data.items())
    images = f"{count} image{'s' if count != 1 else ''}"
    operator, prior = type(experiment.operator).__name__, type(experiment.prior).__name__
    parts = f"{images}, {operator}, {experiment.noise}, {name}, {prior}"
    lines = [f"plugip: {experiment.title}: {parts} -> {experiment.record.folder}"]
    left_out = [f"{name} ({reason})" for name, reason in experiment.data.skipped.items()]
    if left_out:
        lines.append(f"left out: {_named(left_out)}")
    return "\n".join(map(for_terminal, lines))


def closing(summary: Summary) -> str:
    """Returns scores, diagnostics, what failed or is missing, and where the figure is."""
    lines = []
    if summary.skipped:
        lines.append(f"{len(summary.skipped)} finished before and not solved again")
    lines += _scores(summary)
    said = {row.id: row.message for row in summary.rows if row.kind in ("last", "stopped")}
    lines += [f"{i}: {message}" for i, message in list(said.items())[:MANY] if message]
    lines += _failures(summary)
    lines += _unavailable(summary)
    if summary.missing:
        lines.append(f"not solved: {_named(summary.missing)}")
    if summary.interrupted:
        more = "the same command goes on from here" if summary.missing else "all images are solved"
        lines.append(f"interrupted; {more}")
    figure = summary.folder / "figure.png"
    lines.append(f"{summary.title}: {_count(summary)}")
    lines.append(f"figure: {figure}" if figure.is_file() else f"results: {summary.folder}")
    return "\n".join(map(for_terminal, lines))


def _scores(summary: Summary) -> list[str]:
    """Returns one line per row, or, for many images, the means of summary.md."""
    rows = [row for row in summary.rows if row.status != "failed"]
    if len({row.id for row in rows}) <= MANY:
        return _table(rows)
    text = (summary.folder / "summary.md").read_text("utf-8")
    return [line for line in text.splitlines() if line.startswith("|")]


def _table(rows: Sequence[Row]) -> list[str]:
    if not rows:
        return []
    names = list(dict.fromkeys(n for row in rows for n, v in row.metrics.items() if v is not None))
    head = ["image", "kind", *names, "residual/noise", "seconds"]
    cells = [
        [for_terminal(row.id), row.kind]
        + [_number(row.metrics.get(name)) for name in names]
        + [_number(row.residual_to_noise), _number(row.seconds, 1)]
        for row in rows
    ]
    widths = [max(len(line[i]) for line in [head, *cells]) for i in range(len(head))]
    return [
        "  ".join(
            c.ljust(w) if i < 2 else c.rjust(w)
            for i, (c, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in [head, *cells]
    ]


def _failures(summary: Summary) -> list[str]:
    failed = list(summary.failed.items())
    lines = [f"{i} failed: {message}" for i, message in failed[:FAILED]]
    if len(failed) > FAILED:
        lines.append(f"{len(failed) - FAILED} more failed: {summary.folder / 'summary.md'}")
    return lines


def _unavailable(summary: Summary) -> list[str]:
    """Returns which metrics cannot run here, once in a process, however many jobs it runs."""
    missing = [n for n, text in summary.conventions.items() if "not available" in text]
    news = [name for name in missing if name not in _told]
    _told.update(news)
    return [f"{name} is not available here; summary.md says why" for name in news]


def _named(names: Sequence[str]) -> str:
    """Returns names in a line; of many, the first ones and how many more there are."""
    more = f" and {len(names) - MANY} more" if len(names) > MANY else ""
    return ", ".join(names[:MANY]) + more


def _count(summary: Summary) -> str:
    solved = {row.id for row in summary.rows if row.status == "ok"}
    asked = len({*summary.ids, *(row.id for row in summary.rows)})
    return f"{len(solved)} of {asked} image{'s' if asked != 1 else ''}"


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
