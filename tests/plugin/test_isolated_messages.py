"""What an isolated process may answer: each way to answer something else ends its suite in one line, and the run goes on."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from small_models import GOOD, output

from harness.evidence import Evidence, Status
from harness.isolation import Channel
from pytest_modeltiers.isolated import reports_of
from pytest_modeltiers.isolated_messages import NonsenseError, read_answer, read_started

TEST = "TestTier1::test_gradient_flow"
LAYERS = [{"name": "head", "count": 8, "trainable": True, "shape": [2, 4], "rms": 0.1, "grad_rms": 0.2}]


def answer() -> dict[str, Any]:
    """A sound one."""
    evidence = Evidence(
        "gradient_flow", Status.FAIL, "no gradient", 1.0, 0.0, details={"layers": LAYERS}, place="model.py:3", code="none"
    )
    finding = {"property": "gradient_flow", "evidence": evidence.to_json(), "examples": 3, "cut": False, "forwards": 2, "rows": 4}
    call = {
        "when": "call",
        "outcome": "failed",
        "said": "no gradient",
        "duration": 0.5,
        "sections": [["Captured stdout call", "hello\n"]],
    }
    around = {"outcome": "passed", "duration": 0.1}
    return {"test": TEST, "outcomes": [{"when": "setup", **around}, {**call, "finding": finding}, {"when": "teardown", **around}]}


def read(message: Any) -> list[pytest.TestReport]:
    """The reports as the plugin has them."""
    nodeid = f"cfg.json::{TEST}"
    item: Any = SimpleNamespace(nodeid=nodeid, location=("cfg.json", 0, "x"), keywords={}, path=Path("cfg.json"))
    about = {"config": "cfg.json", "tier": 1, "finding": {}}
    return reports_of(read_answer(message, TEST), item, lambda refused: about | {"refused": refused})


def at(*path: Any) -> Callable[[Any, Any], None]:
    """Puts a value somewhere into an answer."""

    def put(message: Any, value: Any) -> None:
        for step in path[:-1]:
            message = message[step]
        message[path[-1]] = value

    return put


CALL = ("outcomes", 1)
EVIDENCE = (*CALL, "finding", "evidence")
PLACES: dict[tuple[Any, ...], list[Any]] = {
    (): [None, 1, "text", [], {}, [1, 2], {"reports": []}],
    ("test",): [None, 3, "", "TestTier1::test_another"],
    ("more",): ["x"],
    ("outcomes",): [None, [], {}, "xxx", [1], [None]],
    (*CALL, "when"): ["setup", "teardown", "collect", None, 3],
    (*CALL, "outcome"): ["ok", "warn", None, 1, []],
    (*CALL, "said"): [None, 5, ["x"], {"reprcrash": 1}],
    (*CALL, "duration"): ["1", None, -1, float("nan"), float("inf")],
    (*CALL, "sections"): ["x", [1], [["x"]], [["x", 1]], [[1, "x"]], [["a", "b", "c"]], [["a", "b"]] * 2000],
    (*CALL, "properties"): [[["x"]], [[1, "x"]], [["x", {}]]],
    (*CALL, "refused"): ["x", [1], ["x"] * 2000],
    (*CALL, "nodeid"): ["another.json::test"],
    (*CALL, "finding"): [
        None,
        [],
        "x",
        {"evidence": 3},
        {"examples": "x"},
        {"examples": -1},
        {"unknown": 1},
        {"forwards": 2**70},
    ],
    (*EVIDENCE, "status"): ["passed", None, 0],
    (*EVIDENCE, "message"): [None, 3, {}],
    (*EVIDENCE, "name"): [None, []],
    (*EVIDENCE, "measured"): ["much", {}, True],
    (*EVIDENCE, "details"): [None, [], "x"],
    (*EVIDENCE, "details", "layers"): [
        3,
        [1],
        [{}],
        [{**LAYERS[0], "count": "x"}],
        [{**LAYERS[0], "trainable": 2}],
        [{**LAYERS[0], "rms": "x"}],
    ],
    (*EVIDENCE, "details", "eval_metrics"): [[1], "x"],
    (*EVIDENCE, "investigate"): ["os.system"],
    (*EVIDENCE, "place"): [None, 3],
    (*EVIDENCE, "code"): [None, 3],
}
WRONG = [(path, value) for path, values in PLACES.items() for value in values]


def test_a_sound_answer_is_read() -> None:
    reports = read(answer())
    assert [(report.when, report.outcome) for report in reports] == [
        ("setup", "passed"),
        ("call", "failed"),
        ("teardown", "passed"),
    ]
    assert reports[1].longreprtext == "no gradient"


@pytest.mark.parametrize(("path", "value"), WRONG, ids=lambda part: str(part)[:40])
def test_any_other_is_nonsense(path: tuple[Any, ...], value: Any) -> None:
    message = copy.deepcopy(answer())
    if path:
        at(*path)(message, value)
    with pytest.raises(NonsenseError, match="answered nonsense") as raised:
        read(message if path else value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("message", [None, 3, [], {"error": 3}, {"model": None}, {"refused": "x"}, {"more": 1}])
def test_a_start_that_is_none(message: Any) -> None:
    with pytest.raises(NonsenseError):
        read_started(message)


@pytest.mark.parametrize("sent", [b"\n", b"{\n", b"nonsense\n", b"[" * 100_000 + b"\n", b"\xff\xfe\n", b"9" * 10_000 + b"\n"])
def test_bytes_that_are_no_message(sent: bytes) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    channel = Channel(reading, os.dup(writing))
    os.write(writing, sent[:60_000] + sent[60_000:][-1:] * (len(sent) > 60_000))
    with pytest.raises(ValueError):  # noqa: PT011  # of any text: it is said to be nonsense
        channel.receive(1)
    os.close(writing)
    channel.close()


def test_who_does_not_read_is_not_waited_for() -> None:
    reading, writing = os.pipe()
    channel = Channel(os.dup(reading), writing)
    with pytest.raises(TimeoutError):
        channel.send("x" * 2**20, timeout=0.1)
    os.close(reading)
    channel.close()


def test_nonsense_ends_the_suite_and_the_run_goes_on(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    project.config(only=("registration", "stateless", "causal"), isolation="process")
    project.config("other.json", only=("registration",), model=GOOD)
    sent = answer() | {"test": "TestTier1::test_registration"}
    sent["outcomes"][1]["finding"]["evidence"]["measured"] = "\x1b[2J"
    monkeypatch.setattr("pytest_modeltiers.isolated.IsolatedProcess", lambda *args, **keys: _Liar(json.dumps(sent)))

    result = project.run("--model-config", "cfg.json", "--model-config", "other.json")

    assert result.parseoutcomes() == {"failed": 1, "skipped": 2, "passed": 1}
    assert "the isolated process answered nonsense (outcomes.1.finding" in output(result)
    assert "INTERNALERROR" not in output(result)


class _Liar:
    """A process that answers whatever it likes."""

    layers = ("none",)
    is_alive = True

    def __init__(self, sent: str) -> None:
        self.sent = sent

    def receive(self, timeout: float) -> Any:
        return {"model": "x"}

    def ask(self, message: Any, timeout: float) -> Any:
        return json.loads(self.sent)

    def kill(self) -> None: ...

    def close(self) -> None: ...
