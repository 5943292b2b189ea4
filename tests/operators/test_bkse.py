import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from plugip.operators import bkse
from plugip.operators.bkse import (
    BKSE,
    LatentSampler,
    MissingWeightsError,
    legacy_daps_latent,
    load_network,
)
from plugip.operators.bkse_network import BKSENetwork, KernelExtractor
from plugip.rng import Rng
from plugip.testing import check_operator


def formula(number, name, shape):
    """The golden file's weights: tensor ``number`` of the published list."""
    numel = int(torch.Size(shape).numel())
    t = (7919 * torch.arange(numel) + 104729 * number + 12345) % 65537
    u = ((t * t + 3 * t + 17) % 65537).double() / 32768 - 1
    scale = 2.4 / (numel / shape[0]) ** 0.5 if len(shape) > 1 else 0.02
    return (u * scale * (0.1 if name.endswith("conv2.weight") else 1.0)).reshape(shape)


def meta(make):
    with torch.device("meta"):
        return make()


@pytest.fixture(scope="module")
def golden_network():
    file = Path(__file__).resolve().parents[1] / "golden/bkse.json"
    names = json.loads(file.read_text("utf-8"))["state_dict_keys"]
    kept = [(n, k, s) for n, (k, s) in enumerate(names) if not k.startswith("kernel_extractor")]
    network = meta(BKSENetwork)
    network.load_state_dict({k: formula(n, k, s) for n, k, s in kept}, assign=True)
    return network


def narrow(latent=None, rng_seed=0, clamp=True):
    """A network of the same form with 1/16 of the width."""
    return BKSE.untrained(rng_seed, latent, BKSENetwork(4, 8, 1, 1), clamp)


def rng(*ids):
    return Rng(0, "operator", ids)


def test_golden_names_and_shapes(tools):
    want = {name: tuple(shape) for name, shape in tools.golden("bkse")["state_dict_keys"]}
    have = {k: tuple(v.shape) for k, v in meta(BKSENetwork).state_dict().items()}
    extractor = meta(KernelExtractor).state_dict()
    have |= {f"kernel_extractor.{k}": tuple(v.shape) for k, v in extractor.items()}
    assert have == want and len(want) == 159
    assert sum(torch.Size(shape).numel() for shape in have.values()) == 115_265_475


def test_golden_forward(tools, golden_network):
    # The cases at 256 pixels pass too; they take ten seconds each.
    case = tools.golden("bkse")["cases"]["adapt_1x128x128"]
    x, z = tools.hash_image(1, 3, 128, 128), 1.2 * tools.hash_image(1, 512, 1, 1)
    with torch.no_grad():
        u = (BKSE(golden_network, z, clamp=False)(x) + 1) / 2
        tools.case(u, case, 1e-9)
        tools.case(u - (x + 1) / 2, case["residual"], 1e-9)
        without = (BKSE(golden_network, 0 * z, clamp=False)(x) + 1) / 2
    assert float((u - without).std()) == pytest.approx(case["std_of_change_when_latent_zero"])


@pytest.mark.skipif("PLUGIP_SLOW" not in os.environ, reason="20 s; set PLUGIP_SLOW=1")
def test_golden_extractor(tools, golden_network):
    data = tools.golden("bkse")
    network = meta(KernelExtractor)
    named = enumerate(data["state_dict_keys"])
    prefix = "kernel_extractor."
    network.load_state_dict(
        {k.removeprefix(prefix): formula(n, k, s) for n, (k, s) in named if k.startswith(prefix)},
        assign=True,
    )
    sharp = (tools.hash_image(1, 3, 256, 256) + 1) / 2
    with torch.no_grad():
        pair = [golden_network.feature_extractor(u) for u in (sharp, sharp.flip(-1))]
        mean, second = network(*pair)
    tools.case(mean, data["cases"]["extract_256"], 1e-9)
    tools.case(second, data["cases"]["extract_256_second"], 1e-9)


def test_golden_latent_of_daps(tools):
    want = tools.golden("bkse")["daps_latent_np_seed0"]
    z = legacy_daps_latent(np.random.RandomState(0))
    assert z.dtype == torch.float32 and z.shape == (1, 512, 2, 2)
    tools.close(z.flatten()[:4].double(), torch.tensor(want["head"]).double(), 1e-6)
    assert float(z.double().sum()) == pytest.approx(want["sum"], rel=1e-5)
    assert float(z.norm()) == pytest.approx(want["l2"], rel=1e-5)


@pytest.mark.parametrize("shape", [(2, 3, 128, 128), (2, 3, 128, 256)])
@pytest.mark.parametrize("clamp", [True, False])
def test_bkse_obeys_the_laws(shape, clamp):
    A = narrow(clamp=clamp)
    with (
        torch.no_grad()
    ):  # keeps y inside [-1, 1]: finite differences go wrong at the clamp's kinks
        for weight in A.network.recon_trunk[-1].parameters():
            weight.mul_(0.02)
    check_operator(A, shape).require()


def test_latents_belong_to_images():
    sampler, shape = LatentSampler(), (2, 3, 256, 128)
    z = sampler.draw(rng("a", "b"), shape)
    assert z.shape == (2, 512, 2, 1) and abs(float(z.std()) - 1.2) < 0.06
    assert torch.equal(sampler.draw(rng("b"), (1, *shape[1:])), z[1:])
    A = narrow().realise(rng("a", "b"), shape)
    assert A.latent.shape == (2, 8, 2, 1) and A.realise(rng("a", "b"), shape) is A


def test_the_latent_and_the_clamp_matter(tools):
    x = torch.ones(1, 3, 128, 128).double()
    z = tools.normal(1, 8, 1, 1)
    network = BKSENetwork(4, 8, 1, 1).double()
    free = BKSE.untrained(0, z, network, clamp=False)(x)
    assert not torch.allclose(free, BKSE(network, -z, clamp=False)(x))
    assert float(free.max()) > 1
    assert torch.equal(BKSE(network, z)(x), free.clamp(-1, 1))


def test_the_network_is_frozen_and_gradients_reach_x():
    A, x = narrow(torch.zeros(1, 8, 1, 1)), torch.zeros(2, 3, 128, 128, requires_grad=True)
    A(x).sum().backward()
    assert x.grad is not None and float(x.grad.abs().max()) > 0
    assert all(not p.requires_grad for p in A.parameters())


def test_random_weights_are_labelled_and_reproducible():
    A, B, C = narrow(), narrow(), narrow(rng_seed=1)
    first = [next(iter(a.network.parameters())) for a in (A, B, C)]
    assert torch.equal(first[0], first[1]) and not torch.equal(first[0], first[2])
    assert A.untrained_weights and "untrained=True" in repr(A)
    assert A.realise(rng("a"), (1, 3, 128, 128)).untrained_weights


# -----------------------------------------------------------------------------------------------
# loading, with small networks in the place of the published one


@pytest.fixture
def small(monkeypatch):
    def empty():
        with torch.device("meta"):
            return BKSENetwork(4, 8, 1, 1), KernelExtractor(2, 4)

    monkeypatch.setattr(bkse, "_empty", empty)
    tensors = dict(narrow().network.state_dict())
    extractor = KernelExtractor(2, 4).state_dict()
    return tensors | {f"kernel_extractor.{k}": v for k, v in extractor.items()}


@pytest.mark.parametrize("wrap", ["bare", "state_dict", "module", "both"])
def test_a_checkpoint_is_loaded(small, tmp_path, wrap):
    named = {f"module.{k}": v for k, v in small.items()} if wrap in ("module", "both") else small
    path = tmp_path / "w.pth"
    torch.save({"state_dict": named} if wrap in ("state_dict", "both") else named, path)
    z = torch.ones(1, 8, 1, 1)
    A, x = BKSE.from_checkpoint(path, z), torch.zeros(1, 3, 128, 128)
    assert not A.untrained_weights
    assert torch.equal(A(x), narrow(z)(x))
    assert not any("kernel_extractor" in name for name in A.state_dict())


def test_a_name_is_looked_up_in_the_weights_folder(small, tmp_path, monkeypatch):
    torch.save(small, tmp_path / "w.pth")
    monkeypatch.setenv("PLUGIP_WEIGHTS", str(tmp_path))
    assert isinstance(load_network("w.pth"), BKSENetwork)


def test_missing_weights_are_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("PLUGIP_WEIGHTS", str(tmp_path / "box"))
    with pytest.raises(MissingWeightsError) as error:
        BKSE.from_checkpoint("GOPRO_wVAE.pth", LatentSampler())
    told = str(error.value)
    for part in ("GOPRO_wVAE.pth", str(tmp_path / "box"), "PLUGIP_WEIGHTS", bkse.UPSTREAM):
        assert part in told
    assert "camera_response_blur" in told and isinstance(error.value, FileNotFoundError)


def test_a_wrong_hash_is_refused(small, tmp_path):
    import hashlib

    path = tmp_path / "w.pth"
    torch.save(small, path)
    good = hashlib.sha256(path.read_bytes()).hexdigest()
    assert isinstance(load_network(path, good.upper()), BKSENetwork)
    with pytest.raises(ValueError, match=f"has SHA-256 {good}, expected 00"):
        load_network(path, "00")


def test_other_tensors_are_refused(small, tmp_path):
    path = tmp_path / "w.pth"
    first = next(iter(small))

    def refused(tensors, match):
        torch.save(tensors, path)
        with pytest.raises(ValueError, match=match):
            load_network(path)

    total = len(small)
    less = {k: v for k, v in small.items() if not k.startswith("recon_trunk")}
    refused(less, rf"the {total} tensors of BKSE: 12 missing \(recon_trunk.0.conv1.weight, ")
    refused(small | {"extra": torch.ones(1)}, r"1 unexpected \(extra\)")
    refused(small | {first: torch.ones(1)}, rf"1 of another shape \({first}\)")
    # RED-diff's fault: one dict too deep must not pass as an empty network.
    refused({"net": {"state_dict": small}}, "holds no tensors by name")
    refused({"state_dict": {"state_dict": small}}, "holds no tensors by name")
    no_extractor = {k: v for k, v in small.items() if not k.startswith("kernel_extractor")}
    refused(no_extractor, r"14 missing \(kernel_extractor")
    refused({"state_dict": small, "epoch": 3}, "holds no tensors by name")
    refused([1, 2], "holds no tensors by name")
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="is no file of plain weights"):
        load_network(path)


def test_errors():
    A = narrow(torch.zeros(2, 8, 1, 1))
    for shape in [(2, 3, 192, 128), (2, 3, 128, 100), (2, 1, 128, 128), (2, 3, 0, 128)]:
        with pytest.raises(ValueError, match="RGB images whose sides are multiples of 128"):
            A(torch.zeros(shape))
    with pytest.raises(
        ValueError, match=r"need a latent of shape \(1 or 2, 8, 2, 1\), got \(2, 8"
    ):
        A(torch.zeros(2, 3, 256, 128))
    with pytest.raises(ValueError, match=r"need a latent of shape \(1 or 3, 8, 1, 1\)"):
        A(torch.zeros(3, 3, 128, 128))
    with pytest.raises(RuntimeError, match="BKSE has no latent yet"):
        narrow()(torch.zeros(2, 3, 128, 128))
    with pytest.raises(ValueError, match="scale must be a positive"):
        LatentSampler(0.0)
