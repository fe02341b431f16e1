"""The logits as a function of real numbers: of pixels, of features, or of what the token embeddings return."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from harness.batches import Batch
from harness.properties.subject import Subject, floating_dtype
from harness.randomness import seeded

Point = dict[str, Tensor]
"""Real inputs by field: ``input_ids`` and ``decoder_input_ids`` as embeddings ``[B, S, D]``, the others as they are in a batch."""


@dataclass(frozen=True)
class RealInputs:
    """A model whose real inputs can be chosen.

    Attributes:
        subject: How the model is called.
        model: The model, in eval mode.
        batch: What it is called with otherwise; the ids of its tokens decide on masks and positions.
    """

    subject: Subject
    model: nn.Module
    batch: Batch

    def point(self) -> Point:
        """The real inputs of the batch; of a text those whose embedding was seen, which is none where ids are read in a way of its own."""
        if not self.subject.task.is_text:
            (field,) = (name for name in self.subject.task.facts.inputs if self.batch[name].is_floating_point())
            return {field: self.batch[field].to(floating_dtype(self.model))}
        lookups = _Lookups(self._ids())
        with torch.no_grad(), lookups:
            self.subject.logits_with_grad(self.batch, self.model)
        return lookups.seen

    def logits(self, point: Point) -> Tensor:
        """The logits at a point, with the graph; of a random model the same at each call.

        Raises:
            ModelRaisedError: The model's code raised.
        """
        copies = {name: value.clone() for name, value in point.items()}  # a model may write into what it is given
        with seeded(0), _Lookups(self._ids(), copies) if self.subject.task.is_text else nullcontext():
            return self.subject.logits_with_grad({**self.batch, **({} if self.subject.task.is_text else copies)}, self.model)

    def _ids(self) -> dict[str, Tensor]:
        return {name: self.batch[name] for name in ("input_ids", "decoder_input_ids") if name in self.batch}


def between(start: Point, end: Point, share: float | Tensor) -> Point:
    """The point a share of the way from one to another."""
    return {name: start[name] + share * (end[name] - start[name]) for name in end}


class _Lookups(TorchFunctionMode):
    """Sees, and may replace, what the model looks up for the ids of its tokens, by ``F.embedding`` or ``table[ids]``.

    Args:
        ids: Token ids by field.
        replacements: What is returned for them instead.
    """

    def __init__(self, ids: dict[str, Tensor], replacements: Point | None = None) -> None:
        super().__init__()
        self.seen: Point = {}
        self._ids = ids
        self._replacements = replacements or {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name not in ("embedding", "__getitem__", "index_select") or not isinstance(result, Tensor):
            return result
        field, turned = self._field(args) if result.is_floating_point() else (None, False)
        if field is None:
            return result
        if field not in self._replacements:
            seen = result.transpose(0, 1) if turned else result
            self.seen.setdefault(field, seen.detach().clone().reshape(*self._ids[field].shape, -1))
            return result
        replacement = self._replacements[field]
        if replacement.numel() != result.numel():
            return result
        return (replacement.transpose(0, 1) if turned else replacement).reshape(result.shape)

    def _field(self, args: tuple[Any, ...]) -> tuple[str | None, bool]:
        """The field whose ids are among the arguments, and whether they are read as ``[length, batch]``."""
        for arg in args[:3]:
            if isinstance(arg, Tensor) and not arg.is_floating_point():
                for field, ids in self._ids.items():
                    if arg.numel() == ids.numel() and torch.equal(arg.flatten().long(), ids.flatten()):
                        return field, False
                    if arg.shape == ids.t().shape and torch.equal(arg.long(), ids.t()):
                        return field, True
        return None, False
