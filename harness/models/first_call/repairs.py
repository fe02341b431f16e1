"""From a failure to the changes of the arguments that may mend it, cheapest first."""

from __future__ import annotations

import re
from dataclasses import replace

from harness.models.first_call.contents import repaired_dicts, repaired_values
from harness.models.first_call.guards import repaired_guard
from harness.models.first_call.guesses import Guesses, Repairs
from harness.models.first_call.messages import repaired_axes, repaired_by_any_number, repaired_numbers
from harness.models.first_call.operations import repaired_sizes
from harness.models.first_call.watching import Failure, Unbatched

_TOO_SMALL = re.compile(
    r"[Kk]ernel size can't be greater|[Oo]utput size is too small|[Pp]adding size should be less|non-zero|non-empty|"
    r"[Ee]xpected more than 1|must be positive|smaller than kernel|too small"
)


def repairs(guesses: Guesses, failure: Failure) -> Repairs:
    """What may mend a failure.

    Args:
        guesses: The arguments of the call that failed.
        failure: How it failed.
    """
    everything = frozenset(guesses.paths())
    if isinstance(failure.error, Unbatched):
        yield from guesses.with_axes(failure.sources or everything, 1)
        return
    told = False
    for change in _told(guesses, failure, everything):
        told = True
        yield change
    if not told:
        yield from repaired_by_any_number(guesses, failure)


def _told(guesses: Guesses, failure: Failure, everything: frozenset[str]) -> Repairs:
    """What the operation, the message, or the condition that did not hold says."""
    for rule in (repaired_dicts, repaired_values, repaired_sizes):
        yield from rule(guesses, failure)
    if _TOO_SMALL.search(failure.message):
        yield from guesses.grown(failure.sources or everything)
    yield from repaired_axes(guesses, failure)
    yield from repaired_numbers(guesses, failure)
    yield from repaired_guard(guesses, failure.error, failure.sources or everything)


def last_resorts(guesses: Guesses) -> Repairs:
    """Other numbers of axes and other values, where nothing else is known."""
    for path in guesses.paths():
        argument = guesses.at(path)
        if argument is None or argument.fixed:
            continue
        for count, cost in ((2, 4), (3, 4), (4, 4), (1, 8)):
            if count != len(argument.sizes):
                yield cost, guesses.put(path, argument.with_axes(count))
        other = replace(argument, holds="ids", count=2) if argument.holds == "numbers" else replace(argument, holds="numbers")
        yield 5, guesses.put(path, replace(other, made=None))
