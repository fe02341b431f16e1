"""Every feature that was compared, drifted or not, as a table for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.evidence import Status
from harness.experiments.text_table import aligned
from harness.monitoring.drift.finding import Finding
from harness.wording import figure, p_value

_MOST = 40
_NOTABLE = (Finding.DRIFTED.value, Finding.CHANGED.value)
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
    for_the_better = " for the better" if feature.get("is_improved") and difference["finding"] in _NOTABLE else ""
    return [
        feature["feature"],
        feature["status"],
        f"{effect['name']} {figure(effect['value'])}",
        f"{effect['floor']:g}",
        p_value(difference["p_adjusted"]),
        f"{aspect}{difference['finding']}{for_the_better}",
    ]
