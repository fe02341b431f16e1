"""A few rows of a table, kept while it is counted: which columns go together, and which rows are there twice."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.monitoring.features.values import Block, Numbers
from harness.monitoring.profiles.sources import Source

_ROWS = 8192
"""Rows that are kept at most, evenly spread."""

_COLUMNS = 100
"""Columns of numbers whose correlations are looked at."""

_HASHED = 32
"""Columns of numbers that tell one row from another."""

_HASHES = 8192
"""Hashes of rows that are kept at most, those below a threshold that falls."""

_STORED = 256
"""Hashes that a reference keeps, so that its own rows are known again."""

_STRONG = 0.5
"""Rank correlations from here on are remembered."""

_PAIRS = 64

_LOST = 0.3
"""How far a correlation must have moved to matter."""

_ALPHA = 0.001
"""The probability that a correlation of a window without drift is called lost, all pairs together."""


class RowSample:
    """Keeps some rows of a source as its blocks go by; those of the last time through."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._start()

    def _start(self) -> None:
        self.rows = 0
        self._stride = 1
        self._kept: list[NDArray[np.float32]] = []
        self._names: tuple[str, ...] = ()
        self._hashes = np.zeros(0, np.uint64)
        self._counts = np.zeros(0, np.int64)
        self._below = np.uint64(2**64 - 1)

    def blocks(self, kinds: Mapping[str, str] | None) -> Iterator[Block]:
        """The source's blocks."""
        self._start()
        for block in self._source.blocks(kinds):
            self._add(block)
            yield block

    def _add(self, block: Block) -> None:
        numbers = {name: values.values for name, values in block.values.items() if isinstance(values, Numbers)}
        self._names = self._names or tuple(numbers)
        there = [numbers[name] for name in self._names if name in numbers]
        if len(there) == len(self._names) >= 2:
            self._add_rows(there)
            self._add_hashes(row_hashes(there[:_HASHED]))
        self.rows += block.rows

    def _add_rows(self, columns: Sequence[NDArray[np.float64]]) -> None:
        chosen = slice(-self.rows % self._stride, None, self._stride)
        with np.errstate(over="ignore"):  # what is beyond float32 is infinite there, and has its rank all the same
            self._kept.append(np.stack([column[chosen].astype(np.float32) for column in columns[:_COLUMNS]], axis=1))
        while sum(map(len, self._kept)) > _ROWS:
            self._kept = [np.concatenate(self._kept)[::2]]
            self._stride *= 2

    def _add_hashes(self, hashes: NDArray[np.uint64]) -> None:
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
        return 1 - len(self._hashes) / self._counts.sum() if len(self._hashes) else 0.0

    def share_of(self, known: Sequence[str]) -> float:
        """The share of rows that are among those of a reference, estimated.

        Args:
            known: The reference's hashes, as ``to_json`` has them: its smallest ones.
        """
        mine = np.array([int(each, 16) for each in known], np.uint64)
        if not len(mine) or not len(self._hashes):
            return 0.0
        looked_at = self._hashes <= min(mine.max(), self._below)
        total = int(self._counts[looked_at].sum())
        return float(self._counts[looked_at & np.isin(self._hashes, mine)].sum() / total) if total >= _FEWEST else 0.0

    def correlations(self, pairs: Sequence[Sequence[Any]] | None = None) -> list[tuple[str, str, float]]:
        """Rank correlations of two columns each: of some pairs, by default the strongest."""
        table = np.concatenate(self._kept) if self._kept else np.zeros((0, 0), np.float32)
        if len(table) < _FEWEST or table.shape[1] < 2:
            return []
        names = self._names[: table.shape[1]]
        found = rank_correlations(table)
        if pairs is not None:
            places = {name: place for place, name in enumerate(names)}
            known = [(a, b) for a, b, *_ in pairs if a in places and b in places]
            return [(a, b, float(found[places[a], places[b]])) for a, b in known]
        first, second = np.triu_indices(len(names), 1)
        strength = np.abs(found[first, second])
        order = np.argsort(-strength, kind="stable")[:_PAIRS]
        chosen = [(int(first[place]), int(second[place])) for place in order if strength[place] >= _STRONG]
        return [(names[a], names[b], round(float(found[a, b]), 4)) for a, b in chosen]

    @property
    def size(self) -> int:
        """Rows that are kept."""
        return sum(map(len, self._kept))

    def to_json(self) -> dict[str, Any]:
        """What a reference keeps of its rows, ready for JSON."""
        return {
            "correlations": [list(each) for each in self.correlations()],
            "correlated_rows": self.size,
            "repeated": self.repeated,
            "rows": [f"{each:x}" for each in self._hashes[:_STORED].tolist()],
        }


_FEWEST = 30


def row_hashes(columns: Sequence[NDArray[np.float64]]) -> NDArray[np.uint64]:
    """A hash of each row, uint64 ``[N]``, the same everywhere and for ever.

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


def rank_correlations(table: NDArray[np.float32]) -> NDArray[np.float64]:
    """Spearman's correlations of the columns ``[N, D]``, float64 ``[D, D]``; missing values are in the middle, 0 of a column of one value."""
    ranks = np.empty(table.shape)
    for place, column in enumerate(table.T):
        distinct, where = np.unique(column, return_inverse=True)
        ends = np.cumsum(np.bincount(where, minlength=len(distinct)))
        middle = (ends - np.bincount(where, minlength=len(distinct)) / 2)[where]
        ranks[:, place] = np.where(
            np.isnan(column), middle[~np.isnan(column)].mean() if not np.isnan(column).all() else 0, middle
        )
    ranks -= ranks.mean(axis=0)
    length = np.sqrt((ranks**2).sum(axis=0))
    ranks /= np.where(length > 0, length, 1.0)
    return np.asarray(ranks.T @ ranks)


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


def lost_correlations(reference: Mapping[str, Any], window: RowSample) -> list[LostCorrelation]:
    """The correlations of a reference that moved by 0.3 or more in a window, and surely so (Fisher's z, for ranks; Bonferroni).

    Args:
        reference: What ``to_json`` kept of it.
        window: Rows of the window.
    """
    pairs, n = reference.get("correlations", []), int(reference.get("correlated_rows", 0))
    now = {(a, b): value for a, b, value in window.correlations(pairs)}
    if not now or min(n, window.size) < _FEWEST:
        return []
    limit = NormalDist().inv_cdf(1 - _ALPHA / (2 * len(now)))
    spread = math.sqrt(1.06 / (n - 3) + 1.06 / (window.size - 3))
    found = []
    for a, b, before in pairs:
        value = now.get((a, b))
        if value is not None and abs(before - value) >= _LOST:
            apart = abs(math.atanh(_inside(before)) - math.atanh(_inside(value)))
            found += [LostCorrelation(a, b, before, value)] if apart > limit * spread else []
    return sorted(found, key=lambda one: -abs(one.before - one.now))


def _inside(correlation: float) -> float:
    return max(-0.999, min(0.999, correlation))
