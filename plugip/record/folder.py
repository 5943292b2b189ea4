"""One run's folder: parts per image, from which every table and figure is rebuilt."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml

from plugip.record import figures, provenance
from plugip.record.files import (
    append,
    json_bytes,
    read_json,
    remove_halves,
    try_folder,
    write_atomic,
)
from plugip.record.inputs import named_files
from plugip.record.lock import FolderLock
from plugip.record.parts import DamagedError, Saved, Shelf, require_files
from plugip.record.rows import Parts, Row
from plugip.record.settings import first_difference, settings_hash
from plugip.record.summary import chosen, summarise, to_markdown
from plugip.texts import for_terminal

LARGEST_FIGURE = 8
CONFIG, PROVENANCE, SCORES = "config.yaml", "provenance.json", "scores.jsonl"
SUMMARY, TABLE, FIGURE, CURVES = "summary.json", "summary.md", "figure.png", "loss.png"
_RESULTS = (SCORES, SUMMARY, TABLE, FIGURE, CURVES)
_log = logging.getLogger(__name__)


class Record:
    """Writes a run folder and knows what it holds already.

    The folder belongs to this record until ``close``, the end of a ``with`` block, or the end of
    the process. Of the processes that torchrun starts, the first one keeps it for all.

    Args:
        folder: The run folder: a new or empty one, or one of an earlier run.
        config: The resolved config, plain.
        bits: Depth of the PNG files, 8 or 16.
        choices: Names of what runs (task, operator, method, prior, ...); None takes them from the
            config's targets.
        command: The command of this run; None takes the one of the process.
        names: The config as the parts are built from it, where ``config`` hides values that came
            from the environment: the files that it names are known by their content.

    Raises:
        ValueError: If bits is neither 8 nor 16, or the folder holds results of other settings, of
            files whose content has changed, or anything else.
        RecordError: If another run is at work in the folder, or it cannot be written.
    """

    def __init__(
        self,
        folder: str | Path,
        config: dict[str, Any],
        bits: int = 8,
        choices: Mapping[str, str] | None = None,
        command: Sequence[str] | None = None,
        names: dict[str, Any] | None = None,
    ) -> None:
        if bits not in (8, 16):
            raise ValueError(f"output.bits must be 8 or 16, got {bits}")
        self.folder, self.config, self.bits = Path(folder).expanduser(), config, bits
        self.choices, self.command = chosen(config, choices), command
        self._leads = os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK") == "0"
        self._lock: FolderLock | None = None
        if self._leads:
            self._take()
        try:
            self.files = named_files(config if names is None else names)
            self.hash = settings_hash(config, self.files)
        except BaseException:
            self.close()
            raise
        if self._leads:
            self._prepare()

    def __enter__(self) -> Record:
        if self._leads and self._lock is None:
            self._take()
            self._prepare()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets other runs into the folder."""
        if self._lock is not None:
            self._lock.release()
        self._lock = None

    def begin(self, device: torch.device, weights: str | None) -> None:
        """Writes config and provenance; refuses a folder whose prior had other weights."""
        runs = self._runs()
        known = next((r["prior_sha256"] for r in runs if r.get("prior_sha256")), None)
        if weights and known and known != weights:
            raise ValueError(
                f"{self.folder} holds results of a prior with other weights (sha256 {known[:8]} "
                f"there, {weights[:8]} now); choose another output.folder"
            )
        this = {"choices": self.choices, "files": self.files}
        self._provenance = [*runs, provenance.describe(device, weights, self.command) | this]
        text = yaml.dump(self.config, Dumper=_PlainDumper, sort_keys=False, allow_unicode=True)
        # In this order: a folder with a config alone is one whose first run was killed here.
        self._write(CONFIG, text.encode())
        self._write(PROVENANCE, json_bytes(self._provenance, indent=2))

    def finished(self, image_id: str, digest: str) -> bool:
        """Tells whether this image, from the same file, is solved here with the same settings.

        An image whose files are damaged is named and not finished.

        Raises:
            RecordError: If a newer version wrote it, or something is in the way of its files.
        """
        shelf = Shelf(self.folder, image_id)
        try:
            saved = shelf.read()
            if saved is not None and self._is_result(saved, digest):
                shelf.require_whole(saved)
                return True
        except DamagedError as damage:
            if self._leads:
                _log.warning("%s is solved again: %s", for_terminal(image_id), damage)
        shelf.require_room()
        return False

    def write_parts(self, parts: Parts) -> None:
        """Writes one image's files, and adds its rows to scores.jsonl."""
        Shelf(self.folder, parts.id).write(parts, self.hash, self.choices, self.bits)
        append(self.folder / SCORES, _lines(parts.rows))

    def rows(self, ids: Sequence[str]) -> list[Row]:
        """Returns the saved rows of these images, in this order."""
        return [row for i in ids for row in self._rows(i)]

    def write_scores(self, ids: Sequence[str]) -> None:
        """Rebuilds scores.jsonl from the parts of these images, in this order."""
        self._write(SCORES, _lines(self.rows(ids)))

    def end(self, ids: Sequence[str], conventions: dict[str, str], title: str) -> None:
        """Writes scores, summary and figures of these images, and the time."""
        self.write_scores(ids)
        known = {"config_hash": self.hash, "choices": self.choices}
        summary = summarise(self.rows(ids), conventions, ids) | known
        self._write(SUMMARY, json_bytes(summary, indent=2))
        self._write(TABLE, to_markdown(summary, title).encode())
        title = ", ".join(filter(None, (title, conventions.get("noise"))))  # level and scale
        shown = list(itertools.islice(self._strips(ids), LARGEST_FIGURE))
        self._draw(FIGURE, figures.comparison, shown, title)
        curves = [strip for strip in shown if strip.trace.is_file()]
        self._draw(CURVES, figures.curves, curves, title)
        self._provenance[-1]["end"] = provenance.now()
        self._write(PROVENANCE, json_bytes(self._provenance, indent=2))

    def _take(self) -> None:
        """Takes the folder, unless it is somebody else's."""
        self._lock = FolderLock(self.folder, again=True)
        try:
            self._refuse_others()
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        """Sees that the folder is one for this run, and tries to write there."""
        try:
            require_files(*(self.folder / name for name in _RESULTS))
            self._refuse_other_settings()
            remove_halves(self.folder, self.folder / "trace", *self.folder.glob("images/*"))
            try_folder(self.folder)
        except BaseException:
            self.close()
            raise

    def _refuse_others(self) -> None:
        """Refuses a folder that is neither empty nor a run's; plugip writes no hidden results."""
        names = {name for name in os.listdir(self.folder) if not name.startswith(".")}
        if names - {CONFIG} and not names >= {CONFIG, PROVENANCE}:
            raise ValueError(
                f"{self.folder} is not empty and holds no run: {sorted(names - {CONFIG})[0]!a} is "
                "not plugip's; choose a new folder with output.folder=..."
            )

    def _refuse_other_settings(self) -> None:
        old = self._old_config()
        if old is None:
            return
        runs = self._runs()
        files = runs[-1].get("files") if runs else None
        difference = first_difference(old, self.config, files, self.files)
        if difference:
            raise ValueError(
                f"{self.folder} holds results of other settings: {difference}; "
                "choose another output.folder, or delete it"
            )

    def _old_config(self) -> dict[str, Any] | None:
        path = self.folder / CONFIG
        if not os.path.lexists(path):
            return None
        try:
            old = yaml.load(path.read_bytes(), _PlainLoader) if path.is_file() else None
        except (OSError, ValueError, RecursionError, yaml.YAMLError):
            old = None
        if not isinstance(old, dict):
            raise self._damaged(CONFIG)
        return old

    def _runs(self) -> list[dict[str, Any]]:
        """Returns what provenance.json says of the runs so far."""
        path = self.folder / PROVENANCE
        if not os.path.lexists(path):
            return []
        runs = read_json(path)
        if not isinstance(runs, list) or not all(_is_run(run) for run in runs):
            raise self._damaged(PROVENANCE)
        return runs

    def _damaged(self, name: str) -> ValueError:
        return ValueError(
            f"{self.folder} holds results of unknown settings: its {name} is damaged; choose "
            "another output.folder, or delete it"
        )

    def _is_result(self, saved: Saved, digest: str) -> bool:
        same = saved.digest == digest and saved.config_hash == self.hash
        return bool(saved.rows) and same and all(row.status == "ok" for row in saved.rows)

    def _saved(self, image_id: str) -> Saved | None:
        try:
            return Shelf(self.folder, image_id).read()
        except DamagedError:  # said where it is found first, in ``finished``
            return None

    def _rows(self, image_id: str) -> list[Row]:
        saved = self._saved(image_id)
        return [] if saved is None else saved.rows

    def _strips(self, ids: Sequence[str]) -> Iterator[figures.Strip]:
        """Yields the images that have an answer to show."""
        for image_id in ids:
            shelf, saved = Shelf(self.folder, image_id), self._saved(image_id)
            rows = {} if saved is None else {row.kind: asdict(row) for row in saved.rows}
            if saved is not None and not rows.keys().isdisjoint(("last", "stopped")):
                pictures = shelf.pictures(saved)
                if pictures:
                    yield figures.Strip(image_id, pictures, rows, saved.view, shelf.trace)

    def _draw(
        self,
        name: str,
        draw: Callable[[list[figures.Strip], str], bytes],
        strips: list[figures.Strip],
        title: str,
    ) -> None:
        """Writes a figure; one that cannot be drawn is named, and ends nothing."""
        if not strips:
            return
        try:
            data = draw(strips, title)
        except Exception as error:  # fonts, colour maps and picture files fail in many ways
            _log.warning("%s could not be drawn: %s: %s", name, type(error).__name__, error)
            return
        self._write(name, data)

    def _write(self, name: str, data: bytes) -> None:
        write_atomic(self.folder / name, data)


class _PlainDumper(yaml.SafeDumper):
    """Writes plain YAML in full, also what stands in two places."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


class _PlainLoader(yaml.SafeLoader):
    """Reads plain YAML without aliases, which can unfold for ever."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias")
        return super().compose_node(parent, index)


def _is_run(run: Any) -> bool:
    known = isinstance(run, dict) and isinstance(run.get("files", {}), dict)
    return known and isinstance(run.get("prior_sha256"), str | None)


def _lines(rows: Sequence[Row]) -> bytes:
    return b"".join(json_bytes(asdict(row)) + b"\n" for row in rows)
