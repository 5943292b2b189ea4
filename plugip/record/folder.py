"""One run's folder: parts per image, from which every table and figure is rebuilt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml

from plugip.record import figures, provenance
from plugip.record.files import (
    RecordError,
    csv_bytes,
    json_bytes,
    npy_bytes,
    png_bytes,
    read_json,
    safe_name,
    try_folder,
    write_atomic,
)
from plugip.record.rows import Parts, Row
from plugip.record.settings import first_difference, settings_hash
from plugip.record.summary import summarise, to_markdown

LARGEST_FIGURE = 8


class Record:
    """Writes a run folder and knows what it holds already.

    Args:
        folder: The run folder.
        config: The resolved config, plain.
        bits: Depth of the PNG files, 8 or 16.

    Raises:
        ValueError: If bits is neither 8 nor 16, or the folder holds results of other settings.
        RecordError: If the folder cannot be written.
    """

    def __init__(self, folder: str | Path, config: dict[str, Any], bits: int = 8) -> None:
        if bits not in (8, 16):
            raise ValueError(f"output.bits must be 8 or 16, got {bits}")
        self.folder, self.config, self.bits = Path(folder).expanduser(), config, bits
        self.hash = settings_hash(config)
        self._refuse_other_settings()
        try_folder(self.folder)

    def begin(self, device: torch.device, weights: str | None) -> None:
        """Writes config and provenance; refuses a folder whose prior had other weights."""
        runs = read_json(self.folder / "provenance.json") or []
        known = next((r["prior_sha256"] for r in runs if r.get("prior_sha256")), None)
        if weights and known and known != weights:
            raise ValueError(
                f"{self.folder} holds results of a prior with other weights (sha256 {known[:8]} "
                f"there, {weights[:8]} now); choose another output.folder"
            )
        self._provenance = [*runs, provenance.describe(device, weights)]
        text = yaml.safe_dump(self.config, sort_keys=False, allow_unicode=True)
        self._write("config.yaml", text.encode())
        self._write("provenance.json", json_bytes(self._provenance, indent=2))

    def finished(self, image_id: str, digest: str) -> bool:
        """Tells whether this image, from the same file, is solved here with the same settings."""
        saved = self._saved(image_id)
        rows = saved.get("rows", [])
        same = saved.get("digest") == digest and saved.get("config_hash") == self.hash
        return bool(rows) and same and all(row["status"] == "ok" for row in rows)

    def write_parts(self, parts: Parts) -> None:
        """Writes one image's files; rows.json comes last and marks the others as whole."""
        folder = f"images/{safe_name(parts.id)}"
        self._clear(self.folder / folder)
        for name, x in parts.pictures.items():
            self._write(f"{folder}/{name}.png", png_bytes(x, self.bits))
            if x.shape[0] not in (1, 3):
                self._write(f"{folder}/{name}.npy", npy_bytes(x))
        for name, array in parts.arrays.items():
            self._write(f"{folder}/{name}.npy", npy_bytes(array))
        if parts.trace is not None:
            self._write(f"trace/{safe_name(parts.id)}.csv", csv_bytes(parts.trace))
        if parts.error:
            self._write(f"{folder}/error.txt", parts.error.encode())
        saved = {
            "id": parts.id,
            "digest": parts.digest,
            "config_hash": self.hash,
            "view": parts.view,
            "rows": [asdict(row) for row in parts.rows],
        }
        self._write(f"{folder}/rows.json", json_bytes(saved, indent=1))

    def _clear(self, folder: Path) -> None:
        """Removes an earlier try, the finished marker first."""
        (folder / "rows.json").unlink(missing_ok=True)
        for old in folder.glob("*.*"):
            old.unlink()

    def rows(self, ids: Sequence[str]) -> list[Row]:
        """Returns the saved rows of these images, in this order."""
        return [Row(**row) for i in ids for row in self._saved(i).get("rows", [])]

    def write_scores(self, ids: Sequence[str]) -> None:
        """Rebuilds scores.jsonl from the parts of these images."""
        lines = [json_bytes(asdict(row)) + b"\n" for row in self.rows(ids)]
        self._write("scores.jsonl", b"".join(lines))

    def end(self, ids: Sequence[str], conventions: dict[str, str], title: str) -> None:
        """Writes scores, summary and figures of these images, and the time."""
        self.write_scores(ids)
        summary = summarise(self.rows(ids), conventions, ids) | {"config_hash": self.hash}
        self._write("summary.json", json_bytes(summary, indent=2))
        self._write("summary.md", to_markdown(summary, title).encode())
        title = ", ".join(filter(None, (title, conventions.get("noise"))))  # level and scale
        shown = [self._strip(i) for i in ids if self._saved(i).get("rows")]
        shown = [strip for strip in shown if strip.pictures][:LARGEST_FIGURE]
        if shown:
            self._write("figure.png", figures.comparison(shown, title))
        curves = [strip for strip in shown if strip.trace.is_file()]
        if curves:
            self._write("loss.png", figures.curves(curves, title))
        self._provenance[-1]["end"] = provenance.now()
        self._write("provenance.json", json_bytes(self._provenance, indent=2))

    def _strip(self, image_id: str) -> figures.Strip:
        saved, name = self._saved(image_id), safe_name(image_id)
        pictures = {p.stem: p for p in sorted((self.folder / "images" / name).glob("*.png"))}
        rows = {row["kind"]: row for row in saved["rows"]}
        wanted = any(row["kind"] in ("last", "stopped") for row in saved["rows"])
        return figures.Strip(
            image_id, pictures if wanted else {}, rows, saved["view"],
            self.folder / "trace" / f"{name}.csv",
        )  # fmt: skip

    def _saved(self, image_id: str) -> dict[str, Any]:
        return read_json(self.folder / "images" / safe_name(image_id) / "rows.json") or {}

    def _write(self, name: str, data: bytes) -> None:
        write_atomic(self.folder / name, data)

    def _refuse_other_settings(self) -> None:
        path = self.folder / "config.yaml"
        try:
            old = yaml.safe_load(path.read_text("utf-8"))
        except FileNotFoundError:
            return
        except NotADirectoryError:
            raise RecordError(
                f"{self.folder} lies below a file; choose another output.folder"
            ) from None
        difference = (
            first_difference(old, self.config) if isinstance(old, dict) else "it is damaged"
        )
        if difference:
            raise ValueError(
                f"{self.folder} holds results of other settings: {difference}; "
                "choose another output.folder, or delete it"
            )
