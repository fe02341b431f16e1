"""What an error says in words: how many axes it expected, the two sizes that did not meet, the argument that it lacks."""

from __future__ import annotations

import re

from harness.models.first_call.guesses import Guesses, Repairs
from harness.models.first_call.watching import Failure

_PAIRS = (
    re.compile(r"shapes cannot be multiplied \(\d+x(?P<got>\d+) and (?P<wanted>\d+)x\d+\)"),
    re.compile(r"\((?P<got>\d+)[*x]\d+\) (?:doesn't|does not) match model \((?P<wanted>\d+)"),
    re.compile(r"\((?P<got>\d+)\) (?:doesn't|does not) match model \((?P<wanted>\d+)\)"),
    re.compile(r"size of tensor a \((?P<got>\d+)\) must match the size of tensor b \((?P<wanted>\d+)\)"),
    re.compile(r"[Ee]xpected[^.]*?(?P<wanted>\d+)[^\d.]*(?:but )?(?:got|found|received|gets|was)[^\d]*(?P<got>\d+)"),
    re.compile(r"(?:got|found|received)[^\d]*(?P<got>\d+)[^\d]*expected[^\d]*(?P<wanted>\d+)"),
    re.compile(r"has size (?P<got>\d+) .*previously seen size (?P<wanted>\d+)"),
    re.compile(r"Shape mismatch, (?P<got>\d+) != (?P<wanted>\d+)"),
    re.compile(r"[Rr]equired[^\d]*(?P<wanted>\d+)[^\d]*(?:given|got)[^\d]*(?P<got>\d+)"),
)
"""The size that came, and the one that was wanted."""

_MOST_ITEMS = 8
"""Tensors of a list that are tried at most."""

_FEW_NUMBERS = 6
"""Numbers in a message from which on it is not clear which of them is a size."""

_ITERATES = ("__iter__", "unbind")
"""Operations that a tensor is taken apart by."""

_UNPACKED = re.compile(r"values to unpack \(expected (\d+)(?:, got (\d+))?")
_OUT_OF_RANGE = re.compile(r"\[-(\d+), \d+\], but got (-?\d+)")
_OTHER_AXES = (
    re.compile(r"input\.dim\(\) = (?P<got>\d+) is not equal to len\(dims\) = (?P<wanted>\d+)"),
    re.compile(r"expected (?P<wanted>\d+) dims\. Received (?P<got>\d+)-dim"),
)
_EXPECTED_AXES = re.compile(
    r"(?:[Ee]xpect|must|should|[Rr]equire|[Oo]nly)[^\d]{0,40}\b(\d)-?[dD](?: \(unbatched\))?(?: or (\d)-?[dD])?\b"
)
_BEYOND = re.compile(r"index (\d+) is out of bounds for dimension \d+ with size (\d+)")
_CHUNKS = re.compile(r"can't divide axis of length (\d+) in chunks of (\d+)")


def repaired_axes(guesses: Guesses, failure: Failure) -> Repairs:
    """Another number of axes."""
    message, read = failure.message, failure.last_read
    made_of = failure.sources or frozenset(guesses.paths())
    read_from = read.sources if read is not None and read.sources else made_of
    if (unpacked := _UNPACKED.search(message)) and not failure.operation:
        expected = int(unpacked[1])
        if read is not None and read.sources and failure.last_operation not in _ITERATES:
            yield from guesses.with_axes(read.sources, expected - int(unpacked[2] or len(read.shape)))
        if failure.last_operation in _ITERATES and expected <= _MOST_ITEMS:
            for path in guesses.paths():
                yield from guesses.as_list(path, expected)
        for path in guesses.paths():
            argument = guesses.at(path)
            if argument is not None and argument.sizes and not argument.fixed:
                yield 2, guesses.put(path, argument.with_size(0, expected))
        yield from _other_lists(guesses, expected)
        return
    if "list index out of range" in message or "tuple index out of range" in message:
        yield from _other_lists(guesses)
    if "tuple index out of range" in message:
        yield from guesses.with_axes(read_from, 1)
    if beyond := _OUT_OF_RANGE.search(message):
        has, got = int(beyond[1]), int(beyond[2])
        yield from guesses.with_axes(made_of, max(1, (got + 1 if got >= 0 else -got) - has))
    if "too many indices for tensor" in message and failure.tensors:
        yield from guesses.with_axes(failure.tensors[0].sources or made_of, 1)
    for pattern in _OTHER_AXES:
        if found := pattern.search(message):
            yield from guesses.with_axes(failure.sources or read_from, int(found["wanted"]) - int(found["got"]))
    if found := _EXPECTED_AXES.search(message):
        wanted = int(found[2] or found[1])
        given = read if read is not None and read.sources else failure.first
        if given is not None and len(given.shape) != wanted:
            yield from guesses.with_axes(given.sources, wanted - len(given.shape))


def _other_lists(guesses: Guesses, count: int = 0) -> Repairs:
    """Lists of as many tensors, or of one more."""
    for name, argument in guesses.arguments.items():
        if argument.is_list and len(argument.parts) < _MOST_ITEMS:
            yield from guesses.as_list(name, count or len(argument.parts) + 1)


def repaired_numbers(guesses: Guesses, failure: Failure) -> Repairs:
    """Sizes that the message names."""
    read = failure.last_read
    everything = frozenset(guesses.paths())
    sources = failure.sources or (read.sources if read is not None else everything) or everything
    if found := _CHUNKS.search(failure.message):
        size, step = int(found[1]), int(found[2])
        yield from guesses.resized(sources, size, -(-size // step) * step)
    if found := _BEYOND.search(failure.message):
        yield from guesses.resized(everything, int(found[1]) + 1, int(found[2]))
    for pattern in _PAIRS:
        if found := pattern.search(failure.message):
            yield from guesses.resized(sources, int(found["got"]), int(found["wanted"]))
            return


def repaired_by_any_number(guesses: Guesses, failure: Failure) -> Repairs:
    """A size that the message speaks of, as large as another number in it, where nothing else is known."""
    numbers = list(dict.fromkeys(int(number) for number in re.findall(r"(?<![\w.])\d{1,6}(?![\w.]*\w)", failure.message)))
    if not 2 <= len(numbers) <= _FEW_NUMBERS:
        return
    for path in sorted(failure.sources) or guesses.paths():
        argument = guesses.at(path)
        for axis, size in enumerate(argument.sizes if argument is not None and not argument.fixed else ()):
            for wanted in numbers if axis and size in numbers else ():
                if argument is not None and wanted not in (0, size):
                    yield 3, guesses.put(path, argument.with_size(axis, wanted))
