"""How a run ended: its rows, what is missing, its exit code, and one number for sweepers."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from plugip.record import Row

WITHOUT_TRUTH = "residual_to_noise"
_PLAIN = [f.name for f in fields(Row) if f.type in ("float | None", "int | None")]


@dataclass(frozen=True)
class Summary:
    """How a run ended.

    Attributes:
        folder: The run folder.
        rows: All rows of its images, in the order of the data.
        skipped: Images that an earlier run had finished.
        conventions: What each metric means, or why it is missing.
        interrupted: Whether Ctrl-C, or a termination signal, ended it.
        ids: All images asked for.
        title: Task, method and prior.
    """

    folder: Path
    rows: list[Row]
    skipped: list[str]
    conventions: dict[str, str]
    interrupted: bool
    ids: Sequence[str] = ()
    title: str = ""

    @property
    def failed(self) -> dict[str, str]:
        """Reasons by id of the images that could not be solved."""
        return {row.id: row.message for row in self.rows if row.status == "failed"}

    @property
    def missing(self) -> list[str]:
        """Images that were asked for and have no answer: no row, or that of an interrupted try.

        A run of several processes may end so where one of them was lost.
        """
        known = {row.id for row in self.rows if row.status != "interrupted"}
        asked = [*self.ids, *(row.id for row in self.rows)]
        return [i for i in dict.fromkeys(asked) if i not in known]

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C or a termination signal; else 0 if every image asked for is solved.

        1 if an image has failed or is missing, in whichever process of the run.
        """
        if self.interrupted:
            return 130
        return 1 if self.failed or self.missing else 0

    def objective(self, metric: str | None = None) -> float:
        """Returns one number for a sweeper: the mean over all images of the answers' score.

        The answer is the stopping rule's pick where it fired, else the last iterate. The number
        stands as in the rows, with no change of sign: PSNR and SSIM are to be maximised, LPIPS is
        to be minimised. ``residual_to_noise`` is about 1 for an answer that explains y; far below
        1 it fits the noise as well, so its minimum is not the best picture.

        Args:
            metric: A metric's column, or a number of the rows such as "residual_to_noise" or
                "seconds"; None is "psnr". Without a truth there are no metrics, and
                "residual_to_noise" takes their place.

        Returns:
            The mean; NaN if an image failed, is missing, or has no such number, since a mean over
            the others would favour a setting that fails on hard images.

        Raises:
            ValueError: If rows have no number of that name.
        """
        answers = {row.id: row for row in self.rows if row.kind in ("last", "stopped")}
        if self.failed or self.missing or not answers:
            return math.nan
        scored = any(row.metrics for row in answers.values())
        name = metric or ("psnr" if scored else WITHOUT_TRUTH)
        values = [_number(row, name) for row in answers.values()]
        known = [v for v in values if v is not None]
        return statistics.fmean(known) if len(known) == len(values) else math.nan


def require_number(name: str | None, metrics: Sequence[str]) -> None:
    """Raises a ValueError if rows with scores by these metrics have no number of that name."""
    if name is not None and name not in metrics and name not in _PLAIN:
        known = ", ".join([*metrics, *_PLAIN])
        raise ValueError(f"optimized_metric: no row has a number {name!r}; take one of {known}")


def _number(row: Row, name: str) -> float | None:
    """Returns a score or a number of a row by name."""
    if name in row.metrics:
        return row.metrics[name]
    require_number(name, list(row.metrics))
    return getattr(row, name)
