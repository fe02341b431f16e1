"""The windows of data that were compared with a run, one after the other: what each came to, and where a series left its limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from harness.experiments.records import WindowRecord
from harness.wording import Answer, aligned, counted, figure

ACCURACY = "accuracy"
"""The series of how often the model is right, measured or estimated."""

_SHOWN = 20
_DRAWN = 200


@dataclass(frozen=True)
class Point:
    """A window of a series."""

    time: datetime
    value: float
    limit: float
    is_outside: bool


@dataclass(frozen=True)
class Series:
    """One measure over the windows of a reference.

    Attributes:
        name: The feature, or ``accuracy``.
        measure: What the values are.
        points: By time.
    """

    name: str
    measure: str
    points: tuple[Point, ...]

    @property
    def left_at(self) -> datetime | None:
        """When the series left its limit and did not come back since; ``None`` where it is within."""
        return self.points[-self.lasts].time if self.lasts else None

    @property
    def lasts(self) -> int:
        """How many windows, up to the last, are beyond the limit."""
        return next((place for place, point in enumerate(reversed(self.points)) if not point.is_outside), len(self.points))

    @property
    def message(self) -> str:
        """``beyond its limit since 2026-11-28 02:00 (3 windows)``, or how often it was."""
        beyond = sum(point.is_outside for point in self.points)
        if self.left_at is not None:
            return f"beyond its limit since {date_text(self.left_at)} ({counted(self.lasts, 'window')})"
        return (
            f"within its limit now, beyond it in {beyond} of {counted(len(self.points), 'window')}"
            if beyond
            else "within its limit"
        )

    def plot(self) -> dict[str, Any]:
        """The series as a plot, see ``harness.charts.pictures``."""
        points = self.points[-_DRAWN:]
        return {
            "kind": "series",
            "title": f"{self.name}: {self.measure} over {counted(len(points), 'window')}",
            "caption": self.message,
            "labels": [date_text(point.time) for point in points],
            "current": [point.value for point in points],
            "reference": [point.limit for point in points],
        }


def series_of(windows: Sequence[WindowRecord]) -> dict[str, Series]:
    """The series of windows by name, those that are beyond their limit first."""
    found: dict[str, list[Point]] = {}
    measures: dict[str, str] = {}
    for window in windows:
        for name, one in window.result.get("series", {}).items():
            point = Point(window.time, float(one["value"]), float(one["limit"]), bool(one["is_outside"]))
            found.setdefault(name, []).append(point)
            measures[name] = str(one["measure"])
    made = [Series(name, measures[name], tuple(points)) for name, points in found.items()]
    made.sort(key=lambda one: (one.left_at is None, one.name != ACCURACY))
    return {one.name: one for one in made}


def date_text(time: datetime) -> str:
    """``2026-11-30 02:00``."""
    return time.astimezone().strftime("%Y-%m-%d %H:%M")


_MARKS = {"ok": "ok", "warn": "warn", "fail": "FAIL"}
_BARS = "▁▂▃▄▅▆▇█"


def windows_json(windows: Sequence[WindowRecord]) -> dict[str, Any]:
    """The windows of a run and what their series come to, JSON-ready."""
    return {
        "windows": [
            {"time": one.time.isoformat(), "name": one.name, "status": one.status, "rows": one.rows, **one.result}
            for one in windows
        ],
        "series": {
            one.name: {"measure": one.measure, "is_outside": one.left_at is not None, "message": one.message}
            for one in series_of(windows).values()
        },
    }


def windows_text(windows: Sequence[WindowRecord]) -> str:
    """The last windows, a line each, and the series that were ever beyond their limit."""
    rows = [["TIME", "NAME", "STATUS", "ROWS", "ACCURACY", "BEYOND ITS LIMIT"], *map(_line, windows[-_SHOWN:])]
    beyond = [one for one in series_of(windows).values() if any(point.is_outside for point in one.points)]
    shown = [[one.name, _sparkline(one), one.message] for one in beyond[:_SHOWN]]
    more = [f"… {len(windows) - _SHOWN} earlier windows, which --json lists"] if len(windows) > _SHOWN else []
    return "\n".join([*more, aligned(rows), *(["", aligned(shown)] if shown else [])])


def _line(window: WindowRecord) -> list[str]:
    series = window.result.get("series", {})
    accuracy = series.get(ACCURACY)
    outside = [name for name, one in series.items() if one["is_outside"] and name != ACCURACY]
    said = ", ".join(outside[:3]) + (f" and {counted(len(outside) - 3, 'other')}" if len(outside) > 3 else "")
    right = f"{accuracy['value']:.1%}" if accuracy else ""
    return [date_text(window.time), window.name, _MARKS.get(window.status, window.status), f"{window.rows:,}", right, said]


def _sparkline(series: Series) -> str:
    values = [point.value for point in series.points[-_SHOWN:]]
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return "".join(_BARS[min(int((value - low) / span * len(_BARS)), len(_BARS) - 1)] for value in values)


def series_answer(series: Series) -> Answer:
    """One series, value by value."""
    rows = [["TIME", series.measure.upper(), "LIMIT", ""]]
    for point in series.points:
        rows.append([date_text(point.time), figure(point.value), figure(point.limit), "beyond" if point.is_outside else ""])
    values = [
        {"time": one.time.isoformat(), "value": one.value, "limit": one.limit, "is_outside": one.is_outside}
        for one in series.points
    ]
    text = f"{series.name}: {series.message}\n\n{aligned(rows)}"
    return Answer({"series": series.name, "measure": series.measure, "message": series.message, "values": values}, text)
