"""A task, as it was stored with a run, as keys of a config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from typing import Any

from harness.tasks import TaskSpec


def task_keys(stored: Mapping[str, Any]) -> dict[str, Any]:
    """What a task says beyond the defaults of ``TaskSpec``; a config refuses some keys for some tasks, whatever their value.

    Args:
        stored: A task as JSON values.
    """
    defaults = {field.name: _default(field) for field in fields(TaskSpec)}
    return {key: value for key, value in stored.items() if key not in defaults or value != defaults[key]}


def _default(field: Field[Any]) -> Any:
    """The default of a field as JSON has it."""
    value = field.default_factory() if field.default_factory is not MISSING else field.default
    return list(value) if isinstance(value, tuple) else value
