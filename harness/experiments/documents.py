"""Configs, profiles and facts as JSON text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import date
from enum import Enum
from pathlib import PurePath
from typing import Any

from harness.errors import ExperimentError


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


def from_text(text: str) -> Any:
    """The value of a JSON text."""
    return json.loads(text)


def plain(value: Any) -> Any:
    """The value as it comes back from the database: JSON-ready, NaN and infinities kept.

    Raises:
        ExperimentError: It cannot be stored as JSON.
    """
    return from_text(to_text(value))


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
