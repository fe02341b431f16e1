"""The health report: what the checks of a model came to, as JSON, Markdown and one HTML page."""

from __future__ import annotations

import json
from pathlib import Path

from harness.files import write_whole
from harness.health.checks import CheckResult, CheckStatus, HealthResults, SkippedCheck

__all__ = ["CheckResult", "CheckStatus", "ExportHealthReport", "SkippedCheck"]


class ExportHealthReport(HealthResults):
    """The checks of one model, and the files that report them."""

    def save_json(self, path: str | Path) -> Path:
        """Writes the report as JSON; returns the path."""
        return write_whole(Path(path), json.dumps(self.to_json(), indent=2, allow_nan=False, default=str) + "\n")

    def save_markdown(self, path: str | Path) -> Path:
        """Writes the report as Markdown; returns the path."""
        from harness.health.markdown import to_markdown

        return write_whole(Path(path), to_markdown(self))

    def save_html(self, path: str | Path) -> Path:
        """Writes the report as one self-contained HTML page; returns the path."""
        from harness.health.page import to_html

        return write_whole(Path(path), to_html(self))
