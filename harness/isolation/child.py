"""What runs in the isolated process: first the sandbox, then what was asked for."""

from __future__ import annotations

import ctypes  # noqa: F401  # loads a library on import, which is refused later
import importlib
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.isolation import Channel
from harness.isolation.kernel import apply_kernel_walls, system_folders
from harness.isolation.sandbox import Guard, Limits


def main() -> None:
    """Reads a job from the parent, applies the sandbox, and does the job."""
    channel = Channel(int(sys.argv[1]), int(sys.argv[2]))
    job = channel.receive()
    folder = Path(job["folder"])
    sys.path.extend(entry for entry in job["sys_path"] if entry not in sys.path)
    readable = [*job["readable"], *system_folders()]
    layers = apply_kernel_walls(folder, readable, job["parent"])
    for module in job["preload"]:
        importlib.import_module(module)
    Limits(**job["limits"]).apply()
    target = _target(job["target"])
    guard = Guard(folder, [Path(path) for path in job["own"]], readable)
    guard.install()
    channel.send({"layers": [*layers, "audit hook"]})
    target(job["argument"], channel, guard)


def answer_once(argument: dict[str, Any], channel: Channel, guard: Guard) -> None:
    """Calls a function with one argument, and sends what it returns or raises."""
    message: dict[str, Any] = {"value": None, "error": ""}
    try:
        message["value"] = _target(argument["function"])(argument["argument"])
    except (Exception, SystemExit) as error:
        message["error"] = _raised(error)
    channel.send({**message, "attempts": [attempt.to_json() for attempt in guard.taken()]})


def _raised(error: BaseException) -> str:
    """``ValueError: too small (model.py, line 7)``: an exception and where it was raised."""
    said = next(iter(str(error).strip().splitlines()), "no message")
    places = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(places[-1].filename).name}, line {places[-1].lineno})" if places else ""
    return f"{type(error).__name__}: {said}{place}"


def _target(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return found


if __name__ == "__main__":
    main()
