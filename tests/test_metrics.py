"""Metrics: known answers, agreement with scikit-image, one score per image, honest absence."""

import hashlib
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from plugip import metrics
from plugip.metrics import LPIPS, PSNR, SSIM, MetricUnavailableError, psnr, to_unit

skimage_metrics = pytest.importorskip("skimage.metrics")


def pair(height: int = 64, width: int = 64, batch: int = 1, channels: int = 3, noise=0.1):
    """Smooth images and noisy versions of them, in [0, 1]."""
    generator = torch.Generator().manual_seed(height + width)
    coarse = torch.rand(batch, channels, 8, 8, generator=generator)
    x = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    x_hat = x + noise * torch.randn(x.shape, generator=generator)
    return x_hat.clamp(0, 1), x


def skimage_ssim(x_hat: Tensor, x: Tensor, **options) -> float:
    a, b = (image[0].permute(1, 2, 0).double().numpy() for image in (x_hat, x))
    return skimage_metrics.structural_similarity(a, b, data_range=1.0, channel_axis=2, **options)


GAUSSIAN = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}


def test_psnr_of_a_constant_error_is_known():
    x = torch.full((2, 3, 8, 8), 0.5)
    x_hat = x + torch.tensor([0.1, 0.01]).view(2, 1, 1, 1)
    torch.testing.assert_close(psnr(x_hat, x), torch.tensor([20.0, 40.0]), atol=1e-3, rtol=0)


def test_psnr_of_identical_images_is_infinite():
    x = pair()[1]
    assert psnr(x, x).item() == math.inf


def test_psnr_agrees_with_skimage():
    x_hat, x = pair(63, 50)
    expected = skimage_metrics.peak_signal_noise_ratio(x.numpy(), x_hat.numpy(), data_range=1.0)
    assert PSNR()(x_hat, x).item() == pytest.approx(expected, abs=1e-4)


# 512 is the trap: piq halves such images unless told not to, and the score doubles.
@pytest.mark.parametrize("size", [(64, 64), (37, 51), (11, 11), (512, 512)])
@pytest.mark.parametrize("window, options", [("gaussian", GAUSSIAN), ("uniform", {})])
def test_ssim_agrees_with_skimage(size, window, options):
    x_hat, x = pair(*size)
    expected = skimage_ssim(x_hat, x, **options)
    assert SSIM(window)(x_hat, x).item() == pytest.approx(expected, abs=2e-5)


def test_ssim_does_not_downsample_large_images():
    import piq

    x_hat, x = pair(512, 512)
    halved = torch.as_tensor(piq.ssim(x_hat, x, reduction="none")).item()
    assert halved - SSIM()(x_hat, x).item() > 0.1


@pytest.mark.parametrize("window", ["gaussian", "uniform"])
def test_ssim_of_identical_images_is_one(window):
    x = pair()[1]
    assert SSIM(window)(x, x).item() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("metric", [PSNR(), SSIM(), SSIM("uniform")])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_batch_scores_as_its_images_alone(metric, channels):
    x_hat, x = pair(batch=4, channels=channels)
    x_hat[1] = x[1] * 0.9
    alone = torch.cat([metric(x_hat[i : i + 1], x[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(metric(x_hat, x), alone, atol=1e-5, rtol=0)
    assert metric(x_hat, x).shape == (4,)


@pytest.mark.parametrize("metric", [PSNR(), SSIM(), SSIM("uniform")])
def test_nan_stays_in_its_image(metric):
    x_hat, x = pair(batch=2)
    expected = metric(x_hat, x)[1]
    x_hat[0, 0, 3, 3] = torch.nan
    scores = metric(x_hat, x)
    assert scores[0].isnan()
    torch.testing.assert_close(scores[1], expected)


@pytest.mark.parametrize("metric", [PSNR(), SSIM(), SSIM("uniform")])
def test_metrics_leave_gradients_to_the_caller(metric):
    x_hat, x = pair()
    metric(x_hat.requires_grad_(), x).sum().backward()
    assert x_hat.grad is not None and x_hat.grad.abs().sum() > 0


def test_half_precision_is_scored_in_single():
    x_hat, x = pair()
    assert PSNR()(x_hat.half(), x).dtype == torch.float32


@pytest.mark.parametrize("metric", [PSNR(), SSIM(), LPIPS()])
def test_bad_input_is_named(metric):
    x_hat, x = pair()
    with pytest.raises(ValueError, match=r"\(1, 3, 64, 64\) and \(1, 3, 64, 63\)"):
        metric(x_hat, x[..., 1:])
    with pytest.raises(ValueError, match=r"\(B, C, H, W\), got \(3, 64, 64\)"):
        metric(x_hat[0], x[0])
    with pytest.raises(ValueError, match=r"x_hat must lie in \[0, 1\].*from -1 to 1"):
        metric(x_hat.gt(0.5) * 2.0 - 1, x)
    with pytest.raises(ValueError, match=r"x must be floating point.*uint8"):
        metric(x_hat, (x * 255).byte())


def test_values_within_the_tolerance_pass():
    x_hat, x = pair()
    assert SSIM()(x_hat, x + 5e-7).isfinite().all()


@pytest.mark.parametrize("window, size", [("gaussian", 11), ("uniform", 7)])
def test_ssim_names_the_size_that_is_too_small(window, size):
    x = torch.rand(1, 3, 32, size - 1)
    with pytest.raises(ValueError, match=rf"at least {size}x{size} pixels, got 32x{size - 1}"):
        SSIM(window)(x, x)


def test_unknown_choices_list_the_options():
    with pytest.raises(ValueError, match="gaussian, uniform; got 'box'"):
        SSIM("box")
    with pytest.raises(ValueError, match="alex, vgg, squeeze; got 'resnet'"):
        LPIPS("resnet")


def test_names_are_distinct_and_conventions_are_sentences():
    every = [PSNR(), SSIM(), SSIM("uniform"), LPIPS(), LPIPS("vgg")]
    assert [metric.name for metric in every] == [
        "psnr", "ssim", "ssim_uniform", "lpips_alex", "lpips_vgg",
    ]  # fmt: skip
    assert all(metric.convention.endswith(".") for metric in every)
    assert all(metric.unavailable() is None for metric in every[:3])


def test_to_unit_clamps():
    x = torch.tensor([-2.0, -1.0, 0.0, 1.0, 3.0])
    torch.testing.assert_close(to_unit(x), torch.tensor([0, 0, 0.5, 1, 1]))


@pytest.fixture
def backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A random AlexNet whose file name carries its true hash, declared to be the right one."""
    import torchvision

    with torch.random.fork_rng():
        torch.manual_seed(0)
        features = torchvision.models.alexnet(weights=None).features.state_dict()
    draft = tmp_path / "draft.pth"
    torch.save({f"features.{name}": value for name, value in features.items()}, draft)
    name = f"alexnet-{hashlib.sha256(draft.read_bytes()).hexdigest()[:8]}.pth"
    monkeypatch.setitem(metrics._BACKBONES, "alex", (name, 31))
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return draft.rename(tmp_path / "checkpoints" / name)


def reference_lpips(backbone: Path, x_hat: Tensor, x: Tensor) -> Tensor:
    """The package with its slices filled by hand."""
    import warnings

    import lpips

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    state = torch.load(backbone, weights_only=True)
    for k in range(1, 6):
        for index, layer in getattr(model.net, f"slice{k}").named_children():
            if hasattr(layer, "weight"):
                layer.weight.data = state[f"features.{index}.weight"]
                layer.bias.data = state[f"features.{index}.bias"]
    return model(2 * x_hat - 1, 2 * x - 1).detach().flatten()


def test_lpips_uses_the_given_backbone_and_normalises(backbone):
    x_hat, x = pair(batch=2)
    random_state = torch.get_rng_state()
    scores = LPIPS()(x_hat, x)  # found in the checkpoint folder
    assert torch.equal(random_state, torch.get_rng_state())
    torch.testing.assert_close(scores, reference_lpips(backbone, x_hat, x))
    assert scores.shape == (2,) and (scores > 0).all() and not scores.requires_grad
    torch.testing.assert_close(LPIPS()(x_hat[1:], x[1:]), scores[1:])
    renamed = backbone.rename(backbone.parent / "mine.pth")
    torch.testing.assert_close(LPIPS(weights=str(renamed))(x_hat, x), scores)
    torch.testing.assert_close(LPIPS(weights=str(renamed))(x, x), torch.zeros(2))


def test_lpips_takes_grey_and_refuses_other_channels_and_small_images(backbone):
    x_hat, x = pair(channels=1)
    torch.testing.assert_close(
        LPIPS()(x_hat, x), LPIPS()(x_hat.repeat(1, 3, 1, 1), x.repeat(1, 3, 1, 1))
    )
    with pytest.raises(ValueError, match="1 or 3 channels, got 2"):
        LPIPS()(x_hat.repeat(1, 2, 1, 1), x.repeat(1, 2, 1, 1))
    with pytest.raises(ValueError, match="at least 31x31 pixels, got 30x64"):
        LPIPS()(x_hat[:, :, :30], x[:, :, :30])


def test_lpips_refuses_a_file_with_another_hash(backbone):
    backbone.write_bytes(backbone.read_bytes() + b"\0")
    with pytest.raises(MetricUnavailableError, match=r"is not torchvision's .*sha256"):
        LPIPS()(*pair())


def test_lpips_without_its_file_says_what_where_and_how(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    reason = LPIPS().unavailable()
    assert reason is not None and "\n" not in reason
    assert f"{tmp_path}/checkpoints/alexnet-owt-7be5be79.pth" in reason
    assert "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth" in reason
    with pytest.raises(MetricUnavailableError) as caught:
        LPIPS()(*pair())
    assert str(caught.value) == reason


def test_lpips_does_not_fall_back_from_a_given_path(backbone, tmp_path):
    reason = LPIPS(weights=str(tmp_path / "none.pth")).unavailable()
    assert reason is not None and f"is not at {tmp_path}/none.pth" in reason


def test_the_hub_file_names_are_torchvisions():
    from torchvision import models

    weights = {
        "alex": models.AlexNet_Weights, "vgg": models.VGG16_Weights,
        "squeeze": models.SqueezeNet1_1_Weights,
    }  # fmt: skip
    for net, choices in weights.items():
        assert choices.IMAGENET1K_V1.url.rpartition("/")[2] == metrics._BACKBONES[net][0]


def test_import_is_cheap():
    code = (
        "import sys, plugip.metrics, plugip.data; "
        "print([m for m in ('cv2', 'piq', 'lpips', 'torchvision') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
