"""Configs of whatever kind as JSON, without the passwords and keys that they hold."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import PurePath
from typing import Any

import numpy as np
from pydantic import BaseModel
from torch import Tensor, nn

_DEPTH = 8
"""Configs nested deeper than this are stored as text."""

_HIDDEN = "***"
_LOGIN = re.compile(r"(?<=://)[^/@\s]+(?=@)")
_SECRET = re.compile(
    r"(?:^|_)(?:password|passwd|secret|credentials?|(?:api|access|private|secret)_?key|(?:auth|access|api|hf)_token)$|^token$",
    re.IGNORECASE,
)


def json_ready(value: Any, depth: int = 0) -> Any:
    """A config of whatever kind as values that JSON knows, with its passwords and keys left out."""
    if isinstance(value, Enum):
        return json_ready(value.value, depth)
    if isinstance(value, str):
        return _LOGIN.sub(_HIDDEN, value)
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, np.generic):
        return json_ready(value.item(), depth)
    if isinstance(value, (list, tuple, set, frozenset)):
        return [json_ready(entry, depth + 1) for entry in value]
    if isinstance(value, type) and depth:
        return f"{value.__module__}.{value.__qualname__}"
    attributes = _attributes(value) if depth < _DEPTH else None
    if attributes is None:
        return _LOGIN.sub(_HIDDEN, str(value))
    return {
        str(key): _HIDDEN if _SECRET.search(str(key)) and entry is not None else json_ready(entry, depth + 1)
        for key, entry in attributes.items()
    }


def _attributes(value: Any) -> Mapping[Any, Any] | None:
    """What a config holds by name; ``None`` of a value that is no config."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if callable(getattr(value, "to_dict", None)) and not isinstance(value, type):
        return dict(value.to_dict())
    plain = type(value).__module__ in ("builtins", "torch", "numpy") and not isinstance(value, type)
    if plain or isinstance(value, (nn.Module, Tensor, PurePath)):
        return None
    # Defaults may be attributes of the class; read without running any property.
    found = {name: inspect.getattr_static(value, name) for name in dir(value) if not name.startswith("_")}
    return {name: entry for name, entry in found.items() if not inspect.isroutine(entry) and not inspect.isdatadescriptor(entry)}
