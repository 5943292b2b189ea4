"""The study of reverse steps: its measures against known answers, and its resume."""

import json
import math
import shutil
import zipfile
from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch.testing import assert_close
from toys import normal

from experiments import ledger as ledgers
from experiments.reverse_steps import __main__ as run
from experiments.reverse_steps import bench as benches
from experiments.reverse_steps import figures, measures
from experiments.reverse_steps import study as studies
from experiments.reverse_steps.measures import Setting
from plugip.data import ImageFolder
from plugip.path import FlowPath
from plugip.priors import GaussianMixturePrior, GaussianPrior
from plugip.reverse import GRIDS, Generator

SHAPE = (3, 16, 16)


def gaussian(std=0.5):
    """Its flow is known: the end point of z is mean + std z."""
    return GaussianPrior(0.1 * normal(*SHAPE, seed=5).float(), std, FlowPath())


def mixture():
    means = 0.5 * normal(3, *SHAPE, seed=8).float()
    return GaussianMixturePrior(means, [0.2, 0.3, 0.4], [1.0, 2.0, 3.0], FlowPath())


# --- learned times


def test_the_best_single_time_is_found():
    # Mean 0: E[x_0 | z at t] = a s^2 z / (a^2 s^2 + t^2) is s z where 1.25 a^2 - 2.5 a + 1 = 0.
    prior, z = GaussianPrior(0.0, 0.5, FlowPath(), shape=SHAPE), normal(2, *SHAPE).float()
    (t,) = measures.learned_times(prior, z, 0.5 * z, 1)
    assert t == pytest.approx(math.sqrt(1.25) / 2.5, abs=measures.FINEST)


@pytest.mark.parametrize("steps", [2, 3])
def test_learned_times_are_never_worse_than_a_named_grid(steps):
    prior, z = mixture(), normal(4, *SHAPE).float()
    reference = measures.images_of(prior, measures.fine(32), z)

    def error(grid):
        return measures.rmse(measures.images_of(prior, Generator(steps, grid), z), reference)

    learned = measures.learned_times(prior, z, reference, steps)
    assert len(learned) == steps
    assert error(learned) < 0.9 * min(error(name) for name in GRIDS)


def test_the_fine_solution_is_the_flow():
    prior, z = gaussian(), normal(3, *SHAPE).float()
    x = measures.images_of(prior, measures.fine(64), z)
    assert_close(x, prior.mean + 0.5 * z, rtol=0, atol=5e-3)


@pytest.mark.parametrize("solver", ["ddim", "heun", "midpoint"])
def test_settings_know_what_they_cost(solver):
    prior, setting = gaussian(), Setting(4, "uniform", solver)
    setting.generator(prior, normal(1, *SHAPE).float())
    assert prior.counter.nfe == setting.nfe


# --- how samples look


def test_frechet_of_known_gaussians():
    a, b = torch.tensor([1.0, 4.0, 0.0]).double(), torch.tensor([9.0, 1.0, 0.25]).double()
    mean, other = normal(3), normal(3, seed=1)
    shift = (mean - other).square().sum()
    turn = torch.linalg.qr(normal(3, 3, seed=2)).Q
    want = float(shift + (a.sqrt() - b.sqrt()).square().sum())
    turned = (turn @ torch.diag(c) @ turn.T for c in (a, b))
    assert measures.frechet(mean, next(turned), other, next(turned)) == pytest.approx(want)
    # In two dimensions tr M^(1/2) is (tr M + 2 det^(1/2) M)^(1/2), also where axes differ.
    p, q = (m @ m.T for m in (normal(2, 2, seed=3), normal(2, 2, seed=4)))
    cross = (torch.trace(p @ q) + 2 * (torch.det(p) * torch.det(q)).sqrt()).sqrt()
    want = float(p.trace() + q.trace() - 2 * cross)
    assert measures.frechet(mean[:2], p, mean[:2], q) == pytest.approx(want)


def test_distance_is_zero_for_itself_and_one_for_the_mean_image():
    x = gaussian().mean + normal(40, *SHAPE, seed=3).float()
    look = measures.Look.of(x, x)
    assert look.floor == pytest.approx(0, abs=1e-6)
    assert look.distance(x.mean(0).expand_as(x)) == pytest.approx(1, abs=1e-6)


def test_high_share_splits_at_half_the_highest_frequency():
    places = torch.arange(64.0)
    for cycles, share in ((4, 0), (12, 0), (20, 1), (30, 1)):
        wave = torch.cos(2 * torch.pi * cycles * places / 64).expand(1, 1, 64, 64)
        assert measures.high_share(3 + wave) == pytest.approx(share, abs=1e-3)


# --- fits


def test_a_prior_whose_range_is_everything_fits_any_face():
    prior, x = gaussian(), 0.3 * normal(1, *SHAPE, seed=9).float().clamp(-2, 2)
    found = measures.range_fit(prior, Setting(2), x, (8, 200))
    assert found["psnr"][1] > 60 > found["psnr"][0] > 0
    assert found["passes"] <= 200 + 2 * 2 * 8  # one line search may run over


def test_budgets_count_passes_of_the_prior():
    prior, x = gaussian(), 0.3 * normal(1, *SHAPE, seed=9).float().clamp(-2, 2)
    found = measures.restoration(prior, Setting(3), x, "a", (5, 6))
    assert found["psnr"][0] is None  # one gradient of three steps takes six
    assert math.isfinite(found["psnr"][1])
    assert found["passes"] == 6


# --- the whole


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    root = tmp_path_factory.mktemp("study")
    (root / "faces").mkdir()
    with zipfile.ZipFile(root / "train.zip", "w") as train:
        for i in range(12):
            pixels = (127 + 40 * normal(16, 16, 3, seed=i)).clamp(0, 255).byte().numpy()
            file = root / "faces" / f"{i:02}.png"
            Image.fromarray(pixels).save(file)
            train.write(file, file.name)
    faces = tuple(ImageFolder(root / "faces").items())
    sizes = {"budgets": (8, 18), "samples": 4, "judged": 3, "fitted": 2, "fine": 6, "real": 12}
    return studies.Study(root / "whole", root / "train.zip", faces[:1], faces[5:7], **sizes)


def opened(study):
    return benches.Bench(gaussian(), study), ledgers.Ledger(study.out / "rows.jsonl")


@pytest.fixture(scope="module")
def whole(study):
    bench, ledger = opened(study)
    benches.run(bench, ledger, ledgers.Inline(lambda: bench))
    return bench, ledger


def test_a_resumed_study_equals_an_uninterrupted_one(study, whole):
    rows = whole[1].rows
    resumed = replace(study, out=study.out.parent / "resumed")
    resumed.out.mkdir()
    text = (study.out / "rows.jsonl").read_bytes()
    cut = text.index(b'"samples"') + 2000  # a kill in the middle of a line
    (resumed.out / "rows.jsonl").write_bytes(text[:cut])
    done = text[:cut].count(b"\n")
    bench, ledger = opened(resumed)
    assert 5 < len(ledger.rows) == done < len(rows) and text[cut - 1 : cut] != b"\n"

    made = []

    def counted(job):
        made.append(job)
        return bench(job)

    benches.run(bench, ledger, ledgers.Inline(lambda: counted))
    assert ledger.rows == rows
    assert len(made) == len(rows) - done
    again = ledgers.Ledger(resumed.out / "rows.jsonl")
    assert again.rows == rows
    shutil.rmtree(resumed.out)


def test_another_prior_or_size_shares_no_row(study, whole):
    bench, _ = whole
    changed = (
        benches.Bench(gaussian(0.4), study),
        benches.Bench(bench.prior, replace(study, fine=7)),
    )
    work = [studies.Job("learned"), studies.Job("samples", Setting(2))]
    keys = [b.key(job) for b in (bench, *changed) for job in work]
    assert len(set(keys)) == 6


def test_table_and_figures_hold_every_setting(study, whole):
    findings = figures.Findings(*whole)
    lines = figures.table(findings, "python run.py").splitlines()
    body = [line for line in lines if line.startswith("| ") and "NFE" not in line]
    assert len(body) == len(findings.settings) == 21
    default = next(line for line in body if line.startswith("| 3 | uniform | ddim | none | 3 |"))
    scores = [row["psnr"][1] for row in rows_of(whole, "range", Setting())]
    assert len(scores) == 2 and f"{sum(scores) / 2:.2f}" in default
    assert findings.mean("range", Setting(10), 1) is None  # its first gradient takes 20 passes
    figures.draw(findings, study.out / "figure.png")
    with Image.open(study.out / "figure.png") as drawn:
        assert drawn.size[0] == 1600
    learned = findings.learned[3]
    figures.draw_sheet(whole[0].sheet(learned), learned, study.out / "sheet.png")
    assert (study.out / "sheet.png").stat().st_size > 10_000


def rows_of(whole, kind, setting):
    for row in whole[1].rows.values():
        if (row["kind"], row["setting"]) == (kind, json.loads(json.dumps(vars(setting)))):
            yield row


def test_what_is_not_done_is_left_out_of_the_table(study, whole):
    bench, ledger = whole
    part = ledgers.Ledger(study.out / "missing.jsonl")
    with pytest.raises(ValueError, match="too little is done"):
        figures.Findings(bench, part)
    part.rows = {k: r for k, r in ledger.rows.items() if r["face"] != "06.png"}
    findings = figures.Findings(bench, part)
    (want,) = [r["psnr"] for r in rows_of(whole, "range", Setting()) if r["face"] == "05.png"]
    assert findings.scores["range"][Setting()] == [want]
    gain = findings.gain("range", Setting(2))
    assert gain is not None and math.isnan(gain[1])


def test_too_few_faces_are_refused(study):
    faces = str(study.tuning[0].path.parent)
    options = run.options_of(["--faces", faces, "--train", str(study.train), "--quick"])
    small = run.study_of(options)
    assert [face.id for face in (*small.tuning, *small.reporting)] == ["00.png", "05.png"]
    options.faces = study.tuning[0].path
    with pytest.raises(ValueError, match="at least 6 images"):
        run.study_of(options)
