"""Child processes: commands that run a module of this package, started in a new process group and stopped with all that they started."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import BinaryIO

_TAIL = 4096
_HERE = Path(__file__).parent
_INSTALLED = ("site-packages", "dist-packages")
_CAUSES = {
    "SIGKILL": "out of memory?",
    "SIGSEGV": "segmentation fault",
    "SIGABRT": "aborted",
    "SIGILL": "illegal instruction",
    "SIGXCPU": "its processor time was used up",
}

_TIED = """\
import os, threading, time
def end_with(parent):
    while os.getppid() == parent:
        time.sleep(0.5)
    os.killpg(0, 9) if os.getpgrp() == os.getpid() else os._exit(1)
if hasattr(os, "killpg"):
    threading.Thread(target=end_with, args=(PARENT,), daemon=True).start()
"""
"""Ends the process, and all it started where it has its own group, once its parent is gone, in whatever way."""

_BOOT = """\
import atexit, gc, importlib.util, runpy, sys
atexit.register(gc.freeze)
sys.path.pop(0)
folder, module = sys.argv[1], sys.argv[2]
spec = importlib.util.spec_from_file_location("harness", folder + "/__init__.py", submodule_search_locations=[folder])
sys.modules["harness"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["harness"])
sys.argv[:] = sys.argv[2:]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""
"""Takes the current folder off the path, whose files may have the name of any module, and binds ``harness`` to this one.

At its end the process does not look through torch's million objects for garbage, which takes half a second.
"""


@contextmanager
def without_collector() -> Iterator[None]:
    """A block in which the garbage collector does not run: one that makes many objects which stay, or whose time is measured."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def module_command(module: str, *arguments: str, tied: bool = True) -> list[str]:
    """The command that runs a module of ``harness`` as a program, which ends with the process that starts it.

    ``python -m`` would put the current folder first on the path: a ``harness`` of the user's own there, or a file called ``random.py``, would be
    imported instead.

    Args:
        module: Its dotted name.
        arguments: What it finds in ``sys.argv[1:]``.
        tied: Whether it watches that process, which takes a thread.
    """
    watch = _TIED.replace("PARENT", str(os.getpid())) if tied else ""
    return [sys.executable, "-c", watch + _BOOT, str(_HERE), module, *arguments]


def environment_of_child(threads: int) -> dict[str, str]:
    """This process's environment, with the number of threads of each operator, and this package where the child can import it.

    Args:
        threads: Of each operator.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    root = _HERE.parent
    if root.name not in _INSTALLED:
        environment["PYTHONPATH"] = os.pathsep.join([str(root), *filter(None, [environment.get("PYTHONPATH")])])
    return environment


def start_process(
    command: Sequence[str],
    log: Path | BinaryIO,
    environment: Mapping[str, str],
    folder: Path | None = None,
    descriptors: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Starts a process in a new process group, so that it can be stopped with all that it starts.

    Args:
        command: The program and its arguments.
        log: File for what it prints, by path or opened. A pipe would stay open as long as anything that the process started.
        environment: Its environment variables.
        folder: Where it runs; by default here.
        descriptors: File descriptors that it inherits.
    """
    with log.open("wb") if isinstance(log, Path) else nullcontext(log) as output:
        return subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=tuple(descriptors),
        )


def stop_process(process: subprocess.Popen[bytes]) -> None:
    """Stops a process and all that it started, also what it left running when it ended; waits for it."""
    with suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()


def last_line(log: Path | BinaryIO) -> str:
    """The last line that a process printed; empty where it printed nothing. Only the end of the file is read."""
    with log.open("rb") if isinstance(log, Path) else nullcontext(log) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL))
        lines = file.read(_TAIL).decode(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else ""


def end_in_words(status: int, log: Path | BinaryIO | None = None) -> str:
    """How a process ended: ``was killed by SIGKILL (out of memory?)``, or ``ended with status 3: `` and the last line that it printed.

    Args:
        status: As ``subprocess`` and ``multiprocessing`` give it: negative for a signal.
        log: File with what it printed, by path or opened.
    """
    if status < 0:
        name = {number.value: number.name for number in signal.Signals}.get(-status, f"signal {-status}")
        return f"was killed by {name}" + (f" ({_CAUSES[name]})" if name in _CAUSES else "")
    said = last_line(log) if log else ""
    return f"ended with status {status}" + (f": {said}" if said else "")
