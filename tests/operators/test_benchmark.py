"""The arithmetic of the benchmark beside deepinv, and a small case of each kind."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("deepinv")
FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark():
    # Not as "operators": under the bare name every class would exist twice.
    spec = importlib.util.spec_from_file_location("benchmark", FOLDER / "operators.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["benchmark"] = module
    sys.path.insert(0, str(FOLDER))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(FOLDER))
    return module


class Clock:
    """A clock that only its own calls move."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def takes(self, *times):
        """Returns a call that takes these times in turn."""
        turns = iter(())

        def call():
            nonlocal turns
            first = next(turns, None)
            if first is None:
                turns = iter(times)
                first = next(turns)
            self.now += first

        return call


def test_the_shortest_times_of_the_fastest_way_count(benchmark):
    clock = Clock()
    ours, near, far = clock.takes(0.3, 0.2), clock.takes(0.4, 0.5), clock.takes(5.0)
    duel = benchmark.Duel(ours, [far, near], clock).run(0, 6)
    assert len(duel.calls) == 2 and [len(times) for times in duel.times] == [6, 6]
    assert duel.ms == pytest.approx((200, 400)) and duel.ratio == pytest.approx(0.5)
    assert len(duel.run(0, 3).times[0]) == 9


def test_short_calls_are_timed_by_the_hundred(benchmark):
    clock = Clock()
    duel = benchmark.Duel(clock.takes(1e-5), [clock.takes(2e-5)], clock)
    assert duel.loops == 50 and duel.run(0, 2).ratio == pytest.approx(0.5)


def test_what_shares_memory_is_copied(benchmark):
    x = torch.zeros(4, 4)
    for call in (lambda: x, lambda: x[::2, ::2]):
        copied = benchmark.owned(call, x)()
        assert torch.equal(copied, call()) and copied.data_ptr() != x.data_ptr()
    fresh = lambda: x + 1  # noqa: E731
    assert benchmark.owned(fresh, x) is fresh


def test_rows_above_the_limit_are_flagged_and_counted(benchmark):
    fast = benchmark.Row("A | 64 | 1", (1.0, 2.0), (4.0, 2.0), 0.0)
    slow = benchmark.Row("B | 64 | 1", (1.05, 1.2), (1.0, 1.0))
    alone = benchmark.Row("C | 64 | 1", (1.0, 1.0))
    assert ">1.10" not in fast.text() and "**1.20** | other map | `>1.10` |" in slow.text()
    assert "1.05" in slow.text() and "**1.05**" not in slow.text()
    assert alone.text().count("no counterpart") == 2
    solves = [benchmark.Closed("A | 64", [1e-7, 2e-6], ["a", "b"])]
    assert "`>1e-06`" in solves[0].text()
    assert benchmark.verdict([fast, slow, alone], solves) == (
        "Of 4 times, ours are faster: 1, within 10 %: 2, slower: 1. "
        "Of 2 closed forms, 1 agree with conjugate gradients to 1e-06."
    )


def test_names_choose_the_operators(benchmark):
    names = [case.name for case in benchmark.chosen("grayscale, Decimate")]
    assert names == ["Decimate x4", "Grayscale"]
    assert len(benchmark.chosen("")) == len(benchmark.CASES)
    with pytest.raises(SystemExit, match=r"no operator has 'nothing' .* Denoise; Bicubic"):
        benchmark.chosen("nothing")


@pytest.mark.parametrize("name", ["Decimate", "UniformBlur", "CodedFourier", "stack", "Quantize"])
def test_both_sides_are_the_same_map(benchmark, name):
    (case,) = benchmark.chosen(name)
    bench = benchmark.Bench(0.0, 0.01, 1)
    row = bench.row(case, 32, 2)
    assert (row.theirs is None) == (name == "Quantize")
    assert row.theirs is None or (row.gap is not None and row.gap < 1e-5)
    assert all(t > 0 for t in row.ours) and len(row.text().split("|")) == 13
    closed = bench.closed(case, 32)
    assert (closed is None) == (name in ("stack", "Quantize"))
    if closed is not None:
        assert len(closed.gaps) == 2 and max(closed.gaps) < 1e-6
        assert len(closed.text().split("|")) == 13


def test_the_report_says_where_it_comes_from(benchmark):
    text = benchmark.report(benchmark.Bench(0.0, 0.01, 1), [], [], True)
    for words in (f"torch {torch.__version__}", "deepinv 0", "cores", "thread", "rounds"):
        assert words in text
    assert re.search(r"\n`python .*`\n", text) and "Of 0 times" in text.splitlines()[-1]
