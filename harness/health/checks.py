"""Checks of a model, and the causes that failed ones have in common: one bug is one cause, under the check that owns it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from harness.catalogue import CATALOGUE
from harness.errors import did_you_mean
from harness.owners import REFERS

CheckStatus = Literal["passed", "warning", "failed"]

_SEVERITY: dict[CheckStatus, int] = {"passed": 0, "warning": 1, "failed": 2}
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")
_CODE = re.compile(r"`[^`]*`")
_DTYPE = re.compile(r"(?:c10::|torch\.)?\b(?:bfloat16|float16|float32|float64|half|double|float)\b", re.IGNORECASE)
_WHERE = re.compile(r" \((?:first seen in )?[^()]*\)$")


@dataclass(frozen=True)
class CheckResult:
    """One check.

    Attributes:
        check_name: Unique name, such as ``tier1::causal`` or ``onnx_validation``.
        status: The verdict.
        message: One sentence.
        details: JSON-ready facts. Those with a meaning to the report: ``tier`` (int), ``nodeid``, ``property``, ``code``, ``statement``,
            ``counterexample``, ``module``, ``place`` (file and line), ``cause``, ``comparison``, ``examples`` (how many inputs were tried),
            ``plots`` (see ``harness.charts.distributions``), which are drawn where the check failed or warned.
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


def causes_of(checks: Sequence[CheckResult]) -> list[Cause]:
    """The failed and warned checks, grouped by cause: failures first, otherwise in the order of their owners.

    A check goes under another one when

    - its message refers to it, ``(see causal)``, or both refer to a third one that is not red,
    - the catalogue says that its property is owned by the other's, and both blame the same module, or one of them blames none, or
    - both say the same of the same module, in the same words, or as cases of one property that differ in numbers and names only.
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
    first = next((other for other in red if _says_the_same(check, other)), check)
    return None if first is check else first


def _others(check: CheckResult, red: Sequence[CheckResult], name: str) -> list[CheckResult]:
    """The red checks of a property or a case that are no less severe than a check."""
    return [
        other
        for other in red
        if other is not check
        and name in (label_of(other), _split(other)[0])
        and _SEVERITY[other.status] >= _SEVERITY[check.status]
    ]


def _agree(check: CheckResult, other: CheckResult) -> bool:
    modules = {_module(check), _module(other)} - {""}
    return len(modules) < 2


def _says_the_same(check: CheckResult, other: CheckResult) -> bool:
    if check.status != other.status or _module(check) != _module(other):
        return False
    return check.message == other.message or (_split(check)[0] == _split(other)[0] and _kind(check) == _kind(other))


def _kind(check: CheckResult) -> str:
    """The message without what differs from case to case: the case, numbers, dtypes, where it was seen and, where a module is blamed, names."""
    text = _WHERE.sub("", check.message)
    case = _split(check)[1]
    text = re.sub(rf"\b{re.escape(case)}\b", "…", text) if case else text
    text = _CODE.sub("`…`", text) if _module(check) else text
    text = _DTYPE.sub("…", text)
    return _NUMBER.sub("#", text)


def _module(check: CheckResult) -> str:
    return str(check.details.get("module") or "")


def _split(check: CheckResult) -> tuple[str, str]:
    name, _, case = label_of(check).rstrip("]").partition("[")
    return name, case
