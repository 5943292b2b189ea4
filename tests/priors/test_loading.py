"""From folders and hub ids to priors, and one clear sentence where that fails."""

import json
import os
import pickle
import shutil
import time

import pytest
import torch

from plugip.path import UNIT, DiscretePath, FlowPath, Prediction
from plugip.priors import DiffusersUNet, ProbeError, WeightsError
from plugip.priors.weights import load_unet

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def pipeline(unet, tmp_path):
    """A pipeline folder as diffusers writes it: unet/ and scheduler/, with variance channels."""
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    unet(out_channels=6).half().save_pretrained(tmp_path / "unet")
    DDPMScheduler(prediction_type="v_prediction").save_pretrained(tmp_path / "scheduler")
    return tmp_path


def load(folder, **settings):
    return DiffusersUNet.from_pretrained(str(folder), probe=False, **settings)


def edit_scheduler(folder, **changes):
    file = folder / "scheduler/scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_pipeline_folder(pipeline):
    prior = load(pipeline)
    assert prior.prediction is Prediction.V
    assert prior.shape == (3, 8, 8)
    assert {w.dtype for w in prior.parameters()} == {torch.float32}
    x0 = prior(torch.zeros(1, 3, 8, 8), torch.tensor(0.5))
    assert x0.shape == (1, 3, 8, 8)


@pytest.mark.parametrize(
    "settings",
    [
        {"beta_schedule": "linear"},
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        {"beta_schedule": "squaredcos_cap_v2"},
        {"trained_betas": [0.01, 0.02, 0.03]},
        {"_class_name": "DDIMScheduler"},
        {"_class_name": "DPMSolverMultistepScheduler"},
    ],
)
def test_scheduler_configs_give_their_own_table(pipeline, settings):
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    edit_scheduler(pipeline, **settings)
    known = {k: v for k, v in settings.items() if k != "_class_name"}
    want = DDPMScheduler(**known).alphas_cumprod
    path = load(pipeline).path
    assert isinstance(path, DiscretePath)
    torch.testing.assert_close(path.table[1:].float(), want, rtol=1e-5, atol=1e-8)


def test_a_flow_scheduler_beside_the_weights(unet, tmp_path):
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
        FlowMatchEulerDiscreteScheduler,
    )

    unet().save_pretrained(tmp_path)
    FlowMatchEulerDiscreteScheduler(num_train_timesteps=500).save_pretrained(tmp_path)
    prior = load(tmp_path)
    assert isinstance(prior.path, FlowPath)
    assert (prior.prediction, prior.time_scale) == (Prediction.VELOCITY, 500)


def test_arguments_win_over_the_card_and_the_card_over_the_scheduler(pipeline):
    (pipeline / "plugip_prior.json").write_text('{"prediction": "sample", "value_range": [0, 1]}')
    prior = load(pipeline)
    assert (prior.prediction, prior.value_range) == (Prediction.X0, UNIT)
    assert isinstance(prior.path, DiscretePath)
    prior = load(pipeline, prediction="epsilon", path="flow", value_range=[-1, 1])
    assert prior.prediction is Prediction.EPS
    assert isinstance(prior.path, FlowPath)


def test_early_configs_with_predict_epsilon(pipeline):
    file = pipeline / "scheduler/scheduler_config.json"
    old = {"_class_name": "DDPMScheduler", "beta_schedule": "linear", "predict_epsilon": False}
    file.write_text(json.dumps(old))
    assert load(pipeline).prediction is Prediction.X0


def test_plain_pytorch_weights(unet, tmp_path):
    net = unet()
    net.save_pretrained(tmp_path, safe_serialization=False)
    prior = load(tmp_path, prediction="epsilon", path="ddpm")
    x, t = torch.ones(1, 3, 8, 8), torch.tensor(0.5)
    same = DiffusersUNet(net, DiscretePath.linear(), Prediction.EPS)
    torch.testing.assert_close(prior(x, t), same(x, t))


def test_the_probe_runs_at_load_time(pipeline):
    with pytest.raises(ProbeError, match="no other prediction"):
        DiffusersUNet.from_pretrained(str(pipeline))


# --- errors: one sentence, no guess


def test_without_a_declaration_the_missing_arguments_are_named(pipeline):
    shutil.rmtree(pipeline / "scheduler")
    with pytest.raises(ValueError, match=r"give prediction=\.\.\. and path=\.\.\.; prediction: s"):
        load(pipeline)
    with pytest.raises(ValueError, match=r"give path=\.\.\.; "):
        load(pipeline, prediction="epsilon")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"_class_name": "EDMEulerScheduler"}, "EDMEulerScheduler"),
        ({"_class_name": "UNet2DModel"}, "UNet2DModel"),
        ({"beta_schedule": "wavy"}, "the schedule 'wavy'"),
        ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr"),
        ({"prediction_type": "flow_prediction"}, "unknown prediction 'flow_prediction'"),
    ],
)
def test_unknown_schedulers_are_refused(pipeline, changes, words):
    edit_scheduler(pipeline, **changes)
    with pytest.raises(ValueError, match=words):
        load(pipeline)


@pytest.mark.parametrize(
    ("card", "words"),
    [
        ('{"predicton": "epsilon"}', "did you mean 'prediction'"),
        ('{"value_range": [1, 0]}', "two rising numbers"),
        ('{"path": "flwo"}', "did you mean 'flow'"),
        ("[1]", "must hold a JSON object"),
        ("{", "not a JSON file"),
    ],
)
def test_faulty_cards_are_explained(pipeline, card, words):
    (pipeline / "plugip_prior.json").write_text(card)
    with pytest.raises(ValueError, match=words):
        load(pipeline)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (bytes(range(256)), "is not a safetensors file"),
        (b"", "its size is 0 bytes"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (None, "no diffusion_pytorch_model.safetensors"),
    ],
)
def test_files_that_are_no_weights(pipeline, content, words):
    (pipeline / WEIGHTS).unlink()
    if content is not None:
        (pipeline / WEIGHTS).write_bytes(content)
    with pytest.raises(WeightsError, match=words):
        load(pipeline)


class Evil:
    def __reduce__(self):
        return (os.mkdir, ("evil",))


def test_a_pickle_is_refused_and_does_not_run(pipeline, monkeypatch):
    monkeypatch.chdir(pipeline)
    (pipeline / WEIGHTS).unlink()
    (pipeline / WEIGHTS).with_suffix(".bin").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(WeightsError, match="Python objects other than tensors"):
        load(pipeline)
    assert not (pipeline / "evil").exists()


@pytest.mark.parametrize("fault", ["missing", "further", "wrong shape"])
def test_weights_that_do_not_fit_are_never_filled_in(pipeline, fault):
    from safetensors.torch import load_file, save_file

    weights = load_file(pipeline / WEIGHTS)
    weights["further" if fault == "further" else "conv_in.weight"] = torch.zeros(4, 3, 3, 3)
    if fault == "missing":
        del weights["conv_in.weight"]
    save_file(weights, pipeline / WEIGHTS)
    with pytest.raises(WeightsError, match="does not fit"):
        load(pipeline)


@pytest.mark.parametrize("content", [None, "{", '{"_class_name": "UNet2DConditionModel"}'])
def test_configs_that_are_no_unet(pipeline, content):
    (pipeline / "unet/config.json").unlink()
    if content is not None:
        (pipeline / "unet/config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config\.json"):
        load(pipeline)


@pytest.mark.parametrize("source", ["./nowhere", "nowhere", "/no/such/folder", "a/b/c"])
def test_a_missing_folder(source, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match="there is no folder /"):
        load(source)


def test_a_file_instead_of_its_folder(pipeline):
    with pytest.raises(WeightsError, match="give the folder"):
        load(pipeline / WEIGHTS)


# --- the hub


@pytest.fixture
def hub(monkeypatch):
    """Replaces the hub's download by a given outcome, with an empty cache."""
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def install(outcome):
        asked = []

        def snapshot_download(source, local_files_only=False, allow_patterns=(), etag_timeout=0):
            if local_files_only:
                raise LocalEntryNotFoundError("not cached")
            asked.append(allow_patterns)
            if isinstance(outcome, Exception):
                raise outcome
            return str(outcome)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
        return asked

    return install


def test_a_hub_id_uses_the_same_loader(pipeline, hub):
    asked = hub(pipeline)
    assert load("someone/something").prediction is Prediction.V
    assert WEIGHTS in asked[0]


def test_a_hub_id_without_a_network(hub):
    hub(OSError("Got: ConnectError: Name or service not known"))
    with pytest.raises(WeightsError, match=r"config\.json of 'some/id'.*folder.*cache.*hf downlo"):
        load("some/id")


def test_a_hub_id_while_offline_fails_at_once(monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    start = time.perf_counter()
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE is set"):
        load("plugip-tests/no-such-prior")
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize("fault", ["module.", "_orig_mod.", "state_dict", "no table"])
def test_an_old_file_that_is_no_bare_table_is_one_sentence(tmp_path, unet, capfd, fault):
    net = unet()
    net.save_config(tmp_path)
    state = net.state_dict()
    held = {
        "state_dict": {"state_dict": state, "step": 3},
        "no table": [torch.zeros(2)],
    }.get(fault, {fault + name: value for name, value in state.items()})
    torch.save(held, tmp_path / "diffusion_pytorch_model.bin")
    with pytest.raises(WeightsError, match=fault) as caught:
        load_unet(tmp_path)
    assert len(str(caught.value)) < 600
    assert "".join(capfd.readouterr()) == ""
