"""The progress of a training: a bar where there is a terminal, a line an epoch elsewhere, and a clean terminal afterwards."""

from __future__ import annotations

import io
import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from harness.training import Epoch, Plan, Step, progress
from harness.training.progress import Progress

ROOT = Path(__file__).parents[2]
PLAN = Plan("lm_tiny", 3, 300)


def step(number: int, loss: float = 1.234, **fields: Any) -> Step:
    wanted: dict[str, Any] = {"epoch": (number - 1) // 100, "grad_norm": 1.0, "examples": 82, "seconds": 0.1} | fields
    return Step(number, loss=loss, learning_rate=1e-3, **wanted)


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


def test_a_log_gets_a_line_at_the_start_and_one_an_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Progress()
    shown.on_start(PLAN)
    for number in range(1, 201):
        shown.on_step(step(number))
        if number % 100 == 0:
            shown.evaluating(3, 7)
            shown.on_epoch(Epoch(number // 100 - 1, number, {"val_loss": 1.4, "val_accuracy": 0.5}))
    shown.on_end()
    assert lines(capsys) == [
        "training lm_tiny: 3 epochs, 300 steps",
        "epoch 1/3  step 100/300  loss 1.234  val_loss 1.400  820 examples/s",
        "epoch 2/3  step 200/300  loss 1.234  val_loss 1.400  820 examples/s",
    ]


def test_a_run_that_goes_on_says_from_where(capsys: pytest.CaptureFixture[str]) -> None:
    Progress().on_start(Plan("run", 1, 300, start=100))
    assert lines(capsys) == ["training run: 1 epoch, 300 steps, resumed at step 100"]


def test_the_evaluation_before_training_and_an_epoch_without_any(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Progress()
    shown.on_start(PLAN)
    shown.on_epoch(Epoch(-1, 0, {"val_loss": 5.25}))
    shown.on_epoch(Epoch(0, 100))
    assert lines(capsys)[1:] == ["before training  val_loss 5.250", "epoch 1/3  step 100/300"]


def test_another_monitored_metric_is_shown_beside_the_loss(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Progress()
    shown.on_start(Plan("run", 1, 10, monitor="val_perplexity"))
    shown.on_epoch(Epoch(0, 10, {"val_perplexity": 4.0, "val_loss": 1.386, "val_f1": 0.3}))
    assert lines(capsys)[1:] == ["epoch 1/1  step 10/10  val_loss 1.386  val_perplexity 4.000"]


def test_the_speed_of_an_epoch_is_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Progress()
    shown.on_start(PLAN)
    shown.on_step(step(100, seconds=10.0))
    shown.on_epoch(Epoch(0, 100))
    shown.on_step(step(200, seconds=0.01))
    shown.on_epoch(Epoch(1, 200))
    assert [line.partition("loss 1.234  ")[2] for line in lines(capsys)[1:]] == ["8.2 examples/s", "8,200 examples/s"]


def test_a_loss_that_is_not_finite_shows_at_once_and_not_for_ever(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Progress()
    shown.on_start(PLAN)
    for number, loss in enumerate((1.0, math.nan, 1.0, math.inf, 2e-6), 1):
        shown.on_step(step(number, loss, seconds=0.0))
        shown.on_epoch(Epoch(number, number))
    assert [line.rpartition("loss ")[2] for line in lines(capsys)[1:]] == ["1.000", "nan", "1.000", "inf", "0.649"]


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Progress(quiet=True)
    shown.on_start(PLAN)
    shown.on_step(step(1))
    shown.evaluating(1, 2)
    shown.on_epoch(Epoch(0, 100, {"val_loss": 1.0}))
    shown.on_end()
    assert lines(capsys) == []


def test_the_end_may_come_first_and_twice(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Progress()
    shown.on_end()
    shown.on_end()
    assert lines(capsys) == []


def test_a_name_with_control_characters_is_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    Progress().on_start(Plan("\x1b[2Jbad\nname [red]", 1, 1))
    assert lines(capsys) == ["training  [2Jbad name [red]: 1 epoch, 1 step"]


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


def closed() -> io.StringIO:
    file = io.StringIO()
    file.close()
    return file


@pytest.mark.parametrize("make", [Broken, closed, lambda: None])
def test_a_stderr_that_is_gone_stops_no_training(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", make())
    shown = Progress()
    shown.on_start(PLAN)
    shown.on_step(step(1))
    shown.on_epoch(Epoch(0, 100))
    shown.on_end()


class BreakingTerminal(io.StringIO):
    """A terminal that goes away after some writes."""

    left = 6

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.left -= 1
        if self.left < 0:
            raise BrokenPipeError
        return len(text)


def test_a_terminal_that_goes_away_stops_no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    monkeypatch.setattr(progress, "_PATIENCE", 0)
    stdout = sys.stdout
    monkeypatch.setattr(sys, "stderr", BreakingTerminal())
    stderr = sys.stderr
    shown = Progress()
    shown.on_start(PLAN)
    for number in range(1, 20):
        shown.on_step(step(number))
    shown.on_end()
    assert (sys.stdout, sys.stderr) == (stdout, stderr)


RUN = """
import sys, time
from harness.training import progress
from harness.training import Epoch, Plan, Step
progress.INTERVAL, progress._PATIENCE = 0.0, 0
shown = progress.Progress()
try:
    shown.on_start(Plan("lm_tiny", 2, 8))
    for number in range(1, 9):
        time.sleep(0.01)
        shown.on_step(Step(number, (number - 1) // 4, 1.5, 1e-3, 1.0, 8, 0.12))
        if number == 2:
            print("from the training")
        if number == 6:
            {event}
        if number % 4 == 0:
            for done in range(1, 4):
                time.sleep(0.01)
                shown.evaluating(done, 3)
            shown.on_epoch(Epoch(number // 4 - 1, number, {{"val_loss": 1.25}}))
finally:
    shown.on_end()
print("after")
"""


def on_a_terminal(event: str = "pass", columns: int = 100, stdout: Any = None, **environment: str) -> tuple[str, int]:
    """What a training writes on its own terminal, and how it ended."""
    pty = pytest.importorskip("pty")
    near, far = pty.openpty()
    variables = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR")}
    variables |= {"TERM": "xterm", "COLUMNS": str(columns), "LINES": "24", "PYTHONPATH": str(ROOT), **environment}
    process = subprocess.Popen([sys.executable, "-c", RUN.format(event=event)], stdout=stdout or far, stderr=far, env=variables)
    os.close(far)
    written = b""
    while True:
        try:
            part = os.read(near, 65536)
        except OSError:  # how Linux says that the other side is closed
            break
        if not part:
            break
        written += part
    os.close(near)
    return written.decode(), process.wait(timeout=60)


def screen(written: str) -> list[str]:
    """The rows a terminal shows in the end, of the few control codes that rich uses here."""
    rows, row, column = [""], 0, 0
    for code in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|[^\x1b]", written):
        if code == "\n":
            row += 1
            rows += [""] * (row + 1 - len(rows))
        elif code == "\r":
            column = 0
        elif code == "\x1b[2K":
            rows[row] = ""
        elif re.fullmatch(r"\x1b\[\d+A", code):
            row -= int(code[2:-1])
        elif not code.startswith("\x1b"):
            rows[row] = rows[row][:column].ljust(column) + code + rows[row][column + 1 :]
            column += 1
    return [text.rstrip() for text in rows]


def frames(written: str) -> list[str]:
    """Every state in which the bar was drawn."""
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written)
    return [part.strip() for part in re.split(r"[\r\n]+", plain) if re.search(r"[━╸╺]", part)]


def test_a_terminal_gets_a_bar_that_is_gone_in_the_end() -> None:
    written, code = on_a_terminal()
    assert code == 0
    shown = frames(written)
    assert any(re.fullmatch(r"epoch 1/2  [━╸╺]+  3/8  loss 1\.500  8\.3 steps/s  0:00:0\d left", frame) for frame in shown)
    assert any("evaluating 2/3" in frame for frame in shown)
    assert any("val_loss 1.250" in frame for frame in shown)
    assert [row for row in screen(written) if row] == [
        "training lm_tiny: 2 epochs, 8 steps",
        "from the training",
        "epoch 1/2  step 4/8  loss 1.500  val_loss 1.250  67 examples/s",
        "epoch 2/2  step 8/8  loss 1.500  val_loss 1.250  67 examples/s",
        "after",
    ]


@pytest.mark.parametrize(("event", "words"), [("raise ValueError('broke')", "broke"), ("raise KeyboardInterrupt", "KeyboardInt")])
def test_whatever_ends_a_training_the_terminal_is_clean(event: str, words: str) -> None:
    written, code = on_a_terminal(event)
    assert code != 0
    rows = screen(written)
    assert rows[3].startswith("Traceback")
    assert any(words in row for row in rows)
    assert not any(re.search(r"[━╸╺]", row) for row in rows)
    assert written.rfind("\x1b[?25h") > written.rfind("\x1b[?25l") >= 0  # the cursor is shown again


def test_a_training_that_exits_without_an_end_leaves_a_clean_terminal() -> None:
    written, _ = on_a_terminal("shown.on_end = lambda: None; sys.exit(0)")
    assert written.rfind("\x1b[?25h") > written.rfind("\x1b[?25l") >= 0
    assert not any(re.search(r"[━╸╺]", row) for row in screen(written))


def test_what_is_printed_to_a_file_stays_there(tmp_path: Path) -> None:
    with open(tmp_path / "out.txt", "w") as file:
        written, _ = on_a_terminal(stdout=file)
    assert frames(written)
    assert (tmp_path / "out.txt").read_text() == "from the training\nafter\n"
    assert "from the training" not in written


@pytest.mark.parametrize("columns", [20, 40, 60, 80, 140])
def test_the_bar_never_takes_more_than_a_line(columns: int) -> None:
    written, code = on_a_terminal(columns=columns)
    assert code == 0
    assert {len(frame) < columns for frame in frames(written)} <= {True}
    assert not any(re.search(r"[━╸╺]", row) for row in screen(written))


def test_a_dumb_terminal_gets_plain_lines() -> None:
    written, _ = on_a_terminal(TERM="dumb")
    assert "\x1b" not in written
    assert frames(written) == []
    assert "epoch 2/2  step 8/8" in written


class Terminal(io.StringIO):
    """A terminal that remembers how often it was drawn on."""

    def isatty(self) -> bool:
        return True


def test_drawing_is_throttled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    shown = Progress()
    shown.on_start(Plan("run", 1, 10**9))
    begin, number = time.monotonic(), 0
    while time.monotonic() < begin + 0.55:
        number += 1
        shown.on_step(step(number, seconds=1e-6))
    drawn = len(frames(terminal.getvalue()))
    shown.on_end()
    assert 1 <= drawn <= 8
    assert number > 1000


def test_a_step_costs_microseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    steps = [step(number) for number in range(1, 50_001)]
    shown = Progress()
    shown.on_start(Plan("run", 1, len(steps)))
    begin = time.process_time()
    for one in steps:
        shown.on_step(one)
    cost = (time.process_time() - begin) / len(steps)
    shown.on_end()
    assert cost < 10e-6  # 0.7 µs where it was measured; the rest is room for busy machines


def test_rich_is_imported_for_a_bar_alone() -> None:
    code = "import harness.training.progress as p, sys; from harness.training import Plan\n"
    code += "shown = p.Progress(); shown.on_start(Plan('run', 1, 1)); shown.on_end(); sys.exit('rich' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, stderr=subprocess.PIPE).returncode == 0
