"""Where reports of runs are kept: in a folder, with those of earlier runs and a badge; in MLflow, Weights & Biases and TensorBoard."""

from __future__ import annotations

import html
import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.charts.pictures import curves_of
from harness.documents import flat
from harness.errors import optional_package
from harness.files import write_whole
from harness.health.checks import HealthResults
from harness.health.comparison import compare

KEPT = 20
"""Reports of earlier runs that are kept."""

REPORT = "health_report.json"
_FOLDER = "history"

_LONGEST_PARAM = 250
_MOST_PARAMS = 100
_PROJECT = "modeltiers"

_LABEL = "model health"


def remember(folder: Path, report: HealthResults) -> None:
    """Copies the report of the last run to those of earlier ones, and notes in the new report what they were and what has changed.

    Args:
        folder: Where reports are written.
        report: The new report, not written yet.

    Raises:
        OSError: The folder cannot be written.
    """
    last = read_report(folder / REPORT)
    if last is not None:
        write_whole(folder / _FOLDER / f"{_file_name(str(last.get('timestamp', '')))}.json", json.dumps(last))
    files = sorted((folder / _FOLDER).glob("*.json"))
    for file in files[:-KEPT]:
        file.unlink()
    earlier = [found for file in files[-KEPT:] if (found := read_report(file)) is not None]
    report.earlier = [_line(found) for found in reversed(earlier)]
    if last is not None:
        report.comparison = compare(last, report.to_json())


def read_report(file: Path) -> dict[str, Any] | None:
    """A report as its JSON; ``None`` where the file is none."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("checks"), list) else None


def write_badge(folder: Path, report: HealthResults) -> None:
    """Writes a badge as SVG, and as JSON for the endpoint badges of shields.io.

    Raises:
        OSError: The folder cannot be written.
    """
    text, colour = _badge(report)
    shields = {"schemaVersion": 1, "label": _LABEL, "message": text, "color": colour.removeprefix("#")}
    write_whole(folder / "badge.json", json.dumps(shields) + "\n")
    write_whole(folder / "badge.svg", badge_svg(text, colour))


_COLOURS = {"A": "#20693f", "B": "#4a6410", "C": "#7d5200", "D": "#93400f", "F": "#a8261c"}
"""Of each grade, so dark that white letters on it have a contrast of more than 4.5."""


def _badge(report: HealthResults) -> tuple[str, str]:
    if not report.grade:
        return "no grade", "#5e5a53"
    problems = sum(cause.status == "failed" for cause in report.causes)
    told = f", {problems} problem{'s' if problems > 1 else ''}" if problems else ""
    return f"{report.grade}{told}", _COLOURS[report.grade]


def badge_svg(text: str, colour: str) -> str:
    """A badge: a label, and a text on a colour."""
    left, right = (round(6.6 * len(words)) + 12 for words in (_LABEL, text))
    shown = html.escape(text)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="20" role="img" aria-label="{_LABEL}: {shown}">'
        f"<title>{_LABEL}: {shown}</title>"
        f'<rect width="{left + right}" height="20" rx="3" fill="#3d3c3a"/>'
        f'<path d="M{left} 0h{right - 3}a3 3 0 0 1 3 3v14a3 3 0 0 1 -3 3h-{right - 3}z" fill="{colour}"/>'
        '<g fill="#fff" font-family="DejaVu Sans,Verdana,sans-serif" font-size="11" text-anchor="middle">'
        f'<text x="{left / 2:g}" y="14">{_LABEL}</text><text x="{left + right / 2:g}" y="14">{shown}</text></g></svg>\n'
    )


def _file_name(timestamp: str) -> str:
    """A name that sorts by time and that every file system takes."""
    return re.sub(r"[^0-9A-Za-z+-]", "-", timestamp) or "unknown"


def _line(report: Mapping[str, Any]) -> dict[str, Any]:
    """What is told of an earlier run."""
    known = report.get("environment") or {}
    return {
        "timestamp": report.get("timestamp", ""),
        "commit": str(known.get("commit") or "")[:10],
        "grade": report.get("grade", ""),
        "health_score": report.get("health_score", 0),
        "problems": report.get("problems", 0),
        "seconds": known.get("seconds", 0),
    }


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


def curves_logged(report: HealthResults) -> dict[str, list[tuple[int, float]]]:
    """The curves of short trainings, steps and values, by check and line: ``tier3::overfits_one_batch/AdamW, learning rate 0.001``."""
    return {
        _name(f"{check.check_name}/{line.label}"): [(int(x), y) for x, y in zip(line.x, line.y, strict=True) if y is not None]
        for check in report.checks
        for chart in curves_of(check.details)
        for line in chart.lines
        if line.style != "reference"
    }


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
        for name, points in curves_logged(report).items():
            for step, value in points:
                mlflow.log_metric(name, value, step)
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
    for name, points in curves_logged(report).items():
        run.define_metric(name, step_metric=f"{name}, step")
        for step, value in points:
            run.log({name: value, f"{name}, step": step})
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
    if curves := curves_logged(report):  # its own run: its steps count something else
        with SummaryWriter(str(folder / f"run-{step + 1}")) as writer:
            for name, points in curves.items():
                for at, value in points:
                    writer.add_scalar(name, value, at)
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
