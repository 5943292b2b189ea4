"""Finds and reads a diffusers ``UNet2DModel``: a local folder first, the hub second.

Never random weights: a missing file, key or connection is an error, one sentence long.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from plugip.priors.declaration import read_json
from plugip.priors.tensors import WeightsError as WeightsError
from plugip.priors.tensors import read_torch_file, require_safetensors, shortened

NAME = "diffusion_pytorch_model"
KINDS = ("safetensors", "bin")
JSON_FILES = ["config.json", "*/config.json", "*scheduler_config.json", "plugip_prior.json"]
TIMEOUT = 5.0  # seconds for the hub's first answer


def find_folder(source: str) -> Path:
    """Returns the folder of a prior, downloading it where ``source`` is a hub id.

    Args:
        source: A folder, or a hub id such as ``google/ddpm-celebahq-256``.

    Raises:
        WeightsError: If it is neither here, nor in the hub's cache, nor to be had from the hub.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise WeightsError(f"{source} is a file; give the folder that holds it and config.json")
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", source):
        raise WeightsError(
            f"there is no folder {folder.absolute()}; it should hold config.json and "
            f"{NAME}.safetensors (a hub id would look like owner/name)"
        )
    return _from_cache(source) or _from_hub(source)


def load_unet(folder: Path) -> Any:
    """Reads the ``UNet2DModel`` in a folder, or in its ``unet/``, in float32.

    Raises:
        WeightsError: If a file is missing, is no weights file, or does not fit its config.
    """
    home = _unet_home(folder)
    file = _weights_file(home)
    from diffusers.models.unets.unet_2d import UNet2DModel

    load: Any = UNet2DModel.from_pretrained
    try:
        net, info = load(
            str(home),
            torch_dtype=torch.float32,
            local_files_only=True,
            use_safetensors=file.suffix == ".safetensors",
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, TypeError, KeyError) as error:
        raise WeightsError(
            f"{file} does not fit {home / 'config.json'}: {shortened(error)}"
        ) from error
    lost = [*info["missing_keys"], *info["unexpected_keys"]]
    if lost:
        raise WeightsError(
            f"{file} does not fit {home / 'config.json'}: {lost[0]} is in one of them "
            f"only (and {len(lost) - 1} further tensors)"
        )
    return net


def _unet_home(folder: Path) -> Path:
    """Returns the folder itself, or ``unet/`` of a pipeline, whichever holds the UNet's config."""
    homes = [home for home in (folder, folder / "unet") if (home / "config.json").is_file()]
    if not homes:
        raise WeightsError(
            f"{folder.absolute()} has no config.json, nor has its unet/; a diffusers folder has "
            f"one beside {NAME}.safetensors"
        )
    name = read_json(homes[0] / "config.json").get("_class_name")
    if name != "UNet2DModel":
        raise WeightsError(f"{homes[0] / 'config.json'} describes {name}, not a UNet2DModel")
    return homes[0]


def _weights_file(home: Path) -> Path:
    safe, old = home / f"{NAME}.safetensors", home / f"{NAME}.bin"
    if safe.is_file():
        require_safetensors(safe)
        return safe
    if old.is_file():
        read_torch_file(old, "meta")
        return old
    raise WeightsError(f"{home.absolute()} has a config.json but no {safe.name} (or {old.name})")


def _from_cache(source: str) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(source, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    return folder if _has_weights(folder) else None


def _from_hub(source: str) -> Path:
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    if constants.HF_HUB_OFFLINE:
        raise _unreachable(source, "HF_HUB_OFFLINE is set")
    try:
        folder = _download(source, "safetensors")
        return folder if _has_weights(folder) else _download(source, "bin")
    except RepositoryNotFoundError as error:
        raise WeightsError(
            f"{source!r} is neither a folder here nor a public repository of the hub"
        ) from error
    except (OSError, HfHubHTTPError) as error:
        raise _unreachable(source, f"the hub does not answer: {shortened(error)}") from error


def _download(source: str, kind: str) -> Path:
    from huggingface_hub import snapshot_download

    files = [*JSON_FILES, f"{NAME}.{kind}", f"unet/{NAME}.{kind}"]
    return Path(snapshot_download(source, allow_patterns=files, etag_timeout=TIMEOUT))


def _has_weights(folder: Path) -> bool:
    files = [home / f"{NAME}.{kind}" for home in (folder, folder / "unet") for kind in KINDS]
    return any(file.is_file() for file in files)


def _unreachable(source: str, why: str) -> WeightsError:
    from huggingface_hub import constants

    return WeightsError(
        f"config.json of {source!r} was looked for in the folder {Path(source).absolute()} and in "
        f"the cache {constants.HF_HUB_CACHE}, and cannot be downloaded ({why}); with a network, "
        f"run `hf download {source}`, or copy the folder here and give its path"
    )
