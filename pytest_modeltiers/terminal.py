"""The terminal summary: a table a tier, worst first."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.evidence import Status
from harness.health.markdown import score_text
from harness.health.report import ExportHealthReport
from pytest_modeltiers.plugin import TIERS
from pytest_modeltiers.results import Result

_MARKUP: dict[Status, dict[str, bool]] = {
    Status.FAIL: {"red": True, "bold": True},
    Status.WARN: {"yellow": True},
    Status.OK: {"green": True},
    Status.SKIPPED: {"light": True},
}
_WORDS = {Status.FAIL: "FAIL", Status.WARN: "WARN", Status.OK: "ok", Status.SKIPPED: "skip"}


def print_summary(terminal: pytest.TerminalReporter, path: Path, results: list[Result], report: ExportHealthReport) -> None:
    """Prints the results of one config; with ``-q`` only what needs attention."""
    quiet = terminal.verbosity < 0
    terminal.section(f"{report.model_name} ({path.name}): health {score_text(report)}", sep="=", blue=True)
    for tier in sorted({result.tier for result in results}):
        rows = sorted((r for r in results if r.tier == tier), key=lambda r: -r.status.severity)
        counts = ", ".join(f"{n} {_WORDS[s].lower()}" for s in Status if (n := sum(r.status is s for r in rows)))
        terminal.write_line(f"tier {tier} · {TIERS.get(tier, '')}: {counts}", bold=True)
        width = max(len(row.label) for row in rows)
        for row in rows:
            if not quiet or row.status in (Status.FAIL, Status.WARN):
                _print_row(terminal, row, width)
    if report.coverage:
        terminal.write_line(report.coverage, yellow=True)


def _print_row(terminal: pytest.TerminalReporter, row: Result, width: int) -> None:
    evidence = row.evidence
    terminal.write(f"  {_WORDS[row.status]:<5}", **_MARKUP[row.status])
    terminal.write(f"{row.label:<{width}}  ")
    if row.status is Status.OK:
        examples = row.finding.get("examples", 0)
        notes = [evidence.comparison if evidence else "", f"{examples} examples" if examples > 1 else "", f"{row.seconds:.2f} s"]
        terminal.line("  ".join(note for note in notes if note), light=True)
        return
    terminal.line(row.message)
    if evidence is not None and row.status in (Status.FAIL, Status.WARN):
        indent = " " * (9 + width)
        # A failure's cause stands in its own section above; a warning has none.
        cause = evidence.cause if row.status is Status.WARN else ""
        for label, text in (("smallest", evidence.counterexample), ("measured", evidence.comparison), ("cause", cause)):
            if text:
                terminal.line(f"{indent}{label}: {text}", light=True)
