"""Long work as small jobs: each is done once, whatever is interrupted, by one process or more."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch

from plugip.record.files import write_atomic

Row = dict[str, Any]
Work = Callable[[Any], Row]


class Ledger:
    """rows.jsonl: one whole line for each finished job; a line cut short by a kill is dropped.

    Args:
        file: Where the rows are, or will be.
    """

    def __init__(self, file: Path) -> None:
        self.file, self.rows = file, dict[str, Row]()
        if file.exists():
            lines = file.read_bytes().splitlines(keepends=True)
            whole = [line for line in lines if line.endswith(b"\n")]
            self.rows = {row["key"]: row for row in map(json.loads, whole)}
            write_atomic(file, b"".join(whole))

    def append(self, row: Row) -> None:
        """Adds a row, at once and in one piece; its ``key`` names it."""
        row = json.loads(line := json.dumps(row))  # as it will be read: lists, not tuples
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("ab") as file:
            file.write(f"{line}\n".encode())
        self.rows[row["key"]] = row


def work_off(
    jobs: list[Any], key: Callable[[Any], str], ledger: Ledger, workers: Workers | Inline
) -> None:
    """Does all jobs that have no row yet, and says how far it is.

    Args:
        jobs: What is to be done, in this order where there is one process.
        key: Names a job by all that decides its row.
        ledger: Finished rows.
        workers: Who does them.
    """
    left, began = [job for job in jobs if key(job) not in ledger.rows], time.perf_counter()
    for n, (job, row) in enumerate(workers(left), 1):
        ledger.append({"key": key(job)} | row)
        print(f"[{n}/{len(left)}, {time.perf_counter() - began:.0f} s] {job}", flush=True)


class Inline:
    """Does jobs one after the other, in this process.

    Args:
        open_bench: Makes what does a job.
    """

    def __init__(self, open_bench: Callable[[], Work]) -> None:
        self.work = open_bench()

    def __call__(self, jobs: list[Any]) -> Iterator[tuple[Any, Row]]:
        return ((job, self.work(job)) for job in jobs)

    def __enter__(self) -> Inline:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class Workers:
    """Does jobs in processes of one thread each.

    Args:
        open_bench: Makes what does a job, once in each process; can be pickled.
        processes: How many.
    """

    def __init__(self, open_bench: Callable[[], Work], processes: int) -> None:
        # Not forked: a fork of a process in which torch has run threads may hang.
        spawn = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(processes, spawn, _open, (open_bench,))

    def __call__(self, jobs: list[Any]) -> Iterator[tuple[Any, Row]]:
        futures = {self._pool.submit(_work, job): job for job in jobs}
        for future in as_completed(futures):
            yield futures[future], future.result()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)


def workers(open_bench: Callable[[], Work], processes: int) -> Workers | Inline:
    """Returns this process for one, and others for more."""
    return Inline(open_bench) if processes == 1 else Workers(open_bench, processes)


def _open(open_bench: Callable[[], Work]) -> None:
    global _bench
    torch.set_num_threads(1)
    _bench = open_bench()


def _work(job: Any) -> Row:
    return _bench(job)


_bench: Work
