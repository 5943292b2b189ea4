"""What operators keep between calls: results made of a buffer, until the buffer changes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import torch
from torch import Tensor


class Memo:
    """Results that were made of a tensor, each kept until the tensor or its key changes.

    A memo itself never changes, so that copies of an operator that share one keep theirs. Moving
    an operator to another device or precision gives it a new tensor, and with it new results.
    """

    def __init__(self, kept: Mapping[str, tuple[Any, ...]] | None = None) -> None:
        self._kept = dict(kept or {})

    def recall(
        self, name: str, source: Tensor, key: Hashable, make: Callable[[], Any]
    ) -> tuple[Any, Memo]:
        """Returns the result of that name, made anew if need be, and the memo that keeps it.

        Args:
            name: What the result is called.
            source: The tensor of which ``make`` makes it.
            key: On what else it depends.
            make: Makes it.
        """
        if source.requires_grad or source.is_inference():  # a graph, or changes that do not show
            return make(), self
        state = (key, source._version)
        kept = self._kept.get(name)
        if kept is not None and kept[0] is source and kept[1] == state:
            return kept[2], self
        with torch.inference_mode(False):  # what inference mode makes cannot be used in training
            made = make()
        return made, Memo(self._kept | {name: (source, state, made)})


class Remembers:
    """Gives an operator a memo."""

    _memo: Memo = Memo()

    def _remember(self, name: str, source: Tensor, key: Hashable, make: Callable[[], Any]) -> Any:
        """Returns what ``make`` makes of ``source``; arguments as in ``Memo.recall``."""
        result, memo = self._memo.recall(name, source, key, make)
        if memo is not self._memo:  # to set an attribute of a module takes longer than to look
            self._memo = memo
        return result
