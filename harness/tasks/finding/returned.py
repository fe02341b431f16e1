"""What forward returned: the outputs in it, and a name for each."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.distributions import Distribution

SINGLE = ""
"""The name of the output where forward returns a single tensor."""


def outputs_in(returned: Any) -> dict[str, Any]:
    """What forward returned, by key, attribute or place; a single tensor by ``SINGLE``."""
    if isinstance(returned, Tensor):
        return {SINGLE: returned}
    if isinstance(returned, Mapping):
        return {str(key): value for key, value in returned.items()}
    if hasattr(returned, "_fields"):
        return {name: getattr(returned, name) for name in returned._fields}
    if isinstance(returned, (tuple, list)):
        return {key: value for place, item in enumerate(returned) for key, value in _in_a_place(str(place), item)}
    if isinstance(returned, Distribution):
        return _parameters_of(returned)
    return {key: value for key, value in getattr(returned, "__dict__", {}).items() if not key.startswith("_")}


def _in_a_place(place: str, value: Any) -> Iterator[tuple[str, Any]]:
    """What a place of a tuple holds: of a distribution its parameters, as ``0.loc``."""
    if isinstance(value, Distribution):
        yield from ((f"{place}.{name}", tensor) for name, tensor in _parameters_of(value).items())
    else:
        yield place, value


def _parameters_of(value: Distribution) -> dict[str, Any]:
    """The tensors that a distribution was made of, by attribute; its mean and deviation where it keeps those in another one."""
    own = {name: each for name, each in vars(value).items() if isinstance(each, Tensor) and not name.startswith("_")}
    try:
        return own or {"mean": value.mean, "stddev": value.stddev}
    except NotImplementedError:
        return {}


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in nested lists, tuples and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from tensors_in(inner)
    elif isinstance(value, (tuple, list)):
        for inner in value:
            yield from tensors_in(inner)


def is_there(value: Any) -> bool:
    """Whether something that was returned holds a tensor."""
    return next(tensors_in(value), None) is not None


_VAGUE = ("out", "output", "outputs", "ret", "res", "result", "count", "index", "input", "inputs")
"""Names of variables that say nothing, or that every tuple has; those of a single letter say nothing either."""


def names_of(forward: Callable[..., Any], outputs: Sequence[str]) -> dict[str, str]:
    """A name for each output: its key, or the variable that forward returns in its place; its place where that says nothing."""
    if not all(name == SINGLE or name.partition(".")[0].isdigit() for name in outputs):
        return {name: name for name in outputs}
    attributes = {name: name.partition(".")[2] for name in outputs if "." in name}
    if attributes:  # those of a tuple with a distribution in it
        own = [*attributes.values()]
        named = names_of(forward, list(dict.fromkeys(name.partition(".")[0] for name in outputs)))
        return {
            name: (attributes[name] if own.count(attributes[name]) == 1 else name) if name in attributes else named[name]
            for name in outputs
        }
    variables = _returned_variables(forward)
    usual = {name: "output" if name == SINGLE else name for name in outputs}
    if len(variables) != len(outputs) or len(set(variables)) != len(variables):
        return usual
    return {
        name: variable if len(variable) > 1 and variable not in _VAGUE else usual[name]
        for name, variable in zip(outputs, variables, strict=True)
    }


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
