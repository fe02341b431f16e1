"""The ground modules: files, child processes, and words."""

from __future__ import annotations

import hashlib
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.files import file_hash, json_hash, new_folder, replacing, text_hash, write_whole
from harness.processes import end_in_words, environment_of_child, last_line, start_process, stop_process
from harness.wording import (
    and_others,
    counted,
    duration,
    figure,
    joined,
    listed,
    p_value,
    shortened,
    visible,
    visible_values,
    with_unit,
)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write_half(path: Path) -> None:
    path.write_text("half")
    raise RuntimeError


@pytest.mark.parametrize("content", ["text, also half a surrogate \udc80", b"\x00bytes"])
def test_a_file_is_written_with_its_folder(tmp_path: Path, content: str | bytes) -> None:
    path = write_whole(tmp_path / "new" / "file", content)
    expected = content if isinstance(content, bytes) else content.encode("utf-8", "backslashreplace")
    assert path.read_bytes() == expected
    assert names_in(path.parent) == ["file"]


@pytest.mark.parametrize("one_writer", [False, True])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path, one_writer: bool) -> None:
    path = write_whole(tmp_path / "file", "old")
    with pytest.raises(RuntimeError), replacing(path, one_writer=one_writer) as partial:
        write_half(partial)
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["file"]


def test_a_single_writer_overwrites_what_a_killed_one_left(tmp_path: Path) -> None:
    (tmp_path / ".file.partial").write_text("half")
    with replacing(tmp_path / "file", one_writer=True) as partial:
        assert partial.read_text() == "half"
        partial.write_text("whole")
    assert names_in(tmp_path) == ["file"]


def test_a_folder_appears_when_it_is_full_or_not_at_all(tmp_path: Path) -> None:
    with new_folder(tmp_path / "in" / "folder") as partial:
        (partial / "file").write_text("x")
        assert not (tmp_path / "in" / "folder").exists()
    assert names_in(tmp_path / "in" / "folder") == ["file"]
    with pytest.raises(RuntimeError), new_folder(tmp_path / "in" / "other") as partial:
        raise RuntimeError
    assert names_in(tmp_path / "in") == ["folder"]


def test_hashes(tmp_path: Path) -> None:
    path = write_whole(tmp_path / "file", b"x" * 3_000_000)
    assert file_hash(path) == hashlib.sha256(b"x" * 3_000_000).hexdigest()
    assert text_hash("ä") == hashlib.sha256("ä".encode()).hexdigest()
    assert json_hash("a", {"b": 1, "c": 2}) == json_hash("a", {"c": 2, "b": 1}) != json_hash("a", {"b": 2, "c": 1})


def test_a_process_is_stopped_with_all_that_it_started(tmp_path: Path) -> None:
    started = tmp_path / "started"
    inner = "import time; time.sleep(60)"
    code = (
        f"import subprocess, sys, time; child = subprocess.Popen([sys.executable, '-c', {inner!r}]); "
        f"open({str(started)!r}, 'w').write(str(child.pid)); time.sleep(60)"
    )
    process = start_process([sys.executable, "-c", code], tmp_path / "log", environment_of_child(1))
    while not started.is_file() or not started.read_text():
        time.sleep(0.01)
    stop_process(process)
    assert end_in_words(process.returncode, tmp_path / "log") == "was killed by SIGKILL (out of memory?)"
    stat = Path(f"/proc/{started.read_text()}/stat")
    for _ in range(100):
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.05)
    pytest.fail("what the process started still runs")


def test_what_a_process_printed_last_is_told(tmp_path: Path) -> None:
    process = start_process([sys.executable, "-c", "print('first\\nlast'); raise SystemExit(3)"], tmp_path / "log", os.environ)
    assert process.wait(60) == 3
    assert last_line(tmp_path / "log") == "last"
    assert end_in_words(3, tmp_path / "log") == "ended with status 3: last"
    assert end_in_words(-signal.SIGSEGV, tmp_path / "log") == "was killed by SIGSEGV (segmentation fault)"


def test_a_child_finds_this_package_and_its_threads(tmp_path: Path) -> None:
    code = "import harness, os; print(harness.__file__, os.environ['OMP_NUM_THREADS'])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment_of_child(3), capture_output=True, text=True, check=True
    )
    import harness

    assert done.stdout.split() == [harness.__file__, "3"]


def test_amounts() -> None:
    assert [counted(1, "row"), counted(2000, "row"), counted(0, "batch"), counted(2, "query"), counted(2, "array")] == [
        "1 row",
        "2,000 rows",
        "0 batches",
        "2 queries",
        "2 arrays",
    ]
    assert and_others(0, "row") == ""
    assert and_others(1, "process") == " (and 1 other process)"
    assert and_others(2, "process") == " (and 2 other processes)"


def test_lists() -> None:
    assert listed(["a", "b"]) == "`a`, `b`"
    assert listed(list("abcd"), most=3) == "`a`, `b`, `c` and 1 other"
    assert listed(list("abcdef"), most=3) == "`a`, `b`, `c` and 3 others"
    assert [joined(words) for words in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]
    assert joined(["a", "b"], "or") == "a or b"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1.0, "1"),
        (0.02134, "0.0213"),
        (3.1e-5, "3.1e-5"),
        (4e-7, "4e-7"),
        (1234.0, "1,234"),
        (2.5e7, "2.5e7"),
        (math.inf, "inf"),
        (math.nan, "nan"),
        (-0.5, "-0.5"),
    ],
)
def test_figures(value: float, text: str) -> None:
    assert figure(value) == text


def test_units() -> None:
    assert [
        with_unit(61, "ms"),
        with_unit(1, "tensors"),
        with_unit(2, "tensors"),
        with_unit(1, "calls a step"),
        with_unit(0.5, ""),
    ] == [
        "61 ms",
        "1 tensor",
        "2 tensors",
        "1 call a step",
        "0.5",
    ]


@pytest.mark.parametrize(("p", "text"), [(1e-9, "p < 0.0001"), (0.00031, "p = 0.00031"), (0.051, "p = 0.051"), (0.5, "p = 0.50")])
def test_p_values(p: float, text: str) -> None:
    assert p_value(p) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, ""),
        (0.0004, "<1 ms"),
        (0.0123, "12 ms"),
        (0.9996, "1.0 s"),
        (59.97, "1 min 0 s"),
        (125.2, "2 min 5 s"),
        (3599.9, "1 h 0 min"),
        (11_400.0, "3 h 10 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_shortened_text_is_one_line() -> None:
    assert shortened("one\n two  three", 9) == "one two …"
    assert shortened("one two", 7) == "one two"


PARENT = """\
import subprocess, sys
from harness.processes import module_command
child = subprocess.Popen(module_command("http.server", "0", "--bind", "127.0.0.1"), start_new_session=True, stderr=subprocess.DEVNULL)
print(child.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs process groups")
def test_a_process_ends_with_its_parent_in_whatever_way() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert _runs(child)
    parent.kill()
    parent.communicate()
    until = time.monotonic() + 60
    while time.monotonic() < until and _runs(child):
        time.sleep(0.1)
    assert not _runs(child)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not (state.is_file() and state.read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ünïcödé 漢字 🙂", "plain ünïcödé 漢字 🙂"),
        ("\x1b[2J", "\\x1b[2J"),
        ("\x9b2J\x7f\x00", "\\x9b2J\\x7f\\x00"),
        ("a\u202eb\u2066\u2028", "a\\u202eb\\u2066\\u2028"),
        ("\ud800", "\\ud800"),
        ("a\tb\nc\r\nd\re", "a\\tb\\nc\\r\\nd\\re"),
    ],
)
def test_characters_that_control_are_shown(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert visible(shown) == shown


def test_lines_may_stay_lines() -> None:
    assert visible("a\tb\nc\r\nd\re", lines=True) == "a\tb\nc\nd\\re"
    assert visible_values({"a\x1b": ["b\x07\n", ("c\r", 1, None)]}) == {"a\\x1b": ["b\\x07\n", ("c\\r", 1, None)]}
