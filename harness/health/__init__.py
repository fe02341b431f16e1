"""The health report: what the checks of a model came to, as JSON, Markdown and one HTML page."""

from __future__ import annotations

import json
import re
from pathlib import Path

from harness.files import write_whole
from harness.health.checks import CheckResult, CheckStatus, HealthResults, SkippedCheck, label_of

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

    def save_scripts(self, folder: str | Path) -> list[Path]:
        """Writes a script for each bug that one shows, ``repro_causal.py``, in place of those of an earlier run; returns the paths."""
        for earlier in Path(folder).glob("repro_*.py"):
            earlier.unlink()
        scripts = {label_of(cause.owner): cause.owner.details.get("script") for cause in self.causes}
        named = {re.sub(r"\W+", "_", label).strip("_"): text for label, text in scripts.items() if text}
        return [write_whole(Path(folder) / f"repro_{name}.py", str(text)) for name, text in named.items()]
