"""Which metrics there are is the task's business and the config's."""

from __future__ import annotations

import pytest
from judging import classes_task, echo_rows, judge, numbers_task, random_logits, text_task

from harness.errors import ConfigError
from harness.evaluation.metric_names import DEFAULT_METRICS, chosen_metrics, valid_metrics
from harness.tasks import TaskSpec, TaskType


@pytest.mark.parametrize("task_type", TaskType)
def test_every_task_has_metrics_and_begins_with_the_loss(task_type: TaskType) -> None:
    assert chosen_metrics(TaskSpec(task_type)) == DEFAULT_METRICS[task_type]
    assert valid_metrics(task_type)[0] == "loss"


def test_a_config_chooses_some() -> None:
    logits, labels = random_logits(9, 3)
    summary = judge(classes_task(3, metrics=("f1", "accuracy", "f1")), echo_rows(logits, labels)).summary
    assert list(summary) == ["loss", "f1", "accuracy"]


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (
            classes_task(3, metrics=("acuracy",)),
            "`metrics`: tabular_classification has no metric 'acuracy'. Did you mean 'accuracy'? "
            "It has loss, accuracy, f1, calibration_error, roc_auc",
        ),
        (numbers_task(metrics=("f1",)), "`metrics`: tabular_regression has no metric 'f1'. It has loss, mae, rmse, r2"),
        (
            text_task("causal_lm", 5, metrics=("bleu",)),
            "`metrics`: causal_lm has no metric 'bleu'. It has loss, perplexity, accuracy",
        ),
    ],
)
def test_an_unknown_metric_is_refused_before_anything_is_done(task: TaskSpec, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        judge(task, [])
    assert str(caught.value) == message
