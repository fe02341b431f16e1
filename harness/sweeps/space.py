"""What a sweep is, as it is stored with it; and whether one that goes on is the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.experiments.documents import flat
from harness.experiments.errors import ExperimentError
from harness.experiments.records import SweepRecord
from harness.sweeps.base import Base
from harness.sweeps.grid import Grid, identity, shown

_MOST_LINES = 5


def space_of(base: Base, grid: Grid) -> dict[str, Any]:
    """What is stored of a sweep."""
    return {"grid": grid.to_json(), "base": dict(base.keys)}


def stored_grid(sweep: SweepRecord, base: Base, grid: Grid) -> Grid:
    """The grid of a stored sweep, whose order numbers its combinations.

    Args:
        sweep: The sweep.
        base: The config that it is to go on with.
        grid: The grid that it is to go on with; the order of its keys and values does not matter.

    Raises:
        ExperimentError: The sweep has another config or another grid, or was stored by something else.
    """
    space = sweep.space
    if not isinstance(space, Mapping) or not isinstance(space.get("grid"), Mapping) or not isinstance(space.get("base"), Mapping):
        raise ExperimentError(f"sweep {sweep.id} ({sweep.name}) is no grid sweep, so it cannot go on as one")
    stored = Grid({key: tuple(values) for key, values in space["grid"].items()})
    lines = [
        *_differences("grid", _sets(stored), _sets(grid)),
        *_differences("config", flat(space["base"]), flat(dict(base.keys))),
    ]
    if lines:
        more = [f"… and {len(lines) - _MOST_LINES} more"] if len(lines) > _MOST_LINES else []
        differ = "\n".join(f"  {line}" for line in [*lines[:_MOST_LINES], *more])
        raise ExperimentError(
            f"sweep {sweep.id} ({sweep.name}) was begun with something else, so it cannot go on with this:\n{differ}"
        )
    return stored


def _sets(grid: Grid) -> dict[str, Any]:
    """The values in an order of their own, for comparison."""
    return {key: sorted(values, key=identity) for key, values in grid.values.items()}


def _differences(what: str, stored: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    lines = []
    for key in dict.fromkeys([*stored, *given]):
        if key not in given:
            lines.append(f"{what} `{key}`: the sweep has {shown(stored[key])}, and here it is missing")
        elif key not in stored:
            lines.append(f"{what} `{key}`: the sweep does not have it, and here it is {shown(given[key])}")
        elif identity(stored[key]) != identity(given[key]):
            lines.append(f"{what} `{key}`: the sweep has {shown(stored[key])}, and here it is {shown(given[key])}")
    return lines
