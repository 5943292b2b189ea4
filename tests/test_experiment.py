"""Experiment: same rows whatever the batch, the order, the interruptions; failures have rows."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np
import pytest
import torch
from PIL import Image
from toys import ExactPrior, Identity, JointDescent, Scale, Shrink, normal

from plugip.data import ImageFolder, load_image
from plugip.engine.adam import Adam
from plugip.experiment import Experiment, choose_device, naive
from plugip.experiment.observers import Oracle
from plugip.experiment.pictures import drawn
from plugip.experiment.scoring import Judge
from plugip.experiment.team import Team, join_team
from plugip.method import Info
from plugip.methods import DPS, ConstrainedSeed, DMPlug
from plugip.metrics import LPIPS, PSNR, SSIM
from plugip.noise import GaussianNoise, UnknownNoise
from plugip.operators import (
    BlindBlur,
    BlindTurbulence,
    FourierMagnitude,
    GaussianKernel,
    align,
    align_shift,
)
from plugip.problem import measure
from plugip.record import Record, RecordError
from plugip.reverse import Generator
from plugip.rng import Rng
from plugip.stopping import Budget, Stopped

SIDE = 16
NAMES = ["a.png", "b.png", "sub/c.png", "d.png"]
VARYING = ("seconds", "peak_memory")
METHOD = DMPlug(iterations=6, generator=Generator(steps=2), solver=Adam(lr=0.1))


def write_image(path, seed, side=SIDE, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(60, 200, (4, 4, len(mode)), dtype=np.uint8)
    image = Image.fromarray(pixels.squeeze()).resize((side, side), Image.Resampling.BICUBIC)
    image.save(path)
    return path


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    for seed, name in enumerate(NAMES):
        write_image(folder / name, seed)
    return folder


@pytest.fixture(autouse=True)
def quick_figures(monkeypatch):
    """Drawing takes longer than solving here; test_record draws."""
    monkeypatch.setattr("plugip.record.figures.comparison", lambda *_: b"figure")
    monkeypatch.setattr("plugip.record.figures.curves", lambda *_: b"figure")


@pytest.fixture
def make(tmp_path, photos):
    """Builds an experiment in tmp_path / <folder>; keywords replace its parts."""

    def build(folder="run", config=None, **changes):
        record = Record(tmp_path / folder, config or {"rng_seed": 0})
        defaults = Experiment(
            data=ImageFolder(photos),
            operator=Shrink(),
            noise=GaussianNoise(0.05),
            prior=ExactPrior(torch.zeros(3, SIDE, SIDE), 0.5),
            method=METHOD,
            metrics=[PSNR(), SSIM()],
            record=record,
            device="cpu",
        )
        return replace(defaults, **changes)

    return build


def by_image(summary):
    """Rows without what may differ between runs, by (id, kind)."""
    rows = [asdict(row) for row in summary.rows]
    return {(r["id"], r["kind"]): {k: v for k, v in r.items() if k not in VARYING} for r in rows}


# the whole


def test_rows_files_and_scores_of_a_run(make, photos):
    summary = make().run()
    assert summary.exit_code == 0 and not summary.skipped
    assert [row.kind for row in summary.rows] == ["input", "last", "oracle"] * 4
    assert [row.id for row in summary.rows[::3]] == sorted(NAMES)
    last = summary.rows[1]
    assert (last.status, last.step, last.nfe, last.rng_seed) == ("ok", 6, last.vjps, 0)
    assert last.metrics["psnr"] > 10 and last.residual_to_noise == pytest.approx(
        last.residual / 0.05
    )
    folder = summary.folder
    for name in ("config.yaml", "provenance.json", "summary.json", "summary.md", "figure.png"):
        assert (folder / name).is_file()
    image = folder / "images" / "a.png"
    names = {p.name for p in image.iterdir()}
    assert names == {
        "truth.png", "measurement.png", "measurement.npy", "input.png", "reconstruction.png",
        "rows.json",
    }  # fmt: skip
    lines = [json.loads(x) for x in (folder / "scores.jsonl").read_text().splitlines()]
    assert lines == [asdict(row) for row in summary.rows]
    trace = (folder / "trace" / "a.png.csv").read_text().splitlines()
    assert trace[0] == "step,loss,residual,residual_to_noise" and len(trace) == 7


def test_scores_are_those_of_the_pictures(make, photos):
    summary = make().run()
    image = summary.folder / "images" / "a.png"
    x_hat, x = (load_image(image / f"{n}.png")[None] for n in ("reconstruction", "truth"))
    psnr = float(PSNR()((x_hat + 1) / 2, (x + 1) / 2)[0])
    assert summary.rows[1].metrics["psnr"] == pytest.approx(psnr, abs=0.05)  # 8 bits


def test_the_saved_measurement_is_the_one_that_a_script_makes(make, photos):
    summary = make().run()
    x = load_image(photos / "sub/c.png")[None]
    y = measure(Shrink(), x, GaussianNoise(0.05), Rng(0, "measure", ["sub/c.png"]))
    (saved,) = (summary.folder / "images").glob("sub_c*/measurement.npy")
    assert torch.equal(torch.from_numpy(np.load(saved)), y[0])


@pytest.mark.parametrize(
    ("operator", "kind"), [(Shrink(), torch.float32), (Scale(), torch.float64)]
)
def test_batches_of_1_and_4_give_equal_rows(make, operator, kind):
    prior = ExactPrior(torch.zeros(3, SIDE, SIDE, dtype=kind), 0.5)
    one = make("one", batch_size=1, operator=operator, prior=prior).run()
    four = make("four", batch_size=4, operator=operator, prior=prior).run()
    assert by_image(one) == by_image(four) and not one.failed


def test_another_order_gives_the_same_rows(make, photos):
    files = [photos / name for name in ("d.png", "a.png", "b.png")]
    one = make("one", data=ImageFolder(files), batch_size=2).run()
    two = make("two", data=ImageFolder(files[::-1]), batch_size=2).run()
    assert by_image(one) == by_image(two)
    assert [row.id for row in two.rows[::3]] == ["b.png", "a.png", "d.png"]


def test_one_image_has_the_same_rows_alone(make, photos):
    alone = make("one", data=ImageFolder([photos / "b.png"])).run()
    rows = by_image(make("all").run())
    assert by_image(alone) == {key: row for key, row in rows.items() if key[0] == "b.png"}


# resuming


def test_a_second_run_solves_nothing_and_says_so(make):
    first = make().run()
    second = make(method=Refusing()).run()
    assert second.skipped == sorted(NAMES)
    assert second.rows == first.rows


def test_a_changed_file_is_solved_again(make, photos):
    make().run()
    write_image(photos / "b.png", 99)
    assert make().run().skipped == ["a.png", "d.png", "sub/c.png"]


def test_more_images_join_an_earlier_run(make, photos):
    make(data=ImageFolder(photos, limit=2)).run()
    summary = make().run()
    assert summary.skipped == ["a.png", "b.png"]
    assert by_image(summary) == by_image(make("fresh").run())


@pytest.mark.parametrize("batch_size", [1, 4])
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(make, batch_size):
    stopped = make(method=InterruptAt(METHOD, 8), batch_size=batch_size).run()
    assert stopped.interrupted and stopped.exit_code == 130
    status = {row.id: row.status for row in stopped.rows}
    assert status == {"a.png": "ok", "b.png": "interrupted"}
    assert (stopped.folder / "figure.png").is_file()
    assert (stopped.folder / "images/b.png/reconstruction.png").is_file()
    summary = make(batch_size=batch_size).run()
    assert summary.skipped == ["a.png"]
    assert by_image(summary) == by_image(make("fresh").run())


def test_other_settings_in_the_same_folder_are_refused(make):
    make().run()
    with pytest.raises(ValueError, match="rng_seed is 0 there and 1 now"):
        make(config={"rng_seed": 1})


# bad input


def test_the_advice_for_an_oblong_prior_leads_somewhere():
    from plugip.experiment.problems import _misfit

    assert "set data.size=64" in _misfit((3, 63, 80), (3, 64, 64))
    oblong = _misfit((3, 64, 64), (3, 64, 96))
    assert "96 x 64" in oblong and "set data.size" not in oblong and "squares only" in oblong


def test_images_that_cannot_be_used_have_rows_and_the_others_go_on(make, photos):
    (photos / "broken.png").write_bytes(b"not a picture")
    write_image(photos / "large.png", 7, side=32)
    summary = make().run()
    assert summary.exit_code == 1
    assert set(summary.failed) == {"broken.png", "large.png"}
    assert "cannot be read" in summary.failed["broken.png"]
    assert "set data.size=16" in summary.failed["large.png"]
    assert {row.id for row in summary.rows if row.status == "ok"} == set(NAMES)
    saved = json.loads((summary.folder / "summary.json").read_text())
    assert set(saved["failed"]) == {"broken.png", "large.png"} and saved["ok"] == 4


def test_failed_images_are_tried_again(make, photos):
    (photos / "broken.png").write_bytes(b"not a picture")
    make().run()
    write_image(photos / "broken.png", 5)
    summary = make().run()
    assert not summary.failed and len(summary.skipped) == 4


def test_a_missing_file_has_a_row(make, photos):
    files = [photos / "a.png", photos / "nope.png"]
    assert "does not exist" in make(data=ImageFolder(files)).run().failed["nope.png"]


def test_another_channel_count_has_a_row(make, photos):
    summary = make(data=ImageFolder(photos / "a.png", channels=1)).run()
    assert "set data.channels=3" in summary.failed["a.png"]


@pytest.mark.parametrize("mode", ["L", "RGBA"])
def test_grey_and_transparent_images_are_handled(make, tmp_path, mode):
    path = write_image(tmp_path / "x.png", 1, mode=mode)
    assert make(data=ImageFolder(path)).run().exit_code == 0


def test_a_method_that_diverges_has_a_row(make):
    summary = make(method=Nan()).run()
    assert set(summary.failed) == set(NAMES)
    assert "NaN" in summary.failed["a.png"]


def test_parts_that_do_not_fit_are_refused_before_any_image(make, tmp_path):
    odd = ExactPrior(torch.zeros(3, 15, 15), 0.5)
    with pytest.raises(ValueError, match="even sizes"):
        make(prior=odd).run()
    with pytest.raises(TypeError, match="UnknownNoise"):
        make(noise=UnknownNoise()).run()
    assert not (tmp_path / "run" / "images").exists()


def test_devices_and_sizes_that_do_not_exist(make):
    with pytest.raises(ValueError, match="unknown device 'gpu'"):
        make(device="gpu").run()
    with pytest.raises(ValueError, match="unknown device 'meta'"):
        choose_device("meta")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="no GPU"):
            choose_device("cuda:7")
    with pytest.raises(ValueError, match="batch_size"):
        make(batch_size=0)


def test_a_folder_that_vanishes_is_an_error_not_a_silence(make, tmp_path):
    experiment = make()
    shutil.rmtree(tmp_path / "run")
    (tmp_path / "run").write_text("now a file")
    with pytest.raises(RecordError, match="cannot write"):
        experiment.run()


# real measurements


@pytest.fixture
def real(make, tmp_path):
    path = write_image(tmp_path / "y.png", 3, side=SIDE // 2)
    return lambda **changes: make(data=ImageFolder(path), real=True, **changes)


def test_a_real_measurement_has_no_truth_no_oracle_no_score(real):
    summary = real().run()
    assert [(row.kind, row.metrics) for row in summary.rows] == [("last", {})]
    assert summary.rows[0].residual_to_noise is not None
    pictures = {p.name for p in (summary.folder / "images/y.png").glob("*.png")}
    assert pictures == {"measurement.png", "reconstruction.png"}
    assert (summary.folder / "figure.png").is_file()


def test_a_real_measurement_of_unknown_noise_level(real):
    method = replace(METHOD, seed_weight=0.0)
    (row,) = real(noise=UnknownNoise(), method=method).run().rows
    assert row.residual_to_noise is None and row.chi_square is None and row.explains_y is None
    assert "noise level unknown" in row.message


def test_a_measurement_that_does_not_fit_has_a_row(real):
    failed = real(operator=Identity()).run().failed
    assert "y has shape (1, 3, 8, 8), but Identity gives (1, 3, 16, 16)" in failed["y.png"]


def test_a_random_operator_cannot_explain_a_given_measurement(real):
    with pytest.raises(ValueError, match="draws a random part"):
        real(operator=Scale()).run()


# iterates and scores


def test_the_oracle_is_never_below_the_last_iterate(make):
    rows = by_image(make(method=DMPlug(iterations=30, seed_weight=0.0, solver=Adam(lr=0.1))).run())
    for name in NAMES:
        best, last = rows[name, "oracle"], rows[name, "last"]
        assert best["metrics"]["psnr"] >= last["metrics"]["psnr"]
        assert 1 <= best["step"] <= last["step"]


def test_the_oracle_can_be_switched_off(make):
    assert {row.kind for row in make(oracle=False).run().rows} == {"input", "last"}


def test_the_oracle_keeps_each_images_best_iterate():
    x = torch.zeros(2, 1, 2, 2)
    oracle = Oracle(x)
    for step, values in enumerate([(0.5, 0.5), (0.1, 0.9), (0.3, 0.2)], start=1):
        x_hat = torch.tensor(values)[:, None, None, None].expand_as(x)
        oracle(step, [0, 1], Info(x_hat, torch.zeros(2), torch.zeros(2, dtype=torch.bool)))
    late = torch.full((1, 1, 2, 2), 0.05)
    oracle(4, [1], Info(late, torch.zeros(1), torch.zeros(1, dtype=torch.bool)))
    first, second = oracle.of(0), oracle.of(1)
    assert first is not None and second is not None
    assert [first[0], second[0]] == [2, 4]
    assert float(first[1].mean()) == pytest.approx(0.1)
    assert torch.equal(second[1], late)


def test_a_stopping_rule_adds_a_row(make):
    summary = make(method=Stopped(METHOD, Budget(3), halt=False)).run()
    assert [row.kind for row in summary.rows[:4]] == ["input", "last", "stopped", "oracle"]
    assert [row.step for row in summary.rows[1:3]] == [6, 3]
    alone = make("alone", method=replace(METHOD, iterations=3)).run()
    assert summary.rows[2].metrics == alone.rows[1].metrics
    assert (summary.folder / "images/a.png/stopped.png").is_file()


def test_metrics_that_cannot_run_leave_a_reason(make, tmp_path):
    missing = LPIPS(weights=str(tmp_path / "none.pth"))
    prior = ExactPrior(torch.zeros(3, 8, 8), 0.5)
    data = ImageFolder(make().data.path, size=8)
    row = make("x", metrics=[PSNR(), SSIM(), missing], prior=prior, data=data).run().rows[1]
    assert row.metrics["psnr"] is not None
    assert row.metrics["ssim"] is None and "11x11" in row.metric_notes["ssim"]
    assert row.metrics["lpips_alex"] is None and "not available" in row.metric_notes["lpips_alex"]


def test_infinite_scores_are_noted():
    x = torch.zeros(1, 3, 4, 4)
    values, notes = Judge([PSNR()]).scores(x, x)
    assert values == {"psnr": None} and "inf" in notes["psnr"]


def test_symmetric_answers_are_aligned_for_scores_only(make):
    turned = Given(lambda x: -x.flip(-2, -1))
    parts = {"operator": FourierMagnitude(), "method": turned, "noise": GaussianNoise(0.01)}
    plain = make("plain", **parts).run()
    aligned = make("aligned", align=align, **parts).run()
    assert plain.rows[0].metrics["psnr"] < 15
    assert aligned.rows[0].metrics["psnr"] is None  # infinite: the aligned answer is the truth
    pictures = aligned.folder / "images/a.png"
    same = torch.equal(load_image(pictures / "aligned.png"), load_image(pictures / "truth.png"))
    assert same and (pictures / "reconstruction.png").is_file()
    raw = aligned.rows[0].metrics["psnr_raw"]
    assert raw == plain.rows[0].metrics["psnr"]  # the figure before alignment stays beside it
    assert "psnr_raw" in aligned.conventions and "psnr_raw" not in plain.conventions


# an operator with an unknown part

TRUE = ("tilt", "kernel")
TURBULENCE = {"kernel_size": 5, "truth": GaussianKernel(1.0, 5)}


def blind_parts(operator):
    return {"operator": operator, "method": JointDescent(), "noise": GaussianNoise(0.01)}


def test_a_blind_problem_is_simulated_with_a_true_unknown_that_the_method_cannot_see(make):
    class Peek(JointDescent):
        def init(self, problem, rng):
            assert isinstance(problem.operator, BlindTurbulence) and problem.operator.truth is None
            return super().init(problem, rng)

    experiment = make(**blind_parts(BlindTurbulence(**TURBULENCE)) | {"method": Peek()})
    summary = experiment.run()
    assert not summary.failed
    folder = summary.folder / "images/a.png"
    theta = {n: torch.from_numpy(np.load(folder / f"theta_true_{n}.npy")) for n in TRUE}
    rng = Rng(0, "operator", ["a.png"])
    true = BlindTurbulence(**TURBULENCE).draw_theta(rng.child("theta"), (1, 3, SIDE, SIDE))
    assert all(torch.equal(theta[n], true[n][0]) for n in TRUE)
    x = ImageFolder(experiment.data.path).load(experiment.data.items()[0])[None]
    y = BlindTurbulence(**TURBULENCE).at(true)(x)
    left = torch.from_numpy(np.load(folder / "measurement.npy")) - y[0]
    assert 0.005 < float(left.std()) < 0.02


def test_the_found_unknown_is_recorded_and_explains_the_residual(make):
    summary = make(**blind_parts(BlindTurbulence(**TURBULENCE))).run()
    folder = summary.folder / "images/a.png"
    found = {n: torch.from_numpy(np.load(folder / f"theta_{n}.npy"))[None] for n in TRUE}
    x_hat = load_image(folder / "reconstruction.png")[None]
    y = torch.from_numpy(np.load(folder / "measurement.npy"))[None]
    left = BlindTurbulence(**TURBULENCE).at(found)(x_hat) - y
    last = next(row for row in summary.rows if row.id == "a.png" and row.kind == "last")
    assert last.residual == pytest.approx(float(left.square().mean().sqrt()), abs=0.02)
    assert (folder / "theta_kernel.png").is_file() and (folder / "theta_true_tilt.png").is_file()
    other = [row for row in summary.rows if row.kind in ("input", "oracle")]
    assert other and all(row.residual is None and row.metrics["psnr"] for row in other)


@pytest.mark.parametrize(("picked", "known"), [(3, False), (6, True)])
def test_the_last_row_has_seed_and_certificate_only_if_it_is_the_answer(make, picked, known):
    method = Stopped(ConstrainedSeed(6, Generator(2)), Budget(picked), halt=False)
    rows = by_image(make(method=method).run())
    for name in NAMES:
        last, stopped = rows[name, "last"], rows[name, "stopped"]
        assert (last["step"], stopped["step"]) == (6, picked)
        for told in ("seed_norm", "stationarity", "violation"):
            value = stopped[told]
            assert value is not None and last[told] == (value if known else None)


@pytest.mark.parametrize(("picked", "known"), [(3, False), (6, True)])
def test_a_blind_last_row_is_held_against_y_if_it_is_the_answer(make, picked, known):
    method = Stopped(METHOD, Budget(picked), halt=False)
    summary = make(**blind_parts(BlindTurbulence(**TURBULENCE)) | {"method": method}).run()
    for row in summary.rows:
        if row.kind in ("last", "stopped"):
            assert (row.residual is not None) == (known or row.kind == "stopped")


def test_blind_rows_do_not_depend_on_the_batch(make):
    parts = blind_parts(BlindBlur(5, truth=GaussianKernel(1.0, 5))) | {"align": align_shift}
    alone, together = (make(f"b{b}", batch_size=b, **parts).run() for b in (1, 4))
    assert by_image(alone) == by_image(together)
    assert alone.rows[-1].metrics.keys() == {"psnr", "ssim", "psnr_raw", "ssim_raw"}


def test_real_measurements_of_a_blind_operator_are_solved(make, photos):
    blind = BlindBlur(5)  # nothing says how to draw a true kernel, and nothing has to
    summary = make(real=True, **blind_parts(blind)).run()
    assert not summary.failed and (summary.folder / "images/a.png/theta.npy").is_file()
    refused = make("simulated", **blind_parts(blind))
    with pytest.raises(TypeError, match="cannot simulate a measurement"):
        refused.run()


def test_a_method_without_theta_is_refused_before_any_solving(make):
    blind = BlindBlur(5, truth=GaussianKernel(1.0, 5))
    for method in (DPS(2), Stopped(DPS(2), Budget(2))):
        with pytest.raises(TypeError, match="DPS needs a known operator, but BlindBlur has"):
            make(**blind_parts(blind) | {"method": method}).run()


def test_unknowns_are_drawn_where_they_are_pictures():
    assert drawn(torch.rand(1, 1, 1)) == [] and drawn(torch.rand(5)) == []
    (kernel,), (tilt,) = drawn(torch.rand(1, 5, 7)), drawn(torch.rand(2, 5, 7))
    assert kernel.shape == tilt.shape == (1, 5, 7)
    assert float(kernel.min()) == -1 and float(kernel.max()) == pytest.approx(1)


# plain functions


def test_the_baseline_enlarges_y_or_takes_it_as_it_is():
    y = normal(2, 3, 4, 4, dtype=torch.float32).clamp(-1, 1)
    enlarged, same = naive(y, (3, 16, 16)), naive(y, (3, 4, 4))
    assert enlarged is not None and enlarged.shape == (2, 3, 16, 16)
    assert same is not None and torch.equal(same, y)
    for no_picture in (y[:, :2], y.flatten(1), torch.complex(y, y), 40 * y, 2 * y.abs() + 0.3):
        assert naive(no_picture, (3, 16, 16)) is None
    assert naive(y, (3, 2, 2)) is None  # larger than an image


def test_processes_share_every_nth_image():
    shares = [Team(torch.device("cpu"), i, 3).share(range(8)) for i in range(3)]
    assert shares == [[0, 3, 6], [1, 4, 7], [2, 5]]


def test_several_processes_need_a_device_for_each(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"cannot share|is not here"):
        join_team("cuda:0")


# methods with one property


@dataclass(frozen=True)
class Given:
    """Answers with a function of the truth, which only a test can know."""

    change: Callable[[torch.Tensor], torch.Tensor]

    def init(self, problem, rng):
        return None

    def step(self, problem, state):
        x = torch.stack([load_image(f"{FOLDER[0]}/{i}") for i in self.ids(problem)])
        b = len(x)
        return None, Info(self.change(x), torch.zeros(b), torch.ones(b, dtype=torch.bool))

    def finish(self, problem, state):
        return self.step(problem, None)[1].x_hat

    def ids(self, problem):
        """Finds the image whose measurement this is."""
        y = problem.y
        names = sorted(NAMES)
        clean = torch.stack(
            [problem.operator(load_image(f"{FOLDER[0]}/{i}")[None])[0] for i in names]
        )
        return [names[int((clean - one).flatten(1).norm(dim=1).argmin())] for one in y]


FOLDER = [""]


@pytest.fixture(autouse=True)
def _folder(photos):
    FOLDER[0] = str(photos)


@dataclass(frozen=True)
class Refusing:
    """Must not be used at all."""

    def init(self, problem, rng):
        raise AssertionError("nothing is left to solve")

    def step(self, problem, state):
        raise AssertionError

    def finish(self, problem, state):
        raise AssertionError


@dataclass(frozen=True)
class Nan:
    """Diverges."""

    iterations: int = 2

    def init(self, problem, rng):
        return rng.normal(problem.prior.image_shape, like=problem.y)

    def step(self, problem, state):
        b = problem.batch
        x = torch.full_like(state, torch.nan)
        return x, Info(x, torch.zeros(b), torch.zeros(b, dtype=torch.bool), torch.zeros(b))

    def finish(self, problem, state):
        return state


class InterruptAt:
    """A method during whose n-th step the user presses Ctrl-C."""

    def __init__(self, method, step):
        self.method, self.at, self.count = method, step, 0
        self.iterations = method.iterations
        self.init, self.finish, self.seed = method.init, method.finish, method.seed

    def step(self, problem, state):
        self.count += 1
        if self.count == self.at:
            raise KeyboardInterrupt
        return self.method.step(problem, state)
