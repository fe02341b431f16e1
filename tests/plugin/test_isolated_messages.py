"""What an isolated process may answer: nonsense ends its suite in one line; the run continues. ``tests/attacks`` has the ways to answer it."""

from __future__ import annotations

import importlib
import json
from typing import Any

import pytest
from small_models import GOOD, output


def test_nonsense_ends_the_suite_and_the_run_goes_on(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    project.config(only=("registration", "stateless", "causal"), isolation="process")
    project.config("other.json", only=("registration",), model=GOOD)
    call = {"when": "call", "outcome": "passed", "finding": {"evidence": "\x1b[2J"}}
    sent = {"test": "TestTier1::test_registration", "outcomes": [call]}
    isolated = importlib.import_module("pytest_modeltiers.isolated")  # the package may still name that of an earlier run
    monkeypatch.setattr(isolated, "IsolatedProcess", lambda *args, **keys: _Liar(json.dumps(sent)))

    result = project.run("--model-config", "cfg.json", "--model-config", "other.json")

    assert result.parseoutcomes() == {"failed": 1, "skipped": 2, "passed": 1}
    assert "the isolated process answered nonsense (outcomes.0.finding" in output(result)
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
