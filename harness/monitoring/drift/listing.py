"""All features of a window, the worst first: as lines of text, as plots, and as one HTML page with a search, which needs no network."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from harness.evidence import Status
from harness.files import write_whole
from harness.monitoring.drift import DriftReport, FeatureDrift
from harness.monitoring.drift.verdict import Verdict
from harness.monitoring.features import Plot
from harness.monitoring.features.kinds import kind_of
from harness.monitoring.profiles import Profile
from harness.wording import aligned, figure, p_value

MOST_DRAWN = 100
"""Features that are drawn; a page with a thousand drawings would take seconds to open."""

_TONES = {"fail": "failed", "warn": "warning", "ok": "passed", "skipped": "empty"}
_WIDTH, _HEIGHT = 120, 28
_MOST = 40
_HEAD = ["FEATURE", "STATUS", "EFFECT", "FLOOR", "P", "FOUND"]


def drift_table(features: Sequence[Mapping[str, Any]], most: int = _MOST) -> str:
    """A line a feature, by its gravest difference: the gravest first, then those with the larger part of the drift.

    Args:
        features: Features as JSON values, as ``FeatureDrift.to_json`` gives them.
        most: The most lines; how many are left out is said.
    """
    ordered = _worst_first(features)
    rows = [_row(one) for one in ordered[:most]]
    left = len(ordered) - len(rows)
    more = f"\n… and {left} other features, which --json lists" if left else ""
    return aligned([_HEAD, *rows]) + more


def _worst_first(features: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return sorted(features, key=lambda one: (-Status(one["status"]).severity, -one["contribution"]))


def _row(feature: Mapping[str, Any]) -> list[str]:
    difference = feature["differences"][0]
    effect = difference["effect"]
    if difference["untested"]:
        return [feature["feature"], feature["status"], "", "", "", difference["untested"]]
    aspect = "" if difference["aspect"] == "values" else f"{difference['aspect']}: "
    is_significant = difference["finding"] in ("drifted", "changed")
    for_the_better = " for the better" if feature.get("is_improved") and is_significant else ""
    return [
        feature["feature"],
        feature["status"],
        f"{effect['name']} {figure(effect['value'])}",
        f"{effect['floor']:g}",
        p_value(difference["p_adjusted"]),
        f"{aspect}{difference['finding']}{for_the_better}",
    ]


def summary_rows(profile: Profile) -> list[dict[str, Any]]:
    """Name, kind, values, missing ones and a summary of each feature, ready for JSON."""
    return [
        {
            "feature": name,
            "kind": feature.kind,
            "n": feature.n,
            "missing": feature.missing,
            "summary": kind_of(feature).summary(feature),
        }
        for name, feature in profile.features.items()
    ]


def summary_table(profile: Profile) -> str:
    """The same as text in aligned columns."""
    rows = [[str(value) for value in row.values()] for row in summary_rows(profile)]
    return aligned([["FEATURE", "KIND", "N", "MISSING", "SUMMARY"], *rows])


@dataclass(frozen=True)
class Said:
    """A sentence of the page, and how bad it is: ``fail``, ``warn``, ``ok``, or ``skipped`` for a note."""

    status: str
    message: str


@dataclass(frozen=True)
class DriftPage:
    """What a page shows.

    Attributes:
        window: What was compared.
        reference: With what.
        status: The worst of all.
        said: Findings and notes, the gravest first.
        features: Features as JSON values, as ``FeatureDrift.to_json`` gives them.
        drawings: Reference and window of the features that changed most, by name.
        harm: What is said of the accuracy, where it is worse than drift; empty otherwise.
    """

    window: str
    reference: str
    status: str
    said: Sequence[Said]
    features: Sequence[Mapping[str, Any]]
    drawings: Mapping[str, str]
    harm: str = ""

    @property
    def headline(self) -> str:
        """That the accuracy fell, and how many features drifted; never that all is well where one did."""
        return (
            f"{self.harm[:1].upper()}{self.harm[1:]}; {self._drifted[:1].lower()}{self._drifted[1:]}"
            if self.harm
            else self._drifted
        )

    @property
    def _drifted(self) -> str:
        count = len(self.features)
        by_status = {status: sum(one["status"] == status for one in self.features) for status in ("fail", "warn")}
        if by_status["fail"]:
            return f"{by_status['fail']:,} of {count:,} features drifted"
        if by_status["warn"]:
            return f"{by_status['warn']:,} of {count:,} features changed"
        return f"No drift found in {count:,} features"

    def to_html(self) -> str:
        """The page."""
        ordered = _worst_first(self.features)
        counts = {status: sum(one["status"] == status for one in ordered) for status in ("fail", "warn", "ok")}
        from harness.charts.page import Templates

        templates = Templates("harness.monitoring.drift")
        return templates.render(
            "features.html.j2", page=self, rows=[_page_row(one) for one in ordered], counts=counts, tones=_TONES
        )

    def write(self, path: Path) -> None:
        """Writes the page to a file."""
        write_whole(path, self.to_html())


def _page_row(feature: Mapping[str, Any]) -> dict[str, str]:
    worst = feature["differences"][0]
    effect = worst["effect"]
    tested = not worst["untested"]
    return {
        "name": feature["feature"],
        "status": feature["status"],
        "effect": f"{effect['name']} {figure(effect['value'])}" if tested else "",
        "floor": f"{effect['floor']:g}" if tested else "",
        "p": p_value(worst["p_adjusted"]) if tested else "",
        "found": worst["untested"] or f"{'' if worst['aspect'] == 'values' else worst['aspect'] + ': '}{worst['finding']}",
        "where": worst["where"] if feature["status"] != "ok" else "",
    }


def drawings_of(report: DriftReport, reference: Profile, current: Profile, most: int = MOST_DRAWN) -> dict[str, str]:
    """Reference and window of the features that changed, those that make most of the drift first."""
    changed = [one for one in report.features if one.status in (Status.FAIL, Status.WARN)]
    found = {}
    for one in changed[:most]:
        before, now = reference.features.get(one.feature), current.features.get(one.feature)
        if before is not None and now is not None:
            plot = kind_of(before).plot(before, now, one.verdicts[0].difference.aspect)
            if plot is not None:
                found[one.feature] = _drawing(plot)
    return found


def _drawing(plot: Plot) -> str:
    """The shares of both sides as steps over the bins or levels: two paths of an ``svg`` element."""
    sides = [plot["reference"], plot["current"]]
    highest = max(max(side) for side in sides) or 1.0
    return "".join(
        f'<path class="{name}" d="{_steps(side, highest)}"/>' for name, side in zip(("then", "now"), sides, strict=True)
    )


def _steps(shares: Sequence[float], highest: float) -> str:
    width = _WIDTH / len(shares)
    heights = [_HEIGHT - 1 - (_HEIGHT - 2) * share / highest for share in shares]
    return f"M0 {heights[0]:.0f}" + "".join(f"V{height:.0f}h{width:.1f}" for height in heights)


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
