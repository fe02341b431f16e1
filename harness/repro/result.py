"""What came of a repro bundle."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.evidence import Status
from harness.repro.comparison import FirstDifference, MetricRow, Verdict
from harness.repro.environment import EnvironmentChange
from harness.wording import aligned, and_others, counted, six_digits

_WRONG = (Verdict.DIFFERENT, Verdict.MISSING)


@dataclass(frozen=True)
class Code:
    """Something that a rerun would run.

    Attributes:
        name: A file of the bundle, or what the config asks for.
        sha256: Of the file; empty for what is no file.
    """

    name: str
    sha256: str = ""

    def to_json(self) -> dict[str, str]:
        """As JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class ReproResult:
    """What came of a repro bundle.

    Attributes:
        title: The run, as ``run 3 (name)``.
        code: What of the bundle a rerun runs.
        rows: The metrics of run and rerun; empty where nothing was run.
        changes: What differs in the environment.
        parted: Where the curves part first; ``None`` where they do not.
        folder: Where the run was rebuilt; ``None`` where nothing was run.
        notes: What the bundle's maker noted.
    """

    title: str
    code: tuple[Code, ...] = ()
    rows: tuple[MetricRow, ...] = ()
    changes: tuple[EnvironmentChange, ...] = ()
    parted: FirstDifference | None = None
    folder: Path | None = None
    notes: tuple[str, ...] = ()

    @property
    def status(self) -> Status:
        """The worst that was found.

        ``ok`` where every metric came out the same; ``warn`` where they are as close as another environment allows, where curves part in the
        same environment though they end the same, and where nothing was run; ``fail`` where a metric came out otherwise or none did.
        """
        verdicts = {row.verdict for row in self.rows} - {Verdict.NOT_JUDGED}
        if self.folder is None:
            return Status.WARN
        if not verdicts or verdicts & {*_WRONG}:
            return Status.FAIL
        return Status.WARN if Verdict.CLOSE in verdicts or self._wandered else Status.OK

    @property
    def _wandered(self) -> bool:
        """Whether something is left to chance, though the last values do not show it."""
        return self.parted is not None and not self.changes

    @property
    def headline(self) -> str:
        """The result in a sentence."""
        if self.folder is None:
            return f"{self.title}: all hashes match; nothing was run because the bundle contains code: read it, then run with --trust"
        judged = [row for row in self.rows if row.verdict is not Verdict.NOT_JUDGED]
        wrong = [row.metric for row in judged if row.verdict in _WRONG]
        if not judged:
            return f"{self.title}: the rerun has no metric to compare"
        if wrong:
            first = f"; first difference: {self.parted}" if self.parted else ""
            return f"{self.title} was not reproduced: other values of {wrong[0]}{and_others(len(wrong) - 1, 'metric')}{first}"
        if self._wandered:
            return f"{self.title} ends with the same metrics but differs on the way, so something in it is random: {self.parted}"
        if self.status is Status.WARN:
            return f"{self.title} was reproduced as closely as a different environment allows"
        return f"{self.title} was reproduced: {counted(len(judged), 'metric')}, equal to the bit"

    def to_json(self) -> dict[str, Any]:
        """The result as JSON values."""
        return {
            "status": self.status.value,
            "message": self.headline,
            "metrics": [row.to_json() for row in self.rows],
            "environment_changes": [change.to_json() for change in self.changes],
            "first_difference": self.parted and self.parted.to_json(),
            "code": [code.to_json() for code in self.code],
            "folder": self.folder and str(self.folder),
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        """The result for people."""
        parts = [self.headline]
        if self.folder is None and self.code:
            parts.append(aligned([["CODE", "SHA256"], *([code.name, code.sha256] for code in self.code)]))
        if self.rows:
            rows = [[row.metric, six_digits(row.then), six_digits(row.now), row.verdict.value] for row in self.rows]
            parts.append(aligned([["METRIC", "THEN", "NOW", ""], *rows]))
        if self.changes:
            parts.append(aligned([["ENVIRONMENT", "THEN", "NOW"], *([c.name, c.then, c.now] for c in self.changes)]))
        if self.notes:
            parts.append("\n".join(f"note: {note}" for note in self.notes))
        if self.folder is not None:
            parts.append(f"rebuilt in {self.folder}")
        return "\n\n".join(parts)
