"""Stops a model that does not answer."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from harness.errors import TimeBudgetError


class _TimeIsUpError(BaseException):
    """Passes through every ``except Exception`` on its way, in the model's code and in ours."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises TimeBudgetError in the block when it takes longer than this.

    It works through SIGALRM, so in the main thread of a POSIX process; elsewhere it does nothing. Code that never returns to the
    interpreter cannot be stopped from within it.
    """
    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_number: int, frame: FrameType | None) -> None:
        raise _TimeIsUpError(f"the model did not answer within the `time_budget` of {seconds:g} s; it was {_place(frame)}")

    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        yield
    except _TimeIsUpError as error:
        raise TimeBudgetError(str(error)) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _place(frame: FrameType | None) -> str:
    """Where a frame is: the innermost forward, or the innermost line."""
    innermost = frame
    while frame is not None:
        if frame.f_code.co_name == "forward":
            return f"in {type(frame.f_locals.get('self')).__name__}.forward ({frame.f_code.co_filename}, line {frame.f_lineno})"
        frame = frame.f_back
    return f"at {innermost.f_code.co_filename}, line {innermost.f_lineno}" if innermost else "somewhere unknown"
