"""Where a prior's words come from: prompts, or a file of embeddings made elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from plugip.priors.text import Text, load_texts

Encode = Callable[[Sequence[str]], list[Text]]


@dataclass(frozen=True)
class TextSource:
    """The words that a prior is given, checked against each other.

    Args:
        prompt: What the images show.
        negative_prompt: What guidance leads away from.
        guidance_scale: Strength of the guidance; 1 is none.
        file: A file of embeddings, in place of the prompts.

    Raises:
        ValueError: If words are given twice, or would have no effect.
    """

    prompt: str = ""
    negative_prompt: str = ""
    guidance_scale: float = 1.0
    file: str | None = None

    def __post_init__(self) -> None:
        if self.file is not None and (self.prompt or self.negative_prompt):
            raise ValueError("give text=..., a file of embeddings, or prompts, not both")
        if self.guidance_scale == 1 and self.negative_prompt:
            raise ValueError("a negative prompt has no effect with guidance_scale=1; raise it")
        same = self.prompt == self.negative_prompt and self.file is None
        if self.guidance_scale != 1 and same:
            raise ValueError(
                f"guidance_scale {self.guidance_scale:g} leads from the negative prompt to the "
                "prompt, and they are the same; give a prompt, or guidance_scale=1"
            )

    def parts(self, count: int) -> list[str]:
        """Returns the sub-folders with the first ``count`` encoders; none if a file is given."""
        ends = ["", *(f"_{i}" for i in range(2, count + 1))] if self.file is None else []
        return [f"{name}{end}" for end in ends for name in ("text_encoder", "tokenizer")]

    def texts(self, encode: Encode) -> tuple[Text, Text | None]:
        """Returns what prompt and negative prompt say; the latter only where guidance needs it.

        Args:
            encode: Encodes prompts; called once, and not at all if there is a file.
        """
        if self.file is not None:
            return load_texts(self.file)
        if self.guidance_scale == 1:
            return encode([self.prompt])[0], None
        told, untold = encode([self.prompt, self.negative_prompt])
        return told, untold
