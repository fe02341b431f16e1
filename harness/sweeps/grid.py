"""The values to try, as Python and the command line give them, their combinations, and the result of each."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, Literal

from harness.documents import plain, strict_json
from harness.errors import ConfigError, ExperimentError
from harness.experiments.records import Mode
from harness.wording import aligned, counted, duration, shortened, six_digits

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
        """A key that no other combination has."""
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
    """Values separated by commas: JSON, or bare words.

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


_LONGEST_ERROR = 110

TrialStatus = Literal["finished", "failed"]


@dataclass(frozen=True)
class TrialResult:
    """What became of one combination.

    Attributes:
        combination: The values, and their number in the grid.
        run_id: Its run in the experiment database.
        status: ``finished`` or ``failed``.
        metrics: By name.
        seconds: How long it took.
        error: Why it failed.
    """

    combination: Combination
    run_id: int
    status: TrialStatus
    metrics: Mapping[str, float]
    seconds: float
    error: str | None = None

    @property
    def params(self) -> Mapping[str, Any]:
        """The values by config key."""
        return self.combination.params

    def to_json(self) -> dict[str, Any]:
        """The result as strict JSON values; NaN and infinities are text."""
        return {
            "number": self.combination.number,
            "params": strict_json(dict(self.params)),
            "run_id": self.run_id,
            "status": self.status,
            "metrics": strict_json(dict(self.metrics)),
            "seconds": self.seconds,
            "error": self.error,
        }


@dataclass(frozen=True)
class SweepResult:
    """What a sweep found.

    Attributes:
        sweep_id: Its id in the experiment database.
        name: Its name.
        metric: What the trials are ordered by.
        mode: ``min`` where smaller is better, ``max`` where greater is.
        grid: The values that were tried.
        trials: Those that were done: the best first, then those whose metric is not finite, then those that failed.
        folder: Where its files are.
    """

    sweep_id: int
    name: str
    metric: str
    mode: Mode
    grid: Grid
    trials: tuple[TrialResult, ...]
    folder: Path

    @cached_property
    def best(self) -> TrialResult | None:
        """The trial whose metric is best, of equals the first; ``None`` where none has a finite one."""
        return self.trials[0] if self.trials and self.value(self.trials[0]) is not None else None

    @property
    def failed(self) -> tuple[TrialResult, ...]:
        """The trials that failed."""
        return tuple(trial for trial in self.trials if trial.status == "failed")

    @property
    def status(self) -> Literal["ok", "warn", "fail"]:
        """``warn`` where some trials failed or were not done, ``fail`` where none has a finite metric."""
        if self.best is None:
            return "fail"
        return "ok" if len(self.trials) == len(self.grid) and not self.failed else "warn"

    def value(self, trial: TrialResult) -> float | None:
        """The metric of a trial; ``None`` where it failed or is not finite."""
        return finite_value(trial, self.metric)

    @property
    def amount(self) -> str:
        """``12 trials``, or ``5 of 12 trials`` where it was stopped."""
        done, combinations = len(self.trials), len(self.grid)
        return f"{done:,} of {counted(combinations, 'trial')}" if done < combinations else counted(done, "trial")

    @property
    def summary(self) -> str:
        """How many trials there are, and which is best."""
        failed = f", {len(self.failed)} failed" if self.failed else ""
        head = f"sweep {self.sweep_id} ({self.name}): {self.amount}{failed}"
        if self.best is None:
            return f"{head}; none has a finite {self.metric}"
        value = six_digits(self.value(self.best))
        return f"{head}; best {self.metric} {value} with {self.best.combination} (run {self.best.run_id})"

    def table(self) -> str:
        """The trials in aligned columns, the best first and marked, under a line that sums them up."""
        if not self.trials:
            return self.summary
        head = ["", *self.grid.values, self.metric, "TOOK", "RUN", "STATUS", *(["ERROR"] if self.failed else [])]
        return f"{self.summary}\n\n{aligned([head, *map(self._row, self.trials)])}"

    def _row(self, trial: TrialResult) -> list[str]:
        values = [shown(value) for value in trial.params.values()]
        metric = six_digits(trial.metrics.get(self.metric)) if trial.status == "finished" else ""
        error = [one_line(trial.error or "")] if self.failed else []
        mark = "*" if trial is self.best else ""
        return [mark, *values, metric, duration(trial.seconds), str(trial.run_id), trial.status, *error]

    def to_json(self) -> dict[str, Any]:
        """The sweep as strict JSON values; NaN and infinities are text."""
        return {
            "status": self.status,
            "sweep_id": self.sweep_id,
            "name": self.name,
            "metric": self.metric,
            "mode": self.mode,
            "grid": strict_json(self.grid.to_json()),
            "combinations": len(self.grid),
            "best": self.best and self.best.to_json(),
            "trials": [trial.to_json() for trial in self.trials],
            "folder": str(self.folder),
        }


def one_line(error: str) -> str:
    """The first line of an error, shortened."""
    return shortened(next(iter(error.strip().splitlines()), ""), _LONGEST_ERROR)


def finite_value(trial: TrialResult, metric: str) -> float | None:
    """A metric of a trial; ``None`` where the trial failed or the metric is not finite."""
    value = trial.metrics.get(metric, math.nan) if trial.status == "finished" else math.nan
    return value if math.isfinite(value) else None


def ordered(trials: Sequence[TrialResult], metric: str, mode: Mode) -> tuple[TrialResult, ...]:
    """The best first; then those whose metric is not finite; then those that failed."""

    def place(trial: TrialResult) -> tuple[bool, bool, float, int]:
        value = finite_value(trial, metric)
        rank = 0.0 if value is None else (value if mode == "min" else -value)
        return trial.status == "failed", value is None, rank, trial.combination.number

    return tuple(sorted(trials, key=place))
