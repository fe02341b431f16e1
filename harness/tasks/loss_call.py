"""How a loss function of the user's own is called that takes other arguments than ``outputs`` and ``batch``."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.errors import OutputError

if TYPE_CHECKING:
    from torch import Tensor, nn

RETURNED = "outputs"
"""As an argument: all that forward returned, as it returned it."""


@dataclass(frozen=True)
class LossCall:
    """A call of a function, a class of a loss, or a method of the model.

    Attributes:
        arguments: By the name of the parameter, or by its place: ``outputs``, ``outputs.NAME``, ``batch.NAME``, or a number.
        made_with: What a class of a loss is made with.
        result: The key or place of the loss in what is returned; ``None`` where that is the loss.
    """

    arguments: Mapping[str, Any] = field(default_factory=dict)
    made_with: Mapping[str, Any] = field(default_factory=dict)
    result: str | int | None = None

    @classmethod
    def said(cls, arguments: Mapping[str, Any], made_with: Mapping[str, Any], result: str | int | None) -> LossCall | None:
        """The call that a config says; ``None`` where it says none."""
        return cls(arguments, made_with, result) if arguments or made_with or result is not None else None

    def mistakes(self, function: str, outputs: Iterable[str], fields: Iterable[str]) -> Iterator[tuple[str, str]]:
        """The keys that say nothing, and the arguments that name nothing that there is, each with why.

        Args:
            function: What is called, as the config names it.
            outputs: Names of the outputs.
            fields: Names of inputs and labels.
        """
        if ":" not in function or not self.arguments:
            yield (
                "arguments",
                "a call takes a `function` as file.py:name and its `arguments`; `made_with` and `result` belong to them",
            )
        known = {RETURNED, *(f"outputs.{each}" for each in outputs), *(f"batch.{each}" for each in fields)}
        for name, value in self.arguments.items():
            if isinstance(value, str) and value not in known:
                yield f"arguments.{name}", f"there is no {value!r}; an argument is a number, or one of {', '.join(sorted(known))}"

    def loss(
        self, function: Any, returned: Any, outputs: Mapping[str, Any], batch: Mapping[str, Tensor], model: nn.Module | None
    ) -> Any:
        """What the call returns for the outputs and a batch.

        Args:
            function: The function, or the class of a loss that is called.
            returned: What forward returned.
            outputs: The declared outputs in it.
            batch: Inputs and labels, their axes as declared.
            model: The model, on which a method of its class is called.
        """
        if inspect.isclass(function):
            _refuse_others("made_with", function, function, (), self.made_with)
            function = function(**self.made_with)
            device = next((each.device for each in outputs.values() if hasattr(each, "device")), None)
            function = function.to(device) if hasattr(function, "to") else function
        elif self.made_with:
            raise OutputError(f"`loss.made_with`: {_name(function)} is no class; what it is called with goes into `arguments`")
        given = {name: self._value(value, returned, outputs, batch) for name, value in self.arguments.items()}
        places = sorted((name for name in given if name.isdigit()), key=int)
        named = {name: value for name, value in given.items() if not name.isdigit()}
        owner = _owner(function, model)
        placed = [*([owner] if owner is not None else []), *(given[place] for place in places)]
        _refuse_others("arguments", function, getattr(function, "forward", function), placed, named)
        return self._loss_in(function(*placed, **named))

    def _value(self, value: Any, returned: Any, outputs: Mapping[str, Any], batch: Mapping[str, Tensor]) -> Any:
        if not isinstance(value, str):
            return value
        if value == RETURNED:
            return returned
        group, _, name = value.partition(".")
        return (outputs if group == "outputs" else batch)[name]

    def _loss_in(self, answer: Any) -> Any:
        if self.result is None:
            return answer
        try:
            return answer[self.result]
        except (KeyError, IndexError, TypeError):
            there = f"the keys {', '.join(map(str, answer))}" if isinstance(answer, Mapping) else f"a {type(answer).__name__}"
            raise OutputError(f"`loss.result`: the loss function returned {there}, which has no {self.result!r}") from None


def _name(function: Any) -> str:
    return str(getattr(function, "__qualname__", type(function).__name__))


def _refuse_others(key: str, function: Any, called: Any, placed: Sequence[Any], named: Mapping[str, Any]) -> None:
    """Raises where a function is given other arguments than it takes."""
    try:
        takes = inspect.signature(called)
    except ValueError:  # one of C has none
        return
    try:
        takes.bind(*placed, **named)
    except TypeError as error:
        raise OutputError(f"`loss.{key}`: {_name(function)} takes ({', '.join(takes.parameters)}): {error}") from None


def _owner(function: Any, model: nn.Module | None) -> Any:
    """The module in a model whose method a function is; ``None`` for any other function."""
    cls, _, name = getattr(function, "__qualname__", "").rpartition(".")
    if (
        model is None
        or not cls
        or not inspect.isfunction(function)
        or next(iter(inspect.signature(function).parameters), "") != "self"
    ):
        return None
    kin = (module for module in model.modules() if any(each.__qualname__ == cls for each in type(module).__mro__))
    return next((module for module in kin if hasattr(module, name)), None)
