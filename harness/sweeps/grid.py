"""The values to try, as Python and the command line give them, and their combinations."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from harness.documents import plain
from harness.errors import ConfigError, ExperimentError

MOST = 10_000
"""Combinations that a grid may have."""

_LONGEST = 40
_decoder = json.JSONDecoder()


@dataclass(frozen=True)
class Combination:
    """One value for every key of a grid.

    Attributes:
        number: Its place in the grid, counted from 1.
        params: The values by config key, JSON-ready.
    """

    number: int
    params: Mapping[str, Any]

    @cached_property
    def key(self) -> str:
        """What tells it apart from every other combination."""
        return identity(self.params)

    def __str__(self) -> str:
        return " ".join(f"{key}={shown(value)}" for key, value in self.params.items())


@dataclass(frozen=True)
class Grid:
    """Config keys, and the values to try of each.

    Attributes:
        values: By key, dotted where it is nested; JSON-ready, each value once.
    """

    values: Mapping[str, tuple[Any, ...]]

    def __len__(self) -> int:
        return math.prod(map(len, self.values.values()))

    def combinations(self) -> list[Combination]:
        """Every combination; the last key changes fastest."""
        rows = product(*self.values.values())
        return [Combination(number, dict(zip(self.values, row, strict=True))) for number, row in enumerate(rows, 1)]

    def to_json(self) -> dict[str, list[Any]]:
        """The values as lists."""
        return {key: list(values) for key, values in self.values.items()}


def make_grid(given: Mapping[str, Iterable[Any]]) -> Grid:
    """A grid from what the user wrote.

    Raises:
        ConfigError: There is no key, a key has no values or one of them twice, two keys overlap, or there are too many combinations.
    """
    if not isinstance(given, Mapping) or not given:
        raise ConfigError('grid: expected values by config key, such as {"learning_rate": [0.001, 0.01]}')
    grid = Grid({str(key): _values_of(str(key), values) for key, values in given.items()})
    for key in grid.values:
        for inner in grid.values:
            if inner.startswith(f"{key}."):
                raise ConfigError(f"grid: `{key}` holds `{inner}`, so they cannot both be varied")
    if len(grid) > MOST:
        sizes = " × ".join(f"{len(values)} `{key}`" for key, values in grid.values.items())
        raise ConfigError(f"grid: {len(grid):,} combinations ({sizes}), and a sweep takes at most {MOST:,}")
    return grid


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
        found = {key.strip(): values_of(key.strip(), text)} if equals else _read_file(Path(option))
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
        value, rest = _first_value(rest)
        if not value:
            raise ConfigError(f"--grid {key}={text}: a value is missing")
        values.append(json.loads(value) if _is_json(value) else value)
        if not rest:
            return values
        rest = rest[1:].lstrip()


def _first_value(text: str) -> tuple[str, str]:
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


def _read_file(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ConfigError(f"--grid {file}: neither key=value,value nor a file")
    try:
        found = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"--grid {file}: is not JSON that can be read: {str(error).splitlines()[0]}") from None
    if not isinstance(found, dict):
        raise ConfigError(f"--grid {file}: expected an object of lists, got {type(found).__name__}")
    return found


def identity(value: Any) -> str:
    """The same text for equal JSON values, in whatever order their keys are, and whether a number is written 1 or 1.0."""
    return json.dumps(_whole(value), sort_keys=True, separators=(",", ":"))


def shown(value: Any) -> str:
    """A value for people, in one short line."""
    text = f"{value:.6g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
    text = " ".join(text.split()) or '""'
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _values_of(key: str, given: Any) -> tuple[Any, ...]:
    if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable):
        raise ConfigError(f"grid `{key}`: got {shown(str(given))}, expected a list of values")
    try:
        values = tuple(plain(list(given)))
    except ExperimentError as error:
        raise ConfigError(f"grid `{key}`: a value {error}") from None
    if not values:
        raise ConfigError(f"grid `{key}`: no values to try")
    seen: set[str] = set()
    for value in values:
        if identity(value) in seen:
            raise ConfigError(f"grid `{key}`: {shown(value)} is given twice")
        seen.add(identity(value))
    return values


def _whole(value: Any) -> Any:
    """The value with 1 for 1.0."""
    if isinstance(value, dict):
        return {key: _whole(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_whole(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
