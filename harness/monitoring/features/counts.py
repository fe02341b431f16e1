"""What is kept of a feature: counts on a scale that is fixed by the reference.

Every number is a count, or a sum of whole numbers, so that the counts of any split of the rows add up to those of the whole exactly. What
the counts are of (edges, levels, directions: a feature's *scale*) is chosen on a reference and shared by all windows compared with it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from operator import add, sub
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from harness.errors import ProfileError

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True, eq=False)
class Sums:
    """Numbers that add up, beside others that say what they are of.

    Attributes:
        added: The fields that add up: whole numbers, arrays of them, further sums, or tuples of any of these.
    """

    added: ClassVar[tuple[str, ...]]

    def emptied(self) -> Self:
        """The same scale, with nothing counted."""
        return replace(self, **{name: _nothing_of(getattr(self, name)) for name in self.added})

    def merge(self, other: Self) -> Self:
        """The sums of both, on the same scale."""
        return replace(self, **{name: _combined(add, getattr(self, name), getattr(other, name)) for name in self.added})

    def less(self, other: Self) -> Self:
        """The sums without those of the other, whose rows are among these."""
        return replace(self, **{name: _combined(sub, getattr(self, name), getattr(other, name)) for name in self.added})


def _nothing_of(value: Any) -> Any:
    if isinstance(value, Sums):
        return value.emptied()
    if isinstance(value, tuple):
        return tuple(map(_nothing_of, value))
    return None if value is None else value * 0


def _combined(how: Callable[[Any, Any], Any], one: Any, other: Any) -> Any:
    if one is None or other is None:
        return None
    if isinstance(one, Sums):
        return replace(one, **{name: _combined(how, getattr(one, name), getattr(other, name)) for name in one.added})
    return tuple(_combined(how, *pair) for pair in zip(one, other, strict=True)) if isinstance(one, tuple) else how(one, other)


class FeatureCounts(Sums, ABC):
    """What is kept of one feature of a profile.

    Attributes:
        kind: The name of its kind in ``harness.monitoring.features.kinds``.
    """

    kind: ClassVar[str]

    @property
    @abstractmethod
    def n(self) -> int:
        """How many values there are, missing ones included."""

    @property
    @abstractmethod
    def missing(self) -> int:
        """How many of them are missing."""

    @abstractmethod
    def scale(self) -> list[Any]:
        """What the counts are of, ready for JSON."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """The counts and their scale as JSON-ready values."""

    @classmethod
    @abstractmethod
    def from_json(cls, values: Mapping[str, Any]) -> Any:
        """The inverse of ``to_json``.

        Raises:
            ProfileError: The counts do not fit their scale.
        """


@dataclass(frozen=True, eq=False)
class NumericCounts(FeatureCounts):
    """Values of a numeric feature, counted between fixed edges.

    Bin ``i`` holds ``edges[i - 1] <= x < edges[i]``; the first is open below and the last above. A value that makes up more than one
    bin's share of the reference has its own bin, between itself and the next greater float.

    Attributes:
        edges: Inner edges, strictly increasing, float64 ``[B - 1]``.
        counts: Finite values by bin, int64 ``[B]``.
        nan: Values that are NaN or missing.
        positive_inf: Values that are +infinity.
        negative_inf: Values that are -infinity.
        unit: ``date`` for moments, in microseconds since 1970.
    """

    edges: NDArray[np.float64]
    counts: NDArray[np.int64]
    nan: int = 0
    positive_inf: int = 0
    negative_inf: int = 0
    unit: str = ""

    kind: ClassVar[str] = "numeric"
    added: ClassVar[tuple[str, ...]] = ("counts", "nan", "positive_inf", "negative_inf")

    @property
    def finite(self) -> int:
        """How many values are finite."""
        return int(self.counts.sum())

    @property
    def n(self) -> int:
        """How many values there are, of whatever kind."""
        return self.finite + self.missing

    @property
    def missing(self) -> int:
        """How many values are not finite."""
        return self.nan + self.positive_inf + self.negative_inf

    def scale(self) -> list[Any]:
        """What the counts are of, ready for JSON."""
        return ["numeric", self.edges.tolist(), *([self.unit] if self.unit else [])]

    def to_json(self) -> dict[str, Any]:
        """The counts and their edges as JSON-ready values."""
        return {
            "edges": self.edges.tolist(),
            "counts": self.counts.tolist(),
            "nan": self.nan,
            "positive_inf": self.positive_inf,
            "negative_inf": self.negative_inf,
            **({"unit": self.unit} if self.unit else {}),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> NumericCounts:
        """The inverse of ``to_json``.

        Raises:
            ProfileError: There is not one count more than edges.
        """
        edges, counts = np.array(values["edges"], np.float64), np.array(values["counts"], np.int64)
        if len(counts) != len(edges) + 1:
            raise ProfileError(f"the profile is damaged: {len(counts)} counts between {len(edges)} edges")
        nan, positive, negative = (int(values[name]) for name in ("nan", "positive_inf", "negative_inf"))
        return cls(edges, counts, nan, positive, negative, str(values.get("unit", "")))


@dataclass(frozen=True)
class Clusters(Sums):
    """How values of one row hang together, such as the tokens of a text: what a design effect is made of (Rao and Scott 1981).

    With ``y`` a row's values in a bucket and ``m`` all its values:

    Attributes:
        rows: Rows.
        lengths: Sum of ``m * m`` over the rows.
        squares: Sum of ``y * y`` by bucket.
        products: Sum of ``y * m`` by bucket.
    """

    rows: int
    lengths: int
    squares: tuple[int, ...]
    products: tuple[int, ...]

    added: ClassVar[tuple[str, ...]] = ("rows", "lengths", "squares", "products")


@dataclass(frozen=True, eq=False)
class CategoricalCounts(FeatureCounts):
    """Values of a categorical feature, by level and by bucket.

    ``levels`` were chosen because the reference has many of them, so its own counts there are high by that choice, and its
    ``unseen`` is 0 by construction: where levels are rare, comparing these counts with a window's finds drift where there is none.
    ``buckets`` count every value once more, by a fixed hash of its level that no data had a say in; they compare without that bias.

    Attributes:
        levels: The reference's most frequent levels, ties broken by name, ``K``.
        counts: Values by level, int64 ``[K]``.
        rest: Values of other levels of the reference; where ``known`` is ``None``, of any other level.
        unseen: Values of levels that the reference never had.
        missing: Values that are missing.
        buckets: All values but the missing, by a hash of their level, int64 ``[H]``.
        known: A Bloom filter of the reference's other levels: a few unseen levels are taken for known, never the reverse. ``None`` where
            they are too many to tell.
        once: Levels that the reference had exactly once, whose share is Good and Turing's estimate of what it did not see; ``None``
            where they were too many to count.
        clusters: For features with several values a row.
        new: The first levels by name that the reference never had, at most four.
    """

    levels: tuple[str, ...]
    counts: NDArray[np.int64]
    rest: int = 0
    unseen: int = 0
    missing: int = 0
    buckets: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    known: bytes | None = None
    once: int | None = None
    clusters: Clusters | None = None
    new: tuple[str, ...] = ()

    kind: ClassVar[str] = "categorical"
    added: ClassVar[tuple[str, ...]] = ("counts", "rest", "unseen", "missing", "buckets", "clusters")

    def emptied(self) -> CategoricalCounts:
        """The same levels, with nothing counted."""
        return replace(super().emptied(), new=())

    def merge(self, other: CategoricalCounts) -> CategoricalCounts:
        """The counts of both, on the same levels."""
        return replace(super().merge(other), new=first_names({*self.new, *other.new}))

    @property
    def present(self) -> int:
        """How many values are not missing."""
        return int(self.counts.sum()) + self.rest + self.unseen

    @property
    def n(self) -> int:
        """How many values there are."""
        return self.present + self.missing

    def scale(self) -> list[Any]:
        """What the counts are of, ready for JSON."""
        known = None if self.known is None else self.known.hex()
        return ["categorical", list(self.levels), len(self.buckets), known, self.once, self.clusters is not None]

    def to_json(self) -> dict[str, Any]:
        """The counts and their levels as JSON-ready values."""
        clusters = self.clusters
        return {
            "levels": list(self.levels),
            "counts": self.counts.tolist(),
            "rest": self.rest,
            "unseen": self.unseen,
            "missing": self.missing,
            "buckets": self.buckets.tolist(),
            "known": self.known and self.known.hex(),
            "once": self.once,
            "clusters": clusters and [clusters.rows, clusters.lengths, list(clusters.squares), list(clusters.products)],
            **({"new": list(self.new)} if self.new else {}),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> CategoricalCounts:
        """The inverse of ``to_json``."""
        clusters = values["clusters"]
        return cls(
            levels=tuple(values["levels"]),
            counts=np.array(values["counts"], np.int64),
            rest=int(values["rest"]),
            unseen=int(values["unseen"]),
            missing=int(values["missing"]),
            buckets=np.array(values["buckets"], np.int64),
            known=None if values["known"] is None else bytes.fromhex(values["known"]),
            once=values["once"],
            clusters=None if clusters is None else Clusters(clusters[0], clusters[1], tuple(clusters[2]), tuple(clusters[3])),
            new=tuple(values.get("new", ())),
        )


_NEW_NAMED = 4


def first_names(names: Iterable[str]) -> tuple[str, ...]:
    """The new levels that are named: by name, so that they are the same however the rows are split."""
    return tuple(sorted(names)[:_NEW_NAMED])


@dataclass(frozen=True)
class Projection:
    """From vectors to directions, in whole numbers, so that no order of adding changes a result.

    Attributes:
        width: Numbers in a vector, ``D``.
        exponent: A vector is rounded to multiples of ``2 ** -exponent``.
        seed: Of the random signs.
    """

    width: int = 0
    exponent: int = 0
    seed: int = 0


@dataclass(frozen=True, eq=False)
class VectorCounts(FeatureCounts):
    """Vectors, such as embeddings, along a few fixed random directions.

    Attributes:
        directions: A vector's coordinate along each direction, counted on the reference's quantiles.
        vectors: How many there are.
        projection: Which directions.
        sums: Sum of the coordinates by direction, in units of ``2 ** -exponent``; of vectors that are finite.
        squares: Sum of their squares, in squares of that unit.
    """

    directions: tuple[NumericCounts, ...]
    vectors: int
    projection: Projection = Projection()
    sums: tuple[int, ...] = ()
    squares: tuple[int, ...] = ()

    kind: ClassVar[str] = "vector"
    added: ClassVar[tuple[str, ...]] = ("directions", "vectors", "sums", "squares")

    @property
    def n(self) -> int:
        """How many vectors there are."""
        return self.vectors

    @property
    def missing(self) -> int:
        """How many vectors are not finite."""
        return self.directions[0].missing if self.directions else 0

    def scale(self) -> list[Any]:
        """What the counts are of, ready for JSON."""
        projection = [self.projection.width, self.projection.exponent, self.projection.seed]
        return ["vector", projection, [direction.scale() for direction in self.directions]]

    def to_json(self) -> dict[str, Any]:
        """The counts and their directions as JSON-ready values."""
        return {
            "n": self.vectors,
            "projection": [self.projection.width, self.projection.exponent, self.projection.seed],
            "directions": [direction.to_json() for direction in self.directions],
            "sums": list(self.sums),
            "squares": list(self.squares),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> VectorCounts:
        """The inverse of ``to_json``."""
        directions = tuple(map(NumericCounts.from_json, values["directions"]))
        projection = Projection(*values["projection"])
        return cls(directions, int(values["n"]), projection, tuple(values["sums"]), tuple(values["squares"]))
