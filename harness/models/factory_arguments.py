"""The arguments of what makes a model: from the user, from calls and config files of its repository, from usual sizes."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import nn

from harness.errors import UserError
from harness.models.argument_uses import compared_word, is_called, is_counted, is_vectors, may_be_number
from harness.models.arguments import Table, factory_arguments
from harness.models.factory import Factory
from harness.models.followed import UNKNOWN, Built, Object
from harness.models.followed.call_sites import FoundCall, found_call, held_value, is_module
from harness.models.instantiated import class_in, instantiated
from harness.models.settings import (
    ObjectArgument,
    adjacency_argument,
    annotated_settings,
    class_argument,
    found_settings,
    is_count,
    makes_something,
    read_settings,
    reads_from,
    reads_settings,
    space_argument,
    takes_settings,
)
from harness.models.usual_values import A_NUMBER, snake_case, usual_value
from harness.models.written_calls import WrittenCalls

_LETTERS = "abcdefgh"
"""What is given for something that the model only counts, such as labels or an alphabet."""

_SAYS_MUCH = 5
"""Letters of an argument's name from which on a class that has them in its name is taken for what it means."""


def with_arguments(
    module: ModuleType, name: str, target: Any, given: Mapping[str, Any], written: WrittenCalls, has_parts: bool = True
) -> Factory | str:
    """The factory with its arguments, or why it cannot be called.

    Args:
        module: The model's file.
        name: The factory's name in it.
        target: The factory.
        given: Arguments by name.
        written: What the files around the model say.
        has_parts: Whether parts of the model may be arguments.
    """
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError) as error:
        return f"cannot be looked at: {error}"
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    kwargs = {key: value for key, value in given.items() if takes_any or key in parameters}
    required = [p for p in parameters.values() if _is_required(p) and p.name not in kwargs]
    made = instantiated(name, parameters, kwargs, written) if required else None
    if made is not None:
        return Factory(name, target, _on_this_machine(parameters, {**made.kwargs, **kwargs}), (), made.objects, made.place)
    call = written.first(name)
    says_more = call is not None and (bool(required) or takes_any or (call.is_own and bool(call.kwargs)))
    if call is not None and says_more and all(p.name in call.kwargs for p in required):
        return Factory(name, target, _on_this_machine(parameters, {**call.kwargs, **kwargs}), place=call.place)
    elsewhere = found_call(target, [p.name for p in required]) if required else None
    if elsewhere is not None:
        read = called_elsewhere(Factory(name, target, kwargs), elsewhere, module, written if has_parts else None)
        known = (*read.kwargs, *(each.argument for each in read.objects))
        required = [p for p in required if p.name not in known]
        if not required or read.objects:
            return read
        kwargs = read.kwargs
    kwargs = _on_this_machine(parameters, kwargs)
    plain = [p.name for p in required if not takes_settings(p.name)]
    table = written.table(plain) if len(plain) == len(required) else None
    if table is not None:
        said = {key: value for key, value in table.values.items() if key in parameters and not _is_reference(value)}
        kwargs = _on_this_machine(parameters, {**said, **kwargs})
        required = [p for p in required if p.name not in kwargs]
        if not required:
            return Factory(name, target, kwargs, place=table.place)
    wants, guessed = _fill(module, target, required, kwargs, written.defaults)
    if not wants:
        return Factory(name, target, kwargs, tuple(guessed), place="" if table is None else table.place)
    objects = _objects(module, target, wants, given, kwargs, written, has_parts)
    # A function that is no factory may do anything with a number.
    numbers = [p.name for p in wants if _may_be_number(p, target)] if is_model_class(target) else []
    if isinstance(objects, str) and numbers:
        kwargs, guessed = {**kwargs, **dict.fromkeys(numbers, A_NUMBER)}, [*guessed, *numbers]
        objects = _objects(module, target, [p for p in wants if p.name not in numbers], given, kwargs, written, has_parts)
    if isinstance(objects, str):
        return objects + _written(name, written)
    found, place = objects
    return Factory(name, target, kwargs, (*guessed, *(each for one in found for each in one.guessed)), tuple(found), place)


_ROWS, _WIDTH = 256, 64


def vectors_argument(name: str, target: Any, kwargs: Mapping[str, Any]) -> ObjectArgument | None:
    """A table of random vectors, as many and as wide as other arguments say; ``None`` for an argument that is none."""
    if not is_vectors(name, target):
        return None
    tables = [value for value in kwargs.values() if isinstance(value, dict)]
    sizes = {snake_case(key): value for table in (*tables, kwargs) for key, value in table.items() if type(value) is int}
    rows = next((size for key, size in sizes.items() if re.search(r"vocab|num_embeddings|word_?num|words_num", key)), _ROWS)
    width = next((size for key, size in sizes.items() if re.search(r"(?:word|emb\w*)_?(?:dim|size|length)|d_embed", key)), _WIDTH)
    return ObjectArgument(
        name, f"torch.randn({rows}, {width})", partial(torch.randn, rows, width), guessed=(name,), imports=("import torch",)
    )


def _is_reference(value: Any) -> bool:
    """Whether a value of a YAML file is to be put in by Hydra: it refers to another one, or is missing."""
    return isinstance(value, str) and ("${" in value or value == "???")


def called_as_elsewhere(made: Factory, module: ModuleType) -> Iterator[Factory]:
    """A factory that needs no argument, with those that the scripts of its repository give it."""
    if not made.place and not made.guessed and not made.objects:
        call = found_call(made.target, ())
        if call is not None and call.values:
            yield called_elsewhere(made, call, module)


def called_elsewhere(made: Factory, call: FoundCall, module: ModuleType, written: WrittenCalls | None = None) -> Factory:
    """A factory with the arguments of a call that a script of the repository leads to.

    Args:
        made: The factory, with the arguments that were given.
        call: The call.
        module: The model's file.
        written: What the files around the model say, for what the call leaves unknown.
    """
    parameters = inspect.signature(made.target).parameters
    needs_python = [name for name in call.settings if _has_none(call.values[name]) and name not in made.kwargs]
    tables = [_table(name, call.values[name], made.target) for name in needs_python]
    objects = tuple(each for each in tables if each is not None)
    parts = [passed_part(name, part, module) for name, part in call.parts.items() if name not in made.kwargs]
    objects += tuple(part for part in parts if part is not None)
    said = {name: value for name, value in call.values.items() if name not in needs_python and not _is_unknown(name, value)}
    kwargs = _on_this_machine(parameters, {**said, **made.kwargs})
    known = (*kwargs, *(each.argument for each in objects))
    required = [p for p in parameters.values() if _is_required(p) and p.name not in known]
    wants, guessed = _fill(module, made.target, required, kwargs, written.defaults if written else {})
    for p in wants:
        part = vectors_argument(p.name, made.target, {**call.values, **kwargs}) or space_argument(p.name)
        part = part or (_part(module, made.target, p.name, written) if written else None)
        objects += () if part is None else (part,)
    guessed += [name for part in objects for name in part.guessed]
    return replace(made, kwargs=kwargs, guessed=tuple(guessed), objects=objects, place=call.place)


_COUNTS = re.compile(r"(?:num|n)_\w+|\w+_(?:size|dim|num|count)|\w*class(?:es)?|\w*channels?")


def _is_unknown(name: str, value: Any) -> bool:
    """Whether a script leaves a value open: none, or none of something that it counts in data which are not here."""
    return value is None or (type(value) is int and value == 0 and _COUNTS.fullmatch(snake_case(name)) is not None)


def _has_none(value: Any) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return value is None or any(map(_has_none, inner))


def _table(name: str, value: dict[str, Any], target: Any) -> ObjectArgument | None:
    """An argument of which a part is ``None``, for which no config has a word; ``None`` where its class takes something else."""

    def make() -> Any:
        return factory_arguments(target, {name: value}, "model_kwargs")[name]

    try:
        made = make()
    except UserError:
        return None
    cls = type(made)
    if isinstance(made, Table):
        imports = ("from harness.models.arguments import Table",)
        return ObjectArgument(name, f"Table({value!r}, {name!r})", make, imports=imports)
    written = ", ".join(f"{key}={item!r}" for key, item in value.items())
    return ObjectArgument(name, f"{cls.__name__}({written})", make, (cls.__name__,))


def _objects(
    module: ModuleType,
    target: Any,
    wants: list[inspect.Parameter],
    given: Mapping[str, Any],
    kwargs: Mapping[str, Any],
    written: WrittenCalls,
    has_parts: bool,
) -> tuple[list[ObjectArgument], str] | str:
    """What is passed for arguments that no plain value does for, and the file that says it; or why there is nothing."""
    found: dict[str, ObjectArgument] = {}
    for parameter in wants:
        settings = found_settings(module, target, parameter, given)
        made = settings or space_argument(parameter.name) or vectors_argument(parameter.name, target, kwargs)
        made = made or class_argument(module, target, parameter.name) or adjacency_argument(parameter.name, kwargs)
        part = _part(module, target, parameter.name, written) if has_parts and made is None else None
        if made is not None or part is not None:
            found[parameter.name] = made or part  # type: ignore[assignment]
    rest = [p.name for p in wants if p.name not in found]
    missing = [name for name in rest if not takes_settings(name) and not reads_settings(name, target)]
    if missing:
        return f"needs {', '.join(f'`{name}`' for name in missing)}"
    if not rest:
        return list(found.values()), ""
    table = written.table([name for argument in rest for name in reads_from(argument, target)])
    said = {} if table is None else {**table.values, **given}
    passed = {**kwargs, **{name: each.make() for name, each in found.items()}}
    read = read_settings(rest, target, said or given, passed, written.defaults)
    if isinstance(read, str):
        return read
    return [*found.values(), *read], "" if table is None else table.place


def _part(module: ModuleType, target: Any, argument: str, written: WrittenCalls) -> ObjectArgument | None:
    """A part of the model that it is given, such as an encoder: an instance of the class in the file that is called like the argument."""
    wanted = _letters(argument)
    classes = {
        name: value
        for name, value in vars(module).items()
        if is_model_class(value) and value is not target and not value.__module__.startswith("torch.")
    }
    same = [name for name in classes if _letters(name) == wanted]
    like = [name for name in classes if wanted in _letters(name) and len(wanted) >= _SAYS_MUCH]
    for name in same or like:
        if is_called(argument, target):  # it takes the class, and makes the parts itself
            return ObjectArgument(argument, name, partial(getattr, module, name), (name,), (argument,))
        made = with_arguments(module, name, classes[name], {}, written, has_parts=False)
        if isinstance(made, Factory) and makes_something(made.outline):
            names = (name, *(each for one in made.objects for each in one.names))
            return ObjectArgument(argument, made.call, made.outline, names, made.guessed)
    return None


def passed_part(argument: str, part: Object | Built, module: ModuleType) -> ObjectArgument | None:
    """A module that a script passes to the model, made as the script makes it; ``None`` where its class does not import, or more is needed.

    Args:
        argument: The argument's name.
        part: What makes it, and with what.
        module: The model's file.
    """
    if isinstance(part, Built):
        return _of_package(argument, part)
    found = class_in(part.cls.scope.file, part.cls.node.name, module)
    if found is None or part.passed is None:
        return None
    home, cls, line, path = found
    try:
        bound = inspect.signature(cls).bind_partial(*part.passed[0], **part.passed[1]).arguments
    except (TypeError, ValueError):
        return None
    inner = {name: passed_part(name, value, module) for name, value in bound.items() if is_module(value)}
    given = {name: value for name, value in bound.items() if name not in inner and held_value(value) is not UNKNOWN}
    made = with_arguments(home, part.cls.node.name, cls, {**given, **inner}, WrittenCalls.of(home), has_parts=False)
    if not isinstance(made, Factory) or None in inner.values():
        return None
    objects = (*made.objects, *(each for each in inner.values() if each is not None))
    made = replace(made, kwargs={name: value for name, value in made.kwargs.items() if name not in inner}, objects=objects)
    if not makes_something(made.outline):
        return None
    imports = [line, *(each for one in objects for each in one.imports), "import torch" if "torch.Size(" in made.call else ""]
    names = [name for one in objects for name in one.names] + ([] if line else [part.cls.node.name])
    path = path or next((one.path for one in objects if one.path), None)
    return ObjectArgument(
        argument, made.call, made.outline, tuple(names), made.guessed, tuple(each for each in imports if each), path
    )


def _of_package(argument: str, part: Built) -> ObjectArgument | None:
    """A module of PyTorch or torchvision, without weights, which would have to be downloaded."""
    package = part.name.partition(".")[0]
    by_name = {name: value for name, value in part.passed[1].items() if name not in ("pretrained", "weights")}
    by_place = part.passed[0] if package == "torch" else ()  # the first is whether it is trained
    if any(held_value(value) is UNKNOWN for value in (*by_place, *by_name.values())):
        return None

    def make() -> Any:
        module, _, name = part.name.rpartition(".")
        return getattr(importlib.import_module(module), name)(*by_place, **by_name)

    passed = [*map(repr, by_place), *(f"{name}={value!r}" for name, value in by_name.items())]
    found = ObjectArgument(
        argument, f"{part.name}({', '.join(passed)})", make, imports=(f"import {part.name.rpartition('.')[0]}",)
    )
    return found if makes_something(make) else None


def _letters(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.lower())


def _on_this_machine(parameters: Mapping[str, inspect.Parameter], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with the CPU for a device that this machine has not."""
    found = dict(kwargs)
    for parameter in parameters.values():
        is_cuda = str(found.get(parameter.name, parameter.default)).startswith("cuda")
        if "device" in parameter.name and is_cuda and not torch.cuda.is_available():
            found[parameter.name] = "cpu"
    return found


def _fill(
    module: ModuleType, target: Any, required: list[inspect.Parameter], kwargs: dict[str, Any], defaults: Mapping[str, Any]
) -> tuple[list[inspect.Parameter], list[str]]:
    """Gives required arguments a constant of the file, an option's default, a usual size, or a word that they are compared with.

    Returns those that get none of these, and the guesses.
    """
    constants = {snake_case(name): value for name, value in vars(module).items() if type(value) in (bool, int, float, str)}
    options = {snake_case(name): value for name, value in defaults.items()}
    wants: list[inspect.Parameter] = []
    guessed: list[str] = []
    for parameter in required:
        name = parameter.name
        is_object = annotated_settings(target, name) is not None or is_vectors(name, target)
        if parameter.kind is parameter.POSITIONAL_ONLY or is_object:
            wants.append(parameter)
        elif snake_case(name) in constants:
            kwargs[name] = constants[snake_case(name)]
        elif isinstance(size := options.get(snake_case(name)), (int, float)) and size > 0 and _may_hold(parameter, size):
            kwargs[name] = size
            guessed.append(name)
        elif (usual := usual_value(f"{name}_size" if is_count(name, target) else name)) is not None and _may_hold(
            parameter, usual
        ):
            kwargs[name] = usual
            guessed.append(name)
        elif (word := compared_word(name, target)) is not None:
            kwargs[name] = word
            guessed.append(name)
        elif snake_case(name) in options:
            kwargs[name] = options[snake_case(name)]
            guessed.append(name)
        elif is_counted(name, target):
            kwargs[name] = _LETTERS
            guessed.append(name)
        else:
            wants.append(parameter)
    return wants, guessed


def _may_be_number(parameter: inspect.Parameter, target: Any) -> bool:
    """Whether a number may be tried for an argument of which nothing is known."""
    name = parameter.name
    if parameter.kind is parameter.POSITIONAL_ONLY or takes_settings(name) or reads_settings(name, target):
        return False
    is_part = is_vectors(name, target) or annotated_settings(target, name) is not None
    return not is_part and _may_hold(parameter, A_NUMBER) and may_be_number(name, target)


def _may_hold(parameter: inspect.Parameter, value: Any) -> bool:
    """Whether the annotation of a parameter allows a list, or a single value."""
    annotation = str(parameter.annotation).lower()
    if isinstance(value, list):
        return not re.search(r"\bint'?>?$|^float$|^str$", annotation)
    single = re.search(r"list|tuple|sequence|dict|callable|module|str\b", annotation) is None
    return (
        parameter.annotation is parameter.empty
        or single
        or re.search(r"\bint\]$|, int\b|\| int\b|\bint \|", annotation) is not None
    )


def _written(name: str, written: WrittenCalls) -> str:
    """Where a name is called that cannot be called here."""
    places = written.places(name)
    return f" (it is called in {places[0]})" if places else ""


def _is_required(parameter: inspect.Parameter) -> bool:
    return parameter.default is parameter.empty and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)


def is_model_class(value: object) -> bool:
    """Whether a value is a class of modules."""
    return inspect.isclass(value) and issubclass(value, nn.Module)
