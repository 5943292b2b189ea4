"""Finds and reads diffusers folders: a local one first, the hub second.

Never random weights: a missing file, key or connection is an error, one sentence long.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from plugip.priors.declaration import read_json
from plugip.priors.tensors import (
    WRAPPERS,
    read_torch_file,
    require_safetensors,
    settle,
    shortened,
)
from plugip.priors.tensors import WeightsError as WeightsError

NAME = "diffusion_pytorch_model"
INDEX = f"{NAME}.safetensors.index.json"  # beside weights that are split over several files
KINDS = ("safetensors", "bin")
TEXT_FILES = ["model.safetensors", "model-*.safetensors", "model.safetensors.index.json"]
JSON_FILES = [
    "config.json",
    "*/config.json",
    "*scheduler_config.json",
    "plugip_prior.json",
    "model_index.json",
]
TIMEOUT = 5.0  # seconds for the hub's first answer
# Which prior serves which pipeline, by the name in model_index.json.
PIPELINES = {
    "DDPMPipeline": "diffusers",
    "DDIMPipeline": "diffusers",
    "ConsistencyModelPipeline": "consistency",
    "LDMPipeline": "ldm",
    "StableDiffusionPipeline": "stable_diffusion",
    "StableDiffusion3Pipeline": "sd3",
    "FluxPipeline": "flux",
}
DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def find_folder(source: str, parts: Sequence[str] = ("unet",)) -> Path:
    """Returns the folder of a prior, downloading it where ``source`` is a hub id.

    Args:
        source: A folder, or a hub id such as ``google/ddpm-celebahq-256``.
        parts: The sub-folders with networks that a download fetches; others are left out.

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
    return _from_cache(source, parts) or _from_hub(source, parts)


def require_pipeline(folder: Path, prior: str) -> None:
    """Raises a ValueError if a folder says that it holds what another prior serves.

    Args:
        folder: A pipeline's folder; one without ``model_index.json`` says nothing.
        prior: The prior that is being loaded, by its name in ``conf/prior``.
    """
    index = folder / "model_index.json"
    name = read_json(index).get("_class_name") if index.is_file() else None
    fitting = PIPELINES.get(str(name), prior)
    if fitting != prior:
        raise ValueError(f"{index} describes a {name}, not one for {prior}; take prior={fitting}")


def load_unet(folder: Path) -> Any:
    """Reads the ``UNet2DModel`` in a folder, or in its ``unet/``, in float32.

    Raises:
        WeightsError: If a file is missing, is no weights file, or does not fit its config.
    """
    return load_model(folder, "unet", ["UNet2DModel"])


def load_model(
    folder: Path, part: str, kinds: Sequence[str], dtype: torch.dtype = torch.float32
) -> Any:
    """Reads a network of diffusers from a folder, or from its sub-folder.

    Args:
        folder: The network's own folder, or a pipeline's.
        part: The sub-folder of a pipeline, such as ``unet``.
        kinds: Names of the classes that fit.
        dtype: What the weights are cast to, whatever the file holds.

    Raises:
        WeightsError: If a file is missing, is no weights file, or does not fit its config.
    """
    home = _home(folder, part, kinds)
    file, config = _weights_file(home), home / "config.json"
    load: Any = getattr(_diffusers(), _class_name(home)).from_pretrained
    try:
        net, info = load(
            str(home),
            torch_dtype=dtype,
            local_files_only=True,
            use_safetensors=file.suffix != ".bin",
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, TypeError, KeyError) as error:
        raise WeightsError(f"{file} does not fit {config}: {shortened(error)}") from error
    lost = [*info["missing_keys"], *info["unexpected_keys"]]
    if lost:
        raise WeightsError(
            f"{file} does not fit {config}: {lost[0]} is in one of them "
            f"only (and {len(lost) - 1} further tensors)"
        )
    settle(net)
    return net


def read_config(folder: Path, part: str, kinds: Sequence[str]) -> dict[str, Any]:
    """Returns the config of a network that ``load_model`` would read, without its weights.

    Raises:
        WeightsError: If there is none, or it is that of another class.
    """
    return read_json(_home(folder, part, kinds) / "config.json")


def _diffusers() -> Any:
    import diffusers

    return diffusers


def _home(folder: Path, part: str, kinds: Sequence[str]) -> Path:
    """Returns the folder itself, or a pipeline's part, whichever holds the network's config."""
    homes = [home for home in (folder, folder / part) if (home / "config.json").is_file()]
    if not homes:
        raise WeightsError(
            f"{folder.absolute()} has no config.json, nor has its {part}/; a diffusers folder has "
            f"one beside {NAME}.safetensors"
        )
    name = _class_name(homes[0])
    if name not in kinds:
        raise WeightsError(
            f"{homes[0] / 'config.json'} describes {name}, not a {' or '.join(kinds)}"
        )
    return homes[0]


def _class_name(home: Path) -> str:
    return str(read_json(home / "config.json").get("_class_name"))


def _weights_file(home: Path) -> Path:
    """Returns the file with the weights, or the index of several, after a look at each of them."""
    safe, old, index = home / f"{NAME}.safetensors", home / f"{NAME}.bin", home / INDEX
    if safe.is_file():
        require_safetensors(safe)
        return safe
    if index.is_file():
        for name in sorted(set(dict(read_json(index).get("weight_map", {})).values())):
            _require_part(home / name, index)
        return index
    if old.is_file():
        _require_plain(read_torch_file(old, "meta"), old)
        return old
    raise WeightsError(f"{home.absolute()} has a config.json but no {safe.name} (or {old.name})")


def _require_plain(held: Any, file: Path) -> None:
    """Raises a WeightsError if a .bin is no bare state dict, as diffusers needs it."""
    if not isinstance(held, Mapping) or not held:
        raise WeightsError(f"{file} holds no table of weights; was it saved by net.state_dict()?")
    wrapper = next((w for w in WRAPPERS if all(str(name).startswith(w) for name in held)), None)
    table = next((name for name, v in dict(held).items() if isinstance(v, Mapping)), None)
    if table is not None:
        fault, cure = f"holds its weights under {table!r}", f"held[{table!r}]"
    elif wrapper is not None:
        fault = f"has {wrapper!r} before every name"
        cure = f"{{name.removeprefix({wrapper!r}): v for name, v in held.items()}}"
    else:
        return
    raise WeightsError(
        f"{file} {fault}, which diffusers does not read; write the bare table: "
        f"held = torch.load({file.name!r}, weights_only=True); torch.save({cure}, {file.name!r})"
    )


def _require_part(file: Path, index: Path) -> None:
    if not file.is_file():
        raise WeightsError(
            f"{file.absolute()} is missing, which {index.name} lists; was the download complete?"
        )
    require_safetensors(file)


def _from_cache(source: str, parts: Sequence[str]) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(source, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    return folder if _has_weights(folder, parts) else None


def _from_hub(source: str, parts: Sequence[str]) -> Path:
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    if constants.HF_HUB_OFFLINE:
        raise _unreachable(source, "HF_HUB_OFFLINE is set")
    try:
        folder = _download(source, parts, "safetensors")
        return folder if _has_weights(folder, parts) else _download(source, parts, "bin")
    except RepositoryNotFoundError as error:
        raise WeightsError(
            f"{source!r} is neither a folder here nor a public repository of the hub"
        ) from error
    except (OSError, HfHubHTTPError) as error:
        raise _unreachable(source, f"the hub does not answer: {shortened(error)}") from error


def _download(source: str, parts: Sequence[str], kind: str) -> Path:
    from huggingface_hub import snapshot_download

    files = [f"{NAME}.{kind}", f"{NAME}-*.{kind}", INDEX]
    inside = [f"{part}/{file}" for part in parts for file in _files(part, files)]
    wanted = [*JSON_FILES, *files, *inside]
    return Path(snapshot_download(source, allow_patterns=wanted, etag_timeout=TIMEOUT))


def _files(part: str, network: list[str]) -> list[str]:
    """Returns what a part needs; half-precision copies have names of their own and are left."""
    if part.startswith("tokenizer"):
        return ["*"]
    return TEXT_FILES if part.startswith("text_encoder") else network


def _has_weights(folder: Path, parts: Sequence[str]) -> bool:
    """Tells whether each part is there, or the folder itself is that of a single network."""
    return _has_file(folder) or all(_has_part(folder / part) for part in parts)


def _has_part(home: Path) -> bool:
    if home.name.startswith(("tokenizer", "text_encoder")):
        kind = "json" if home.name.startswith("tokenizer") else "safetensors"
        return any(home.glob(f"*.{kind}"))
    return _has_file(home)


def _has_file(home: Path) -> bool:
    return any((home / f"{NAME}.{kind}").is_file() for kind in KINDS) or (home / INDEX).is_file()


def _unreachable(source: str, why: str) -> WeightsError:
    from huggingface_hub import constants

    return WeightsError(
        f"config.json of {source!r} was looked for in the folder {Path(source).absolute()} and in "
        f"the cache {constants.HF_HUB_CACHE}, and cannot be downloaded ({why}); with a network, "
        f"run `hf download {source}`, or copy the folder here and give its path"
    )
