"""What the framework adds to the bare network: time, FLOPs and memory of one DMPlug iteration.

Run: ``python benchmarks/overhead.py``. Both sides run in one process, in turn, on the same
threads; the ratio of their medians is what counts, because machines are noisy. "Bare" is the
cheapest code that could do the same: three forwards of the UNet2DModel with Euler updates between
them, the operator, one backward.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from plugip import GaussianNoise, Problem, measure
from plugip.engine.adam import Adam
from plugip.engine.misfit import seed_misfit
from plugip.methods import DMPlug
from plugip.operators import BicubicDownsample
from plugip.priors import DiffusersUNet, faces64
from plugip.reverse import Generator
from plugip.rng import Rng

STEPS = 3


@dataclass
class Bench:
    """A problem, and the two ways of making one iteration on it."""

    problem: Problem
    checkpoint: bool = False

    @staticmethod
    def build(batch: int, checkpoint: bool = False) -> Bench:
        """Makes a super-resolution problem with the embedded prior."""
        operator, noise = BicubicDownsample(4), GaussianNoise(0.01)
        x = torch.linspace(-0.8, 0.8, 64).expand(batch, 3, 64, 64)
        y = measure(operator, x, noise)
        return Bench(Problem(y, operator, noise, faces64()), checkpoint)

    def ours(self) -> Callable[[], object]:
        """Returns one step of DMPlug with Adam, as ``solve`` calls it."""
        generator = Generator(STEPS, checkpoint=self.checkpoint)
        method = DMPlug(10**6, generator, Adam())
        ids = [str(i) for i in range(self.problem.batch)]
        state = [method.init(self.problem, Rng(0, "solve", ids))]

        def step() -> None:
            state[0], _ = method.step(self.problem, state[0])

        return step

    def bare(self) -> Callable[[], object]:
        """Returns forwards, loss and backward with nothing around them."""
        prior, y = self.problem.prior, self.problem.y
        assert isinstance(prior, DiffusersUNet)
        network = prior.net
        operator = self.problem.operator
        z = torch.zeros(self.problem.batch, *self.problem.prior.shape)

        def step() -> Tensor:
            seed = z.requires_grad_()
            h = seed
            for k in range(STEPS, 0, -1):
                h = h - network(h, torch.tensor(1000 * k / STEPS)).sample / STEPS
            loss = (operator(F.pixel_shuffle(h, 2)) - y).square().sum()
            return torch.autograd.grad(loss, seed)[0]

        return step


def paired_ratio(
    a: Callable[[], object], b: Callable[[], object], repeats: int
) -> dict[str, float]:
    """Times two functions in turn; returns their medians and the median of the paired ratios."""
    times: list[tuple[float, float]] = []
    for i in range(repeats + 2):
        # The order alternates, so that a drift of the machine hits both sides.
        first, second = (a, b) if i % 2 else (b, a)
        pair = {first: _seconds(first), second: _seconds(second)}
        times.append((pair[a], pair[b]))
    times = times[2:]
    return {
        "ours_ms": 1e3 * statistics.median(t for t, _ in times),
        "bare_ms": 1e3 * statistics.median(t for _, t in times),
        "ratio": statistics.median(t / u for t, u in times),
    }


def _seconds(function: Callable[[], object]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def flops_per_step(bench: Bench) -> float:
    """Returns the FLOPs of one iteration divided by (reverse steps x one forward's FLOPs)."""
    prior, z = bench.problem.prior, torch.zeros(1, *bench.problem.prior.shape)
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        prior(z, torch.tensor(1.0))
    generator = Generator(STEPS, checkpoint=bench.checkpoint)
    objective = seed_misfit(bench.problem, generator)
    leaf = z.requires_grad_()
    with FlopCounterMode(display=False) as whole:
        # The counter's hooks refuse a leaf as a module's input, hence the factor 1.
        torch.autograd.grad(objective(1 * leaf).sum(), leaf)
    return whole.get_total_flops() / (STEPS * forward.get_total_flops())


def saved_megabytes(bench: Bench) -> float:
    """Returns what autograd keeps for the backward pass of one iteration, in MB."""
    seen: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        seen[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    z = torch.zeros(bench.problem.batch, *bench.problem.prior.shape).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        Generator(STEPS, checkpoint=bench.checkpoint)(bench.problem.prior, z)
    return sum(seen.values()) / 1e6


def peak_growth(checkpoint: bool, batch: int) -> float:
    """Returns by how many MB one iteration raises the peak memory of a fresh process."""
    command = [sys.executable, __file__, "--peak", str(int(checkpoint)), "--batch", str(batch)]
    return json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


def _print_peak(checkpoint: bool, batch: int) -> None:
    bench = Bench.build(batch, checkpoint)
    with torch.no_grad():
        bench.problem.prior(torch.zeros(batch, *bench.problem.prior.shape), torch.tensor(1.0))
    step = bench.ours()
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak of loading; Linux only
    step()
    print(_resident("VmHWM") - before)


def _resident(name: str) -> float:
    """Returns a figure of this process's status, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peak", type=int)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.peak is not None:
        return _print_peak(bool(args.peak), args.batch)
    print(f"torch {torch.__version__}, {args.threads} thread(s), batch {args.batch}, K = {STEPS}")
    print(
        "| checkpointing | ours ms | bare ms | ours / bare | FLOPs per step / forward "
        "| kept for backward MB | peak growth MB |"
    )
    print("|---|---|---|---|---|---|---|")
    for checkpoint in (False, True):
        bench = Bench.build(args.batch, checkpoint)
        t = paired_ratio(bench.ours(), bench.bare(), args.repeats)
        print(
            f"| {'on' if checkpoint else 'off'} | {t['ours_ms']:.1f} | {t['bare_ms']:.1f} "
            f"| {t['ratio']:.3f} | {flops_per_step(bench):.2f} | {saved_megabytes(bench):.1f} "
            f"| {peak_growth(checkpoint, args.batch):.0f} |"
        )


if __name__ == "__main__":
    main()
