"""Code run in a process that may neither write files, nor use the network, nor start programs.

Two layers: the kernel's (Landlock and seccomp, on Linux), which holds for native code too, and Python's audit hook, which says what was
tried and where. ``SECURITY.md`` says what neither can stop.
"""

from __future__ import annotations

from harness.errors import IsolationError
from harness.isolation.process import Isolated, IsolatedProcess, run_isolated
from harness.isolation.sandbox import Attempt, Guard, Limits

__all__ = ["Attempt", "Guard", "Isolated", "IsolatedProcess", "IsolationError", "Limits", "run_isolated"]
