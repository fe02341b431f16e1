"""What an output is: its kind, from its values and from the functions that it comes from."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from harness.tasks.axes import BATCH, Size
from harness.tasks.finding.calling import SINGLE, tensors_in

_VAGUE = ("out", "output", "outputs", "ret", "res", "result", "count", "index", "input", "inputs")
"""Names of variables that say nothing, or that every tuple has; those of a single letter say nothing either."""

_RANGES = {"sigmoid": [0.0, 1.0], "tanh": [-1.0, 1.0]}


def names_of(forward: Callable[..., Any], outputs: Sequence[str]) -> dict[str, str]:
    """A name for each output: its key, or the variable that forward returns in its place; its place where that says nothing."""
    if not all(name == SINGLE or name.isdigit() for name in outputs):
        return {name: name for name in outputs}
    variables = _returned_variables(forward)
    usual = {name: "output" if name == SINGLE else name for name in outputs}
    if len(variables) != len(outputs) or len(set(variables)) != len(variables):
        return usual
    return {
        name: variable if len(variable) > 1 and variable not in _VAGUE else usual[name]
        for name, variable in zip(outputs, variables, strict=True)
    }


def keys_of(name: str, value: Any, axes: Sequence[Size], promise: str) -> tuple[dict[str, Any], str]:
    """The keys of the config that declare an output, without its axes, and what they were read from.

    Args:
        name: Its name.
        value: What the example gave.
        axes: Its axes.
        promise: The function it comes from: ``sigmoid``, ``tanh``, ``normalize``, or none.
    """
    if not isinstance(value, Tensor):
        shapes = ", ".join(str(list(tensor.shape)) for tensor in tensors_in(value))
        return {"kind": "state"}, f"a {type(value).__name__} of tensors {shapes}"
    if not value.ndim and "loss" in name.lower():
        return {"kind": "loss"}, "a single number, by its name"
    if not value.ndim:
        return {"kind": "other"}, "a single number for all rows: only its shape is promised"
    if value.numel() == 1 and not any(isinstance(axis, str) for axis in axes):
        return {"kind": "other"}, "a single number for all rows: only its shape is promised"
    if not value.is_floating_point():
        return {"kind": "other"}, f"{str(value.dtype).removeprefix('torch.')}: only its shape is promised"
    classes = _adds_up_along(value.exp()) if not bool((value > 0).any()) else None
    if classes is not None and isinstance(axes[classes], int):
        position = classes - value.ndim
        keys = {"kind": "class_scores"} | ({} if position == -1 else {"classes": position})
        return keys, f"the exponentials of its values add up to 1 along the axis {position}: logarithms of probabilities"
    along = _adds_up_along(value)
    if along is not None:
        if isinstance(axes[along], int):
            position = along - value.ndim
            return {"kind": "probabilities", "classes": position}, f"its values add up to 1 along the axis {position}"
        return {"kind": "other", "range": [0.0, 1.0]}, f"its values add up to 1 along `{axes[along]}`, as attention does"
    if promise in _RANGES:
        return {"range": _RANGES[promise]}, f"it comes from {promise}"
    if value.ndim > 1 and value.shape[-1] > 1 and torch.allclose(value.norm(dim=-1), torch.ones_like(value[..., 0]), atol=1e-4):
        return {"kind": "embedding", "norm": 1.0}, "its vectors have length 1"
    return {}, "numbers; if they are scores of classes, say `kind: class_scores`"


def main_first(outputs: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The outputs with the one that is judged where one is enough first: neither a loss, nor a state, nor whole numbers."""
    last = ("loss", "state", "other")
    main = next((name for name, keys in outputs.items() if keys.get("kind") not in last and BATCH in keys["axes"]), None)
    main = main or next((name for name, keys in outputs.items() if keys.get("kind") not in last), None)
    return outputs if main is None else {main: outputs[main], **{k: v for k, v in outputs.items() if k != main}}


def _adds_up_along(value: Tensor) -> int | None:
    """The axis along which all values are positive and add up to 1; the last one where several do."""
    if not value.numel() or not bool((value >= 0).all()):
        return None
    for along in reversed(range(value.ndim)):
        total = value.sum(along)
        if value.shape[along] > 1 and torch.allclose(total, torch.ones_like(total), atol=1e-4):
            return along
    return None


def _returned_variables(forward: Callable[..., Any]) -> list[str]:
    """The names of what the last ``return`` of a function gives, as far as they are plain variables."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(forward)))
    except (OSError, TypeError, SyntaxError, ValueError):
        return []
    values = [node.value for node in ast.walk(tree) if isinstance(node, ast.Return) and node.value is not None]
    if len(values) != 1:
        return []
    parts = values[0].elts if isinstance(values[0], ast.Tuple) else [values[0]]
    return [part.id if isinstance(part, ast.Name) else "" for part in parts]
