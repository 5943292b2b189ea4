"""One image's failure is its own: a row with its reason; the others are solved as if alone."""

import asyncio
import errno
import gc
import json
import weakref
from dataclasses import asdict, dataclass

import numpy as np
import pytest
import torch
from runs import GUILTY, METHOD, NAMES, Wrapped, experiment, is_guilty, photos
from toys import ExactPrior, Identity

import plugip.experiment.share as share
from plugip.data import ImageFolder
from plugip.experiment.batches import Batches
from plugip.experiment.failure import Failure, reason
from plugip.loop import solve as solve_one_by_one
from plugip.metrics import PSNR
from plugip.noise import GaussianNoise, Hidden
from plugip.record import RecordError
from plugip.stopping import Budget, Discrepancy, Stopped


class Unsayable(Exception):  # noqa: N818
    """An exception whose text cannot be made."""

    def __str__(self):
        raise RuntimeError


NAME = NAMES[GUILTY]
OTHERS = {name for name in NAMES if name != NAME}
VARYING = ("seconds", "peak_memory")
LinAlgError: type[Exception] = getattr(torch.linalg, "LinAlgError")  # noqa: B009
ERRORS = [
    RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
    LinAlgError("the matrix is singular"),
    np.linalg.LinAlgError("singular matrix"),
    ValueError("no bracket found"),
    KeyError("prompt"),
    AssertionError(),
    ZeroDivisionError("division by zero"),
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("MPS backend out of memory (MPS allocated: 18 GB)"),
    OSError(errno.EIO, "input/output error"),
    StopIteration(),
    SystemExit(0),
    asyncio.CancelledError(),
    Unsayable(),
]


@pytest.fixture(autouse=True)
def quick_figures(monkeypatch):
    monkeypatch.setattr("plugip.record.figures.comparison", lambda *_: b"figure")
    monkeypatch.setattr("plugip.record.figures.curves", lambda *_: b"figure")


@pytest.fixture(params=[1, 4], ids=["alone", "together"])
def run(request, tmp_path, monkeypatch):
    """Runs an experiment with images alone, or together in one tensor as on a GPU."""
    if request.param > 1:
        monkeypatch.setattr(share, "solve", together)
    return lambda **parts: experiment(tmp_path, **parts, batch_size=request.param).run()


def together(problem, method, rng, observer):
    return solve_one_by_one(problem, method, rng, observer=observer, rows=problem.batch)


def answers(summary):
    rows = [asdict(row) for row in summary.rows if row.status == "ok"]
    return {(r["id"], r["kind"]): {k: v for k, v in r.items() if k not in VARYING} for r in rows}


def failed_row(summary, name=NAME):
    (row,) = (row for row in summary.rows if row.id == name)
    assert (row.kind, row.status) == ("", "failed")
    return row


@dataclass(frozen=True)
class FailingMethod(Wrapped):
    """Raises at the guilty image."""

    error: BaseException | None = None

    def before(self, problem, state):
        if self.error is not None and is_guilty(problem.y):
            raise self.error


class FailingOperator(Identity):
    """Raises where images become bright, as the method approaches the guilty one."""

    def forward(self, x):
        if is_guilty(x):
            raise RuntimeError("cuFFT error: CUFFT_INTERNAL_ERROR")
        return x


class FailingPrior(ExactPrior):
    """Raises while the method solves; the method says for whom."""

    guilty = False

    def forward(self, x_t, t):
        if self.guilty:
            raise RuntimeError("CUDNN_STATUS_EXECUTION_FAILED")
        return super().forward(x_t, t)


@dataclass(frozen=True)
class Telling(Wrapped):
    """Tells the prior whether the guilty image is at work."""

    def before(self, problem, state):
        problem.prior.guilty = is_guilty(problem.y)


@dataclass(frozen=True)
class Metric(PSNR):
    """Raises at the guilty image."""

    def __call__(self, x_hat, x):
        if is_guilty(2 * x - 1):
            raise RuntimeError("piq has no kernel for this")
        return super().__call__(x_hat, x)


def align(x_hat, x):
    if is_guilty(x):
        raise np.linalg.LinAlgError("SVD did not converge")
    return x_hat


# an image that cannot be solved


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
def test_any_exception_in_a_method_is_one_failed_row(run, error):
    plain = answers(run(run="plain"))
    summary = run(method=FailingMethod(METHOD, error=error))
    row = failed_row(summary)
    assert type(error).__name__ in row.message
    if not isinstance(error, Unsayable):
        assert " ".join(str(error).split()) in row.message
    assert answers(summary) == {key: r for key, r in plain.items() if key[0] != NAME}
    assert summary.exit_code == 1 and summary.missing == []
    folder = summary.folder / "images" / NAME
    assert "Traceback" in (folder / "error.txt").read_text()


def test_an_exception_in_the_operator_or_the_prior_is_one_failed_row(run):
    assert "CUFFT" in failed_row(run(operator=FailingOperator())).message
    prior = FailingPrior(torch.zeros(3, 8, 8), 0.5)
    summary = run(run="prior", prior=prior, method=Telling(METHOD))
    assert "CUDNN" in failed_row(summary).message
    assert {row.id for row in summary.rows if row.status == "ok"} == OTHERS


@pytest.mark.parametrize("place", ["init", "finish"])
def test_it_does_not_matter_which_function_raises(run, place):
    def refuse(self, problem, *_):
        if is_guilty(problem.y):
            raise RuntimeError("here")
        return getattr(METHOD, place)(problem, *_)

    method = type("Failing", (FailingMethod,), {place: refuse})(METHOD)
    summary = run(method=method)
    assert "here" in failed_row(summary).message and len(summary.failed) == 1


def test_an_image_that_exhausts_memory_alone_is_told_what_to_do(run):
    message = failed_row(run(method=FailingMethod(METHOD, error=MemoryError()))).message
    assert "checkpoint" in message and "data.size" in message


def test_an_image_whose_loading_raises_is_one_failed_row(run, tmp_path):
    class Folder(ImageFolder):
        def load(self, item):
            if item.id == NAME:
                raise MemoryError("cannot allocate 9 GB")
            return super().load(item)

    summary = run(data=Folder(photos(tmp_path / "photos")))
    assert "MemoryError" in failed_row(summary).message and len(answers(summary)) == 6


def test_a_later_run_solves_failed_images_only(run):
    run(method=FailingMethod(METHOD, error=RuntimeError("driver")))
    summary = run()
    assert set(summary.skipped) == OTHERS and summary.exit_code == 0
    assert not (summary.folder / "images" / NAME / "error.txt").exists()
    assert answers(summary) == answers(run(run="fresh"))


def test_all_images_may_fail(run):
    class Broken(FailingPrior):
        guilty = True

    summary = run(prior=Broken(torch.zeros(3, 8, 8)))
    assert list(summary.failed) == NAMES and summary.exit_code == 1
    saved = json.loads((summary.folder / "summary.json").read_text())
    assert list(saved["failed"]) == NAMES and (saved["ok"], saved["images"]) == (0, 3)


def test_debug_lets_the_exception_through(tmp_path):
    error = RuntimeError("driver")
    with pytest.raises(RuntimeError, match="driver"):
        experiment(tmp_path, method=FailingMethod(METHOD, error=error), debug=True).run()


def test_a_full_disk_ends_the_run(tmp_path, monkeypatch):
    def full(*_):
        raise RecordError("no space is left there")

    monkeypatch.setattr("plugip.record.Record.write_parts", full)
    with pytest.raises(RecordError, match="space"):
        experiment(tmp_path).run()


@pytest.mark.parametrize("error", [SystemExit(0), GeneratorExit()])
def test_what_a_metric_raises_costs_its_score_only(run, error):
    class Leaving(Metric):
        def __call__(self, x_hat, x):
            if is_guilty(2 * x - 1):
                raise error
            return super().__call__(x_hat, x)

    summary = run(metrics=[Leaving()])
    assert summary.exit_code == 0 and {row.id for row in summary.rows} == set(NAMES)
    notes = [row.metric_notes for row in summary.rows if row.id == NAME]
    assert all(type(error).__name__ in note["psnr"] for note in notes)


# parts that fit no image


@dataclass(frozen=True)
class Unfit(Wrapped):
    """Refuses every problem."""

    error: BaseException | None = None

    def before(self, problem, state):
        raise AssertionError("must not be reached")

    def init(self, problem, rng):
        assert self.error is not None
        raise self.error


@pytest.mark.parametrize("error", [ValueError("needs 4 channels"), TypeError("needs a std")])
def test_what_a_method_refuses_for_all_images_is_refused_before_any_row(run, tmp_path, error):
    with pytest.raises(type(error), match="needs"):
        run(method=Unfit(METHOD, error=error))
    assert not (tmp_path / "run/images").exists()


def test_a_rule_that_needs_the_noise_level_is_refused_before_any_row(run, tmp_path):
    with pytest.raises(TypeError, match="noise"):
        run(method=Stopped(METHOD, Discrepancy()), noise=Hidden(GaussianNoise(0.05)))
    assert not (tmp_path / "run/images").exists()


def test_what_a_method_refuses_for_the_first_image_alone_is_its_row(tmp_path):
    class First(FailingMethod):
        def init(self, problem, rng):
            if float(problem.y.mean()) < -0.2:
                raise ValueError("too dark to start")
            return super().init(problem, rng)

    summary = experiment(tmp_path, method=First(METHOD)).run()
    assert list(summary.failed) == ["a.png", "c.png"] and "too dark" in summary.failed["a.png"]


# beside the answer


def test_a_metric_that_raises_costs_its_number_only(run):
    plain = answers(run(run="plain"))
    rows = answers(run(metrics=[Metric()]))
    for (name, kind), row in rows.items():
        if name == NAME:
            assert row["metrics"] == {"psnr": None}
            assert row["metric_notes"]["psnr"] == "RuntimeError: piq has no kernel for this"
        else:
            assert row == plain[name, kind]
    assert rows.keys() == plain.keys()


def test_a_metric_that_cannot_say_whether_it_runs_is_not_available(tmp_path):
    class Locked(PSNR):
        def unavailable(self):
            raise PermissionError("weights may not be read")

    summary = experiment(tmp_path, metrics=[Locked()]).run()
    assert summary.exit_code == 0 and "may not be read" in summary.conventions["psnr"]


def test_an_alignment_that_raises_costs_what_is_aligned_only(run):
    plain = answers(run(run="plain"))
    summary = run(align=align)
    rows = answers(summary)
    last = rows[NAME, "last"]
    assert last["metrics"] == {"psnr": None, "psnr_raw": plain[NAME, "last"]["metrics"]["psnr"]}
    assert "SVD" in last["metric_notes"]["psnr"]
    assert "no oracle" in last["message"] and "no picture aligned" in last["message"]
    assert (NAME, "oracle") not in rows and ("a.png", "oracle") in rows
    assert (summary.folder / "images" / NAME / "reconstruction.png").is_file()


@pytest.mark.parametrize("part", ["show", "naive"])
def test_a_picture_that_raises_is_missing_with_a_note(run, monkeypatch, part):
    def broken(*_):
        raise RuntimeError("no FFT here")

    plain = answers(run(run="plain"))
    monkeypatch.setattr(f"plugip.experiment.scribe.{part}", broken)
    summary = run()
    assert summary.exit_code == 0
    last = answers(summary)[NAME, "last"]
    assert "no FFT here" in last["message"]
    assert last["metrics"] == plain[NAME, "last"]["metrics"]
    assert (summary.folder / "images" / NAME / "reconstruction.png").is_file()


def test_pictures_that_cannot_be_encoded_are_missing_with_a_note(run, monkeypatch):
    def broken(*_):
        raise MemoryError

    monkeypatch.setattr("plugip.record.parts.png_bytes", broken)
    summary = run()
    last = answers(summary)[NAME, "last"]
    assert "no pictures: MemoryError" in last["message"] and summary.exit_code == 0
    assert (summary.folder / "images" / NAME / "measurement.npy").is_file()


def test_a_diagnosis_that_raises_costs_its_numbers_only(run, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no float64 here")

    monkeypatch.setattr("plugip.experiment.scribe.diagnose", broken)
    last = answers(run())[NAME, "last"]
    assert last["chi_square"] is None and last["metrics"]["psnr"] is not None
    assert "no diagnosis of last: RuntimeError: no float64 here" in last["message"]


@dataclass(frozen=True)
class LateNan(Wrapped):
    """Its last iterate is not finite."""

    def before(self, problem, state):
        return

    def step(self, problem, state):
        state, info = super().step(problem, state)
        info.x_hat.mul_(torch.nan if self.method.iterations == LATE["step"] else 1)
        LATE["step"] += 1
        return state, info


LATE = {"step": 0}


def test_an_answer_picked_before_the_method_diverged_is_kept(tmp_path):
    LATE["step"] = 1
    data = ImageFolder(photos(tmp_path / "photos") / "a.png")
    summary = experiment(
        tmp_path, data=data, method=Stopped(LateNan(METHOD), Budget(1), False)
    ).run()
    rows = {row.kind: row for row in summary.rows}
    assert summary.exit_code == 0 and rows["stopped"].metrics["psnr"] is not None
    assert "NaN" in rows["last"].message and rows["last"].metrics == {}
    assert (summary.folder / "images/a.png/stopped.png").is_file()


# batches


def test_batches_are_halved_where_memory_runs_out_and_stay_so():
    sizes = []

    def solve(cases):
        sizes.append(len(cases))
        if len(cases) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    batches = Batches(solve, unexpected, 8)
    batches(list(range(8)))  # type: ignore[arg-type]
    batches(list(range(3)))  # type: ignore[arg-type]
    assert sizes == [8, 4, 2, 2, 2, 2, 2, 1]


def test_only_the_guilty_image_of_a_batch_fails():
    failed, solved = [], []

    def solve(cases):
        if 5 in cases:
            raise RuntimeError("five")
        solved.extend(cases)

    Batches(solve, lambda case, failure: failed.append((case, failure.reason)), 8)(
        list(range(8))  # type: ignore[arg-type]
    )
    assert failed == [(5, "RuntimeError: five")] and solved == [0, 1, 2, 3, 4, 6, 7]


def unexpected(case, failure):
    raise AssertionError(failure.trace)


class Tracked:
    """Can be referred to weakly."""


def test_a_failure_does_not_hold_the_tensors_of_its_frames():
    seen = []

    def solve(cases):
        held = Tracked()
        seen.append(weakref.ref(held))
        raise RuntimeError("with a tensor in its frame")

    Batches(solve, lambda *_: None, 1)([0])  # type: ignore[list-item]
    gc.collect()
    assert seen[0]() is None


MEMORY = [
    "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes",
    "DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes",
    "XPU out of memory. Tried to allocate 2 GiB",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate",
    "Insufficient memory (Failed to allocate 9 bytes)",
]


@pytest.mark.parametrize("text", MEMORY)
def test_every_backends_words_for_too_little_memory_are_known(text):
    assert Failure.of(RuntimeError(text)).memory
    try:
        raise ValueError("the operator failed") from RuntimeError(text)
    except ValueError as error:
        assert Failure.of(error).memory


def test_other_errors_are_not_taken_for_too_little_memory():
    assert not Failure.of(RuntimeError("shapes do not fit")).memory


def test_a_reason_is_one_line_of_some_length():
    said = reason(RuntimeError("first\n" + "x" * 5000))
    assert "\n" not in said and len(said) < 500 and said.startswith("RuntimeError: first")
