"""Scores against the truth, as the method answered and with symmetries resolved."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from plugip.experiment.observers import Align
from plugip.metrics import MetricUnavailableError, NamedMetric, to_unit


@dataclass(frozen=True)
class Judge:
    """Scores estimates against the truth with every metric that can run here.

    Where symmetries of the answer are resolved first, each score ``psnr`` has a ``psnr_raw``
    beside it, of the estimate as the method gave it.

    Args:
        metrics: The metrics.
        align: Resolves symmetries of the answer before scoring, if the operator has any.
    """

    metrics: Sequence[NamedMetric]
    align: Align | None = None
    missing: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        reasons = {m.name: m.unavailable() for m in self.metrics}
        object.__setattr__(self, "missing", {n: reason for n, reason in reasons.items() if reason})

    @property
    def conventions(self) -> dict[str, str]:
        """Which definition each metric follows, or why it is not available."""
        said = {m.name: self.missing.get(m.name, m.convention) for m in self.metrics}
        if self.align is None:
            return said
        raw = {f"{m.name}_raw": f"{m.name}_raw: the same before alignment" for m in self.metrics}
        return said | raw

    def aligned(self, x_hat: Tensor, x: Tensor) -> Tensor:
        """Returns the estimate as it is scored."""
        return x_hat if self.align is None else self.align(x_hat, x)

    def scores(self, x_hat: Tensor, x: Tensor) -> tuple[dict[str, float | None], dict[str, str]]:
        """Scores one image, (1, C, H, W) in [-1, 1], alone, so that no neighbour can matter.

        Returns:
            Numbers by metric, None where there is none, and the reasons for that.
        """
        values, notes = self._scores(self.aligned(x_hat, x), x)
        if self.align is not None:
            raw = self._scores(x_hat, x)
            values |= {f"{name}_raw": value for name, value in raw[0].items()}
            notes |= {f"{name}_raw": note for name, note in raw[1].items()}
        return values, notes

    def _scores(self, x_hat: Tensor, x: Tensor) -> tuple[dict[str, float | None], dict[str, str]]:
        unit, truth = to_unit(x_hat), to_unit(x)
        values: dict[str, float | None] = {}
        notes = dict(self.missing)
        for metric in self.metrics:
            values[metric.name] = None
            if metric.name in notes:
                continue
            try:
                value = float(metric(unit, truth)[0])
            except (ValueError, MetricUnavailableError) as error:
                notes[metric.name] = str(error)
                continue
            if math.isfinite(value):
                values[metric.name] = value
            else:
                notes[metric.name] = f"{value}: no finite number"
        return values, notes
