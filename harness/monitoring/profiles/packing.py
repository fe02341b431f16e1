"""A profile as few bytes."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from harness.monitoring.errors import ProfileError, ProfileVersionError
from harness.monitoring.profiles.features import (
    VERSION,
    CategoricalCounts,
    Clusters,
    Feature,
    NumericCounts,
    Profile,
    Projection,
    VectorCounts,
)
from harness.monitoring.profiles.wire import Reader, Writer

_MAGIC = b"MTPROF"
_HEADER = len(_MAGIC) + 2 + 4


def pack(profile: Profile) -> bytes:
    """The profile as bytes: a name, the version, a checksum, and everything else deflated."""
    body = Writer()
    body.text(profile.edges_id)
    body.text(json.dumps(dict(profile.meta), sort_keys=True))
    body.count(profile.n)
    body.count(len(profile.features))
    for name, feature in profile.features.items():
        body.text(name)
        body.text(feature.kind)
        _write(body, feature)
    packed = zlib.compress(bytes(body.content), 9)
    return _MAGIC + profile.version.to_bytes(2, "little") + zlib.crc32(packed).to_bytes(4, "little") + packed


def unpack(content: bytes) -> Profile:
    """The profile of bytes.

    Raises:
        ProfileError: They are no profile, or not all of one.
        ProfileVersionError: A newer version wrote them.
    """
    version = check_version(int.from_bytes(content[len(_MAGIC) : len(_MAGIC) + 2], "little")) if _is_profile(content) else 0
    packed = bytes(content[_HEADER:])
    if zlib.crc32(packed).to_bytes(4, "little") != content[len(_MAGIC) + 2 : _HEADER]:
        raise ProfileError(f"the profile is cut short or damaged ({len(content)} bytes); store it again")
    body = Reader(zlib.decompress(packed))
    edges_id, meta, n = body.text(), json.loads(body.text()), body.count()
    features: dict[str, Feature] = {}
    for _ in range(body.count()):
        name, kind = body.text(), body.text()
        features[name] = _READERS[kind](body)
    return Profile(version, n, features, meta, edges_id)


def check_version(version: int) -> int:
    """The version, where it is one that this program knows.

    Raises:
        ProfileVersionError: It is a newer one.
    """
    if version > VERSION:
        raise ProfileVersionError(
            f"the profile is of version {version}, this program reads up to {VERSION}: update it, or profile the data again"
        )
    return version


def _is_profile(content: bytes) -> bool:
    if bytes(content[: len(_MAGIC)]) != _MAGIC or len(content) < _HEADER:
        raise ProfileError(f"not a profile: {len(content)} bytes that do not begin like one")
    return True


def _write(body: Writer, feature: Feature) -> None:
    if isinstance(feature, NumericCounts):
        _write_numeric(body, feature)
    elif isinstance(feature, CategoricalCounts):
        _write_categorical(body, feature)
    else:
        _write_vector(body, feature)


def _write_numeric(body: Writer, feature: NumericCounts) -> None:
    body.floats(feature.edges)
    body.counts(feature.counts)
    body.counts((feature.nan, feature.positive_inf, feature.negative_inf))


def _read_numeric(body: Reader) -> NumericCounts:
    edges = body.floats()
    counts = np.array(body.counts(len(edges) + 1), np.int64)
    return NumericCounts(edges, counts, *body.counts(3))


def _write_categorical(body: Writer, feature: CategoricalCounts) -> None:
    body.count(len(feature.levels))
    for level in feature.levels:
        body.text(level)
    body.counts(feature.counts)
    body.counts((feature.rest, feature.unseen, feature.missing, len(feature.buckets)))
    body.counts(feature.buckets)
    body.counts((feature.known is not None, 0 if feature.once is None else feature.once + 1, feature.clusters is not None))
    if feature.known is not None:
        body.blob(feature.known)
    if feature.clusters is not None:
        clusters = feature.clusters
        body.counts((clusters.rows, clusters.lengths, len(clusters.squares), *clusters.squares, *clusters.products))


def _read_categorical(body: Reader) -> CategoricalCounts:
    levels = tuple(body.text() for _ in range(body.count()))
    counts = np.array(body.counts(len(levels)), np.int64)
    rest, unseen, missing, buckets = body.counts(4)
    hashed = np.array(body.counts(buckets), np.int64)
    knows, once, clusters = body.counts(3)
    known = body.blob() if knows else None
    return CategoricalCounts(
        levels,
        counts,
        rest,
        unseen,
        missing,
        hashed,
        known,
        once - 1 if once else None,
        _read_clusters(body) if clusters else None,
    )


def _read_clusters(body: Reader) -> Clusters:
    rows, lengths, buckets = body.counts(3)
    return Clusters(rows, lengths, tuple(body.counts(buckets)), tuple(body.counts(buckets)))


def _write_vector(body: Writer, feature: VectorCounts) -> None:
    body.count(feature.n)
    projection = feature.projection
    for number in (projection.width, projection.exponent, projection.seed):
        body.whole(number)
    body.count(len(feature.directions))
    for direction in feature.directions:
        _write_numeric(body, direction)
    body.count(len(feature.sums))
    for number in feature.sums:
        body.whole(number)
    body.counts(feature.squares)


def _read_vector(body: Reader) -> VectorCounts:
    n = body.count()
    projection = Projection(body.whole(), body.whole(), body.whole())
    directions = tuple(_read_numeric(body) for _ in range(body.count()))
    number = body.count()
    sums = tuple(body.whole() for _ in range(number))
    return VectorCounts(directions, n, projection, sums, tuple(body.counts(number)))


_READERS: dict[str, Callable[[Reader], Any]] = {
    "numeric": _read_numeric,
    "categorical": _read_categorical,
    "vector": _read_vector,
}
