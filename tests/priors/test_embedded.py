"""The embedded prior, and the configs of all priors."""

import ast
import inspect

import pytest
import torch
from configs import prior_config
from omegaconf import OmegaConf

from plugip.building import build
from plugip.path import SIGNED, FlowPath, Prediction
from plugip.prior import probe_signal
from plugip.priors import DiffusersUNet, GaussianPrior
from plugip.priors.embedded import FACES64, faces64
from plugip.testing import check_prior


def test_faces64_is_what_its_card_says(faces):
    assert isinstance(faces, DiffusersUNet)
    assert (faces.shape, faces.image_shape) == ((12, 32, 32), (3, 64, 64))
    assert (faces.path, faces.prediction) == (FlowPath(), Prediction.VELOCITY)
    assert faces.value_range == SIGNED
    assert {w.dtype for w in faces.parameters()} == {torch.float32}
    assert 3.7e6 < sum(w.numel() for w in faces.parameters()) < 3.9e6


def test_faces64_ships_with_its_card_and_without_pictures():
    files = {file.name for file in FACES64.iterdir()}
    assert files == {
        "README.md",
        "config.json",
        "diffusion_pytorch_model.safetensors",
        "plugip_prior.json",
    }
    card = (FACES64 / "README.md").read_text("utf-8")
    assert all(word in card for word in ("FairFace", "CC BY 4.0", "YFCC-100M", "Changes made"))


def test_faces64_decode_inverts_encode(faces):
    x = probe_signal(faces.image_shape).expand(2, -1, -1, -1)
    h = faces.encode(x)
    torch.testing.assert_close(faces.decode(h), x)
    torch.testing.assert_close(h.norm(), x.norm())


def test_faces64_passes_the_checks(faces):
    check_prior(faces, batch=2).require()


ROOM = FACES64.parents[1] / "priors"


@pytest.mark.parametrize("file", sorted(ROOM.glob("*.py")), ids=lambda file: file.name)
def test_diffusers_is_imported_only_when_a_network_is_loaded(file):
    roots = {name.split(".")[0] for name in imports(ast.parse(file.read_text("utf-8")).body)}
    assert "diffusers" not in roots


def imports(nodes):
    """Names of the modules that statements import, those inside functions left out."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


# --- configs


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("faces64", faces64),
        ("diffusers", DiffusersUNet.from_pretrained),
        ("gaussian", GaussianPrior),
    ],
)
def test_configs_list_every_argument(name, target):
    assert {*prior_config(name)} - {"_target_"} == set(inspect.signature(target).parameters)


def test_configs_build_their_priors():
    assert build(prior_config("gaussian")).shape == (3, 64, 64)
    assert build(prior_config("faces64")).shape == (12, 32, 32)


def test_the_diffusers_config_loads_a_folder(unet, tmp_path):
    unet().save_pretrained(tmp_path)
    given = {
        "source": str(tmp_path),
        "prediction": "epsilon",
        "path": {"_target_": "plugip.path.VPPath"},
        "value_range": [0, 1],
        "probe": False,
    }
    prior = build(OmegaConf.merge(prior_config("diffusers"), given))
    assert prior.value_range.low == 0
    assert prior.prediction is Prediction.EPS
