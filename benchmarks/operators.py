"""Time of each operator beside deepinv's counterpart, and of closed forms beside iteration.

Run: ``python benchmarks/operators.py --out table.md``, with ``--only blur,ct`` for some of the
operators. Both sides run in one process, in turn, on one thread; processor time is counted, and
the shortest time of many rounds, so that neighbours on the machine matter little. Where deepinv
offers several ways (in space or by Fourier), the fastest one counts. What comes out above the
limit is measured again, three times as long, before it is believed.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import deepinv
import torch
from cases import CASES, Case, dp
from clock import Duel, alone, keep_memory, owned
from torch import Tensor

import plugip
from plugip.linalg import conjugate_gradient
from plugip.operator import LinearOperator, Operator, SpectralOperator
from plugip.rng import Rng

LIMIT, AGREE, SAME = 1.10, 1e-6, 0.01
ROUNDS, SLOW_ROUNDS = 9, 3  # at least; the second where one side iterates
SMALL, CUT = 0.01, 0.1  # where singular values are below the first, pinv is compared at the second
NOTES = f"""Times in ms of processor time, the shortest of the rounds; ratio: ours / deepinv, bold
above {LIMIT:.2f}. "adjoint": the pull-back of a gradient where the operator is not linear. "gap":
relative difference of the two measurements and of the adjoints, ~0 where both are the same map.
A result that shares memory with its argument is copied, on both sides."""


@dataclass
class Row:
    """One line of the first table.

    Attributes:
        start: Operator, side, batch.
        ours: Times in ms, forward and adjoint.
        theirs: deepinv's; None without a counterpart.
        gap: Relative difference of measurements and adjoints; None: other maps.
    """

    start: str
    ours: tuple[float, float]
    theirs: tuple[float, float] | None = None
    gap: float | None = None

    @property
    def ratios(self) -> list[float]:
        """Our times divided by theirs."""
        return [a / b for a, b in zip(self.ours, self.theirs or (), strict=False)]

    def text(self) -> str:
        """Returns the line."""
        if self.theirs is None:
            f, b = (f"{t:.3f}" for t in self.ours)
            return f"| {self.start} | {f} | no counterpart | | {b} | no counterpart | | | |"
        cells = [
            f"{a:.3f} | {b:.3f} | {f'**{r:.2f}**' if r > LIMIT else f'{r:.2f}'}"
            for a, b, r in zip(self.ours, self.theirs, self.ratios, strict=True)
        ]
        gap = "other map" if self.gap is None else f"{self.gap:.0e}"
        flag = f"`>{LIMIT:.2f}`" if max(self.ratios) > LIMIT else ""
        return f"| {self.start} | {' | '.join(cells)} | {gap} | {flag} |"


@dataclass
class Closed:
    """One line of the second table; pairs hold our time and that of conjugate gradients."""

    start: str
    gaps: list[float]
    cells: list[str]

    def text(self) -> str:
        """Returns the line."""
        flag = "" if max(self.gaps) <= AGREE else f"`>{AGREE:.0e}`"
        return f"| {self.start} | {' | '.join(self.cells)} | {flag} |"


class Bench:
    """Measures cases, one side and batch at a time."""

    def __init__(self, seconds: float, lam: float, threads: int) -> None:
        self.seconds, self.lam = seconds, lam
        # Several threads work at once, so that their processor times add up.
        self.timer = time.process_time if threads == 1 else time.perf_counter
        self.rounds: list[int] = []

    def row(self, case: Case, side: int, batch: int) -> Row:
        """Times one operator, forward and adjoint."""
        operator, x = build(case, side, batch)
        y, start = operator(x), f"{case.name} | {side} | {batch}"
        calls = owned(lambda: operator(x), x), owned(back(operator, x, y), y)
        if case.theirs is None:
            f, b = (alone(call, self.seconds / 2, self.timer) for call in calls)
            return Row(start, (f, b))
        ways = case.theirs(operator, side)
        z = x.to(torch.complex64) if isinstance(ways[0], dp.PhaseRetrieval) else x
        v = ways[0].A(z)
        forwards = [owned(lambda p=p: p.A(z), z) for p in ways]
        backs = [owned(back_theirs(p, z, v), flat(v)) for p in ways]
        (f, f_other), (b, b_other) = (
            self._duel(ours, others).ms
            for ours, others in zip(calls, (forwards, backs), strict=True)
        )
        return Row(start, (f, b), (f_other, b_other), same_map(operator, ways[0], x, z))

    def closed(self, case: Case, side: int) -> Closed | None:
        """Compares solve_normal and pinv with conjugate gradients; None without a closed form."""
        operator, x = build(case, side, 1)
        if not isinstance(operator, LinearOperator) or not has_own(operator, "solve_normal"):
            return None
        operator, x = operator.double(), x.to(torch.complex128 if x.is_complex() else torch.double)
        gaps, cells = zip(*self._solves(operator, x), strict=True)
        return Closed(f"{case.name} | {side}", [g for g in gaps if g is not None], list(cells))

    def _solves(self, operator: Any, x: Tensor) -> list[tuple[float | None, str]]:
        def iterate() -> Tensor:
            return iterated(lambda v: operator.normal(v) + self.lam * v, x)

        solved = self._versus(lambda: operator.solve_normal(x, self.lam), iterate)
        if not has_own(operator, "pinv"):
            return [solved, (None, "none | | | ")]
        y, only = operator(x), cut_small(operator, x)
        # From zero, so the least-squares image of least norm; in the space that is not cut.
        found = self._versus(
            lambda: operator.pinv(y),
            lambda: iterated(lambda v: only(operator.normal(v)), only(operator.adjoint(y))),
        )
        return [solved, found]

    def _versus(
        self, closed: Callable[[], Tensor], iterate: Callable[[], Tensor]
    ) -> tuple[float, str]:
        gap = apart(closed(), iterate())
        ours, cg = Duel(closed, [iterate], self.timer).run(self.seconds / 2, SLOW_ROUNDS).ms
        return gap, f"{gap:.0e} | {ours:.2f} | {cg:.2f} | {cg / ours:.0f}"

    def _duel(self, ours: Callable[[], object], ways: list[Callable[[], object]]) -> Duel:
        result = Duel(ours, ways, self.timer).run(self.seconds, ROUNDS)
        if result.ratio > LIMIT:
            result.run(3 * self.seconds, 3 * ROUNDS)
        self.rounds.append(len(result.times[0]))
        return result


def build(case: Case, side: int, batch: int) -> tuple[Operator, Tensor]:
    """Makes an operator with its random parts, and images for it."""
    frames = (case.frames,) if case.frames else ()
    x = torch.rand(batch, case.channels, *frames, side, side) * 2 - 1
    x = torch.complex(x, x.flip(-1)) if case.is_complex else x
    rng = Rng(0, "benchmark", [str(i) for i in range(batch)])
    return case.ours(side).realise(rng, tuple(x.shape)), x


def back(operator: Operator, x: Tensor, y: Tensor) -> Callable[[], Tensor]:
    """Returns the adjoint of a linear operator, or the gradient's pull-back of another one."""
    if isinstance(operator, LinearOperator):
        return lambda: operator.adjoint(y)
    return lambda: torch.func.vjp(operator, x)[1](y)[0]


def back_theirs(physics: Any, x: Tensor, y: Any) -> Callable[[], Tensor]:
    """Returns deepinv's adjoint, or the pull-back."""
    if isinstance(physics, dp.LinearPhysics):
        return lambda: physics.A_adjoint(y)
    return lambda: torch.func.vjp(physics.A, x)[1](y)[0]


def same_map(operator: Operator, physics: Any, x: Tensor, z: Tensor) -> float | None:
    """Returns the relative difference to deepinv's map, both ways; None if it is another map."""
    y, v = operator(x), physics.A(z)
    gap = apart(flat(y), flat(v))
    if gap <= SAME and isinstance(operator, LinearOperator):
        gap = max(gap, apart(operator.adjoint(y), back_theirs(physics, z, v)()))
    return gap if gap <= SAME else None


def flat(y: Any) -> Tensor:
    """Returns a measurement as (B, m); deepinv stacks lists."""
    if not isinstance(y, Tensor):
        return torch.cat([part.flatten(1) for part in y], dim=1)
    return y.flatten(1)


def apart(ours: Tensor, theirs: Tensor) -> float:
    """Returns the relative difference, infinite if the sizes do not agree."""
    if ours.is_complex() and not theirs.is_complex():  # deepinv holds the parts as channels
        ours = torch.view_as_real(ours).movedim(-1, 1)
    if ours.numel() != theirs.numel():
        return float("inf")
    return float((ours.reshape(theirs.shape) - theirs).norm() / theirs.norm())


def iterated(matvec: Callable[[Tensor], Tensor], b: Tensor) -> Tensor:
    """Solves by conjugate gradients, to eleven digits of the residual."""
    return conjugate_gradient(matvec, b, tolerance=1e-11, max_iterations=5000)


def has_own(operator: LinearOperator, name: str) -> bool:
    """Whether the operator has its own form of a method."""
    return getattr(type(operator), name) is not getattr(LinearOperator, name)


def cut_small(operator: LinearOperator, x: Tensor) -> Callable[[Tensor], Tensor]:
    """Returns the projection on what ``pinv`` keeps, after raising rcond where values are small.

    Else a residual of eleven digits would not make six digits of the solution.
    """
    if not isinstance(operator, SpectralOperator):
        return lambda v: v
    a = operator.spectrum(tuple(x.shape)).to(x)
    top = a.s.max()
    # Values that are zero but for rounding are no loss.
    if not bool(((a.s > 1e-10 * top) & (a.s <= SMALL * top)).any()):
        return lambda v: v
    operator.rcond = CUT
    kept = (a.s > CUT * top).to(a.s.dtype)
    return lambda v: a.V(kept * a.Vt(v))


def verdict(rows: list[Row], solves: list[Closed]) -> str:
    """Counts the comparisons of the tables."""
    ratios = [ratio for row in rows for ratio in row.ratios]
    faster, slower = sum(r < 1 for r in ratios), sum(r > LIMIT for r in ratios)
    gaps = [gap for line in solves for gap in line.gaps]
    return (
        f"Of {len(ratios)} times, ours are faster: {faster}, within 10 %: "
        f"{len(ratios) - faster - slower}, slower: {slower}. Of {len(gaps)} closed forms, "
        f"{sum(gap <= AGREE for gap in gaps)} agree with conjugate gradients to {AGREE:.0e}."
    )


def machine() -> str:
    """Names the processor and the system."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return (
        f"{name}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    )


def report(bench: Bench, rows: list[Row], solves: list[Closed], kept: bool) -> str:
    """Writes the whole result as Markdown."""
    versions = (
        f"plugip {plugip.__version__}, torch {torch.__version__}, deepinv {deepinv.__version__}"
    )
    counts = f"{min(bench.rounds)} to {max(bench.rounds)}" if bench.rounds else "no"
    setting = f"{torch.get_num_threads()} thread(s), {counts} rounds for each ratio"
    memory = "freed memory kept" if kept else "freed memory given back (no glibc): more noise"
    return "\n".join([
        "# Operators beside deepinv\n",
        f"{machine()}; {versions}; {setting}; {memory}.",
        f"Load while it ran: {os.getloadavg()[0]:.1f}.\n" if hasattr(os, "getloadavg") else "",
        f"`{shlex.join(['python', *sys.argv])}`\n",
        f"{NOTES}\n",
        "| operator | side | batch | forward | deepinv | ratio "
        "| adjoint | deepinv | ratio | gap | |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|",
        *[row.text() for row in rows],
        f"\nClosed forms in float64, damping {bench.lam}; CG: conjugate gradients to a residual",
        f"of 1e-11. pinv is compared at rcond = {CUT} where singular values are below {SMALL}.\n",
        "| operator | side | solve_normal - CG | ms | CG ms | times faster "
        "| pinv - CG | ms | CG ms | times faster | |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|",
        *[line.text() for line in solves],
        f"\n{verdict(rows, solves)}\n",
    ])  # fmt: skip


def chosen(only: str) -> list[Case]:
    """Returns the cases whose names hold one of the words, given with commas between them."""
    words = [word.strip().lower() for word in only.split(",")]
    cases = [case for case in CASES if any(word in case.name.lower() for word in words)]
    if not cases:
        raise SystemExit(f"no operator has {only!r} in its name; there are: "
                         + "; ".join(case.name for case in CASES))  # fmt: skip
    return cases


def measured(bench: Bench, args: argparse.Namespace) -> tuple[list[Row], list[Closed]]:
    """Measures all that was asked for, and tells how far it is."""
    cases = chosen(args.only)
    pairs = [(c, s) for c in cases for s in c.fitting(args.sides)]
    jobs = [(c, s, b) for c, s in pairs for b in args.batches]
    rows, solves, began = [], [], time.perf_counter()

    def tell(text: str) -> None:
        done = f"{len(rows)}/{len(jobs)} + {len(solves)}/{len(pairs)}"
        print(f"{time.perf_counter() - began:5.0f} s  {done}  {text}", file=sys.stderr, flush=True)

    for case, side, batch in jobs:
        rows.append(bench.row(case, side, batch))
        tell(rows[-1].text())
    for case, side in pairs:
        solves.append(bench.closed(case, side))
        tell(f"{case.name} {side}: {'iterates' if solves[-1] is None else solves[-1].text()}")
    return rows, [line for line in solves if line is not None]


def main() -> None:
    """Measures, and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="parts of operators' names, comma between them")
    parser.add_argument("--out", type=Path, help="file for the Markdown tables")
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--seconds", type=float, default=0.5, help="for each comparison")
    parser.add_argument("--lam", type=float, default=0.01, help="damping of solve_normal")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    warnings.filterwarnings("ignore", message="Complex modules are a new feature")
    bench, kept = Bench(args.seconds, args.lam, args.threads), keep_memory()
    text = report(bench, *measured(bench, args), kept)
    print(text)
    if args.out is not None:
        args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
