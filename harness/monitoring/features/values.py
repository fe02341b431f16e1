"""Values on their way to being counted: levels by name and hash, how often each occurs and the quantiles of numbers in bounded memory."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray


class Values(Protocol):
    """Values of one feature."""

    kind: ClassVar[str]


@dataclass(frozen=True)
class Numbers:
    """Values of a numeric feature; NaN where one is missing.

    Attributes:
        values: float64 ``[N]``.
        unit: ``date`` for moments, which are microseconds since 1970.
    """

    values: NDArray[np.float64]
    unit: str = ""

    kind: ClassVar[str] = "numeric"


@dataclass(frozen=True)
class Levels:
    """Values of a categorical feature, already counted."""

    counts: Mapping[str, int]
    missing: int = 0

    kind: ClassVar[str] = "categorical"


@dataclass(frozen=True)
class Ids:
    """Values of a categorical feature whose levels are numbered, such as tokens and classes.

    Attributes:
        ids: int64 ``[N]``; a negative one is a missing value.
        size: Ids are below this.
        rows: The row of each value, int64 ``[N]``, where rows have several.
        names: The levels' names by id; the ids themselves where it is empty.
    """

    ids: NDArray[np.int64]
    size: int
    rows: NDArray[np.int64] | None = None
    names: tuple[str, ...] = ()

    kind: ClassVar[str] = "categorical"


@dataclass(frozen=True)
class Vectors:
    """Values that are vectors, such as embeddings.

    Attributes:
        values: Floating, ``[N, D]``.
    """

    values: NDArray[np.floating]

    kind: ClassVar[str] = "vector"


SCORES = "score."
"""What the names of features begin with that need a label."""


CORRECT = f"{SCORES}correct"
"""Whether the answer to each row is right, 0 or 1."""


@dataclass(frozen=True)
class Block:
    """Some rows, measured.

    Attributes:
        rows: How many.
        values: By feature.
        left_out: Columns that are no features.
        unlabelled: Which rows have no label, bool ``[rows]``, where others have one; ``None`` where there are none such.
        hashes: Of each row's inputs, or free texts, uint64 ``[rows]``; ``None`` of tables whose numbers tell rows apart.
    """

    rows: int
    values: Mapping[str, Values]
    left_out: tuple[str, ...] = ()
    unlabelled: NDArray[np.bool_] | None = None
    hashes: NDArray[np.uint64] | None = None

    def counted(self, name: str) -> Values:
        """The values of a feature that count: a score of a row without a label says nothing, and is not missing."""
        values = self.values[name]
        if self.unlabelled is None or not name.startswith(SCORES) or not isinstance(values, Numbers):
            return values
        return Numbers(np.ascontiguousarray(values.values[~self.unlabelled | np.isfinite(values.values)]))

    @property
    def nbytes(self) -> int:
        """Memory taken, about."""
        parts = (part for values in self.values.values() for part in vars(values).values())
        return sum(
            part.nbytes if isinstance(part, np.ndarray) else 120 * len(part)
            for part in parts
            if isinstance(part, (np.ndarray, Mapping))
        )


def is_missing(value: Any) -> bool:
    """Whether a value is None, NaN, NaT, or a library's own word for it, none of which equals itself."""
    if value is None:
        return True
    try:
        return not bool(value == value)
    except (TypeError, ValueError):  # a comparison with a missing value may itself be neither true nor false
        return True


_FEW_NUMBERS = 2


def text_hashes(table: Mapping[str, Any], kinds: Mapping[str, str], parts: Collection[str]) -> NDArray[np.uint64] | None:
    """A hash of the free texts and ids of each row, uint64 ``[N]``; ``None`` of tables whose numbers tell rows apart, or without texts.

    Args:
        table: Columns by name.
        kinds: What each feature is; those of free texts are called ``NAME.PART``.
        parts: The parts of free texts.
    """
    of_texts = dict.fromkeys(name.rpartition(".")[0] for name in kinds if name not in table and name.rpartition(".")[2] in parts)
    texts = [np.asarray(table[name]).tolist() for name in of_texts if name in table]
    if not texts or sum(kind == "numeric" and name in table for name, kind in kinds.items()) >= _FEW_NUMBERS:
        return None
    rows = ("\0".join(map(str, row)).encode("utf-8", "surrogatepass") for row in zip(*texts, strict=True))
    return np.array([int.from_bytes(hashlib.blake2b(row, digest_size=8).digest(), "little") for row in rows], np.uint64)


BUCKETS = 64
"""Of a feature; a power of two."""

LONGEST_NAME = 40
"""Characters of a level's name that are kept; a longer one ends in a hash, so that two such stay two."""

_FILTER_BITS = 4096
_PROBES = 4
_FULL = 0.5


def level_name(value: Any) -> str:
    """The name of a level: ``3`` for 3 and 3.0, ``true`` for True, a text as it stands unless it is long."""
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    if isinstance(value, (float, np.floating)):
        return str(int(value)) if float(value).is_integer() else repr(float(value))
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    if len(text) <= LONGEST_NAME:
        return text
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
    return f"{text[: LONGEST_NAME - 9]}…{digest}"


@lru_cache(maxsize=1 << 16)
def key_of(level: str) -> int:
    """A level's hash, 64 bits, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(level.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def bucket_of(level: str) -> int:
    """The bucket in which a level is counted."""
    return key_of(level) % BUCKETS


_WHOLE_TABLE = 1 << 17
"""Of a table up to this size all ids are named at once; of a larger one those that occur."""


def buckets_of(ids: NDArray[np.int64], size: int, names: tuple[str, ...]) -> NDArray[np.int64]:
    """The bucket of each id, int64 ``[N]``.

    Args:
        ids: int64 ``[N]``, below the size.
        size: Of the table.
        names: The levels' names by id.
    """
    if size <= _WHOLE_TABLE:
        return _buckets_of_table(size, names)[ids]
    distinct, place = np.unique(ids, return_inverse=True)
    return np.fromiter((bucket_of(name_of_id(id, names)) for id in distinct.tolist()), np.int64, len(distinct))[place]


@lru_cache(maxsize=8)
def _buckets_of_table(size: int, names: tuple[str, ...]) -> NDArray[np.int64]:
    """The bucket of every id, int64 ``[size]``."""
    return np.fromiter((bucket_of(name_of_id(id, names)) for id in range(size)), np.int64, size)


def name_of_id(id: int, names: tuple[str, ...]) -> str:
    """The level of an id."""
    return level_name(names[id]) if id < len(names) else str(id)


def known_levels(levels: Iterable[str]) -> bytes | None:
    """A Bloom filter of levels (Bloom 1970); ``None`` where they fill more than half of it.

    At half full, a level that is not in it is taken for one that is with probability 1/16; at a tenth full, 1/10,000.
    """
    bits = np.zeros(_FILTER_BITS, bool)
    for level in levels:
        bits[_places(level)] = True
    return None if bits.mean() > _FULL else np.packbits(bits).tobytes()


def is_known(known: bytes, level: str) -> bool:
    """Whether a level is in the filter."""
    return all(known[place >> 3] >> (7 - (place & 7)) & 1 for place in _places(level))


def _places(level: str) -> list[int]:
    key = key_of(level) >> 8  # the lowest bits choose the bucket
    return [(key >> (12 * probe)) % _FILTER_BITS for probe in range(_PROBES)]


HELD = 8192
"""Levels that are held at most, between two additions."""


class Frequencies:
    """Counts of levels; exact up to 8,192 of them, and beyond a bounded summary (Misra and Gries 1982; Agarwal et al. 2012).

    A level that makes up more than 1/4096 of the values is always held.

    Attributes:
        exact: Whether every level was held all the time.
    """

    def __init__(self) -> None:
        self.exact = True
        self._counts: Counter[str] = Counter()

    def add(self, counts: Mapping[str, int]) -> None:
        """Adds values by level."""
        self._counts.update(counts)
        if len(self._counts) > HELD:
            self.exact = False
            kept = self._counts.most_common(HELD // 2 + 1)
            least = kept[-1][1]
            self._counts = Counter({level: count - least for level, count in kept if count > least})

    def counts(self) -> dict[str, int]:
        """The levels held."""
        return dict(self._counts)


def add_ids(counts: NDArray[np.int64], ids: NDArray[np.int64], size: int = 0) -> NDArray[np.int64]:
    """Counts by id with some ids added, in place where there is room; the time does not depend on the size of the table.

    Args:
        counts: int64 ``[size]``.
        ids: int64 ``[N]``, none negative.
        size: Ids are below this, or above it where data is wrong.
    """
    needed = max(size, int(ids.max()) + 1 if ids.size else 0)
    if needed > len(counts):
        counts, before = np.zeros(needed, np.int64), counts
        counts[: len(before)] = before
    np.add.at(counts, ids, 1)
    return counts


class IdFrequencies:
    """Counts of numbered levels, one number an id."""

    exact = True

    def __init__(self, size: int, names: tuple[str, ...]) -> None:
        self._names = names
        self._counts = np.zeros(size, np.int64)

    def add(self, ids: NDArray[np.int64]) -> None:
        """Adds ids, int64 ``[N]``, none negative."""
        self._counts = add_ids(self._counts, ids)

    def counts(self) -> dict[str, int]:
        """The levels that occurred."""
        return {name_of_id(int(id), self._names): int(self._counts[id]) for id in np.flatnonzero(self._counts)}


_BUFFER = 4096
"""Values that a buffer of a sketch holds."""


class QuantileSketch:
    """Weighted values that stand for all that were added, in one pass and memory that grows with the logarithm of their number.

    Buffers of sorted values are merged by pairs, and every second value is kept, with twice the weight (Munro and Paterson 1980; Manku,
    Rajagopalan and Lindsay 1998). Which of the two is kept alternates, so that the errors of a level cancel by pairs. The rank of no value
    is off by more than ``log2(N / 4096) / 8192`` of N: 0.05% at a million values, 0.2% at a hundred million. Up to 8,191 values it is
    exact. The result depends on the order of the values, and not on how they are parted into calls.
    """

    def __init__(self) -> None:
        self.n = 0
        self._waiting = np.empty(0)
        self._levels: list[NDArray[np.float64] | None] = []
        self._odd: list[bool] = []

    def add(self, values: NDArray[np.float64]) -> None:
        """Adds values, float64 ``[N]``, all finite."""
        self.n += len(values)
        waiting = np.concatenate([self._waiting, values])
        whole = len(waiting) // _BUFFER * _BUFFER
        for buffer in np.sort(waiting[:whole].reshape(-1, _BUFFER), axis=1):
            self._carry(buffer)
        self._waiting = waiting[whole:].copy()

    def _carry(self, buffer: NDArray[np.float64]) -> None:
        for level, held in enumerate(self._levels):
            if held is None:
                self._levels[level] = buffer
                return
            buffer = np.sort(np.concatenate([held, buffer]))[int(self._odd[level]) :: 2]
            self._levels[level] = None
            self._odd[level] = not self._odd[level]
        self._levels.append(buffer)
        self._odd.append(False)

    def weighted(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Distinct values, ascending, and how many each stands for."""
        held = [(buffer, 1 << level) for level, buffer in enumerate(self._levels) if buffer is not None]
        held.append((self._waiting, 1))
        values = np.concatenate([buffer for buffer, _ in held])
        weights = np.concatenate([np.full(len(buffer), weight) for buffer, weight in held])
        distinct, where = np.unique(values, return_inverse=True)
        return distinct, np.bincount(where, weights, minlength=len(distinct)).astype(np.int64)
