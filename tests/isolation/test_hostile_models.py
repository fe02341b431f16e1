"""Hostile model files: the scan sees most, isolation stops all; and each does harm where neither is there."""

from __future__ import annotations

import base64
import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile_models import HOSTILE, Hostile
from isolated_call import Isolated, run_isolated

from harness.scan import scan_files

HERE = Path(__file__).parent


class Field:
    """A folder of hostile files, and what they left."""

    def __init__(self, folder: Path) -> None:
        self.models = folder / "models"
        self.marks = folder / "marks"
        self.models.mkdir(parents=True)
        self.marks.mkdir()
        self._listeners: dict[str, socket.socket] = {}
        self._connected: set[str] = set()
        for hostile in HOSTILE:
            self._place(hostile)

    def harmed(self) -> set[str]:
        """Names of the files that left a mark."""
        return {hostile.name for hostile in HOSTILE if self._has_mark(hostile)}

    def close(self) -> None:
        """Stops listening."""
        for listener in self._listeners.values():
            listener.close()

    def _place(self, hostile: Hostile) -> None:
        canary = self.marks / f"canary-{hostile.name}" / "canary"
        canary.parent.mkdir()
        canary.write_text("alive")
        port = self._listen(hostile.name) if hostile.mark == "listener" else 0
        packed = base64.b64encode(f"open('{self._mark(hostile)}', 'w').close()".encode()).decode()
        source = hostile.source.replace("MARK", str(self._mark(hostile))).replace("CANARY", str(canary))
        source = source.replace("PORT", str(port)).replace("PACKED", packed)
        (self.models / f"{hostile.name}.py").write_text(source)

    def _mark(self, hostile: Hostile) -> Path:
        return self.marks / f"mark-{hostile.name}"

    def _has_mark(self, hostile: Hostile) -> bool:
        gone = not (self.marks / f"canary-{hostile.name}" / "canary").exists()
        return self._mark(hostile).exists() or gone or hostile.name in self._connected

    def _listen(self, name: str) -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        self._listeners[name] = listener

        def accept() -> None:
            with contextlib.suppress(OSError):  # until it is closed
                while True:
                    connection, _ = listener.accept()
                    self._connected.add(name)
                    connection.close()

        threading.Thread(target=accept, daemon=True).start()
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    field = Field(tmp_path_factory.mktemp("hostile"))
    yield field
    field.close()


@pytest.fixture(scope="module")
def isolated(field: Field) -> Isolated:
    return run_isolated("hostile_child:run_all", str(field.models), own=[field.models], preload=["torch", "numpy", "safetensors"])


def test_there_are_enough_of_them() -> None:
    assert len(HOSTILE) >= 30
    assert len({hostile.name for hostile in HOSTILE}) == len(HOSTILE)
    assert sum(hostile.dodges for hostile in HOSTILE) >= 12, "SECURITY.md says a dozen"


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: hostile.name)
def test_the_scan_sees_what_does_not_dodge_it(field: Field, hostile: Hostile) -> None:
    file = field.models / f"{hostile.name}.py"
    assert bool(scan_files({file.name: file.read_bytes()})) is not hostile.dodges


@pytest.mark.skipif(sys.platform != "linux", reason="native code is stopped only by the Linux kernel")
def test_none_leaves_a_mark_in_isolation(field: Field, isolated: Isolated) -> None:
    assert isolated.error == ""
    assert field.harmed() == set()


def test_what_was_refused_is_reported_with_its_line(isolated: Isolated) -> None:
    assert {attempt.place for attempt in isolated.attempts if attempt.own} >= {"os_system.py, line 2", "tofile.py, line 2"}
    assert "Landlock" in isolated.layers
    assert "refused by isolation: the code starts a process (os_system.py, line 2)" in isolated.value["os_system"]


def test_each_of_them_does_harm_without_isolation(tmp_path: Path) -> None:
    """Otherwise the tests above would show nothing."""
    field = Field(tmp_path)
    command = [sys.executable, "hostile_child.py", str(field.models)]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=60, check=False)
    harmless = {hostile.name for hostile in HOSTILE} - field.harmed()
    field.close()
    assert harmless == set(), done.stdout[-2000:]
