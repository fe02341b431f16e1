"""The health report as one HTML page that needs nothing else: no network, no fonts, no scripts from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from harness.health import markdown
from harness.health.plots import BAR_ROW, CURVE_HEIGHT, comparisons_of
from harness.health.report import CheckResult, CheckStatus, ExportHealthReport
from harness.health.texts import breakable, lead_and_rest, prose, shorten
from harness.wording import duration, figure

ROW_HEIGHT = 32
"""Pixels of a plot's height that one parameter takes: its name above its bar."""

_MAX_TICKS = 6
_RING_GAP = 1.2
_LONGEST_HEADLINE = 40


@dataclass(frozen=True)
class Arc:
    """A stretch of the score ring, in percent of its circumference."""

    status: CheckStatus
    start: float
    length: float


@dataclass(frozen=True)
class Tick:
    """A labelled place on a plot's axis, in percent of its width."""

    x: float
    label: str
    anchor: str


@dataclass(frozen=True)
class Entry:
    """A line of the page's contents: the anchor it leads to, its words, and how much is there."""

    anchor: str
    label: str
    count: str


@dataclass(frozen=True)
class Row:
    """One parameter in a plot.

    Attributes:
        label: Its name, shortened to fit.
        tooltip: Its whole name with what is known about it.
        y: Top edge in pixels.
        width: Length of the bar in percent; ``None`` for a value that a log axis cannot show.
        text: The value for people, or ``none``.
        alarming: Whether the value deserves a second look.
    """

    label: str
    tooltip: str
    y: int
    width: float | None
    text: str
    alarming: bool


@dataclass(frozen=True)
class Plot:
    """Horizontal bars on a log axis, one for each parameter."""

    title: str
    caption: str
    description: str
    height: int
    ticks: tuple[Tick, ...]
    rows: tuple[Row, ...]


def to_html(report: ExportHealthReport) -> str:
    """The report as a self-contained HTML page."""
    checks = report.worst_first()
    sections = markdown.by_tier(checks)
    causes = report.causes
    findings = {status: [cause for cause in causes if cause.status == status] for status in ("failed", "warning")}
    anchors = {id(check): f"check-{number}" for number, check in enumerate(checks, 1)}
    anchors |= {id(check): anchors[id(cause.owner)] for cause in causes for check in cause.also}
    return _environment().get_template("page.html.j2").render(
        report=report,
        verdict=markdown.verdict(report),
        grade=markdown.grade_text(report),
        score=markdown.score_text(report),
        arcs=ring_arcs(report),
        mood=_mood(report),
        moment=_moment(report.timestamp),
        total_time=duration(sum(check.duration_seconds for check in checks)),
        contents=_contents(report, sections),
        findings=findings,
        anchors=anchors,
        sections=sections,
        plots=parameter_plots(report.layers),
    )  # fmt: skip


def ring_arcs(report: ExportHealthReport) -> list[Arc]:
    """The ring's arcs: what passed, then warnings, then failures; the rarest still wide enough to be seen.

    After a failure of a critical property the ring is red as a whole, as the rest counts for nothing.
    """
    if report.fails_critically:
        return [Arc("failed", 0.0, 100.0)]
    counts = report.summary
    statuses: tuple[tuple[CheckStatus, int], ...] = (
        ("passed", counts["passed"]),
        ("warning", counts["warnings"]),
        ("failed", counts["failed"]),
    )
    shares = [(status, max(count / counts["total"], 0.03)) for status, count in statuses if count]
    scale = 100 / sum(share for _, share in shares) if shares else 0.0
    gap = _RING_GAP if len(shares) > 1 else 0.0
    arcs, start = [], 0.0
    for status, share in shares:
        arcs.append(Arc(status, round(start + gap / 2, 3), round(share * scale - gap, 3)))
        start += share * scale
    return arcs


def parameter_plots(layers: Sequence[dict[str, Any]]) -> list[Plot]:
    """The plots of parameter scale and gradient norm; one whose quantity was never measured is left out."""
    quantities = (
        ("rms", "Parameter scale", "Root mean square of each parameter, log scale"),
        ("grad_rms", "Gradient norm", "Root mean square of each parameter’s gradient, log scale"),
    )
    measured = (quantity for quantity in quantities if any(_number(layer.get(quantity[0])) is not None for layer in layers))
    return [_plot(layers, *quantity) for quantity in measured]


def log_axis(values: Sequence[float]) -> tuple[int, int]:
    """The decades, as exponents of ten, that span positive values with room for the smallest to have a visible bar."""
    return math.ceil(math.log10(min(values))) - 1, math.ceil(math.log10(max(values)))


def axis_ticks(low: int, high: int) -> tuple[Tick, ...]:
    """Ticks at whole decades from ``10**low`` to ``10**high``, few enough to be read."""
    step = math.ceil((high - low) / (_MAX_TICKS - 1))
    return tuple(
        Tick(_percent(exponent, low, high), f"1e{exponent}" if exponent else "1", _anchor(exponent, low, high))
        for exponent in range(low, high + 1, step)
    )


def share_text(share: float) -> str:
    """``12.3%``; ``<0.1%`` of a share that would round to nothing."""
    return "<0.1%" if 0 < share < 0.0005 else f"{share:.1%}"


def _plot(layers: Sequence[dict[str, Any]], key: str, title: str, caption: str) -> Plot:
    values = [_number(layer.get(key)) for layer in layers]
    drawn = [value for value in values if _drawable(value)]
    axis = log_axis([value for value in drawn if value]) if drawn else None
    rows = tuple(
        _row(layer, value, index * ROW_HEIGHT, axis, key) for index, (layer, value) in enumerate(zip(layers, values, strict=True))
    )
    description = f"{caption}, {len(layers)} in all. "
    description += _extremes(layers, values) if drawn else "None is a positive number."
    return Plot(title, caption, description, ROW_HEIGHT * len(layers), axis_ticks(*axis) if axis else (), rows)


def _row(layer: dict[str, Any], value: float | None, y: int, axis: tuple[int, int] | None, key: str) -> Row:
    name, frozen = str(layer.get("name") or "unnamed"), layer.get("trainable") is False
    text = "none" if value is None else figure(value)
    absent = value is None or not math.isfinite(value) or (key == "grad_rms" and value == 0)
    width = _percent(math.log10(value), *axis) if axis and value is not None and _drawable(value) else None
    tooltip = " · ".join(part for part in (name, shape_text(layer), text, "frozen" if frozen else "") if part)
    return Row(shorten(name), tooltip, y, width, f"{text}, frozen" if frozen and value is None else text, absent and not frozen)


def shape_text(layer: dict[str, Any]) -> str:
    """``512 × 128``; ``scalar`` for no dimensions; empty when unknown."""
    shape = layer.get("shape")
    if not isinstance(shape, (list, tuple)):
        return str(shape or "")
    return " × ".join(str(size) for size in shape) or "scalar"


def _extremes(layers: Sequence[dict[str, Any]], values: Sequence[float | None]) -> str:
    pairs = [
        (value, str(layer.get("name")))
        for layer, value in zip(layers, values, strict=True)
        if value is not None and _drawable(value)
    ]
    (least, where_least), (most, where_most) = min(pairs), max(pairs)
    rest = f" {len(layers) - len(pairs)} have no bar." if len(pairs) < len(layers) else ""
    return f"Smallest {figure(least)} in {where_least}, largest {figure(most)} in {where_most}.{rest}"


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _drawable(value: float | None) -> bool:
    return value is not None and math.isfinite(value) and value > 0


def _percent(position: float, low: int, high: int) -> float:
    return round((position - low) / (high - low) * 100, 3)


def _anchor(exponent: int, low: int, high: int) -> str:
    return {low: "start", high: "end"}.get(exponent, "middle")


def _cell(value: Any) -> str:
    number = _number(value)
    return "none" if number is None else f"{value:,}" if isinstance(value, int) else figure(number)


def _contents(report: ExportHealthReport, sections: dict[str, list[CheckResult]]) -> list[Entry]:
    """Where a reader may go from the top, with the tiers' shares of passed checks; empty where there is but one place."""
    causes = [cause.status for cause in report.causes]
    entries = [
        Entry("failed", "Failures", str(causes.count("failed"))),
        Entry("warning", "Warnings", str(causes.count("warning"))),
    ]
    for number, (heading, checks) in enumerate(sections.items(), 1):
        passed = sum(check.status == "passed" for check in checks)
        entries.append(Entry(f"section-{number}", heading.partition(":")[0], f"{passed} of {len(checks)} passed"))
    entries += [Entry("skipped", "Skipped", str(len(report.skipped))), Entry("layers", "Layers", str(len(report.layers)))]
    there = [entry for entry in entries if entry.count != "0"]
    return there if len(there) > 1 else []


def _mood(report: ExportHealthReport) -> str:
    """The status that colours the verdict; a partial run is not coloured sound."""
    counts = report.summary
    if not counts["total"]:
        return "empty"
    if counts["failed"]:
        return "failed"
    return "warning" if counts["warnings"] or report.coverage else "passed"


def _moment(timestamp: str) -> str:
    try:
        moment = datetime.fromisoformat(timestamp.replace("Z", "+00:00"))
    except ValueError:
        return timestamp
    return f"{moment.day} {moment:%B %Y, %H:%M} {moment.tzname() or ''}".strip()


def _digest(script: str) -> str:
    """What a content security policy calls a script by, so that no other runs."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


@cache
def _environment() -> Environment:
    loader = PackageLoader("harness.health", "")
    environment = Environment(autoescape=True, loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "prose": prose,
        "breakable": breakable,
        "digest": _digest,
        "lead_and_rest": lead_and_rest,
        "number": _cell,
        "shape": shape_text,
        "took": duration,
        "shorten": shorten,
        "share": share_text,
    }
    environment.globals |= {
        "glyphs": markdown.GLYPHS,
        "words": markdown.WORDS,
        "facts_of": markdown.facts_of,
        "tried": markdown.examples_text,
        "row_height": ROW_HEIGHT,
        "bar_row": BAR_ROW,
        "curve_height": CURVE_HEIGHT,
        "longest_headline": _LONGEST_HEADLINE,
        "plots_of": lambda cause: [plot for check in (cause.owner, *cause.also) for plot in comparisons_of(check)],
        "id": id,
    }
    return environment
