"""The folder of the isolated process: counted and removed whatever is in it, also when the process that made it is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.isolation.folder import OwnFolder, deleted_bytes
from harness.isolation.process import IsolatedProcess
from harness.isolation.sandbox import Limits
from harness.processes import last_line

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX")

MANY, MUCH = 10_000, 2**30

STARTS = f"""\
import sys
sys.path.append({str(Path(__file__).parent)!r})
from harness.isolation.process import IsolatedProcess
process = IsolatedProcess("isolated_call:answer", {{"function": "time:sleep", "argument": 600}})
print(process.folder, process._process.pid, flush=True)
sys.stdin.read()
"""


def test_it_is_removed_with_whatever_is_in_it(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.write_text("unharmed")
    folder = OwnFolder()
    deep = os.open(folder.path, os.O_RDONLY)
    for _ in range(1500):  # deeper than a path may be long, and than Python recurses
        os.mkdir("deeper", dir_fd=deep)
        inner = os.open("deeper", os.O_RDONLY, dir_fd=deep)
        os.close(deep)
        deep = inner
    os.close(deep)
    (folder.path / "to-the-canary").symlink_to(canary)
    (folder.path / "to-its-folder").symlink_to(tmp_path)
    os.mkfifo(folder.path / "pipe")
    (folder.path / "locked" / "inside").mkdir(parents=True)
    os.chmod(folder.path / "locked" / "inside", 0)
    os.chmod(folder.path / "locked", 0)
    for name in (b"\xff\xfe", b"new\nline", b"-rf", b"a" * 255):
        (Path(os.fsdecode(os.fsencode(folder.path) + b"/" + name))).write_text("x")

    folder.remove()

    assert not folder.path.exists()
    assert canary.read_text() == "unharmed"


def test_its_files_and_bytes_are_counted_and_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(2**20))
    folder = OwnFolder()
    try:
        (folder.path / "link").symlink_to(tmp_path)
        (folder.path / "a" / "b").mkdir(parents=True)
        (folder.path / "a" / "b" / "file").write_bytes(bytes(2**16))
        files, size = folder.usage(MANY, MUCH)
        assert files == 4
        assert 2**16 <= size < 2**18
        assert folder.usage(2, MUCH)[0] == 3, "counted no further than needed"
    finally:
        folder.remove()


def test_folders_within_each_other_are_too_many_files(tmp_path: Path) -> None:
    folder = OwnFolder()
    try:
        (folder.path / "/".join("d" * 80)).mkdir(parents=True)
        assert folder.usage(MANY, MUCH)[0] > MANY
    finally:
        folder.remove()


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_files_without_a_name_are_counted_too(tmp_path: Path) -> None:
    with (tmp_path / "gone").open("wb") as file:
        before = deleted_bytes(os.getpid())
        file.write(bytes(2**20))
        file.flush()
        (tmp_path / "gone").unlink()
        assert deleted_bytes(os.getpid()) - before >= 2**20


def test_only_the_end_of_what_it_printed_is_read(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as file:
        file.truncate(2**40)  # a terabyte that takes no room
        file.seek(0, os.SEEK_END)
        file.write(b"\nlast words\n")
    assert last_line(log) == "last words"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_when_pytest_is_killed(number: signal.Signals) -> None:
    parent = subprocess.Popen([sys.executable, "-c", STARTS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    folder, child = parent.stdout.readline().split()
    parent.send_signal(number)
    parent.communicate()
    ends = time.monotonic() + 30
    while time.monotonic() < ends and (Path(folder).exists() or is_running(int(child))):
        time.sleep(0.02)
    assert not Path(folder).exists()
    assert not is_running(int(child))


def is_running(pid: int) -> bool:
    """Whether a process is there, and not only its end is waited for."""
    try:
        return b"State:\tZ" not in Path(f"/proc/{pid}/status").read_bytes()
    except OSError:
        return False


PROBE = """\
import os, time

def makes_files(argument):
    for number in range(10_000):
        open(str(number), "w").close()
        time.sleep(0.0005)

def writes(argument):
    for number in range(1000):
        with open(f"{number}", "wb") as file:
            file.write(bytes(2**20))
            os.fsync(file.fileno())
        time.sleep(0.01)

def hides(argument):
    kept = []
    for number in range(1000):
        kept.append(open("x", "wb"))
        os.unlink("x")
        kept[-1].write(bytes(2**20))
        kept[-1].flush()
        time.sleep(0.01)
"""


@pytest.mark.parametrize(("function", "said"), [("makes_files", "100 files"), ("writes", "4 MiB"), ("hides", "4 MiB")])
def test_it_is_ended_when_it_takes_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, said: str) -> None:
    from harness.errors import IsolationError

    (tmp_path / "takes.py").write_text(PROBE)
    monkeypatch.syspath_prepend(tmp_path)
    asked = {"function": f"takes:{function}", "argument": None}
    limits = Limits(folder_files=100, folder_bytes=4 * 2**20)
    with (
        IsolatedProcess("isolated_call:answer", asked, limits=limits) as process,
        pytest.raises(IsolationError, match=f"more than {said}"),
    ):
        process.receive(60)
    assert not process.folder.exists()
