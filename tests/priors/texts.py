"""Tiny text encoders and tokenizers, in the formats of CLIP and T5; need ``transformers``."""

from __future__ import annotations

import importlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from latents import made

needs_transformers = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None,
    reason="prompts are encoded by transformers, the extra plugip[text], which is not installed",
)
LETTERS = "abcdefghijklmnopqrstuvwxyz,"
PLACES = 16  # tokens that these CLIPs read


def transformers() -> Any:
    return importlib.import_module("transformers")


def pipeline_of(name: str) -> Any:
    """Returns a pipeline's class; diffusers has it where transformers is installed."""
    return getattr(importlib.import_module("diffusers"), name)


def clip_folder(folder: Path, kind: str, width: int, projection: int | None = None) -> Any:
    """Returns a tokenizer whose vocabulary is written to a folder, and a small CLIP encoder."""
    folder.mkdir(parents=True, exist_ok=True)
    words = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "ca", "cat</w>"]
    vocabulary = {word: i for i, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\nc a\nca t</w>\n")
    tokenizer = transformers().CLIPTokenizer.from_pretrained(str(folder), model_max_length=PLACES)
    config = transformers().CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=PLACES,
        projection_dim=projection or width,
        bos_token_id=len(vocabulary) - 2,
        eos_token_id=len(vocabulary) - 1,
        pad_token_id=len(vocabulary) - 1,
    )
    return tokenizer, made(getattr(transformers(), kind), seed=6, config=config)


def t5_folder(folder: Path, width: int) -> Any:
    """Returns a tokenizer of T5's kind, whose vocabulary is given here, and a small encoder."""
    kind = transformers().T5TokenizerFast
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    words = [(letter, -3.0) for letter in LETTERS] + [("▁cat", -1.0), ("▁a", -1.0)]
    tokenizer = kind(vocab=[*special, *words], extra_ids=0)
    tokenizer.save_pretrained(str(folder))
    tokenizer = kind.from_pretrained(str(folder))
    config = transformers().T5Config(
        vocab_size=len(tokenizer),
        d_model=width,
        d_kv=4,
        d_ff=16,
        num_layers=1,
        num_heads=2,
        is_encoder_decoder=False,
        use_cache=False,
    )
    return tokenizer, made(transformers().T5EncoderModel, seed=7, config=config)
