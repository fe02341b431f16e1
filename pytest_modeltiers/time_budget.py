"""The time budget of one config's run: what was used of it, what the next test may use, and what ends a test that uses more.

A model that does not answer is stopped too.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from types import FrameType
from typing import TYPE_CHECKING

from harness.errors import TimeBudgetError
from harness.wording import duration
from pytest_modeltiers.crashes import set_timer, stop_timer

if TYPE_CHECKING:
    from harness.runtime import ComputedSince

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

_ROOM = 3.0
"""How many times as long as a large model's tests are expected to take they may take, where the config does not say."""

_BUILT = 60.0
"""Processor seconds that a GiB of weights may take to be made: five times as long as those of a Llama in bfloat16."""

_LENT = 1 / 12
"""Of the first half of the budget, as far as it is unused, what a search may take: most tests use less than an even part, so the early ones may
borrow; the other half is kept, so that each later test still has at least half of an even part."""


@dataclass
class Budget:
    """Counts the processor time of a config's run, and how much of it is left.

    What is counted is everything from the import of the model's file on: building, calling, shrinking, looking for the module to blame.
    Of the time in which weights are made, what their size explains is not.
    Our own imports are not.

    Attributes:
        seconds: The processor time that the run may use, ``time_budget`` of the config.
        used: What was used in the blocks that have ended.
        is_fixed: Whether it stays as it is, whatever the model takes.
    """

    seconds: float
    used: float = 0.0
    is_fixed: bool = False
    _began: ComputedSince | None = None

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Counts what a block uses; a block inside another is counted once."""
        if self._began is not None:
            yield
            return
        from harness.runtime import ComputedSince

        self._began = ComputedSince()
        try:
            yield
        finally:
            self.used, self._began = self.used_so_far, None

    @contextmanager
    def building(self) -> Iterator[None]:
        """A block that builds a model: it has time by the size of the weights, and tests neither lose nor gain any by it."""
        from harness.models.structure import watching_weights

        before, seconds = self.used_so_far, self.seconds

        def more(bytes_: int) -> None:
            self.seconds += _BUILT * bytes_ / (1 << 30)

        with watching_weights(more):
            yield
        self.used -= min(self.used_so_far - before, self.seconds - seconds)
        self.seconds = seconds

    def grow_for(self, expected: float) -> None:
        """Makes room for tests that are expected to take so many processor seconds, where it is not fixed."""
        if not self.is_fixed:
            self.seconds = max(self.seconds, float(round(_ROOM * expected, -1)))

    def told(self, parameters: int, expected: float) -> str:
        """How long the tests of a model are expected to take, and which time they have."""
        told = f"{parameters / 1e6:,.0f} million parameters: all tests take about {duration(expected)} of processor time"
        if not self.is_fixed:
            return f"{told}, and have {duration(self.seconds)} (`time_budget` sets another limit)"
        is_short = self.seconds < expected
        return f"{told}, and `time_budget` leaves them {duration(self.seconds)}{': the last ones will be skipped' if is_short else ''}"

    def give_up(self) -> None:
        """Leaves nothing: the model does not answer, and would not answer other tests either."""
        self.used += self.left

    @property
    def used_so_far(self) -> float:
        """Processor seconds used up to now."""
        return self.used + (0.0 if self._began is None else self._began.seconds)

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
        """Processor seconds that the next test may draw examples."""
        return max(self.left / max(1.0, tests), (self.left - self.seconds / 2) * _LENT)

    def limit(self, tests: float) -> float:
        """Processor seconds after which the next test is cut short."""
        return min(self.left, max(self.left * _LIMIT, self.left / max(1.0, tests), self.seconds * _LEAST))


_SHORTEST = 0.02
"""Seconds between two looks at the time."""

_UNHEARD = ("gc_callback", "__del__")
"""Functions whose errors Python only prints, so that none is raised in them."""

_CLEANING = 2.0
"""Seconds until a block that continues in spite of its end is ended once more."""

_PATROL = 1.0
"""Seconds between two looks at whether the alarm is overdue."""

_LATEST = 5.0
"""Seconds that the patrol has to end a model that does not answer, before the timer does, which knows less of it."""

_IDLE = 0.02
"""A test that used less than this share of the time that passed by the clock was waiting, not computing."""

_COMPILERS = tuple(
    os.path.join("torch", name) + os.sep for name in ("_dynamo", "_inductor", "export", "_export", "fx", "onnx", "jit")
)
"""Folders of code that calls a model to read it, rather than to compute with it."""


_CALLS = ("forward", "backward", "training_step")
"""Functions of a model whose running is a call of it."""


class CutShortError(BaseException):
    """A block has used its part of the budget. It passes through every ``except Exception`` on its way, in the model's code and in ours.

    Attributes:
        place: Where it was.
    """

    def __init__(self, message: str, place: str) -> None:
        super().__init__(message)
        self.place = place


class _HangError(BaseException):
    """A model does not answer."""


Lost = Callable[[str], None]
"""Ends the run, from another thread, with the reason."""


@contextmanager
def time_limit(budget: Budget, part: float | None = None, lost: Lost | None = None) -> Iterator[None]:
    """Ends the block when it has used its part of the budget.

    A call of the model that is in progress then may still return, so that one that never does can be told from one that is slow: it has
    the whole budget once more. A model that waits for something, which uses no processor time, is ended by the clock. After either
    nothing is left of the budget.

    It works through SIGALRM, so in the main thread of a POSIX process; elsewhere it does nothing. Code that never returns to the
    interpreter cannot be stopped from within it: after as long again, ``lost`` ends the run.

    Args:
        budget: The budget, which is counting.
        part: Processor seconds that the block may use; by default all that is left.
        lost: Called from a thread where native code does not return; ``None`` to wait for it.

    Raises:
        TimeBudgetError: The model does not answer.
        CutShortError: The part is used.
    """
    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        yield
        return
    from harness.runtime import ended_by

    watch = _Watch(budget, budget.left if part is None else part)
    handler = signal.signal(signal.SIGALRM, watch.look)
    outer, interval = signal.setitimer(signal.ITIMER_REAL, 0)
    if outer and callable(handler):
        watch.theirs = partial(handler, signal.SIGALRM), outer
    watch.wait(watch.pause)
    if lost is not None:
        threading.Thread(target=watch.keep_watch, args=(lost, threading.get_ident()), daemon=True).start()
    try:
        with ended_by(lambda: watch.end):
            yield
        if watch.end is not None:
            raise watch.end
    except _HangError as error:
        budget.give_up()
        raise TimeBudgetError(str(error)) from None
    except Exception:
        if isinstance(watch.end, CutShortError):  # what becomes of it on its way through native code is no finding
            raise watch.end from None
        raise
    finally:
        watch.is_over = True
        watch.ended.set()
        stop_timer()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if outer and (watch.theirs is not None or not callable(handler)):
            signal.setitimer(signal.ITIMER_REAL, max(_SHORTEST, outer - watch.clock), interval)


class _Watch:
    """Looks at the time now and then while a block runs."""

    theirs: tuple[Callable[[FrameType | None], object], float] | None = None
    """Somebody else's alarm, such as that of pytest-timeout: what it calls, and after how many seconds; ``None`` once it rang."""

    def __init__(self, budget: Budget, part: float) -> None:
        from harness.runtime import ComputedSince, short_of_memory

        self._now, self._short_of_memory = ComputedSince, short_of_memory
        self.is_over = False
        self.end: BaseException | None = None
        self._budget = budget
        self._given = part - budget.seconds
        self._began = ComputedSince()
        self._call: FrameType | None = None
        self._call_seen = 0.0
        self.ended = threading.Event()
        self._silence, self._due = ComputedSince(), time.monotonic()

    def wait(self, seconds: float) -> tuple[float, float]:
        """Has the alarm ring in some seconds; where it does not, as native code holds the interpreter's lock, the process ends later."""
        self._due = time.monotonic() + seconds
        set_timer(seconds + CLOCK_FACTOR * self._budget.seconds + _LATEST)
        return signal.setitimer(signal.ITIMER_REAL, seconds)

    def keep_watch(self, lost: Lost, main_thread: int) -> None:
        """Waits, in a thread, for the block's end, or until an alarm is overdue by so much that native code hangs."""
        whole = self._budget.seconds
        while not self.ended.wait(_PATROL):
            late = time.monotonic() - self._due
            if late > CLOCK_FACTOR * whole or (late > whole and self._silence.seconds > whole + self._part):
                place = _place(sys._current_frames().get(main_thread))
                lost(
                    f"the model did not answer within the `time_budget` of {whole:g} s, in native code that nothing can stop; it was {place}"
                )
                return

    @property
    def _part(self) -> float:
        """Processor seconds that the block may use, which grow with the budget."""
        return self._given + self._budget.seconds

    @property
    def used(self) -> float:
        """Processor seconds since the block began."""
        return self._began.seconds

    @property
    def clock(self) -> float:
        """Seconds by the clock since the block began."""
        return self._began.clock

    @property
    def pause(self) -> float:
        """Seconds until it is worth looking again: at the earliest when every core was busy with nothing else."""
        soonest = (self._part - self.used) / (os.cpu_count() or 1)
        waiting = CLOCK_FACTOR * self._budget.seconds - self.clock
        soonest = min(soonest, waiting) if waiting > 0 else soonest
        return max(_SHORTEST, soonest if self.theirs is None else min(soonest, self.theirs[1] - self.clock))

    def look(self, _number: int, frame: FrameType | None) -> None:
        """Handles the alarm."""
        if self.is_over:
            return
        if frame is not None and frame.f_code.co_name in _UNHEARD:
            self.wait(_SHORTEST)
            return
        self._silence = self._now()
        try:
            self._ring_theirs(frame)
            self._judge(frame)
        except BaseException as end:  # whoever swallows the error meets it again, but not while cleaning up after it
            self.end = end
            self.wait(_CLEANING)
            raise
        self.wait(self.pause)

    def _ring_theirs(self, frame: FrameType | None) -> None:
        """Calls what somebody else wanted called by now: in here, where pytest expects a test to be ended."""
        if self.theirs is not None and self.clock >= self.theirs[1]:
            (call, _), self.theirs = self.theirs, None
            call(frame)

    def _judge(self, frame: FrameType | None) -> None:
        used, whole = self.used, self._budget.seconds
        if self.clock >= CLOCK_FACTOR * whole and used < _IDLE * self.clock:
            raise _HangError(
                f"the model did not answer within the `time_budget` of {whole:g} s: {self.clock:.0f} s passed by the clock, and it used "
                f"{used:.1f} s of processor time; it was {_place(frame)}{f'; {short}' if (short := self._short_of_memory()) else ''}"
            )
        if used < self._part or (_is_importing(frame) and used < self._part + whole):
            return
        call = _call_of_model(frame)
        if call is None or (self._call is not None and call is not self._call):
            raise CutShortError(self._reason(used), _place(frame))
        if self._call is None:
            self._call, self._call_seen = call, used
        elif used - self._call_seen >= whole:
            raise _HangError(f"the model did not answer within the `time_budget` of {whole:g} s; it was {_place(frame)}")

    def _reason(self, used: float) -> str:
        budget = self._budget
        why = budget.spent or f"so much of the time budget of {budget.seconds:g} s was left for it"
        return f"cut short after {used:.1f} s of processor time: {why}"


def _call_of_model(frame: FrameType | None) -> FrameType | None:
    """The outermost call of the model that is running; ``None`` where there is none, or a compiler reads the model."""
    outermost = None
    for each in _outwards(frame):
        code = each.f_code
        if any(part in code.co_filename for part in _COMPILERS):
            return None
        if code.co_name in _CALLS:
            outermost = each
    return outermost


def _is_importing(frame: FrameType | None) -> bool:
    """Whether a module is being imported: one that is left half done fails for the rest of the process."""
    codes = (each.f_code for each in _outwards(frame))
    return any(code.co_name == "_find_and_load" and code.co_filename.startswith("<frozen importlib") for code in codes)


_NO_MODELS = ("pydantic",)
"""Packages that this project calls, and that call no model."""


def _place(frame: FrameType | None) -> str:
    """Where a frame is: the innermost forward, or the innermost line of the user's, or what this project called; never this project itself."""
    from harness.internal_errors import is_users
    from harness.user_code import is_ours

    stack = list(_outwards(frame))
    for each in stack:
        if each.f_code.co_name == "forward":
            return f"in {type(each.f_locals.get('self')).__name__}.forward ({each.f_code.co_filename}, line {each.f_lineno})"
    called = list(takewhile(lambda each: not is_ours(each.f_code.co_filename), stack))
    theirs = [each for each in called if is_users(each.f_code)] or called[-1:]
    if not theirs or theirs[0].f_globals.get("__name__", "").partition(".")[0] in _NO_MODELS:
        return "between two calls of the model"
    return f"at {theirs[0].f_code.co_filename}, line {theirs[0].f_lineno}"


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    """A frame and those that called it, the innermost first."""
    while frame is not None:
        yield frame
        frame = frame.f_back
