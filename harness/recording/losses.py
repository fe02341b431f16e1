"""The losses of PyTorch that are called with what a model returned: which output, what it went through, and what the label is."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from harness.recording import SeenLoss
from harness.recording.constructions import place_of

_LOSSES = {
    "cross_entropy": "cross_entropy",
    "nll_loss": "nll",
    "binary_cross_entropy": "log_loss",
    "binary_cross_entropy_with_logits": "bce",
    "mse_loss": "mse",
    "l1_loss": "l1",
    "smooth_l1_loss": "huber",
    "huber_loss": "huber",
    "ctc_loss": "ctc",
    **dict.fromkeys(("kl_div", "gaussian_nll_loss", "poisson_nll_loss", "cosine_embedding_loss", "triplet_margin_loss"), ""),
    **dict.fromkeys(("margin_ranking_loss", "hinge_embedding_loss", "multi_margin_loss", "soft_margin_loss"), ""),
}
"""Functions of PyTorch, each with the name that a config has for it."""

_SYMMETRIC = ("mse", "l1", "huber")
_SQUASHES = {"Sigmoid": "sigmoid", "Softmax": "softmax", "LogSoftmax": "log_softmax"}
_KEEPS = ("Squeeze", "Unsqueeze", "Clone", "ToCopy", "Alias", "Contiguous")
_MOVES = ("View", "Reshape", "UnsafeView", "ReshapeAlias", "Transpose", "Permute", "T", "Expand")
_CALLS = 4
"""Calls of the model for one loss, as of its parts or of several views."""

_LONGEST = 12
"""Operators between an output and its loss."""


class Losses:
    """The losses of what was returned last, once ``install`` was called.

    Attributes:
        found: Each loss by output and function.
        own: The first line on which ``backward`` was called.
        backwards: How often it was.
        is_within: Whether the model runs, whose losses are its own.
    """

    def __init__(self) -> None:
        self._calls: deque[tuple[dict[str, Tensor], dict[str, Tensor]]] = deque(maxlen=_CALLS)
        self.backwards = 0
        self.found: dict[tuple[str, str], SeenLoss] = {}
        self.own = ""
        self.is_within = False

    def returned(self, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> None:
        """Takes what the model was given and returned last."""
        self._calls.append((dict(inputs), dict(outputs)))

    def install(self) -> None:
        """Begins to watch: the classes of ``torch.nn`` call these functions too."""
        for name in _LOSSES:
            setattr(functional, name, self._watched(getattr(functional, name), name))
        backward, losses = Tensor.backward, self

        @wraps(backward)
        def watched(tensor: Tensor, *args: Any, **kwargs: Any) -> None:
            losses.backwards += 1
            if losses._calls and not losses.own:
                losses.own = place_of(sys._getframe(1))
            backward(tensor, *args, **kwargs)

        Tensor.backward = watched  # type: ignore[method-assign, assignment]

    def _watched(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        losses = self

        @wraps(function)
        def watched(*args: Any, **kwargs: Any) -> Any:
            if not losses.is_within and losses._calls:
                losses._note(name, args, kwargs, place_of(sys._getframe(1)))
            return function(*args, **kwargs)

        return watched

    def _note(self, written: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], place: str) -> None:
        values = [each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)][:2]
        if len(values) < 2:
            return
        given, target = values
        name = _LOSSES[written]
        found = self._output_of(given)
        if found is None and name in _SYMMETRIC:
            given, target = target, given
            found = self._output_of(given)
        if found is None:
            return
        output, steps = found
        squash = next((_SQUASHES[step] for step in steps if step in _SQUASHES), "")
        label = next((each for inputs, _ in self._calls for each, value in inputs.items() if _is_same(value, target)), "")
        moved = any(step in _MOVES for step in steps)
        loss = SeenLoss(
            name, written, output, moved, squash, label, place, tuple(target.shape), str(target.dtype).removeprefix("torch.")
        )
        self.found.setdefault((output, written), loss)

    def _output_of(self, value: Tensor) -> tuple[str, list[str]] | None:
        """The output that a tensor is, or was computed from by operators that keep its values; with these."""
        returned = [(name, output) for _, outputs in self._calls for name, output in outputs.items()]
        for name, output in returned:
            if value is output or _is_same(value, output):
                return name, []
        nodes = {output.grad_fn: name for name, output in returned if output.grad_fn is not None}
        steps: list[str] = []
        for node, step in _back(value.grad_fn):
            if node in nodes:
                return nodes[node], steps
            if step not in (*_KEEPS, *_MOVES, *_SQUASHES):
                return None
            steps.append(step)
        return None


def _back(node: Any) -> Iterator[tuple[Any, str]]:
    """The operators that made a tensor, the last one first, as long as each has one input."""
    for _ in range(_LONGEST):
        if node is None:
            return
        yield node, type(node).__name__.partition("Backward")[0].lstrip("_")
        before = [each for each, _ in node.next_functions if each is not None]
        node = before[0] if len(before) == 1 else None


def _is_same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same elements, in another shape perhaps."""
    if one is other:
        return True
    try:
        is_at_one_place = one.data_ptr() == other.data_ptr() and one.data_ptr() != 0
    except RuntimeError:  # without memory
        return False
    return is_at_one_place and one.numel() == other.numel() and one.dtype == other.dtype


def tensors_of(values: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors among values."""
    return {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}
