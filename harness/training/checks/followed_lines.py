"""The user's code followed line by line: where two runs of it part, and where two values that it handles do."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import zip_longest
from types import FrameType
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor

from harness.properties.places import shown_place
from harness.training.checks.training_trace import fingerprint
from harness.user_code import is_written_here

_MOST_LINES = 50_000
_MOST_ITEMS = 16
"""Items of a list or dict that are compared."""

_READ = (int, float, complex, str, bytes, type(None), Tensor, np.ndarray, np.generic)
"""Kinds of values that are compared by their content."""

Line: TypeAlias = "tuple[str, int, str]"
"""A file, a line of it, and what tells the values that the line left in the variables of its function from others."""


@dataclass
class LinesRun:
    """The lines that ran.

    Attributes:
        lines: Each line with what it left behind, in order.
        steps: How many had run before each step of an optimizer; whoever trains notes them.
    """

    lines: list[Line] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    _before: dict[int, tuple[int, dict[str, int]]] = field(default_factory=dict)

    def see(self, frame: FrameType, event: str, given: object) -> None:
        """A line ran: what it left behind is seen where the next one begins."""
        if event not in ("line", "return") or len(self.lines) >= _MOST_LINES:
            return
        if id(frame) not in self._before:
            self._before[id(frame)] = (frame.f_lineno, {})
            return
        line, values = self._before[id(frame)]
        now = {name: id(value) for name, value in frame.f_locals.items()}
        changed = [frame.f_locals[name] for name in sorted(now) if values.get(name) != now[name]]
        left = _digest([*changed, given] if event == "return" else changed)
        self.lines.append((frame.f_code.co_filename, frame.f_lineno if event == "return" else line, left))
        self._before[id(frame)] = (frame.f_lineno, now)
        if event == "return":
            del self._before[id(frame)]


@contextmanager
def following(*seers: Callable[[FrameType, str, object], None]) -> Iterator[None]:
    """A block in which functions are told of every line of the user's code that runs in this thread."""

    def enter(frame: FrameType, event: str, given: object) -> Any:
        if not is_written_here(frame.f_code.co_filename):
            return None
        return inside(frame, event, given)

    def inside(frame: FrameType, event: str, given: object) -> Any:
        for see in seers:
            see(frame, event, given)
        return inside

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        yield
    finally:
        sys.settrace(before)


def parting_line(one: list[Line], two: list[Line]) -> str:
    """The line of the user's code at which two runs part: the first that leaves other values behind, or after which another one runs."""
    last = ("", 0)
    for first, second in zip_longest(one, two):
        if first != second:
            is_same_line = first is not None and second is not None and first[:2] == second[:2]
            file, line = first[:2] if is_same_line else last
            return shown_place(file, line) if file else ""
        last = first[:2]
    return ""


def unlike_line(one: list[Line], two: list[Line]) -> str:
    """The first line that leaves other values behind in the second run than in the first one, whose ends are the same steps."""
    left = defaultdict[tuple[str, int], list[str]](list)
    for file, line, values in one:
        left[file, line].append(values)
    runs = Counter((file, line) for file, line, _ in two)
    for file, line, values in two:
        before, from_end = left[file, line], runs[file, line]
        runs[file, line] -= 1
        if from_end <= len(before) and before[-from_end] != values:
            return shown_place(file, line)
    return ""


def _digest(value: object, depth: int = 3) -> str:
    """What tells a value from others, the same in every process; objects are told apart by their type only."""
    if isinstance(value, _READ):
        return fingerprint(value)
    if isinstance(value, (list, tuple, dict)) and depth:
        items = list(value.items() if isinstance(value, dict) else value)[:_MOST_ITEMS]
        return fingerprint([len(value), *(_digest(item, depth - 1) for item in items)])
    return type(value).__qualname__


class LinesOfValue:
    """The lines that ran while a variable, or what a function was given, was one of some values.

    Attributes:
        lines: File and line of each, in order.
    """

    def __init__(self, *values: object) -> None:
        self.lines: list[tuple[str, int]] = []
        self._values = values

    def see(self, frame: FrameType, event: str, given: object) -> None:
        """A line ran."""
        if event in ("line", "return") and any(self._is_one(value) for value in frame.f_locals.values()):
            self.lines.append((frame.f_code.co_filename, frame.f_lineno))

    def _is_one(self, value: object) -> bool:
        return any(value is each or (isinstance(each, str) and isinstance(value, str) and value == each) for each in self._values)


def line_that_tells_apart(one: list[tuple[str, int]], other: list[tuple[str, int]]) -> str:
    """The last line that two values share before their ways part; of ways that are the same, the first line."""
    last = next(iter(one), None)
    for first, second in zip_longest(one, other):
        if first != second:
            break
        last = first
    else:
        last = next(iter(one), None)
    return shown_place(*last) if last else ""


def first_outside_of_torch(frame: FrameType | None) -> FrameType | None:
    """The innermost frame of code that is not PyTorch's."""
    while frame is not None and str(frame.f_globals.get("__name__", "")).partition(".")[0] == "torch":
        frame = frame.f_back
    return frame
