"""Every output of a declared task is measured by its kind: numbers checked against formulas written out here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from judging import judge
from torch import Tensor, nn

from harness.adapters import make_adapter
from harness.batches import IGNORED
from harness.config import load_config
from harness.errors import ConfigError, DataError, OutputError, UserError
from harness.evaluation import chosen_metrics, valid_metrics
from harness.evaluation.answers import edit_distance, targets_of
from harness.evaluation.evaluation import Evaluation
from harness.tasks import TaskSpec, TaskType
from harness.tasks.declared import read_signature


class Said(nn.Module):
    """Returns its inputs, as outputs."""

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        return {name.removesuffix("_said"): value for name, value in inputs.items()}


def task_of(outputs: dict[str, Any], metrics: tuple[str, ...] = (), **keys: Any) -> TaskSpec:
    """A task whose outputs are told by inputs of the same axes."""
    inputs = {f"{name}_said": {"axes": each["axes"]} for name, each in outputs.items()}
    return TaskSpec(TaskType.DECLARED, metrics=metrics, declared=read_signature({"inputs": inputs, "outputs": outputs, **keys}))


def judged(task: TaskSpec, rows: list[dict[str, Any]], **keys: Any) -> Evaluation:
    return judge(task, rows, Said(), **keys)


def rows_of(**columns: Any) -> list[dict[str, Tensor]]:
    names = {name.replace("__", "."): torch.as_tensor(values) for name, values in columns.items()}
    return [{name: values[number] for name, values in names.items()} for number in range(len(next(iter(names.values()))))]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def classes(*shape: int, count: int, seed: int = 1) -> Tensor:
    return torch.randint(count, shape, generator=torch.Generator().manual_seed(seed))


IMAGE = {"axes": ["batch", 3, "height", "width"], "kind": "class_scores", "classes": 1}


def test_classes_of_every_pixel() -> None:
    scores, labels = random(5, 3, 4, 6), classes(5, 4, 6, count=3)
    labels[:, 0] = IGNORED
    found = judged(task_of({"mask": IMAGE}), rows_of(mask_said=scores, labels=labels)).summary
    real, predicted = labels != IGNORED, scores.argmax(1)
    assert list(found) == ["loss", "accuracy", "f1", "mean_iou", "calibration_error"]
    assert found["loss"] == pytest.approx(F.cross_entropy(scores, labels, ignore_index=IGNORED).item(), rel=1e-6)
    assert found["accuracy"] == pytest.approx((predicted == labels)[real].double().mean().item())
    shares = []
    for number in range(3):
        said, wanted = predicted[real] == number, labels[real] == number
        shares.append(((said & wanted).sum() / (said | wanted).sum()).item())
    assert found["mean_iou"] == pytest.approx(np.mean(shares))


def test_scores_and_facts_of_single_rows() -> None:
    scores, labels = random(4, 3, 2, 2), classes(4, 2, 2, count=3)
    found = judged(task_of({"mask": IMAGE}), rows_of(mask_said=scores, labels=labels))
    assert set(found.scores) == {"loss", "accuracy"}
    assert found.scores["accuracy"] == pytest.approx((scores.argmax(1) == labels).double().mean((1, 2)).numpy())
    assert found.facts == {}
    label = {"scores": {"axes": ["batch", 3], "kind": "class_scores"}}
    found = judged(task_of(label), rows_of(scores_said=random(4, 3), labels=[2, 0, 1, 1]))
    assert found.facts["label"].tolist() == [2, 0, 1, 1]
    assert set(found.scores) == {"loss", "correct"}


def test_several_yes_or_no_labels_are_judged_each() -> None:
    scores, labels = random(60, 4), (random(60, 4, seed=3) > 0.3).float()
    labels[:, 3] = 1.0  # a question with one answer only
    found = judged(
        task_of({"tags": {"axes": ["batch", 4], "kind": "binary_scores"}}), rows_of(tags_said=scores, labels=labels)
    ).summary
    assert list(found) == ["loss", "accuracy", "f1", "roc_auc"]
    assert found["loss"] == pytest.approx(F.binary_cross_entropy_with_logits(scores, labels).item(), rel=1e-6)
    f1, areas = [], []
    for column in range(4):
        said, wanted = scores[:, column] > 0, labels[:, column] == 1
        f1.append((2 * (said & wanted).sum() / (said.sum() + wanted.sum())).item())
        yes, no = scores[wanted, column], scores[~wanted, column]
        areas.append((yes[:, None] > no[None]).double().mean().item())
    assert found["f1"] == pytest.approx(np.mean(f1))
    assert found["roc_auc"] == pytest.approx(np.mean(areas[:3]), abs=1e-6)


def test_the_area_is_the_same_where_scores_are_only_counted() -> None:
    scores, labels = random(40, 3, 5, seed=4), (random(40, 3, 5, seed=5) > 0).float()
    tags = {"axes": ["batch", 3, "time"], "kind": "binary_scores"}
    found = judged(task_of({"tags": tags}), rows_of(tags_said=scores, labels=labels)).summary
    areas = []
    for column in range(3):
        value, wanted = scores[:, column].flatten(), labels[:, column].flatten() == 1
        areas.append((value[wanted][:, None] > value[~wanted][None]).double().mean().item())
    assert found["roc_auc"] == pytest.approx(np.mean(areas), abs=1e-3)


def test_probabilities_are_judged_like_scores() -> None:
    scores, labels = random(30, 3), classes(30, count=3)
    told = judged(task_of({"p": {"axes": ["batch", 3], "kind": "class_scores"}}), rows_of(p_said=scores, labels=labels)).summary
    chances = {"p": {"axes": ["batch", 3], "kind": "probabilities", "classes": 1}}
    found = judged(task_of(chances), rows_of(p_said=scores.softmax(1), labels=labels)).summary
    assert found == pytest.approx(told, rel=1e-5)

    yes = (random(30, seed=2) > 0).float()
    told = judged(task_of({"p": {"axes": ["batch"], "kind": "binary_scores"}}), rows_of(p_said=scores[:, 0], labels=yes)).summary
    chances = {"p": {"axes": ["batch"], "kind": "probabilities"}}
    found = judged(task_of(chances), rows_of(p_said=scores[:, 0].sigmoid(), labels=yes)).summary
    assert found == pytest.approx(told, rel=1e-5)


@pytest.mark.parametrize("loss", ["mse", "l1", "huber"])
def test_numbers_of_several_axes_and_padding(loss: str) -> None:
    said, labels = random(6, 4, 2), random(6, 4, 2, seed=1)
    labels[2, 3] = IGNORED
    real = labels != IGNORED
    values = {"forecast": {"axes": ["batch", "time", 2], "loss": loss}}
    found = judged(task_of(values), rows_of(forecast_said=said, labels=labels)).summary
    error = (said - labels)[real].double()
    function: Callable[..., Tensor] = {"mse": F.mse_loss, "l1": F.l1_loss, "huber": F.huber_loss}[loss]
    assert found["loss"] == pytest.approx(function(said[real], labels[real]).item(), rel=1e-5)
    assert found["mae"] == pytest.approx(error.abs().mean().item())
    assert found["rmse"] == pytest.approx(error.square().mean().sqrt().item())
    assert found["r2"] == pytest.approx(
        1 - (error.square().sum() / (labels[real] - labels[real].mean()).square().sum()).item(), rel=1e-4
    )


def test_tokens_that_come_next() -> None:
    keys = {
        "inputs": {"tokens": {"axes": ["batch", "time"], "values": {"ids": 6}}},
        "outputs": {"logits": {"axes": ["batch", "time", 6], "kind": "token_scores"}},
        "axes": {"time": {"max": 9, "order": "causal"}},
    }
    task = TaskSpec(TaskType.DECLARED, declared=read_signature(keys))
    table = nn.Embedding(6, 6)
    tokens = classes(5, 8, count=6)
    found = judge(task, rows_of(tokens=tokens, labels=tokens), table).summary
    loss = F.cross_entropy(table(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).item()
    assert found["loss"] == pytest.approx(loss, rel=1e-6)
    assert found["perplexity"] == pytest.approx(np.exp(loss), rel=1e-6)


@pytest.mark.parametrize(("axes", "position"), [(["frames", "batch", 4], {}), (["batch", 4, "frames"], {"classes": 1})])
def test_symbols_along_time_are_read_off_and_compared(axes: list[Any], position: dict[str, int]) -> None:
    outputs = {"symbols": {"axes": axes, "kind": "ctc_scores", **position}}
    task = task_of(outputs)
    paths = torch.tensor([[0, 1, 1, 0, 1, 2], [3, 3, 2, 0, 0, 0], [1, 2, 3, 0, 0, 0]])
    scores = 9.0 * F.one_hot(paths, 4).float()
    labels = torch.tensor([[1, 1, 2], [3, 1, IGNORED], [2, 3, IGNORED]])
    given = scores.mT if position else scores
    found = judged(task, rows_of(symbols_said=given, labels=labels))
    assert list(found.summary) == ["loss", "error_rate"]
    assert found.summary["error_rate"] == pytest.approx(2 / 7)
    assert found.scores["error_rate"].tolist() == [0.0, 0.5, 0.5]
    losses = [
        F.ctc_loss(scores[row].log_softmax(-1)[:, None], labels[row : row + 1, :count], [6], [count]).item()
        for row, count in enumerate((3, 2, 2))
    ]
    assert found.scores["loss"] == pytest.approx(np.array(losses, np.float32), rel=1e-5)


@pytest.mark.parametrize(
    ("first", "second", "count"), [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "", 3), ("ab", "ab", 0)]
)
def test_edit_distance(first: str, second: str, count: int) -> None:
    assert edit_distance([*map(ord, first)], [*map(ord, second)]) == count


POLICY = {"actions": {"axes": ["batch", 3], "kind": "class_scores"}, "value": {"axes": ["batch"], "weight": 0.5}}


def test_every_output_is_measured_under_its_name() -> None:
    actions, value = random(20, 3), random(20)
    labels, wanted = classes(20, count=3), random(20, seed=5)
    found = judged(task_of(POLICY), rows_of(actions_said=actions, value_said=value, labels=labels, labels__value=wanted))
    own = F.cross_entropy(actions, labels).item(), F.mse_loss(value, wanted).item()
    assert found.summary["loss"] == pytest.approx(own[0] + 0.5 * own[1], rel=1e-6)
    assert (found.summary["actions.loss"], found.summary["value.loss"]) == pytest.approx(own, rel=1e-6)
    assert found.summary["value.mae"] == pytest.approx((value - wanted).abs().mean().item(), rel=1e-6)
    assert set(found.scores) == {"loss", "correct", "value.squared_error"}
    each = F.cross_entropy(actions, labels, reduction="none") + 0.5 * (value - wanted).square()
    assert found.scores["loss"] == pytest.approx(each.numpy(), rel=1e-5)
    assert found.facts["label"].tolist() == labels.tolist()


def test_an_output_that_is_trained_needs_labels_and_one_without_weight_does_not() -> None:
    rows = rows_of(actions_said=random(4, 3), value_said=random(4), labels=[0, 1, 2, 0])
    with pytest.raises(DataError, match=r"the evaluation data has no `labels\.value`"):
        judged(task_of(POLICY), rows)
    free = {**POLICY, "value": {"axes": ["batch"], "weight": 0.0}}
    assert "value.mae" not in judged(task_of(free), rows).summary


def test_a_graph_is_a_sample() -> None:
    keys = {
        "inputs": {"x": {"axes": ["nodes", 3]}, "edges": {"axes": [2, "edges"], "values": {"index_of": "nodes"}}},
        "outputs": {"scores": {"axes": ["nodes", 3], "kind": "class_scores"}},
        "axes": {"nodes": {"order": "none"}},
    }
    task = TaskSpec(TaskType.DECLARED, declared=read_signature(keys))

    class Nodes(nn.Module):
        def forward(self, x: Tensor, edges: Tensor) -> Tensor:
            return x

    graphs = [
        {"x": random(nodes, 3, seed=nodes), "edges": torch.zeros(2, 4).long(), "labels": classes(nodes, count=3)}
        for nodes in (4, 6)
    ]
    found = judge(task, graphs, Nodes())
    scores, labels = torch.cat([each["x"] for each in graphs]), torch.cat([each["labels"] for each in graphs])
    assert found.examples == 2
    assert found.summary["loss"] == pytest.approx(F.cross_entropy(scores, labels).item(), rel=1e-6)
    assert found.scores["loss"][0] == pytest.approx(F.cross_entropy(graphs[0]["x"], graphs[0]["labels"]).item(), rel=1e-6)


def config_of(folder: Path, code: str, keys: dict[str, Any]) -> TaskSpec:
    (folder / "own.py").write_text("import torch\n" + dedent(code), encoding="utf-8")
    (folder / "suite.json").write_text(json.dumps({"model_file": "own.py", **keys}), encoding="utf-8")
    return load_config(folder / "suite.json").task_spec()


AUTOENCODER = {
    "inputs": {"x": {"axes": ["batch", 4]}},
    "outputs": {"y": {"axes": ["batch", 4]}, "z": {"axes": ["batch", 2], "kind": "embedding"}},
}


class Autoencoder(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"y": 2 * x, "z": x[:, :2]}


def test_the_users_own_loss_and_metrics(tmp_path: Path) -> None:
    code = """
        def loss(outputs, batch):
            return (outputs["y"] - batch["x"]).abs().mean() + outputs["z"].square().mean()

        def spread(outputs, batch):
            return outputs["z"].var(dim=1)

        def first(outputs, batch):
            return float(outputs["y"].max())
    """
    task = config_of(tmp_path, code, {**AUTOENCODER, "loss": "own.py:loss", "metrics": ["own.py:spread", ":first"]})
    x = random(6, 4)
    rows = rows_of(x=x)
    found = judge(task, rows, Autoencoder(), adapter=make_adapter(task, None, tmp_path))
    assert list(found.summary) == ["loss", "spread", "first"]
    assert found.summary["loss"] == pytest.approx((x.abs().mean() + x[:, :2].square().mean()).item(), rel=1e-5)
    assert found.summary["spread"] == pytest.approx(x[:, :2].var(dim=1).mean().item(), rel=1e-5)
    assert found.scores["loss"] == pytest.approx((x.abs().mean(1) + x[:, :2].square().mean(1)).numpy(), rel=1e-5)


def test_functions_get_axes_in_the_declared_order(tmp_path: Path) -> None:
    code = """
        def last(outputs, batch):
            assert outputs["y"].shape == batch["x"].shape == (5, 3)
            return outputs["y"][-1]
    """
    keys = {
        "inputs": {"x": {"axes": ["time", "batch"]}},
        "outputs": {"y": {"axes": ["time", "batch"]}},
        "metrics": ["own.py:last"],
    }
    task = config_of(tmp_path, code, keys)
    x = random(3, 5)
    found = judge(task, rows_of(x=x, labels=x), nn.Identity(), adapter=make_adapter(task, None, tmp_path))
    assert found.summary["last"] == pytest.approx(x[:, -1].mean().item(), rel=1e-5)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "def spread(outputs, batch): return outputs",
            "`metrics`: own.py:spread returned a dict, expected a number, or one for each row",
        ),
        ("def spread(outputs, batch): return outputs['y']", "returned a tensor of shape [3, 4], expected a number"),
        ("def spread(outputs, batch): return outputs['q']", "`metrics`: own.py:spread raised KeyError: 'q' (own.py, line 2)"),
        ("def spred(outputs, batch): return 1", "own.py has no 'spread'. Did you mean 'spred'?"),
    ],
)
def test_a_metric_of_no_use_is_said_in_one_line(code: str, message: str, tmp_path: Path) -> None:
    keys = {**AUTOENCODER, "labels": {"again": {"from": "x"}}, "metrics": ["own.py:spread"]}
    task = config_of(tmp_path, code, keys)
    with pytest.raises(UserError) as caught:
        judge(task, rows_of(x=random(3, 4), labels=random(3, 4)), Autoencoder(), adapter=make_adapter(task, None, tmp_path))
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_classes_of_torchmetrics_by_name() -> None:
    scores, labels = random(12, 3, 4, 5), classes(12, 4, 5, count=3)
    labels[0, 0] = IGNORED
    names = ("MulticlassJaccardIndex", "Accuracy")
    found = judged(task_of({"mask": IMAGE}, names), rows_of(mask_said=scores, labels=labels)).summary
    plain = judged(task_of({"mask": IMAGE}), rows_of(mask_said=scores, labels=labels)).summary
    assert found["MulticlassJaccardIndex"] == pytest.approx(plain["mean_iou"], rel=1e-5)
    assert found["Accuracy"] == pytest.approx(plain["accuracy"], rel=1e-5)

    rows = rows_of(actions_said=random(9, 3), value_said=random(9), labels=classes(9, count=3), labels__value=random(9, seed=2))
    found = judged(task_of(POLICY, ("value.MeanAbsoluteError", "value.mae", "loss")), rows).summary
    assert found["value.MeanAbsoluteError"] == pytest.approx(found["value.mae"], rel=1e-6)

    tags = {"tags": {"axes": ["batch", 4], "kind": "binary_scores"}}
    rows = rows_of(tags_said=random(20, 4), labels=(random(20, 4, seed=8) > 0).float())
    found = judged(task_of(tags, ("F1Score", "f1")), rows).summary
    assert set(found) == {"loss", "F1Score", "f1"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "MulticlassJacardIndex",
            "`metrics`: torchmetrics has no class 'MulticlassJacardIndex'. Did you mean 'MulticlassJaccardIndex'?",
        ),
        ("velue.MeanAbsoluteError", "no output 'velue'. Did you mean 'value'?"),
        (
            "value.mse",
            "this task has no metric 'value.mse'. Did you mean 'value.rmse'? It has loss, actions.loss, value.loss, accuracy",
        ),
        ("acuracy", "Did you mean 'accuracy'?"),
        ("ConfusionMatrix", "torchmetrics' ConfusionMatrix gives no single number"),
    ],
)
def test_an_unknown_metric_says_what_is_valid(name: str, message: str) -> None:
    rows = rows_of(actions_said=random(9, 3), value_said=random(9), labels=classes(9, count=3), labels__value=random(9, seed=2))
    with pytest.raises(ConfigError) as caught:
        judged(task_of(POLICY, (name,)), rows)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_outputs_and_labels_that_do_not_fit_are_named() -> None:
    tags = {"tags": {"axes": ["batch", 4], "kind": "binary_scores"}}
    with pytest.raises(DataError, match=r"row 2: label 2.0 is out of range: 1 is yes and 0 is no"):
        judged(task_of(tags), rows_of(tags_said=random(2, 4), labels=[[0.0] * 4, [2.0] * 4]))
    with pytest.raises(DataError, match=r"`labels` have shape \[2\], `tags` needs \[batch, 4\]"):
        targets_of(task_of(tags), {"labels": torch.zeros(2)}, str)
    with pytest.raises(OutputError, match=r"`tags` has shape \[2, 3\], expected \[2, 4\] for \[batch, 4\]"):
        judged(task_of(tags), rows_of(tags_said=random(2, 3), labels=torch.zeros(2, 4)))


def test_names_follow_from_kinds() -> None:
    assert chosen_metrics(task_of(POLICY)) == (
        *(
            "loss",
            "actions.loss",
            "value.loss",
            "accuracy",
            "f1",
            "calibration_error",
            "roc_auc",
            "value.mae",
            "value.rmse",
            "value.r2",
        ),
    )
    assert valid_metrics(task_of({"z": {"axes": ["batch", 8], "kind": "embedding"}})) == ("loss",)
    assert "roc_auc" in valid_metrics(task_of({"mask": IMAGE}))
