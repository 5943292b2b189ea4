"""Stable Diffusion 3: equal to diffusers' flow sampler and pipeline, shifts, sizes, words."""

import inspect
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
from plugip.methods import DFlow, FMPlug
from plugip.noise import GaussianNoise
from plugip.operators import AveragePool
from plugip.path import FlowPath, Prediction, ShiftedFlowPath
from plugip.prior import as_flow
from plugip.priors import StableDiffusion3, WeightsError
from plugip.priors.autoencoder import Autoencoder
from plugip.priors.text import Text, save_texts
from plugip.problem import Problem
from plugip.reverse import Generator, reverse
from plugip.testing import check_prior

WIDTH, POOLED, LENGTH = 24, 16, 5
VAE = {"latent_channels": 4, "scaling_factor": 1.5, "shift_factor": 0.06}


def transformer(**changes: Any) -> Any:
    from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel

    config: dict[str, Any] = {
        "sample_size": 8,
        "patch_size": 2,
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 2,
        "attention_head_dim": 4,
        "num_attention_heads": 2,
        "joint_attention_dim": WIDTH,
        "caption_projection_dim": 8,
        "pooled_projection_dim": POOLED,
        "pos_embed_max_size": 6,
    }
    return made(SD3Transformer2DModel, **(config | changes))


def text(seed) -> Any:
    return Text(normal(LENGTH, WIDTH, seed=seed), normal(POOLED, seed=seed + 10))


def write(folder, **noise):
    transformer().save_pretrained(folder / "transformer")
    kl(**VAE).save_pretrained(folder / "vae")
    flow_euler(**noise).save_pretrained(folder / "scheduler")
    name_pipeline(folder, "StableDiffusion3Pipeline")
    save_texts(folder / "words.safetensors", text(1), text(2))
    return folder


@pytest.fixture(scope="module")
def sd3(tmp_path_factory):
    """A folder as that of Stable Diffusion 3, small and random, with embeddings in a file."""
    return write(tmp_path_factory.mktemp("sd3"))


def load(folder, **changes: Any) -> Any:
    return configured("sd3", folder, **({"text": str(folder / "words.safetensors")} | changes))


def guided(net, z, t, scale):
    """The velocity as diffusers' pipeline makes it, one batch for both prompts."""
    both = [text(2), text(1)]
    words = torch.stack([one.tokens for one in both]).repeat_interleave(len(z), 0)
    whole = torch.stack([one.pooled for one in both]).repeat_interleave(len(z), 0)
    made = net(torch.cat([z, z]), words, whole, t.expand(2 * len(z)), return_dict=False)[0]
    plain, told = made.chunk(2)
    return plain + scale * (told - plain)


def sampled(noise, z, scale):
    net = transformer()
    for t in noise.timesteps:
        z = noise.step(guided(net, z, t, scale), t, z, return_dict=False)[0]
    return z


# --- equal to diffusers


@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize("steps", [1, 3])
def test_equal_steps_of_t_are_the_shifted_sampler_s(sd3, steps, scale):
    prior, z, noise = load(sd3, guidance_scale=scale), normal(2, 4, 8, 8), flow_euler()
    noise.set_timesteps(sigmas=torch.linspace(1, 1 / steps, steps).tolist())
    with torch.no_grad():
        want = sampled(noise, z, scale)
        close(Generator(steps=steps)(prior, z), kl(**VAE).decode(want / 1.5 + 0.06).sample)
        close(reverse(prior, z, Generator(steps=steps).times(prior.path)), want)
    assert prior.prediction is Prediction.VELOCITY


def test_the_sampler_s_own_times(sd3):
    prior, z, noise = load(sd3, guidance_scale=4.0), normal(2, 4, 8, 8), flow_euler()
    noise.set_timesteps(4)
    with torch.no_grad():
        close(reverse(prior, z, prior.path.time_of(noise.sigmas.double())), sampled(noise, z, 4.0))


@pytest.mark.parametrize(("settings", "path"), [({"shift": 1.0}, FlowPath()), ({}, None)])
def test_the_shift_is_the_scheduler_s_unless_it_is_given(tmp_path, settings, path):
    assert load(write(tmp_path, **settings)).path == (path or ShiftedFlowPath(3.0))
    assert load(tmp_path, shift=4.0).path == ShiftedFlowPath(4.0)
    assert load(tmp_path, shift=1.0).path == FlowPath()


@pytest.mark.parametrize("kind", ["exponential", "linear"])
@pytest.mark.parametrize("size", [16, 24])
def test_dynamic_shifts_grow_with_the_image(tmp_path, size, kind):
    spread = {"base_shift": 0.7, "max_shift": 1.4, "base_image_seq_len": 8}
    spread |= {"max_image_seq_len": 40}
    noise = flow_euler(use_dynamic_shifting=True, time_shift_type=kind, **spread)
    write(tmp_path)
    noise.save_pretrained(tmp_path / "scheduler")
    path = load(tmp_path, image_size=size).path
    mu = 0.7 + (1.4 - 0.7) * ((size // 4) ** 2 - 8) / (40 - 8)
    noise.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25], mu=mu)
    got = path.sigma(torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0], dtype=torch.float64))
    close(got.float(), noise.sigmas, 1e-6)


# --- costs and rules


@pytest.mark.parametrize(("scale", "cost"), [(1.0, 1), (4.0, 2)])
def test_checks_and_costs(sd3, scale, cost):
    prior = load(sd3, guidance_scale=scale)
    assert prior.nfe_per_call == cost
    check_prior(prior, denoises=False).require()


@pytest.mark.parametrize("method", [FMPlug(6, Generator(2)), DFlow(6, Generator(2))])
def test_warm_starts_solve_in_the_latent(sd3, method):
    """The guide is encoded, mixed with the seed, and decoded; the misfit falls."""
    prior = load(sd3).double()
    x = 0.3 * normal(1, *prior.image_shape).double()
    y, noise = AveragePool(2)(x), GaussianNoise(0.05)
    losses = solve(Problem(y, AveragePool(2), noise, prior), method).trace[0].loss
    assert losses[-1] < 0.9 * losses[0]


def test_gradients_reach_the_seed_through_the_decoder(sd3):
    check_gradient(load(sd3, guidance_scale=3.0), torch.linspace(1, 0, 4).double())


def test_sizes(sd3):
    assert load(sd3).image_shape == (3, 16, 16)
    prior = load(sd3, image_size=24)
    assert (prior.shape, prior.image_shape) == ((4, 12, 12), (3, 24, 24))
    assert prior(normal(1, 4, 12, 12), torch.tensor(0.5)).shape == (1, 4, 12, 12)
    with pytest.raises(ValueError, match="multiple of 4, got 18"):
        load(sd3, image_size=18)
    with pytest.raises(ValueError, match=r"at most 24, .* got 32"):
        load(sd3, image_size=32)


def test_as_a_plain_flow_it_makes_equal_steps_of_the_noise_level(sd3):
    prior, z = load(sd3, guidance_scale=4.0), normal(1, 4, 8, 8)
    flow, times = as_flow(prior), torch.linspace(1, 0, 4, dtype=torch.float64)
    with torch.no_grad():
        close(reverse(flow, z, times), reverse(prior, z, prior.path.time_of(times)))
    assert flow.counter.nfe == 2 * 3  # guidance costs the same on every path


def test_the_config_lists_every_argument():
    keys = set(inspect.signature(StableDiffusion3.from_pretrained).parameters)
    assert config_keys("sd3") == keys


# --- words


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """diffusers' own pipeline with two small CLIPs and a small T5, saved to ``folder``."""
    folder = tmp_path_factory.mktemp("pipeline")
    clips = [
        clip_folder(folder / f"words{i}", "CLIPTextModelWithProjection", width, POOLED // 2)
        for i, width in enumerate((8, 12))
    ]
    tokenizer_3, text_encoder_3 = t5_folder(folder / "words2", WIDTH)
    pipeline = pipeline_of("StableDiffusion3Pipeline")(
        transformer=transformer(),
        scheduler=flow_euler(),
        vae=kl(**VAE),
        tokenizer=clips[0][0],
        text_encoder=clips[0][1],
        tokenizer_2=clips[1][0],
        text_encoder_2=clips[1][1],
        tokenizer_3=tokenizer_3,
        text_encoder_3=text_encoder_3,
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(folder / "sd3")
    return pipeline, text_encoder_3, folder / "sd3"


WORDS = {"prompt": "a cat", "negative_prompt": "a dog", "guidance_scale": 4.0}


@needs_transformers
@pytest.mark.parametrize("t5", [True, False])
def test_words_are_those_of_diffusers_pipeline(pipeline, t5):
    (pipe, encoder, folder), z = pipeline, normal(1, 4, 8, 8)
    pipe.register_modules(text_encoder_3=encoder if t5 else None)
    want = pipe(
        latents=z,
        height=16,
        width=16,
        num_inference_steps=3,
        output_type="latent",
        max_sequence_length=20,
        **WORDS,
    )
    prior = configured("sd3", folder, t5=t5, text_length=20, **WORDS)
    with torch.no_grad():
        times = prior.path.time_of(pipe.scheduler.sigmas.double())
        close(reverse(prior, z, times), want.images)


@needs_transformers
def test_long_prompts_are_read_by_t5_alone(pipeline):
    folder, prompt = pipeline[2], "cat, " * 30
    configured("sd3", folder, prompt=prompt, text_length=80)
    for settings in ({"t5": False}, {"text_length": 20}):
        with pytest.raises(ValueError, match=r"the prompt has .* tokens"):
            configured("sd3", folder, prompt=prompt, **settings)


# --- what does not fit


def test_embeddings_of_another_model_are_refused():
    around = Autoencoder(kl(**VAE))
    for told in (Text(normal(LENGTH, WIDTH)), Text(normal(LENGTH, 8), normal(POOLED))):
        with pytest.raises(ValueError, match="reads text vectors of length 24 and a pooled one"):
            StableDiffusion3(transformer(), around, told)


@pytest.mark.parametrize("part", ["transformer", "vae", "scheduler"])
def test_missing_parts_are_named(tmp_path, sd3, part):
    folder = shutil.copytree(sd3, tmp_path / "part")
    shutil.rmtree(folder / part)
    with pytest.raises(ValueError, match=part):
        load(folder)


def test_schedulers_of_another_kind_are_refused(tmp_path, sd3):
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    folder = shutil.copytree(sd3, tmp_path / "other")
    DDIMScheduler().save_pretrained(folder / "scheduler")
    with pytest.raises(ValueError, match="has a DDIMScheduler; this network needs a FlowMatch"):
        load(folder)
    flow_euler(invert_sigmas=True).save_pretrained(folder / "scheduler")
    with pytest.raises(ValueError, match="invert_sigmas, a flow whose time runs from noise"):
        load(folder)


def test_text_encoders_are_asked_for_by_name(sd3):
    with pytest.raises(WeightsError, match=r"text_encoder lacks config\.json or model"):
        configured("sd3", sd3)
