"""A function called in the isolated process: what it returned or raised, and what was refused."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.isolation import Channel
from harness.isolation.process import IsolatedProcess
from harness.isolation.sandbox import Attempt, Guard, Limits


@dataclass(frozen=True)
class Isolated:
    """What came of a function that was run in isolation.

    Attributes:
        value: What it returned.
        error: What it raised, in one line; empty where it returned.
        attempts: What was refused.
        layers: The sandbox layers that were active.
    """

    value: Any
    error: str
    attempts: list[Attempt]
    layers: list[str]


def run_isolated(
    function: str,
    argument: Any,
    *,
    own: Sequence[Path] = (),
    reads: Sequence[Path] = (),
    preload: Sequence[str] = (),
    limits: Limits | None = None,
    seconds: float = 120.0,
) -> Isolated:
    """Calls a function in a sandboxed process.

    Args:
        function: ``module:function``, which takes the argument and returns something JSON-ready.
        argument: JSON-ready.
        own: Folders of the code that is not trusted.
        reads: Files and folders that it may read, in addition to Python, its packages, ``sys.path`` and the folders of the code.
        preload: Modules that are imported before the guard is there.
        limits: What it may use up.
        seconds: How long it may take.

    Raises:
        IsolationError: The process could not be started, died, or took too long.
    """
    asked = {"function": function, "argument": argument}
    with IsolatedProcess("isolated_call:answer", asked, own=own, reads=reads, preload=preload, limits=limits) as process:
        found = process.receive(seconds)
        attempts = [Attempt(**attempt) for attempt in found["attempts"]]
        return Isolated(found["value"], str(found["error"]), attempts, process.layers)


def answer(argument: dict[str, Any], channel: Channel, guard: Guard) -> None:
    """Calls a function with one argument, and sends what it returns or raises."""
    message: dict[str, Any] = {"value": None, "error": ""}
    try:
        message["value"] = _function(argument["function"])(argument["argument"])
    except (Exception, SystemExit) as error:
        message["error"] = _raised(error)
    channel.send({**message, "attempts": [attempt.to_json() for attempt in guard.taken()]})


def _raised(error: BaseException) -> str:
    """``ValueError: too small (model.py, line 7)``: an exception and where it was raised."""
    said = next(iter(str(error).strip().splitlines()), "no message")
    places = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(places[-1].filename).name}, line {places[-1].lineno})" if places else ""
    return f"{type(error).__name__}: {said}{place}"


def _function(name: str) -> Callable[[Any], Any]:
    module, _, attribute = name.partition(":")
    found: Callable[[Any], Any] = getattr(importlib.import_module(module), attribute)
    return found
