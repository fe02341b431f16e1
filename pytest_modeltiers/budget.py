"""The time budget of one config's run: what was used of it, and what the next test may use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from harness.runtime import processor_seconds

CLOCK_FACTOR = 5
"""How many times the budget a test may wait by the clock without computing, before it is a deadlock."""

SPENT = "the time budget"
"""How the reason of a test that was not started begins."""

_PART = 0.25
"""Of the time that is left, what a test that can plan ahead is told that it may use."""

_LIMIT = 0.5
"""Of the time that is left, what any test may use before it is cut short."""

_LEAST = 0.1
"""Of the whole budget, what a test may use at least before it is cut short, while there is so much."""


_LENT = 1 / 12
"""Of the first half of the budget, as far as it is unused, what a search may take: most tests use less than an even part, so the early ones may
borrow; the other half is kept, so that each later test still has at least half of an even part."""


@dataclass
class Budget:
    """Counts the processor time of a config's run, and how much of it is left.

    What is counted is everything from the import of the model's file on: building, calling, shrinking, looking for the module to blame.
    Our own imports are not.

    Attributes:
        seconds: The processor time that the run may use, ``time_budget`` of the config.
        used: What was used in the blocks that have ended.
    """

    seconds: float
    used: float = 0.0
    _began: float | None = None

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Counts what a block uses; a block inside another is counted once."""
        if self._began is not None:
            yield
            return
        self._began = processor_seconds()
        try:
            yield
        finally:
            self.used, self._began = self.used_so_far, None

    def give_up(self) -> None:
        """Leaves nothing: the model does not answer, and would not answer other tests either."""
        self.used += self.left

    @property
    def used_so_far(self) -> float:
        """Processor seconds used up to now."""
        return self.used + (0.0 if self._began is None else processor_seconds() - self._began)

    @property
    def left(self) -> float:
        """Processor seconds that are left."""
        return max(0.0, self.seconds - self.used_so_far)

    @property
    def spent(self) -> str:
        """Why no further test is started; empty while there is time."""
        return "" if self.left else f"{SPENT} of {self.seconds:g} s is spent"

    @property
    def part(self) -> float:
        """Processor seconds that the next test may plan with."""
        return self.left * _PART

    def share(self, tests: float) -> float:
        """Processor seconds that the next test may go on drawing examples.

        Args:
            tests: How many are still to run, with this one.
        """
        return max(self.left / max(1.0, tests), (self.left - self.seconds / 2) * _LENT)

    def limit(self, tests: float) -> float:
        """Processor seconds after which the next test is cut short.

        Args:
            tests: How many are still to run, with this one.
        """
        return min(self.left, max(self.left * _LIMIT, self.left / max(1.0, tests), self.seconds * _LEAST))
