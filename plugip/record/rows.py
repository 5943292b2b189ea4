"""What is kept of one image: rows of scores, pictures, the measurement, the trace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Row:
    """One line of scores.jsonl: an image and one of its iterates.

    Attributes:
        id: The image.
        kind: "input" (a plain baseline made from y), "last", "stopped" (a stopping rule's pick) or
            "oracle" (the best by true PSNR, chosen outside the method); "" if the image failed.
        status: "ok", "failed" or "interrupted".
        message: Why it failed; or what the diagnostics say in words.
        step: Step of this iterate; None where there is none.
        metrics: Score by metric; None where it could not be computed.
        metric_notes: Why, by metric.
        residual: Root mean square of A(x_hat) - y over observed entries, in the units of y.
        residual_to_noise, chi_square, seed_norm, saturation, explains_y: See Diagnostics.
        stationarity, violation: Of a constrained minimum, see Certificate.
        nfe, vjps, seconds, peak_memory: Cost of the whole solve of this image.
        rng_seed: The integer of reproducibility.
        solver_seed: The integer behind the solver's own stream; rng_seed unless set apart.
        config_hash: Names the settings, without paths and devices.
    """

    id: str
    kind: str
    status: str
    message: str = ""
    step: int | None = None
    metrics: dict[str, float | None] = field(default_factory=dict)
    metric_notes: dict[str, str] = field(default_factory=dict)
    residual: float | None = None
    residual_to_noise: float | None = None
    chi_square: float | None = None
    seed_norm: float | None = None
    saturation: float | None = None
    explains_y: bool | None = None
    stationarity: float | None = None
    violation: float | None = None
    nfe: int | None = None
    vjps: int | None = None
    seconds: float | None = None
    peak_memory: int | None = None
    rng_seed: int = 0
    solver_seed: int | None = None
    config_hash: str = ""


@dataclass(frozen=True)
class Parts:
    """What is kept of one image.

    Args:
        id: The image.
        digest: sha256 of its file; another file under the same name is solved again.
        rows: Its rows; it counts as finished if all are "ok".
        pictures: Images (C, H, W) in [-1, 1] by name: truth, measurement, reconstruction, ...
        arrays: Exact tensors by name: the measurement, the unknown of a blind operator, and what
            each of several starts was judged by.
        view: How ``pictures["measurement"]`` shows y, if not as it is.
        trace: Columns of the trace by name, of equal length.
        error: Traceback of what kept the image from being solved.
    """

    id: str
    digest: str
    rows: list[Row]
    pictures: Mapping[str, Tensor] = field(default_factory=dict)
    arrays: Mapping[str, Tensor] = field(default_factory=dict)
    view: str = ""
    trace: dict[str, list[float]] | None = None
    error: str = ""
