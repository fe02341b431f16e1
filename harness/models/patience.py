"""How long a model is looked at, and what is said meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable


def _silent(_text: str) -> None:
    pass


class Patience:
    """The time there is to look at an unknown model.

    Args:
        seconds: After so many no further attempt is begun.
        say: Is told what is being done.
    """

    def __init__(self, seconds: float = 8.0, say: Callable[[str], None] = _silent) -> None:
        self.seconds = seconds
        self.say = say
        self.start()

    def start(self) -> None:
        """Begins to count; what the user's own file does while it is imported is none of our time."""
        self._began = time.monotonic()

    @property
    def is_over(self) -> bool:
        """Whether the time is used up."""
        return time.monotonic() - self._began > self.seconds
