"""What was found out about a bundle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.evidence import Evidence, Status
from harness.export.bundle.manifest import MANIFEST


@dataclass(frozen=True)
class BundleReport:
    """What was found out about a bundle.

    Attributes:
        folder: The bundle.
        sha256: Of its manifest, which names those of all other files.
        findings: First the files, then each format and ``inference.py``, by these names.
    """

    folder: Path
    sha256: str
    findings: tuple[Evidence, ...]

    @property
    def status(self) -> Status:
        """The worst finding."""
        return max((finding.status for finding in self.findings), key=lambda status: status.severity)

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return self.status is not Status.FAIL

    def to_json(self) -> dict[str, Any]:
        """The report as JSON-ready values."""
        return {
            "status": self.status.value,
            "ok": self.ok,
            "bundle": str(self.folder),
            "sha256": self.sha256,
            "findings": [finding.to_json() for finding in self.findings],
        }

    def __str__(self) -> str:
        width = max(len(finding.name) for finding in self.findings)
        lines = [f"bundle {self.folder}", f"sha256 of {MANIFEST}: {self.sha256}"]
        for finding in self.findings:
            figures = f" ({finding.comparison})" if finding.comparison else ""
            lines.append(f"{finding.status.value:7}  {finding.name:{width}}  {finding.message}{figures}")
        return "\n".join(lines)
