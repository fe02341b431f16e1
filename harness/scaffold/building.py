"""Building a model from a factory, with other arguments where guessed ones do not fit; and which of its methods is called."""

from __future__ import annotations

import contextlib
import inspect
import io
import re
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import combinations
from typing import Any

import torch
from torch import nn

from harness.compat import compiler_left_out
from harness.errors import FactoryError
from harness.models.argument_uses import compared_word, compared_words, is_switch
from harness.models.arguments import MissingSettingError
from harness.models.attempts import methods_to_call
from harness.models.factory import Factory, acting_part, called_through, has_forward, inner_model
from harness.models.loading import NO_NETWORK
from harness.models.structure import StoppedError, stopping_at
from harness.models.usual_values import A_NUMBER, OTHER_NUMBERS, usual_value
from harness.models.wrapped import call_by
from harness.user_code import is_users_file

_VAST = 1_000_000_000
_MANY = 1 << 26
"""Bytes of parameters of a model that is simply built."""

_NO_WORD = "none"
"""A word that the code compares with none, for a mode that the model does without."""

_NAMES_WEIGHTS = re.compile(r"(?:encoder_|backbone_)?weights|pretrained")
"""Arguments that take the name of trained weights."""

_MOST_AGREEMENTS = 4
"""Pairs of guessed sizes that are made equal at most."""


def agreeing(made: Factory, message: str) -> Iterator[Factory]:
    """The factory with two of its guessed sizes equal that a message speaks of, such as one of an input and one of an output.

    Args:
        made: What makes a model that could not be built or called.
        message: What was raised.
    """
    said = re.sub(r"\(\w+\.py, line \d+\).*", "", message.rpartition("raise")[2])
    numbers = {int(number) for number in re.findall(r"(?<![\w.])\d+(?![\w.]*\w)|(?<=x)\d+|\d+(?=x)", said)}
    sizes = {name: made.kwargs[name] for name in made.guessed if type(made.kwargs.get(name)) is int}
    named = [
        pair for pair in combinations(sizes, 2) if sizes[pair[0]] != sizes[pair[1]] and {sizes[name] for name in pair} <= numbers
    ]
    for one, other in named[: _MOST_AGREEMENTS // 2]:
        yield replace(made, kwargs={**made.kwargs, other: sizes[one]})
        yield replace(made, kwargs={**made.kwargs, one: sizes[other]})


def untold(made: Factory) -> list[str]:
    """The arguments that a number was tried for, of which neither the file nor their names say anything."""
    return [name for name in made.guessed if made.kwargs.get(name) == A_NUMBER and usual_value(name) is None]


def with_other_numbers(made: Factory) -> Iterator[Factory]:
    """The factory with other numbers for what nothing is known of."""
    if names := untold(made):
        yield from (replace(made, kwargs={**made.kwargs, **dict.fromkeys(names, number)}) for number in OTHER_NUMBERS)


def built(made: Factory) -> tuple[Factory, nn.Module]:
    """A model of a factory, called through a submodule, or by another method, where it has no ``forward``.

    Raises:
        FactoryError: It cannot be built, with other guesses neither.
    """
    try:
        model = _built_unless_vast(made)
        agreed = _with_its_padding(made, model)
        if agreed is not made:
            made, model = agreed, _built_unless_vast(agreed)
    except FactoryError as error:
        filled = _with_a_setting_more(made, error) or _without_nones(made, error) or _without_trained_weights(made, error)
        if filled is not None:
            return built(filled)
        if re.search(r"'int' object is not (?:iterable|subscriptable)|object of type 'int' has no len", str(error)):
            made, model = _built_from_lists(made, error)
        else:
            made, model = _built_by_other_words(made, error)
    if made.method:
        call_by(model, made.method, made.name)
        return made, model
    part = acting_part(model) if not methods_to_call(type(model)) else ""
    if part:
        return replace(made, part=part), model.get_submodule(part)
    through = inner_model(model)
    methods = [] if has_forward(model) else methods_to_call(type(model))
    if methods and not (through and hasattr(model, "training_step")):  # whose methods are steps of a training
        call_by(model, methods[0], made.name)
        return replace(made, method=methods[0]), model
    return (replace(made, through=through), called_through(model, through)) if through else (made, model)


_NAMES_PADDING = re.compile(r"(?:.*_)?pad(?:ding)?_?(?:idx|id|index|token|token_id)")


def _with_its_padding(made: Factory, model: nn.Module) -> Factory:
    """The factory whose guessed token of padding is that of the model's tables, where these have one."""
    tables = {each.padding_idx for each in model.modules() if isinstance(each, nn.Embedding)} - {None}
    guesses = [name for name in made.guessed if name in made.kwargs and _NAMES_PADDING.fullmatch(name)]
    if len(tables) != 1 or all(made.kwargs[name] in tables for name in guesses):
        return made
    return replace(made, kwargs={**made.kwargs, **dict.fromkeys(guesses, tables.pop())})


def _without_nones(made: Factory, refused: FactoryError) -> Factory | None:
    """The factory with usual sizes for what is ``None`` by default, where the line that failed speaks of it; ``None`` where it does not."""
    if "NoneType" not in str(refused) or not isinstance(refused.__cause__, BaseException):
        return None
    steps = [step for step in traceback.extract_tb(refused.__cause__.__traceback__) if is_users_file(step.filename)]
    said = re.findall(r"\w+", str(steps[-1].line)) if steps else []
    parameters = inspect.signature(made.target).parameters
    open_ones = [name for name in said if name in parameters and parameters[name].default is None and name not in made.kwargs]
    guesses = {name: value for name in open_ones if (value := usual_value(name)) is not None}
    return replace(made, kwargs={**made.kwargs, **guesses}, guessed=(*made.guessed, *guesses)) if guesses else None


def _without_trained_weights(made: Factory, refused: FactoryError) -> Factory | None:
    """The factory without trained weights that it would download, or read from a file, where these are not there."""
    return untrained(made) if isinstance(refused.__cause__, (*NO_NETWORK, FileNotFoundError)) else None


def untrained(made: Factory) -> Factory | None:
    """The factory without trained weights; ``None`` where it has no switch for them: an argument, or a setting of one, that speaks of them.

    Args:
        made: What makes a model, with trained weights perhaps.
    """
    parameters = inspect.signature(made.target).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.name not in made.kwargs}
    off = {name: _switched_off(name, value) for name, value in {**defaults, **(made.kwargs if made.place else {})}.items()}
    switches = {name: value for name, value in off.items() if value is not defaults.get(name, made.kwargs.get(name))}
    return replace(made, kwargs={**made.kwargs, **switches}, guessed=(*made.guessed, *switches)) if switches else None


def _switched_off(name: str, value: Any) -> Any:
    if isinstance(value, dict):
        inner = {key: _switched_off(key, item) for key, item in value.items()}
        return value if all(inner[key] is item for key, item in value.items()) else inner
    if value is True and "pretrain" in name.lower():
        return False
    return None if isinstance(value, str) and value and _NAMES_WEIGHTS.fullmatch(name.lower()) else value


def _with_a_setting_more(made: Factory, refused: FactoryError) -> Factory | None:
    """The factory with a usual value for a setting that the call which its arguments were read from leaves unknown."""
    said = re.search(r"`model_kwargs\.([\w.]+)` has no '(\w+)'", str(refused))
    if said is None or not isinstance(refused.__cause__, MissingSettingError):
        return None
    path, name = said[1].split("."), said[2]
    value = compared_word(name, made.target) or usual_value(name)
    value = False if value is None and is_switch(name, made.target) else value
    if value is None or path[0] not in made.kwargs:
        return None
    return replace(made, kwargs=_put(made.kwargs, [*path, name], value), guessed=(*made.guessed, f"{path[0]}.{name}"))


def _put(table: Mapping[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    first, *rest = path
    return {**table, first: _put(table[first], rest, value) if rest else value}


def _built_from_lists(made: Factory, refused: FactoryError) -> tuple[Factory, nn.Module]:
    """A model of which guessed sizes have to be lists of sizes: one of them, or all that there are for each layer, of which one may be longer.

    Raises:
        FactoryError: No size does, taken for a list.
    """
    sizes = {name: size for name in made.guessed if type(size := made.kwargs.get(name)) is int}
    of_layers = [name for name in sizes if "_per_" in name]
    tried = [{name: [size] * 2} for name, size in sizes.items()]
    tried += [{name: [sizes[name]] * (2 + (name == longer)) for name in of_layers} for longer in ("", *of_layers)]
    for lists in tried:
        listed = replace(made, kwargs={**made.kwargs, **lists})
        with contextlib.suppress(FactoryError):
            return listed, listed.source.build()
    raise refused


def _built_by_other_words(made: Factory, refused: FactoryError) -> tuple[Factory, nn.Module]:
    """A model of which a guessed word, such as a mode whose package is not there, is another one that the code compares it with.

    Raises:
        FactoryError: No other word builds it.
    """
    for name in made.guessed:
        words = compared_words(name, made.target) if made.kwargs.get(name) else []
        for word in [*words[1:], *(_NO_WORD for _ in words[:1])]:
            other = replace(made, kwargs={**made.kwargs, name: word})
            with contextlib.suppress(FactoryError):
                return other, other.source.build()
    raise refused


def _built_unless_vast(made: Factory) -> nn.Module:
    """A model; of one with many weights it is found out first how many, on meta, for which PyTorch imports its compiler for a second."""
    try:
        with stopping_at(_MANY):
            return made.source.build()
    except StoppedError:
        _refuse_vast(made)
    except FactoryError as error:
        if "memory" in str(error.__cause__):  # a single weight that is larger than memory is refused before it is counted
            _refuse_vast(made)
        raise
    return made.source.build()


def _refuse_vast(made: Factory) -> None:
    """Refuses a model that would take minutes and all memory to build, such as one of the published size of a language model.

    Raises:
        FactoryError: It has too many parameters.
    """
    try:
        with compiler_left_out(), torch.device("meta"), contextlib.redirect_stdout(io.StringIO()):
            count = sum(parameter.numel() for parameter in made.outline().parameters())
    except (Exception, SystemExit):  # a model that cannot be outlined is built
        return
    if count > _VAST:
        name = made.objects[0].expression if made.objects else made.call
        raise FactoryError(
            f"{made.name} makes a model of {count / 1e9:.1f} billion parameters, more than init builds (1 billion): give smaller sizes than "
            f"those of {name}, as --arg NAME=VALUE"
        )
