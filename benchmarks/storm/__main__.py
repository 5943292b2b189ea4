"""The command: which episodes, a line for each, and the table."""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

# Set before torch is loaded: with a GPU autograd would start threads, which a fork does not copy.
os.environ |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
os.environ |= {"OMP_WAIT_POLICY": "PASSIVE"}

from benchmarks.storm import mounts
from benchmarks.storm.episode import Episode, Tally
from benchmarks.storm.jobs import ROOT, Shop
from benchmarks.storm.kinds import KINDS, Kind

HEAD = (
    "| what happens | episodes | starts cut short | refused | changed bytes | lost images "
    "| half files | left-over files | unclear ends |\n|---|" + "---|" * 8
)


def main() -> int:
    """Runs the storm; returns 1 if anything went wrong."""
    args = _arguments()
    os.chdir(ROOT)
    may_mount, tallies, began = mounts.allowed(), {}, time.monotonic()
    shop = Shop(Path(tempfile.mkdtemp(prefix="storm-")))
    shop.fill()
    shop.warm()
    for name, kind in KINDS.items():
        count = args.episodes or (kind.short if args.short else kind.full)
        if (args.only and name not in args.only) or not count:
            continue
        if kind.mounts and not may_mount:
            print(f"{name}: left out, as mounting is not allowed here", flush=True)
            continue
        tallies[name] = Tally()
        for i in range(count):
            tallies[name].add(_episode(shop, name, kind, args.seed + i))
    wrong = any(tally.wrong for tally in tallies.values())
    text = table(tallies)
    print(f"\n{text}\n\n{time.monotonic() - began:.0f} s, seed {args.seed}")
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


def _episode(shop: Shop, name: str, kind: Kind, seed: int) -> Tally:
    rng, began = random.Random(f"{name} {seed}"), time.monotonic()
    folder = shop.root / f"{name} {seed}"
    folder.mkdir()
    episode = Episode(shop, rng.choice(kind.jobs), folder, rng)
    kind.run(episode)
    episode.tally.episodes = 1
    said = "WRONG" if episode.tally.wrong else "as it should be"
    cut = f"{episode.tally.cut} cut short" if episode.tally.cut else "no cut"
    print(f"{name} {seed}: {cut}, {said}, {time.monotonic() - began:.1f} s", flush=True)
    if episode.tally.wrong:
        print("  " + "\n".join(episode.faults).replace("\n", "\n  "))
        print(f"  again: python -m benchmarks.storm --only {name} --seed {seed} --episodes 1")
    else:
        shutil.rmtree(folder)
    return episode.tally


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.storm", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the first episode of each kind")
    parser.add_argument("--only", nargs="+", choices=KINDS, metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--episodes", type=int, help="of each kind, instead of its own number")
    parser.add_argument("--short", action="store_true", help="a minute instead of an hour")
    parser.add_argument("--out", help="a Markdown file for the table")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
