"""Configs, profiles and facts as JSON: as text for a database, as strict JSON without NaN, and without secrets."""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import date
from enum import Enum
from pathlib import PurePath
from typing import Any

from harness.errors import ExperimentError

_DEPTH = 8
"""Configs nested deeper than this are stored as text."""

_HIDDEN = "***"
_LOGIN = re.compile(r"(?<=://)[^/@\s]+(?=@)")
_SECRET = re.compile(
    r"(?:^|_)(?:password|passwd|secret|credentials?|(?:api|access|private|secret)_?key|(?:auth|access|api|hf)_token)$|^token$",
    re.IGNORECASE,
)


def to_text(value: Any) -> str:
    """A value as JSON text.

    NaN and the infinities are written as Python writes them (``NaN``, ``Infinity``), which keeps them; strict JSON has no word for them.

    Args:
        value: JSON-ready values, Pydantic models, dataclasses, enums, paths, dates, sets, arrays, tensors, and objects with ``to_json``.

    Raises:
        ExperimentError: Something in it is none of these.
    """
    try:
        return json.dumps(value, default=_plain)
    except (TypeError, ValueError) as error:
        raise ExperimentError(f"cannot be stored as JSON: {error}") from None


def plain(value: Any) -> Any:
    """The value as it comes back from the database: JSON-ready, NaN and infinities kept.

    Raises:
        ExperimentError: It cannot be stored as JSON.
    """
    return json.loads(to_text(value))


def flat(document: Any, prefix: str = "") -> dict[str, Any]:
    """A nested document with dotted keys: ``{"eval": {"split": "test"}}`` is ``{"eval.split": "test"}``."""
    if not (isinstance(document, Mapping) and document):
        return {prefix: document}
    found: dict[str, Any] = {}
    for key, inner in document.items():
        found.update(flat(inner, f"{prefix}.{key}" if prefix else str(key)))
    return found


def _plain(value: Any) -> Any:
    """What the JSON encoder writes for an object it does not know."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if hasattr(value, "to_json"):
        return value.to_json()
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=str)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, PurePath):
        return str(value)
    if hasattr(value, "tolist"):  # arrays, tensors and their scalars
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} is not a number, text, list or mapping")


def strict_json(value: Any) -> Any:
    """JSON-ready values with text for NaN and infinities, which strict JSON does not have."""
    if isinstance(value, Mapping):
        return {str(key): strict_json(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict_json(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def without_secrets(value: Any, depth: int = 0) -> Any:
    """A config of whatever kind as values that JSON knows, with its passwords and keys left out."""
    if isinstance(value, Enum):
        return without_secrets(value.value, depth)
    if isinstance(value, str):
        return _LOGIN.sub(_HIDDEN, value)
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        return without_secrets(value.item(), depth)
    if isinstance(value, (list, tuple, set, frozenset)):
        return [without_secrets(entry, depth + 1) for entry in value]
    if isinstance(value, type) and depth:
        return f"{value.__module__}.{value.__qualname__}"
    attributes = _attributes(value) if depth < _DEPTH else None
    if attributes is None:
        return _LOGIN.sub(_HIDDEN, str(value))
    return {
        str(key): _HIDDEN if _SECRET.search(str(key)) and entry is not None else without_secrets(entry, depth + 1)
        for key, entry in attributes.items()
    }


def _attributes(value: Any) -> Mapping[Any, Any] | None:
    """What a config holds by name; ``None`` of a value that is no config."""
    from torch import Tensor, nn

    if isinstance(value, Mapping):
        return value
    if hasattr(value, "model_dump") and not isinstance(value, type):
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
