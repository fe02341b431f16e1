"""What a folder keeps of its runs: the last report, earlier ones, and a badge."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.files import write_whole
from harness.health.checks import HealthResults
from harness.health.comparison import compare

KEPT = 20
"""Reports of earlier runs that are kept."""

REPORT = "health_report.json"
_FOLDER = "history"


def remember(folder: Path, report: HealthResults) -> None:
    """Copies the report of the last run to those of earlier ones, and notes in the new report what they were and what has changed.

    Args:
        folder: Where reports are written.
        report: The new report, not written yet.

    Raises:
        OSError: The folder cannot be written.
    """
    last = read_report(folder / REPORT)
    if last is not None:
        write_whole(folder / _FOLDER / f"{_file_name(str(last.get('timestamp', '')))}.json", json.dumps(last))
    files = sorted((folder / _FOLDER).glob("*.json"))
    for file in files[:-KEPT]:
        file.unlink()
    earlier = [found for file in files[-KEPT:] if (found := read_report(file)) is not None]
    report.earlier = [_line(found) for found in reversed(earlier)]
    if last is not None:
        report.comparison = compare(last, report.to_json())


def read_report(file: Path) -> dict[str, Any] | None:
    """A report as its JSON; ``None`` where the file is none."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("checks"), list) else None


def write_badge(folder: Path, report: HealthResults) -> None:
    """Writes a badge as SVG, and as JSON for the endpoint badges of shields.io.

    Raises:
        OSError: The folder cannot be written.
    """
    text, colour = _badge(report)
    shields = {"schemaVersion": 1, "label": _LABEL, "message": text, "color": colour.removeprefix("#")}
    write_whole(folder / "badge.json", json.dumps(shields) + "\n")
    write_whole(folder / "badge.svg", badge_svg(text, colour))


_LABEL = "model health"
_COLOURS = {"A": "#20693f", "B": "#4a6410", "C": "#7d5200", "D": "#93400f", "F": "#a8261c"}
"""Of each grade, so dark that white letters on it have a contrast of more than 4.5."""


def _badge(report: HealthResults) -> tuple[str, str]:
    if not report.grade:
        return "no grade", "#5e5a53"
    problems = sum(cause.status == "failed" for cause in report.causes)
    told = f", {problems} problem{'s' if problems > 1 else ''}" if problems else ""
    return f"{report.grade}{told}", _COLOURS[report.grade]


def badge_svg(text: str, colour: str) -> str:
    """A badge: a label, and a text on a colour."""
    left, right = (round(6.6 * len(words)) + 12 for words in (_LABEL, text))
    shown = html.escape(text)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="20" role="img" aria-label="{_LABEL}: {shown}">'
        f"<title>{_LABEL}: {shown}</title>"
        f'<rect width="{left + right}" height="20" rx="3" fill="#3d3c3a"/>'
        f'<path d="M{left} 0h{right - 3}a3 3 0 0 1 3 3v14a3 3 0 0 1 -3 3h-{right - 3}z" fill="{colour}"/>'
        '<g fill="#fff" font-family="DejaVu Sans,Verdana,sans-serif" font-size="11" text-anchor="middle">'
        f'<text x="{left / 2:g}" y="14">{_LABEL}</text><text x="{left + right / 2:g}" y="14">{shown}</text></g></svg>\n'
    )


def _file_name(timestamp: str) -> str:
    """A name that sorts by time and that every file system takes."""
    return re.sub(r"[^0-9A-Za-z+-]", "-", timestamp) or "unknown"


def _line(report: Mapping[str, Any]) -> dict[str, Any]:
    """What is told of an earlier run."""
    known = report.get("environment") or {}
    return {
        "timestamp": report.get("timestamp", ""),
        "commit": str(known.get("commit") or "")[:10],
        "grade": report.get("grade", ""),
        "health_score": report.get("health_score", 0),
        "problems": report.get("problems", 0),
        "seconds": known.get("seconds", 0),
    }
