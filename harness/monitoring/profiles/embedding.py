"""Where in a model the embedding of its rows is, and what passes there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harness.compat import tree_leaves
from harness.properties.tracing import Call, fields_of, path_of


@dataclass(frozen=True)
class EmbeddingPlace:
    """A module, and which end of it the embedding is at.

    Attributes:
        module: Its name; empty for the model itself.
        is_input: Whether the embedding is the module's input, as of a linear head; else its output.
        dims: How many dimensions besides rows and channels the module works on, as a convolution does; 0 for a linear layer, whose features
            are the last axis.
    """

    module: str
    is_input: bool
    dims: int = 0

    def features_last(self, caught: Tensor) -> Tensor:
        """What was caught, its features as the last axis; images keep theirs, which ``one_a_row`` knows."""
        if self.dims and self.dims != 2 and caught.ndim == self.dims + 2:
            return caught.movedim(1, -1)
        return caught.flatten(1, -2) if not self.dims and self.is_input and caught.ndim > 3 else caught


def find_embedding(model: nn.Module, calls: list[Call], classes: int) -> EmbeddingPlace | None:
    """The input of the last linear layer or convolution that gives as many numbers as there are logits, or else the last output.

    Args:
        model: The model.
        calls: A recording of one call of it.
        classes: Size of the last axis of the logits.
    """
    leaves = [call for call in calls if call.outputs and call.inputs and not any(_module(model, call).children())]
    for call in reversed(leaves):
        if _is_head(_module(model, call), classes) and call.inputs[0].is_floating_point():
            weight = _module(model, call).weight
            assert isinstance(weight, Tensor)
            return EmbeddingPlace(_name(call), is_input=True, dims=weight.ndim - 2)
    last = next((call for call in reversed(leaves) if call.outputs[0].is_floating_point()), None)
    return None if last is None else EmbeddingPlace(_name(last), is_input=False)


@contextmanager
def catching(model: nn.Module, place: EmbeddingPlace) -> Iterator[list[Tensor]]:
    """Keeps what passes the place while the model is called."""
    caught: list[Tensor] = []

    def catch(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        tree = (args, kwargs) if place.is_input else fields_of(output)
        caught.extend(leaf.detach() for leaf in tree_leaves(tree)[:1] if isinstance(leaf, Tensor))

    handle = model.get_submodule(place.module).register_forward_hook(catch, with_kwargs=True)
    try:
        yield caught
    finally:
        handle.remove()


def one_a_row(embedding: Tensor, rows: int, real: Tensor | None) -> Tensor | None:
    """An embedding as one vector a row, float64 ``[B, D]``; the mean over positions or pixels. ``None`` where the rows cannot be told.

    Args:
        embedding: ``[B, D]``, ``[B, S, D]``, ``[B * S, D]`` or ``[B, D, H, W]``.
        rows: B.
        real: Which positions count, bool ``[B, S]``, for models with a logit a position.
    """
    found = embedding.double()
    if found.ndim == 2 and len(found) != rows and rows and len(found) % rows == 0:
        found = found.unflatten(0, (rows, -1))
    if found.ndim < 2 or len(found) != rows:
        return None
    if found.ndim == 4:
        return found.mean(dim=(2, 3))
    if found.ndim == 3 and real is not None and found.shape[1] == real.shape[1]:
        weights = real.to(found)
        return torch.einsum("bsd,bs->bd", found, weights) / weights.sum(dim=1, keepdim=True)
    return found.flatten(1, -2).mean(dim=1) if found.ndim > 2 else found


def _module(model: nn.Module, call: Call) -> nn.Module:
    return model.get_submodule(_name(call))


def _name(call: Call) -> str:
    return "" if call.module == path_of("") else call.module


def _is_head(module: nn.Module, classes: int) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim >= 2 and weight.shape[0] == classes and not isinstance(module, nn.Embedding)
