"""The losses of PyTorch that are called with what a model returned, and which part they have in what ``backward`` is called with."""

from __future__ import annotations

import inspect
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from harness.recording import SeenLoss, SeenTotal
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

_RESULTS = 16
"""Losses of one step that are kept until ``backward``."""

_AS_ONE = 1e-4
"""Share of a loss by which the sum of its parts may differ from it, by rounding."""

_REDUCING = ("reduction", "size_average", "reduce")
"""Options of a loss that change it by a factor."""


class Losses:
    """The losses of what was returned last, once ``install`` was called.

    Attributes:
        total: What ``backward`` was called with first that depends on what the model returned.
        backwards: How often it was called.
    """

    def __init__(self) -> None:
        self._calls: deque[tuple[dict[str, Tensor], dict[str, Tensor]]] = deque(maxlen=_CALLS)
        self._within: list[tuple[str, Mapping[str, Any], Tensor, str]] = []
        self._results: deque[tuple[SeenLoss, Tensor]] = deque(maxlen=_RESULTS)
        self._computed: dict[tuple[str, str], SeenLoss] = {}
        self.backwards = 0
        self.total: SeenTotal | None = None
        self._is_within = False

    @property
    def found(self) -> list[SeenLoss]:
        """The losses that are trained by, or, where nothing is trained, that were computed; one for each output and function."""
        return list(self._computed.values()) if self.total is None else list(self.total.parts)

    @contextmanager
    def within(self) -> Iterator[None]:
        """A block in which a model runs: only what it returns shows which of its outputs a loss is of."""
        self._within.clear()
        self._is_within = True
        try:
            yield
        finally:
            self._is_within = False

    def returned(self, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> None:
        """Takes what the model was given and returned last."""
        self._calls.append((dict(inputs), dict(outputs)))
        for call in self._within:
            self._note(*call)

    def install(self) -> None:
        """Begins to watch: the classes of ``torch.nn`` call these functions too."""
        for name in _LOSSES:
            setattr(functional, name, self._watched(getattr(functional, name), name))
        backward, losses = Tensor.backward, self

        @wraps(backward)
        def watched(tensor: Tensor, *args: Any, **kwargs: Any) -> None:
            losses.backwards += 1
            if losses._calls and losses.total is None:
                losses.total = losses._as_sum(tensor, place_of(sys._getframe(1)))
            losses._results.clear()
            backward(tensor, *args, **kwargs)

        Tensor.backward = watched  # type: ignore[method-assign, assignment]

    def _watched(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        losses, signature = self, inspect.signature(function)

        @wraps(function)
        def watched(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            given = signature.bind(*args, **kwargs)
            call = (name, given.arguments, result, place_of(sys._getframe(1)))
            if losses._is_within:
                losses._within.append(call)
            elif losses._calls:
                losses._note(*call)
            return result

        return watched

    def _note(self, written: str, arguments: Mapping[str, Any], result: Tensor, place: str) -> None:
        given, target, *_ = [*(each for each in arguments.values() if isinstance(each, Tensor)), None, None]
        if given is None or target is None:
            return
        name = _LOSSES[written]
        found = self._output_of(given)
        if found is None and name in _SYMMETRIC:
            given, target = target, given
            found = self._output_of(given)
        if found is None:
            return
        output, steps = found
        loss = SeenLoss(
            name,
            written,
            output,
            moved=any(step in _MOVES for step in steps),
            squash=next((_SQUASHES[step] for step in steps if step in _SQUASHES), ""),
            label=next((each for inputs, _ in self._calls for each, value in inputs.items() if _is_same(value, target)), ""),
            place=place,
            target=tuple(target.shape),
            dtype=str(target.dtype).removeprefix("torch."),
            options=_options(written, arguments),
            plain=_plain(written, arguments, result),
        )
        self._computed.setdefault((output, written), loss)
        self._results.append((loss, result))

    def _as_sum(self, total: Tensor, place: str) -> SeenTotal | None:
        """What ``backward`` is called with, as a sum of the losses that were seen and a rest; ``None`` where the model has no part in it.

        The derivative by a loss is the factor that it has in the sum.
        """
        outputs = {name: each for _, outputs in self._calls for name, each in outputs.items() if each.requires_grad}
        results = [(loss, result) for loss, result in self._results if result.requires_grad]
        of = [*outputs.values(), *(result for _, result in results)]
        try:
            found = torch.autograd.grad(total.sum(), of, retain_graph=True, allow_unused=True)
        except (RuntimeError, NotImplementedError):  # of a graph that is used up, for one, which `backward` says
            return None
        if all(each is None for each in found):
            return None
        value = total.sum().item()
        for (name, output), factor in zip(outputs.items(), found, strict=False):
            if factor is not None and output.numel() == 1 and _is_near((factor * output).sum().item(), value):
                inner = {(loss.output, loss.written): loss for loss, _ in results}
                return SeenTotal(place, value, 0.0, tuple(inner.values()), name)
        parts: dict[tuple[str, str], SeenLoss] = {}
        for (loss, result), factor in zip(results, found[len(outputs) :], strict=True):
            if factor is None or not bool(factor.any()):
                continue
            is_even = bool((factor == factor.flatten()[0]).all())
            options = loss.options if is_even else ", ".join(filter(None, (loss.options, "weights of its elements")))
            before = parts.get((loss.output, loss.written))
            share = (factor * result).sum().item() + (before.share if before else 0.0)
            parts[(loss.output, loss.written)] = replace(before or loss, options=options, share=share)
        rest = value - sum(each.share for each in parts.values())
        return SeenTotal(place, value, 0.0 if _is_near(rest + value, value) else rest, tuple(parts.values()))

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


def _is_near(one: float, other: float) -> bool:
    return abs(one - other) <= _AS_ONE * max(abs(one), abs(other))


def _plain(written: str, arguments: Mapping[str, Any], result: Tensor) -> float:
    """What the loss is without its options, as a config has it."""
    with torch.no_grad():
        if written == "ctc_loss":
            return result.mean().item()
        return getattr(functional, written).__wrapped__(*list(arguments.values())[:2]).item()


def _options(written: str, arguments: Mapping[str, Any]) -> str:
    """The options by which a loss is another than the one of its name: ``label_smoothing=0.1``."""
    parameters = inspect.signature(getattr(functional, written)).parameters
    changed = {
        name: value
        for name, value in list(arguments.items())[2:]
        if name not in (*_REDUCING, "input_lengths", "target_lengths", "blank") and value is not parameters[name].default
    }
    plain = {name: f"{name}={value!r}" if isinstance(value, (int, float)) else name for name, value in changed.items()}
    return ", ".join(text for name, text in plain.items() if changed[name] != parameters[name].default)


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
