"""What an error says in words: how many axes it expected, the two sizes that did not meet, the assertion that failed."""

from __future__ import annotations

import ast
import linecache
import re
from types import FrameType, TracebackType
from typing import Any

from harness.models.first_call.guesses import Guesses, Repairs
from harness.models.first_call.watching import Failure

_PAIRS = (
    re.compile(r"shapes cannot be multiplied \(\d+x(?P<got>\d+) and (?P<wanted>\d+)x\d+\)"),
    re.compile(r"\((?P<got>\d+)[*x]\d+\) (?:doesn't|does not) match model \((?P<wanted>\d+)"),
    re.compile(r"\((?P<got>\d+)\) (?:doesn't|does not) match model \((?P<wanted>\d+)\)"),
    re.compile(r"size of tensor a \((?P<got>\d+)\) must match the size of tensor b \((?P<wanted>\d+)\)"),
    re.compile(r"[Ee]xpected[^.]*?(?P<wanted>\d+)[^\d.]*(?:but )?(?:got|found|received|gets|was)[^\d]*(?P<got>\d+)"),
    re.compile(r"(?:got|found|received)[^\d]*(?P<got>\d+)[^\d]*expected[^\d]*(?P<wanted>\d+)"),
    re.compile(r"Shape mismatch, (?P<got>\d+) != (?P<wanted>\d+)"),
    re.compile(r"[Rr]equired[^\d]*(?P<wanted>\d+)[^\d]*(?:given|got)[^\d]*(?P<got>\d+)"),
)
"""The size that came, and the one that was wanted."""

_UNPACKED = re.compile(r"values to unpack \(expected (\d+)")
_OUT_OF_RANGE = re.compile(r"\[-(\d+), \d+\], but got (-?\d+)")
_OTHER_AXES = (
    re.compile(r"input\.dim\(\) = (?P<got>\d+) is not equal to len\(dims\) = (?P<wanted>\d+)"),
    re.compile(r"expected (?P<wanted>\d+) dims\. Received (?P<got>\d+)-dim"),
)
_EXPECTED_AXES = re.compile(r"[Ee]xpected (?:input )?(?:to be )?(\d)D(?: \(unbatched\))?(?: or (\d)D)?")
_CHUNKS = re.compile(r"can't divide axis of length (\d+) in chunks of (\d+)")


def repaired_axes(guesses: Guesses, failure: Failure) -> Repairs:
    """Another number of axes."""
    message, read = failure.message, failure.last_read
    made_of = failure.sources or frozenset(guesses.paths())
    read_from = read.sources if read is not None and read.sources else made_of
    if (unpacked := _UNPACKED.search(message)) and not failure.operation:
        expected = int(unpacked[1])
        if read is not None and read.sources and failure.last_operation != "__iter__":
            yield from guesses.with_axes(read.sources, expected - len(read.shape))
        for path in guesses.paths():
            argument = guesses.at(path)
            if argument is not None and argument.sizes and not argument.fixed:
                yield 2, guesses.put(path, argument.with_size(0, expected))
        return
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


def repaired_numbers(guesses: Guesses, failure: Failure) -> Repairs:
    """Sizes that the message names."""
    read = failure.last_read
    everything = frozenset(guesses.paths())
    sources = failure.sources or (read.sources if read is not None else everything) or everything
    if found := _CHUNKS.search(failure.message):
        size, step = int(found[1]), int(found[2])
        yield from guesses.resized(sources, size, -(-size // step) * step)
    for pattern in _PAIRS:
        if found := pattern.search(failure.message):
            yield from guesses.resized(sources, int(found["got"]), int(found["wanted"]))
            return


def repaired_assertion(guesses: Guesses, error: BaseException, sources: frozenset[str]) -> Repairs:
    """The two sides of an ``assert left == right`` in the model's code, as they are where it failed."""
    frame, line = _innermost(error.__traceback__)
    if not isinstance(error, AssertionError) or frame is None:
        return
    text = linecache.getline(frame.f_code.co_filename, line).strip()
    try:
        statement = ast.parse(text).body[0]
    except SyntaxError:
        statement = None  # an assertion over several lines
    if not isinstance(statement, ast.Assert):
        return
    compared = statement.test.values if isinstance(statement.test, ast.BoolOp) else [statement.test]
    for test in compared:
        if (
            isinstance(test, ast.Compare)
            and len(test.ops) == 1
            and isinstance(test.ops[0], (ast.Eq, ast.LtE, ast.GtE, ast.Lt, ast.Gt))
        ):
            left, right = (_size(side, frame) for side in (test.left, test.comparators[0]))
            if isinstance(test.left, ast.BinOp) and isinstance(test.left.op, ast.Mod) and right == 0:
                size, step = _size(test.left.left, frame), _size(test.left.right, frame)
                if size and step:
                    yield from guesses.resized(sources, size, -(-size // step) * step)
            elif left is not None and right is not None:
                yield from guesses.resized(sources, left, right)
                yield from guesses.resized(sources, right, left)


def _size(node: ast.expr, frame: FrameType) -> int | None:
    """The whole number that an expression without calls stands for in a frame."""
    if any(isinstance(inner, ast.Call) and not _is_size_call(inner) for inner in ast.walk(node)):
        return None
    try:
        found: Any = eval(compile(ast.Expression(node), "assert", "eval"), frame.f_globals, dict(frame.f_locals))
    except Exception:  # whatever the model's own expression raises
        return None
    return found if type(found) is int else None


def _is_size_call(node: ast.Call) -> bool:
    return (isinstance(node.func, ast.Attribute) and node.func.attr in ("size", "dim")) or (
        isinstance(node.func, ast.Name) and node.func.id == "len"
    )


def _innermost(trace: TracebackType | None) -> tuple[FrameType | None, int]:
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return (trace.tb_frame, trace.tb_lineno) if trace is not None else (None, 0)
