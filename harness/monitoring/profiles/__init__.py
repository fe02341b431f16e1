"""A profile: counts that are kept instead of data, of references and windows alike; as JSON, as bytes, and in the database.

The profiles of any split of the rows add up to the profile of the whole exactly; ``edges_id`` is a hash of the scales of all features, so
that two profiles that cannot be compared are refused.
"""

from __future__ import annotations

import json
import lzma
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from harness.errors import ProfileError, ProfileMismatchError, ProfileVersionError, did_you_mean
from harness.files import json_hash
from harness.monitoring.features import FeatureCounter, Survey
from harness.monitoring.features.counts import FeatureCounts
from harness.monitoring.features.kinds import Column, kind_named, kind_of
from harness.monitoring.features.values import Block, Values
from harness.monitoring.profiles.sources import DEFAULT_READING, Options, Reading, Replay, Source, source_of
from harness.tasks.spec import data_identity

if TYPE_CHECKING:
    from torch import nn

    from harness.adapters import Adapter
    from harness.experiments.database import ExperimentDB
    from harness.experiments.records import RunRef
    from harness.tasks import TaskSpec

VERSION = 2
"""Of the format, and of everything a count depends on: edges, hashes, projections."""

SHARED_META = (*data_identity(None), "tokenizer")
"""What windows must have in common with their reference, beside the scales."""

REFERENCE = "reference"
"""The name of a run's profile, where none is given."""

BINS = 100
"""Of a numeric feature: what fits into 2 KB with edges in float64."""

_MOST_BINS = 160

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

    def less(self, other: Profile) -> Profile:
        """The profile of the rows that are not in the other, which has some of these rows, and perhaps fewer features."""
        rest = {name: self.features[name].less(feature) for name, feature in other.features.items()}
        return replace(self.only(rest), n=self.n - other.n, features=rest)

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


def compute_dataset_profile(
    data: Any,
    task: TaskSpec | None = None,
    *,
    reference: Profile | None = None,
    model: nn.Module | None = None,
    adapter: Adapter | None = None,
    bins: int = BINS,
    categorical: Iterable[str] = (),
    without: Iterable[str] = (),
    reading: Reading = DEFAULT_READING,
) -> Profile:
    """The profile of a dataset: a reference, or with ``reference`` a window that can be compared with it.

    A reference is read twice, once to fix its scales and once to count; what was measured is kept in memory between where it is small. A
    window is read once. Memory does not depend on the number of rows.

    Args:
        data: A dataset, an ``EvalConfig`` or the path of a file of examples, with ``task``; or a table: columns by name, a data frame, Arrow
            data, a Parquet, Arrow or CSV file, an iterable of parts.
        task: What examples are for; ``None`` for a table.
        reference: The profile on whose scales the rows are counted.
        model: Whose outputs and embeddings are profiled too. Not on what it was trained on: it is too sure of that.
        adapter: How it is called; the task's own by default.
        bins: The most bins of a numeric feature, 2 to 160.
        categorical: Columns of a table that are levels, whatever they look like.
        without: Columns of a table that are not features.
        reading: How examples are read: the split, the training data whose tokenizer and classes are used, how many at once.

    Raises:
        ProfileError: There are no rows to make a reference of, or the data is of no kind that can be profiled.
        ProfileMismatchError: The rows are not of the reference's kind: another modality, vocabulary or tokenizer, or a missing column.
        DataError: The data is missing, unreadable, or does not fit the task.
    """
    options = Options(task, model, adapter, tuple(categorical), tuple(without), reading)
    return profile_of_source(source_of(data, options), reference, bins)


def profile_of_source(source: Source, reference: Profile | None, bins: int = BINS) -> Profile:
    """The profile of rows, wherever they come from; see ``compute_dataset_profile``.

    Args:
        source: The rows.
        reference: The profile on whose scales they are counted; ``None`` for a reference.
        bins: The most bins of a numeric feature of a reference.
    """
    return _reference(source, bins) if reference is None else _window(source, reference)


def profile_columns(
    columns: Mapping[str, Column], reference: Profile | None = None, *, categorical: Iterable[str] = ()
) -> Profile:
    """The profile of columns in memory: a reference, or with ``reference`` a window.

    Args:
        columns: Arrays ``[N]`` by name, or ``[N, D]`` for vectors.
        reference: The profile on whose scales the rows are counted.
        categorical: Columns that are levels, whatever they look like.

    Raises:
        ProfileError: There are no rows to make a reference of, or the columns are of different lengths.
        ProfileMismatchError: A column of the reference is missing.
    """
    return compute_dataset_profile(columns, reference=reference, categorical=categorical)


def _reference(source: Source, bins: int) -> Profile:
    if not 2 <= bins <= _MOST_BINS:
        raise ProfileError(f"`bins` must be 2 to {_MOST_BINS}, got {bins}")
    replay = Replay(source)
    scales = _scales(replay.first(), bins)
    rows, features = _counted(replay.second(_kinds(scales)), scales)
    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return Profile.of(rows, features, {**source.meta, "created": created})


def _scales(blocks: Iterable[Block], bins: int) -> dict[str, FeatureCounts]:
    surveys: dict[str, Survey] = {}
    rows = 0
    for block in blocks:
        surveys = surveys or {name: kind_of(values).survey() for name, values in block.values.items()}
        rows += block.rows
        for name, survey in surveys.items():
            survey.add(_values(block, name, rows))
    if not rows:
        raise ProfileError("no rows: a reference needs one at least")
    if not surveys:
        raise ProfileError("the rows have no features to profile")
    return {name: survey.scale(bins) for name, survey in surveys.items()}


def _window(source: Source, reference: Profile) -> Profile:
    for key in SHARED_META:
        if source.meta[key] != reference.meta.get(key):
            raise ProfileMismatchError(
                f"the window does not fit the reference: `{key}` is {source.meta[key]!r}, the reference's is {reference.meta.get(key)!r}"
            )
    rows, features = _counted(source.blocks(_kinds(reference.features)), reference.features)
    return replace(reference.only(features), n=rows, features=features)


def _counted(blocks: Iterator[Block], scales: Mapping[str, FeatureCounts]) -> tuple[int, dict[str, FeatureCounts]]:
    """Rows, and the counts of every feature that they have."""
    counters: dict[str, FeatureCounter] | None = None
    rows = 0
    for block in blocks:
        if counters is None:
            counters = {name: kind_of(scales[name]).counter(scales[name]) for name in _present(scales, block)}
        rows += block.rows
        for name, counter in counters.items():
            counter.add(_values(block, name, rows))
    if counters is None:
        return 0, {name: scale.emptied() for name, scale in scales.items()}
    return rows, {name: counter.result() for name, counter in counters.items()}


def _values(block: Block, name: str, rows: int) -> Values:
    if name not in block.values:
        raise ProfileError(f"no {name!r} among the last {block.rows} of {rows} rows, though rows before have it")
    return block.counted(name)


def _present(scales: Mapping[str, FeatureCounts], block: Block) -> list[str]:
    """The features that rows have; they may lack labels and outputs, and nothing else.

    Raises:
        ProfileMismatchError: They lack something else.
    """
    lacking = [name for name in scales if name not in block.values and not is_optional(name)]
    if lacking:
        near = did_you_mean(lacking[0], [*block.values, *block.left_out])
        raise ProfileMismatchError(f"no {lacking[0]!r}, which the reference has.{near}")
    return [name for name in scales if name in block.values]


def _kinds(scales: Mapping[str, FeatureCounts]) -> dict[str, str]:
    return {name: scale.kind for name, scale in scales.items()}
