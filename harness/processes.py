"""Commands that run a module of this package in a process of its own, wherever that process starts."""

from __future__ import annotations

import sys
from pathlib import Path

_BOOT = """\
import importlib.util, runpy, sys
sys.path.pop(0)
folder, module = sys.argv[1], sys.argv[2]
spec = importlib.util.spec_from_file_location("harness", folder + "/__init__.py", submodule_search_locations=[folder])
sys.modules["harness"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["harness"])
sys.argv[:] = sys.argv[2:]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""
"""Takes the current folder off the path, whose files may have the name of any module, and binds ``harness`` to this one."""


def module_command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of ``harness`` as a program.

    ``python -m`` would put the current folder first on the path: a ``harness`` of the user's own there, or a file called ``random.py``, would be
    imported instead.

    Args:
        module: Its dotted name.
        arguments: What it finds in ``sys.argv[1:]``.
    """
    return [sys.executable, "-c", _BOOT, str(Path(__file__).parent), module, *arguments]
