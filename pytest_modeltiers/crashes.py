"""A run outlives its process: a segmentation fault, or native code that never returns, fails the test it is in, and the run continues.

Before anything heavy is imported pytest forks. The child is the run, and writes into a journal each test that begins and ends. The parent only
waits. If the child is killed in the middle of a test, or ends itself because the model does not answer, the parent forks another one. That one
repeats the reports in the journal, reports the test that was running as failed, and runs the others.

Under pytest-xdist the main process does as much for its workers, and nothing of this is used but the timer. ``plugin.py`` imports this file, so
that it imports only the standard library and pytest.
"""

from __future__ import annotations

import atexit
import faulthandler
import gc
import json
import os
import re
import secrets
import signal
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import pytest

DEATHS = 3
"""Processes that may die before the tests that are left are not tried any more."""

_WANTED = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGPIPE") if hasattr(signal, name))
"""Signals by which somebody ends a run."""

_PARENT_DEATH_SIGNAL = 1
_FRAME = re.compile(r'^  File "(?P<file>.+)", line (?P<line>\d+) in (?P<name>.+)$', re.MULTILINE)
SUPERVISED = pytest.StashKey["Journal"]()
"""The journal of a run that is supervised."""

_exit = os._exit  # a model's call of it is refused while the model runs

_timer_file: int | None = None
"""Where the timer writes what was running, before it ends the process; without it there is no timer."""


@dataclass
class Death:
    """How a process of the run ended in the middle of it.

    Attributes:
        test: The test that was running; empty while a model was built.
        config: The config whose model was built.
        status: As ``os.waitstatus_to_exitcode`` gives it: negative for a signal.
        reason: What the process said itself, where it could: the model does not answer.
        trace: What every thread was doing, innermost call first.
        printed: What was captured of stdout and stderr.
    """

    test: str = ""
    config: str = ""
    status: int = 0
    reason: str = ""
    trace: str = ""
    printed: tuple[str, str] = ("", "")

    @property
    def hung(self) -> bool:
        """Whether the model did not answer."""
        return bool(self.reason) or self.trace.startswith("Timeout")

    @property
    def frames(self) -> list[tuple[str, int, str]]:
        """File, line and function of each call of the thread that ended the process, or else of the main one; the innermost first."""
        threads = re.split(r"^(?=(?:Current t|T)hread )", self.trace, flags=re.MULTILINE)
        found = next((thread for thread in threads if thread.startswith("Current")), threads[-1])
        return [(match["file"], int(match["line"]), match["name"]) for match in _FRAME.finditer(found)]


@dataclass
class Journal:
    """What the processes of a run have found so far. The child writes; the parent reads between two of them.

    Attributes:
        reports: The reports of each test that has ended, by its node id.
        deaths: How processes of the run ended.
        faults: Descriptor of the file with what was running in a process when it died.
        token: What only this run knows.
    """

    reports: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    deaths: list[Death] = field(default_factory=list)
    _file: int = field(default_factory=lambda: _unnamed_file())
    faults: int = field(default_factory=lambda: _unnamed_file())
    token: str = field(default_factory=lambda: secrets.token_hex(16))

    def write(self, **entry: Any) -> None:
        """Adds an entry; whole, as nothing interrupts so short a call."""
        os.write(self._file, json.dumps(entry, default=str).encode() + b"\n")

    def read(self, status: int) -> bool:
        """Takes in what a process has written that has ended.

        Returns:
            Whether it ended in the middle of a test, or of building a model.
        """
        running, death = "", Death(status=status, trace=_take(self.faults).decode(errors="replace"))
        is_finished = False
        for line in _take(self._file).split(b"\n")[:-1]:
            entry = json.loads(line)
            running = entry.get("begins", running)
            death.config = entry.get("builds", death.config)
            death.reason = entry.get("hangs", death.reason)
            is_finished = is_finished or "finished" in entry
            if "report" in entry:
                self.reports.setdefault(entry["of"], []).append(entry["report"])
            if entry.get("ends"):
                running = ""
        death.test = running
        self.reports.pop(running, None)
        has_died = not is_finished and bool(running or death.config) and -status not in _WANTED
        self.deaths += [death] * has_died
        return has_died


def _unnamed_file() -> int:
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _take(descriptor: int) -> bytes:
    """The content of a file, which is empty then."""
    content = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return content


def supervise(config: pytest.Config) -> None:
    """Forks, and returns in the child; the parent waits, forks again where that helps, and ends as its last child does."""
    journal = Journal()
    handlers = {number: signal.getsignal(number) for number in _WANTED}
    while True:
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
        parent, child = os.getpid(), os.fork()
        if child == 0:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            _end_with(parent)
            atexit.register(gc.freeze)  # what ends with the process need not be looked through for garbage
            config.stash[SUPERVISED] = journal
            return
        status = os.waitstatus_to_exitcode(_wait(child))
        if not journal.read(status) or len(journal.deaths) > DEATHS + 1:
            _end_like(status)
        capture = config.pluginmanager.getplugin("capturemanager")
        journal.deaths[-1].printed = capture.read_global_capture() if capture is not None else ("", "")


def may_supervise(config: pytest.Config, args: Sequence[str]) -> bool:
    """Whether a run can be forked: it is this process's own command, has no workers, and nobody debugs or measures it.

    Args:
        config: pytest's, before any ``conftest.py`` is loaded.
        args: The command line.
    """
    option = config.known_args_namespace
    monitoring = getattr(sys, "monitoring", None)
    is_watched = sys.gettrace() is not None or (monitoring is not None and any(map(monitoring.get_tool, range(6))))
    return (
        hasattr(os, "fork")
        and list(config.invocation_params.args) == sys.argv[1:]
        and not getattr(option, "numprocesses", None)
        and not getattr(option, "tx", None)
        and not any(getattr(option, name, False) for name in ("usepdb", "trace", "collectonly", "help", "version"))
        and not any(arg.startswith("--cov") for arg in args)
        and not is_watched
        and threading.active_count() == 1
        and not {"torch", "ray"} & sys.modules.keys()  # a device that was asked for does not outlive a fork
    )


def _end_with(parent: int) -> None:
    """Has the kernel end this process with the one that waits for it."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)


def _wait(child: int) -> int:
    """The status with which a child ends. It gets the signals that are sent to this process; Ctrl-C reaches both."""

    def forward(number: int, _frame: FrameType | None) -> None:
        os.kill(child, number)

    for number in _WANTED:
        signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else forward)
    return os.waitpid(child, 0)[1]


def _end_like(status: int) -> None:
    if status < 0:
        signal.signal(-status, signal.SIG_DFL) if -status != signal.SIGKILL else None
        os.kill(os.getpid(), -status)
    os._exit(status if status >= 0 else 1)


def end_as_by_ctrl_c(config: pytest.Config) -> None:
    """Has SIGTERM, by which CI and clusters cancel a run, end it as Ctrl-C does: what was done by then is reported.

    Args:
        config: pytest's, of the process that writes the report.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or hasattr(config, "workerinput") or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)  # a second one ends it at once
        signal.default_int_handler(number, frame)  # as Ctrl-C: a `raise` here would be taken for the model's own

    def restore() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    signal.signal(signal.SIGTERM, interrupt)
    config.add_cleanup(restore)


def set_timer(seconds: float) -> None:
    """Ends the process unless this is called again, or ``stop_timer``, within some seconds.

    The timer is a thread of C, so it also ends native code that holds the interpreter's lock, which no thread of Python can.
    """
    if _timer_file is not None:
        faulthandler.dump_traceback_later(seconds, exit=True, file=_timer_file)


def stop_timer() -> None:
    """Ends the timer."""
    if _timer_file is not None:
        faulthandler.cancel_dump_traceback_later()


def use_timer(file: int) -> None:
    """Allows the timer, as somebody reports a process that it ends.

    Args:
        file: Descriptor of the file where it writes what was running.
    """
    global _timer_file
    _timer_file = file


def token_of(config: pytest.Config) -> str:
    """A text that nobody else can know, the same in each process of a run."""
    journal = config.stash.get(SUPERVISED, None)
    return secrets.token_hex(16) if journal is None else journal.token


def end_hanging(config: pytest.Config, reason: str) -> None:
    """Ends a supervised process in which a model does not answer."""
    journal = config.stash.get(SUPERVISED, None)
    if journal is not None:
        journal.write(hangs=reason)
        _exit(1)
