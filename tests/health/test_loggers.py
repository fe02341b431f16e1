"""A health report in MLflow, Weights & Biases and TensorBoard: which numbers, which files, and what happens without the package."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from harness.errors import MissingPackageError
from harness.health import ExportHealthReport
from harness.health.checks import CheckResult
from harness.health.history import LOGGERS, log_report, metrics_of, require

REPORT = ExportHealthReport(
    "net",
    checks=[
        CheckResult("tier1::finite_output[extremes]", "passed", "holds", {"tier": 1, "measured": 0.5, "bound": 1.0}),
        CheckResult("tier1::causal", "failed", "leaks", {"tier": 1, "measured": "inf"}),
    ],
    environment={"seconds": 3.0, "commit": "abc", "versions": {"torch": "2.13"}, "threads": 1},
    config={"seed": 3, "eval": None},
)
NUMBERS = {
    "health_score": 50.0,
    "problems": 1.0,
    "total": 2.0,
    "passed": 1.0,
    "warnings": 0.0,
    "failed": 1.0,
    "seconds": 3.0,
    "measured/tier1/finite_output_extremes_": 0.5,
}


def test_the_numbers_of_a_report() -> None:
    assert metrics_of(REPORT) == NUMBERS


def test_curves_of_short_trainings_are_logged_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = fake(monkeypatch, "mlflow")
    mlflow.log_metric = MagicMock()
    lines = [{"label": "AdamW", "x": [0, 10], "y": [2.5, 2.0]}]
    plot = {"kind": "curves", "title": "Loss", "lines": lines, "limits": {"constant": 2.3}}
    check = CheckResult("tier3::overfits_one_batch", "passed", "overfits", {"tier": 3, "plots": [plot]})

    log_report("mlflow", ExportHealthReport("net", checks=[check]), [])

    assert [call.args for call in mlflow.log_metric.call_args_list] == [
        ("tier3/overfits_one_batch/AdamW", 2.5, 0),
        ("tier3/overfits_one_batch/AdamW", 2.0, 10),
    ]


def fake(monkeypatch: pytest.MonkeyPatch, name: str) -> Any:
    module = MagicMock(spec=ModuleType(name), name=name)
    for part in (
        "start_run",
        "log_metrics",
        "log_params",
        "log_artifact",
        "set_tags",
        "set_experiment",
        "get_tracking_uri",
        "init",
        "Html",
    ):
        setattr(module, part, MagicMock())
    monkeypatch.setitem(sys.modules, name, module)
    return module


def test_mlflow_gets_numbers_params_grade_and_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mlflow = fake(monkeypatch, "mlflow")
    assert log_report("mlflow", REPORT, [tmp_path / "health_report.json"]).startswith("MLflow, run ")
    mlflow.log_metrics.assert_called_once_with(NUMBERS)
    assert mlflow.log_params.call_args.args[0]["config.seed"] == "3"
    assert mlflow.set_tags.call_args.args[0] == {"grade": "F", "mlflow.source.git.commit": "abc"}
    mlflow.log_artifact.assert_called_once_with(str(tmp_path / "health_report.json"))


@pytest.mark.parametrize(("key", "mode"), [("", "offline"), ("secret", None)])
def test_wandb_is_offline_where_it_would_ask_for_a_key(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, key: str, mode: str | None
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", key)
    wandb = fake(monkeypatch, "wandb")
    wandb.init.return_value = run = MagicMock(dir=str(tmp_path / "run" / "files"))
    page = tmp_path / "health_report.html"
    page.write_text("<p>")
    log_report("wandb", REPORT, [page])
    assert wandb.init.call_args.kwargs["mode"] == mode
    assert run.log.call_args_list[0].args == (NUMBERS,)
    assert wandb.Html.call_args.args == ("<p>",)
    run.finish.assert_called_once_with()


def test_tensorboard_gets_numbers_and_the_report(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    writer = MagicMock()
    writer.__enter__.return_value = writer
    folders: list[str] = []
    made = SimpleNamespace(SummaryWriter=lambda folder: folders.append(folder) or writer)
    monkeypatch.setitem(sys.modules, "tensorboard", ModuleType("tensorboard"))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", made)  # type: ignore[arg-type]
    monkeypatch.setenv("TENSORBOARD_LOGDIR", str(tmp_path))
    (tmp_path / "modeltiers" / "net").mkdir(parents=True)
    (tmp_path / "modeltiers" / "net" / "events.out.tfevents.1").touch()
    log_report("tensorboard", REPORT, [])
    assert {call.args[0]: call.args[1] for call in writer.add_scalar.call_args_list} == NUMBERS
    assert {call.args[2] for call in writer.add_scalar.call_args_list} == {1}  # of the second run
    assert writer.add_text.call_args.args[1].startswith("# net: grade F")


@pytest.mark.parametrize("name", LOGGERS)
def test_a_package_that_is_not_there_is_said_with_what_to_install(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, name, None)  # type: ignore[arg-type]
    with pytest.raises(MissingPackageError, match=rf"`log_to` {name} needs {name}.*pip install 'pytest-modeltiers\[{name}\]'"):
        require([name])
