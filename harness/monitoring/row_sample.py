"""A few rows of a table, kept while it is counted: which columns go together, and which rows are there twice."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.monitoring.features.values import Block, Numbers
from harness.monitoring.joint import RowsKept
from harness.monitoring.profiles.sources import Source
from harness.monitoring.statistics import Usual

_ROWS = 8192
"""Rows that are kept at most, evenly spread."""

_COLUMNS = 100
"""Columns of numbers whose correlations are looked at."""

_HASHED = 32
"""Columns of numbers that tell one row from another."""

_HASHES = 8192
"""Hashes of rows that are kept at most, those below a threshold that falls."""

_STORED = 1024
"""Hashes that a reference keeps, so that its own rows are known again."""

_STRONG = 0.5
"""Rank correlations from here on are remembered."""

_PAIRS = 64

_MOST_ALIKE = 0.8

_LOST = 0.3
"""How far a correlation must have moved to matter."""

_ALPHA = 0.001
"""The probability that a correlation of a window without drift is called lost, all pairs together."""


_REPEATED = 0.01
"""The share of rows that may be repetitions, beside that of the reference."""

_SURELY = 4.0
"""Standard errors."""


_OF_REFERENCE = 0.05
"""The share of rows that may be the reference's own, beyond that which chance gives where rows have few distinct values."""

_NEARLY_ALL = 0.95

REPEATED, OF_REFERENCE = "rows_repeated", "rows_of_reference"


class RowHashes:
    """Hashes of rows: how many rows are there twice, and how many are a reference's own, in bounded memory.

    Attributes:
        rows: How many were added.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._hashes = np.zeros(0, np.uint64)
        self._counts = np.zeros(0, np.int64)
        self._below = np.uint64(2**64 - 1)

    def add(self, hashes: NDArray[np.uint64]) -> None:
        """Adds rows, uint64 ``[N]``."""
        self.rows += len(hashes)
        new, counts = np.unique(hashes[hashes <= self._below], return_counts=True)
        self._hashes, place = np.unique(np.concatenate([self._hashes, new]), return_inverse=True)
        self._counts = np.bincount(place, np.concatenate([self._counts, counts])).astype(np.int64)
        if len(self._hashes) > _HASHES:
            self._below = self._hashes[_HASHES // 2]
            kept = self._hashes <= self._below
            self._hashes, self._counts = self._hashes[kept], self._counts[kept]

    @property
    def repeated(self) -> float:
        """The share of rows that were there before, estimated."""
        return float(1 - len(self._hashes) / self._counts.sum()) if len(self._hashes) else 0.0

    def repeats_more(self, reference: Mapping[str, Any]) -> bool:
        """Whether more rows are repetitions than by chance: 1% more than in as many rows of the reference, and surely so.

        Args:
            reference: What ``to_json`` kept of it.
        """
        n, m = int(self._counts.sum()), max(1, int(reference["hashed_rows"]))
        expected = min(1.0, float(reference["repeated"]) * max(1.0, self.rows / max(1, int(reference["all_rows"]))))
        spread = math.sqrt(max(expected * (1 - expected), 1 / m) * (1 / max(n, 1) + 1 / m))
        return self.repeated > expected + max(_REPEATED, _SURELY * spread)

    def share_of(self, reference: Mapping[str, Any]) -> tuple[float, float]:
        """The share of rows that are among those of a reference, estimated; and the largest that chance gives.

        By chance a row of a window is among the reference's as often as one of the reference is there twice, which is at most for two times
        the share of repetitions.

        Args:
            reference: What ``to_json`` kept of it.
        """
        mine = np.array([int(each, 16) for each in reference["rows"]], np.uint64)
        if not len(mine) or not len(self._hashes):
            return 0.0, 1.0
        looked_at = self._hashes <= min(mine.max(), self._below)
        total = int(self._counts[looked_at].sum())
        if total < _FEWEST_HASHED:
            return 0.0, 1.0
        chance = min(1.0, 2 * float(reference["repeated"]))
        allowed = min(1.0, chance + _OF_REFERENCE)
        most = allowed + _SURELY * math.sqrt(allowed * (1 - allowed) / total)
        return float(self._counts[looked_at & np.isin(self._hashes, mine)].sum() / total), most

    def findings(self, reference: Mapping[str, Any]) -> list[tuple[str, str]]:
        """What is wrong with the rows of a window: a code and a sentence each.

        Args:
            reference: What ``to_json`` kept of the reference's rows.
        """
        found = []
        if self.repeats_more(reference):
            before = f"{reference['repeated']:.0%} in the reference"
            found.append(
                (REPEATED, f"{self.repeated:.0%} of the rows are repetitions of others ({before}): was a file sent twice?")
            )
        share, most = self.share_of(reference)
        if share > most:
            follows = "which hides drift of the others" if share < _NEARLY_ALL else "so this says nothing about new rows"
            found.append((OF_REFERENCE, f"about {share:.0%} of the rows are the reference's own, {follows}"))
        return found

    def to_json(self) -> dict[str, Any]:
        """What a reference keeps of its rows, ready for JSON."""
        return {
            "all_rows": self.rows,
            "hashed_rows": int(self._counts.sum()),
            "repeated": self.repeated,
            "rows": [f"{each:x}" for each in self._hashes[:_STORED].tolist()],
        }


class RowSample:
    """Keeps some rows of blocks as they go by.

    Args:
        most: How many at most.
        has_hashes: Whether all rows are hashed, to know those again that come twice.
    """

    def __init__(self, most: int = _ROWS, *, has_hashes: bool = True) -> None:
        self._most, self._has_hashes = most, has_hashes
        self._start()

    def _start(self) -> None:
        self.rows = 0
        self._stride = 1
        self._kept: list[NDArray[np.float32]] = []
        self._names: tuple[str, ...] = ()
        self._dates: frozenset[str] = frozenset()
        self.hashes = RowHashes()

    def of(self, source: Source) -> Source:
        """The same source, whose rows are looked at as they are read; those of the last time through are kept."""

        def blocks(kinds: Mapping[str, str] | None) -> Iterator[Block]:
            self._start()
            for block in source.blocks(kinds):
                self.add(block)
                yield block

        return replace(source, blocks=blocks)

    def add(self, block: Block) -> None:
        """Looks at some rows."""
        numbers = {name: values.values for name, values in block.values.items() if isinstance(values, Numbers)}
        self._names = self._names or tuple(numbers)
        self._dates |= {name for name, each in block.values.items() if isinstance(each, Numbers) and each.unit}
        there = [numbers[name] for name in self._names if name in numbers]
        if len(there) == len(self._names) >= 2:
            self._add_rows(there)
        if block.hashes is not None and self._has_hashes:
            self.hashes.add(block.hashes)
        elif self._has_hashes and len(there) == len(self._names) >= 2:
            self.hashes.add(row_hashes(there[:_HASHED]))
        self.rows += block.rows

    def _add_rows(self, columns: Sequence[NDArray[np.float64]]) -> None:
        chosen = slice(-self.rows % self._stride, None, self._stride)
        with np.errstate(over="ignore"):  # what is beyond float32 is infinite there, and has its rank all the same
            self._kept.append(np.stack([column[chosen].astype(np.float32) for column in columns[:_COLUMNS]], axis=1))
        while sum(map(len, self._kept)) > self._most:
            self._kept = [np.concatenate(self._kept)[::2]]
            self._stride *= 2

    def correlations(self, pairs: Sequence[Sequence[Any]] | None = None) -> list[tuple[str, str, float, float]]:
        """Rank correlations of two columns each, with their standard errors: of some pairs, by default the strongest."""
        table = np.concatenate(self._kept) if self._kept else np.zeros((0, 0), np.float32)
        if len(table) < _FEWEST or table.shape[1] < 2:
            return []
        names, ranks = self._names[: table.shape[1]], standard_ranks(table)
        if pairs is None:
            chosen = _strongest(ranks, table, np.array([name not in self._dates for name in names]))
        else:
            places = {name: place for place, name in enumerate(names)}
            chosen = [(places[a], places[b]) for a, b, *_ in pairs if a in places and b in places]
        return [(names[a], names[b], *_correlation(ranks[:, a], ranks[:, b])) for a, b in chosen]

    def rows_kept(self) -> RowsKept:
        """Some of the rows, for those that are compared as a whole; without dates, by which any later row is told."""
        table = np.concatenate(self._kept) if self._kept else np.zeros((0, 0), np.float32)
        chosen = [place for place, name in enumerate(self._names[: table.shape[1]]) if name not in self._dates]
        return RowsKept.of([self._names[place] for place in chosen], table[:, chosen])

    @property
    def size(self) -> int:
        """Rows that are kept."""
        return sum(map(len, self._kept))

    def to_json(self) -> dict[str, Any]:
        """What a reference keeps of its rows, ready for JSON."""
        return {
            "correlations": [list(each) for each in self.correlations()],
            "correlated_rows": self.size,
            **self.hashes.to_json(),
        }


_FEWEST = 30
_FEWEST_HASHED = 12


def row_hashes(columns: Sequence[NDArray[np.float64]]) -> NDArray[np.uint64]:
    """A hash of each row, uint64 ``[N]``, the same on every machine.

    Args:
        columns: Float64 ``[N]`` each.
    """
    found = np.zeros(len(columns[0]), np.uint64)
    for column in columns:
        bits = np.where(np.isnan(column), np.nan, column + 0.0).view(np.uint64)
        found = (found ^ bits) * np.uint64(0x9E3779B97F4A7C15)
        found ^= found >> np.uint64(29)
    found *= np.uint64(0xBF58476D1CE4E5B9)
    return np.asarray(found ^ (found >> np.uint64(32)))


def standard_ranks(table: NDArray[np.float32]) -> NDArray[np.float64]:
    """The ranks of each column of ``[N, D]`` with mean 0 and variance 1; missing values are in the middle, 0 in a column of one value."""
    ranks = np.empty(table.shape)
    for place, column in enumerate(table.T):
        _, where, counts = np.unique(column, return_inverse=True, return_counts=True)
        middle = (np.cumsum(counts) - counts / 2)[where]
        missing = np.isnan(column)
        ranks[:, place] = np.where(missing, middle[~missing].mean() if not missing.all() else 0, middle)
    ranks -= ranks.mean(axis=0)
    spread = ranks.std(axis=0)
    return np.asarray(ranks / np.where(spread > 0, spread, 1.0))


def _strongest(ranks: NDArray[np.float64], table: NDArray[np.float32], known: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """The pairs of columns whose ranks go together most; not of columns of which most is one value, where a few rows decide.

    Args:
        ranks: Standard ranks, ``[N, D]``.
        table: The rows, ``[N, D]``.
        known: Which columns are no dates, ``[D]``: what rises for a month need not rise for a day.
    """
    found = np.abs(ranks.T @ ranks / len(ranks))
    varied = np.array([np.unique(column, return_counts=True)[1].max() <= _MOST_ALIKE * len(column) for column in table.T])
    found *= np.outer(varied & known, varied & known)
    first, second = np.triu_indices(len(found), 1)
    strength = found[first, second]
    order = np.argsort(-strength, kind="stable")[:_PAIRS]
    return [(int(first[place]), int(second[place])) for place in order if strength[place] >= _STRONG]


def _correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> tuple[float, float]:
    """A correlation and its standard error, by what each row makes of it, so that ties do not matter."""
    found = float((first * second).mean())
    influence = first * second - found * (first**2 + second**2) / 2
    return round(found, 4), round(float(np.sqrt((influence**2).mean() / len(first))), 5)


@dataclass(frozen=True)
class LostCorrelation:
    """Two columns that went together and no longer do, or no longer as before."""

    first: str
    second: str
    before: float
    now: float

    @property
    def message(self) -> str:
        """One sentence."""
        return f"`{self.first}` and `{self.second}` go together otherwise: rank correlation {self.now:.2f}, {self.before:.2f} in the reference"


CORRELATION = "correlation"
"""The aspect of two columns that is how they go together."""


def pair_name(first: str, second: str) -> str:
    """Two columns as one feature, whose correlation differs from window to window."""
    return f"{first} and {second}"


def moved_correlations(reference: Mapping[str, Any], window: RowSample) -> dict[str, dict[str, tuple[float, float]]]:
    """How far each correlation of a reference is from that in a window, and what chance makes of the square of that, by ``pair_name``.

    Args:
        reference: What ``to_json`` kept of it.
        window: Rows of the window.
    """
    pairs = reference.get("correlations", [])
    now = {(a, b): (value, error) for a, b, value, error in window.correlations(pairs)}
    both = [(a, b, before, *now[a, b]) for a, b, before, _ in pairs if (a, b) in now]
    return {pair_name(a, b): {CORRELATION: (round(abs(value - before), 4), error**2)} for a, b, before, value, error in both}


def lost_correlations(
    reference: Mapping[str, Any], window: RowSample, usual: Mapping[str, Usual] | None = None, alpha: float = 1.0
) -> list[LostCorrelation]:
    """The correlations of a reference that moved by 0.3 or more in a window, and surely so (a normal test of each; Bonferroni).

    Args:
        reference: What ``to_json`` kept of it.
        window: Rows of the window.
        usual: How far each moves in windows that are sound, by ``pair_name``; where it is known, it must have moved by more.
        alpha: The probability that all together move by more than is usual; 0.001 at most.
    """
    usual = usual or {}
    pairs = reference.get("correlations", [])
    now = {(a, b): (value, error) for a, b, value, error in window.correlations(pairs)}
    if not now or min(int(reference["correlated_rows"]), window.size) < _FEWEST:
        return []
    limit = NormalDist().inv_cdf(1 - _ALPHA / (2 * len(now)))
    found = []
    for a, b, before, error in pairs:
        if (a, b) in now:
            value, other = now[a, b]
            apart = abs(before - value)
            known = usual.get(pair_name(a, b))
            is_usual = known is not None and known.p_value(apart, other**2) > min(alpha, _ALPHA) / len(now)
            is_lost = apart >= max(_LOST, limit * math.hypot(error, other)) and not is_usual
            found += [LostCorrelation(a, b, before, value)] if is_lost else []
    return sorted(found, key=lambda one: -abs(one.before - one.now))
