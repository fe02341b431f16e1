"""What GitHub Actions shows of a run: annotations and the step summary."""

from __future__ import annotations

from pathlib import Path

from harness.evidence import Status
from harness.health.report import ExportHealthReport
from pytest_modeltiers.results import Result


def append_summary(summary: Path, report: ExportHealthReport) -> None:
    """Adds the report to GitHub's step summary."""
    from harness.health.markdown import to_markdown

    try:
        with summary.open("a", encoding="utf-8") as file:
            file.write(to_markdown(report) + "\n")
    except OSError as error:
        print(f"GITHUB_STEP_SUMMARY: cannot write {summary}: {error.strerror}")


def annotation(result: Result, root: Path) -> str:
    """A GitHub workflow command that shows the finding beside the config file."""
    level = "error" if result.status is Status.FAIL else "warning"
    file = Path(result.config)
    shown = file.relative_to(root) if root in file.parents else file
    message = result.message.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return f"::{level} file={shown},title=tier {result.tier}%3A {result.label}::{message}"
