"""Scores against the truth, as the method answered and with symmetries resolved."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from plugip.experiment.failure import reason
from plugip.experiment.observers import Align
from plugip.metrics import MetricUnavailableError, NamedMetric, to_unit

# Metrics say so what they lack or cannot take; anything else is a surprise, which debug shows.
_SAID = (ValueError, MetricUnavailableError)


@dataclass(frozen=True)
class Judge:
    """Scores estimates against the truth with every metric that can run here.

    Where symmetries of the answer are resolved first, each score ``psnr`` has a ``psnr_raw``
    beside it, of the estimate as the method gave it. A metric or an alignment that raises costs
    its own number, not the answer's others.

    Args:
        metrics: The metrics.
        align: Resolves symmetries of the answer before scoring, if the operator has any.
        debug: Let what they raise through.
    """

    metrics: Sequence[NamedMetric]
    align: Align | None = None
    debug: bool = False
    missing: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        reasons = {m.name: self._unavailable(m) for m in self.metrics}
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
        raw, raw_notes = self._scores(x_hat, x)
        if self.align is None:
            return raw, raw_notes
        values, notes = self._aligned_scores(x_hat, x)
        values |= {f"{name}_raw": value for name, value in raw.items()}
        return values, notes | {f"{name}_raw": note for name, note in raw_notes.items()}

    def _aligned_scores(
        self, x_hat: Tensor, x: Tensor
    ) -> tuple[dict[str, float | None], dict[str, str]]:
        try:
            aligned = self.aligned(x_hat, x)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            if self.debug:
                raise
            names = [metric.name for metric in self.metrics]
            said = f"the alignment failed: {reason(error)}"
            return dict.fromkeys(names), dict.fromkeys(names, said) | self.missing
        return self._scores(aligned, x)

    def _unavailable(self, metric: NamedMetric) -> str | None:
        try:
            return metric.unavailable()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            if self.debug:
                raise
            return f"{metric.name} is not available: {reason(error)}"

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
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                said = isinstance(error, _SAID)
                if self.debug and not said:
                    raise
                notes[metric.name] = str(error) if said else reason(error)
                continue
            if math.isfinite(value):
                values[metric.name] = value
            else:
                notes[metric.name] = f"{value}: no finite number"
        return values, notes
