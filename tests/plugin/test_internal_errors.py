"""An error in a check of our own is a failure that says so, in every tier; one of the model stays what it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from projects import Project, load_tiers
from small_models import GOOD, output, running_text

import harness.internal_errors
from harness.adapters import make_adapter
from harness.evidence import Evidence, Status, guarded
from harness.export.health import ExportHealthChecker
from harness.internal_errors import CODE, is_internal, write_tracebacks_to
from harness.models.stubs import LMStub
from harness.properties import state
from harness.properties.subject import Subject
from harness.tasks import TaskSpec, TaskType
from pytest_modeltiers.verdicts import Judge

load_tiers(2, 3, 5)

LM = TaskSpec(TaskType.CAUSAL_LM, vocab_size=20, max_seq_len=12, pad_token_id=0)
OURS = Path(harness.internal_errors.__file__).parent


def planted(body: str, file: str = str(OURS / "planted.py")) -> Callable[..., Any]:
    """A function whose frames are those of a file of this project."""
    names: dict[str, Any] = {}
    exec(compile(f"def check(*args, **kwargs):\n    {body}\n", file, "exec"), names)
    return names["check"]  # type: ignore[no-any-return]


BROKEN = planted("return max(())")


@pytest.fixture
def tier(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str, dict[str, Any]]:
    """A property of a tier whose check raises, and the config keys it needs."""
    number: int = request.param
    if number == 1:
        monkeypatch.setattr(state, "registration", BROKEN)
        return "1", "registration", {}
    if number == 2:
        monkeypatch.setattr("harness.analysis.attribution.attribution", BROKEN)
        return "2", "attribution", {}
    if number == 3:
        monkeypatch.setattr("harness.training.checks.step_updates.step_updates", BROKEN)
        return "3", "step_updates", {}
    if number == 4:
        monkeypatch.setattr("harness.export.checks.models.architecture_validation", BROKEN)
        return "4", "architecture_validation", {}
    monkeypatch.setattr("harness.monitoring.checks.harm", BROKEN)
    return "5", "harm", {"eval": {"dataset_id": "cls_tiny_v1"}, "task_name": "cls_tiny", "vocab_size": None, "max_seq_len": None}


@pytest.mark.parametrize("tier", [1, 2, 3, 4, 5], indirect=True)
def test_a_check_that_raises_is_red_and_said_to_be_ours(tier: tuple[str, str, dict[str, Any]], project: Project) -> None:
    number, name, keys = tier
    config = project.config(only=(name,), tier=number, model=None if number == "5" else GOOD, **keys)
    result = project.run("--model-config", config, "--model-report", "out")
    result.assert_outcomes(failed=1)
    (check,) = project.json("out/health_report.json")["checks"]
    (file,) = (project.path / "out").glob("internal_error_*.txt")
    assert check["status"] == "failed"
    assert check["message"].startswith(f"internal error in the check `{name}` of pytest-modeltiers: ValueError: max()")
    assert check["message"].endswith(f"please report it with {file}")
    assert "return max(())" in file.read_text() or "planted.py" in file.read_text()
    assert "Traceback" not in output(result)


def test_the_file_is_in_a_temporary_folder_where_there_is_no_report(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "registration", BROKEN)
    result = project.run("--model-config", project.config(only=("registration",)))
    result.assert_outcomes(failed=1)
    file = running_text(result).partition("please report it with ")[2].split()[0]
    assert "planted.py" in Path(file).read_text()


def test_a_health_check_that_raises_is_said_to_be_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_tracebacks_to(tmp_path)
    monkeypatch.setattr("harness.export.checks.models.memory_requirements", BROKEN)
    checker = ExportHealthChecker(LMStub(20, 12, width=16, depth=1), {"formats": ["safetensors"]}, LM)
    checker.add_check("mine", lambda _exports: 1 // 0)
    found = {check.check_name: check for check in checker.run_all_checks().checks}
    assert "internal error in the check `memory_requirements`" in found["memory_requirements"].message
    assert found["memory_requirements"].details["code"] == CODE
    assert found["mine"].message == "the check itself raised ZeroDivisionError: integer division or modulo by zero"


def test_an_error_while_blame_is_looked_for_is_added_to_the_finding(tmp_path: Path) -> None:
    write_tracebacks_to(tmp_path)
    for status in (Status.FAIL, Status.WARN):
        found = Evidence("causal", status, "it leaks", investigate=BROKEN).investigated()
        assert found.status is Status.FAIL
        assert found.message.startswith("it leaks; where it comes from could not be found: internal error in the check `causal`")
        assert found.details["code"] == CODE
    theirs = Evidence("causal", Status.WARN, "it leaks", investigate=planted("1 / 0", "/home/someone/model.py")).investigated()
    assert (theirs.status, theirs.message) == (Status.WARN, "it leaks")


class Raises(torch.nn.Module):
    """A model of the user's that raises in forward."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        raise KeyError("theirs")


def test_the_innermost_frame_that_is_anybodys_decides(tmp_path: Path) -> None:
    write_tracebacks_to(tmp_path)

    def raised_by(function: Callable[..., Any], *args: Any) -> Exception:
        with pytest.raises(Exception) as raised:  # noqa: PT011  # whichever it is
            function(*args)
        return raised.value

    calls = planted("return args[0](*args[1:])")
    ones = torch.ones(2)
    assert is_internal(raised_by(BROKEN))
    assert is_internal(raised_by(calls, torch.cat, [ones, ones[None]]))
    assert not is_internal(raised_by(calls, Raises(), ones))
    assert not is_internal(raised_by(calls, torch.nn.Linear(3, 3), ones)), "torch's, in a module of the model"
    assert is_internal(
        raised_by(planted("args[0].register_forward_hook(args[1]); return args[0](args[2])"), torch.nn.ReLU(), BROKEN, ones)
    )
    assert not is_internal(raised_by(planted("raise PermissionError(13, 'no')"))), "the machine's"
    assert not is_internal(raised_by(planted('raise RuntimeError("can\'t allocate memory")')))
    spoiled = (ones.clone().requires_grad_() * 1).exp()
    spoiled.data_ptr()
    spoiled *= 2
    assert not is_internal(raised_by(calls, spoiled.sum().backward)), "the backward pass is the model's"


def test_an_unsupported_probe_is_a_skip_with_its_reason() -> None:
    from harness.errors import ProbeUnsupportedError

    def probe() -> Evidence:
        raise ProbeUnsupportedError("int4 weights take no noise")

    found = guarded("causal", probe, lambda error: Evidence("causal", Status.FAIL, str(error)))
    assert (found.status, found.message) == (Status.SKIPPED, "int4 weights take no noise")


def test_what_libraries_raise_in_tier_1_is_not_hidden_as_a_skip() -> None:
    judge = Judge("registration", Subject(LMStub(20, 12, width=16, depth=1).eval(), make_adapter(LM), LM), 1.0)
    judge.holds(planted("raise KeyError('x')", "/home/someone/checks.py"))
    assert judge.finish().status is Status.FAIL
    assert judge.finish().message == "cannot be judged: KeyError: 'x' (checks.py, line 2)"
