"""The health report as GitHub-flavoured Markdown, and the words it shares with the HTML page."""

from __future__ import annotations

import html
import json
import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from harness.charts.pictures import pictures_of, ranking
from harness.evidence import WHOLE
from harness.health.checks import Cause, CheckResult, CheckStatus, HealthResults, SkippedCheck, label_of
from harness.wording import counted, duration, visible

GLYPHS: dict[CheckStatus, str] = {"failed": "✕", "warning": "▲", "passed": "✓"}
WORDS: dict[CheckStatus, str] = {"failed": "Failed", "warning": "Warning", "passed": "Passed"}
CODE_SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
"""How messages mark module paths; the page and the Markdown both honour it."""


@dataclass(frozen=True)
class Fact:
    """One labelled line of a finding; ``code`` asks for a monospaced face."""

    label: str
    text: str
    code: bool = False


def to_markdown(report: HealthResults) -> str:
    """The report as GitHub-flavoured Markdown, fit for a file, a comment or a step summary."""
    causes = report.causes
    blocks = [
        f"# {_prose(report.model_name)}: {_grade(report)}",
        f"**{verdict(report)}**",
        _coverage(report),
        _model_facts(report),
        _changes(report),
        *_findings("Failures", [cause for cause in causes if cause.status == "failed"]),
        *_findings("Warnings", [cause for cause in causes if cause.status == "warning"]),
        _recommendations(report.recommendations),
        *(_table(heading, checks) for heading, checks in by_tier(report.worst_first()).items()),
        _skipped(report.skipped),
    ]
    return visible("\n\n".join(block for block in blocks if block) + "\n", lines=True)


def _recommendations(recommendations: list[str]) -> str:
    return "\n".join(["## Recommendations", "", *(f"- {_prose(text)}" for text in recommendations)]) if recommendations else ""


def verdict(report: HealthResults) -> str:
    """The outcome as one sentence without its full stop, such as ``Sound: 38 of 38 checks passed``."""
    counts, skipped = report.summary, len(report.skipped)
    if not counts["total"]:
        return f"Nothing was checked: {counted(skipped, 'check')} skipped" if skipped else "Nothing was checked"
    passed = f"{counts['passed']} of {counted(counts['total'], 'check')} passed" + (f", {skipped} skipped" if skipped else "")
    warnings = sum(cause.status == "warning" for cause in report.causes)
    warned = counted(warnings, "warning") if warnings else ""
    if counts["failed"]:
        return ", ".join(part for part in (f"Broken: {problems_text(report, 'check')}", warned, passed) if part)
    # A sound part must not read like a sound whole.
    scope = " as far as it ran" if report.coverage else ""
    if report.changed_features:
        return f"The data changed in {report.changed_features}{scope}{f', with {warned}' if warned else ''}: {passed}"
    return f"Sound{scope}{f', with {warned}' if warned else ''}: {passed}"


def problems_text(report: HealthResults, noun: str) -> str:
    """``2 problems (5 failed checks)``."""
    problems = sum(cause.status == "failed" for cause in report.causes)
    return f"{counted(problems, 'problem')} ({counted(report.summary['failed'], f'failed {noun}')})"


def facts_of(check: CheckResult, also: Iterable[CheckResult] = ()) -> list[Fact]:
    """What is known about a finding: where and why first, then how it shows; what its details lack is left out.

    Args:
        check: The check.
        also: Other checks that are red for the same reason.
    """
    keys = ("module", "place", "cause", "counterexample", "comparison", "nodeid")
    told = {key: str(check.details.get(key) or "") for key in keys}
    cause, command = told["cause"], _rerun(check)
    facts = (
        Fact("Blamed module", "" if told["module"] == WHOLE else told["module"], code=True),
        Fact("Line", told["place"], code=True),
        Fact("Usual cause", cause),
        Fact("What to do", _advice_beside(cause, check.recommendation)),
        Fact("Counterexample", told["counterexample"], code=True),
        Fact("Measured", told["comparison"], code=True),
        Fact("Also shows as", "; ".join(f"`{label_of(other)}` ({other.message})" for other in also)),
        *(Fact(label, text) for label, text in pictures_of(check.details).in_words.items()),
        Fact("Contributions", ranking(check.details)),
        Fact("Test", "" if told["nodeid"] in command else told["nodeid"], code=True),
        Fact("Run it again", command, code=True),
    )
    return [fact for fact in facts if fact.text]


def _advice_beside(cause: str, advice: str) -> str:
    """What an advice says that the usual cause does not say already."""
    cause = cause.strip(" .")
    if not cause or cause not in advice:
        return advice
    rest = advice.replace(f"usual cause: {cause}", "").strip(" .")
    return "" if cause in rest else rest


def head_facts(report: HealthResults) -> dict[str, str]:
    """What is said of model and run at the head of a report; the score too, where it is not beside the grade."""
    facts = dict(report.model_facts)
    if report.grade and not score_text(report):
        facts["health score"] = f"{report.health_score:g} of 100, which counts checks and not what they weigh"
    return facts | ({"run": run_text(report)} if report.environment else {})


def run_text(report: HealthResults) -> str:
    """Where and how the checks ran, in one line; empty where it is not known."""
    known = report.environment
    if not known:
        return ""
    commit = str(known.get("commit") or "")[:10]
    parts = (
        f"commit `{commit}`{' with changes' if known.get('changed') else ''}" if commit else "no commit",
        f"torch {known['versions']['torch']} on `{known.get('device', 'cpu')}`",
        counted(int(known["threads"]), "thread"),
        counted(workers, "process") if (workers := int(known.get("workers", 1))) > 1 else "",
        f"seed {known.get('seed')}",
        duration(float(known.get("seconds", 0))),
    )
    return ", ".join(filter(None, parts))


def environment_texts(report: HealthResults) -> dict[str, str]:
    """The environment, label to text."""
    found = {key: value for key, value in report.environment.items() if key != "seconds"}
    return {key: _environment_text(value) for key, value in found.items() if value not in (None, "", [], {})}


def _environment_text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {inner}" for name, inner in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def config_text(report: HealthResults) -> str:
    """The config as JSON; what nobody set and has no default is left out."""
    return json.dumps({key: value for key, value in report.config.items() if value not in (None, [], {}, "")}, indent=2)


def property_of(check: CheckResult) -> str:
    """The property that a check judges, as the documentation calls it."""
    return label_of(check).partition("[")[0]


@cache
def documentation() -> dict[str, list[str]]:
    """What the page on properties says of each: paragraphs, the items of lists with a bullet; empty where the package has no such page."""
    package = Path(__file__).parent
    page = next(filter(Path.is_file, (package / "properties.md", package.parents[1] / "docs" / "properties.md")), None)
    sections = page.read_text(encoding="utf-8").split("\n## ")[1:] if page else []
    return {title: list(_blocks(text)) for title, _, text in (section.partition("\n") for section in sections)}


def _blocks(text: str) -> Iterator[str]:
    for block in re.split(r"\n\s*\n|\n(?=- )", text.strip()):
        # Links lead to other pages, which are not here.
        words = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", " ".join(block.split()))
        yield f"• {words[2:]}" if words.startswith("- ") else words


def by_tier(checks: Iterable[CheckResult]) -> dict[str, list[CheckResult]]:
    """Groups checks under ``Tier 1: critical properties``, ..., and last those without a tier under ``Checks``, in their order."""
    groups: dict[tuple[bool, int], list[CheckResult]] = {}
    titles: dict[int, str] = {}
    for check in checks:
        tier = check.details.get("tier")
        groups.setdefault((False, tier) if isinstance(tier, int) else (True, 0), []).append(check)
        if isinstance(tier, int) and check.details.get("tier_title"):
            titles[tier] = f": {check.details['tier_title']}"
    return {
        "Checks" if outside else f"Tier {tier}{titles.get(tier, '')}": groups[outside, tier] for outside, tier in sorted(groups)
    }


def examples_text(check: CheckResult) -> str:
    """How many inputs were tried, with thousands separated; empty when unknown."""
    examples = check.details.get("examples")
    return f"{examples:,}" if isinstance(examples, int) else ""


def grade_text(report: HealthResults) -> str:
    """``A`` to ``F``; a dash where there is no grade."""
    return report.grade or "–"


def score_text(report: HealthResults) -> str:
    """``98.5 of 100``; empty where the score would say what the grade does not: after a failure, and of a selection."""
    return "" if not report.grade or report.get_failed_checks() else f"{report.health_score:g} of 100"


def _rerun(check: CheckResult) -> str:
    if check.details.get("rerun"):
        return str(check.details["rerun"])
    # Only a Python test can be run by its name alone; one that a config file generates needs options known to its maker.
    nodeid = str(check.details.get("nodeid") or "")
    return f"pytest {shlex.quote(nodeid)}" if nodeid.partition("::")[0].endswith(".py") else ""


def _grade(report: HealthResults) -> str:
    score = score_text(report)
    return f"grade {report.grade}{f', health score {score}' if score else ''}" if report.grade else "no grade"


def _coverage(report: HealthResults) -> str:
    return f"> [!WARNING]\n> **Partial run.** {_prose(report.coverage)}" if report.coverage else ""


def _model_facts(report: HealthResults) -> str:
    return "\n".join(f"- {_prose(label)}: {_prose(text)}" for label, text in head_facts(report).items())


def _changes(report: HealthResults) -> str:
    """What has changed since the last run; empty where there was none."""
    found = report.comparison
    if found is None:
        return ""
    parts = [f"## Since the last run\n\n{_prose(found.headline)}"]
    parts += [f"**{heading}**\n\n" + "\n".join(f"- {_prose(line)}" for line in lines) for heading, lines in found.sections]
    return "\n\n".join(parts)


def _findings(heading: str, causes: list[Cause]) -> list[str]:
    return [f"## {heading}", *map(_finding, causes)] if causes else []


def _finding(cause: Cause) -> str:
    check = cause.owner
    lines = [f"### {GLYPHS[check.status]} {_prose(check.message)}", ""]
    if check.excerpt is not None:
        lines += [*_block(check.excerpt.text), ""]
    if check.fix is not None:
        lines += [
            f"With this change of {_code(check.fix.place)} the property holds{_prose(cause.unmended)}:",
            "",
            *_block(check.fix.text, "diff"),
            "",
        ]
    lines += [f"- **Check:** {_code(check.check_name)}"]
    lines += [
        f"- **{fact.label}:** {_code(fact.text) if fact.code else _prose(fact.text)}" for fact in facts_of(check, cause.also)
    ]
    return "\n".join(lines)


def _block(text: str, language: str = "text") -> list[str]:
    """A block of code; its fence is longer than any in it."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return [f"{fence}{language}", *text.splitlines(), fence]


def _table(heading: str, checks: list[CheckResult]) -> str:
    head = [f"## {_prose(heading)}", "", "| Status | Property | Measured | Tried | Time |", "|---|---|---|--:|--:|"]
    return "\n".join([*head, *map(_row, checks)])


def _row(check: CheckResult) -> str:
    cells = (
        f"{GLYPHS[check.status]} {WORDS[check.status]}",
        f"{_prose(str(check.details.get('statement') or check.message))}<br>{_code(check.check_name)}",
        _prose(str(check.details.get("comparison") or "")),
        examples_text(check),
        html.escape(duration(check.duration_seconds)),
    )
    return f"| {' | '.join(cells)} |"


def _skipped(skipped: list[SkippedCheck]) -> str:
    rows = [f"| {_code(check.check_name)} | {_prose(check.reason)} |" for check in skipped]
    return "\n".join(["## Skipped", "", "| Check | Reason |", "|---|---|", *rows]) if rows else ""


def _prose(text: str) -> str:
    """One line of text that Markdown shows as it is, except that spans in backticks stay code."""
    parts = CODE_SPAN.split(" ".join(text.split()))
    line = "".join(_code(part) if index % 2 else _plain(part) for index, part in enumerate(parts))
    # At the start of an item these would open a list or a heading within it.
    return re.sub(r"^(\d*)([-#+.)])(?=[-#+]*(?:\s|$))", r"\1\\\2", line)


def _plain(text: str) -> str:
    text = re.sub(r"([\\`*\[\]~|$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))", r"\\\1", text)
    # GitHub notifies whoever is named behind an @, as in "@torch.jit.script"; a comment between parts the two.
    return re.sub(r"@(?=\w)", "@<!-- -->", html.escape(text, quote=False))


def _code(text: str) -> str:
    text = " ".join(text.split())
    if not text or not set(text) & set("`|"):
        return f"`{text}`" if text else ""
    # Neither a backtick nor a pipe in a table has an escape that every renderer honours inside a code span; entities do.
    return f"<code>{re.sub(r'[^A-Za-z0-9 .,:;=()/-]', lambda match: f'&#{ord(match[0])};', text)}</code>"
