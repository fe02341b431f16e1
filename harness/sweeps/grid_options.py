"""The grid as the command line gives it: ``--grid learning_rate=1e-4,1e-3``, or a JSON file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.errors import ConfigError

_decoder = json.JSONDecoder()


def grid_from_options(options: Sequence[str]) -> dict[str, Any]:
    """The values by key.

    Args:
        options: ``key=value,value``, where a value is JSON or a bare word, and files with a JSON object of lists.

    Raises:
        ConfigError: One of them is neither, or a key is given twice.
    """
    grid: dict[str, Any] = {}
    for option in options:
        key, equals, text = option.partition("=")
        found = {key.strip(): values_of(key.strip(), text)} if equals else _read(Path(option))
        for name, values in found.items():
            if name in grid:
                raise ConfigError(f"--grid: `{name}` is given twice")
            grid[name] = values
    if not grid:
        raise ConfigError("--grid: give the values to try, such as --grid learning_rate=1e-4,1e-3, or a JSON file of them")
    return grid


def values_of(key: str, text: str) -> list[Any]:
    """Values that are parted by commas: JSON, or bare words.

    Raises:
        ConfigError: A value is missing.
    """
    values: list[Any] = []
    rest = text.strip()
    while True:
        value, rest = _next(rest)
        if not value:
            raise ConfigError(f"--grid {key}={text}: a value is missing")
        values.append(json.loads(value) if _is_json(value) else value)
        if not rest:
            return values
        rest = rest[1:].lstrip()


def _next(text: str) -> tuple[str, str]:
    """The text of the first value, and what follows it from the comma on."""
    try:
        _, end = _decoder.raw_decode(text)
    except (json.JSONDecodeError, RecursionError):
        end = 0
    comma = text.find(",", end)
    comma = len(text) if comma < 0 else comma
    return text[:comma].strip(), text[comma:]


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return False
    return True


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ConfigError(f"--grid {file}: neither key=value,value nor a file")
    try:
        found = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"--grid {file}: is not JSON that can be read: {str(error).splitlines()[0]}") from None
    if not isinstance(found, dict):
        raise ConfigError(f"--grid {file}: expected an object of lists, got {type(found).__name__}")
    return found
