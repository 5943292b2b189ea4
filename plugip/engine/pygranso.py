"""PyGRANSO as the solver of a constrained search, if it is installed.

PyGRANSO is free software under the AGPL-3.0, with parts under the GPL; it is neither part of
plugip nor a dependency of it. Whoever passes on a program that uses it, or offers it as a service,
has to keep to that licence. Version 1.2 needs NumPy below 2, OSQP, and the presence of gurobipy.

Source: Curtis, Mitchell and Overton 2017 for the method (BFGS-SQP); Liang, Mitchell and Sun 2021
for the software.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from plugip.diagnostics import Ending
from plugip.engine.augmented_lagrangian import Constrained
from plugip.engine.objective import Evaluation
from plugip.method import take

FAILED = (11, 12, 13)  # PyGRANSO's codes for errors, its own and those of the functions
MET = (0, 1, 2)  # its tolerances are met
LIMITED = (3, 4, 5)  # it was told to end: by a callback, by its iterations, by a clock


@dataclass(frozen=True)
class GransoState:
    """Unknowns, and what the run said of them; ``here`` is None before it.

    ``multiplier`` and ``penalty``, (B,), are 0 and 1: PyGRANSO keeps its own.
    """

    v: Tensor
    here: Evaluation | None
    multiplier: Tensor
    penalty: Tensor
    stationarity: Tensor
    violation: Tensor
    ending: Tensor


@dataclass(frozen=True)
class PyGRANSO:
    """Solves each image's constrained problem by one run of PyGRANSO: the first step is all.

    PyGRANSO looks at one vector, so images are solved one after the other, on the device of y.

    Args:
        iterations: Its iterations, at most.
        memory: Pairs of its limited memory; its own default, a full matrix, would take n² numbers.
        double: Whether it computes in float64, whatever the prior computes in.
        stationarity: It ends when its measure of stationarity is at most this, and
        feasibility: the violation at most this.
        print_level: 0 is silent, 1 and more print its table.

    Raises:
        ValueError: If an argument is out of range.
        ImportError: When a search begins, if PyGRANSO cannot be imported.
        RuntimeError: If it ended with an error.
    """

    iterations: int = 300
    memory: int = 20
    double: bool = True
    stationarity: float = 1e-4
    feasibility: float = 1e-4
    print_level: int = 0

    def __post_init__(self) -> None:
        if self.iterations < 1 or self.memory < 1:
            raise ValueError(
                "iterations and memory must be at least 1, got "
                f"{self.iterations} and {self.memory}"
            )

    def init(self, z: Tensor) -> GransoState:
        """Returns the state before the run."""
        _load()
        zero = z.new_zeros(z.shape[0])
        end = torch.full_like(zero, torch.inf)
        ending = torch.full_like(zero, int(Ending.OPEN), dtype=torch.long)
        return GransoState(z, None, zero, torch.ones_like(zero), end, end, ending)

    def step(
        self, objective: Constrained, state: GransoState
    ) -> tuple[GransoState, Tensor, Evaluation, Tensor]:
        """Runs it to its end, image by image; later steps change nothing."""
        done = torch.ones_like(state.penalty, dtype=torch.bool)
        if state.here is not None:
            return state, state.v, state.here, done
        runs = [self._alone(objective, state.v, i) for i in range(len(state.v))]
        v = torch.cat([run[0] for run in runs])
        here = objective.evaluate(v)
        flat, violation = (state.penalty.new_tensor([run[k] for run in runs]) for k in (1, 2))
        ending = state.ending.new_tensor([run[3] for run in runs])
        state = GransoState(v, here, state.multiplier, state.penalty, flat, violation, ending)
        return state, v, here, done

    def _alone(
        self, objective: Constrained, v: Tensor, i: int
    ) -> tuple[Tensor, float, float, int]:
        """Solves one image's problem, on its own bill."""
        with objective.data.problem.prior.counter.only([i]):
            return self._solve(take(objective, [i]), v[i : i + 1])

    def _solve(self, objective: Constrained, start: Tensor) -> tuple[Tensor, float, float, int]:
        """Returns unknowns, (1, ...), PyGRANSO's stationarity and violation, and its ending."""
        pygranso, struct = _load()

        def functions(x: Any) -> list[Any]:
            v = x.v.reshape(start.shape).to(start)
            cost, c = objective.parts(v)
            return [cost[0], *_constraints(objective, c[0], struct)]

        size = start.numel()
        try:
            found = pygranso({"v": [size, 1]}, functions, self._options(start, struct()))
        except SystemExit as error:  # on errors of its set-up it would end the whole program
            raise RuntimeError("PyGRANSO broke off; it has printed its reason above") from error
        if found.termination_code in FAILED:
            reason = getattr(found, "error", "no reason given")
            raise RuntimeError(f"PyGRANSO ended with code {found.termination_code}: {reason}")
        v = found.final.x.detach().reshape(start.shape).to(start)
        ending = _ending(found.termination_code)
        return v, float(found.stat_value), float(found.final.tv), ending

    def _options(self, start: Tensor, options: Any) -> Any:
        kind = torch.float64 if self.double else torch.float32
        chosen = {
            "torch_device": start.device,
            "double_precision": self.double,
            "x0": start.detach().to(kind).reshape(-1, 1),
            "limited_mem_size": self.memory,
            "maxit": self.iterations,
            "opt_tol": self.stationarity,
            "viol_ineq_tol": self.feasibility,
            "viol_eq_tol": self.feasibility,
            "print_level": self.print_level,
            "quadprog_info_msg": False,
        }
        for name, value in chosen.items():
            setattr(options, name, value)
        return options


def _ending(code: int) -> Ending:
    if code in LIMITED:
        return Ending.OPEN
    return Ending.CONVERGED if code in MET else Ending.STUCK


def _constraints(objective: Constrained, c: Tensor, struct: Any) -> tuple[Any, Any]:
    """Returns inequalities <= 0 and equalities = 0 in its structs, None where there are none."""
    low, high = objective.bound.low, objective.bound.high
    if low == high:
        equal = struct()
        equal.bound = c - low
        return None, equal
    below = struct()
    if math.isfinite(high):
        below.high = c - high
    if math.isfinite(low):
        below.low = low - c
    return below, None


def _load() -> tuple[Any, Any]:
    """Returns PyGRANSO's function and its struct."""
    try:
        from pygranso.pygranso import pygranso  # type: ignore[import-not-found]
        from pygranso.pygransoStruct import (  # type: ignore[import-not-found]
            pygransoStruct,
        )
    except ImportError as error:
        raise ImportError(
            f"PyGRANSO cannot be imported ({error}); install it, under its licence AGPL-3.0, with "
            "pip install 'plugip[pygranso]', which needs NumPy below 2, or let "
            "AugmentedLagrangian solve it, as method=constrained_seed does"
        ) from error
    return pygranso, pygransoStruct
