"""Prompts as numbers: text encoders run once when a prior is built, and are dropped then.

Embeddings can also be made on another machine and kept in a file, so that a prior needs neither
the text encoders nor the package ``transformers`` where it runs::

    told, untold = clip_texts(folder, ["a portrait", ""])
    save_texts("portrait.safetensors", told, untold)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from plugip.priors.tensors import (
    WeightsError,
    read_tensors,
    read_torch_file,
    require_safetensors,
    settle,
    shortened,
)

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


@dataclass(frozen=True)
class Text:
    """What a network is told about an image.

    Attributes:
        tokens: One vector for each place in the prompt, (L, D), padding included.
        pooled: One vector for the whole prompt, (P,), for networks that take one.
    """

    tokens: Tensor
    pooled: Tensor | None = None

    def parts(self) -> dict[str, Tensor]:
        """Returns the tensors that there are, by name."""
        return {"tokens": self.tokens} | ({} if self.pooled is None else {"pooled": self.pooled})


def save_texts(file: str | Path, told: Text, untold: Text | None = None) -> None:
    """Writes the embeddings of a prompt, and of a negative prompt, to a safetensors file.

    Args:
        file: Where to write.
        told: What the prompt says.
        untold: What the negative prompt says; guidance needs it.
    """
    from safetensors.torch import save_file

    texts = {"prompt": told} | ({} if untold is None else {"negative": untold})
    tensors = {
        f"{name}.{part}": value.contiguous()
        for name, text in texts.items()
        for part, value in text.parts().items()
    }
    save_file(tensors, str(file))


def load_texts(file: str | Path) -> tuple[Text, Text | None]:
    """Reads what ``save_texts`` wrote: the prompt, and the negative prompt if there is one.

    Raises:
        WeightsError: If the file is missing or holds no such embeddings.
    """
    place = Path(file).expanduser()
    tensors = read_tensors(place)
    if "prompt.tokens" not in tensors:
        raise WeightsError(
            f"{place} has no prompt.tokens, so it is no file of plugip.priors.text.save_texts"
        )
    told = Text(tensors["prompt.tokens"], tensors.get("prompt.pooled"))
    if "negative.tokens" not in tensors:
        return told, None
    return told, Text(tensors["negative.tokens"], tensors.get("negative.pooled"))


# -----------------------------------------------------------------------------------------------
# the encoders of each family


def clip_texts(
    folder: Path, prompts: Sequence[str], dtype: torch.dtype = torch.float32
) -> list[Text]:
    """Encodes prompts as Stable Diffusion 1 and 2 read them: CLIP's last hidden states.

    Args:
        folder: A pipeline's folder with ``text_encoder`` and ``tokenizer``.
        prompts: The prompts; an empty one is allowed.
        dtype: Precision of the encoder.

    Raises:
        WeightsError: If a file is missing or does not fit.
        ValueError: If a prompt is too long, or ``transformers`` is not installed.
    """
    encoder, ids = _read(folder, "", "CLIPTextModel", prompts, None, dtype, cut=False)
    with torch.no_grad():
        return [Text(states) for states in encoder(ids)[0].float()]


def sd3_texts(
    folder: Path,
    prompts: Sequence[str],
    width: int,
    t5: bool = True,
    length: int = 256,
    dtype: torch.dtype = torch.float32,
) -> list[Text]:
    """Encodes prompts as Stable Diffusion 3 reads them: two CLIPs side by side, then T5.

    CLIP reads the first 77 tokens of a long prompt, T5 all of it.

    Args:
        folder: A pipeline's folder with three text encoders and tokenizers.
        prompts: The prompts; an empty one is allowed.
        width: Length of a token's vector, ``joint_attention_dim`` of the network.
        t5: Whether T5, by far the largest encoder, is read; zeros stand in for it otherwise, as in
            the network's own training and release.
        length: Number of T5's tokens.
        dtype: Precision of the encoders.

    Raises:
        WeightsError, ValueError: As ``clip_texts`` does.

    Source: Esser et al. 2024 (Stable Diffusion 3), on its text representation.
    """
    clips = [_penultimate(folder, end, prompts, dtype, cut=t5) for end in ("", "_2")]
    states = torch.cat([states for states, _ in clips], -1)
    pooled = torch.cat([pooled for _, pooled in clips], -1)
    states = pad(states, (0, width - states.shape[-1]))
    long = _t5(folder, "_3", prompts, length, dtype) if t5 else states.new_zeros(1, length, width)
    tokens = torch.cat([states, long.expand(len(states), -1, -1)], 1)
    return [Text(one, whole) for one, whole in zip(tokens, pooled, strict=True)]


def flux_texts(
    folder: Path,
    prompts: Sequence[str],
    length: int = 512,
    dtype: torch.dtype = torch.float32,
) -> list[Text]:
    """Encodes prompts as Flux reads them: T5's states, and CLIP's vector of the whole prompt.

    CLIP reads the first 77 tokens of a long prompt, T5 all of it.

    Args:
        folder: A pipeline's folder with two text encoders and tokenizers.
        prompts: The prompts; an empty one is allowed.
        length: Number of T5's tokens.
        dtype: Precision of the encoders.

    Raises:
        WeightsError, ValueError: As ``clip_texts`` does.
    """
    tokens = _t5(folder, "_2", prompts, length, dtype)
    encoder, ids = _read(folder, "", "CLIPTextModel", prompts, None, dtype, cut=True)
    with torch.no_grad():
        pooled = encoder(ids).pooler_output.float()
    return [Text(one, whole) for one, whole in zip(tokens, pooled, strict=True)]


def _penultimate(
    folder: Path, end: str, prompts: Sequence[str], dtype: torch.dtype, cut: bool
) -> tuple[Tensor, Tensor]:
    """Returns CLIP's last states but one, (N, L, D), and its projected vectors, (N, P)."""
    encoder, ids = _read(folder, end, "CLIPTextModelWithProjection", prompts, None, dtype, cut)
    with torch.no_grad():
        read = encoder(ids, output_hidden_states=True)
    return read.hidden_states[-2].float(), read.text_embeds.float()


def _t5(folder: Path, end: str, prompts: Sequence[str], length: int, dtype: torch.dtype) -> Tensor:
    encoder, ids = _read(folder, end, "T5EncoderModel", prompts, length, dtype, cut=False)
    with torch.no_grad():
        return encoder(ids)[0].float()


def _read(
    folder: Path,
    end: str,
    kind: str,
    prompts: Sequence[str],
    length: int | None,
    dtype: torch.dtype,
    cut: bool,
) -> tuple[Any, Tensor]:
    """Returns a text encoder and its padded tokens, (N, length); None: all that it can read."""
    encoder = _load_encoder(folder / f"text_encoder{end}", kind, dtype)
    tokenizer = _load_tokenizer(folder / f"tokenizer{end}", kind)
    places = length or min(tokenizer.model_max_length, encoder.config.max_position_embeddings)
    counts = [len(ids) for ids in tokenizer(list(prompts)).input_ids]
    if max(counts) > places and not cut:
        raise ValueError(
            f"the prompt has {max(counts)} tokens, {folder.name}'s text encoder reads {places}; "
            "shorten it"
        )
    padded = tokenizer(
        list(prompts),
        padding="max_length",
        max_length=places,
        truncation=True,
        return_tensors="pt",
    )
    return encoder, padded.input_ids


def _load_encoder(home: Path, kind: str, dtype: torch.dtype) -> Any:
    _require_weights(home)
    load: Any = getattr(_transformers(), kind).from_pretrained
    try:
        encoder, info = load(
            str(home), dtype=dtype, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, TypeError, KeyError) as error:
        raise WeightsError(f"{home} is not a {kind}: {shortened(error)}") from error
    lost = [*info["missing_keys"], *info.get("mismatched_keys", ())]
    if lost:
        raise WeightsError(
            f"the weights in {home} do not fill its {kind}: {sorted(lost)[0]} is missing (and "
            f"{len(lost) - 1} further tensors)"
        )
    settle(encoder)
    return encoder.eval()


def _require_weights(home: Path) -> None:
    found = [home / name for name in WEIGHTS if (home / name).is_file()]
    if not found or not (home / "config.json").is_file():
        raise WeightsError(
            f"{home.absolute()} lacks config.json or {WEIGHTS[0]}, the text encoder; download the "
            "whole pipeline, or give text=..., a file of embeddings made elsewhere"
        )
    if found[0].suffix == ".safetensors":
        require_safetensors(found[0])
    if found[0].suffix == ".bin":
        read_torch_file(found[0], "meta")


def _load_tokenizer(home: Path, kind: str) -> Any:
    name = "T5TokenizerFast" if kind.startswith("T5") else "CLIPTokenizer"
    if not home.is_dir():
        raise WeightsError(
            f"there is no folder {home.absolute()} with the tokenizer; download the whole "
            "pipeline, or give text=..., a file of embeddings made elsewhere"
        )
    load: Any = getattr(_transformers(), name).from_pretrained
    try:
        return load(str(home), local_files_only=True)
    except (OSError, ValueError, RuntimeError, TypeError, KeyError) as error:
        raise WeightsError(f"{home} is not a {name}: {shortened(error)}") from error


def _transformers() -> Any:
    try:
        import transformers  # pyright: ignore[reportMissingImports]  # an extra
    except ModuleNotFoundError as error:
        raise ValueError(
            "prompts are encoded by the package transformers, which is not installed; run "
            "`pip install 'plugip[text]'`, or give text=..., a file of embeddings made elsewhere"
        ) from error
    return transformers
