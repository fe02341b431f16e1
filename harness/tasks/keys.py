"""The keys of a config that declare a signature, what values each may have, and a signature written as such keys."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from harness.tasks.axes import BATCH, Axis, Formula, Order, Side
from harness.tasks.kinds import KINDS, LOSSES
from harness.tasks.signature import Input, Output, Signature

_LARGEST = 2**31 - 1
"""The largest size, count or id."""

Positive = Annotated[int, Field(gt=0, le=_LARGEST)]
NonNegative = Annotated[int, Field(ge=0, le=_LARGEST)]
SizeKey = NonNegative | Annotated[str, Field(min_length=1)]
Range = Annotated[list[float], Field(min_length=2, max_length=2)]
DtypeKey = Literal["float16", "bfloat16", "float32", "float64", "complex64", "bool", "uint8", "int8", "int16", "int32", "int64"]


class _Keys(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True)


class ValuesKeys(_Keys):
    """What an input holds: one of these."""

    range: Range | None = Field(None, description="Numbers between two.")
    ids: Positive | Annotated[list[Positive], Field(min_length=1)] | None = Field(
        None, description="0 to N-1 (int64); a list gives one N for each place of the last axis."
    )
    pad: NonNegative | None = Field(None, description="Of `ids`: the id that fills padded places.")
    index_of: str | None = Field(None, description="Positions along an axis, as an edge list has; or the group of each element.")
    lengths_of: str | None = Field(None, description="The real length of each row along an axis (int64 `[batch]`).")
    mask_of: str | None = Field(None, description="1 where an element along an axis is real.")
    inverted: bool = Field(False, description="Of `mask_of`: 1 where an element is padding.")
    one_of: Annotated[list[bool | int | float], Field(min_length=1)] | None = Field(None, description="One of a few values.")
    from_: str | None = Field(
        None,
        alias="from",
        description="`file.py:function`, or `:function` of the model file, called with a shape and a generator.",
    )


def _no_kind_for_normal(value: Any) -> Any:
    return {} if value == "normal" else value


def _or_normal(schema: dict[str, Any]) -> None:
    schema["anyOf"] = [{"const": "normal"}, {"$ref": schema.pop("$ref")}]
    schema["default"] = "normal"


def _no_default(schema: dict[str, Any]) -> None:
    schema.pop("default", None)


ValuesKey = Annotated[ValuesKeys, BeforeValidator(_no_kind_for_normal)]
"""``normal``, or an object with one kind of values."""

_NORMAL: Any = Field(
    default_factory=lambda: ValuesKeys.model_validate({}),
    description="What it holds; see the values below.",
    json_schema_extra=_or_normal,
)


class StateKeys(_Keys):
    """Which output an input continues."""

    from_: str = Field(alias="from", description="The output that an earlier call returned.")
    initial: Literal["absent", "zeros"] = Field("absent", description="What the first call passes.")


class InputKeys(_Keys):
    """One input, or a group of inputs with dotted names."""

    axes: list[SizeKey] = Field(
        default_factory=list,
        description="A number is a fixed size, a name an axis; `[]` is a scalar.",
        json_schema_extra=_no_default,
    )
    class_: str | None = Field(
        None,
        alias="class",
        description="Of a group, such as `batch` of `batch.image`: the dataclass that holds it, as file.py:Class.",
    )
    dtype: DtypeKey | None = Field(None, description="By default what the values need: float32, or int64.")
    values: ValuesKey = _NORMAL
    optional: bool = Field(False, description="Whether forward works without it.")
    state: StateKeys | None = Field(None, description="The output that it continues: `{from: OUTPUT}`, `initial: zeros`.")


class LabelKeys(_Keys):
    """One label: an input again, or other values."""

    axes: list[SizeKey] = Field(default_factory=list, description="As of an input.")
    dtype: DtypeKey | None = Field(None, description="As of an input.")
    values: ValuesKey = _NORMAL
    from_: str | None = Field(None, alias="from", description="The input that is the label, as of an autoencoder.")


class OutputKeys(_Keys):
    """One output."""

    axes: list[SizeKey] = Field(default_factory=list, description="As of an input.")
    kind: str = Field("values", description=f"What it means: {', '.join(KINDS)}.")
    classes: int | None = Field(None, description="Position of the axis of the classes or symbols; the last one by default.")
    blank: NonNegative | None = Field(None, description="Of `ctc_scores`: the blank symbol.")
    norm: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Of an `embedding`: the promised norm of its vectors; a vector of zeros has none."
    )
    of: str | None = Field(None, description="Of `lengths`: the axis they speak of.")
    at: NonNegative | None = Field(
        None,
        description="Its place in a tuple, where it is not that of `outputs`; of a distribution there, its name is a parameter's.",
    )
    range: Range | None = Field(
        None, description="The promised smallest and largest value, between which random labels of numbers lie."
    )
    loss: str | None = Field(None, description=f"{', '.join(LOSSES)}; by default what the kind implies.")
    weight: Annotated[float, Field(ge=0)] = Field(1.0, description="Its share in the loss.")
    fits: bool = Field(True, description="Whether arbitrary targets can be learnt by heart.")
    constant: bool = Field(False, description="Whether it depends on no input.")


class AxisKeys(_Keys):
    """One axis."""

    min: NonNegative = Field(1, description="Smallest size.")
    max: Positive | None = Field(None, description="Largest size.")
    sizes: Annotated[list[Positive], Field(min_length=1)] | None = Field(None, description="The only sizes it may have.")
    multiple_of: Positive = Field(1, description="What its sizes are multiples of.")
    order: Order | None = Field(None, description="`causal`: nothing looks ahead along it; `none`: a set.")
    duplicates: bool = Field(False, description="Of a set: repeating an element changes nothing.")
    padding: Side | None = Field(None, description="Where rows may be shorter.")
    empty: bool = Field(False, description="Whether a row may have no real element.")
    from_: str | None = Field(
        None,
        alias="from",
        description='Of an output: a formula such as "time // 4", or "measured"; "batch * seq" where forward joins the rows with another '
        "axis, the outer one first: each row is judged, and its labels are `[batch, seq]`.",
    )
    independent: bool = Field(True, description="Of `batch`: whether rows are independent in forward.")


class LossKeys(_Keys):
    """The loss as a function, and what it is taken over."""

    function: str = Field(description="`file.py:function`, or `:function` of the model file.")
    over: Literal["batch"] | None = Field(None, description="`batch` where rows are compared with each other.")
    arguments: dict[str, str | int | float | bool] = Field(
        default_factory=dict,
        description="What a function is given that takes other arguments than `outputs` and `batch`: by the name or place of the "
        "parameter `outputs.NAME`, `batch.NAME` (inputs and labels), `outputs` for all that forward returned, or a number.",
    )
    made_with: dict[str, Any] = Field(default_factory=dict, description="Of a class of a loss: what it is made with.")
    result: str | int | None = Field(None, description="The key or place of the loss in what the function returns.")


class SignatureKeys(_Keys):
    """The keys of a config that declare a task by its signature, in place of a ``task_type``."""

    inputs: dict[str, InputKeys] = Field(default_factory=dict, description="What forward takes, in its order.")
    outputs: dict[str, OutputKeys] = Field(
        default_factory=dict, description="What forward returns; the first is the main output."
    )
    axes: dict[str, AxisKeys] = Field(default_factory=dict, description="Sizes and promises of the axes of inputs and outputs.")
    symmetric: list[str] = Field(default_factory=list, description="Inputs that may be swapped without a change.")
    limits: list[str] = Field(default_factory=list, description='What holds across axes: ["past + time <= 48"].')
    labels: dict[str, LabelKeys] = Field(default_factory=dict, description="Labels that do not follow from the outputs.")
    loss: str | LossKeys | None = Field(None, description="The whole loss, as file.py:function, or :function of the model file.")
    example: Annotated[str, Field(pattern=r".*:\w+$")] | None = Field(
        None,
        description="Forward's arguments, or a function that returns them, as `file.py:name` (`:name` in the model's file); `inputs`, "
        "and what else is not declared, are read from them.",
    )


_GROUPS: dict[str, type[_Keys]] = {"inputs": InputKeys, "outputs": OutputKeys, "axes": AxisKeys, "labels": LabelKeys}
_INNER: dict[str, type[_Keys]] = {"values": ValuesKeys, "state": StateKeys}


def keys_in(path: list[str]) -> list[str] | None:
    """The keys that are valid at a path inside a signature; ``None`` where the path is none of a signature's."""
    if not path or path[0] not in _GROUPS:
        return [*LossKeys.model_fields] if path[:1] == ["loss"] else None
    model = _INNER.get(path[2], _GROUPS[path[0]]) if len(path) > 2 else _GROUPS[path[0]]
    return [field.alias or name for name, field in model.model_fields.items()]


_PLAIN = re.compile(r"[A-Za-z_][\w.]*\Z")
"""Text that YAML reads as text without quotes."""

_WORDS = ("true", "false", "null", "yes", "no", "on", "off", "y", "n")
"""Words that some reader of YAML takes for something else."""


def declared_keys(signature: Signature) -> dict[str, Any]:
    """The keys of a config that declare a signature, JSON-ready and without what is the default."""
    apart = {axis for each in signature.outputs if each.joined for axis in each.axes}  # of which no config speaks
    spoken = {axis for each in (*signature.inputs, *signature.labels) for axis in each.axes}
    axes = {name: keys for name, axis in signature.axes.items() if (keys := _axis(axis)) and name not in apart - spoken - {BATCH}}
    labels: dict[str, Any] = {each.name: _input(each) for each in signature.labels}
    labels |= {name: {"from": source} for name, source in signature.label_sources.items()}
    loss: Any = signature.loss
    call = signature.loss_call
    if signature.loss_over or call is not None:
        loss = {"function": signature.loss} | ({"over": signature.loss_over} if signature.loss_over else {})
    if call is not None:
        written = {"arguments": dict(call.arguments), "made_with": dict(call.made_with)}
        loss |= {key: value for key, value in written.items() if value} | ({} if call.result is None else {"result": call.result})
    keys = {
        "inputs": {
            **{name: {"class": group.source} for name, group in signature.groups.items()},
            **{each.name: _input(each) for each in signature.inputs},
        },
        "outputs": {each.name: _output(each) for each in signature.outputs},
        "axes": axes,
        "limits": [limit.text for limit in signature.limits],
        "symmetric": list(signature.symmetric),
        "labels": labels,
        "loss": loss,
    }
    return {key: value for key, value in keys.items() if value}


def to_yaml(keys: Mapping[str, Any]) -> str:
    """Keys of a config as YAML, one line an entry."""
    lines = []
    for key, value in keys.items():
        if isinstance(value, dict) and key != "loss":
            lines += [f"{key}:", *(f"  {_text(name)}: {_flow(entry)}" for name, entry in value.items())]
        else:
            lines.append(f"{key}: {_flow(value)}")
    return "\n".join(lines) + "\n"


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_text(key)}: {_flow(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return _text(value) if isinstance(value, str) else json.dumps(value)


def _text(value: str) -> str:
    return value if _PLAIN.match(value) and value.lower() not in _WORDS else json.dumps(value)


def _input(each: Input) -> dict[str, Any]:
    keys: dict[str, Any] = {"axes": list(each.axes)}
    values = each.values.written()
    if values != "normal":
        keys["values"] = values
    if each.dtype != each.values.dtype():
        keys["dtype"] = each.dtype
    if each.optional:
        keys["optional"] = True
    if each.state:
        keys["state"] = {"from": each.state, **({"initial": each.initial} if each.initial != "absent" else {})}
    return keys


def _output(each: Output) -> dict[str, Any]:
    keys: dict[str, Any] = {"axes": list(each.returned_axes), **each.kind.written()}
    optional = {
        "at": each.at,
        "range": None if each.bounds is None else list(each.bounds),
        "loss": None if each.loss == each.kind.default_loss else each.loss,
        "weight": None if each.weight == 1.0 else each.weight,
        "fits": None if each.fits else False,
        "constant": True if each.constant else None,
    }
    return keys | {key: value for key, value in optional.items() if value is not None}


def _axis(axis: Axis) -> dict[str, Any]:
    keys = {
        "min": axis.least if axis.least != 1 else None,
        "max": axis.most,
        "sizes": list(axis.sizes) or None,
        "multiple_of": axis.multiple_of if axis.multiple_of != 1 else None,
        "order": axis.order,
        "duplicates": axis.duplicates or None,
        "padding": axis.padding,
        "empty": axis.empty or None,
        "from": axis.source.text if isinstance(axis.source, Formula) else axis.source,
        "independent": None if axis.independent or axis.name != BATCH else False,
    }
    return {key: value for key, value in keys.items() if value is not None}
