"""Weights from files: whole, strict, and without running code from them."""

import os
import pickle
import random

import pytest
import torch
from nets import TinyGAN, TinyNet
from safetensors.torch import save_file
from torch import nn

from plugip.priors import WeightsError, load_weights
from plugip.priors.tensors import read_tensors


def trained():
    net = TinyNet()
    with torch.no_grad():
        for w in net.parameters():
            w.add_(1)
    return net


def save(state, file, safe=False):
    if safe:
        save_file({name: value.contiguous() for name, value in state.items()}, file)
    else:
        torch.save(state, file)
    return file


def assert_equal(net, state):
    assert net.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("name", ["net.pt", "net.pth", "net.ckpt", "net.safetensors"])
def test_every_tensor_arrives(tmp_path, name):
    state = trained().state_dict()
    file = save(state, tmp_path / name, name.endswith("safetensors"))
    net = TinyNet()
    assert load_weights(net, str(file)) is net
    assert_equal(net, state)


def test_buffers_are_weights_too(tmp_path):
    state = TinyGAN().state_dict()
    state["layers.1.running_mean"] = torch.arange(8.0)
    file = save(state, tmp_path / "gan.pt")
    net = load_weights(TinyGAN(), file)
    assert net.get_buffer("layers.1.running_mean").tolist() == list(range(8))


def test_half_precision_files_fill_the_network_s_own_type(tmp_path):
    state = {name: value.half() for name, value in trained().state_dict().items()}
    net = load_weights(TinyNet(), save(state, tmp_path / "half.pt"))
    assert {w.dtype for w in net.parameters()} == {torch.float32}
    assert_equal(net, {name: value.float() for name, value in state.items()})


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_wrappers_prefixes_are_dropped(tmp_path, prefix):
    state = trained().state_dict()
    file = save({prefix + name: value for name, value in state.items()}, tmp_path / "net.pt")
    assert_equal(load_weights(TinyNet(), file), state)


def test_a_network_that_has_such_a_name_keeps_it(tmp_path):
    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = TinyNet()

    holder = Holder()
    file = save(
        {f"module.{name}": v for name, v in trained().state_dict().items()}, tmp_path / "x"
    )
    load_weights(holder, file)
    assert_equal(holder.module, trained().state_dict())


@pytest.mark.parametrize("key", ["ema_model", "net_model"])
def test_checkpoints_are_opened_by_name(tmp_path, key):
    optimiser = torch.optim.Adam(TinyNet().parameters())
    states = {"net_model": TinyNet().state_dict(), "ema_model": trained().state_dict()}
    file = save(states | {"optim": optimiser.state_dict(), "step": 3}, tmp_path / "step.pt")
    assert_equal(load_weights(TinyNet(), file, key), states[key])
    for wrong in (None, "ema", "optim"):
        with pytest.raises(WeightsError, match=r"give key=\.\.\., one of net_model, ema_model"):
            load_weights(TinyNet(), file, wrong)


# --- what does not fit


def test_the_first_differing_names_are_given(tmp_path):
    state = trained().state_dict()
    state["extra"] = state.pop("first.bias")
    state["last.weight"] = torch.zeros(2, 4, 5, 5)
    net = TinyNet()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(WeightsError) as error:
        load_weights(net, save(state, tmp_path / "net.pt"))
    text = str(error.value)
    assert "does not fit TinyNet: the file lacks first.bias; the network lacks extra; " in text
    assert "last.weight is (2, 4, 5, 5) in the file and (2, 4, 3, 3) in the network" in text
    assert_equal(net, before)


def test_long_lists_of_names_are_shortened(tmp_path):
    with pytest.raises(
        WeightsError, match=r"lacks embed\.weight, embed\.bias, first\.weight and 3"
    ):
        load_weights(TinyNet(), save({"other": torch.zeros(1)}, tmp_path / "net.pt"))


# --- what is no table of tensors


class Evil:
    def __reduce__(self):
        return (os.mkdir, ("evil",))


@pytest.mark.parametrize("content", [Evil(), {"ema": Evil()}, {"weight": Evil(), "x": 1}])
def test_code_in_a_pickle_is_not_run(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(WeightsError, match=r"export the tensors alone: torch\.save"):
        load_weights(TinyNet(), "net.pkl")
    assert not (tmp_path / "evil").exists()


def test_a_whole_pickled_network_is_refused(tmp_path):
    torch.save(TinyNet(), tmp_path / "net.pt")
    with pytest.raises(WeightsError, match="Python objects other than tensors"):
        load_weights(TinyNet(), tmp_path / "net.pt")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("net.pt", b"", "its size is 0 bytes"),
        ("net.pt", b"hello world", "is not a plain PyTorch weights file"),
        ("net.safetensors", b"hello world", "is not a safetensors file"),
        ("net.pt", b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        ("net.safetensors", b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
    ],
)
def test_other_files_are_named_for_what_they_are(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=words):
        load_weights(TinyNet(), tmp_path / name)


@pytest.mark.parametrize("held", [torch.zeros(3), [torch.zeros(3)], {"step": 3}, {}])
def test_files_without_a_state_dict(tmp_path, held):
    torch.save(held, tmp_path / "net.pt")
    with pytest.raises(WeightsError, match="is not a state dict itself; export one"):
        load_weights(TinyNet(), tmp_path / "net.pt")


def test_a_missing_file_is_named_in_full(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match=f"there is no weights file {tmp_path}/net.pt"):
        load_weights(TinyNet(), "net.pt")


def test_damaged_files_of_any_kind_are_refused_in_one_way(tmp_path):
    torch.save(TinyNet().state_dict(), tmp_path / "new.pt")
    torch.save(TinyNet().state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    whole = [(tmp_path / name).read_bytes() for name in ("new.pt", "old.pt")]
    rng, file, refused = random.Random(0), tmp_path / "damaged.pt", 0
    for i in range(300):
        content = bytearray(whole[i % 2])
        for _ in range(20):
            content[rng.randrange(len(content))] = rng.randrange(256)
        file.write_bytes(content[: rng.randrange(1, len(content))] if i % 3 == 0 else content)
        try:
            read_tensors(file)
        except WeightsError:
            refused += 1
    assert refused > 250


def test_a_prefix_chooses_one_network_of_several(tmp_path):
    state = trained().state_dict()
    others = {f"ema.{name}": 0 * value for name, value in state.items()}
    file = save({f"model.module.{k}": v for k, v in state.items()} | others, tmp_path / "a.ckpt")
    assert_equal(load_weights(TinyNet(), file, prefix="model."), state)
    assert_equal(load_weights(TinyNet(), file, prefix="model.module."), state)
    with pytest.raises(WeightsError, match="prefix 'net"):
        load_weights(TinyNet(), file, prefix="net.")
