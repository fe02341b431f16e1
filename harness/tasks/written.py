"""A signature as a config would declare it, for people to read and to edit."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from harness.tasks.axes import BATCH, Axis, Formula
from harness.tasks.signature import Input, Output, Signature

_PLAIN = re.compile(r"[A-Za-z_][\w.]*\Z")
"""Text that YAML reads as text without quotes."""

_WORDS = ("true", "false", "null", "yes", "no", "on", "off", "y", "n")
"""Words that some reader of YAML takes for something else."""


def declared_keys(signature: Signature) -> dict[str, Any]:
    """The keys of a config that declare a signature, JSON-ready and without what is the default."""
    axes = {name: keys for name, axis in signature.axes.items() if (keys := _axis(axis))}
    labels: dict[str, Any] = {each.name: _input(each) for each in signature.labels}
    labels |= {name: {"from": source} for name, source in signature.label_sources.items()}
    loss: Any = signature.loss
    if signature.loss_over:
        loss = {"function": signature.loss, "over": signature.loss_over}
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
    keys: dict[str, Any] = {"axes": list(each.axes), **each.kind.written()}
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
