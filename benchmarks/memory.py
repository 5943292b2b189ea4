"""Memory and time of one seed gradient as reverse steps grow, with and without checkpointing.

Run: ``python benchmarks/memory.py --out runs/memory``; it writes ``memory.md`` and ``memory.png``.
One gradient is what a plug-in method pays per iteration: K reverse steps, the operator, the loss
and its gradient with respect to z. Every figure comes from a process of its own, since a process
keeps memory that it has once had. "Kept" is what autograd holds when the backward pass begins,
without the weights; "tensors" is the most that a gradient allocates in tensors at a time; "all" is
by how much it raises the peak memory of the process, with the graph's own books and the gaps that
the C library leaves (on a GPU: what PyTorch has reserved). Time is the shortest of some:
processor time on a CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plugip import GaussianNoise, Problem, measure
from plugip.engine.misfit import Misfit, seed_misfit
from plugip.operators import BicubicDownsample
from plugip.priors import DiffusersUNet, Runtime, faces64
from plugip.reverse import Generator

# What is recomputed in the backward pass: (whole reverse steps, blocks inside of the network).
MODES = {
    "nothing": (False, "none"),
    "blocks": (False, "blocks"),
    "steps": (True, "none"),
    "steps and blocks": (True, "blocks"),
}
COLOURS = ("#1a1a1a", "#c2571a", "#0b6e99", "#3a7d44")
MARKS = ("o", "^", "s", "D")


@dataclass(frozen=True)
class Figures:
    """What one gradient costs.

    Attributes:
        kept: MB that autograd holds at the start of the backward pass.
        tensors: MB in tensors at the most, beyond those that were there before.
        all: MB by which the peak memory of the process rises.
        seconds: Time of one gradient.
        nfe: Calls of the prior, repeated ones included.
        vjps: Backward passes through it.
    """

    kept: float
    tensors: float
    all: float
    seconds: float
    nfe: int
    vjps: int


PANELS: dict[str, tuple[str, Callable[[Figures], float]]] = {
    "kept for the backward pass, MB": ("{:.1f}", lambda f: f.kept),
    "peak of tensors, MB": ("{:.1f}", lambda f: f.tensors),
    "peak of all memory, MB": ("{:.0f}", lambda f: f.all),
    "time of one gradient, s": ("{:.2f}", lambda f: f.seconds),
    "NFE": ("{:.0f}", lambda f: f.nfe),
}


DRAWN = ("kept for the backward pass, MB", "peak of tensors, MB", "time of one gradient, s")


def objective_of(mode: str, steps: int, options: argparse.Namespace) -> Misfit:
    """Makes super-resolution by four with the embedded prior, or a folder's."""
    whole, blocks = MODES[mode]
    runtime = Runtime(options.precision, blocks, options.channels_last)
    source = options.source
    prior = (
        DiffusersUNet.from_pretrained(source, probe=False, runtime=runtime)
        if source
        else faces64(probe=False, runtime=runtime)
    ).to(options.device)
    operator, noise = BicubicDownsample(4), GaussianNoise(0.01)
    side = prior.image_shape[-1]
    x = torch.linspace(-0.8, 0.8, side).expand(options.batch, *prior.image_shape)
    y = measure(operator, x, noise).to(options.device)
    return seed_misfit(Problem(y, operator, noise, prior), Generator(steps, checkpoint=whole))


def figures_of(objective: Misfit, repeats: int) -> Figures:
    """Measures one gradient; to be called once in a process."""
    prior, y = objective.problem.prior, objective.problem.y
    z = torch.zeros(len(y), *prior.shape, device=y.device)
    with torch.no_grad():  # so that libraries are loaded and kernels chosen
        prior(z, torch.tensor(1.0))
    nfe, vjps = prior.counter.nfe, prior.counter.vjps
    whole = process_growth(lambda: objective.evaluate(z), y.device)
    calls = prior.counter.nfe - nfe, prior.counter.vjps - vjps
    tensors = tensor_peak(lambda: objective.evaluate(z), y.device)
    kept = kept_bytes(objective, z) / 1e6
    seconds = min(clocked(lambda: objective.evaluate(z), y.device) for _ in range(repeats))
    return Figures(kept, tensors, whole, seconds, *calls)


def kept_bytes(objective: Misfit, z: Tensor) -> int:
    """Returns what autograd keeps for the backward pass, without the weights."""
    weights = {w.untyped_storage().data_ptr() for w in objective.problem.prior.parameters()}
    seen: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = storage.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        loss = objective(z.clone().requires_grad_())  # held: else memory is used twice over
        total = sum(seen.values())
    del loss
    return total


def tensor_peak(function: Callable[[], object], device: torch.device) -> float:
    """Returns the most that a call holds in tensors of its own at a time, in MB."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    watched: Any = torch.autograd.profiler.profile(profile_memory=True)
    with watched:
        function()
    events = [e for e in watched.kineto_results.events() if e.name() == "[memory]"]
    sizes = [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]
    return max(accumulate(sizes)) / 1e6


def process_growth(function: Callable[[], object], device: torch.device) -> float:
    """Returns by how many MB the first such call raises the peak memory of the process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_reserved(device)
        function()
        return (torch.cuda.max_memory_reserved(device) - before) / 1e6
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak of loading; Linux only
    function()
    return _resident("VmHWM") - before


def _resident(name: str) -> float:
    """Returns a figure of this process's status, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) * 1.024e-3 for line in lines if line.startswith(name))


def clocked(function: Callable[[], object], device: torch.device) -> float:
    """Returns the time of a call in seconds: wall clock on a GPU, processor time on a CPU."""
    if device.type == "cpu":
        began = time.process_time()
        function()
        return time.process_time() - began
    torch.cuda.synchronize(device)
    began = time.perf_counter()
    function()
    torch.cuda.synchronize(device)
    return time.perf_counter() - began


def table(results: dict[tuple[str, int], Figures], title: str) -> str:
    """Returns Markdown, one small table for each quantity: modes by reverse steps."""
    steps = sorted({k for _, k in results})
    modes = list(dict.fromkeys(mode for mode, _ in results))
    lines = [title, ""]
    for name, (form, value) in PANELS.items():
        lines.append(f"| {name}; recomputed | " + " | ".join(f"K = {k}" for k in steps) + " |")
        lines.append("|---|" + "---:|" * len(steps))
        for mode in modes:
            cells = [form.format(value(results[mode, k])) for k in steps]
            lines.append(f"| {mode} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def draw(results: dict[tuple[str, int], Figures], title: str, file: Path) -> None:
    """Draws memory and time over the number of reverse steps into a PNG."""
    from matplotlib.figure import Figure  # not in the measured processes
    from matplotlib.ticker import LogLocator

    steps = sorted({k for _, k in results})
    modes = list(dict.fromkeys(mode for mode, _ in results))
    figure = Figure(figsize=(12, 4), layout="constrained")
    panels = [(name, PANELS[name]) for name in DRAWN]
    for axes, (name, (_, value)) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        for mode, colour, mark in zip(modes, COLOURS, MARKS, strict=False):
            values = [value(results[mode, k]) for k in steps]
            dashes = "--" if mode == "steps and blocks" else "-"  # may lie on that of steps
            axes.plot(steps, values, dashes, color=colour, marker=mark, ms=5, label=mode)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(steps, [str(k) for k in steps])
        axes.set(xlabel="reverse steps K", title=name)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
        axes.grid(alpha=0.3)
    figure.axes[1].legend(title="recomputed", fontsize=8, loc="upper left")
    figure.suptitle(title, fontsize=9)
    figure.savefig(file, dpi=110)


def options_of(words: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/memory"), help="folder to write to")
    parser.add_argument("--steps", type=int, nargs="+", default=[2, 4, 8, 16, 32])
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES)
    parser.add_argument("--source", help="a diffusers folder; default: the embedded prior")
    parser.add_argument("--precision", default="fp32", help="fp32, bf16 or fp16")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--single", action="store_true", help="measure here and print as JSON")
    return parser.parse_args(words)


def _title(options: argparse.Namespace) -> str:
    gpu = options.device.type == "cuda"
    machine = torch.cuda.get_device_name(options.device) if gpu else platform.machine()
    return (
        f"{options.source or 'embedded prior'}, batch {options.batch}, {options.precision}"
        f"{', channels last' if options.channels_last else ''}, torch {torch.__version__}, "
        f"{machine}, {options.threads} thread{'s' if options.threads > 1 else ''}"
    )


def _in_process_of_its_own(mode: str, steps: int) -> Figures:
    given = ["--single", "--modes", mode, "--steps", str(steps)]
    command = [sys.executable, __file__, *sys.argv[1:], *given]
    quiet = {**os.environ, "KINETO_LOG_LEVEL": "99"}  # the profiler looks for a GPU, aloud
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, env=quiet)
    found = Figures(**json.loads(done.stdout))
    print(f"{mode}, K = {steps}: {found}", flush=True)
    return found


def main() -> None:
    """Measures all, and writes table and figure."""
    options = options_of()
    torch.set_num_threads(options.threads)
    if options.single:
        objective = objective_of(options.modes[0], options.steps[0], options)
        return print(json.dumps(asdict(figures_of(objective, options.repeats))))
    options.out.mkdir(parents=True, exist_ok=True)
    cases = [(mode, k) for mode in options.modes for k in options.steps]
    results = {case: _in_process_of_its_own(*case) for case in cases}
    command = shlex.join(["python", "benchmarks/memory.py", *sys.argv[1:]])
    text = table(results, f"{_title(options)}. `{command}`")
    (options.out / "memory.md").write_text(text, "utf-8")
    draw(results, _title(options), options.out / "memory.png")
    print(f"\n{text}\n{options.out / 'memory.png'}")


if __name__ == "__main__":
    main()
