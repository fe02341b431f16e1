"""The time budget: what is counted, what is cut short, and what is a hang."""

from __future__ import annotations

import importlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from small_models import GOOD, output
from torch import Tensor, nn

from harness.adapters import make_adapter
from harness.config import load_config
from harness.errors import TimeBudgetError
from harness.evidence import Evidence, Status
from harness.properties.subject import Subject
from harness.tasks import TaskSpec, TaskType
from pytest_modeltiers.suite import Suite
from pytest_modeltiers.time_budget import Budget, CutShortError, _place, time_limit
from pytest_modeltiers.verdicts import Judge

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")

SLOW = GOOD.replace("import torch\n", "import time\nimport torch\n", 1).replace(
    "x = self.embed(input_ids)",
    "end = time.process_time() + 0.1\n        while time.process_time() < end: pass\n        x = self.embed(input_ids)",
)
"""A model whose call takes a tenth of a second of processor time."""


def compute(seconds: float) -> None:
    """Uses so much processor time."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


class Slow(nn.Module):
    def forward(self, seconds: float) -> None:
        compute(seconds)


LARGE = GOOD.replace(
    "super().__init__()\n",
    "super().__init__()\n        self.table = nn.Parameter(torch.zeros(1 << 12, 1 << 12))\n        self.tied = self.table\n",
    1,
)


@pytest.mark.parametrize("given", [None, 5])
def test_a_large_model_has_the_time_that_its_tests_take_unless_the_config_says_how_much(
    project: Any, monkeypatch: pytest.MonkeyPatch, given: int | None
) -> None:
    monkeypatch.setattr("harness.properties.plan._SECONDS_A_GIB", 600.0)
    named = {} if given is None else {"time_budget": given}
    suite = Suite(load_config(project.config(only=None, model=LARGE, **named)))
    suite.check_model()
    told = suite.told_of_size()
    assert "17 million parameters: all tests take about" in told
    assert suite.budget.seconds == given or suite.budget.seconds == pytest.approx(3 * suite.plan.seconds, rel=0.01)
    assert ("the last ones will be skipped" in told) == (given is not None)


def test_what_waits_uses_nothing_and_what_a_child_computes_is_used() -> None:
    budget = Budget(10)
    with budget.counting():
        time.sleep(0.3)
    assert budget.used < 0.1

    with budget.counting(), budget.counting():  # a block in a block is counted once
        subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.4: pass"], check=True)

    assert 0.35 < budget.used < 1.5
    assert budget.left == pytest.approx(10 - budget.used)


def test_what_a_child_computed_before_is_not_used() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "import time\nwhile time.process_time() < 1: pass"], stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.read()  # until it ends
        budget, began = Budget(10), time.monotonic()
        with budget.counting():
            child.wait()
    assert budget.used <= (time.monotonic() - began) * (os.cpu_count() or 1)


def test_a_test_is_cut_short_at_half_of_what_is_left_and_the_last_one_at_all_of_it() -> None:
    budget = Budget(100, used=20)

    assert (budget.part, budget.limit(50), budget.limit(1)) == pytest.approx((20, 40, 80))
    assert Budget(100, used=85).limit(50) == pytest.approx(10)  # and not half of little, half of that, and so on
    assert Budget(100, used=99).limit(50) == pytest.approx(1)
    assert "time budget of 100 s is spent" in Budget(100, used=101).spent


def test_a_search_borrows_from_the_unused_first_half_and_leaves_half_of_an_even_part_to_the_others() -> None:
    assert Budget(120).share(90) == pytest.approx(5)
    assert Budget(120, used=70).share(50) == pytest.approx(1)
    assert Budget(120, used=60).share(1) == pytest.approx(60)

    budget, parts = Budget(120), []
    for left in range(90, 0, -1):  # every test uses all that it may
        parts.append(budget.share(left))
        budget.used += parts[-1]
    assert budget.left == pytest.approx(0, abs=1e-9)
    assert min(parts) > 120 / 90 / 2


def run(budget: Budget, part: float, block: Callable[[], object]) -> None:
    """Runs a block that may use a part of a budget."""
    with budget.counting(), time_limit(budget, part):
        block()


def test_a_block_that_has_used_its_part_is_cut_short_whatever_it_swallows() -> None:
    def calls() -> None:
        while True:
            with suppress(Exception):  # as models do
                model(0.02)

    model, began = Slow(), time.thread_time()
    with pytest.raises(CutShortError, match=r"cut short after 0\.\d s .* budget of 20 s was left"):
        run(Budget(20), 0.2, calls)
    assert time.thread_time() - began < 1


def test_a_cut_waits_for_the_end_of_what_swallows_it() -> None:
    class Slow:
        def __del__(self) -> None:
            begun = time.thread_time()
            while time.thread_time() < begun + 0.3:
                pass

    def calls() -> None:
        Slow()
        compute(60)

    began = time.thread_time()
    with pytest.raises(CutShortError, match="cut short"):
        run(Budget(20), 0.1, calls)
    assert time.thread_time() - began < 1


@pytest.mark.parametrize("becomes", [None, SystemError("AST constructor recursion depth mismatch")])
def test_a_cut_that_is_lost_on_its_way_is_a_cut_all_the_same(becomes: Exception | None) -> None:
    def swallowed() -> None:
        try:
            compute(60)
        except BaseException:
            if becomes is not None:
                raise becomes from None

    with pytest.raises(CutShortError, match="cut short"):
        run(Budget(20), 0.1, swallowed)


def test_no_import_is_left_half_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "slow_to_import.py").write_text(
        "import time\nwhile time.process_time() < START + 0.6:\n    pass\nDONE = True\n".replace(
            "START", str(time.process_time())
        )
    )
    with pytest.raises(CutShortError, match="cut short"):
        run(Budget(20), 0.1, lambda: [importlib.import_module("slow_to_import"), compute(60)])
    assert sys.modules.pop("slow_to_import").DONE


def test_a_block_that_waits_is_not_cut_short() -> None:
    run(Budget(1), 0.2, lambda: time.sleep(0.6))


def test_a_call_that_takes_the_whole_budget_by_itself_is_a_hang() -> None:
    budget, began = Budget(0.4), time.thread_time()
    with pytest.raises(TimeBudgetError, match=r"did not answer within .* 0\.4 s; it was in Slow\.forward"):
        run(budget, 0.1, lambda: Slow()(60))
    assert time.thread_time() - began < 2
    assert "is spent" in budget.spent


def test_what_waits_for_ever_is_ended_by_the_clock() -> None:
    budget = Budget(0.4)
    with pytest.raises(TimeBudgetError, match=r"did not answer .* s passed by the clock, and it used 0\.0 s"):
        run(budget, 0.2, lambda: time.sleep(60))
    assert "is spent" in budget.spent  # whoever waits once would wait again


def test_somebody_elses_alarm_still_comes() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, _frame: heard.append(number))
    try:
        signal.setitimer(signal.ITIMER_REAL, 1.0)
        budget = Budget(10)
        with budget.counting(), time_limit(budget):
            time.sleep(0.1)
        assert not heard
        deadline = time.monotonic() + 20
        while not heard and time.monotonic() < deadline:
            time.sleep(0.05)
        assert heard == [signal.SIGALRM]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_what_somebody_elses_alarm_raises_ends_the_block_as_that_of_pytest_timeout_does() -> None:
    def ends(_number: int, _frame: object) -> None:
        pytest.fail("Timeout (>0.2s)")

    before = signal.signal(signal.SIGALRM, ends)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        budget = Budget(10)
        with pytest.raises(pytest.fail.Exception, match="Timeout"), budget.counting(), time_limit(budget):
            time.sleep(20)
        assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_what_failed_before_the_cut_stays_and_what_held_says_nothing_of_the_rest() -> None:
    def evidence(status: Status) -> Evidence:
        return Evidence("causal", status, status.value)

    judge = Judge("causal", subject=SimpleNamespace(model=nn.Identity()), share=1)  # type: ignore[arg-type]  # no check is run
    judge._keep(evidence(Status.OK))
    judge.cut_short("cut short")
    assert (judge.worst and judge.worst.status, judge.cut) == (Status.SKIPPED, True)

    judge = Judge("causal", subject=SimpleNamespace(model=nn.Identity()), share=1)  # type: ignore[arg-type]
    judge._keep(evidence(Status.FAIL))
    judge.cut_short("cut short")
    assert judge.worst is not None
    assert judge.worst.message == "fail"


def test_a_failure_is_kept_when_the_time_to_find_the_module_is_over() -> None:
    def investigate() -> str:
        raise CutShortError("cut short", "nowhere")

    judge = Judge("causal", subject=SimpleNamespace(model=nn.Identity()), share=1)  # type: ignore[arg-type]
    judge._keep(Evidence("causal", Status.FAIL, "leaks", investigate=investigate))
    with pytest.raises(CutShortError):
        judge.finish()
    judge.cut_short("cut short")

    assert judge.finish().message == "leaks"


def test_trouble_that_was_not_looked_for_to_the_end_is_looked_for_again() -> None:
    class Interrupted(nn.Module):
        calls = 0

        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(8, 8)

        def forward(self, input_ids: Tensor) -> Tensor:
            Interrupted.calls += 1
            if Interrupted.calls == 1:
                raise CutShortError("cut short", "in forward")
            raise ValueError("as always")

    task = TaskSpec(TaskType.CAUSAL_LM, vocab_size=8, max_seq_len=8)
    subject = Subject(Interrupted().eval(), make_adapter(task), task)
    with pytest.raises(CutShortError):
        _ = subject.prerequisite_failure

    assert "as always" in subject.prerequisite_failure.raises


def test_tests_that_have_no_time_left_are_skipped_and_named(project: Any) -> None:
    project.config(only=None, model=SLOW, time_budget=1)

    result = project.run("--model-config", "cfg.json", "--model-report", "out")

    assert "failed" not in result.parseoutcomes(), output(result)
    said = " ".join(output(result).split())  # without the terminal's line breaks
    assert "the time budget of 1 s is spent" in said
    assert re.search(r"The time budget of 1 s was spent before \d+ tests began: .*full_length.*inference_speed", said)
    report = project.json("out/health_report.json")
    assert any("is spent" in check["reason"] for check in report["skipped"])
    assert "inference_speed" in report["coverage"]
    assert sum(check["duration_seconds"] for check in [*report["checks"], *report["skipped"]] if "duration_seconds" in check) < 2


def test_a_place_is_the_users_or_what_is_called_for_them_and_never_this_projects() -> None:
    def frame() -> Any:
        return sys._getframe()

    assert _place(frame()) == f"at {__file__}, line {frame.__code__.co_firstlineno + 1}"
    assert re.fullmatch(r"at .*textwrap\.py, line \d+|between two calls of the model", _place(None)) is not None
    assert _place(inside_of_pydantic()) == "between two calls of the model"


def inside_of_pydantic() -> Any:
    code = compile("import sys\nframe = sys._getframe()", "/nowhere/harness.py", "exec")
    names: dict[str, Any] = {"__name__": "pydantic.main"}
    exec(code, names)
    return names["frame"]


def test_making_large_weights_takes_no_time_from_the_tests() -> None:
    from torch import nn

    budget = Budget(10)
    with budget.counting(), budget.building():
        layer = nn.Linear(4096, 4096)  # 64 MiB, which may take 3.75 s
        while budget.used_so_far < 0.5:
            layer.bias.sum()
        assert budget.seconds == pytest.approx(13.75, rel=0.01)
    assert (budget.used, budget.seconds) == pytest.approx((0.0, 10.0), abs=0.05)

    with budget.counting(), budget.building():  # few weights get little time
        small = nn.Linear(64, 64)
        while budget.used_so_far < 0.5:
            small.bias.sum()
    assert budget.used == pytest.approx(0.5, abs=0.2)
