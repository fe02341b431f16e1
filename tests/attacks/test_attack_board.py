"""The board of attacks: nothing is through, and without isolation nearly everything is; and the filter of system calls on both processors."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from attack_board import End, run_board, run_on_this_side
from attack_calls import NUMBERS
from attack_child import needs_torch
from attack_field import attempts
from attempts_on_parent import answer, read

from harness.isolation.kernel import MACHINES, program

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="native code is stopped only by the Linux kernel")

ONLY_PYTHON = (
    *("loads native code", "load this library", "looks through all objects", "traces the interpreter", "makes bytecode"),
    *("uses the network", "the call did nothing"),
)
"""What only the audit hook refuses: to load a library, to look up a name in a file, to look at the interpreter, and to add an audit hook."""


def through(ends: list[End], column: str) -> list[str]:
    return [end.name for end in ends if getattr(end, column) == "through"]


def test_there_are_enough_of_them() -> None:
    code = attempts()
    assert len(code) >= 250
    assert sum("::native_" in name for name in code) >= 150


def test_nothing_is_through(tmp_path: Path) -> None:
    """The attempts that do not need torch: the others take seconds to begin."""
    code = {name: one for name, one in attempts().items() if not needs_torch(one)}
    assert through(run_board(tmp_path, code, alone=False, kernel=False), "both") == []


@pytest.mark.long
def test_nothing_of_the_whole_board_is_through_and_without_isolation_it_is(tmp_path: Path) -> None:
    ends = run_board(tmp_path, attempts())
    assert through(ends, "both") == []
    assert len(through(ends, "alone")) >= 0.8 * len(ends)
    of_kernel = [end for end in ends if end.kernel == "through"]
    assert [end.name for end in of_kernel if not any(what in end.both for what in ONLY_PYTHON)] == []


@pytest.mark.long
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="an ordinary user runs the board as one anyway")
def test_nothing_is_through_for_an_ordinary_user() -> None:
    python = shutil.which("python3", path="/usr/bin")  # that of a virtual environment may lie where only root looks
    if python is None:
        pytest.skip("the system has no Python")
    command = [python, str(Path(__file__).parent / "attack_board.py"), "--user", "--light"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def test_a_sound_answer_is_read() -> None:
    reports = read(answer())
    assert [(report.when, report.outcome) for report in reports] == [
        ("setup", "passed"),
        ("call", "failed"),
        ("teardown", "passed"),
    ]
    assert reports[1].longreprtext == "no gradient"


def test_neither_the_parent_nor_a_reader_nor_a_loader_believes_it(tmp_path: Path) -> None:
    ends = run_on_this_side(tmp_path / "here")
    assert len(ends) >= 400
    assert through(ends, "both") == []


def decision(machine: str, number: int, *arguments: int, architecture: int | None = None) -> int:
    """What the filter says of a call: 0x7fff0000 for yes, else 0x50000 and the error; the kernel's machine, in a few lines."""
    data = {0: number, 4: MACHINES[machine] if architecture is None else architecture}
    data |= {16 + 8 * place: value & 0xFFFFFFFF for place, value in enumerate((*arguments, *(0,) * (6 - len(arguments))))}
    steps, at, value = program(machine, 4321), 0, 0
    while True:
        operation, so, otherwise, operand = steps[at]
        at += 1
        if operation == 0x06:
            return operand
        if operation == 0x20:
            value = data[operand]
        elif operation == 0x54:
            value &= operand
        else:
            holds = {0x15: value == operand, 0x35: value >= operand, 0x45: bool(value & operand)}[operation]
            at += so if holds else otherwise


YES, DOES_NOTHING, REFUSED, MISSING = 0x7FFF0000, 0x50000, 0x50001, 0x50026


@pytest.mark.parametrize("machine", MACHINES)
def test_the_filter_lets_through_what_is_needed_and_nothing_else(machine: str) -> None:
    column = list(MACHINES).index(machine)
    number = {name: found[column] for name, found in NUMBERS.items() if found[column] is not None}
    yes = {
        "openat",
        "mmap",
        "memfd_create",
        "fallocate",
        "ftruncate",
        "copy_file_range",
        "truncate",
        "unlinkat",
        "mkdirat",
        "renameat2",
    }
    nothing = {"fchmodat", "fchmodat2", "fchmod", "fchownat", "fchown", "utimensat", "flock"}
    by_argument = {"clone", "clone3", "kill", "tgkill", "prlimit64", "sched_setaffinity", "prctl", "ioctl", "fcntl"}
    yes |= {"readlinkat"}
    for name in number.keys() - by_argument:
        expected = {YES} if name in yes else {DOES_NOTHING} if name in nothing else {REFUSED, MISSING}
        assert decision(machine, number[name]) in expected, name
    assert decision(machine, number["openat"], architecture=0x40000003) == REFUSED, "a call of another processor's kind"


@pytest.mark.parametrize("machine", MACHINES)
def test_the_filter_looks_at_arguments(machine: str) -> None:
    column = list(MACHINES).index(machine)

    def ends(name: str, *arguments: int) -> int:
        number = NUMBERS[name][column]
        assert number is not None
        return decision(machine, number, *arguments)

    assert (ends("kill", 4321, 9), ends("kill", 4320, 9), ends("kill", -1, 9), ends("kill", 0, 9)) == (
        YES,
        REFUSED,
        REFUSED,
        REFUSED,
    )
    assert (ends("tgkill", 4321, 5), ends("tgkill", 1, 1)) == (YES, REFUSED)
    assert (ends("prlimit64", 0), ends("prlimit64", 4321), ends("prlimit64", 1)) == (YES, YES, REFUSED)
    assert (ends("sched_setaffinity", 0), ends("sched_setaffinity", 77)) == (YES, REFUSED)
    assert (ends("clone", 0x3D0F00), ends("clone", 17), ends("clone3")) == (YES, REFUSED, MISSING)
    assert (ends("prctl", 15), ends("prctl", 1), ends("prctl", 22), ends("prctl", 0x59616D61)) == (YES, REFUSED, REFUSED, REFUSED)
    assert [ends("fcntl", 0, command) for command in (1, 1030, 6, 37, 8, 10, 1024)] == [
        YES,
        YES,
        *[DOES_NOTHING] * 2,
        *[REFUSED] * 3,
    ]
    terminals = (0x5412, 0x540E, 0x541C, 0x541D, 0x40086602, 0x8901)
    assert [ends("ioctl", 0, command) for command in terminals] == [REFUSED] * len(terminals)
    assert [ends("ioctl", 0, command) for command in (0x5401, 0x5451, 0xC020462A, 0x30000001)] == [YES] * 4
