"""Which metrics there are is the task's business and the config's."""

from __future__ import annotations

import pytest
from judging import classes_task, echo_rows, judge, numbers_task, random_logits, text_task

from harness.errors import ConfigError
from harness.evaluation import chosen_metrics, default_metrics, valid_metrics
from harness.tasks import TaskSpec, TaskType

LANGUAGE = ("loss", "perplexity", "accuracy")
CLASSES = ("loss", "accuracy", "f1", "calibration_error", "roc_auc")
DEFAULT = {
    "causal_lm": LANGUAGE,
    "masked_lm": LANGUAGE,
    "sequence_classification": CLASSES,
    "token_classification": ("loss", "accuracy", "f1"),
    "seq2seq_lm": LANGUAGE,
    "image_classification": CLASSES,
    "tabular_classification": CLASSES,
    "tabular_regression": ("loss", "mae", "rmse", "r2"),
}
ON_REQUEST = {"seq2seq_lm": ("bleu", "rouge_l"), "token_classification": ("calibration_error", "roc_auc")}


@pytest.mark.parametrize("name", DEFAULT)
def test_every_task_type_has_metrics_and_begins_with_the_loss(name: str) -> None:
    task = TaskSpec(TaskType(name), vocab_size=9, max_seq_len=8, num_classes=3, num_features=2, image_size=(3, 8, 8))
    assert chosen_metrics(task) == default_metrics(task) == DEFAULT[name]
    assert valid_metrics(task) == DEFAULT[name] + ON_REQUEST.get(name, ())


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
