"""What runs in the isolated process: first the sandbox, then what was asked for."""

from __future__ import annotations

import ctypes  # noqa: F401  # loads a library on import, which is refused later
import importlib
import sys
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


def _target(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return found


if __name__ == "__main__":
    main()
