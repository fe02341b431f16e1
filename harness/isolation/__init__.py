"""Code run in a process that may neither write files, nor use the network, nor start programs; and how the two sides talk.

Two layers: the kernel's (Landlock and seccomp, on Linux), which holds for native code too, and Python's audit hook, which says what was
tried and where. ``SECURITY.md`` says what neither can stop.
"""

from __future__ import annotations

import json
import os
import selectors
import time
from typing import Any

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

    def send(self, message: Any) -> None:
        """Sends a message.

        Raises:
            OSError: Nobody is there any more.
        """
        data = memoryview(json.dumps(message, default=str).encode() + b"\n")
        while data:
            data = data[os.write(self._writing, data) :]

    def receive(self, timeout: float | None = None) -> Any:
        """The next message.

        Raises:
            TimeoutError: None came in time.
            EOFError: The other end is gone.
            ValueError: What came is no message.
        """
        ends = None if timeout is None else time.monotonic() + timeout
        while b"\n" not in self._buffer:
            if not self._is_readable(ends):
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

    def _is_readable(self, ends: float | None) -> bool:
        if ends is None:
            return True
        with selectors.DefaultSelector() as selector:
            selector.register(self._reading, selectors.EVENT_READ)
            return bool(selector.select(max(0.0, ends - time.monotonic())))
