"""The health report of a model, and the files that report it: JSON, Markdown, one HTML page, scripts; SARIF of the findings of several."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.catalogue import CATALOGUE
from harness.files import text_hash, write_whole
from harness.health.checks import Cause, CheckResult, CheckStatus, HealthResults, SkippedCheck, also_text, label_of

__all__ = ["CheckResult", "CheckStatus", "ExportHealthReport", "SkippedCheck", "to_sarif"]

_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_ROOT = "%SRCROOT%"
_LEVELS = {"failed": "error", "warning": "warning"}


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


def to_sarif(reports: Mapping[Path, HealthResults], version: str, *folders: Path) -> dict[str, Any]:
    """The bugs of some models as a SARIF 2.1.0 log, which code scanning and editors read: one result a bug, on the line to look at.

    Args:
        reports: By the config of each model, which a bug is shown beside where its line is not in the repository.
        version: Of this package.
        folders: Those that files are named from: the repository's first.
    """
    causes = [(config, cause) for config, report in reports.items() for cause in report.causes]
    names = list(dict.fromkeys(_property(cause.owner) for _, cause in causes))
    driver = {"name": "pytest-modeltiers", "version": version, "rules": [*map(_rule, names)]}
    results = [_result(cause, config, names.index(_property(cause.owner)), folders) for config, cause in causes]
    run = {"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}
    return {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}


def _property(check: CheckResult) -> str:
    return label_of(check).partition("[")[0]


def _rule(name: str) -> dict[str, Any]:
    entry = CATALOGUE.get(name)
    statement = f"{entry.statement[0].upper()}{entry.statement[1:]}." if entry is not None else f"The check {name}."
    return {"id": name, "name": name, "shortDescription": {"text": statement}, "help": {"text": statement}}


def _result(cause: Cause, config: Path, rule: int, folders: tuple[Path, ...]) -> dict[str, Any]:
    check = cause.owner
    also = f"\nAlso shows as: {also_text(cause.also)}." if cause.also else ""
    usual = f"\nUsual cause: {check.details['cause']}." if check.details.get("cause") else ""
    where = str(check.details.get("module") or "")
    # What stays the same when lines above it come and go.
    known_by = text_hash("\n".join((label_of(check), str(check.details.get("code") or ""), where, _marked(check))))
    found: dict[str, Any] = {
        "ruleId": _property(check),
        "ruleIndex": rule,
        "level": _LEVELS[cause.status],
        "message": {"text": f"{check.message}{usual}{also}"},
        "locations": [_location(check, config, folders)],
        "partialFingerprints": {"modeltiers/v1": known_by},
    }
    return found | ({"fixes": [_fix(check, folders)]} if check.fix is not None else {})


def _marked(check: CheckResult) -> str:
    return check.excerpt.marked if check.excerpt is not None else ""


def _location(check: CheckResult, config: Path, folders: tuple[Path, ...]) -> dict[str, Any]:
    excerpt = check.excerpt
    physical: dict[str, Any] = {"artifactLocation": _artifact(config, folders)}
    if excerpt is not None and excerpt.relative_to(*folders):
        last = excerpt.first + len(excerpt.lines) - 1
        physical = {
            "artifactLocation": _artifact(Path(excerpt.file), folders),
            "region": {"startLine": excerpt.line, "snippet": {"text": excerpt.marked}},
            "contextRegion": {"startLine": excerpt.first, "endLine": last, "snippet": {"text": "\n".join(excerpt.lines)}},
        }
    module = str(check.details.get("module") or "")
    logical = {"logicalLocations": [{"fullyQualifiedName": module, "kind": "member"}]} if module else {}
    return {"physicalLocation": physical, **logical}


def _artifact(file: Path, folders: tuple[Path, ...]) -> dict[str, str]:
    """A file from the repository's root where it is in it, as code scanning asks."""
    file = file.absolute()
    inside = next((file.relative_to(folder).as_posix() for folder in folders if file.is_relative_to(folder)), "")
    return {"uri": inside, "uriBaseId": _ROOT} if inside else {"uri": file.as_uri()}


def _fix(check: CheckResult, folders: tuple[Path, ...]) -> dict[str, Any]:
    fix = check.fix
    assert fix is not None
    changes = []
    for each in (fix, *fix.also):
        region = {"startLine": each.line, "endLine": each.line + len(each.old) - 1, "endColumn": len(each.old[-1]) + 1}
        replacement = {"deletedRegion": {**region, "startColumn": 1}, "insertedContent": {"text": "\n".join(each.new)}}
        changes.append({"artifactLocation": _artifact(Path(each.file), folders), "replacements": [replacement]})
    return {"description": {"text": "Tried on a copy: the property holds."}, "artifactChanges": changes}
