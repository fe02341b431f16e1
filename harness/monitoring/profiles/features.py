"""A profile: what is kept of data, instead of the data.

Every number is a count, or a sum of whole numbers, so that the profiles of any split of the rows add up to the profile of the whole
exactly. What the counts are of (edges, levels, directions: a feature's *scale*) is fixed by a reference and shared by all windows
compared with it; ``edges_id`` is a hash of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from harness.files import json_hash
from harness.monitoring.errors import ProfileMismatchError

VERSION = 1
"""Of the format, and of everything a count depends on: edges, hashes, projections."""

SHARED_META = ("modality", "task_type", "vocab_size", "tokenizer")
"""What windows must have in common with their reference, beside the scales."""


Kind = Literal["numeric", "categorical", "vector"]


def is_optional(name: str) -> bool:
    """Whether windows may lack a feature: labels come late or never, and outputs need the model."""
    return name == "label" or name.startswith(("label.", "output.", "score."))


@dataclass(frozen=True, eq=False)
class NumericCounts:
    """Values of a numeric feature, counted between fixed edges.

    Bin ``i`` holds ``edges[i - 1] <= x < edges[i]``; the first is open below and the last above. A value that makes up more than one
    bin's share of the reference has a bin of its own, between itself and the next greater float.

    Attributes:
        edges: Inner edges, strictly increasing, float64 ``[B - 1]``.
        counts: Finite values by bin, int64 ``[B]``.
        nan: Values that are NaN or missing.
        positive_inf: Values that are +infinity.
        negative_inf: Values that are -infinity.
    """

    edges: NDArray[np.float64]
    counts: NDArray[np.int64]
    nan: int = 0
    positive_inf: int = 0
    negative_inf: int = 0

    kind: ClassVar[Kind] = "numeric"

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

    def emptied(self) -> NumericCounts:
        """The same scale, with nothing counted."""
        return NumericCounts(self.edges, np.zeros_like(self.counts))

    def merge(self, other: NumericCounts) -> NumericCounts:
        """The counts of both, on the same edges."""
        return NumericCounts(
            self.edges,
            self.counts + other.counts,
            self.nan + other.nan,
            self.positive_inf + other.positive_inf,
            self.negative_inf + other.negative_inf,
        )

    def scale(self) -> list[Any]:
        """What the counts are of, ready for JSON."""
        return ["numeric", self.edges.tolist()]


@dataclass(frozen=True)
class Clusters:
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

    def emptied(self) -> Clusters:
        """As many buckets, with nothing counted."""
        nothing = (0,) * len(self.squares)
        return Clusters(0, 0, nothing, nothing)

    def merge(self, other: Clusters) -> Clusters:
        """The sums of both."""
        return Clusters(
            self.rows + other.rows,
            self.lengths + other.lengths,
            tuple(a + b for a, b in zip(self.squares, other.squares, strict=True)),
            tuple(a + b for a, b in zip(self.products, other.products, strict=True)),
        )


@dataclass(frozen=True, eq=False)
class CategoricalCounts:
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

    kind: ClassVar[Kind] = "categorical"

    @property
    def n(self) -> int:
        """How many values there are."""
        return int(self.counts.sum()) + self.rest + self.unseen + self.missing

    def emptied(self) -> CategoricalCounts:
        """The same scale, with nothing counted."""
        return replace(
            self,
            counts=np.zeros_like(self.counts),
            rest=0,
            unseen=0,
            missing=0,
            buckets=np.zeros_like(self.buckets),
            clusters=self.clusters and self.clusters.emptied(),
        )

    def merge(self, other: CategoricalCounts) -> CategoricalCounts:
        """The counts of both, of the same levels."""
        both = self.clusters and other.clusters and self.clusters.merge(other.clusters)
        return replace(
            self,
            counts=self.counts + other.counts,
            rest=self.rest + other.rest,
            unseen=self.unseen + other.unseen,
            missing=self.missing + other.missing,
            buckets=self.buckets + other.buckets,
            clusters=both,
        )

    def scale(self) -> list[Any]:
        """What the counts are of, ready for JSON."""
        known = None if self.known is None else self.known.hex()
        return ["categorical", list(self.levels), len(self.buckets), known, self.once, self.clusters is not None]


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
class VectorCounts:
    """Vectors, such as embeddings, along a few fixed random directions.

    Attributes:
        directions: A vector's coordinate along each direction, counted on the reference's quantiles.
        n: Vectors.
        projection: Which directions.
        sums: Sum of the coordinates by direction, in units of ``2 ** -exponent``; of vectors that are finite.
        squares: Sum of their squares, in squares of that unit.
    """

    directions: tuple[NumericCounts, ...]
    n: int
    projection: Projection = Projection()
    sums: tuple[int, ...] = ()
    squares: tuple[int, ...] = ()

    kind: ClassVar[Kind] = "vector"

    @property
    def missing(self) -> int:
        """How many vectors are not finite."""
        return self.directions[0].missing if self.directions else 0

    def emptied(self) -> VectorCounts:
        """The same scale, with nothing counted."""
        nothing = (0,) * len(self.directions)
        return replace(self, directions=tuple(one.emptied() for one in self.directions), n=0, sums=nothing, squares=nothing)

    def merge(self, other: VectorCounts) -> VectorCounts:
        """The counts and sums of both, along the same directions."""
        return replace(
            self,
            directions=tuple(a.merge(b) for a, b in zip(self.directions, other.directions, strict=True)),
            n=self.n + other.n,
            sums=tuple(a + b for a, b in zip(self.sums, other.sums, strict=True)),
            squares=tuple(a + b for a, b in zip(self.squares, other.squares, strict=True)),
        )

    def scale(self) -> list[Any]:
        """What the counts are of, ready for JSON."""
        projection = [self.projection.width, self.projection.exponent, self.projection.seed]
        return ["vector", projection, [direction.scale() for direction in self.directions]]


Feature = NumericCounts | CategoricalCounts | VectorCounts


@dataclass(frozen=True, eq=False)
class Profile:
    """What is kept of a dataset, or of a window of one.

    Attributes:
        version: Of the format.
        n: Rows.
        features: By name.
        meta: Task type, modality, vocabulary size, the tokenizer's fingerprint, when the reference was made; ready for JSON.
        edges_id: A hash of everything that a window must share to be compared.
    """

    version: int
    n: int
    features: Mapping[str, Feature]
    meta: Mapping[str, Any]
    edges_id: str

    @staticmethod
    def of(n: int, features: Mapping[str, Feature], meta: Mapping[str, Any]) -> Profile:
        """A profile of this version, with its ``edges_id``."""
        return Profile(VERSION, n, features, meta, edges_id(features, meta))

    def only(self, names: Iterable[str]) -> Profile:
        """The profile of some of the features: those that a window without labels or outputs has, for instance."""
        wanted = set(names)
        if wanted >= self.features.keys():
            return self
        return Profile.of(self.n, {name: self.features[name] for name in self.features if name in wanted}, self.meta)

    def emptied(self) -> Profile:
        """The profile of no rows, on the same scales."""
        return replace(self, n=0, features={name: feature.emptied() for name, feature in self.features.items()})

    def merge(self, other: Profile) -> Profile:
        """The profile of the rows of both.

        Raises:
            ProfileMismatchError: They were counted on different scales.
        """
        check_same_scale(self, other)
        merged = {name: _merged(feature, other.features[name]) for name, feature in self.features.items()}
        return replace(self, n=self.n + other.n, features=merged)

    def to_json(self) -> dict[str, Any]:
        """The profile as JSON values."""
        from harness.monitoring.profiles.documents import to_document

        return to_document(self)

    @staticmethod
    def from_json(document: Any) -> Profile:
        """The profile of JSON values, or of their text.

        Raises:
            ProfileError: They are no profile.
            ProfileVersionError: A newer version wrote them.
        """
        from harness.monitoring.profiles.documents import from_document

        return from_document(document)

    def to_bytes(self) -> bytes:
        """The profile in at most about 2 KB a feature."""
        from harness.monitoring.profiles.packing import pack

        return pack(self)

    @staticmethod
    def from_bytes(content: bytes) -> Profile:
        """The profile of bytes.

        Raises:
            ProfileError: They are no profile, or not all of one.
            ProfileVersionError: A newer version wrote them.
        """
        from harness.monitoring.profiles.packing import unpack

        return unpack(content)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Profile) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash((self.edges_id, self.n))


def edges_id(features: Mapping[str, Feature], meta: Mapping[str, Any]) -> str:
    """A hash of the scales of all features, and of what else windows must share."""
    shared = {key: meta.get(key) for key in SHARED_META}
    scales = {name: features[name].scale() for name in sorted(features)}
    return json_hash(VERSION, shared, scales)[:32]


def check_same_scale(one: Profile, other: Profile) -> None:
    """Refuses two profiles that cannot be compared or merged, and says why.

    Raises:
        ProfileMismatchError: They were counted on different scales.
    """
    if one.edges_id == other.edges_id:
        return
    for key in SHARED_META:
        if one.meta.get(key) != other.meta.get(key):
            raise ProfileMismatchError(f"the profiles do not fit: `{key}` is {one.meta.get(key)!r} and {other.meta.get(key)!r}")
    odd = sorted(one.features.keys() ^ other.features.keys())
    if odd:
        raise ProfileMismatchError(f"the profiles do not fit: only one of them has {odd[0]!r}; see `Profile.only`")
    raise ProfileMismatchError(
        "the profiles do not fit: they were counted on the edges of different references; count both on the same"
    )


def _merged(one: Feature, other: Feature) -> Feature:
    return one.merge(other)  # type: ignore[arg-type]  # the same scale means the same kind
