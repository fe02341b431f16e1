"""Child processes of the package as forks of the test's, which have imported torch already: as apart as new ones, in a tenth of the time."""

from __future__ import annotations

import faulthandler
import importlib
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch


class Fork:
    """A fork, with what is asked of a ``Popen``."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit status, once it has ended."""
        if self.returncode is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if ended else None
        return self.returncode

    def wait(self, timeout: float = 120.0) -> int:
        """The exit status."""
        end = time.monotonic() + timeout
        while (status := self.poll()) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("a fork", timeout)
            time.sleep(0.005)
        return status


def start_fork(command: Sequence[str], log: Path, environment: Mapping[str, str], folder: Path | None = None) -> Fork:
    """In place of ``start_process``: runs ``main`` of the module that a ``module_command`` names."""
    module, arguments = importlib.import_module(command[4]), command[4:]
    leave, status = os._exit, 70
    if child := os.fork():
        return Fork(child)
    try:
        os.setsid()
        os.chdir(folder or Path.cwd())
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout = sys.stderr = os.fdopen(1, "w")
        os.environ.update(environment)
        sys.argv = list(arguments)
        faulthandler.disable()  # pytest's, which would print a crash that is meant
        torch.set_num_threads(1)  # threads do not survive a fork, whoever asks for more
        torch.set_num_threads = lambda _count: None
        status = module.main()
        sys.stdout.flush()
    finally:
        leave(status)
