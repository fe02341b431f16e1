"""A health report in MLflow, Weights & Biases and TensorBoard."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness.documents import flat
from harness.errors import optional_package
from harness.health.checks import HealthResults

_LONGEST_PARAM = 250
_MOST_PARAMS = 100
_PROJECT = "modeltiers"


def metrics_of(report: HealthResults) -> dict[str, float]:
    """The numbers of a report: the score, counts, the duration, and what each check measured."""
    counts = {key: float(value) for key, value in report.summary.items()}
    problems = sum(cause.status == "failed" for cause in report.causes)
    measured = {
        f"measured/{_name(check.check_name)}": float(value)
        for check in report.checks
        if isinstance(value := check.details.get("measured"), (int, float)) and math.isfinite(value)
    }
    took = {"seconds": float(report.environment["seconds"])} if "seconds" in report.environment else {}
    return {"health_score": report.health_score, "problems": float(problems), **counts, **took, **measured}


def require(names: Sequence[str]) -> None:
    """Sees that the packages of some loggers are there, before a run that would be lost to them.

    Raises:
        MissingPackageError: One is not installed.
    """
    for name in names:
        _package(name)


def log_report(name: str, report: HealthResults, files: Sequence[Path]) -> str:
    """Logs a report; returns where it is.

    Args:
        name: ``mlflow``, ``wandb`` or ``tensorboard``.
        report: The report.
        files: Its files, where they were written.

    Raises:
        MissingPackageError: The package is not installed.
        Exception: Whatever the package raises where it cannot log.
    """
    return LOGGERS[name](report, files)


def _package(name: str) -> Any:
    return optional_package(name, f"`log_to` {name}", name)


def _to_mlflow(report: HealthResults, files: Sequence[Path]) -> str:
    mlflow = _package("mlflow")
    if not os.environ.get("MLFLOW_EXPERIMENT_NAME") and not os.environ.get("MLFLOW_EXPERIMENT_ID"):
        mlflow.set_experiment(_PROJECT)
    with mlflow.start_run(run_name=report.model_name) as run:
        mlflow.log_metrics(metrics_of(report))
        mlflow.log_params(dict(list(_params(report).items())[:_MOST_PARAMS]))
        mlflow.set_tags(
            {"grade": report.grade or "none", "mlflow.source.git.commit": str(report.environment.get("commit") or "")}
        )
        for file in files:
            mlflow.log_artifact(str(file))
        return f"MLflow, run {run.info.run_id} at {mlflow.get_tracking_uri()}"


def _to_wandb(report: HealthResults, files: Sequence[Path]) -> str:
    wandb = _package("wandb")
    # Without a key it would ask for one, and wait.
    known = os.environ.get("WANDB_MODE") or os.environ.get("WANDB_API_KEY")
    mode = None if known else "offline"
    project = os.environ.get("WANDB_PROJECT", _PROJECT)
    run = wandb.init(project=project, name=report.model_name, config=_params(report), mode=mode)
    run.log(metrics_of(report))
    run.summary["grade"] = report.grade or "none"
    page = next((file for file in files if file.suffix == ".html"), None)
    if page is not None:
        run.log({"report": wandb.Html(page.read_text(encoding="utf-8"), inject=False)})
    place = run.dir
    run.finish()
    return f"Weights & Biases{', offline' if mode else ''}, {Path(place).parent}"


def _to_tensorboard(report: HealthResults, files: Sequence[Path]) -> str:
    _package("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    from harness.health.markdown import to_markdown

    folder = Path(os.environ.get("TENSORBOARD_LOGDIR", "runs")) / _PROJECT / _name(report.model_name)
    step = len(list(folder.glob("events.out.tfevents.*")))  # one file a run
    with SummaryWriter(str(folder)) as writer:
        for key, value in metrics_of(report).items():
            writer.add_scalar(key, value, step)
        writer.add_text("report", to_markdown(report), step)
    return f"TensorBoard, {folder}"


LOGGERS: dict[str, Callable[[HealthResults, Sequence[Path]], str]] = {
    "mlflow": _to_mlflow,
    "wandb": _to_wandb,
    "tensorboard": _to_tensorboard,
}


def _params(report: HealthResults) -> dict[str, Any]:
    """The config, and where it ran, with dotted keys."""
    known = flat({"config": report.config, "environment": report.environment})
    return {_name(key): str(value)[:_LONGEST_PARAM] for key, value in known.items() if value not in (None, "", [], {})}


def _name(name: str) -> str:
    """A name that all of them take."""
    return "".join(sign if sign.isalnum() or sign in "_-./ " else "_" for sign in name.replace("::", "/"))
