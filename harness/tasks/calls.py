"""How the inputs of a signature become the arguments of forward, and where its outputs are in what forward returns."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.compat import UNDEFINED_FORWARD, tree_map
from harness.errors import ForwardError, MissingOutputError
from harness.tasks.axes import BATCH, Size
from harness.tasks.signature import Group, Output, Signature
from harness.wording import listed

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness.batches import Batch

_FLEXIBLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def arguments_of(signature: Signature) -> tuple[str, ...]:
    """The arguments that hold the inputs, in order: an input's name, or what stands before the first dot of it."""
    return tuple(dict.fromkeys(each.name.partition(".")[0] for each in signature.inputs))


def lacking_arguments(signature: Signature) -> tuple[frozenset[str], frozenset[str]]:
    """The arguments that a call may lack, and those that the first call lacks because an earlier one returns them."""
    by_need: dict[str, set[str]] = {"required": set(), "optional": set(), "state": set()}
    for each in signature.inputs:
        need = "state" if each.state else ("optional" if each.optional else "required")
        by_need[need].add(each.name.partition(".")[0])
    return frozenset(by_need["optional"] - by_need["required"]), frozenset(by_need["state"] - by_need["required"])


def bind(model: nn.Module, signature: Signature) -> tuple[tuple[str, ...], tuple[str, ...], bool]:
    """Which arguments forward takes by position, which by name, and whether it takes all of them in one dict.

    An argument goes to the parameter of its name; those that are left fill the other parameters in order.

    Raises:
        ForwardError: Forward requires something that no input fills, or has no place for an input.
    """
    names = arguments_of(signature)
    shown = f"{type(model).__name__}.forward{inspect.signature(model.forward)}"
    parameters = list(inspect.signature(model.forward).parameters.values())
    kinds = {parameter.kind for parameter in parameters}
    plain = [parameter for parameter in parameters if parameter.kind not in _FLEXIBLE]
    if len(plain) == 1 and len(names) > 1 and plain[0].name not in names and not kinds & set(_FLEXIBLE):
        return (), (), True
    left = [name for name in names if name not in {parameter.name for parameter in plain}]
    filled: dict[str, str] = {}
    for parameter in plain:
        if parameter.name in names:
            filled[parameter.name] = parameter.name
        elif left and parameter.kind is not parameter.KEYWORD_ONLY:
            filled[parameter.name] = left.pop(0)
        elif parameter.default is parameter.empty:
            raise ForwardError(f"{shown} requires `{parameter.name}`, which no input fills: declare it in `inputs`")
    more = tuple(left) if inspect.Parameter.VAR_POSITIONAL in kinds else ()
    if left and not more and inspect.Parameter.VAR_KEYWORD not in kinds:
        raise ForwardError(f"{shown} has no parameter for {listed(left, len(left))} of `inputs`: name it as forward does")
    order = [parameter.name for parameter in plain]
    # All that stand before one that goes by position go by position too.
    renamed = [place for place, name in enumerate(order) if name in filled and filled[name] != name]
    last = len(order) - 1 if more else max(renamed, default=-1)
    last = max([last, *(place for place, each in enumerate(plain) if each.kind is each.POSITIONAL_ONLY and each.name in filled)])
    positional = tuple(filled[name] for name in order[: last + 1] if name in filled) + more
    named = tuple(filled[name] for name in order[last + 1 :] if name in filled)
    return positional, named + (() if more else tuple(left)), False


def parameters_of(model: nn.Module) -> frozenset[str]:
    """Names of the parameters of forward."""
    return frozenset(inspect.signature(model.forward).parameters)


def nested(batch: Mapping[str, Any], names: Iterable[str], groups: Mapping[str, Group], within: str = "") -> dict[str, Any]:
    """The arguments of a call: inputs with dotted names are gathered into dicts, tuples, or objects of the group's class.

    What the batch lacks is left out.

    Args:
        batch: Inputs by name.
        names: The arguments.
        groups: Those that are objects of a class, by their whole name.
        within: The name of the group that the arguments are in, with a dot at its end.

    Raises:
        ForwardError: A class does not take its inputs.
    """
    found: dict[str, Any] = {}
    for name in names:
        if name in batch:
            found[name] = batch[name]
            continue
        parts = {key.removeprefix(f"{name}."): value for key, value in batch.items() if key.startswith(f"{name}.")}
        if parts:
            inner = nested(parts, dict.fromkeys(key.partition(".")[0] for key in parts), groups, f"{within}{name}.")
            found[name] = _gathered(inner, groups.get(f"{within}{name}"))
    return found


def _gathered(parts: dict[str, Any], group: Group | None) -> Any:
    """An object of the group's class; without one a tuple where the keys are 0, 1, …, else the dict."""
    if group is not None:
        try:
            return group.load()(**parts)
        except TypeError as error:
            raise ForwardError(f"{group.source} cannot be made of {listed(sorted(parts), len(parts))}: {error}") from error
    return tuple(parts[str(place)] for place in range(len(parts))) if parts.keys() == set(map(str, range(len(parts)))) else parts


def with_rows_first(value: Any, axes: Sequence[Size]) -> Any:
    """A value with the axes of an output, with the rows first; anything but such a tensor as it is."""
    return _moved(value, axes.index(BATCH), 0, len(axes)) if BATCH in axes else value


def laid_out(value: Any, output: Output, rows: int) -> Any:
    """An output as the suite holds it: the rows first, and taken apart from the axis that forward joins them with.

    Args:
        value: What forward returned; anything but a tensor of the declared axes stays as it is.
        output: Which output it is.
        rows: How many rows the batch has.
    """
    if output.joined and _is_tensor(value) and value.ndim == len(output.joined):
        at = next(place for place, axis in enumerate(output.joined) if axis != output.axes[place])
        if rows and value.shape[at] % rows == 0:
            value = value.unflatten(at, (rows, -1) if output.axes[at] == BATCH else (-1, rows))
    return with_rows_first(value, output.axes)


def batch_as_declared(batch: Mapping[str, Tensor], signature: Signature) -> dict[str, Tensor]:
    """A batch whose fields have their axes in the declared order, as forward and functions of the user's take them."""
    return {name: _as_declared(value, signature.axes_of(name)) for name, value in batch.items()}


def _as_declared(value: Any, axes: Sequence[Size]) -> Any:
    return _moved(value, 0, axes.index(BATCH), len(axes)) if BATCH in axes else value


def _moved(value: Any, source: int, destination: int, ndim: int) -> Any:
    """A tensor of so many axes with one of them moved; of a nested state every such tensor."""
    if _is_tensor(value):
        return value.movedim(source, destination) if value.ndim == ndim else value
    if not isinstance(value, (tuple, list, dict)):
        return value
    return tree_map(lambda leaf: _moved(leaf, source, destination, ndim) if _is_tensor(leaf) else leaf, value)


def outputs_of(returned: Any, signature: Signature) -> dict[str, Any]:
    """The declared outputs, by name, in what forward returned.

    Raises:
        MissingOutputError: One is not there; the message says what is.
    """
    return {output.name: find_output(returned, output, signature.outputs) for output in signature.outputs}


def find_output(returned: Any, output: Output, outputs: Sequence[Output]) -> Any:
    """One declared output in what forward returned: by its key or attribute, by its place, or the only tensor there is.

    Raises:
        MissingOutputError: It is not there; the message says what is.
    """
    if isinstance(returned, Mapping) and output.name in returned:
        return returned[output.name]
    if (
        not isinstance(returned, Mapping)
        and output.name.isidentifier()
        and hasattr(returned, output.name)
        and not _is_tensor(returned)
    ):
        return getattr(returned, output.name)
    items = list(returned.values()) if isinstance(returned, Mapping) else returned
    if isinstance(items, (tuple, list)):
        place = output.at if output.at is not None else (int(output.name) if output.name.isdigit() else outputs.index(output))
        by_place = output.at is not None or not isinstance(returned, Mapping)
        if by_place and place < len(items):
            item = items[place]
            if not _is_tensor(item) and hasattr(item, output.name):
                return getattr(item, output.name)  # of a distribution, such as a policy's
            if output.at is not None and [each.at for each in outputs].count(output.at) > 1:
                raise MissingOutputError(
                    f"`outputs.{output.name}`: another output has the place {output.at} too, which is {_described(item)}"
                )
            return item
    elif _is_tensor(returned) and len(outputs) == 1:
        return returned
    raise MissingOutputError(f"`outputs.{output.name}` is not in what forward returns: {_described(returned)}")


def _is_tensor(value: Any) -> bool:
    from torch import Tensor

    return isinstance(value, Tensor)


def _described(returned: Any) -> str:
    """What there is, with shapes."""
    if isinstance(returned, Mapping):
        return "a dict of " + (", ".join(f"{key!r} {_shape(value)}" for key, value in returned.items()) or "nothing")
    if isinstance(returned, (tuple, list)):
        return f"{type(returned).__name__} of {len(returned)}: " + ", ".join(map(_shape, returned))
    return _shape(returned) if _is_tensor(returned) else f"a {type(returned).__name__}"


def _shape(value: Any) -> str:
    return str(list(value.shape)) if _is_tensor(value) else type(value).__name__


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
        from harness.process_state import staying

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
