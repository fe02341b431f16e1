"""A line that says what is being done, while it is done."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TextIO

_QUICK = 1.0
"""Seconds before the first line where lines stay: what is done sooner needs none."""


class Progress:
    """One line of text that is replaced by the next one; on anything but a terminal, lines, and only when it takes longer.

    Args:
        stream: Where it is written.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._replaces = stream.isatty()
        self._began = time.monotonic()
        self._shown = ""

    def say(self, text: str) -> None:
        """Shows what is being done now."""
        line = " ".join(text.split())
        line = line if len(line) < 79 else f"{line[:75]}…"
        if self._replaces:
            self._stream.write(f"\r{line:<{len(self._shown)}}")
            self._shown = line
        elif time.monotonic() - self._began > _QUICK and line != self._shown:
            self._stream.write(f"modeltiers: {line}\n")
            self._shown = line
        self._stream.flush()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        if self._replaces and self._shown:
            self._stream.write(f"\r{'':<{len(self._shown)}}\r")
            self._stream.flush()
