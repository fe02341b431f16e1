"""The health report as one HTML page that needs nothing else: no network, no fonts, no scripts from elsewhere."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from markupsafe import Markup, escape

from harness.charts import Bar, BarChart
from harness.charts.page import Templates
from harness.charts.pictures import Distributions, Pictures, distributions_of, pictures_of, share_text
from harness.health import markdown
from harness.health.checks import Cause, CheckResult, CheckStatus, HealthResults
from harness.health.comparison import Comparison
from harness.wording import duration, figure

_RING_GAP = 1.2
_LONGEST_HEADLINE = 40
MOST_CARDS = 100
"""Findings that are told in full; a page of a thousand would take seconds to open."""

_MAX_LABEL = 34
_LONGEST_LEAD = 120
_CODE_OR_BREAK = re.compile(r"`[^`\n]+`|\([^()\n]*\)|; ")
_SHORT_NAME = 16
_PATH = re.compile(r"[\w.]+")
_JOINTS_OF_ID = re.compile(r"(?<=[:/])(?![:/])|(?=\[)")
_JOINTS_OF_PATH = re.compile(r"(?<=\.)(?=[^\d.])|(?=\[)")


@dataclass(frozen=True)
class Arc:
    """A stretch of the score ring, in percent of its circumference."""

    status: CheckStatus
    start: float
    length: float


@dataclass(frozen=True)
class Entry:
    """A line of the page's contents: the anchor it leads to, its words, and how much is there."""

    anchor: str
    label: str
    count: str


def to_html(report: HealthResults) -> str:
    """The report as a self-contained HTML page."""
    checks = report.worst_first()
    sections = markdown.by_tier(checks)
    causes = report.causes
    findings = {status: [cause for cause in causes if cause.status == status] for status in ("failed", "warning")}
    cards = {"failed": MOST_CARDS, "warning": max(MOST_CARDS - len(findings["failed"]), 0)}
    in_full = [cause for status, most in cards.items() for cause in findings[status][:most]]
    anchors = {id(check): f"check-{number}" for number, cause in enumerate(in_full, 1) for check in (cause.owner, *cause.also)}
    about = {name: text for name, text in markdown.documentation().items() if name in set(map(markdown.property_of, checks))}
    return _TEMPLATES.render(
        "page.html.j2",
        report=report,
        verdict=markdown.verdict(report),
        facts=markdown.head_facts(report),
        environment=markdown.environment_texts(report),
        config=markdown.config_text(report),
        grade=markdown.grade_text(report),
        score=markdown.score_text(report),
        arcs=ring_arcs(report),
        mood=_mood(report),
        moment=_moment(report.timestamp),
        total_time=duration(sum(check.duration_seconds for check in checks)),
        contents=_contents(report, sections, about),
        about=about,
        findings=findings,
        cards=cards,
        anchors=anchors,
        sections=sections,
        parameters=parameter_charts(report.layers),
    )  # fmt: skip


def fragment(report: HealthResults) -> str:
    """The report as a part of somebody else's page, such as the output of a notebook's cell."""
    passed = [check for check in report.checks if check.status == "passed"]
    causes = report.causes[:MOST_CARDS]
    return _TEMPLATES.render("fragment.html.j2", report=report, verdict=markdown.verdict(report), causes=causes, passed=passed)


def comparison_html(comparison: Comparison) -> str:
    """A comparison of two reports as a self-contained HTML page."""
    return _TEMPLATES.render("comparison.html.j2", comparison=comparison)


def ring_arcs(report: HealthResults) -> list[Arc]:
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


def parameter_charts(layers: Sequence[dict[str, Any]]) -> list[BarChart]:
    """The charts of parameter scale and gradient norm; one whose quantity was never measured is left out."""
    quantities = (
        ("rms", "Parameter scale", "Root mean square of each parameter, logarithmic scale"),
        ("grad_rms", "Gradient norm", "Root mean square of each parameter’s gradient, logarithmic scale"),
    )
    measured = (quantity for quantity in quantities if any(_number(layer.get(quantity[0])) is not None for layer in layers))
    return [_parameter_chart(layers, *quantity) for quantity in measured]


def decades_of(values: Sequence[float]) -> tuple[int, int]:
    """The decades, as exponents of ten, that span positive values with room for the smallest to have a visible bar."""
    return math.ceil(math.log10(min(values))) - 1, math.ceil(math.log10(max(values)))


def _parameter_chart(layers: Sequence[dict[str, Any]], key: str, title: str, caption: str) -> BarChart:
    values = [_number(layer.get(key)) for layer in layers]
    drawn = [value for value in values if _drawable(value)]
    decades = decades_of([value for value in drawn if value]) if drawn else None
    bars = tuple(_bar(layer, value, decades, key) for layer, value in zip(layers, values, strict=True))
    description = f"{caption}, {len(layers)} in all. "
    description += _extremes(layers, values) if drawn else "None is a positive number."
    if decades is None:
        return BarChart(title, caption, description, bars)
    low, high = (f"1e{exponent}" if exponent else "1" for exponent in decades)
    return BarChart(title, caption, description, bars, (low, high), decades[1] - decades[0])


def _bar(layer: dict[str, Any], value: float | None, decades: tuple[int, int] | None, key: str) -> Bar:
    name, frozen = str(layer.get("name") or "unnamed"), layer.get("trainable") is False
    text = "none" if value is None else figure(value)
    absent = value is None or not math.isfinite(value) or (key == "grad_rms" and value == 0)
    length = None
    if decades and value is not None and _drawable(value):
        length = (math.log10(value) - decades[0]) / (decades[1] - decades[0])
    details = " · ".join(part for part in (name, shape_text(layer), text, "frozen" if frozen else "") if part)
    text = f"{text}, frozen" if frozen and value is None else text
    return Bar(shorten(name), text, (length,), details, absent and not frozen)


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


def _cell(value: Any) -> str:
    number = _number(value)
    return "none" if number is None else f"{value:,}" if isinstance(value, int) else figure(number)


def _contents(report: HealthResults, sections: Mapping[str, Sequence[CheckResult]], about: Mapping[str, Any]) -> list[Entry]:
    """Where a reader may go from the top, with the tiers' shares of passed checks; empty where there is but one place."""
    causes = [cause.status for cause in report.causes]
    entries = [
        Entry("failed", "Failures", str(causes.count("failed"))),
        Entry("warning", "Warnings", str(causes.count("warning"))),
    ]
    for number, (heading, checks) in enumerate(sections.items(), 1):
        passed = sum(check.status == "passed" for check in checks)
        entries.append(Entry(f"section-{number}", heading.partition(":")[0], f"{passed} of {len(checks)} passed"))
    further: dict[str, Sized] = {"skipped": report.skipped, "layers": report.layers, "about": about}
    entries += [Entry(anchor, anchor.capitalize(), str(len(there))) for anchor, there in further.items()]
    there = [entry for entry in entries if entry.count != "0"]
    return there if len(there) > 1 else []


def _mood(report: HealthResults) -> str:
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


def shorten(name: str, limit: int = _MAX_LABEL) -> str:
    """A name that fits: ``encoder.layers.17.attention.weight`` as ``e.l.17.attention.weight``; any other loses its middle.

    The modules of a path are cut to their initials from the left until it fits. Their numbers stay, as layers differ in little else.
    """
    parts = name.split(".") if _PATH.fullmatch(name) else [name]
    for place, part in enumerate(parts[:-1]):
        if len(".".join(parts)) > limit and not part.isdigit():
            parts[place] = part[:1]
    name = ".".join(parts)
    if len(name) <= limit:
        return name
    head = (limit - 1) // 2
    return f"{name[:head]}…{name[len(name) - (limit - 1 - head) :]}"


def lead_and_rest(message: str) -> tuple[str, str]:
    """A message's headline, and what goes below it: further lines or, of a long one, what follows a semicolon outside of code and brackets."""
    lead, _, rest = message.strip().partition("\n")
    if rest or len(lead) <= _LONGEST_LEAD:
        return lead, "\n".join(line for line in rest.splitlines() if line.strip())
    places = (found.start() for found in _CODE_OR_BREAK.finditer(lead) if found[0] == "; ")
    end = next(places, len(lead))
    return lead[:end], lead[end + 2 :]


def breakable(name: str) -> Markup:
    """An escaped test id, file or module path that a narrow column breaks at its joints rather than within a word."""
    if len(name) <= _SHORT_NAME:
        return escape(name)
    joints = _JOINTS_OF_ID if set(":/") & set(name) else _JOINTS_OF_PATH
    return Markup("<wbr>").join(joints.split(name))


def prose(text: Any) -> Markup:
    """Escaped text in which spans in backticks become code."""
    parts = markdown.CODE_SPAN.split(str(text))
    spans = (Markup("<code>{}</code>").format(breakable(part)) if index % 2 else part for index, part in enumerate(parts))
    return Markup("").join(spans)


def _distributions_of(cause: Cause) -> list[Distributions]:
    return [found for check in (cause.owner, *cause.also) for found in distributions_of(check.details)]


def _pictures_of(cause: Cause) -> Pictures:
    """The pictures of a bug: those of the first of its checks that has a matrix, or else of the one that owns it."""
    found = [pictures_of(check.details) for check in (cause.owner, *cause.also)]
    return next((each for each in found if each.matrices), found[0])


_TEMPLATES = Templates(
    "harness.health",
    {
        "prose": prose,
        "breakable": breakable,
        "lead_and_rest": lead_and_rest,
        "number": _cell,
        "shape": shape_text,
        "took": duration,
        "shorten": shorten,
        "share": share_text,
    },
    glyphs=markdown.GLYPHS,
    words=markdown.WORDS,
    facts_of=markdown.facts_of,
    tried=markdown.examples_text,
    property_of=markdown.property_of,
    longest_headline=_LONGEST_HEADLINE,
    distributions_of=_distributions_of,
    pictures_of=_pictures_of,
    cell_words={"wrong": "reads, and must not", "reads": "reads", "unread": "does not read"},
    cell_signs={"wrong": "✕", "reads": "●", "unread": "·"},
    id=id,
)
