"""What GitHub Actions shows of a run: annotations and the step summary."""

from __future__ import annotations

from pathlib import Path

from harness.health.causes import Cause, also_text, label_of
from harness.health.report import ExportHealthReport


def append_summary(summary: Path, report: ExportHealthReport) -> None:
    """Adds the report to GitHub's step summary."""
    from harness.health.markdown import to_markdown

    try:
        with summary.open("a", encoding="utf-8") as file:
            file.write(to_markdown(report) + "\n")
    except OSError as error:
        print(f"GITHUB_STEP_SUMMARY: cannot write {summary}: {error.strerror}")


def annotation(cause: Cause, config: Path, root: Path, folder: Path) -> str:
    """A GitHub workflow command that shows a bug beside the line to look at, or beside the config where no line is known.

    Args:
        cause: The bug.
        config: The config file.
        root: The root of the run, relative to which GitHub finds files.
        folder: The folder the run was started in.
    """
    check = cause.owner
    level = "error" if cause.status == "failed" else "warning"
    place, _, line = str(check.details.get("place") or "").rpartition(":")
    is_there = bool(place) and (folder / place).is_file()
    file = folder / place if is_there else config
    shown = file.relative_to(root) if root in file.parents else file
    also = f" (also shows as {also_text(cause.also)})" if cause.also else ""
    message = f"{check.message}{also}".replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    at = f",line={line}" if is_there else ""
    return f"::{level} file={shown}{at},title=tier {check.details.get('tier')}%3A {label_of(check)}::{message}"
