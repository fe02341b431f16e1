"""Code run in a process that may neither write files, nor use the network, nor start programs; and how the two sides talk.

Two layers: the kernel's (Landlock and seccomp, on Linux), which holds for native code too, and Python's audit hook, which says what was
tried and where. ``SECURITY.md`` says what neither can stop.
"""

from __future__ import annotations

import json
import os
import selectors
import time
from collections.abc import Callable
from typing import Any

_ATOMIC = 512
_BETWEEN_CHECKS = 0.5
_CHUNK = 2**16
_LONGEST = 64 * 2**20


class Channel:
    """One end.

    Args:
        reading: Descriptor to read from.
        writing: Descriptor to write to.
    """

    def __init__(self, reading: int, writing: int) -> None:
        self._reading, self._writing = reading, writing
        self._buffer = bytearray()

    def send(self, message: Any, timeout: float | None = None) -> None:
        """Sends a message.

        Args:
            message: JSON-ready.
            timeout: Seconds until the other end must have taken it.

        Raises:
            OSError: Nobody is there any more.
            TimeoutError: The other end does not read.
        """
        data = memoryview(json.dumps(message, default=str).encode() + b"\n")
        ends = None if timeout is None else time.monotonic() + timeout
        while data:
            if not _is_ready(self._writing, selectors.EVENT_WRITE, ends):
                raise TimeoutError
            # A pipe that is ready takes this much without waiting.
            data = data[os.write(self._writing, data[:_ATOMIC]) :]

    def receive(self, timeout: float | None = None, check: Callable[[], None] | None = None) -> Any:
        """The next message.

        Args:
            timeout: Seconds to wait for all of it.
            check: Called every now and then meanwhile; what it raises ends the wait.

        Raises:
            TimeoutError: None came in time.
            EOFError: The other end is gone.
            ValueError: What came is no message.
        """
        ends = None if timeout is None else time.monotonic() + timeout
        while b"\n" not in self._buffer:
            if not self._is_readable(ends, check):
                raise TimeoutError
            chunk = os.read(self._reading, _CHUNK)
            if not chunk:
                raise EOFError
            self._buffer += chunk
            if len(self._buffer) > _LONGEST:
                raise ValueError(f"a message of more than {_LONGEST:,} bytes")
        line, _, rest = bytes(self._buffer).partition(b"\n")
        self._buffer = bytearray(rest)
        try:
            return json.loads(line)
        except RecursionError:
            raise ValueError("a message that is nested too deeply") from None

    def close(self) -> None:
        """Closes both descriptors."""
        for descriptor in (self._reading, self._writing):
            os.close(descriptor)

    def _is_readable(self, ends: float | None, check: Callable[[], None] | None) -> bool:
        if check is None:
            return _is_ready(self._reading, selectors.EVENT_READ, ends)
        while True:
            check()
            pause = time.monotonic() + _BETWEEN_CHECKS
            if _is_ready(self._reading, selectors.EVENT_READ, pause if ends is None else min(ends, pause)):
                return True
            if ends is not None and time.monotonic() >= ends:
                return False


def _is_ready(descriptor: int, event: int, ends: float | None) -> bool:
    """Whether a descriptor can be read or written before a deadline; without one the call itself waits."""
    if ends is None:
        return True
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, event)
        return bool(selector.select(max(0.0, ends - time.monotonic())))
