"""Checks of what happens to an operator: other precisions, devices, copies and saved states."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from plugip.operator import LinearOperator, Operator
from plugip.spectral import Spectrum
from plugip.testing.bench import (
    LIMITS,
    Bench,
    Outcome,
    answers,
    applied,
    cast,
    distance,
    in_precision,
    solved,
)
from plugip.testing.report import Report

PRECISE = 1e-4  # what float32 may lose, relative to the norm of the answer
COPIES = ("aten::_to_copy", "aten::copy_")  # they move tensors between devices on purpose
# Reading a value needs data, which the meta device does not hold.
READS = ("cannot be called on meta", "Cannot copy out of meta", "meta device type tensor to numpy")
UNPICKLED = "deepcopy gives the same answers; it cannot be pickled"
UNJUDGED = "needs values, so that only a GPU can tell"


def check_moves(report: Report, bench: Bench) -> None:
    """Adds the checks of moves, copies and memory layouts to the report."""
    report.run("keeps dtype", lambda: _keeps_dtype(bench))
    report.run("agrees in the other precision", lambda: _precisions(bench))
    report.run("takes any memory layout", lambda: _layouts(bench))
    if bench.dtype == torch.float64:  # they do not depend on the precision
        report.run("moves with .to(device)", lambda: moves(bench))
        report.run("copies and pickles", lambda: _copies(bench))
        report.run("state_dict holds it", lambda: _state(bench))


def _keeps_dtype(bench: Bench) -> Outcome:
    told = []
    for dtype in LIMITS:
        found = _moved(bench, dtype)
        told += [f"{n} is {v.dtype}" for n, v in found.items() if v.real.dtype != dtype]
    return not told, "; ".join(told) or "float32 in, float32 out; float64 in, float64 out"


def _precisions(bench: Bench) -> Outcome:
    other = torch.float32 if bench.dtype == torch.float64 else torch.float64
    found = _moved(bench, other)
    worst = max(distance(value, bench.due[name]) for name, value in found.items())
    return worst <= PRECISE, f"relative distance {worst:.1e}, allowed {PRECISE:.0e}"


def _moved(bench: Bench, dtype: torch.dtype) -> dict[str, Tensor]:
    a = in_precision(copy.deepcopy(bench.fresh), dtype)
    return applied(a, cast(bench.x, dtype), cast(bench.y, dtype))


def moves(bench: Bench) -> Outcome:
    """Checks that ``.to(device)`` carries all that the operator needs, and that no call strays."""
    loose = sorted(set(bare_tensors(bench.fresh)))
    if loose:
        return False, f"{', '.join(loose)}: tensors that .to(device) forgets; register buffers"
    a = copy.deepcopy(bench.fresh).to("meta")
    x, y = bench.x.to("meta").requires_grad_(), bench.y.to("meta")
    with OneDevice() as watch:
        try:
            found = _on_meta(a, x, y)
        except Exception as error:
            return _stopped(error, watch)
    stayed = [name for name, value in found.items() if value.device.type != "meta"]
    if stayed:
        return False, f"{', '.join(stayed)} came back on the CPU"
    return not watch.faults, watch.text() or "no call mixes devices"


def _stopped(error: Exception, watch: OneDevice) -> Outcome:
    """Judges a run without values that came to an end: other reasons than devices are none."""
    first = f"{type(error).__name__}: {error}".splitlines()[0]
    if watch.faults or ("device" in str(error) and not _reads_values(error)):
        return False, watch.text() or first
    return True, f"{UNJUDGED} ({first})"


def _reads_values(error: Exception) -> bool:
    return any(words in str(error) for words in READS)


def _on_meta(a: Operator, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """All answers and the backward pass, without values."""
    with torch.enable_grad():
        measured = a(x)
        if measured.device != x.device:
            return {"A x": measured}
        (grad,) = torch.autograd.grad(measured.abs().sum(), x)
    found = {"A x": measured, "its gradient": grad}
    with torch.no_grad():
        if isinstance(a, LinearOperator):
            found["A* y"] = a.adjoint(y)
        try:
            return found | solved(a, x, y)
        except Exception as error:
            if _reads_values(error):  # a solve that iterates until it is good enough
                return found
            raise


class OneDevice(TorchDispatchMode):
    """Watches all computations and notes those whose tensors are on different devices.

    Numbers, that is tensors without axes, may be anywhere: torch allows that on GPUs too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor) and t.ndim]
        name = func._schema.name
        if len({t.device.type for t in given}) > 1 and name not in COPIES:
            self.faults.append(f"{name.removeprefix('aten::')} mixes devices")
        return func(*args, **(kwargs or {}))

    def text(self) -> str:
        """Returns the faults, each once."""
        return "; ".join(dict.fromkeys(self.faults))


def bare_tensors(operator: nn.Module) -> Iterator[str]:
    """Names the tensors in an operator that are neither buffers nor parameters.

    Spectra are left out: they may be masters on the CPU, and are moved where they are used. So
    are samplers, whose draws are moved.
    """
    for path, module in operator.named_modules():
        for name, value in vars(module).items():
            if name not in ("_parameters", "_buffers", "_modules"):
                yield from _bare(value, f"{path}.{name}".lstrip("."))


def _bare(value: Any, name: str) -> Iterator[str]:
    if isinstance(value, Spectrum | nn.Module) or callable(getattr(value, "draw", None)):
        return
    if isinstance(value, Tensor):
        yield name
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _bare(part, f"{name}[{key!r}]")
    elif isinstance(value, list | tuple | set):
        for part in value:
            yield from _bare(part, name)
    elif is_dataclass(value) and not isinstance(value, type):
        for part in fields(value):
            yield from _bare(getattr(value, part.name), f"{name}.{part.name}")


def _copies(bench: Bench) -> Outcome:
    """Copies answer as the original does, with the caches that it has filled by now."""
    ok, detail = bench.agree(applied(copy.deepcopy(bench.a), bench.x, bench.y))
    if not ok:
        return False, f"after deepcopy: {detail}"
    try:
        stored = pickle.dumps(bench.a)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        # No rule asks for it: local functions and classes may be part of an operator.
        return True, f"{UNPICKLED} ({str(error).splitlines()[0]})"
    ok, detail = bench.agree(applied(pickle.loads(stored), bench.x, bench.y))
    return ok, detail if ok else f"after pickle: {detail}"


def _state(bench: Bench) -> Outcome:
    """Loads the state into the operator with another random part, after a wrong state."""
    held = dict(bench.a.state_dict())
    twin = copy.deepcopy(bench.other)
    twin.load_state_dict({n: t / 2 if t.is_floating_point() else t for n, t in held.items()})
    applied(twin, bench.x, bench.y)  # caches, if any, are of the wrong values now
    file = io.BytesIO()
    torch.save(held, file)
    file.seek(0)
    twin.load_state_dict(torch.load(file, weights_only=True))
    ok, detail = bench.agree(applied(twin, bench.x, bench.y))
    return ok, f"{len(held)} tensors: {detail}"


def _layouts(bench: Bench) -> Outcome:
    x, y = (_strided(t) for t in (bench.x, bench.y))
    return bench.agree(answers(bench.a, x, y))


def _strided(t: Tensor) -> Tensor:
    """Returns the same values with the last two axes in the other order of memory."""
    return t.mT.contiguous().mT if t.ndim > 2 else t[..., None].expand(*t.shape, 2)[..., 0]
