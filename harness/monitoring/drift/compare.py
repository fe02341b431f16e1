"""Two profiles compared, feature by feature."""

from __future__ import annotations

import math
from dataclasses import replace

from harness.monitoring.drift.report import DriftReport, judge_differences
from harness.monitoring.errors import ProfileMismatchError
from harness.monitoring.features.kinds import kind_of
from harness.monitoring.options import DEFAULT_DRIFT_OPTIONS, DriftOptions
from harness.monitoring.profiles.profile import Profile, check_same_scale, is_optional

_MOST_DRAWS = 99_999  # about two seconds for a feature of a hundred levels
_HYPOTHESES_A_FEATURE = 3
_COINCIDENCE = math.log(1e-6)


def compare_profiles(reference: Profile, current: Profile, options: DriftOptions = DEFAULT_DRIFT_OPTIONS) -> DriftReport:
    """Whether a window is distributed as its reference.

    A feature fails if its difference is significant after correction for all tests (Holm), and its effect is above a floor. Significance
    alone would fail for differences that nobody minds once n is large, the effect alone by chance while n is small. As both must hold, a
    window without drift fails with a probability of at most alpha, whatever its size. One of the two warns.

    Args:
        reference: The reference's profile.
        current: The window's, counted on the reference's scales; it may lack labels and outputs, which are then not compared.
        options: The allowed error, the least effects that matter, and the power that is asked for.

    Raises:
        ProfileMismatchError: The profiles were not counted on the same scales, or the window lacks a feature of the inputs.
    """
    shared = _shared(reference, current)
    enough = math.ceil(2 * _HYPOTHESES_A_FEATURE * len(shared.features) / options.alpha)
    drawn = replace(options, draws=min(max(options.draws, enough), _MOST_DRAWS))
    found = [
        difference
        for name, feature in shared.features.items()
        for difference in kind_of(feature).compare(name, feature, current.features[name], drawn)
    ]
    report = judge_differences(
        found, options, reference_n=reference.n, current_n=current.n, same=same_features(reference, current)
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


def same_features(reference: Profile, current: Profile) -> frozenset[str]:
    """The features of a window that holds the reference's own rows; empty where it holds others.

    How many rows are needed to see drift is a question about two samples that were drawn independently. Where the window is the reference,
    there is one sample, and that nothing changed is certain for any number of rows. It is taken for the reference where every count of every
    input is the same, and other rows would have the same counts with a probability below 1e-6: at most that of the least likely feature, which
    is hypergeometric given the counts of both samples together.

    Args:
        reference: The reference's profile.
        current: The window's, on the same scales.
    """
    inputs = [name for name in reference.features if not is_optional(name)]
    if reference.n != current.n or not reference.n or not all(name in current.features for name in inputs):
        return frozenset()
    now = current.features
    equal = {name for name, before in reference.features.items() if name in now and before.to_json() == now[name].to_json()}
    if not inputs or not equal.issuperset(inputs):
        return frozenset()
    coincidences = (kind_of(reference.features[name]).log_coincidence(reference.features[name]) for name in inputs)
    if min(coincidences) > _COINCIDENCE:
        return frozenset()
    return frozenset(equal)
