"""The command: which episodes, a line for each, and the table."""

from __future__ import annotations

import argparse
import gc
import os
import random
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

# Set before torch is loaded: with a GPU autograd would start threads, which a fork does not copy.
os.environ |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
os.environ |= {"OMP_WAIT_POLICY": "PASSIVE"}

from benchmarks.storm import mounts
from benchmarks.storm.episode import Episode, Tally
from benchmarks.storm.jobs import ROOT, Job, Shop
from benchmarks.storm.kinds import KINDS, Kind

HEAD = (
    "| what happens | episodes | starts cut short | refused | changed bytes | lost images "
    "| half files | left-over files | unclear ends |\n|---|" + "---|" * 8
)


@dataclass(frozen=True)
class Plan:
    """An episode to come."""

    name: str
    seed: int
    short: bool

    @property
    def kind(self) -> Kind:
        """What happens."""
        return KINDS[self.name]

    @property
    def jobs(self) -> tuple[Job, ...]:
        """The jobs that it may disturb."""
        return self.kind.jobs[:1] if self.short else self.kind.jobs

    def run(self, shop: Shop) -> Tally:
        """Runs it, says how it went, and keeps its folder if anything went wrong."""
        rng, began = random.Random(f"{self.name} {self.seed}"), time.monotonic()
        folder = shop.root / f"{self.name} {self.seed}"
        folder.mkdir()
        episode = Episode(shop, rng.choice(self.jobs), folder, rng, 2 if self.short else 5)
        self.kind.run(episode)
        episode.tally.episodes = 1
        print(self._told(episode, time.monotonic() - began), flush=True)
        if not episode.tally.wrong:
            shutil.rmtree(folder)
        return episode.tally

    def _told(self, episode: Episode, seconds: float) -> str:
        wrong, again = episode.tally.wrong, f"--only {self.name} --seed {self.seed} --episodes 1"
        line = f"{self.name} {self.seed}: {episode.tally.cut} cut short, {seconds:.1f} s, "
        if not wrong:
            return line + "as it should be"
        faults = "\n".join(episode.faults).replace("\n", "\n  ")
        short = " --short" if self.short else ""
        return f"{line}WRONG\n  {faults}\n  again: python -m benchmarks.storm {again}{short}"


def main() -> int:
    """Runs the storm; returns 1 if anything went wrong."""
    args, began = _arguments(), time.monotonic()
    os.chdir(ROOT)
    plans = _plans(args, mounts.allowed())
    shop = Shop(Path(tempfile.mkdtemp(prefix="storm-")))
    shop.fill()
    shop.warm()
    for job in dict.fromkeys(job for plan in plans for job in (*plan.jobs, *plan.kind.beside)):
        shop.reference(job.alike or job)
        shop.reference(job)
    gc.collect()
    gc.freeze()  # else each fork's garbage collector would walk over, and copy, all that is here
    tallies = {plan.name: Tally() for plan in plans}
    with get_context("fork").Pool(args.at_once) as pool:
        ends = pool.imap(partial(_run, shop), plans)
        for plan, tally in zip(plans, ends, strict=True):
            tallies[plan.name].add(tally)
    return _end(shop, tallies, time.monotonic() - began, args)


def _run(shop: Shop, plan: Plan) -> Tally:
    return plan.run(shop)


def _plans(args: argparse.Namespace, may_mount: bool) -> list[Plan]:
    plans = []
    for name in args.only or KINDS:
        kind = KINDS[name]
        count = args.episodes or (kind.short if args.short else kind.full)
        if kind.mounts and not may_mount:
            print(f"{name}: left out, as mounting is not allowed here", flush=True)
            continue
        plans += [Plan(name, args.seed + i, args.short) for i in range(count)]
    return plans


def _end(shop: Shop, tallies: dict[str, Tally], seconds: float, args: argparse.Namespace) -> int:
    """Prints the table; returns the exit code."""
    wrong, text = any(tally.wrong for tally in tallies.values()), table(tallies)
    print(f"\n{text}\n\n{seconds:.0f} s, seed {args.seed}")
    if args.out:
        Path(args.out).write_text(text + "\n", "utf-8")
    if wrong:
        print(f"what went wrong is kept in {shop.root}")
    else:
        shutil.rmtree(shop.root)
    return int(wrong)


def table(tallies: dict[str, Tally]) -> str:
    """Returns the counts as a Markdown table, with their sum."""
    total = Tally()
    for tally in tallies.values():
        total.add(tally)
    named = [(KINDS[name].what, tally) for name, tally in tallies.items()]
    return "\n".join([HEAD, *(_line(what, t) for what, t in [*named, ("all", total)])])


def _line(what: str, t: Tally) -> str:
    counts = (t.episodes, t.cut, t.refused, t.changed, t.lost, t.halves, t.left, t.unclear)
    return f"| {what} | " + " | ".join(map(str, counts)) + " |"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.storm", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the first episode of each kind")
    parser.add_argument("--only", nargs="+", choices=KINDS, metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--episodes", type=int, help="of each kind, instead of its own number")
    parser.add_argument("--short", action="store_true", help="less than a minute")
    parser.add_argument("--out", help="a Markdown file for the table")
    parser.add_argument("--at-once", type=int, default=2, help="episodes that run side by side")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
