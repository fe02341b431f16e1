"""A page of the documentation, done as it says, in its own folder."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fences import ROOT, Fence

from harness.catalogue import CATALOGUE
from harness.cli import main
from pytest_modeltiers.checks import REGISTERED

ELSEWHERE = ("main", "tests")
"""Marks of the README's two commands: the one is `tests/examples`' to run, the other runs these very tests."""


class PageRun:
    """Does what the fences of a page say, one after another.

    Commands of the project run in this process, which has torch already: a process for each would take minutes.

    Args:
        folder: Where the page's files lie and its commands run.
        capture: Takes what is printed.
    """

    def __init__(self, folder: Path, capture: pytest.CaptureFixture[str]) -> None:
        self._folder = folder
        self._capture = capture
        self._names: dict[str, Any] = {"__name__": "page"}
        self._printed = ""

    def do(self, fence: Fence) -> None:
        """Writes, runs or compares a fence."""
        if fence.marked("not run") is not None or fence.mark in ELSEWHERE:
            return
        path = fence.marked("part of")
        if path is not None:
            assert fence.text.strip() in (ROOT / path).read_text(encoding="utf-8"), (
                f"line {fence.line}: {path} says something else"
            )
        elif fence.marked("output") is not None:
            self._compare(fence)
        elif fence.title is not None:
            file = self._folder / fence.title
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(fence.text, encoding="utf-8")
        elif fence.language == "python":
            with self._printing():
                exec(compile(fence.text, f"line {fence.line}", "exec"), self._names)
        elif fence.language == "sh":
            self._shell(fence)
        else:
            raise AssertionError(f"line {fence.line}: a {fence.language!r} fence with no title and no mark is never looked at")

    def _shell(self, fence: Fence) -> None:
        expected = int(fence.marked("exits") or 0)
        lines = [
            line for line in fence.text.replace("\\\n", " ").splitlines() if line.strip() and not line.lstrip().startswith("#")
        ]
        printed = []
        for number, line in enumerate(lines, 1):
            with self._printing():
                status = self._command(line)
            printed.append(self._printed)
            wanted = expected if number == len(lines) else 0
            assert status == wanted, f"line {fence.line}: `{line}` ended with {status}, not {wanted}:\n{self._printed}"
        self._printed = "\n".join(printed)

    def _command(self, line: str) -> int:
        words = [] if re.search(r"[<>|;&$]", line) else shlex.split(line, comments=True)
        with _forgetting(self._folder):
            if words[:1] == ["modeltiers"]:
                try:
                    return main(words[1:])
                except SystemExit as stop:  # argparse, for --help and wrong options
                    return int(stop.code or 0)
            if words[:1] == ["pytest"]:
                return int(pytest.main(words[1:]))
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return subprocess.run(["bash", "-c", line], env={**os.environ, "PATH": path}, check=False).returncode

    @contextlib.contextmanager
    def _printing(self) -> Iterator[None]:
        self._capture.readouterr()
        yield
        out, err = self._capture.readouterr()
        self._printed = out + err

    def _compare(self, fence: Fence) -> None:
        printed = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", self._printed).split())
        for line in fence.text.splitlines():
            pattern = ".*?".join(re.escape(" ".join(part.split())) for part in line.split("…"))
            assert re.search(pattern, printed), f"line {fence.line}: not printed: {line}\n{self._printed}"


@contextlib.contextmanager
def _forgetting(folder: Path) -> Iterator[None]:
    """Lets go of what a command imported from a folder, as the end of a process would."""
    path, current, properties = list(sys.path), os.environ["PYTEST_CURRENT_TEST"], dict(CATALOGUE)
    try:
        yield
    finally:
        sys.path[:] = path
        REGISTERED.clear()
        CATALOGUE.clear()
        CATALOGUE.update(properties)
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", None) or "").startswith(str(folder)):
                del sys.modules[name]
        os.environ["PYTEST_CURRENT_TEST"] = current  # which a pytest inside the test took away
