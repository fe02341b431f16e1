"""The other side of ``isolated.py``: pytest in the isolated process, which runs the tests it is asked for, and the messages it answers with.

What that process sends is a stranger's: ``isolated.py`` has each message validated whole.
"""

from __future__ import annotations

import json
import math
from collections.abc import Generator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

import pytest
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model, field_validator, model_validator

from harness.errors import IsolationError
from harness.evidence import Evidence
from harness.wording import visible
from pytest_modeltiers.hooks import SELECTED

if TYPE_CHECKING:
    from harness.isolation import Channel
    from harness.isolation.sandbox import Attempt, Guard
    from pytest_modeltiers.suite import Suite


def serve(argument: dict[str, Any], channel: Channel, guard: Guard) -> None:
    """Runs the tests of a config that are asked for.

    Args:
        argument: ``config``, its path; ``update``, keys that are otherwise here; ``arguments`` of pytest.
        channel: Where tests are asked for, and reports are sent.
        guard: What refuses.
    """
    plugin = _Server(Path(argument["config"]), argument["update"], channel, guard)
    pytest.main(["--model-config", argument["config"], *argument["arguments"]], plugins=[plugin])
    if not plugin.has_answered:
        channel.send({"error": "; ".join(plugin.problems) or "pytest collected nothing"})


class _Server:
    """Takes the place of pytest's loop over the tests."""

    def __init__(self, path: Path, update: dict[str, Any], channel: Channel, guard: Guard) -> None:
        self.path = path
        self.update = update
        self.channel = channel
        self.guard = guard
        self.problems: list[str] = []
        self.has_answered = False
        self._reports: list[dict[str, Any]] = []
        self._seen: list[Attempt] = []
        self._needed: list[Attempt] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self, session: pytest.Session) -> None:
        """Puts in place what only the other side could find out, before the model is built."""
        session.config.stash[SELECTED] = frozenset()  # the other side selects
        suite = self._suite()
        # Goes into the cache, which is ours.
        export = suite.config.export and suite.config.export.model_copy(update={"export_dir": None})
        suite.config = suite.config.model_copy(update=self.update | {"export": export})

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Keeps what kept the tests from being collected."""
        if report.failed:
            self.problems.append(report.longreprtext.strip())

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Answers until nobody asks any more."""
        if self.problems:
            return True
        tests = {item.nodeid.partition("::")[2]: item for item in session.items}
        self.has_answered = True
        self.channel.send({"refused": self._refused(), "model": self._suite().source.origin})
        while True:
            try:
                asked = self.channel.receive()
            except EOFError:
                return True
            self._reports, self._seen = [], []
            wanted = str(asked["test"])
            session.config.stash[SELECTED] = frozenset(asked["selected"])
            if wanted in tests:
                tests[wanted].config.hook.pytest_runtest_protocol(item=tests[wanted], nextitem=None)
            self.channel.send({"test": wanted, "outcomes": self._reports})

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Adds what was refused; a check that needs what isolation refuses to everybody is skipped, as it says nothing of the model."""
        report = yield
        about = getattr(report, "modeltiers", None)
        if about is not None and report.when == "call":
            about["refused"] = self._refused()
            self._needed += [attempt for attempt in self._seen if not attempt.own]
            said = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
            if not report.passed and (needed := self._reason(said)):
                _skip(report, f"isolation refuses what this check needs: it {needed}")
        return report

    def _refused(self) -> list[str]:
        """What was refused to the model's own code since the test began."""
        self._seen += self.guard.taken()
        return [str(attempt) for attempt in self._seen if attempt.own]

    def _reason(self, failure: str) -> str:
        """What was refused to code that is not the model's, now or in a test before, where a failure quotes it; empty otherwise."""
        quoted = (attempt.what for attempt in self._needed if f"refused by isolation: the code {attempt.what}" in failure)
        return next(quoted, "")

    def _suite(self) -> Suite:
        from pytest_modeltiers.suite import Suite

        return Suite.of(self.path)

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keeps a report for the other side."""
        self._reports.append(as_outcome(report))


def _skip(report: pytest.TestReport, reason: str) -> None:
    report.outcome = "skipped"
    report.longrepr = (str(report.location[0]), report.location[1] or 0, f"Skipped: {reason}")
    report.user_properties[:] = [("modeltiers_status", "skipped"), ("modeltiers_message", reason)]
    report.modeltiers["finding"] = {}  # type: ignore[attr-defined]


_LONGEST = 200_000
_MOST = 1000


class _Message(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class _Layer(BaseModel):
    """A row of the table of parameters, as the report draws it."""

    model_config = ConfigDict(strict=True, extra="allow")

    name: str
    count: int = Field(ge=0, lt=2**63)
    trainable: bool
    shape: list[int] | str | None = None
    rms: float | None = None
    grad_rms: float | None = None


def _json_fields(kind: type) -> dict[str, Any]:
    """The fields of a dataclass as pydantic takes them, so that a new one need not be written down here."""
    hints = get_type_hints(kind)
    given = {field.name: field for field in fields(kind) if field.name not in ("investigate", "status")}
    return {name: (hints[name], ... if name in ("name", "message") else _default(field)) for name, field in given.items()}


def _default(field: Any) -> Any:
    return field.default if field.default is not MISSING else Field(default_factory=field.default_factory)


_EvidenceFields = create_model("_EvidenceFields", __base__=_Message, **_json_fields(Evidence))


class _Evidence(_EvidenceFields):  # type: ignore[valid-type,misc]
    """``Evidence`` as JSON."""

    status: Literal["ok", "warn", "fail", "skipped"]

    @model_validator(mode="after")
    def _has_usable_details(self) -> _Evidence:
        if self.name == "gradient_flow":
            TypeAdapter(list[_Layer]).validate_python(self.details.get("layers") or [])
        metrics = self.details.get("eval_metrics") or {}
        if not isinstance(metrics, dict) or not all(isinstance(name, str) for name in metrics):
            raise ValueError("eval_metrics are names with values")
        return self


class _Finding(_Message):
    """A judge's verdict."""

    property: str = ""
    statement: str = ""
    evidence: _Evidence | None = None
    examples: int = Field(0, ge=0, lt=2**63)
    cut: bool = False
    forwards: int = Field(0, ge=0, lt=2**63)
    rows: int = Field(0, ge=0, lt=2**63)
    blocks: str = ""


class Outcome(_Message):
    """One phase of a test.

    Attributes:
        when: The phase.
        outcome: How it ended.
        said: What it failed with, or why it was skipped.
        headline: Of a failure that is an exception, what it said.
        duration: Seconds.
        sections: What was captured, by heading.
        properties: What the test recorded for JUnit.
        finding: The judge's verdict, as it was sent.
        refused: What was refused to the model's code meanwhile.
    """

    when: Literal["setup", "call", "teardown"]
    outcome: Literal["passed", "failed", "skipped"]
    said: str = ""
    headline: str = ""
    duration: float = Field(0.0, ge=0)
    sections: list[list[str]] = Field(default_factory=list, max_length=_MOST)
    properties: list[list[str | int | float | bool | None]] = Field(default_factory=list, max_length=_MOST)
    finding: dict[str, Any] = Field(default_factory=dict)
    refused: list[str] = Field(default_factory=list, max_length=_MOST)

    @field_validator("finding")
    @classmethod
    def _is_a_finding(cls, finding: dict[str, Any]) -> dict[str, Any]:
        _Finding.model_validate_json(json.dumps(finding))
        return finding

    @field_validator("duration")
    @classmethod
    def _is_a_time(cls, duration: float) -> float:
        if not math.isfinite(duration):
            raise ValueError("not a time")
        return duration

    @field_validator("sections", "properties")
    @classmethod
    def _are_pairs(cls, pairs: list[list[Any]]) -> list[list[Any]]:
        if any(len(pair) != 2 or not isinstance(pair[0], str) for pair in pairs):
            raise ValueError("not pairs of a name and a value")
        return pairs


class Answer(_Message):
    """How one test ended: its phases, each once and in their order."""

    test: str
    outcomes: list[Outcome] = Field(min_length=1, max_length=3)

    @model_validator(mode="after")
    def _phases_are_in_order(self) -> Answer:
        phases = [("setup", "call", "teardown").index(outcome.when) for outcome in self.outcomes]
        if phases != sorted(set(phases)):
            raise ValueError("phases of a test come once, and in their order")
        return self


class Started(_Message):
    """The model was built, or what kept it from being built."""

    error: str = ""
    model: str = ""
    refused: list[str] = Field(default_factory=list, max_length=_MOST)


def read_started(message: Any) -> Started:
    """The first message.

    Raises:
        IsolationError: It is none.
    """
    return _read(Started, message)


def read_answer(message: Any, test: str) -> Answer:
    """The answer to the question for one test.

    Raises:
        IsolationError: It is none, or that to another question.
    """
    answer = _read(Answer, message)
    if answer.test != test:
        raise NonsenseError("the isolated process answered nonsense: the result of another test")
    return answer


class NonsenseError(IsolationError):
    """What was answered is none of the messages above, which code of this project always sends."""


def as_outcome(report: pytest.TestReport) -> dict[str, Any]:
    """A report as the other side sends it."""
    about = getattr(report, "modeltiers", {})
    crash = getattr(report.longrepr, "reprcrash", None)
    said = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
    recorded = [[name, value] for name, value in report.user_properties if not name.startswith("modeltiers_")]
    return {
        "when": report.when,
        "outcome": report.outcome,
        "said": str(said)[-_LONGEST:],
        "headline": str(crash.message)[:_LONGEST] if crash else "",
        "duration": max(0.0, report.duration),
        "sections": [[heading, content[-_LONGEST:]] for heading, content in report.sections],
        "properties": [[name, value if isinstance(value, (int, float, bool)) else str(value)] for name, value in recorded],
        "finding": _without_paths(about.get("finding", {})),
        "refused": about.get("refused", []),
    }


def _without_paths(finding: dict[str, Any]) -> dict[str, Any]:
    """A finding without the path of an exported file, which goes away with the folder of this process."""
    evidence = finding.get("evidence") or {}
    details = {name: value for name, value in evidence.get("details", {}).items() if name != "path"}
    return {**finding, "evidence": {**evidence, "details": details}} if evidence else finding


def _read(kind: type[Any], message: Any) -> Any:
    try:
        return kind.model_validate_json(json.dumps(message))  # lists stand for tuples, and objects for dataclasses
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part)[:40] for part in first["loc"])
        raise NonsenseError(visible(f"the isolated process answered nonsense ({place}: {first['msg'][:200]})")) from None
