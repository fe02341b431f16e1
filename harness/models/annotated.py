"""Calls from annotations with shapes, such as jaxtyping's ``Float[Tensor, "batch 3 height width"]``."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterator
from itertools import islice, product

import torch
from torch import Tensor, nn

from harness.models.copies import clone

_BATCH = 2
_USUAL = (16, 32, 8, 12, 64, 4)
"""Sizes to try for an axis of which nothing is known; no two axes start with the same one."""

_MOST_CALLS = 300
_MOST_AXES = 4
_MOST_SIZES = 12
_LARGEST = 4096

_SETTINGS = ("config", "hparams", "cfg", "args")
"""Attributes in which models keep their settings."""


def annotated_call(model: nn.Module) -> dict[str, Tensor] | None:
    """Tensors of the annotated shapes that the model takes; ``None`` where a required argument has no such annotation, or none fits."""
    shapes = _shapes(model)
    required = [p.name for p in inspect.signature(model.forward).parameters.values() if _is_required(p)]
    if not shapes or any(name not in shapes for name in required):
        return None
    for arguments in islice(_attempts(model, shapes), _MOST_CALLS):
        try:
            with torch.no_grad():
                clone(model).eval()(**arguments)
        except Exception:
            continue
        return arguments
    return None


def axis_names(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """The names of the axes of each annotated argument."""
    return {name: axes for name, (axes, _) in _shapes(model).items()}


def _shapes(model: nn.Module) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """The axes and the dtypes of the arguments that are annotated with shapes."""
    try:
        hints = typing.get_type_hints(model.forward)
    except Exception:  # an annotation that only a type checker can resolve
        hints = {name: p.annotation for name, p in inspect.signature(model.forward).parameters.items()}
    found = {}
    for name, hint in hints.items():
        plain = next((part for part in (hint, *typing.get_args(hint)) if isinstance(getattr(part, "dim_str", None), str)), None)
        if plain is None or name == "return":
            continue
        axes = tuple(axis.lstrip("#*?").split("=")[-1] for axis in plain.dim_str.split())
        if all(axis.isidentifier() or axis.isdigit() for axis in axes):
            found[name] = (axes, tuple(map(str, getattr(plain, "dtypes", ()))))
    return found


def _attempts(model: nn.Module, shapes: dict[str, tuple[tuple[str, ...], tuple[str, ...]]]) -> Iterator[dict[str, Tensor]]:
    """Tensors of the annotated shapes, with likely sizes for the axes."""
    names = list(dict.fromkeys(axis for axes, _ in shapes.values() for axis in axes if not axis.isdigit()))
    known = _sizes_in(model)
    choices = []
    for place, name in enumerate(names):
        usual = _USUAL[place % len(_USUAL) :] + _USUAL[: place % len(_USUAL)]
        own = [known[name]] if name in known else []
        first = [_BATCH] if name.lower() in ("b", "n", "bs", "batch", "batch_size") else []
        choices.append(list(dict.fromkeys([*own, *first, *usual, *known.values()])))
    # Neighbours of the likeliest sizes first: how far each choice is from the first one adds up.
    near = product(*(range(min(len(sizes), _MOST_SIZES)) for sizes in choices)) if len(choices) <= _MOST_AXES else iter([])
    places = sorted(near, key=sum) or [(0,) * len(choices)]
    for chosen in places:
        sizes = {name: choices[n][chosen[n]] for n, name in enumerate(names)}
        yield {
            name: _made([int(axis) if axis.isdigit() else sizes[axis] for axis in axes], dtypes)
            for name, (axes, dtypes) in shapes.items()
        }


def _sizes_in(model: nn.Module) -> dict[str, int]:
    """Sizes that the model and its layers keep, by the name of the attribute."""
    found: dict[str, int] = {}
    for module in (model, *model.modules()):
        kept = [value for key, value in vars(module).items() if key in _SETTINGS and hasattr(value, "__dict__")]
        settings = [vars(module), *map(vars, kept)]
        for values in settings:
            for key, value in values.items():
                if type(value) is int and 1 < value <= _LARGEST and not key.startswith("_"):
                    found.setdefault(key, value)
    return found


def _made(shape: list[int], dtypes: tuple[str, ...]) -> Tensor:
    if any("bool" in dtype for dtype in dtypes) and len(dtypes) == 1:
        return torch.ones(shape, dtype=torch.bool)
    if dtypes and all("int" in dtype for dtype in dtypes):
        return torch.randint(2, shape)
    return torch.randn(shape)


def _is_required(parameter: inspect.Parameter) -> bool:
    return parameter.default is parameter.empty and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
