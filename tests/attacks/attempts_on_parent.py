"""Attempts of the isolated process on the one that asks it: answers that are none, bytes that are no message, a process that does not read.

An attempt is through where what was sent is taken for an answer.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.evidence import Evidence, Status
from harness.excerpts import Excerpt
from harness.isolation import Channel
from harness.wording import visible
from pytest_modeltiers.isolated import reports_of
from pytest_modeltiers.isolated_child import NonsenseError, read_answer, read_started

TEST = "TestTier1::test_gradient_flow"
LAYERS = [{"name": "head", "count": 8, "trainable": True, "shape": [2, 4], "rms": 0.1, "grad_rms": 0.2}]

EXCERPT = {"file": "model.py", "line": 3, "first": 2, "lines": ["x", "y"]}


def answer() -> dict[str, Any]:
    """A sound one."""
    evidence = Evidence(
        "gradient_flow",
        Status.FAIL,
        "no gradient",
        1.0,
        0.0,
        details={"layers": LAYERS},
        place="model.py:3",
        code="none",
        excerpt=Excerpt("model.py", 3, 2, ("x", "y")),
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
    ("\x1b[2J\n::error::forged",): ["x"],
    (*CALL, "finding", "\x1b[2J\n"): ["x"],
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
    (*EVIDENCE, "excerpt"): [
        "x",
        [1],
        {"file": 3},
        {**EXCERPT, "lines": 3},
        {**EXCERPT, "line": 10**5000},
        {**EXCERPT, "more": 1},
    ],
    (*EVIDENCE, "fix"): ["x", {"file": "x"}, {"file": "x", "line": 1, "old": [1], "new": []}],
    (*EVIDENCE, "investigate"): ["os.system"],
    (*EVIDENCE, "place"): [None, 3],
    (*EVIDENCE, "code"): [None, 3],
}
WRONG = [(path, value) for path, values in PLACES.items() for value in values]


STARTS = (None, 3, [], {"error": 3}, {"model": None}, {"refused": "x"}, {"more": 1})
SENT = (b"\n", b"{\n", b"nonsense\n", b"[" * 60_000 + b"\n", b"\xff\xfe\n", b"9" * 10_000 + b"\n", b'"\\ud800\n', b"[1, 2\n")


def run() -> dict[str, str]:
    """How each attempt ended."""
    ends = {}
    for number, (path, value) in enumerate(WRONG):
        message = copy.deepcopy(answer())
        if path:
            at(*path)(message, value)
        ends[f"parent::answer_{number}_{visible('.'.join(map(str, path)))}"] = _end_of(read, message if path else value)
    for number, started in enumerate(STARTS):
        ends[f"parent::start_{number}"] = _end_of(read_started, started)
    for number, sent in enumerate(SENT):
        ends[f"parent::bytes_{number}"] = _end_of(_receive, sent)
    return {**ends, "parent::closed": _end_of(_receive, b""), "parent::does_not_read": _end_of(_send, None)}


def _receive(sent: bytes) -> Any:
    reading, writing = os.pipe()
    channel = Channel(reading, os.dup(writing))
    os.write(writing, sent)
    os.close(writing)
    try:
        return channel.receive(0.2) if sent else _closed(channel)
    finally:
        channel.close()


def _closed(channel: Channel) -> Any:
    """Nobody else has the end that is written to, once this side closes its own."""
    return channel.receive(0.05)


def _send(_nothing: None) -> None:
    reading, writing = os.pipe()
    channel = Channel(os.dup(reading), writing)
    try:
        channel.send("x" * 2**20, timeout=0.05)
    finally:
        os.close(reading)
        channel.close()


def _end_of(use: Callable[[Any], Any], value: Any) -> str:
    try:
        use(value)
    except NonsenseError as error:
        return f"validation: {error}" if visible(str(error)) == str(error) else "through"
    except (ValueError, EOFError, TimeoutError) as error:  # which the process turns into one line
        return f"channel: {type(error).__name__}"
    return "through"
