"""Stable Diffusion: equal to diffusers' sampler and pipeline, guidance counted, words encoded."""

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
    ddim,
    kl,
    made,
    name_pipeline,
    normal,
)
from texts import clip_folder, needs_transformers, pipeline_of

from plugip.path import DiscretePath, Prediction
from plugip.priors import ProbeError, StableDiffusion, WeightsError
from plugip.priors.autoencoder import Autoencoder
from plugip.priors.text import Text, save_texts
from plugip.priors.weights import find_folder
from plugip.reverse import Generator, reverse
from plugip.testing import check_prior

BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
LENGTH, WIDTH = 6, 8


def scheduler(kind="epsilon", **changes: Any) -> Any:
    return ddim(**(BETAS | {"prediction_type": kind} | changes))


def unet(**changes: Any) -> Any:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    config: dict[str, Any] = {
        "sample_size": 8,
        "block_out_channels": (4, 8),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
        "norm_num_groups": 2,
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 4,
    }
    return made(UNet2DConditionModel, **(config | changes))


def text(seed, width=WIDTH):
    return Text(normal(LENGTH, width, seed=seed))


def write(folder, noise):
    unet().save_pretrained(folder / "unet")
    kl(scaling_factor=0.5).save_pretrained(folder / "vae")
    noise.save_pretrained(folder / "scheduler")
    name_pipeline(folder, "StableDiffusionPipeline")
    save_texts(folder / "words.safetensors", text(1), text(2))
    save_texts(folder / "prompt.safetensors", text(1))
    return folder


@pytest.fixture(scope="module")
def sd(tmp_path_factory):
    """A folder as that of Stable Diffusion 1.5, small and random, with embeddings in a file."""
    return write(tmp_path_factory.mktemp("sd"), scheduler(steps_offset=1, set_alpha_to_one=False))


def load(folder, **changes: Any) -> Any:
    words = {"text": str(folder / "words.safetensors")}
    return configured("stable_diffusion", folder, **(words | changes))


def guided(net, z, t, scale):
    """The answer as diffusers' pipeline makes it, one batch for both prompts."""
    words = torch.stack([text(2).tokens, text(1).tokens]).repeat_interleave(len(z), 0)
    plain, told = net(torch.cat([z, z]), t, encoder_hidden_states=words).sample.chunk(2)
    return plain + scale * (told - plain)


# --- equal to diffusers


@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_the_reverse_process_is_the_scheduler_s(tmp_path, kind, scale):
    noise, z = scheduler(kind), normal(2, 4, 8, 8)
    prior = load(write(tmp_path, noise), guidance_scale=scale)
    net, want = unet(), z
    noise.set_timesteps(3)
    with torch.no_grad():
        for t in noise.timesteps:
            want = noise.step(guided(net, want, t, scale), int(t), want, return_dict=False)[0]
        close(reverse(prior, z, Generator(grid="leading").times(prior.path)), want)
        close(Generator(grid="leading")(prior, z), kl().decode(want / 0.5).sample)
    assert prior.prediction is Prediction(kind)


def test_stable_diffusion_s_own_times_end_at_its_first_level(sd):
    # steps_offset 1 and set_alpha_to_one=False, as every published checkpoint declares.
    prior, z = load(sd, guidance_scale=4.0), normal(1, 4, 8, 8)
    noise, want, net = scheduler(steps_offset=1, set_alpha_to_one=False), z, unet()
    noise.set_timesteps(4)
    times = torch.cat([noise.timesteps + 1, torch.ones(1)]).double() / 1000
    with torch.no_grad():
        for t in noise.timesteps:
            want = noise.step(guided(net, want, t, 4.0), int(t), want, return_dict=False)[0]
        close(reverse(prior, z, times), want)


def test_times_may_differ_from_image_to_image(sd):
    prior, x_t = load(sd, guidance_scale=4.0), normal(2, 4, 8, 8)
    t = torch.tensor([0.3, 0.9])
    alone = torch.cat([prior(x_t[i : i + 1], t[i]) for i in range(2)])
    close(prior(x_t, t), alone)


# --- costs and rules


@pytest.mark.parametrize(("scale", "cost"), [(1.0, 1), (0.0, 2), (7.5, 2)])
def test_guidance_is_one_call_and_two_evaluations(sd, scale, cost):
    prior, batches = load(sd, guidance_scale=scale), []
    prior.network.register_forward_hook(lambda net, given, made: batches.append(len(given[0])))
    z = normal(2, 4, 8, 8).requires_grad_()
    prior(z, torch.tensor(0.5)).sum().backward()
    assert batches == [2 * cost]
    assert (prior.counter.nfe, prior.counter.vjps) == (cost, cost)
    plain = prior.unguided()
    plain(z, torch.tensor(0.5))
    assert batches[1:] == [2]


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_checks(sd, scale):
    check_prior(load(sd, guidance_scale=scale), denoises=False).require()


def test_gradients_reach_the_seed_through_the_decoder(sd):
    check_gradient(load(sd, guidance_scale=3.0), torch.linspace(1, 0, 4).double())


def test_other_image_sizes(sd):
    assert load(sd).image_shape == (3, 16, 16)
    prior = load(sd, image_size=32)
    assert (prior.shape, prior.image_shape) == ((4, 16, 16), (3, 32, 32))
    assert prior(normal(1, 4, 16, 16), torch.tensor(0.5)).shape == (1, 4, 16, 16)
    with pytest.raises(ValueError, match="multiple of 2, got 33"):
        load(sd, image_size=33)


def test_half_precision_networks_keep_states_and_images_in_single(sd):
    prior = load(sd, dtype="bfloat16", guidance_scale=2.0)
    assert prior.network.dtype is torch.bfloat16
    z, t = normal(1, 4, 8, 8), torch.tensor(0.5)
    with torch.no_grad():
        x0 = prior(z, t)
        assert x0.dtype is prior.decode(x0).dtype is torch.float32
        close(x0, load(sd, guidance_scale=2.0)(z, t), 0.05)


def test_the_network_may_run_in_sixteen_bits_with_its_blocks_recomputed(sd):
    plain, z = load(sd, guidance_scale=2.0), normal(1, 4, 8, 8).requires_grad_()
    cheap = load(sd, guidance_scale=2.0, runtime={"precision": "bf16", "checkpoint": "blocks"})
    t, w = torch.tensor(0.3), normal(1, 4, 8, 8, seed=1)
    x0, same = plain(z, t), cheap(z, t)
    assert same.dtype is torch.float32
    close(same, x0, 0.05)
    want, got = (torch.autograd.grad((made * w).sum(), z)[0] for made in (x0, same))
    close(got, want, 0.05)


def test_settings_are_those_of_the_folder_and_the_config(sd):
    prior = load(sd)
    assert isinstance(prior.path, DiscretePath)
    assert prior.time_input(torch.tensor(0.5).double()).item() == 499
    keys = set(inspect.signature(StableDiffusion.from_pretrained).parameters)
    assert config_keys("stable_diffusion") == keys


def test_the_probe_looks_at_the_network_without_guidance(sd, monkeypatch):
    batches, answer = [], StableDiffusion.predict

    def predict(self, x_t, times, texts):
        batches.append(len(x_t))
        return answer(self, x_t, times, texts)

    monkeypatch.setattr(StableDiffusion, "predict", predict)
    with pytest.raises(ProbeError, match="not the weights of a trained denoiser"):
        load(sd, guidance_scale=3.0, probe=True)
    assert set(batches) <= {1, 3}  # pictures, and three noise levels: guidance would double them


# --- words


@needs_transformers
def test_words_are_those_of_diffusers_pipeline(tmp_path):
    tokenizer, encoder = clip_folder(tmp_path / "words", "CLIPTextModel", WIDTH)
    pipeline = pipeline_of("StableDiffusionPipeline")(
        vae=kl(),
        text_encoder=encoder,
        tokenizer=tokenizer,
        unet=unet(),
        scheduler=scheduler(steps_offset=1, set_alpha_to_one=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(tmp_path / "sd")
    words = {"prompt": "a cat", "negative_prompt": "a dog", "guidance_scale": 4.0}
    prior, z = configured("stable_diffusion", tmp_path / "sd", **words), normal(1, 4, 8, 8)
    want = pipeline(
        latents=z, height=16, width=16, num_inference_steps=3, output_type="latent", **words
    )
    times = torch.cat([pipeline.scheduler.timesteps + 1, torch.ones(1)]).double() / 1000
    with torch.no_grad():
        close(reverse(prior, z, times), want.images)
    assert not any("text" in name for name, _ in prior.named_parameters())


@needs_transformers
def test_prompts_that_are_too_long_and_encoders_that_are_missing(tmp_path, sd):
    folder = shutil.copytree(sd, tmp_path / "sd")
    with pytest.raises(WeightsError, match="text_encoder lacks config"):
        configured("stable_diffusion", folder)
    tokenizer, encoder = clip_folder(tmp_path / "words", "CLIPTextModel", WIDTH)
    encoder.save_pretrained(folder / "text_encoder")
    with pytest.raises(WeightsError, match=r"no folder .*tokenizer"):
        configured("stable_diffusion", folder)
    tokenizer.save_pretrained(folder / "tokenizer")
    configured("stable_diffusion", folder)
    with pytest.raises(ValueError, match=r"the prompt has .* tokens.*reads 16; shorten it"):
        configured("stable_diffusion", folder, prompt="a cat " * 20)


def test_without_transformers_prompts_are_refused_with_advice(sd, monkeypatch, tmp_path):
    import sys

    folder = shutil.copytree(sd, tmp_path / "sd")
    (folder / "text_encoder").mkdir()
    (folder / "text_encoder/config.json").write_text("{}")
    weights = folder / "text_encoder/model.safetensors"
    shutil.copy(folder / "vae/diffusion_pytorch_model.safetensors", weights)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r"pip install 'plugip\[text\]'"):
        configured("stable_diffusion", folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompt": "a cat"}, "not both"),
        ({"text": None, "negative_prompt": "a dog"}, "no effect with guidance_scale=1"),
        ({"text": None, "guidance_scale": 2.0}, "they are the same"),
        ({"guidance_scale": -1.0}, "0 or more, got -1"),
        ({"dtype": "float8"}, "unknown dtype 'float8'"),
    ],
)
def test_contradicting_words(sd, changes, words):
    with pytest.raises(ValueError, match=words):
        load(sd, **changes)


def test_guidance_needs_a_negative_prompt_in_the_file(sd):
    only = {"text": str(sd / "prompt.safetensors")}
    configured("stable_diffusion", sd, **only)
    with pytest.raises(ValueError, match=r"needs a negative prompt, and the file"):
        configured("stable_diffusion", sd, guidance_scale=2.0, **only)


def test_files_that_hold_no_embeddings(sd):
    file = sd / "vae/diffusion_pytorch_model.safetensors"
    with pytest.raises(WeightsError, match=r"no prompt\.tokens"):
        configured("stable_diffusion", sd, text=str(file))
    with pytest.raises(WeightsError, match=r"there is no weights file .*nowhere"):
        configured("stable_diffusion", sd, text=str(sd / "nowhere.safetensors"))


# --- networks and folders that do not fit


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"in_channels": 9}, "9 channels and returns 4"),
        ({"time_cond_proj_dim": 4}, "time_cond_proj_dim"),
        ({"num_class_embeds": 4}, "num_class_embeds"),
        ({"cross_attention_dim": 12}, "length 12, the embeddings have 8"),
        ({"in_channels": 3, "out_channels": 3}, "3 channels, the autoencoder makes 4"),
        ({"sample_size": None}, "give image_size"),
    ],
)
def test_unfit_networks_are_refused(config, words):
    around, path = Autoencoder(kl()), DiscretePath.linear()
    with pytest.raises(ValueError, match=words):
        StableDiffusion(unet(**config), around, path, Prediction.EPS, text(1))


def test_embeddings_of_different_shapes_are_refused():
    around, path = Autoencoder(kl()), DiscretePath.linear()
    short = Text(normal(LENGTH - 1, WIDTH))
    with pytest.raises(ValueError, match="same shapes"):
        StableDiffusion(unet(), around, path, Prediction.EPS, text(1), short, 2.0)


@pytest.mark.parametrize("part", ["unet", "vae", "scheduler"])
def test_missing_parts_are_named(tmp_path, sd, part):
    folder = shutil.copytree(sd, tmp_path / "part")
    shutil.rmtree(folder / part)
    with pytest.raises(ValueError, match=part):
        load(folder)


def test_folders_of_other_pipelines_are_sent_to_their_prior(tmp_path, sd):
    folder = shutil.copytree(sd, tmp_path / "other")
    name_pipeline(folder, "FluxPipeline")
    with pytest.raises(ValueError, match=r"FluxPipeline, not one for stable_d.*; take prior=flux"):
        load(folder)


def test_a_missing_folder_says_where_it_was_looked_for_and_how_to_get_it(monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match=r"folder /.*cache.*HF_HUB_OFFLINE.*hf download some/"):
        configured("stable_diffusion", "some/where")


def test_a_download_fetches_the_parts_that_are_needed_and_no_copies(monkeypatch, sd):
    import fnmatch

    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    asked = []

    def snapshot_download(source, local_files_only=False, allow_patterns=(), etag_timeout=0):
        if local_files_only:
            raise LocalEntryNotFoundError("not cached")
        asked.extend(allow_patterns)
        return str(sd)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    find_folder("some/where", ("unet", "text_encoder", "tokenizer"))
    files = {
        "model_index.json": True,
        "unet/config.json": True,
        "scheduler/scheduler_config.json": True,
        "unet/diffusion_pytorch_model.safetensors": True,
        "unet/diffusion_pytorch_model-00001-of-00002.safetensors": True,
        "unet/diffusion_pytorch_model.safetensors.index.json": True,
        "unet/diffusion_pytorch_model.fp16.safetensors": False,
        "text_encoder/model.safetensors": True,
        "text_encoder/model-00001-of-00002.safetensors": True,
        "text_encoder/model.fp16.safetensors": False,
        "tokenizer/merges.txt": True,
        "vae/diffusion_pytorch_model.safetensors": False,
        "v1-5-pruned.safetensors": False,
    }
    found = {f: any(fnmatch.fnmatch(f, pattern) for pattern in asked) for f in files}
    assert found == files
