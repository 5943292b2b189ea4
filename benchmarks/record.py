"""What it costs to write one image down, as the run folder fills: time, and bytes of tables.

Run: ``python benchmarks/record.py``. Images are small, so that the tables would show; each line is
the median over the last hundred images, in CPU seconds, and what starting a resume takes then.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from plugip.record import Parts, Record, Row

LAST = 100


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[250, 500, 1000, 2000])
    counts = sorted(parser.parse_args().images)
    print(
        "| images in the folder | one more, ms | a resume's check, ms an image |\n|---:|---:|---:|"
    )
    with tempfile.TemporaryDirectory() as place:
        record = Record(Path(place) / "run", {"rng_seed": 0})
        record.begin(torch.device("cpu"), None)
        times: list[float] = []
        for count in counts:
            times += [write(record, i) for i in range(len(times), count)]
            one = statistics.median(times[-LAST:])
            print(f"| {count} | {1e3 * one:.2f} | {1e3 * check(record, count):.2f} |", flush=True)


def write(record: Record, i: int) -> float:
    """Writes image number i; returns the CPU seconds."""
    name, x = f"{i:06}.png", torch.full((3, 32, 32), 0.5)
    row = Row(name, "last", "ok", metrics={"psnr": 30.0, "ssim": 0.9})
    rows = [row, replace(row, kind="input"), replace(row, kind="oracle")]
    began = time.process_time()
    record.write_parts(Parts(name, "d", rows, {"reconstruction": x}, {"measurement": x}))
    return time.process_time() - began


def check(record: Record, count: int) -> float:
    """Returns the CPU seconds for each image that a resume takes before it solves."""
    ids = [f"{i:06}.png" for i in range(count)]
    began = time.process_time()
    record.write_scores([i for i in ids if record.finished(i, "d")])
    return (time.process_time() - began) / count


if __name__ == "__main__":
    main()
