"""Fitting a Gaussian to images: known answers, folders and zips, damaged files, the command."""

import io
import shutil
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from plugip import fitting
from plugip.fitting import pictures
from plugip.fitting.fit import ROUNDING, fit_gaussian
from plugip.fitting.pictures import FitError, Pictures
from plugip.priors import LowRankGaussian
from plugip.priors.low_rank_bands import Bands


class Given:
    """Images in memory, in the form in which a fit reads them."""

    def __init__(self, x):
        self.x, self.shape, self.name = x.flatten(1), tuple(x.shape[1:]), "given"
        self.names, self.skipped = [str(i) for i in range(len(x))], {}

    def batches(self, heading):
        yield from self.x.split(7)


def images(count=300, shape=(3, 6, 6), seed=0):
    """Around a mean: twelve directions of falling weight, and noise that is not white."""
    generator = torch.Generator().manual_seed(seed)
    size, bands = int(torch.Size(shape).numel()), Bands(shape, 3)
    axes = torch.linalg.qr(torch.randn(size, 12, generator=generator))[0].T
    coarse = torch.randn(count, 12, generator=generator) * 0.75 ** torch.arange(12) @ axes
    floor = 0.05 * 0.6 ** torch.arange(3 * shape[0])[bands.index]
    fine = bands.synthesise(floor * torch.randn(count, size, generator=generator))
    return (0.3 + 0.3 * (coarse + fine)).view(count, *shape)


def covariance(prior):
    size = prior.mean.numel()
    basis = torch.eye(size).double().view(size, *prior.shape)
    return prior.double().covariance_times(basis).flatten(1)


@pytest.mark.parametrize("rank", [1, 5])
def test_a_white_floor_is_probabilistic_pca(rank):
    """Its covariance keeps r eigenvalues of the sample's and averages the others."""
    x = images()
    sample = x.flatten(1).double().T.cov(correction=0)
    values, axes = torch.linalg.eigh(sample)
    floor = values[:-rank].mean()
    kept = torch.cat([floor.expand(len(values) - rank), values[-rank:]])
    want = axes @ torch.diag(kept) @ axes.T
    prior = fit_gaussian(Given(x), rank, bands=0)
    torch.testing.assert_close(prior.mean.double(), x.double().mean(0), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(float(prior.std) ** 2, float(floor), rtol=1e-4, atol=0)
    torch.testing.assert_close(covariance(prior), want, rtol=1e-4, atol=1e-4 * float(values[-1]))
    explained = float(values[-rank:].sum() / values.sum())
    assert prior.card["explained_variance"] == pytest.approx(explained, rel=1e-4)


def test_the_floor_keeps_the_variance_of_the_images():
    """All of it, that along each component, and within 3 % that in each band."""
    x, bands = images(), Bands((3, 6, 6), 3).double()
    rest = (x - x.mean(0)).flatten(1).double()
    prior = fit_gaussian(Given(x), 12, bands=3)
    assert prior.std.shape == (3, 3)
    assert float(prior.std.max() / prior.std.min()) > 5
    c, rows = covariance(prior), prior.components.flatten(1)
    sample = rest.T @ rest / len(x)
    torch.testing.assert_close(c.trace(), sample.trace(), rtol=1e-4, atol=0)
    along = [torch.einsum("rd,de,re->r", rows, m, rows) for m in (c, sample)]
    torch.testing.assert_close(along[0], along[1], rtol=1e-4, atol=0)
    values, axes = torch.linalg.eigh(c)
    model = bands.power((axes * values.clamp_min(0).sqrt()).T)
    torch.testing.assert_close(model, bands.power(rest) / len(x), rtol=0.03, atol=0)


def test_components_are_sharp_although_the_projection_is_narrow():
    """27 directions of 432 values, half of the variance in a slow tail."""
    generator = torch.Generator().manual_seed(1)
    axes = torch.linalg.qr(torch.randn(432, 432, generator=generator))[0]
    values = 1 / (1 + torch.arange(432.0))
    x = torch.randn(500, 432, generator=generator) * values.sqrt() @ axes.T
    sample = torch.linalg.eigvalsh(x.double().T.cov(correction=0)).flip(0)
    prior = fit_gaussian(Given(0.1 * x.view(-1, 3, 12, 12)), 7, bands=0)
    found = prior.variances.double() + float(prior.std) ** 2
    torch.testing.assert_close(found, 0.01 * sample[:7], rtol=0.01, atol=0)


def test_the_fit_scores_held_out_images_best():
    """It beats its own white and mean-only versions, and the truth is as likely as expected."""
    x = images(800, seed=3)
    train, test = x[:600], x[600:]
    t = torch.tensor(0.0)
    scores = [
        float(fit_gaussian(Given(train), rank, bands).log_density(test, t).mean())
        for rank, bands in ((6, 3), (6, 0), (1, 0))
    ]
    assert scores[0] > scores[1] > scores[2]


def test_no_floor_is_below_the_rounding_of_8_bits():
    x = images(40, (1, 4, 4)) * torch.tensor([1.0, 0.0])[torch.arange(40) % 2, None, None, None]
    few = fit_gaussian(Given(x.mean(dim=(1, 2, 3), keepdim=True) * torch.ones(1, 4, 4)), 2)
    torch.testing.assert_close(few.std, torch.full_like(few.std, ROUNDING**0.5))


def test_images_that_are_all_alike_are_refused():
    with pytest.raises(FitError, match="given are all alike"):
        fit_gaussian(Given(torch.full((5, 1, 4, 4), 0.25)), 2)


# --- files


@pytest.fixture
def folder(tmp_path):
    """Ten pictures of several sizes, one damaged, one in a folder of its own."""
    root = tmp_path / "faces"
    (root / "more").mkdir(parents=True)
    for i, x in enumerate(images(10, (3, 8, 8))):
        pixels = ((x.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
        shown = Image.fromarray(np.repeat(pixels, 1 + i % 2, axis=0))
        shown.save(root / ("more" if i == 9 else ".") / f"{i}.png")
    (root / "3.png").write_bytes((root / "3.png").read_bytes()[:60])
    return root


def run(*words):
    fitting.main([str(word) for word in words])


def test_the_command_writes_a_prior_and_a_sheet(folder, tmp_path, capsys):
    out = tmp_path / "new" / "a.safetensors"
    run(folder, out, "--rank", 3, "--size", 8)
    said = capsys.readouterr().out
    assert said.startswith("skipped 3.png: ") and "9 images of 8 x 8; 3 components" in said
    prior = LowRankGaussian.load(out)
    assert prior.shape == (3, 8, 8) and prior.rank == 3 and prior.std.shape == (3, 16)
    card = prior.card
    assert (card["source"], card["count"], card["skipped"]) == ("faces", 9, 1)
    assert (card["rank"], card["size"], card["channels"]) == (3, 8, 3)
    assert 0 < card["explained_variance"] < 1
    assert str(tmp_path) not in str(card)
    with Image.open(out.with_suffix(".png")) as sheet:
        assert sheet.size[0] > 1000
    assert [f.name for f in sorted(out.parent.iterdir())] == ["a.png", "a.safetensors"]


def test_folder_zip_and_stream_give_the_same_fit(folder, tmp_path, monkeypatch):
    shutil.make_archive(str(tmp_path / "faces"), "zip", folder)
    files = []
    for path, keep in ((folder, 1 << 20), (tmp_path / "faces.zip", 1 << 20), (folder, 0)):
        monkeypatch.setattr(pictures, "KEEP", keep)
        with Pictures(str(path), 8) as source:
            prior = fit_gaussian(source, 3)
        prior.card.pop("source")
        files.append(prior.to_bytes())
    assert files[0] == files[1] == files[2]


def test_pictures_are_read_as_they_are(folder):
    with Pictures(str(folder), 8) as source:
        x = torch.cat(list(source.batches("")))
        assert set(source.skipped) == {"3.png"} and len(x) == 9
        with Image.open(folder / "0.png") as image:
            want = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1
    assert torch.equal(x[0].view(3, 8, 8), want)


def test_an_image_that_vanishes_between_passes_is_named(folder, monkeypatch):
    monkeypatch.setattr(pictures, "KEEP", 0)
    with Pictures(str(folder), 8) as source:
        list(source.batches(""))
        (folder / "5.png").unlink()
        with pytest.raises(FitError, match=r"5\.png was read once and cannot be read again"):
            list(source.batches(""))


def test_grey_images_have_one_channel(folder, tmp_path, capsys):
    out, sheet = tmp_path / "a.safetensors", tmp_path / "look.png"
    run(folder, out, "--rank", 2, "--size", 8, "--grey", "--bands", 0, "--sheet", sheet)
    assert str(sheet) in capsys.readouterr().out
    prior = LowRankGaussian.load(out)
    assert prior.shape == (1, 8, 8) and prior.std.ndim == 0 and sheet.is_file()


def refused(capsys, *words):
    with pytest.raises(SystemExit) as end:
        run(*words)
    out, err = capsys.readouterr()
    assert end.value.code == 1 and out == ""
    assert err.startswith("plugip-fit-gaussian: ") and err.count("\n") == 1
    return err


def test_what_cannot_be_fitted_is_explained(folder, tmp_path, capsys):
    out = tmp_path / "a.safetensors"
    assert "must end in .safetensors" in refused(capsys, folder, tmp_path / "a.pt")
    (tmp_path / "b.safetensors").mkdir()
    assert "is a folder" in refused(capsys, folder, tmp_path / "b.safetensors")
    assert "--sheet" in refused(capsys, folder, out, "--sheet", tmp_path / "a.jpg")
    assert "nothing does not exist" in refused(capsys, tmp_path / "nothing", out)
    assert "rank must lie in [1, 9]" in refused(capsys, folder, out, "--rank", 10)
    assert "got 9 for 9 images" in refused(capsys, folder, out, "--rank", 9, "--size", 8)
    assert "bands must lie in [0, 64]" in refused(
        capsys, folder, out, "--rank", 2, "--size", 8, "--bands", 65
    )
    assert "--size must be" in refused(capsys, folder, out, "--size", 0)
    assert "--limit must be" in refused(capsys, folder, out, "--limit", 0)
    (tmp_path / "file").write_text("")
    assert "choose another OUT" in refused(capsys, folder, tmp_path / "file" / "a.safetensors")
    assert not out.exists()


def test_a_folder_of_damaged_images_is_refused_by_name(folder, tmp_path, capsys):
    for name in ("0.png", "1.png", "2.png"):
        (folder / name).write_bytes(b"no picture")
    said = refused(capsys, folder, tmp_path / "a.safetensors", "--rank", 2, "--limit", 3)
    assert "no image of faces can be read; 0.png: " in said


def test_a_zip_is_read_without_unpacking(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (255, 0, 0)).save(buffer, "PNG")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x/red.png", buffer.getvalue())
        archive.writestr("__MACOSX/x/red.png", b"shadow")
    before = sorted(tmp_path.iterdir())
    with Pictures(str(tmp_path / "a.zip"), 8) as source:
        (x,) = source.batches("")
    assert source.names == ["x/red.png"] and sorted(tmp_path.iterdir()) == before
    assert x.view(3, 64)[:, 0].tolist() == [1.0, -1.0, -1.0]
