"""One working call of a model, as its author gives it: an example function, what Lightning and Hugging Face keep, or annotations with shapes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from harness.errors import ExampleError
from harness.models.annotated import annotated_call, axis_names
from harness.runtime import seeded
from harness.user_code import raised

FUNCTION = "example_inputs"
"""Name of the function in a model's file, or of the model, that gives an example."""

_ATTRIBUTES = (FUNCTION, "example_input_array", "dummy_inputs")
"""What a model has where its author or its library gives an example; those of Lightning and of Hugging Face too."""

_SIDE = 64
"""Side of an image where a model's settings do not say one, in pixels."""

_SAMPLES = 4000
"""Length of a sound, a quarter of a second at the usual rate."""

WHERE_TO_GIVE = (
    f"Declare `inputs` and `outputs`, or give an example of forward's arguments: a function {FUNCTION} in the model's file, "
    "or `example` as file.py:function. `modeltiers init` searches for a call that works"
)


@dataclass(frozen=True)
class Example:
    """One working call.

    Attributes:
        arguments: Forward's arguments by parameter name.
        origin: Where it comes from, for people.
        axis_names: Names of the axes of an argument, where annotations give them.
    """

    arguments: dict[str, Any]
    origin: str
    axis_names: dict[str, tuple[str, ...]] = field(default_factory=dict)


def find_example(model: nn.Module, module: ModuleType | None, seed: int = 0) -> Example | None:
    """The example that a model, or the file that it is in, gives; ``None`` where there is none.

    Args:
        model: The model.
        module: The imported file.
        seed: What random numbers of an example are drawn under.

    Raises:
        ExampleError: There is one that cannot be used.
    """
    function = getattr(module, FUNCTION, None)
    if module is not None and callable(function):
        return called_example(function, f"{FUNCTION} in {_file_of(module)}", model, seed)
    if (made := _from_settings(model)) is not None:
        return made
    for name in _ATTRIBUTES:
        origin = f"{type(model).__name__}.{name}"
        try:
            found = getattr(model, name, None)
        except Exception as error:  # of a property
            raise ExampleError(f"{origin} raised {raised(error)}") from error
        if isinstance(found, Mapping) and getattr(model, "main_input_name", None) not in (None, *found):
            continue  # of any Hugging Face model: token ids, which this one, a forecaster perhaps, does not read
        if callable(found):
            return called_example(found, origin, model, seed)
        if found is not None:
            return Example(arguments_of(found, model, origin), origin, axis_names(model))
    with seeded(seed):
        arguments = annotated_call(model)
    if arguments is None:
        return None
    return Example(arguments, f"the annotations of {type(model).__name__}.forward", axis_names(model))


def _from_settings(model: nn.Module) -> Example | None:
    """An input of a Hugging Face model that reads pixels or sound: its ``dummy_inputs`` are token ids, whatever it reads."""
    name, settings = getattr(model, "main_input_name", ""), getattr(model, "config", None)
    shapes: dict[str, tuple[int, ...]] = {"input_values": (2, _SAMPLES)}
    if name == "pixel_values":
        side = getattr(settings, "image_size", None) or _SIDE
        height, width = side if isinstance(side, (tuple, list)) else (side, side)
        shapes[name] = (2, getattr(settings, "num_channels", 3), height, width)
    if name not in shapes:
        return None
    values = torch.randn(shapes[name], generator=torch.Generator().manual_seed(0))
    return Example({name: values}, f"{type(model).__name__}.main_input_name and its config")


def called_example(function: Callable[..., Any], origin: str, model: nn.Module, seed: int = 0) -> Example:
    """What an example function gives; one with a parameter gets the model.

    Raises:
        ExampleError: It raises, or gives nothing that forward can be called with.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
        needs_model = any(p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)
        with seeded(seed):
            given = function(model) if needs_model else function()
    except Exception as error:
        raise ExampleError(f"{origin} raised {raised(error)}") from error
    return Example(arguments_of(given, model, origin), origin, axis_names(model))


def arguments_of(given: Any, model: nn.Module, origin: str) -> dict[str, Any]:
    """Forward's arguments by name: a dict by its keys, a tuple in order (a dict at its end by keys), anything else as the first one.

    Raises:
        ExampleError: There is none, or more than forward takes.
    """
    signature = inspect.signature(model.forward)
    names = [p.name for p in signature.parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    shown = f"{type(model).__name__}.forward{signature}"
    if given is None or isinstance(given, (str, bytes)) or (isinstance(given, (tuple, list, Mapping)) and not given):
        raise ExampleError(f"{origin} gives {_shown(given)}, expected a tensor, a tuple or a dict for {shown}")
    if isinstance(given, Mapping) and (takes_any or set(given) <= set(names)):
        return dict(given)
    if isinstance(given, Mapping) and len(names) > 1:
        wrong = next(key for key in given if key not in names)
        raise ExampleError(f"{origin} gives {wrong!r}, which is no parameter of {shown}")
    if not isinstance(given, (tuple, list)) or hasattr(given, "_fields"):
        given = (given,)
    *first, last = given
    by_name = dict(last) if isinstance(last, Mapping) and first and set(last) <= set(names) else {}
    positional = first if by_name else list(given)
    if len(positional) > len(names) and not any(p.kind is p.VAR_POSITIONAL for p in signature.parameters.values()):
        if len(names) == 1 and all(isinstance(part, Tensor) for part in positional):
            return {names[0]: tuple(positional)}
        raise ExampleError(f"{origin} gives {len(positional)} values, more than {shown} has parameters")
    names += [f"input{place}" for place in range(len(names), len(positional))]
    return {**dict(zip(names, positional, strict=False)), **by_name}


def _shown(given: Any) -> str:
    return "None" if given is None else f"{'an empty' if not given else 'a'} {type(given).__name__}"


def _file_of(module: ModuleType) -> str:
    return (getattr(module, "__file__", None) or module.__name__).replace("\\", "/").rpartition("/")[2]
