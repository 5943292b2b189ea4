"""Flux: equal to diffusers' flow sampler and pipeline, its own guidance, packing, words."""

import inspect
import math
import shutil
from typing import Any

import pytest
import torch
from latents import (
    check_gradient,
    close,
    config_keys,
    configured,
    flow_euler,
    kl,
    made,
    name_pipeline,
    normal,
)
from texts import clip_folder, needs_transformers, pipeline_of, t5_folder

from plugip.loop import solve
from plugip.methods import DMPlug
from plugip.noise import GaussianNoise
from plugip.operators.downsample import BicubicDownsample
from plugip.path import FlowPath, Prediction, ShiftedFlowPath
from plugip.priors import Flux
from plugip.priors.autoencoder import Autoencoder
from plugip.priors.flux import pack, unpack
from plugip.priors.text import Text, save_texts
from plugip.problem import Problem
from plugip.reverse import Generator, reverse
from plugip.testing import check_prior

WIDTH, POOLED, LENGTH = 12, 8, 5
VAE = {"latent_channels": 4, "scaling_factor": 0.36, "shift_factor": 0.11}


def transformer(**changes: Any) -> Any:
    from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel

    config: dict[str, Any] = {
        "in_channels": 16,
        "num_layers": 1,
        "num_single_layers": 1,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "joint_attention_dim": WIDTH,
        "pooled_projection_dim": POOLED,
        "guidance_embeds": True,
        "axes_dims_rope": (2, 2, 4),
    }
    return made(FluxTransformer2DModel, **(config | changes))


def text() -> Any:
    return Text(normal(LENGTH, WIDTH, seed=1), normal(POOLED, seed=2))


def write(folder, dynamic=True, **network):
    transformer(**network).save_pretrained(folder / "transformer")
    kl(**VAE).save_pretrained(folder / "vae")
    flow_euler(use_dynamic_shifting=dynamic).save_pretrained(folder / "scheduler")
    name_pipeline(folder, "FluxPipeline")
    save_texts(folder / "words.safetensors", text())
    return folder


@pytest.fixture(scope="module")
def dev(tmp_path_factory):
    """A folder as that of FLUX.1-dev, small and random, with embeddings in a file."""
    return write(tmp_path_factory.mktemp("dev"))


def load(folder, **changes: Any) -> Any:
    words = {"text": str(folder / "words.safetensors"), "image_size": 16}
    return configured("flux", folder, **(words | changes))


def sampled(net, noise, z, strength):
    """diffusers' sampler on tokens: blocks of 2 x 2 latents, their positions, times over 1000."""
    batch, channels, height, width = z.shape
    quarters = [z[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)]
    tokens = torch.stack(quarters, 2).flatten(1, 2).flatten(2).mT
    rows = torch.arange(height // 2).repeat_interleave(width // 2)
    columns = torch.arange(width // 2).repeat(height // 2)
    for t in noise.timesteps:
        velocity = net(
            hidden_states=tokens,
            timestep=t.expand(batch) / 1000,
            guidance=None if strength is None else torch.full((batch,), strength),
            pooled_projections=text().pooled.expand(batch, -1),
            encoder_hidden_states=text().tokens.expand(batch, -1, -1),
            txt_ids=torch.zeros(LENGTH, 3),
            img_ids=torch.stack([0 * rows, rows, columns], -1).float(),
            return_dict=False,
        )[0]
        tokens = noise.step(velocity, t, tokens, return_dict=False)[0]
    made, quarters = z.clone(), tokens.mT.unflatten(1, (channels, 4))
    for i in (0, 1):
        for j in (0, 1):
            block = quarters[:, :, 2 * i + j]
            made[:, :, i::2, j::2] = block.unflatten(2, (height // 2, width // 2))
    return made


def times_of(steps):
    return [1 - i / steps for i in range(steps)]


# --- equal to diffusers


@pytest.mark.parametrize("size", [16, 24])
@pytest.mark.parametrize("strength", [None, 1.5])
def test_the_reverse_process_is_the_sampler_s(dev, strength, size):
    prior = load(dev, guidance_scale=strength, image_size=size)
    z, noise = normal(2, 4, size // 2, size // 2), flow_euler(use_dynamic_shifting=True)
    mu = 0.5 + (1.15 - 0.5) * ((size // 4) ** 2 - 256) / (4096 - 256)
    noise.set_timesteps(sigmas=times_of(3), mu=mu)
    with torch.no_grad():
        want = sampled(transformer(), noise, z, strength or 3.5)
        close(reverse(prior, z, Generator().times(prior.path)), want)
        close(Generator()(prior, z), kl(**VAE).decode(want / 0.36 + 0.11).sample)
    assert prior.path == ShiftedFlowPath(math.exp(mu))
    assert prior.prediction is Prediction.VELOCITY


def test_networks_without_guidance(tmp_path):
    folder = write(tmp_path, dynamic=False, guidance_embeds=False)
    prior, z, noise = load(folder, shift=1.0), normal(2, 4, 8, 8), flow_euler(shift=1.0)
    assert prior.path == FlowPath()
    noise.set_timesteps(sigmas=times_of(2))
    with torch.no_grad():
        net = transformer(guidance_embeds=False)
        close(
            reverse(prior, z, Generator(steps=2).times(prior.path)), sampled(net, noise, z, None)
        )
    assert load(folder).path == ShiftedFlowPath(3.0)
    with pytest.raises(ValueError, match="no input for a guidance scale"):
        load(folder, guidance_scale=3.5)


def test_tokens_are_blocks_of_latents():
    h = normal(2, 3, 4, 6)
    tokens = pack(h)
    assert tokens.shape == (2, 6, 12)
    # Token 4 lies in row 1 and column 1; channel 2, block row 1 and column 0 are its entry 10.
    assert torch.equal(tokens[:, 4, 10], h[:, 2, 3, 2])
    assert torch.equal(unpack(tokens, 4, 6), h)


# --- costs and rules


def test_checks_and_costs(dev):
    prior = load(dev)
    assert prior.nfe_per_call == 1
    check_prior(prior, denoises=False).require()


def test_gradients_reach_the_seed_through_the_decoder(dev):
    # Positions are rotated in float32, whatever the type of the weights.
    check_gradient(load(dev), torch.linspace(1, 0, 4).double(), step=1e-3)


def test_super_resolution_with_dmplug(dev):
    prior, operator, generator = load(dev), BicubicDownsample(2), Generator(steps=2)
    with torch.no_grad():
        y = operator(generator(prior, normal(1, 4, 8, 8, seed=1)))
    problem = Problem(y, operator, GaussianNoise(0.01), prior)
    solution = solve(problem, DMPlug(iterations=10, generator=generator))
    assert solution.trace[0].residual[-1] < 0.5 * solution.trace[0].residual[0]


def test_sizes(dev):
    assert load(dev).image_shape == (3, 16, 16)
    assert load(dev, image_size=20).shape == (4, 10, 10)
    with pytest.raises(ValueError, match="multiple of 4, got 18"):
        load(dev, image_size=18)


def test_the_config_lists_every_argument():
    assert config_keys("flux") == set(inspect.signature(Flux.from_pretrained).parameters)


# --- words


@needs_transformers
def test_words_are_those_of_diffusers_pipeline(tmp_path):
    tokenizer, encoder = clip_folder(tmp_path / "words", "CLIPTextModel", POOLED)
    tokenizer_2, text_encoder_2 = t5_folder(tmp_path / "words2", WIDTH)
    pipeline = pipeline_of("FluxPipeline")(
        transformer=transformer(),
        scheduler=flow_euler(use_dynamic_shifting=True),
        vae=kl(**VAE),
        tokenizer=tokenizer,
        text_encoder=encoder,
        tokenizer_2=tokenizer_2,
        text_encoder_2=text_encoder_2,
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(tmp_path / "flux")
    words, z = {"prompt": "a cat", "guidance_scale": 2.5}, normal(1, 4, 8, 8)
    want = pipeline(
        latents=pack(z),
        height=16,
        width=16,
        num_inference_steps=3,
        output_type="latent",
        max_sequence_length=20,
        **words,
    )
    prior = configured("flux", tmp_path / "flux", text_length=20, image_size=16, **words)
    with torch.no_grad():
        close(reverse(prior, z, Generator().times(prior.path)), unpack(want.images, 8, 8))


# --- what does not fit


@pytest.mark.parametrize(
    ("config", "settings", "words"),
    [
        ({"in_channels": 24, "out_channels": 16}, {}, "24 channels and returns 16"),
        ({"joint_attention_dim": 8}, {}, "text vectors of length 8"),
        ({}, {"guidance_scale": -1.0}, "0 or more, got -1"),
    ],
)
def test_unfit_networks_and_settings_are_refused(config, settings, words):
    around = Autoencoder(kl(**VAE))
    with pytest.raises(ValueError, match=words):
        Flux(transformer(**config), around, text(), image_size=16, **settings)


@pytest.mark.parametrize("part", ["transformer", "vae", "scheduler"])
def test_missing_parts_are_named(tmp_path, dev, part):
    folder = shutil.copytree(dev, tmp_path / "part")
    shutil.rmtree(folder / part)
    with pytest.raises(ValueError, match=part):
        load(folder)
