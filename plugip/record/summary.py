"""Means over images, and the tables that people read."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from plugip.record.rows import Row
from plugip.texts import for_markdown

KINDS = ("input", "last", "stopped", "oracle")
NAMED = 20  # images without a row that summary.md names
MEANING = {
    "input": "a plain baseline made from y",
    "last": "the last iterate",
    "stopped": "the stopping rule's pick; the last iterate of images where it never fired",
    "oracle": "the best iterate, chosen with the truth; an upper bound, not a result",
}


PARTS = ("task", "operator", "noise", "prior", "method", "restarts", "stopping")


def chosen(config: dict[str, Any], choices: Mapping[str, str] | None = None) -> dict[str, str]:
    """Returns the names of what runs, by part.

    Args:
        config: The resolved config.
        choices: Names that are known; None takes the classes that the config's parts name.
    """
    if choices is not None:
        return {part: str(name) for part, name in choices.items()}
    parts = {part: config.get(part) for part in PARTS}
    named = {k: v.get("_target_") if isinstance(v, dict) else v for k, v in parts.items()}
    return {part: name for part, name in named.items() if isinstance(name, str)}


def summarise(
    rows: list[Row], conventions: dict[str, str], ids: Sequence[str] = ()
) -> dict[str, Any]:
    """Returns mean, sample standard deviation and count by kind and metric, and what failed.

    Args:
        rows: The rows that there are.
        conventions: What is said of metrics and parts.
        ids: All images asked for; by default those that have rows.
    """
    kinds: dict[str, Any] = {}
    for kind in KINDS:
        chosen = [row for row in _of(kind, rows) if row.status == "ok"]
        if chosen:
            kinds[kind] = {name: _spread(v) for name, v in _columns(chosen).items()}
    failed = {row.id: row.message for row in rows if row.status == "failed"}
    known = {row.id for row in rows}
    return {
        "images": len(known.union(ids)),
        "ok": len({row.id for row in rows if row.status == "ok"}),
        "missing": [i for i in ids if i not in known],
        "failed": failed,
        "interrupted": sorted({row.id for row in rows if row.status == "interrupted"}),
        "kinds": kinds,
        "conventions": conventions,
    }


def to_markdown(summary: dict[str, Any], title: str) -> str:
    """Returns the summary as Markdown: mean ± std over images, one line per kind."""
    kinds = summary["kinds"]
    names = list(dict.fromkeys(name for values in kinds.values() for name in values))
    counted = f"{summary['ok']} of {summary['images']} images, mean ± std."
    lines = [f"# {for_markdown(title)}", "", counted, ""]
    if names:
        heads = [for_markdown(name) for name in names]
        lines += ["| kind | " + " | ".join(heads) + " |", "|---|" + "---|" * len(names)]
        lines += [
            f"| {kind} | " + " | ".join(_cell(values.get(n)) for n in names) + " |"
            for kind, values in kinds.items()
        ]
        lines += ["", *(f"- {kind}: {MEANING[kind]}" for kind in kinds)]
    said = [f"{part}: {name}" for part, name in summary.get("choices", {}).items()]
    said += summary["conventions"].values()
    said += [f"failed: {i}: {message}" for i, message in summary["failed"].items()]
    said += [f"interrupted: {i}" for i in summary["interrupted"]]
    missing = summary["missing"]
    said += [f"not solved yet: {i}" for i in missing[:NAMED]]
    if len(missing) > NAMED:
        said.append(f"not solved yet: {len(missing) - NAMED} more")
    return "\n".join([*lines, *(f"- {for_markdown(text)}" for text in said)]) + "\n"


def _of(kind: str, rows: list[Row]) -> list[Row]:
    """Returns the rows of a kind; of the stopping rule's picks, one for every image."""
    chosen = {row.id: row for row in rows if row.kind == kind}
    if kind == "stopped" and chosen:
        chosen = {row.id: row for row in rows if row.kind == "last"} | chosen
    return list(chosen.values())


def _columns(rows: list[Row]) -> dict[str, list[float | None]]:
    names = list(dict.fromkeys(name for row in rows for name in row.metrics))
    columns = {name: [row.metrics.get(name) for row in rows] for name in names}
    return columns | {
        "residual_to_noise": [row.residual_to_noise for row in rows],
        "seconds": [row.seconds for row in rows],
        "nfe": [row.nfe for row in rows],
    }


def _spread(values: list[float | None]) -> dict[str, float | int | None]:
    known = [float(v) for v in values if v is not None]
    if not known:
        return {"mean": None, "std": None, "n": 0}
    std = statistics.stdev(known) if len(known) > 1 else 0.0
    return {"mean": statistics.fmean(known), "std": std, "n": len(known)}


def _cell(value: dict[str, Any] | None) -> str:
    if not value or value["mean"] is None:
        return "-"
    spread = f" ± {value['std']:.3g}" if value["n"] > 1 else ""
    return f"{value['mean']:.4g}{spread}"
