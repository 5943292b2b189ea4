"""Means over images, and the tables that people read."""

from __future__ import annotations

import statistics
from typing import Any

from plugip.record.rows import Row

KINDS = ("input", "last", "stopped", "oracle")
MEANING = {
    "input": "a plain baseline made from y",
    "last": "the last iterate",
    "stopped": "the stopping rule's pick",
    "oracle": "the best iterate, chosen with the truth; an upper bound, not a result",
}


def summarise(rows: list[Row], conventions: dict[str, str]) -> dict[str, Any]:
    """Returns mean, sample standard deviation and count by kind and metric, and what failed."""
    kinds: dict[str, Any] = {}
    for kind in KINDS:
        chosen = [row for row in rows if row.kind == kind and row.status == "ok"]
        if chosen:
            kinds[kind] = {name: _spread(v) for name, v in _columns(chosen).items()}
    failed = {row.id: row.message for row in rows if row.status == "failed"}
    return {
        "images": len({row.id for row in rows}),
        "ok": len({row.id for row in rows if row.status == "ok"}),
        "failed": failed,
        "interrupted": sorted({row.id for row in rows if row.status == "interrupted"}),
        "kinds": kinds,
        "conventions": conventions,
    }


def to_markdown(summary: dict[str, Any], title: str) -> str:
    """Returns the summary as Markdown: mean ± std over images, one line per kind."""
    kinds = summary["kinds"]
    names = list(dict.fromkeys(name for values in kinds.values() for name in values))
    lines = [f"# {title}", "", f"{summary['ok']} of {summary['images']} images, mean ± std.", ""]
    if names:
        lines += ["| kind | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
        lines += [
            f"| {kind} | " + " | ".join(_cell(values.get(n)) for n in names) + " |"
            for kind, values in kinds.items()
        ]
        lines += ["", *(f"- {kind}: {MEANING[kind]}" for kind in kinds)]
    lines += [f"- {text}" for text in summary["conventions"].values()]
    lines += [f"- failed: {i}: {message}" for i, message in summary["failed"].items()]
    lines += [f"- interrupted: {i}" for i in summary["interrupted"]]
    return "\n".join(lines) + "\n"


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
