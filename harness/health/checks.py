"""The checks of one model and what follows: causes (one bug, one card), score, grade, and what to do."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from functools import lru_cache
from typing import Any, Literal, get_args

from harness.catalogue import CATALOGUE
from harness.documents import strict_json
from harness.errors import did_you_mean
from harness.excerpts import Excerpt, Fix
from harness.health.comparison import Comparison
from harness.owners import REFERS
from harness.wording import counted

CheckStatus = Literal["passed", "warning", "failed"]

_SEVERITY: dict[CheckStatus, int] = {"passed": 0, "warning": 1, "failed": 2}
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")
_CODE = re.compile(r"`[^`]*`")
_DTYPE = re.compile(r"(?:c10::|torch\.)?\b(?:bfloat16|float16|float32|float64|half|double|float)\b", re.IGNORECASE)
_TIERS_WITH_FIXES = (1, 2, 3)
"""Tiers whose findings are tried with the changes that mended others."""

_SAYS_WHY = ("reshaped_axes",)
"""Properties that say what is wrong on a line, where others say what follows from it."""

_WHERE = re.compile(r" \((?:first seen in )?[^()]*\)$")


@dataclass(frozen=True)
class CheckResult:
    """One check.

    Attributes:
        check_name: Unique name, such as ``tier1::causal`` or ``onnx_validation``.
        status: The verdict.
        message: One sentence.
        details: JSON-ready facts. Those with a meaning to the report: ``tier`` (int), ``nodeid``, ``property``, ``code``, ``statement``,
            ``counterexample``, ``module``, ``place`` (file and line), ``excerpt`` and ``fix`` (see
            ``harness.evidence``), ``script`` (Python that shows it), ``cause``, ``comparison``, ``examples`` (how many inputs were tried),
            ``plots`` (see ``harness.charts.pictures``), which are drawn where the check failed or warned.
        duration_seconds: How long it took.
        recommendation: What to do about a failure or a warning.
    """

    check_name: str
    status: CheckStatus
    message: str
    details: dict[str, Any] = field(default_factory=dict)
    duration_seconds: float = 0.0
    recommendation: str = ""

    def __post_init__(self) -> None:
        """Refuses a status that does not exist.

        Raises:
            ValueError: Neither passed, warning nor failed.
        """
        valid = get_args(CheckStatus)
        if self.status not in valid:
            told = f"status of check {self.check_name!r} is {self.status!r}; expected one of {', '.join(valid)}."
            raise ValueError(told + did_you_mean(str(self.status), valid))

    @property
    def excerpt(self) -> Excerpt | None:
        """The lines of code to look at."""
        return Excerpt.from_json(self.details.get("excerpt"))

    @property
    def fix(self) -> Fix | None:
        """A change of the code with which the property was seen to hold."""
        return Fix.from_json(self.details.get("fix"))


@dataclass(frozen=True)
class SkippedCheck:
    """A check that could not run here."""

    check_name: str
    reason: str
    tier: int | None = None


@dataclass(frozen=True)
class Cause:
    """A bug.

    Attributes:
        owner: The check that says what it is.
        also: Other checks that are red because of it.
    """

    owner: CheckResult
    also: tuple[CheckResult, ...] = ()

    @property
    def status(self) -> CheckStatus:
        """Failed where its owner is."""
        return self.owner.status

    @property
    def unmended(self) -> str:
        """What follows "the property holds" where other tests about that line were not seen to hold with the change that is offered."""
        if self.owner.fix is None:
            return ""
        tried = (each for each in self.also if each.details.get("tier") in _TIERS_WITH_FIXES and _on_one_line(each, self.owner))
        left = also_text(each for each in tried if each.fix != self.owner.fix)
        return f"; not seen of {left}, about the same line" if left else ""


def causes_of(checks: Sequence[CheckResult]) -> list[Cause]:
    """The failed and warned checks, grouped by cause: failures first, otherwise in the order of their owners.

    A check goes under another one when

    - its message refers to it, ``(see causal)``, or both refer to a third one that is not red,
    - the catalogue says that its property is owned by the other's, and both blame the same module or line, or one of them blames none, or
    - both say the same of the same module, in the same words, or as cases of one property that differ in numbers and names only,
    - both name the same line, and the other is of an earlier tier, or says why where this one says what follows,
    - the same change of the code fixes both, or
    - both say of the same parameter that it receives no gradient.
    """
    red = sorted((check for check in checks if check.status != "passed"), key=lambda check: -_SEVERITY[check.status])
    owners: dict[int, CheckResult] = {}

    def root(check: CheckResult) -> CheckResult:
        while id(check) in owners:
            check = owners[id(check)]
        return check

    for check in red:
        owner = _owner(check, red)
        if owner is not None and root(owner) is not check:  # two that refer to each other stay two
            owners[id(check)] = owner
    shown: dict[int, list[CheckResult]] = {id(check): [] for check in red if id(check) not in owners}
    for check in red:
        if id(check) in owners:
            shown[id(root(check))].append(check)
    return [Cause(check, tuple(shown[id(check)])) for check in red if id(check) in shown]


def label_of(check: CheckResult) -> str:
    """The property with its case, ``finite_output[extremes]``: the name of a check without its tier."""
    return check.check_name.rpartition("::")[2]


def also_text(also: Iterable[CheckResult]) -> str:
    """The names of the other checks that a bug shows as."""
    return ", ".join(map(label_of, also))


def _owner(check: CheckResult, red: Sequence[CheckResult]) -> CheckResult | None:
    for name in REFERS.findall(check.message):
        for other in _others(check, red, name):
            return other
        # The one they refer to did not run, or is not red here: the first that refers to it stands for the bug.
        first = next(other for other in red if f"(see {name})" in other.message)
        if first is not check:
            return first
    prop, case = _split(check)
    entry = CATALOGUE.get(prop)
    for name in entry.owners(case) if entry is not None else ():
        for other in _others(check, red, name):
            if _agree(check, other):
                return other
    line = _line_of(check)
    for other in red if line else ():
        if other is not check and _line_of(other) == line and _explains_its_line(check, other):
            return other
    first = next((other for other in red if _says_the_same(check, other)), check)
    return None if first is check else first


def _others(check: CheckResult, red: Sequence[CheckResult], name: str) -> list[CheckResult]:
    """The red checks of a property or a case that are no less severe than a check."""
    return [
        other
        for other in red
        if other is not check and name in _names_of(other.check_name) and _SEVERITY[other.status] >= _SEVERITY[check.status]
    ]


@lru_cache(maxsize=4096)
def _names_of(check_name: str) -> tuple[str, str]:
    """What a test is called by: its label, and its property."""
    label = check_name.rpartition("::")[2]
    return label, label.partition("[")[0]


def _agree(check: CheckResult, other: CheckResult) -> bool:
    modules = {_module(check), _module(other)} - {""}
    return len(modules) < 2 or _on_one_line(check, other)


def _says_the_same(check: CheckResult, other: CheckResult) -> bool:
    fix, blamed = check.details.get("fix"), _module(check)
    if (fix and fix == other.details.get("fix")) or _lack_the_same_gradient(check, other):
        return _SEVERITY[other.status] >= _SEVERITY[check.status]
    if check.status != other.status or blamed != _module(other):
        return False
    (name, case), (other_name, other_case) = _split(check), _split(other)
    return check.message == other.message or (
        name == other_name and _kind(check.message, case, bool(blamed)) == _kind(other.message, other_case, bool(blamed))
    )


def _line_of(check: CheckResult) -> tuple[str, int] | None:
    """File and line that a check names; read from a thousand checks a thousand times."""
    excerpt = check.details.get("excerpt")
    return (excerpt["file"], excerpt["line"]) if excerpt else None


def _explains_its_line(check: CheckResult, other: CheckResult) -> bool:
    """Whether another check of an earlier tier names the line that a check names, or one that says why; two others of a tier may be two bugs."""
    says_why = _split(other)[0] in _SAYS_WHY and _split(check)[0] not in _SAYS_WHY
    is_later = (check.details.get("tier") or 0) > (other.details.get("tier") or 0) > 0
    return (says_why or is_later) and _on_one_line(check, other) and _SEVERITY[other.status] >= _SEVERITY[check.status]


def _on_one_line(check: CheckResult, other: CheckResult) -> bool:
    """Whether two checks name the same line; that of a whole function or class tells nothing."""
    one, another = check.excerpt, other.excerpt
    if one is None or another is None or one.marked.startswith(("def ", "class ")):
        return False
    return (one.file, one.line) == (another.file, another.line)


def _lack_the_same_gradient(check: CheckResult, other: CheckResult) -> bool:
    if not {check.details.get("code"), other.details.get("code")} <= {"no_gradient", "parameter_without_gradient"}:
        return False
    return any(f"`{_module(one)}`" in another.message for one, another in ((check, other), (other, check)) if _module(one))


@lru_cache(maxsize=4096)
def _kind(message: str, case: str, blames: bool) -> str:
    """A message without what differs from case to case: the case, numbers, dtypes, where it was seen and, where a module is blamed, names.

    Kept, as each finding is compared with all that came before it.
    """
    text = _WHERE.sub("", message)
    text = re.sub(rf"\b{re.escape(case)}\b", "…", text) if case else text
    text = _CODE.sub("`…`", text) if blames else text
    text = _DTYPE.sub("…", text)
    return _NUMBER.sub("#", text)


def _module(check: CheckResult) -> str:
    return str(check.details.get("module") or "")


def _split(check: CheckResult) -> tuple[str, str]:
    name, _, case = label_of(check).rstrip("]").partition("[")
    return name, case


_GRADES = {"A": 95, "B": 80, "C": 60}
"""The least score of each grade."""

_ORDER: tuple[CheckStatus, ...] = ("failed", "warning", "passed")


@dataclass
class HealthResults:
    """The checks of one model.

    Attributes:
        model_name: Name for people.
        model_facts: Facts for the report's head, label to text.
        coverage: How much of the suite ran, as a sentence; empty when all of it did.
        is_selection: Whether tests of the suite were left out, so that no grade can be given.
        skipped: Checks that did not run, with the reason.
        environment: Where and how it ran: what ``harness.provenance.surroundings`` says, ``device``, ``seed``, ``workers``, ``seconds``.
        config: The config with its defaults, without secrets.
        comparison: What has changed since the last run, where there was one.
        earlier: Earlier runs, the newest first: ``timestamp``, ``commit``, ``grade``, ``health_score``, ``problems``, ``seconds``.
        layers: Per-parameter facts for the plots: ``{"name", "shape", "count", "mean", "std", "rms", "grad_rms", "trainable"}``.
    """

    model_name: str
    timestamp: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))
    checks: list[CheckResult] = field(default_factory=list)
    skipped: list[SkippedCheck] = field(default_factory=list)
    model_facts: dict[str, str] = field(default_factory=dict)
    coverage: str = ""
    layers: list[dict[str, Any]] = field(default_factory=list)
    is_selection: bool = False
    environment: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    comparison: Comparison | None = None
    earlier: list[dict[str, Any]] = field(default_factory=list)

    def add_check(self, check: CheckResult) -> None:
        """Adds a check."""
        self.checks.append(check)

    def get_failed_checks(self) -> list[CheckResult]:
        """The checks that failed."""
        return [check for check in self.checks if check.status == "failed"]

    def worst_first(self) -> list[CheckResult]:
        """The checks, failures first, then warnings, otherwise in the order they were added."""
        return sorted(self.checks, key=lambda check: _ORDER.index(check.status))

    @property
    def summary(self) -> dict[str, int]:
        """How many checks there are of each status."""
        count = {status: sum(check.status == status for check in self.checks) for status in _ORDER}
        return {"total": len(self.checks), "passed": count["passed"], "warnings": count["warning"], "failed": count["failed"]}

    @property
    def changed_features(self) -> str:
        """``7 of 15 features``: how many of the monitored data changed; empty where none did, or no data was compared."""
        drift = [check.details.get("facts", {}) for check in self.checks if check.details.get("property") == "drift"]
        statuses = [feature["status"] for facts in drift for feature in facts.get("features", ())]
        changed = sum(status in ("warn", "fail") for status in statuses)
        return f"{changed:,} of {counted(len(statuses), 'feature')}" if changed else ""

    @property
    def health_score(self) -> float:
        """``(passed + 0.5 * warnings) / total * 100``, one decimal; 0 when nothing was checked."""
        counts = self.summary
        return round((counts["passed"] + 0.5 * counts["warnings"]) / counts["total"] * 100, 1) if counts["total"] else 0.0

    @property
    def grade(self) -> str:
        """``A`` to ``F``; empty when nothing was checked, or only a selection.

        The score's letter (A from 95, B from 80, C from 60, else D), but no better than the worst finding allows: B with a warning, D
        with a failure, F with a failure of a critical property.
        """
        if not self.checks or self.is_selection:
            return ""
        if self.fails_critically:
            return "F"
        worst = "D" if self.get_failed_checks() else "B" if self.summary["warnings"] else "A"
        by_score = next((letter for letter, least in _GRADES.items() if self.health_score >= least), "D")
        return max(worst, by_score)

    @property
    def fails_critically(self) -> bool:
        """Whether a critical property failed: one of tier 1, or a check that belongs to no tier."""
        return any(check.details.get("tier", 1) == 1 for check in self.get_failed_checks())

    @property
    def causes(self) -> list[Cause]:
        """What failed or warned, one entry a bug, failures first; see ``harness.health.checks``."""
        return causes_of(self.checks)

    @property
    def all_passed(self) -> bool:
        """Whether something was checked and nothing failed."""
        return bool(self.checks) and not self.get_failed_checks()

    @property
    def recommendations(self) -> list[str]:
        """What to do, once each, worst first; the last one is to review the warnings, where there are any."""
        warned = [f"`{check.check_name}`" for check in self.checks if check.status == "warning"]
        found = [check.recommendation for check in self.worst_first() if check.recommendation]
        return list(dict.fromkeys([*found, *([f"Review the warnings: {', '.join(warned)}"] if warned else [])]))

    def to_json(self) -> dict[str, Any]:
        """The report as JSON-ready values."""
        content = {
            "timestamp": self.timestamp,
            "model_name": self.model_name,
            "summary": self.summary,
            "health_score": self.health_score,
            "grade": self.grade,
            "problems": sum(cause.status == "failed" for cause in self.causes),
            "all_passed": self.all_passed,
            "coverage": self.coverage,
            "checks": self._checks_with_causes(),
            "skipped": [asdict(check) for check in self.skipped],
            "recommendations": self.recommendations,
            "model_facts": self.model_facts,
            "environment": self.environment,
            "config": self.config,
            "since_last_run": self.comparison.to_json() if self.comparison else None,
            "layers": self.layers,
        }
        return {key: strict_json(value) for key, value in content.items()}

    def _checks_with_causes(self) -> list[dict[str, Any]]:
        """Every check; those of one cause name each other in ``also_shows_as`` and ``shown_under``."""
        told: dict[int, dict[str, Any]] = {}
        for cause in self.causes:
            if cause.also:
                told[id(cause.owner)] = {"also_shows_as": [check.check_name for check in cause.also]}
            told |= {id(check): {"shown_under": cause.owner.check_name} for check in cause.also}
        plain = [asdict(check) for check in self.checks]
        return [
            {**entry, "details": {**entry["details"], **told.get(id(check), {})}}
            for entry, check in zip(plain, self.checks, strict=True)
        ]
