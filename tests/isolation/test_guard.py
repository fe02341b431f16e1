"""The isolated process: what it may do, what it may not, how it ends, and what it says of itself."""

from __future__ import annotations

import os
import platform
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from isolated_call import run_isolated

from harness.errors import IsolationError
from harness.isolation.process import IsolatedProcess
from harness.isolation.sandbox import Limits

PROBE = """\
import os, sys

def work(argument):
    import tempfile, threading, torch
    from pathlib import Path
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "a.txt").write_text("x")
        os.rename(Path(folder, "a.txt"), Path(folder, "b.txt"))
    torch.save(torch.ones(2), "here.pt")
    thread = threading.Thread(target=torch.randn(200, 200).mm, args=(torch.randn(200, 200),))
    thread.start()
    thread.join()
    with open(os.devnull, "w") as nowhere:
        nowhere.write("x")
    return {"sum": torch.load("here.pt", weights_only=True).sum().item(), "home": str(Path.home()), "read": len(Path(argument).read_text())}

def environment(argument):
    return dict(os.environ)

def fails(argument):
    raise ValueError("no such luck")

def swallows(argument):
    try:
        open(argument, "w")
    except Exception:
        return "swallowed"

def unlinks_itself(argument):
    os.symlink(argument, "link")

def goes_elsewhere(argument):
    os.chdir("/")
    open("mark-that-must-not-be", "w")

def opens_a_folder(argument):
    folder = os.open(argument, os.O_RDONLY)
    os.open("mark", os.O_CREAT | os.O_WRONLY, dir_fd=folder)

def dies(argument):
    os.abort()

def hangs(argument):
    while True:
        pass

def eats_memory(argument):
    return len(bytearray(200 * 2**30))

def writes_much(argument):
    with open("big", "wb") as file:
        for _ in range(64):
            file.write(bytes(2**20))

def answers_nonsense(argument):
    import gc
    os.write(int(sys.argv[2]), b"[" * 100_000 + b"\\n")

def rights(argument):
    status = open("/proc/self/status").read()
    held = [line.split()[1] for line in status.splitlines() if line.startswith(("CapEff", "CapPrm"))]
    return {"users": [*os.getresuid(), *os.getresgid()], "rights": [int(number, 16) for number in held]}

def lies(argument):
    import json
    os.write(int(sys.argv[2]), json.dumps({"value": "sound", "error": "", "attempts": []}).encode() + b"\\n")
    raise ValueError("not sound at all")
"""


@pytest.fixture
def probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "probe").mkdir()
    (tmp_path / "probe" / "probe.py").write_text(PROBE)
    monkeypatch.syspath_prepend(tmp_path / "probe")
    return tmp_path / "probe"


def run(probe: Path, function: str, argument: Any = None, **options: Any) -> Any:
    return run_isolated(f"probe:{function}", argument, own=[probe], **options)


def test_ordinary_work_is_done(probe: Path) -> None:
    found = run(probe, "work", str(probe / "probe.py"), preload=["torch"])
    assert found.error == ""
    assert found.attempts == []
    assert (found.value["sum"], found.value["read"]) == (2.0, len(PROBE))
    assert not Path(found.value["home"]).exists()  # it was in the folder that is gone now


def test_secrets_in_the_environment_do_not_come_along(probe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", "secret")
    assert "secret" not in str(run(probe, "environment").value)


def test_what_it_raises_is_said_in_a_line(probe: Path) -> None:
    found = run(probe, "fails")
    assert (found.value, found.error) == (None, "ValueError: no such luck (probe.py, line 21)")


def test_an_attempt_is_noted_even_if_the_code_goes_on(probe: Path, tmp_path: Path) -> None:
    found = run(probe, "swallows", str(tmp_path / "mark"))
    assert found.value == "swallowed"
    assert [str(attempt) for attempt in found.attempts] == [f"writes {tmp_path / 'mark'} (open; probe.py, line 25)"]


@pytest.mark.parametrize(
    ("function", "said"),
    [("unlinks_itself", "makes a link"), ("goes_elsewhere", "changes the working folder"), ("opens_a_folder", "writes")],
)
def test_ways_around_the_folder_are_closed(probe: Path, tmp_path: Path, function: str, said: str) -> None:
    found = run(probe, function, str(tmp_path))
    assert said in found.error
    assert not (tmp_path / "mark").exists()
    assert not Path("/mark-that-must-not-be").exists()


def test_a_crash_is_an_error_not_the_end(probe: Path) -> None:
    with pytest.raises(IsolationError, match="killed by SIGABRT"):
        run(probe, "dies")


def test_it_is_ended_when_it_does_not_answer(probe: Path) -> None:
    with pytest.raises(IsolationError, match=r"did not answer within 0\.5 s, and was ended"):
        run(probe, "hangs", seconds=0.5)


def test_its_processor_time_is_limited(probe: Path) -> None:
    with pytest.raises(IsolationError, match=r"its processor time was used up|killed"):
        run(probe, "hangs", limits=Limits(cpu_seconds=2))


@pytest.mark.skipif(sys.platform != "linux", reason="the address space is not limited elsewhere")
def test_its_memory_is_limited(probe: Path) -> None:
    assert run(probe, "eats_memory", limits=Limits(memory_bytes=2**30)).error.startswith("MemoryError")


def test_the_size_of_its_files_is_limited(probe: Path) -> None:
    assert "File too large" in run(probe, "writes_much", limits=Limits(file_bytes=2**20)).error


def test_what_it_answers_is_not_believed(probe: Path) -> None:
    with pytest.raises(IsolationError, match="nonsense"):
        run(probe, "answers_nonsense")


def test_a_lie_in_the_right_form_is_believed(probe: Path) -> None:
    """SECURITY.md says so: the verdict is as good as the code that it is about is honest."""
    found = run(probe, "lies")
    assert (found.value, found.error) == ("sound", "")


def test_windows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.isolation.process.os", SimpleNamespace(name="nt"))
    with pytest.raises(IsolationError, match=r'^`isolation` "process" needs Linux or macOS$'):
        IsolatedProcess("isolated_call:answer", None)


def at_start(folder: Path, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has the isolated process begin with some code, before anything of this project."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the audit hook stands alone")
@pytest.mark.parametrize(
    ("elsewhere", "layers"),
    [("sys.platform = 'darwin'", ["audit hook"]), ("platform.machine = lambda: 'riscv64'", ["Landlock", "audit hook"])],
    ids=["another system", "another processor"],
)
def test_only_the_walls_that_stand_are_named(
    probe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: str, layers: list[str]
) -> None:
    at_start(tmp_path / "start", f"import platform, sys\n{elsewhere}\n", monkeypatch)
    found = run(probe, "swallows", str(tmp_path / "mark"))
    assert found.layers == layers
    assert [attempt.event for attempt in found.attempts] == ["open"]
    assert not (tmp_path / "mark").exists()


NOBODY, READS_EVERYTHING = 65534, 1 << 2
GIVES_UP = """\
import ctypes, struct
held = next(line for line in open("/proc/self/status") if line.startswith("CapEff"))
kept = int(held.split()[1], 16) & 0xFFFFFFFF & ~RIGHT
ctypes.CDLL(None).syscall(CAPSET, struct.pack("Ii", 0x20080522, 0), struct.pack("6I", kept, kept, 0, 0, 0, 0))
"""


def may_step_down() -> bool:
    """Whether root of this machine has what it takes to become somebody else, read by other means than the code that is tested."""
    held = int(
        next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff")).split()[1], 16
    )
    return all(held >> bit & 1 for bit in (0, 1, 2, 5, 6, 7))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0 or sys.platform != "linux", reason="for root on Linux")
def test_root_becomes_nobody_where_it_may_and_has_no_rights_anywhere(
    probe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = run(probe, "rights").value
    assert found["users"] == [NOBODY if may_step_down() else 0] * 6
    assert set(found["rights"]) <= {0, READS_EVERYTHING}

    number = {"x86_64": 126, "aarch64": 91}[platform.machine()]
    code = GIVES_UP.replace("RIGHT", str(READS_EVERYTHING)).replace("CAPSET", str(number))
    at_start(tmp_path / "start", code, monkeypatch)
    assert run(probe, "rights").value == {"users": [0] * 6, "rights": [0, 0]}


def test_a_target_that_is_not_there_is_said(probe: Path) -> None:
    with pytest.raises(IsolationError, match=r"died: it ended with status 1: .*no attribute 'missing'"):
        IsolatedProcess("harness.isolation.child:missing", None)


def test_nothing_is_left_behind(probe: Path) -> None:
    with IsolatedProcess("isolated_call:answer", {"function": "probe:hangs", "argument": None}) as process:
        folder, number = process.folder, process._process.pid
    assert not folder.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(number, signal.SIGCONT)
