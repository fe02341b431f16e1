"""Features as lines of text, those that drifted most first; and what a profile has of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.evidence import Status
from harness.monitoring.features.kinds import kind_of
from harness.monitoring.profiles.profile import Profile
from harness.wording import aligned, figure, p_value

_MOST = 40
_HEAD = ["FEATURE", "STATUS", "EFFECT", "FLOOR", "P", "FOUND"]


def drift_table(features: Sequence[Mapping[str, Any]], most: int = _MOST) -> str:
    """A line a feature, by its gravest difference: the gravest first, then those with the larger part of the drift.

    Args:
        features: Features as JSON values, as ``FeatureDrift.to_json`` gives them.
        most: The most lines; how many are left out is said.
    """
    ordered = sorted(features, key=lambda one: (-Status(one["status"]).severity, -one["contribution"]))
    rows = [_row(one) for one in ordered[:most]]
    left = len(ordered) - len(rows)
    more = f"\n… and {left} other features, which --json lists" if left else ""
    return aligned([_HEAD, *rows]) + more


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
