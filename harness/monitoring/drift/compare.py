"""Two profiles compared, feature by feature."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from harness.monitoring.drift.categorical import compare_absent, compare_categories, compare_missing
from harness.monitoring.drift.clusters import compare_clusters
from harness.monitoring.drift.difference import Difference
from harness.monitoring.drift.floors import DEFAULT_FLOORS, Floors
from harness.monitoring.drift.numeric import compare_directions, compare_numbers
from harness.monitoring.drift.report import DriftReport, check_probabilities, judge_differences
from harness.monitoring.drift.same_rows import same_features
from harness.monitoring.drift.unseen import compare_unseen
from harness.monitoring.errors import ProfileMismatchError
from harness.monitoring.profiles.features import (
    CategoricalCounts,
    Feature,
    NumericCounts,
    Profile,
    VectorCounts,
    check_same_scale,
    is_optional,
)

_FEWEST_DRAWS = 1_999
_MOST_DRAWS = 99_999  # about two seconds for a feature of a hundred levels
_HYPOTHESES_A_FEATURE = 3


def compare_profiles(
    reference: Profile,
    current: Profile,
    *,
    alpha: float = 0.05,
    floors: Floors = DEFAULT_FLOORS,
    min_power: float = 0.5,
    more: Sequence[Difference] = (),
) -> DriftReport:
    """Whether a window is distributed as its reference.

    A feature fails with two keys: its difference is significant after correction for all tests (Holm), and its effect is above a floor.
    Significance alone would fail for differences that nobody minds once n is large, the effect alone by chance while n is small. As both
    must hold, a window without drift fails with a probability of at most alpha, whatever its size. One key alone warns.

    Args:
        reference: The reference's profile.
        current: The window's, counted on the reference's scales; it may lack labels and outputs, which are then not compared.
        alpha: The probability of a failure without drift, at most.
        floors: The least effects that matter.
        min_power: How likely a drift at its floor must be seen for the window to count as large enough; 0 asks for nothing.
        more: Differences measured on rows (``compare_embeddings``), to be judged together with those of the profiles.

    Raises:
        ProfileMismatchError: The profiles were not counted on the same scales, or the window lacks a feature of the inputs.
        ValueError: ``alpha`` or ``min_power`` is no probability that can be asked for.
    """
    check_probabilities(alpha, min_power)
    shared = _shared(reference, current)
    enough = math.ceil(2 * _HYPOTHESES_A_FEATURE * len(shared.features) / alpha)
    draws = min(max(_FEWEST_DRAWS, enough), _MOST_DRAWS)
    found = [
        difference
        for name, feature in shared.features.items()
        for difference in _differences(name, feature, current.features[name], floors, draws)
    ]
    report = judge_differences(
        [*found, *more],
        reference_n=reference.n,
        current_n=current.n,
        alpha=alpha,
        min_power=min_power,
        same=same_features(reference, current),
    )
    return replace(report, not_compared=tuple(name for name in reference.features if name not in shared.features))


def _shared(reference: Profile, current: Profile) -> Profile:
    """The reference's part that the window can be compared with: all of it but the labels and outputs that the window may lack."""
    lacking = next((name for name in reference.features if name not in current.features and not is_optional(name)), None)
    if lacking is not None:
        raise ProfileMismatchError(
            f"the window has no feature {lacking!r}, which its reference has: count it on the reference, or compare `reference.only(...)`"
        )
    shared = reference.only(current.features)
    check_same_scale(shared, current)
    return shared


def _differences(name: str, reference: Feature, current: Feature, floors: Floors, draws: int) -> Iterator[Difference]:
    """A feature's differences in each respect that applies."""
    if isinstance(reference, NumericCounts) and isinstance(current, NumericCounts):
        yield compare_numbers(name, reference, current, floors.ks)
        yield from compare_missing(name, reference, current, floors.cramers_v, draws)
    elif isinstance(reference, CategoricalCounts) and isinstance(current, CategoricalCounts):
        if reference.clusters is not None:
            yield compare_clusters(name, reference, current, floors.cramers_v)
            return
        yield compare_categories(name, reference, current, floors.cramers_v, draws)
        yield from compare_absent(name, reference, current, floors.cramers_v, draws)
        yield from compare_unseen(name, reference, current, floors.cramers_v)
    elif isinstance(reference, VectorCounts) and isinstance(current, VectorCounts):
        yield compare_directions(name, reference, current, floors.ks)
        first, now = reference.directions[0], current.directions[0]
        yield from compare_missing(name, first, now, floors.cramers_v, draws)
