"""Two reports compared: what is new, gone and changed, and which margins, timings and sizes moved."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from harness.wording import counted, duration, figure

_RED = ("failed", "warning")
_SEVERITY = {"passed": 0, "warning": 1, "failed": 2}
"""Of the statuses of a check that was judged; what was skipped or is not there has none."""

_MARKS = {"failed": "✕", "warning": "▲", "passed": "✓", "skipped": "–", "": "–"}

_MARGIN_FACTOR = 2.0
"""A share of what is allowed that is twice or half of what it was is told..."""

_LEAST_MARGIN = 0.05
"""...if one of the two is at least a twentieth of what is allowed: below, both are as good as nothing."""

_TIME_FACTOR = 1.5
_LEAST_TIME = 0.001
"""Seconds. Times of less vary by more than this from run to run, on an idle machine too."""

_LEAST_DURATION = 1.0
_SIZE_FACTOR = 1.01
_TIMES = re.compile(r"(?:^|_)(ms|seconds)$")
_SIZES = re.compile(r"bytes$|_mib$|_params$|^nodes$|^tensors$|^operators$")
_UNIT = re.compile(r"^[-+\d.,e]+ (ms|MiB|GiB)$")


@dataclass(frozen=True)
class Side:
    """One of the two reports.

    Attributes:
        name: The model's.
        run: When, and of which commit.
        grade: ``A`` to ``F``; empty of a selection.
        score: The health score.
        problems: How many bugs failed.
    """

    name: str
    run: str
    grade: str
    score: float
    problems: int

    @classmethod
    def of(cls, report: Mapping[str, Any]) -> Side:
        """The side that a report as JSON is."""
        known = report.get("environment") or {}
        commit = (
            f", commit {known['commit'][:10]}{' with changes' if known.get('changed') else ''}" if known.get("commit") else ""
        )
        run = str(report.get("timestamp", "")) + commit
        return cls(
            str(report.get("model_name", "")),
            run,
            str(report.get("grade", "")),
            float(report.get("health_score", 0)),
            int(report.get("problems", 0)),
        )


@dataclass(frozen=True)
class Finding:
    """A check whose finding is not what it was.

    Attributes:
        check_name: The check.
        then: Its status in the first report; empty where it is not in it.
        now: Its status in the second one.
        message: What the one says in which it is red: the second, if it is red in both.
        before: What the first says, if it is red in both.
    """

    check_name: str
    then: str
    now: str
    message: str
    before: str = ""

    @property
    def text(self) -> str:
        """One line."""
        return f"{_MARKS[self.now]} {self.check_name} ({self.then or 'not there'} → {self.now or 'not there'}): {self.message}"


@dataclass(frozen=True)
class Figure:
    """A number that moved.

    Attributes:
        label: What it is of.
        then: In the first report.
        now: In the second.
        unit: Their unit.
    """

    label: str
    then: float
    now: float
    unit: str = ""

    @property
    def text(self) -> str:
        """``tier4::exports[onnx] bytes: 3,377,857 → 3,577,857 (1.06 times)``."""
        if self.unit == "s":
            then, now = duration(self.then) or "0 s", duration(self.now) or "0 s"
        elif self.unit == "%":
            then, now = f"{self.then:.3g}%", f"{self.now:.3g}%"
        else:
            then, now = f"{figure(self.then)} {self.unit}".strip(), f"{figure(self.now)} {self.unit}".strip()
        times = f" ({figure(self.now / self.then)} times)" if self.then else ""
        return f"{self.label}: {then} → {now}{times}"


@dataclass(frozen=True)
class Comparison:
    """What differs between two reports.

    Attributes:
        then: The first.
        now: The second.
        new: Red in the second, and judged and not red, or less, in the first.
        gone: Red in the first, and judged and not red, or less, in the second.
        changed: As red in both, and another finding: another code, module or line.
        unjudged: Red in the first, and not judged in the second.
        only_now: Red in the second, and not judged in the first.
        selection: Which tests were judged in one of the two only, a sentence for each tier.
        margins: Shares of what is allowed, in percent, of checks that passed in both.
        timings: How long calls and checks took.
        sizes: Of files, memory, and parameters.
    """

    then: Side
    now: Side
    new: tuple[Finding, ...]
    gone: tuple[Finding, ...]
    changed: tuple[Finding, ...]
    unjudged: tuple[Finding, ...]
    only_now: tuple[Finding, ...]
    selection: tuple[str, ...]
    margins: tuple[Figure, ...]
    timings: tuple[Figure, ...]
    sizes: tuple[Figure, ...]

    @property
    def fails_anew(self) -> bool:
        """Whether something fails that did not fail before, be it that it was not judged."""
        return any(finding.now == "failed" for finding in (*self.new, *self.only_now))

    @property
    def headline(self) -> str:
        """``Worse: 2 new, 1 gone; grade A → F, health score 100 → 95.7``: of what was judged in both; what else ran is said apart."""
        counts = [
            (len(self.new), "new"),
            (len(self.gone), "gone"),
            (len(self.changed), "changed"),
            (len(self.unjudged), "not judged any more"),
        ]
        told = ", ".join(f"{count} {word}" for count, word in counts if count) or "no finding is new, gone or changed"
        verdict = (
            "Worse"
            if self.new
            else "Better"
            if self.gone and not self.unjudged
            else "The same"
            if not self.changed
            else "Changed"
        )
        return "; ".join((f"{verdict}: {told}", *self.selection, self._scores()))

    def _scores(self) -> str:
        then, now = self.then.grade or "none", self.now.grade or "none"
        grade = f"grade {then} → {now}" if then != now else f"grade {now}"
        moved = self.then.score != self.now.score
        other = ", of other tests" if self.selection and (moved or then != now) else ""
        return f"{grade}, health score {f'{self.then.score:g} → ' if moved else ''}{self.now.score:g}{other}"

    @property
    def sections(self) -> list[tuple[str, list[str]]]:
        """Headings with lines; those without lines are left out."""
        found: Sequence[tuple[str, Sequence[Finding | Figure]]] = (
            ("New", self.new),
            ("Gone", self.gone),
            ("Changed", self.changed),
            ("Not judged any more", self.unjudged),
            ("Not judged before", self.only_now),
            ("Margins, as shares of what is allowed", self.margins),
            ("Timings, which vary from run to run", self.timings),
            ("Sizes", self.sizes),
        )
        return [(heading, [entry.text for entry in entries]) for heading, entries in found if entries]

    def to_json(self) -> dict[str, Any]:
        """The comparison as JSON values."""
        return {"status": "fail" if self.fails_anew else "ok", "headline": self.headline, **asdict(self)}

    def to_text(self) -> str:
        """The comparison for a terminal."""
        lines = [self.headline, f"  then: {self.then.name}, {self.then.run}", f"  now:  {self.now.name}, {self.now.run}"]
        for heading, entries in self.sections:
            lines += ["", f"{heading} ({len(entries)})", *(f"  {entry}" for entry in entries)]
        return "\n".join(lines)


def compare(then: Mapping[str, Any], now: Mapping[str, Any]) -> Comparison:
    """Compares two reports.

    Args:
        then: The first, as its JSON.
        now: The second.
    """
    before, after = _checks(then), _checks(now)
    new, gone, changed, unjudged, only_now = [], [], [], [], []
    for name in [*after, *(name for name in before if name not in after)]:
        old, fresh = before.get(name, {}), after.get(name, {})
        was, is_ = old.get("status", ""), fresh.get("status", "")
        if is_ not in _SEVERITY:
            unjudged += [Finding(name, was, is_, old["message"])] if was in _RED else []
        elif was not in _SEVERITY:
            only_now += [Finding(name, was, is_, fresh["message"])] if is_ in _RED else []
        elif _SEVERITY[is_] > _SEVERITY[was]:
            new.append(Finding(name, was, is_, fresh["message"]))
        elif _SEVERITY[is_] < _SEVERITY[was]:
            gone.append(Finding(name, was, is_, old["message"]))
        elif is_ in _RED and _kind(old) != _kind(fresh):
            changed.append(Finding(name, was, is_, fresh["message"], old["message"]))
    both = [(name, before[name], check) for name, check in after.items() if name in before]
    figures = [found for name, old, fresh in both for found in _figures(name, old, fresh)]
    return Comparison(
        Side.of(then), Side.of(now), tuple(new), tuple(gone), tuple(changed), tuple(unjudged), tuple(only_now),
        tuple(_selection(before, after)),
        tuple(figure for kind, figure in figures if kind == "margin"),
        tuple(figure for kind, figure in figures if kind == "time"),
        tuple(figure for kind, figure in figures if kind == "size"),
    )  # fmt: skip


def _checks(report: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    skipped = {check["check_name"]: {"status": "skipped", "message": check["reason"]} for check in report.get("skipped", ())}
    return skipped | {check["check_name"]: check for check in report["checks"]}


def _selection(then: Mapping[str, Mapping[str, Any]], now: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Which checks were judged in one of two reports only: whole tiers by their number, others by how many they are."""
    before, after = ({name for name, check in checks.items() if check["status"] in _SEVERITY} for checks in (then, now))
    for here, elsewhere, when in ((after, before, "only now"), (before, after, "only before")):
        known, others = {_tier_of(name) for name in elsewhere}, 0
        for tier in dict.fromkeys(map(_tier_of, sorted(here - elsewhere))):
            count = sum(_tier_of(name) == tier for name in here - elsewhere)
            if tier in known or not tier:
                others += count
            else:
                yield f"{tier} ran {when} ({counted(count, 'test')})"
        if others:
            yield f"{counted(others, 'test')} ran {when}"


def _tier_of(name: str) -> str:
    """``tier 3`` of ``tier3::initial_loss``; empty of a check that has none."""
    tier, colons, _ = name.partition("::")
    return tier.replace("tier", "tier ") if colons else ""


def _kind(check: Mapping[str, Any]) -> tuple[object, ...]:
    """What makes a finding another one; a message differs in its numbers from run to run."""
    details = check.get("details", {})
    return details.get("code"), details.get("module"), str(details.get("place") or "").partition(":")[0]


def _figures(name: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, Figure]]:
    old, new = then.get("details", {}), now.get("details", {})
    share, share_now = _share(then), _share(now)
    if min(share, share_now) > 1:  # it passed with more than its bound, which is the least that is allowed
        share, share_now = 1 / share, 1 / share_now
    if max(share, share_now) >= _LEAST_MARGIN and _moved(share, share_now, _MARGIN_FACTOR):
        yield "margin", Figure(name, 100 * share, 100 * share_now, "%")
    seconds = float(then.get("duration_seconds", 0)), float(now.get("duration_seconds", 0))
    if max(seconds) >= _LEAST_DURATION and _moved(*seconds, _TIME_FACTOR) and 0 not in seconds:
        yield "time", Figure(f"{name}, the check itself", *seconds, unit="s")
    before, after = dict(_measured(old)), dict(_measured(new))
    for label, (value, unit) in after.items():
        if label not in before:
            continue
        was = before[label][0]
        if unit == "s":
            if max(was, value) >= _LEAST_TIME and _moved(was, value, _TIME_FACTOR):
                yield "time", Figure(f"{name} {label}".strip(), was, value, unit)
        elif _moved(was, value, _SIZE_FACTOR):
            yield "size", Figure(f"{name} {label}".strip(), was, value, unit)


def _share(check: Mapping[str, Any]) -> float:
    """The share of what is allowed that a check measured; NaN where it did not pass, or measured nothing."""
    measured, bound = (check.get("details", {}).get(key) for key in ("measured", "bound"))
    numbers = isinstance(measured, (int, float)) and isinstance(bound, (int, float))
    return abs(measured) / bound if check.get("status") == "passed" and numbers and bound > 0 else math.nan


def _moved(then: float, now: float, factor: float) -> bool:
    low, high = sorted((abs(then), abs(now)))
    return high > 0 and high >= low * factor and high != low


def _measured(details: Mapping[str, Any]) -> Iterator[tuple[str, tuple[float, str]]]:
    """Times, in seconds, and sizes that a check tells."""
    unit = _UNIT.match(str(details.get("comparison", "")))
    value = details.get("measured")
    if unit and isinstance(value, (int, float)):
        yield "", (value / 1000, "s") if unit[1] == "ms" else (value, unit[1])
    facts = details.get("facts")
    for key, value in facts.items() if isinstance(facts, Mapping) else ():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        if found := _TIMES.search(key):
            yield key.removesuffix("_ms"), (value / 1000 if found[1] == "ms" else value, "s")
        elif _SIZES.search(key):
            yield key, (value, "bytes" if key.endswith("bytes") else "")
