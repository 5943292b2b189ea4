import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.fft import dctn

from plugip.building import build
from plugip.data import __file__ as ROOM
from plugip.operators.jpeg import JPEG, TO_YCC, quantisation_tables
from plugip.testing import check_operator

PHOTO = "assets/astronaut64.png"


@pytest.fixture(scope="module")
def photo():
    from pathlib import Path

    with Image.open(Path(ROOM).parent / PHOTO) as picture:
        return np.asarray(picture.convert("RGB"))


def as_image(photo):
    return torch.from_numpy(photo.copy()).permute(2, 0, 1)[None].double() / 127.5 - 1


@pytest.mark.parametrize("quality", [10, 50, 90])
def test_golden_soft_codec(tools, quality):
    case = tools.golden("jpeg")["cases"][f"kornia_q{quality}_16"]
    x = 0.45 * tools.hash_image(1, 3, 16, 16).float()  # 0.5 + 0.225 x_int on [0, 1]
    tools.case((JPEG(quality, "soft")(x) + 1) / 2, case, 1e-4)


@pytest.mark.parametrize("quality", [1, 10, 30, 50, 75, 90, 100])
def test_tables_and_pictures_are_libjpegs(tools, photo, quality):
    stream = io.BytesIO()
    Image.fromarray(photo).save(stream, "JPEG", quality=quality, subsampling="4:2:0")
    with Image.open(stream) as picture:
        tables = picture.quantization  # pyright: ignore[reportAttributeAccessIssue]
        pixels = np.asarray(picture).astype(float)
    ours = quantisation_tables(torch.tensor([float(quality)]))[0].reshape(3, 64)
    assert ours[0].tolist() == tables[0] and ours[1].tolist() == ours[2].tolist() == tables[1]
    y = (JPEG(quality)(as_image(photo))[0].permute(1, 2, 0).numpy() + 1) * 127.5
    # libjpeg rounds pixels to 8 bits on the way, and interpolates colours a little otherwise.
    assert np.abs(y - pixels).mean() < 2 and np.abs(y - pixels).max() < (26 if quality > 1 else 50)


def test_coefficients_lie_on_the_lattice(tools, photo):
    y = (JPEG(30, "hard")(0.2 * as_image(photo)) + 1) * 127.5  # grey enough not to clip
    luma = torch.einsum("c,chw->hw", torch.tensor(TO_YCC[0]).double(), y[0]).numpy() - 128
    q = quantisation_tables(torch.tensor([30.0]))[0, 0].numpy()
    for row, column in ((0, 0), (16, 40), (56, 56)):
        block = np.asarray(dctn(luma[row : row + 8, column : column + 8], norm="ortho")) / q
        assert np.abs(block - np.round(block)).max() < 1e-3
    x = (0.2 * as_image(photo) + 1) * 127.5
    before = torch.einsum("c,chw->hw", torch.tensor(TO_YCC[0]).double(), x[0]).numpy() - 128
    error = np.asarray(dctn(before[:8, :8] - luma[:8, :8], norm="ortho"))
    assert bool((np.abs(error) <= q / 2 + 1e-3).all())


@pytest.mark.parametrize("shape", [(2, 3, 16, 16), (2, 3, 9, 20)])
def test_operator_checks(shape):
    for rounding in ("soft", "hard"):
        check_operator(JPEG(torch.tensor([20.0, 70.0]), rounding), shape).require()
    report = check_operator(JPEG(torch.tensor([20.0, 70.0])), shape)
    assert [c.name for c in report.checks if not c.ok] == ["gradient"]


def test_hard_forward_soft_backward(tools):
    x = (0.8 * tools.hash_image(2, 3, 16, 20)).requires_grad_()
    quality = torch.tensor([20.0, 70.0])
    ste, soft, hard = (JPEG(quality, r)(x) for r in ("ste", "soft", "hard"))
    tools.close(ste, hard, 0)
    w = tools.normal(*x.shape)
    by_ste, by_soft = (torch.autograd.grad((y * w).sum(), x)[0] for y in (ste, soft))
    tools.close(by_ste, by_soft, 1e-12)
    assert float(by_ste.abs().max()) > 0 and float((soft - hard).abs().max().detach()) > 1e-3
    with torch.no_grad():
        tools.close(JPEG(quality)(x), hard, 0)


def test_each_image_has_its_quality(tools):
    x = 0.8 * tools.hash_image(2, 3, 16, 16)
    A = JPEG(torch.tensor([20.0, 70.0]))
    for i, quality in enumerate((20, 70)):
        tools.close(A(x)[i : i + 1], JPEG(quality)(x[i : i + 1]), 1e-12)
        tools.close(A.select([i])(x[i : i + 1]), JPEG(quality)(x[i : i + 1]), 1e-12)


def test_better_quality_is_nearer(photo):
    x = as_image(photo)
    errors = [float((JPEG(q)(x) - x).square().mean()) for q in (5, 20, 50, 90, 100)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 1e-3
    for rounding in ("ste", "hard"):
        assert float(JPEG(10, rounding)(2 * x).abs().max()) <= 1


def test_config_round_trip(tools):
    node = {"_target_": "plugip.operators.jpeg.JPEG", "quality": 25, "rounding": "hard"}
    x = tools.hash_image(1, 3, 16, 16)
    tools.close(build(node)(x), JPEG(25)(x), 0)


def test_errors():
    for quality in (0, 101, float("nan"), torch.tensor([50.0, 0.5])):
        with pytest.raises(ValueError, match=r"quality must lie in \[1, 100\]"):
            JPEG(quality)
    with pytest.raises(ValueError, match=r"unknown rounding 'sfot'.*did you mean 'soft'"):
        JPEG(rounding="sfot")
    with pytest.raises(ValueError, match=r"takes RGB images.*got \(1, 1, 8, 8\).*x.expand"):
        JPEG()(torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match="2 qualities for a batch of 3 images"):
        JPEG(torch.tensor([10.0, 20.0]))(torch.zeros(3, 3, 8, 8))
