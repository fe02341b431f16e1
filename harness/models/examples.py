"""One working call of a model, as its author gives it: an example function, what Lightning and Hugging Face keep, or annotated shapes."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice, product
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from harness.errors import ExampleError
from harness.models.copies import clone
from harness.runtime import seeded
from harness.user_code import raised

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


FUNCTION = "example_inputs"
"""What gives an example in a model's file, or of the model: a function, or the values themselves."""

_ATTRIBUTES = (FUNCTION, "example_input_array", "dummy_inputs")
"""What a model has where its author or its library gives an example; those of Lightning and of Hugging Face too."""

_SIDE = 64
"""Side of an image where a model's settings do not say one, in pixels."""

_SAMPLES = 4000
"""Length of a sound, a quarter of a second at the usual rate."""

WHERE_TO_GIVE = (
    f"Declare `inputs` and `outputs`, or give an example of forward's arguments: {FUNCTION} in the model's file, values or a "
    "function of them, or `example` as file.py:name. `modeltiers init` searches for a call that works"
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
    given = getattr(module, FUNCTION, None)
    if module is not None and given is not None:
        return given_example(given, f"{FUNCTION} in {_file_of(module)}", model, seed)
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
        if found is not None:
            return given_example(found, origin, model, seed)
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


def given_example(given: Any, origin: str, model: nn.Module, seed: int = 0) -> Example:
    """An example as its author gives it: the values themselves, or a function of them; one with a parameter gets the model.

    Raises:
        ExampleError: The function raises, or forward cannot be called with what is given.
    """
    if callable(given):
        try:
            parameters = inspect.signature(given).parameters.values()
            needs_model = any(p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)
            with seeded(seed):
                given = given(model) if needs_model else given()
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
        raise ExampleError(f"{origin} gives {wrong!r}, which is not a parameter of {shown}")
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
