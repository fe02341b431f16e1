"""Plots of what drifted, as data: how a feature was distributed in the reference, and how it is now.

They travel as JSON in the details of evidence, ``details["plots"]``, and are drawn by the health report, which knows this structure and
nothing of profiles: ``feature``, ``title``, ``kind``, ``reference``, ``current``, ``edges`` or ``labels``, ``caption``, ``contribution``.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from itertools import islice

from harness.evidence import Status
from harness.monitoring.drift.report import DriftReport, FeatureDrift
from harness.monitoring.drift.verdict import Verdict
from harness.monitoring.features.feature_kind import Plot
from harness.monitoring.features.kinds import kind_of
from harness.monitoring.profiles.profile import Profile

MOST_PLOTS = 6


def plots_of(report: DriftReport, reference: Profile, current: Profile, among: Container[str] | None = None) -> list[Plot]:
    """Plots of the features that changed, those that contribute most to the drift first, at most 6 of at most 50 shares.

    Numbers become shares between edges of the profile, of which neighbours are joined where there are too many. Levels are those that changed
    most. Vectors are shown along the random direction where the two sides are furthest apart. Each is of the respect that its feature's
    gravest verdict is on: its values, or which of them are missing.

    Args:
        report: What the comparison of the two profiles came to.
        reference: The reference's profile.
        current: The window's. A feature that was compared on rows, and is in neither profile, has no plot.
        among: The features to choose from; ``None`` for all.
    """
    changed = [one for one in report.features if one.status in (Status.WARN, Status.FAIL)]
    chosen = [one for one in changed if among is None or one.feature in among]
    return list(islice((plot for one in chosen for plot in _plots(one, reference, current)), MOST_PLOTS))


def _plots(drift: FeatureDrift, of_reference: Profile, of_current: Profile) -> Iterator[Plot]:
    """The plot of a feature, of the respect in which it changed; none where a side has no values."""
    reference, current = of_reference.features.get(drift.feature), of_current.features.get(drift.feature)
    if reference is None or current is None:
        return
    shown = kind_of(reference).plot(reference, current, drift.verdicts[0].difference.aspect)
    if shown is not None:
        about = shown.pop("about", "")
        yield {
            "feature": drift.feature,
            "title": f"{drift.feature}: {about}" if about else drift.feature,
            "contribution": drift.contribution,
            "caption": _caption(drift.verdicts[0], drift.contribution),
            **shown,
        }


def _caption(verdict: Verdict, contribution: float) -> str:
    effect = verdict.difference.effect
    parts = [f"{effect.name} {effect.value:.2g}", f"{contribution:.0%} of the drift", verdict.difference.where]
    return "; ".join(part for part in parts if part)
