"""Which fields of a batch a model's ``forward`` takes, and how they become its arguments."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from torch import nn

from harness.batches import Batch
from harness.compat import UNDEFINED_FORWARD
from harness.errors import ForwardError
from harness.process_state import staying
from harness.wording import listed

TOKEN_FIELDS = ("input_ids", "decoder_input_ids")
"""Fields that hold token ids."""


@dataclass(frozen=True)
class CallPlan:
    """How a batch's fields become the arguments of ``forward``.

    Attributes:
        named: Fields passed by their own name.
        positional: Fields passed by position, before the named ones.
        whole: The batch itself is the only argument.
        length_first: Token ids are passed as ``[length, batch]``. A mask stays ``[batch, length]``, as in ``nn.Transformer``.
        optional: Fields that a call may lack.
        states: Fields that an earlier call returned, which the first call lacks.
    """

    named: tuple[str, ...] = ()
    positional: tuple[str, ...] = ()
    whole: bool = False
    length_first: bool = False
    optional: frozenset[str] = frozenset()
    states: frozenset[str] = frozenset()

    @property
    def fields(self) -> tuple[str, ...]:
        """Every field that reaches the model in a first call, once, even where ``forward`` takes it in two places."""
        return tuple(name for name in dict.fromkeys(self.positional + self.named) if name not in self.states)

    def call(self, model: nn.Module, batch: Batch) -> Any:
        """Calls the model; returns whatever it returns."""
        if self.length_first:
            batch = {name: tensor.t() if name in TOKEN_FIELDS else tensor for name, tensor in batch.items()}
        if self.whole:
            with staying():
                return model(batch)
        lacking = (self.optional | self.states) - batch.keys()
        positional = list(self.positional)
        while positional and positional[-1] in lacking:
            positional.pop()
        given = (None if name in lacking else batch[name] for name in positional)
        with staying():
            return model(*given, **{name: batch[name] for name in self.named if name not in lacking})


def plan_call(model: nn.Module, inputs: tuple[str, ...]) -> CallPlan:
    """Reads the signature of ``forward`` and decides how the fields are passed.

    Fields go by name where ``forward`` has a parameter of that name. Required parameters of other names take the fields that
    are left, in the task's order. Optional parameters of other names keep their defaults.

    Args:
        model: The model.
        inputs: The task's fields, in the order in which they are matched by position.

    Raises:
        ForwardError: ``forward`` requires more arguments than the task has fields, or takes none of them.
    """
    if getattr(model.forward, "__name__", "") == UNDEFINED_FORWARD:
        raise ForwardError(f"{type(model).__name__} defines no forward; define one that takes {listed(inputs, len(inputs))}")
    signature = inspect.signature(model.forward)
    parameters = list(signature.parameters.values())
    variadic = {p.kind for p in parameters} & {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
    parameters = [p for p in parameters if p.kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)]
    named = {p.name for p in parameters if p.name in inputs}
    left = [name for name in inputs if name not in named]
    required = [p for p in parameters if p.default is p.empty and p.name not in named]
    if [p.name for p in required] == ["batch"] and not named:
        return CallPlan(whole=True)
    if len(required) > len(left) or any(p.kind is p.KEYWORD_ONLY for p in required):
        surplus = [p.name for p in required[len(left) :] or required]
        raise ForwardError(
            f"{type(model).__name__}.forward{signature} requires {listed(surplus, len(surplus))}, which the task does not provide; "
            f"the fields are {listed(inputs, len(inputs))}. Give it a default, or set `adapter` to a class that fills it"
        )
    if not parameters and variadic:
        if inspect.Parameter.VAR_POSITIONAL in variadic:
            return CallPlan(positional=inputs[:1])
        return CallPlan(named=inputs)
    if "decoder_input_ids" in left and "attention_mask" in left and len(required) == left.index("decoder_input_ids"):
        left.remove("attention_mask")  # `forward(source, target)`: no decoder does without its tokens
    positional: list[str] = []
    for parameter in parameters:
        if parameter in required:
            positional.append(left.pop(0))
        elif parameter.name in named and (parameter.kind is parameter.POSITIONAL_ONLY or len(required) > len(positional)):
            positional.append(parameter.name)
    fields = CallPlan(
        named=tuple(name for name in inputs if name in named and name not in positional), positional=tuple(positional)
    )
    if not fields.fields:
        raise ForwardError(
            f"{type(model).__name__}.forward{signature} takes none of the task's fields {listed(inputs, len(inputs))}; "
            "name a parameter after one of them, or make it required"
        )
    return fields
