"""The state of the process that models run in: read, compared and restored, so that one model does not affect the next."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, NoReturn

from harness.errors import LeavesProcessError
from harness.process_state.settings import RANDOM_NUMBERS, Setting, all_settings
from harness.user_code import is_raised_by_code
from harness.wording import counted, joined, shortened

_LONGEST = 60
"""Letters of a value in a message."""

_MOST = 4
"""Changes that a message names."""


@dataclass(frozen=True)
class Change:
    """A setting that has another value than it had."""

    setting: Setting
    before: Any
    now: Any

    def __str__(self) -> str:
        if self.setting.told is not None and self.before is not _UNREADABLE and self.now is not _UNREADABLE:
            words = shortened(self.setting.told(self.before, self.now), _LONGEST)
        else:
            words = f"{shortened(str(self.before), _LONGEST)} -> {shortened(str(self.now), _LONGEST)}"
        return f"{self.setting.name} ({words})" if words else self.setting.name

    def undo(self) -> None:
        """Makes the earlier value the present one."""
        _write(self.setting, self.before)

    def redo(self) -> None:
        """Makes the later value the present one."""
        _write(self.setting, self.now)


class ProcessState:
    """The process at the moment the object was made."""

    def __init__(self) -> None:
        self._values = [(setting, _read(setting)) for setting in _settings()]

    def changes(self, later: ProcessState) -> list[Change]:
        """What has another value in a later state."""
        return list(_changed(self._values, [value for _, value in later._values]))

    def restore(self) -> list[Change]:
        """Puts back what has another value now, and says what it was."""
        found = []
        for change in _changed(self._values):
            change.undo()
            found.append(change)
        return found


def _changed(before: Sequence[tuple[Setting, Any]], later: Sequence[Any] = ()) -> Iterator[Change]:
    """What has another value later, or now. Read one by one: a mode that was left on is met by what is read before it is left."""
    for number, (setting, value) in enumerate(before):
        now = later[number] if later else _read(setting)
        if value is not now and (value is _UNREADABLE or now is _UNREADABLE or not setting.same(value, now)):
            yield Change(setting, value, now)


@contextmanager
def kept_process(within: Sequence[Change] = ()) -> Iterator[list[Change]]:
    """A block after which the process is as it was.

    Args:
        within: Changes that hold in the block.

    Yields:
        A list that holds, after the block, what was put back.
    """
    found: list[Change] = []
    for change in within:
        change.redo()
    before = ProcessState()
    try:
        yield found
    finally:
        found += before.restore()
        for change in within:
            change.undo()


_left_by_calls: dict[str, Change] = {}
"""What single calls changed and was put back, by the name of the setting."""


_BY_EXIT, _IS_BY_EXIT = "os._exit({})", re.compile(r"os\._exit\(-?\d+\)")


@contextmanager
def staying() -> Iterator[None]:
    """A block of the user's code that cannot end the process: what would, by ``sys.exit``, ``os._exit`` or as Ctrl-C does, is an error.

    Raises:
        LeavesProcessError: It would have.
    """
    leave, here = os._exit, os.getpid()

    def refuse(status: int = 0) -> NoReturn:
        if os.getpid() != here:  # in a process that the model has forked
            leave(status)
        raise SystemExit(_BY_EXIT.format(status))

    os._exit = refuse
    try:
        yield
    except (SystemExit, KeyboardInterrupt) as error:
        if isinstance(error, KeyboardInterrupt) and not is_raised_by_code(error):
            raise  # by somebody at the keyboard
        said = str(error) if _IS_BY_EXIT.fullmatch(str(error)) else f"{type(error).__name__}: {error}".removesuffix(": ")
        raise LeavesProcessError(said).with_traceback(error.__traceback__) from None
    finally:
        os._exit = leave


@contextmanager
def kept_for_calls() -> Iterator[None]:
    """A call of a model that cannot end the process, and after which what the next call would compute with is as it was."""
    before = [(setting, _read(setting)) for setting in _settings() if setting.per_call]
    try:
        with staying():
            yield
    finally:
        for change in _changed(before):
            change.undo()
            _left_by_calls.setdefault(change.setting.name, change)


def left_by(run: Callable[[], object]) -> tuple[Change, ...]:
    """What a function changes of the process, which is put back; the random state, of which more is said elsewhere, is not told."""
    _left_by_calls.clear()
    with kept_process() as changes:
        run()
    found = {**_left_by_calls, **{change.setting.name: change for change in changes}}
    return tuple(change for name, change in found.items() if name != RANDOM_NUMBERS)


def in_words(changes: Sequence[Change]) -> str:
    """Changes as one enumeration."""
    shown, left = [str(change) for change in changes[:_MOST]], len(changes) - _MOST
    return joined([*shown, *([counted(left, "other setting")] if left > 0 else [])])


@cache
def _settings() -> tuple[Setting, ...]:
    return tuple(all_settings())


class _Unreadable:
    """In the place of a value that cannot be read, such as the current folder after it was deleted."""

    def __repr__(self) -> str:
        return "unreadable"


_UNREADABLE = _Unreadable()


def _read(setting: Setting) -> Any:
    try:
        return setting.read()
    except Exception:
        return _UNREADABLE


def _write(setting: Setting, value: Any) -> None:
    if value is not _UNREADABLE:
        with suppress(Exception):  # what cannot be put back, such as a hard limit, is said all the same
            setting.write(value)
