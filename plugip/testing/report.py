"""Reports, and the comparisons that all checks share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from plugip.rng import stream_seed
from plugip.texts import for_terminal


@dataclass(frozen=True)
class Check:
    """One line of a report."""

    name: str
    ok: bool
    detail: str


@dataclass
class Report:
    """The outcome of all checks of one plug.

    Attributes:
        subject: What was checked.
        checks: The lines, in the order they were run.
    """

    subject: str
    checks: list[Check] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return all(check.ok for check in self.checks)

    def text(self) -> str:
        """Returns the report as a table that a researcher can read."""
        width = max([len(c.name) for c in self.checks], default=0)
        lines = [
            f"{'pass' if c.ok else 'FAIL'}  {c.name:<{width}}  {for_terminal(c.detail)}"
            for c in self.checks
        ]
        failed = sum(not c.ok for c in self.checks)
        end = (
            "all checks passed" if not failed else f"{failed} of {len(self.checks)} checks failed"
        )
        return "\n".join([for_terminal(self.subject), *lines, end])

    def require(self) -> None:
        """Raises an AssertionError that holds the report, unless every check passed."""
        if not self.ok:
            raise AssertionError("\n" + self.text())

    def failed(self, name: str, error: Exception) -> Report:
        """Adds a failed line with the error's message; returns self."""
        self.checks.append(Check(name, False, f"{type(error).__name__}: {error}"))
        return self

    def run(self, name: str, check: Callable[[], tuple[bool, str]]) -> None:
        """Runs one check; an exception inside it is a failure with its message as the detail."""
        try:
            ok, detail = check()
        except Exception as error:
            ok, detail = False, f"{type(error).__name__}: {error}"
        self.checks.append(Check(name, ok, detail))


def close(a: Tensor, b: Tensor, tolerance: float) -> tuple[bool, str]:
    """Compares two tensors relative to the larger one's size; returns the verdict and a detail."""
    if a.shape != b.shape:
        return False, f"shapes {tuple(a.shape)} and {tuple(b.shape)} differ"
    size = max(float(a.abs().max()), float(b.abs().max()), 1e-30)
    gap = float((a - b).abs().max()) / size
    return gap <= tolerance, f"relative gap {gap:.1e}, allowed {tolerance:.0e}"


def random_images(shape: tuple[int, ...], purpose: str) -> Tensor:
    """Returns reproducible float64 images in [-0.9, 0.9]; leaves the global stream alone."""
    # A few fixed names: 32 bits tell them apart.
    generator = torch.Generator().manual_seed(stream_seed(0, "testing", purpose) >> 1)
    return torch.rand(shape, generator=generator, dtype=torch.float64) * 1.8 - 0.9


def keeps_global_stream(action: Callable[[], object]) -> tuple[bool, str]:
    """Tells whether an action leaves the global streams of torch, NumPy and Python alone."""
    before = _global_streams()
    action()
    moved = [name for name, state in _global_streams().items() if state != before[name]]
    return not moved, f"drew from {', '.join(moved)}" if moved else "global random state untouched"


def _global_streams() -> dict[str, object]:
    import pickle
    import random

    import numpy as np

    states: dict[str, object] = {
        "torch's global stream": torch.random.get_rng_state().tolist(),
        "NumPy's global stream": pickle.dumps(np.random.get_state()),
        "Python's global stream": random.getstate(),
    }
    if torch.cuda.is_initialized():
        states["the GPU's global stream"] = torch.cuda.get_rng_state().tolist()
    return states


def directional(
    function: Callable[[Tensor], Tensor], at: Tensor, grad: Tensor, step: float = 1e-5
) -> tuple[bool, str]:
    """Compares <grad, v> with a central difference of a scalar function along v, in float64."""
    v = random_images(tuple(at.shape), "direction").to(at.device)
    with torch.no_grad():
        measured = float(function(at + step * v) - function(at - step * v)) / (2 * step)
    claimed = float((grad * v).sum())
    gap = abs(claimed - measured) / max(abs(measured), abs(claimed), 1e-12)
    return gap <= 1e-4, f"autograd {claimed:.6g}, finite difference {measured:.6g}"
