"""A profile: what is kept of data, instead of the data; as JSON, as bytes, and in the experiment database.

The profiles of any split of the rows add up to the profile of the whole exactly; ``edges_id`` is a hash of the scales of all features, so
that two profiles that cannot be compared are refused.
"""

from __future__ import annotations

import json
import lzma
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from harness.errors import ProfileError, ProfileMismatchError, ProfileVersionError
from harness.files import json_hash
from harness.monitoring.features.counts import FeatureCounts
from harness.monitoring.features.kinds import kind_named
from harness.tasks.spec import data_identity

if TYPE_CHECKING:
    from harness.experiments.database import ExperimentDB
    from harness.experiments.records import RunRef

VERSION = 2
"""Of the format, and of everything a count depends on: edges, hashes, projections."""

SHARED_META = (*data_identity(None), "tokenizer")
"""What windows must have in common with their reference, beside the scales."""

REFERENCE = "reference"
"""The name of a run's profile, where none is given."""

_MARK = "pytest-modeltiers profile"
_MAGIC = b"MTPROF"
_HEADER = len(_MAGIC) + 2 + 4


def is_optional(name: str) -> bool:
    """Whether windows may lack a feature: labels come late or never, and outputs need the model."""
    return name == "label" or name.startswith(("label.", "output.", "score."))


@dataclass(frozen=True, eq=False)
class Profile:
    """What is kept of a dataset, or of a window of one.

    Attributes:
        version: Of the format.
        n: Rows.
        features: By name.
        meta: What the task says of its data, the tokenizer's fingerprint, when the reference was made; ready for JSON.
        edges_id: A hash of everything that a window must share to be compared.
    """

    version: int
    n: int
    features: Mapping[str, FeatureCounts]
    meta: Mapping[str, Any]
    edges_id: str

    @staticmethod
    def of(n: int, features: Mapping[str, FeatureCounts], meta: Mapping[str, Any]) -> Profile:
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
        merged = {name: feature.merge(other.features[name]) for name, feature in self.features.items()}
        return replace(self, n=self.n + other.n, features=merged)

    def to_json(self) -> dict[str, Any]:
        """The profile as JSON values, for people and for other programs."""
        return {
            "kind": _MARK,
            "version": self.version,
            "n": self.n,
            "edges_id": self.edges_id,
            "meta": dict(self.meta),
            "features": {name: {"kind": feature.kind, **feature.to_json()} for name, feature in self.features.items()},
        }

    @staticmethod
    def from_json(document: Any) -> Profile:
        """The profile of JSON values, or of their text.

        Raises:
            ProfileError: They are not a profile.
            ProfileVersionError: A newer version wrote them.
        """
        try:
            found = json.loads(document) if isinstance(document, (str, bytes)) else document
            if not isinstance(found, Mapping) or found.get("kind") != _MARK:
                raise ProfileError("not a profile: JSON without its mark")
            version = _known_version(int(found["version"]))
            features = {name: kind_named(values["kind"]).counts.from_json(values) for name, values in found["features"].items()}
            return Profile(version, int(found["n"]), features, found["meta"], str(found["edges_id"]))
        except ProfileError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ProfileError(f"the profile is damaged: {type(error).__name__}: {error}") from None

    def to_bytes(self) -> bytes:
        """The JSON values compressed, behind a mark, the version and a checksum; at most about 2 KB a feature."""
        packed = lzma.compress(json.dumps(self.to_json(), separators=(",", ":")).encode(), format=lzma.FORMAT_ALONE)
        return _MAGIC + self.version.to_bytes(2, "little") + zlib.crc32(packed).to_bytes(4, "little") + packed

    @staticmethod
    def from_bytes(content: bytes) -> Profile:
        """The profile of bytes.

        Raises:
            ProfileError: They are not a profile, or not all of one.
            ProfileVersionError: Another version wrote them, in a form that this one does not read.
        """
        if bytes(content[: len(_MAGIC)]) != _MAGIC or len(content) < _HEADER:
            raise ProfileError(f"not a profile: {len(content)} bytes that do not begin like one")
        version = _known_version(int.from_bytes(content[len(_MAGIC) : len(_MAGIC) + 2], "little"))
        if version < VERSION:
            raise ProfileVersionError(
                f"the profile was stored as version {version}, this program reads {VERSION}: profile the data again"
            )
        packed = bytes(content[_HEADER:])
        if zlib.crc32(packed).to_bytes(4, "little") != content[len(_MAGIC) + 2 : _HEADER]:
            raise ProfileError(f"the profile is cut short or damaged ({len(content)} bytes): store it again")
        return Profile.from_json(lzma.decompress(packed, format=lzma.FORMAT_ALONE))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Profile) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash((self.edges_id, self.n))


def edges_id(features: Mapping[str, FeatureCounts], meta: Mapping[str, Any]) -> str:
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


def _known_version(version: int) -> int:
    if version > VERSION:
        raise ProfileVersionError(
            f"the profile is of version {version}, this program reads up to {VERSION}: update it, or profile the data again"
        )
    return version


def load_profile(db: ExperimentDB, run_ref: RunRef, name: str = REFERENCE) -> Profile:
    """The newest profile of a run, whether it was stored as bytes or as JSON.

    Args:
        db: The database.
        run_ref: The run, by id, by its own name, or by a named reference such as ``"production"``.
        name: The profile's name.

    Raises:
        UnknownRunError: There is no such run; the nearest is named.
        ExperimentError: The run has no such profile.
        ProfileError: What is stored is no profile.
        ProfileVersionError: A newer version stored it.
    """
    return _read(db.get_profile(run_ref, name))


def _read(stored: Any) -> Profile:
    return Profile.from_bytes(stored) if isinstance(stored, bytes) else Profile.from_json(stored)
