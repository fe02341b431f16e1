"""The values to try, and their combinations."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

from harness.errors import ConfigError
from harness.experiments.documents import plain
from harness.experiments.errors import ExperimentError

MOST = 10_000
"""Combinations that a grid may have."""

_LONGEST = 40


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

    Args:
        given: Values by config key: lists, tuples, ranges, arrays.

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
