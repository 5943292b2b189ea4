"""ADM files: found, read without running code, fitted exactly, or refused in one sentence."""

import functools
import os
import pickle
from pathlib import Path

import pytest
import torch
from adm_reference import TINY, RandomFile
from configs import prior_config
from omegaconf import OmegaConf

from plugip.building import BuildError, build
from plugip.cli.convert import _parser
from plugip.priors import ProbeError, WeightsError, load_adm
from plugip.priors.adm_layout import Architecture
from plugip.priors.adm_presets import PRESETS, Preset
from plugip.priors.adm_weights import blank_state

CONFIGS = Path(__file__).resolve().parents[2] / "conf/prior"
SETTINGS = {
    "image_size": 16,
    "num_channels": 32,
    "num_res_blocks": 1,
    "attention_resolutions": (8,),
    "channel_mult": (1, 2),
}


@pytest.fixture
def file(tmp_path):
    """A random checkpoint."""
    torch.save(RandomFile(TINY).state, tmp_path / "net.pt")
    return tmp_path / "net.pt"


def load(file, **options):
    return load_adm(str(file), architecture=TINY, probe=False, **options)


def config(name, **changes):
    return OmegaConf.merge(prior_config(name), changes)


# --- configs


@pytest.mark.parametrize("name", PRESETS)
def test_a_missing_file_is_named_with_where_it_was_looked_for_and_where_it_is_published(
    name, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    label = {"label": 3} if PRESETS[name].architecture.num_classes else {}
    with pytest.raises(WeightsError) as error:
        build(config(name, **label))
    place = tmp_path / "models" / PRESETS[name].file
    assert str(error.value).startswith(f"there is no file {place}; {PRESETS[name].file} is publis")
    assert f" at {PRESETS[name].url}: download it to that place, or" in str(error.value)


@pytest.mark.parametrize("name", ["imagenet256_cond", "imagenet128", "imagenet64"])
def test_a_missing_label_is_asked_for(name):
    with pytest.raises(BuildError, match=r"label has no default; give it: label=\.\.\."):
        build(config(name))


def test_networks_of_ones_own_are_a_config(file):
    small = {"image_size": 16, "num_channels": 32, "attention_resolutions": [8]}
    small |= {"channel_mult": [1, 2], "num_head_channels": 16}
    prior = build(config("adm", source=str(file), architecture=small, probe=False))
    assert prior.shape == (3, 16, 16)


def test_a_folder_may_stand_for_the_file_in_it(tmp_path):
    with pytest.raises(WeightsError, match=rf"there is no file {tmp_path}/ffhq_10m\.pt; ffhq"):
        load_adm(str(tmp_path), "ffhq256")


def test_by_default_the_file_is_looked_for_in_models(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(PRESETS, "small", Preset("small.pt", "https://example.org", TINY))
    (tmp_path / "models").mkdir()
    torch.save(RandomFile(TINY).state, tmp_path / "models/small.pt")
    assert load_adm(preset="small", probe=False).shape == (3, 16, 16)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, r"give either a preset \(ffhq256, .*\) or an architecture, not neither"),
        ({"preset": "ffhq256", "architecture": TINY}, "not both"),
        ({"preset": "ffhq"}, "unknown preset 'ffhq', choose from .*; did you mean 'ffhq256'"),
        ({"architecture": TINY}, r"give source=\.\.\., the checkpoint"),
        ({"architecture": TINY, "schedule": "cosin"}, "unknown schedule 'cosin'.*mean 'cosine'"),
        ({"source": "nowhere.pt", "architecture": TINY}, r"there is no file /.*/nowhere\.pt$"),
    ],
)
def test_unclear_wishes(options, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=words):
        load_adm(**options)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_size": 100, "channel_mult": ()}, "no usual channel_mult for image_size 100"),
        ({"image_size": 512, "channel_mult": (), "num_channels": 256}, "first multiplier must be"),
        ({"num_channels": 48}, "every width must be a multiple of 32, got 48"),
        ({"image_size": 17}, "image_size must be a multiple of 2,"),
        ({"num_head_channels": 48}, "num_head_channels 48 does not divide width 64"),
        ({"num_heads": 3}, "num_heads 3 does not divide width 64"),
    ],
)
def test_architectures_that_cannot_be(changes, words):
    with pytest.raises(ValueError, match=words):
        Architecture(**(SETTINGS | changes))


def test_the_document_tells_of_every_preset():
    text = (CONFIGS.parents[1] / "docs/checkpoints.md").read_text()
    for name, known in PRESETS.items():
        weights = sum(tensor.numel() for tensor in blank_state(known.architecture).values())
        assert f"`{name}`" in text and f"`{known.file}`" in text and f" {weights:,} " in text
        assert known.sha256 is None or known.sha256 in text


# --- files


def spoil(file, change):
    state = torch.load(file)
    change(state)
    torch.save(state, file)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("input_blocks.1.0.in_layers.2.bias"), r"lacks input_blocks.1.0.in_lay"),
        (lambda s: s.update(extra=torch.zeros(1)), "network lacks extra$"),
        (
            lambda s: s.update({"middle_block.1.qkv.weight": torch.zeros(192, 64)}),
            r"middle_block.1.qkv.weight is \(192, 64\) in the file and \(192, 64, 1\)",
        ),
    ],
)
def test_files_that_do_not_fit_are_refused_with_the_first_differences(file, change, words):
    spoil(file, change)
    with pytest.raises(WeightsError, match=f"does not fit the given architecture: .*{words}"):
        load(file)


def test_another_networks_file_is_recognised(file, monkeypatch):
    monkeypatch.setitem(PRESETS, "small", Preset("small.pt", "https://example.org", TINY))
    words = r"does not fit preset ffhq256: .* and \d+ more; .*; it fits preset small$"
    with pytest.raises(WeightsError, match=words):
        load_adm(str(file), "ffhq256")


class Evil:
    def __reduce__(self):
        return (os.mkdir, ("evil",))


def test_a_file_with_code_is_refused_and_does_not_run(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    for write in (
        lambda: file.write_bytes(pickle.dumps(Evil())),
        lambda: torch.save({"weight": torch.zeros(1), "hook": Evil()}, file),
    ):
        write()
        with pytest.raises(WeightsError, match=r"Python objects other than tensors.*run code"):
            load(file)
    assert not Path("evil").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<!DOCTYPE html><html>quota exceeded", "is a web page of 35 bytes, not the weights"),
        (b"", "not a plain PyTorch weights file"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
    ],
)
def test_files_that_are_no_weights(file, content, words):
    file.write_bytes(content)
    with pytest.raises(WeightsError, match=words):
        load(file)


def test_half_a_download_is_refused(file):
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(WeightsError, match="was the download complete"):
        load(file)


def test_a_checkpoint_around_the_weights_is_refused(file):
    spoil(file, lambda s: s.update(step=3))
    with pytest.raises(WeightsError, match="state dict"):
        load(file)


def test_the_probe_refuses_weights_that_were_never_trained(file):
    with pytest.raises(ProbeError, match="not the weights of a trained denoiser"):
        load_adm(str(file), architecture=TINY)


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", ""])
@pytest.mark.parametrize("key", [None, "ema", "model"])
def test_tables_and_wrappers_of_training_scripts(tmp_path, wrapper, key):
    state = {wrapper + name: value for name, value in RandomFile(TINY).state.items()}
    held = state if key is None else {"ema": state, "model": state, "step": 3}
    torch.save(held, tmp_path / "net.pt")
    load = functools.partial(load_adm, str(tmp_path / "net.pt"), architecture=TINY, probe=False)
    plain = tmp_path / "plain.pt"
    torch.save(RandomFile(TINY).state, plain)
    want = load_adm(str(plain), architecture=TINY, probe=False).net.state_dict()
    got = load(key=key).net.state_dict()
    assert all(torch.equal(value, want[name]) for name, value in got.items())
    if key is not None:
        with pytest.raises(WeightsError, match="key"):
            load()


def test_every_adm_config_has_the_key_that_errors_name():
    for name in ("adm", "ffhq256", "imagenet64"):
        assert prior_config(name).key is None
    assert "--key" in _parser().format_help()
