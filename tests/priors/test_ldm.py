"""Latent diffusion: equal to diffusers' pipeline, differentiable, probed, and of use to DMPlug."""

import inspect
import json
import shutil
from typing import Any

import pytest
import torch
from latents import (
    check_gradient,
    close,
    config_keys,
    configured,
    ddim,
    kl,
    name_pipeline,
    normal,
    tiny,
    vq,
)
from nets import GaussianVelocity, make_unet
from torch import nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from plugip.loop import solve
from plugip.methods import DMPlug
from plugip.noise import GaussianNoise
from plugip.operators.downsample import BicubicDownsample
from plugip.path import DiscretePath, FlowPath, Prediction
from plugip.prior import probe_signal
from plugip.priors import DiffusersUNet, LatentDiffusion, ProbeError, WeightsError
from plugip.priors.autoencoder import Autoencoder
from plugip.priors.latent import LatentPrior
from plugip.priors.probe import probe
from plugip.problem import Problem
from plugip.reverse import Generator, reverse
from plugip.testing import check_prior

BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.0015, "beta_end": 0.0195}


def scheduler(**changes: Any) -> Any:
    return ddim(**(BETAS | changes))


def write(folder, autoencoder, unet=None, part="vqvae", **noise):
    unet = make_unet(in_channels=3) if unet is None else unet
    unet.save_pretrained(folder / "unet")
    autoencoder.save_pretrained(folder / part)
    scheduler(**noise).save_pretrained(folder / "scheduler")
    name_pipeline(folder, "LDMPipeline")
    return folder


@pytest.fixture(scope="module")
def celeba(tmp_path_factory):
    """A folder as that of CompVis/ldm-celebahq-256, small and random."""
    return write(tmp_path_factory.mktemp("ldm"), vq())


def sampled(unet, noise, z, steps=3):
    """diffusers' own sampler, without its pipeline: that one is under no_grad and deprecated."""
    noise.set_timesteps(steps)
    for t in noise.timesteps:
        z = noise.step(unet(z, t).sample, int(t), z, return_dict=False)[0]
    return z


# --- equal to diffusers


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_the_reverse_process_and_the_decoder_are_the_pipeline_s(tmp_path, kind):
    unet, around = make_unet(in_channels=3), vq()
    folder = write(tmp_path, around, unet, prediction_type=kind)
    prior, z = configured("ldm", folder, quantise=True), normal(2, 3, 8, 8)
    with torch.no_grad():
        h = sampled(unet, scheduler(prediction_type=kind), z)
        close(reverse(prior, z, Generator(grid="leading").times(prior.path)), h)
        close(Generator(grid="leading")(prior, z), around.decode(h / 0.7).sample)


def test_without_the_codebook_the_decoder_is_smooth(celeba):
    prior, h = configured("ldm", celeba), normal(2, 3, 8, 8)
    with torch.no_grad():
        want = vq().decode(h / 0.7, force_not_quantize=True).sample
        close(prior.decode(h), want)
        assert float((want - vq().decode(h / 0.7).sample).abs().max()) > 1e-3


def test_the_encoder_gives_the_mean_and_the_range_of_an_image_is_signed(celeba):
    prior, x = configured("ldm", celeba), normal(2, 3, 16, 16)
    assert (prior.shape, prior.image_shape, prior.value_range) == ((3, 8, 8), (3, 16, 16), None)
    with torch.no_grad():
        close(prior.encode(x), vq().encode(x).latents * 0.7)


@pytest.mark.parametrize("shift", [None, 0.3])
def test_kl_autoencoders_are_scaled_shifted_and_deterministic(tmp_path, shift):
    around = kl(scaling_factor=0.5, shift_factor=shift)
    folder = write(tmp_path, around, make_unet(in_channels=4, out_channels=4), part="vae")
    prior, x, h = configured("ldm", folder), normal(2, 3, 16, 16), normal(2, 4, 8, 8)
    with torch.no_grad():
        close(prior.decode(h), around.decode(h / 0.5 + (shift or 0)).sample)
        close(prior.encode(x), (around.encode(x).latent_dist.mean - (shift or 0)) * 0.5)


def test_a_tiny_autoencoder_stands_in_for_the_large_one(tmp_path):
    folder = write(tmp_path / "ldm", kl(), make_unet(in_channels=4, out_channels=4), part="vae")
    tiny().save_pretrained(tmp_path / "tiny")
    prior, h = configured("ldm", folder, autoencoder=str(tmp_path / "tiny")), normal(2, 4, 8, 8)
    assert prior.image_shape == (3, 16, 16)
    with torch.no_grad():
        close(prior.decode(h), tiny().decode(h).sample)
        x = normal(2, 3, 16, 16).clamp(-1, 1)
        close(prior.encode(x), tiny().encode(x).latents)


def test_learned_variances_are_dropped(tmp_path):
    unet = make_unet(in_channels=3, out_channels=6)
    prior = configured("ldm", write(tmp_path, vq(), unet))
    x_t, t = normal(2, 3, 8, 8), torch.tensor(0.5)
    close(prior.output(x_t, t), unet(x_t, 499).sample[:, :3])


# --- rules


def test_checks(celeba):
    check_prior(configured("ldm", celeba), denoises=False).require()


def test_gradients_reach_the_seed_through_the_decoder(celeba):
    check_gradient(configured("ldm", celeba), torch.linspace(1, 0, 4).double())


def test_super_resolution_with_dmplug(celeba):
    prior = configured("ldm", celeba)
    generator, operator = Generator(steps=2), BicubicDownsample(2)
    with torch.no_grad():
        y = operator(generator(prior, normal(2, 3, 8, 8, seed=1)))
    problem = Problem(y, operator, GaussianNoise(0.01), prior)
    solution = solve(problem, DMPlug(iterations=12, generator=generator))
    assert solution.x_hat.shape == (2, 3, 16, 16)
    for trace in solution.trace:
        assert trace.residual[-1] < 0.5 * trace.residual[0]
    assert solution.nfe == solution.vjps


# --- a trained network, its pixels laid out as latents


class Blocks(nn.Module):
    """An exact autoencoder in diffusers' manner: 2 x 2 blocks of pixels are one latent."""

    class config:  # noqa: N801
        latent_channels, scaling_factor, shift_factor = 12, 0.5, 0.1

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def encode(self, x, return_dict):
        return (pixel_unshuffle(x, 2) * 2 + 0.1,)

    def decode(self, latent, return_dict):
        return (pixel_shuffle((latent - 0.1) / 2, 2),)


def hidden_faces(faces, prediction=Prediction.VELOCITY):
    return LatentDiffusion(faces.net, Autoencoder(Blocks()), FlowPath(), prediction)


def test_a_pixel_prior_in_disguise_gives_the_same_images(faces):
    prior, z = hidden_faces(faces), normal(1, 12, 32, 32)
    assert prior.image_shape == (3, 64, 64)
    with torch.no_grad():
        close(Generator()(prior, z), faces.decode(reverse(faces, z, torch.linspace(1, 0, 4))))
    faces.counter.nfe = 0


def test_the_probe_knows_trained_latents_from_wrong_predictions_and_random_weights(faces, celeba):
    probe(hidden_faces(faces))
    with pytest.raises(ProbeError, match="it passes with prediction=velocity"):
        probe(hidden_faces(faces, Prediction.EPS))
    with pytest.raises(ProbeError, match="not the weights of a trained denoiser"):
        configured("ldm", celeba, probe=True)


class Exact(LatentPrior):
    """Gaussian latents around those of a known picture: the answers are exact."""

    def __init__(self, autoencoder):
        mean = autoencoder.encode(probe_signal((3, 8, 8)))[0]
        network = GaussianVelocity(mean, 0.3, 0.0, 1.0)
        super().__init__(network, autoencoder, FlowPath(), Prediction.VELOCITY, (12, 4, 4))

    def output(self, x_t, t):
        return self.network(x_t, t.expand(len(x_t)))


class Lossy(Autoencoder):
    def decode(self, h):
        return super().decode(h) * 0.8


def test_an_exact_latent_prior_passes_all_checks():
    check_prior(Exact(Autoencoder(Blocks()))).require()


def test_an_autoencoder_that_loses_the_picture_fails_the_checks():
    with pytest.raises(AssertionError, match="FAIL  encode, then decode"):
        check_prior(Exact(Lossy(Blocks()))).require()


# --- folders and errors


def test_settings_are_read_from_the_folder(celeba):
    prior = configured("ldm", celeba)
    assert isinstance(prior.path, DiscretePath)
    want = scheduler().alphas_cumprod
    torch.testing.assert_close(prior.path.table[1:].float(), want, rtol=1e-6, atol=0)
    assert prior.prediction is Prediction.EPS
    assert {w.dtype for w in prior.parameters()} == {torch.float32}
    assert config_keys("ldm") == set(inspect.signature(LatentDiffusion.from_pretrained).parameters)


def test_weights_in_several_files(tmp_path, celeba):
    folder = shutil.copytree(celeba, tmp_path / "split")
    (folder / "unet/diffusion_pytorch_model.safetensors").unlink()
    make_unet(in_channels=3).save_pretrained(folder / "unet", max_shard_size="20KB")
    parts = sorted((folder / "unet").glob("*-of-*"))
    assert len(parts) > 1
    whole = configured("ldm", celeba).network.state_dict()
    for name, value in configured("ldm", folder).network.state_dict().items():
        assert torch.equal(value, whole[name])
    parts[0].unlink()
    with pytest.raises(WeightsError, match=r"00001-of-.* is missing, which .*index.json lists"):
        configured("ldm", folder)


@pytest.mark.parametrize("missing", ["vqvae", "unet", "scheduler"])
def test_missing_parts_are_named(tmp_path, celeba, missing):
    folder = shutil.copytree(celeba, tmp_path / "part")
    shutil.rmtree(folder / missing)
    with pytest.raises(ValueError, match=missing):
        configured("ldm", folder)


def test_a_scale_that_is_declared_nowhere_is_asked_for(tmp_path, celeba):
    folder = shutil.copytree(celeba, tmp_path / "old")
    config = json.loads((folder / "vqvae/config.json").read_text())
    del config["scaling_factor"]
    (folder / "vqvae/config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"give scaling_factor=\.\.\., 1 for latents"):
        configured("ldm", folder)
    assert configured("ldm", folder, scaling_factor=1.0).autoencoder.scale == 1


def test_a_latent_folder_is_no_pixel_prior(tmp_path, celeba):
    with pytest.raises(ValueError, match="LDMPipeline, not one for diffusers; take prior=ldm"):
        DiffusersUNet.from_pretrained(str(celeba))
    folder = shutil.copytree(celeba, tmp_path / "unnamed")
    (folder / "model_index.json").unlink()
    with pytest.raises(ValueError, match="so its network denoises latents, not images"):
        DiffusersUNet.from_pretrained(str(folder))


@pytest.mark.parametrize("name", ["DDPM", "DDIM"])
def test_folders_of_pixel_pipelines_are_read_by_the_pixel_prior(tmp_path, name):
    import diffusers

    pipeline, noise = (getattr(diffusers, f"{name}{end}") for end in ("Pipeline", "Scheduler"))
    unet = make_unet()
    pipeline(unet, noise(prediction_type="v_prediction")).save_pretrained(tmp_path)
    prior = configured("diffusers", tmp_path)
    assert prior.prediction is Prediction.V
    z, known = normal(1, 3, 8, 8), scheduler(prediction_type="v_prediction", **LINEAR)
    with torch.no_grad():
        close(Generator(grid="leading")(prior, z), sampled(unet, known, z))
    with pytest.raises(ValueError, match=f"{name}Pipeline, not one for ldm; take prior=diffusers"):
        configured("ldm", tmp_path)


LINEAR = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}


@pytest.mark.parametrize(
    ("network", "settings", "words"),
    [
        (lambda: kl(), {"quantise": True}, "no codebook"),
        (lambda: kl(latents_mean=[0.1] * 4), {}, "latents_mean"),
        (lambda: vq(lookup_from_codebook=True), {}, "lookup_from_codebook"),
    ],
)
def test_autoencoders_that_cannot_be_read(network, settings, words):
    with pytest.raises(ValueError, match=words):
        Autoencoder(network(), **settings)


def test_an_autoencoder_of_other_latents_is_refused():
    with pytest.raises(ValueError, match="3 channels, the autoencoder makes 4"):
        LatentDiffusion(make_unet(), Autoencoder(kl()), FlowPath(), Prediction.EPS)
