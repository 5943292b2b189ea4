"""Weights lie in memory of their own, wherever a file has them, so that results are the same."""

import json

import pytest
import torch
from adm_reference import TINY, RandomFile
from nets import TinyNet, make_unet
from safetensors.torch import save, save_file

from plugip.priors import DiffusersUNet, load_adm, load_weights
from plugip.priors.autoencoder import load_autoencoder
from plugip.priors.low_rank_file import FORMAT, read_low_rank
from plugip.priors.tensors import read_tensors
from plugip.priors.weights import load_unet

ALIGNED = 64  # bytes; what PyTorch's own allocator gives


def assert_settled(tensors):
    tensors = list(tensors)
    assert tensors and all(tensor.data_ptr() % ALIGNED == 0 for tensor in tensors)


def weights(network):
    return [*network.parameters(), *network.buffers()]


def shifted(state, file):
    """Writes a file whose tensors begin at no multiple of 64 bytes."""
    for length in range(8, 72, 8):
        data = save(state, {"pad": "x" * length})
        if (8 + int.from_bytes(data[:8], "little")) % ALIGNED not in (0, 32):
            file.write_bytes(data)
            return file
    raise AssertionError("no header of such a length")


@pytest.fixture
def folder(tmp_path):
    net = make_unet()
    net.save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    shifted(net.state_dict(), file)
    return tmp_path


def test_a_diffusers_folder(folder):
    assert_settled(weights(load_unet(folder)))


@pytest.mark.parametrize("kind", ["sharded", "bin"])
def test_split_and_old_folders(tmp_path, kind):
    net = make_unet()
    net.save_pretrained(tmp_path, max_shard_size="4KB", safe_serialization=True)
    if kind == "bin":
        for file in tmp_path.glob("*.safetensors*"):
            file.unlink()
        torch.save(net.state_dict(), tmp_path / "diffusion_pytorch_model.bin")
    assert_settled(weights(load_unet(tmp_path)))


def test_moving_the_network_changes_no_bit(folder):
    """``.to("cpu:0")`` copies, ``.to("cpu")`` does not."""
    (folder / "plugip_prior.json").write_text(
        json.dumps({"prediction": "velocity", "path": "flow"})
    )
    x, t = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor(0.5)
    prior = DiffusersUNet.from_pretrained(str(folder), probe=False)
    before = prior(x, t)
    assert torch.equal(prior.to("cpu:0")(x, t), before)


def test_an_autoencoder(tmp_path):
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    net = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=3)
    net.save_pretrained(tmp_path / "vae")
    shifted(net.state_dict(), tmp_path / "vae" / "diffusion_pytorch_model.safetensors")
    assert_settled(weights(load_autoencoder(tmp_path)))


@pytest.mark.parametrize("name", ["net.pt", "net.safetensors"])
def test_an_adm_file(tmp_path, name):
    state, file = RandomFile(TINY).state, tmp_path / name
    torch.save(state, file) if name.endswith("pt") else shifted(state, file)
    prior = load_adm(str(file), architecture=TINY, probe=False)
    assert_settled(weights(prior))


def test_any_network_and_bare_tensors(tmp_path):
    net = TinyNet()
    file = shifted(net.state_dict(), tmp_path / "net.safetensors")
    assert_settled(weights(load_weights(TinyNet(), file)))
    assert_settled(read_tensors(file).values())
    # Views of one tensor, as checkpoints hold them that were cut from a flat vector.
    flat = torch.arange(100.0)
    torch.save({"a": flat[1:40], "b": flat[41:]}, tmp_path / "flat.pt")
    assert_settled(read_tensors(tmp_path / "flat.pt").values())


def test_a_fitted_gaussian(tmp_path):
    names = {"mean": (3, 4, 4), "components": (2, 3, 4, 4), "variances": (2,), "std": ()}
    tensors = {name: torch.rand(shape) + 0.1 for name, shape in names.items()}
    card = json.dumps({"format": FORMAT})
    save_file(tensors, tmp_path / "a.safetensors", {"card": card})
    assert_settled(read_low_rank(tmp_path / "a.safetensors")[0].values())
