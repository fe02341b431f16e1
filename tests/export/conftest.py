"""What the tests of exports share."""

from __future__ import annotations

import faulthandler
import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.export import clean_process_child
from harness.export.clean_process import ExportedFile


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of this process, with the cache of every test in it."""
    folder = tmp_path_factory.getbasetemp() / "bundles"
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODELTIERS_CACHE", str(folder / "cache"))
        yield folder


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exported files run in a fork of this process, which has imported torch already: as apart as a clean one, in a hundredth of the time.

    For tests of what such a process does; what it imports, and where it finds that, only a clean one shows.
    """
    if not hasattr(os, "fork"):
        return
    for name in ("torch", *clean_process_child._REBUILDING):
        importlib.import_module(name)
    monkeypatch.setattr(ExportedFile, "_run_child", _run_fork)


def _run_fork(file: ExportedFile, folder: Path) -> int:
    leave = os._exit
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 70
    try:
        import torch

        faulthandler.disable()  # pytest's, which would print a crash that is meant
        torch.set_num_threads(1)  # threads do not survive a fork
        os.chdir(folder)
        log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.stdout = sys.stderr = os.fdopen(1, "w")
        sys.argv = ["clean_process_child", "request.json"]
        status = clean_process_child.main()
        sys.stdout.flush()
    finally:
        leave(status)
