"""A profile as JSON values, for people and for other programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from harness.monitoring.errors import ProfileError
from harness.monitoring.profiles.features import (
    CategoricalCounts,
    Clusters,
    Feature,
    NumericCounts,
    Profile,
    Projection,
    VectorCounts,
)
from harness.monitoring.profiles.packing import check_version

_KIND = "pytest-modeltiers profile"


def to_document(profile: Profile) -> dict[str, Any]:
    """The profile as JSON values."""
    return {
        "kind": _KIND,
        "version": profile.version,
        "n": profile.n,
        "edges_id": profile.edges_id,
        "meta": dict(profile.meta),
        "features": {name: {"kind": feature.kind, **_fields(feature)} for name, feature in profile.features.items()},
    }


def from_document(document: Any) -> Profile:
    """The profile of JSON values, or of their text.

    Raises:
        ProfileError: They are no profile.
        ProfileVersionError: A newer version wrote them.
    """
    try:
        found = json.loads(document) if isinstance(document, (str, bytes)) else document
        if not isinstance(found, Mapping) or found.get("kind") != _KIND:
            raise ProfileError("not a profile: JSON without its mark")
        version = check_version(int(found["version"]))
        features = {name: _READERS[values["kind"]](values) for name, values in found["features"].items()}
        return Profile(version, int(found["n"]), features, found["meta"], str(found["edges_id"]))
    except ProfileError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ProfileError(f"the profile is damaged: {type(error).__name__}: {error}") from None


def _fields(feature: Feature) -> dict[str, Any]:
    if isinstance(feature, NumericCounts):
        return _of_numeric(feature)
    return _of_categorical(feature) if isinstance(feature, CategoricalCounts) else _of_vector(feature)


def _of_numeric(feature: NumericCounts) -> dict[str, Any]:
    return {
        "edges": feature.edges.tolist(),
        "counts": feature.counts.tolist(),
        "nan": feature.nan,
        "positive_inf": feature.positive_inf,
        "negative_inf": feature.negative_inf,
    }


def _numeric(values: Mapping[str, Any]) -> NumericCounts:
    edges, counts = np.array(values["edges"], np.float64), np.array(values["counts"], np.int64)
    if len(counts) != len(edges) + 1:
        raise ProfileError(f"the profile is damaged: {len(counts)} counts between {len(edges)} edges")
    return NumericCounts(edges, counts, *(int(values[name]) for name in ("nan", "positive_inf", "negative_inf")))


def _of_categorical(feature: CategoricalCounts) -> dict[str, Any]:
    clusters = feature.clusters
    return {
        "levels": list(feature.levels),
        "counts": feature.counts.tolist(),
        "rest": feature.rest,
        "unseen": feature.unseen,
        "missing": feature.missing,
        "buckets": feature.buckets.tolist(),
        "known": feature.known and feature.known.hex(),
        "once": feature.once,
        "clusters": clusters and [clusters.rows, clusters.lengths, list(clusters.squares), list(clusters.products)],
    }


def _categorical(values: Mapping[str, Any]) -> CategoricalCounts:
    clusters = values["clusters"]
    return CategoricalCounts(
        levels=tuple(values["levels"]),
        counts=np.array(values["counts"], np.int64),
        rest=int(values["rest"]),
        unseen=int(values["unseen"]),
        missing=int(values["missing"]),
        buckets=np.array(values["buckets"], np.int64),
        known=None if values["known"] is None else bytes.fromhex(values["known"]),
        once=values["once"],
        clusters=None if clusters is None else Clusters(clusters[0], clusters[1], tuple(clusters[2]), tuple(clusters[3])),
    )


def _of_vector(feature: VectorCounts) -> dict[str, Any]:
    projection = feature.projection
    return {
        "n": feature.n,
        "projection": [projection.width, projection.exponent, projection.seed],
        "directions": [_of_numeric(direction) for direction in feature.directions],
        "sums": list(feature.sums),
        "squares": list(feature.squares),
    }


def _vector(values: Mapping[str, Any]) -> VectorCounts:
    directions = tuple(map(_numeric, values["directions"]))
    return VectorCounts(
        directions, int(values["n"]), Projection(*values["projection"]), tuple(values["sums"]), tuple(values["squares"])
    )


_READERS: dict[str, Callable[[Mapping[str, Any]], Feature]] = {
    "numeric": _numeric,
    "categorical": _categorical,
    "vector": _vector,
}
