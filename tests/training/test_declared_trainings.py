"""Trainings of declared tasks: what their loss is, which checks follow, and what is said where a loss cannot be had."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
import torch.nn.functional as F
from planted_bugs.setups import verdict_of
from planted_bugs.tier3.declared_tasks import AUTOENCODER, IMITATION, PAIR, POLICY, SEGMENTATION, Autoencoder, Policy, over_batch
from torch import Tensor, nn

from harness.adapters import SignatureAdapter
from harness.catalogue import CATALOGUE
from harness.config import TrainingConfig, load_config
from harness.errors import ModelSourceError
from harness.evidence import Evidence, Status
from harness.properties.subject import Subject
from harness.tasks import TaskSpec, TaskType
from harness.tasks.declared import read_signature
from harness.training.checks import overfits_one_batch
from harness.training.checks.baseline_models import Prior, features_of
from harness.training.checks.labels import guessing_loss
from harness.training.checks.training_loss import reduction
from harness.training.engines.batch_formats import Declared
from harness.training.optimisation import Objective
from harness.training.run import train_config
from harness.training.trial import Trial

Keys = dict[str, Any]

GRAPH: Keys = {
    "inputs": {"x": {"axes": ["nodes", 5]}, "edges": {"axes": [2, "edges"], "values": {"index_of": "nodes"}}},
    "outputs": {"scores": {"axes": ["nodes", 4], "kind": "class_scores"}},
    "axes": {"nodes": {"min": 3, "max": 10}, "edges": {"min": 2, "max": 12}},
}
SPEECH: Keys = {
    "inputs": {"audio": {"axes": ["time", "batch", 6]}},
    "outputs": {"scores": {"axes": ["time", "batch", 7], "kind": "class_scores"}},
    "axes": {"time": {"min": 4, "max": 9}},
}


def task_of(keys: Keys, folder: Path = Path()) -> TaskSpec:
    return TaskSpec(TaskType.DECLARED, declared=read_signature(keys, folder))


def trial_of(keys: Keys, model: nn.Module, folder: Path = Path()) -> Trial:
    task = task_of(keys, folder)
    return Trial.of(Subject(model.eval(), SignatureAdapter(task, folder), task), TrainingConfig())


def followed_by(keys: Keys) -> set[str]:
    """The tests of tier 3 that follow from a declaration."""
    task = task_of(keys)
    entries = [entry for entry in CATALOGUE.values() if entry.tier == 3 and entry.applies_to(task)]
    return {f"{entry.name}[{case}]" if case else entry.name for entry in entries for case in entry.cases_for(task) or ("",)}


BASELINE = "baseline_comparison"
EVERY = {"step_updates", "optimizer_coverage", "seeded_repeat", "resume", "fine_tuning", "hyperparameter_sensitivity"} | {
    *("averaged_weights", "gradient_clipping", "learning_rate_schedule", "parameter_groups[decay]", "parameter_groups[rates]"),
    *("training_loss[balance]", "validation_pass", "memory_growth"),
}
OWN_LABELS = {"training_loss[one_class]"}
SCORES = {"initial_loss", "overfits_one_batch", "training_loss[targets]", "training_loss[scores]"}
SHARED = {"training_loss[reduction]", "accumulation", "distributed"}
EXPECTED: dict[str, tuple[Keys, set[str]]] = {
    "scores of pixels": (SEGMENTATION, SHARED | SCORES | OWN_LABELS | {BASELINE, "training_loss[ignored_labels]"}),
    "a bottleneck": ({**AUTOENCODER, "loss": "file.py:loss"}, SHARED | {"training_loss[targets]"}),
    "different weights in a loss made elsewhere": (
        {**IMITATION, "loss": "model"},
        SHARED | SCORES | OWN_LABELS | {"training_loss[weights]"},
    ),
    "a loss over the batch": ({**PAIR, "loss": over_batch("contrastive")}, {"training_loss[rows]"}),
    "no rows": (GRAPH, SCORES | OWN_LABELS),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_what_follows_from_a_declaration_is_tested(name: str) -> None:
    keys, more = EXPECTED[name]
    assert followed_by(keys) == EVERY | more


def test_without_a_loss_there_is_no_training() -> None:
    assert followed_by(PAIR) == set()


def test_the_loss_is_the_weighted_sum_over_the_outputs_with_labels() -> None:
    task = task_of(POLICY)
    model, batch = Policy(), task.signature.make_batch({"batch": 5})
    scores, value = model(batch["observation"])

    expected = F.cross_entropy(scores, batch["labels"]) + 0.5 * F.mse_loss(value, batch["labels.value"])
    assert float(SignatureAdapter(task).loss_of_call(model, batch).detach()) == pytest.approx(float(expected.detach()))


def test_a_loss_that_raises_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "losses.py").write_text("def loss(outputs, batch):\n    return outputs['image'].mean() * batch['missing']\n")
    trial = trial_of({**AUTOENCODER, "loss": "losses.py:loss"}, Autoencoder(), tmp_path)
    found = {name: verdict_of(name, trial, judged=["step_updates", "resume"]) for name in ("step_updates", "resume")}
    assert found["step_updates"].status is Status.FAIL
    assert found["step_updates"].message == (
        "`loss`: losses.py:loss reads 'missing', which is not there: `outputs` has `image`, `mu`, `logvar`, `batch` has `image`"
    )
    assert found["resume"].status is Status.SKIPPED
    assert found["resume"].message.endswith("(see step_updates)")


def test_a_loss_function_sees_axes_in_the_declared_order(tmp_path: Path) -> None:
    (tmp_path / "losses.py").write_text(
        "def loss(outputs, batch):\n"
        "    assert outputs['scores'].shape[:2] == batch['labels'].shape == batch['audio'].shape[:2] == (4, 2)\n"
        "    return outputs['scores'].mean()\n"
    )
    task = task_of({**SPEECH, "loss": "losses.py:loss"}, tmp_path)
    batch = task.signature.make_batch({"batch": 2, "time": 4})
    assert batch["audio"].shape == (2, 4, 6)
    SignatureAdapter(task, tmp_path).loss_of_call(nn.Linear(6, 7), batch)


def test_a_function_that_is_not_there_is_said_by_its_key(tmp_path: Path) -> None:
    (tmp_path / "losses.py").write_text("def loss(outputs, batch): ...")
    task = task_of({**SPEECH, "loss": "losses.py:los"}, tmp_path)
    with pytest.raises(ModelSourceError, match=r"`loss`: losses\.py has no 'los'\. Did you mean 'loss'\?"):
        SignatureAdapter(task, tmp_path).loss_of_call(nn.Linear(6, 7), task.signature.make_batch({"batch": 2, "time": 4}))


def test_batches_without_rows_count_as_one() -> None:
    task = task_of(GRAPH)
    batch = task.signature.make_batch({"nodes": 6, "edges": 8})

    class Nodes(nn.Linear):
        def forward(self, x: Tensor, edges: Tensor) -> Tensor:
            return super().forward(x)

    objective = Objective(SignatureAdapter(task), task)
    model = Nodes(5, 4)
    objective.loss(model, batch)
    assert objective.finish(model.parameters()).examples == 1
    assert task.signature.rows(batch, slice(0, 1)).keys() == batch.keys()
    assert all(torch.equal(value, batch[name]) for name, value in task.signature.rows(batch, slice(0, 1)).items())


class LitSpeech(lightning.LightningModule):
    """Frames along time, time first."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 7)
        self.seen: Any = None

    def forward(self, audio: Tensor) -> Tensor:
        return self.head(audio)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


class TakesDict(LitSpeech):
    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch["audio"]).flatten(0, 1), batch["labels"].flatten())


class TakesTuple(LitSpeech):
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        audio, labels = batch
        assert audio.shape[:2] == labels.shape
        return F.cross_entropy(self(audio).flatten(0, 1), labels.flatten())


class TakesInput(LitSpeech):
    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self(batch).square().mean()


class TakesLabels(LitSpeech):
    """Draws what forward takes, and is given what that should come to."""

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        assert batch.dtype == torch.int64
        scores = self(torch.randn(*batch.shape, 6))
        return F.cross_entropy(scores.flatten(0, 1), batch.flatten())


@pytest.mark.parametrize(
    ("model", "form"),
    [
        (TakesDict, "a dict of"),
        (TakesTuple, "a tuple (audio, labels)"),
        (TakesInput, "`audio` by itself"),
        (TakesLabels, "`labels` by itself"),
    ],
)
def test_a_training_step_is_given_batches_as_it_takes_them(model: type[LitSpeech], form: str) -> None:
    trial = trial_of({**SPEECH, "loss": "model"}, model())
    assert isinstance(trial.batch_format, Declared)
    assert str(trial.batch_format).startswith(form)
    assert trial.train([trial.subject.batch()]).steps[0].examples == trial.subject.typical.batch


def verdict(name: str, trial: Trial) -> Evidence:
    return verdict_of(name, trial, judged=[name])


class Saturated(nn.Module):
    """The second output can never be learnt."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.actions, self.value = nn.Linear(8, 32), nn.Linear(32, 4), nn.Linear(32, 1)

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.body(observation).tanh()
        return self.actions(hidden), 1e-3 * self.value(hidden).squeeze(-1).tanh()


def test_the_output_that_cannot_be_learnt_is_named() -> None:
    found = verdict("overfits_one_batch", trial_of(POLICY, Saturated()))
    assert found.status is Status.FAIL
    assert re.search(r"cannot overfit 4 rows by output `value`: the loss (is stuck|stays flat)", found.message), found.message


def test_an_output_that_is_a_bottleneck_is_left_out() -> None:
    value = {**POLICY["outputs"]["value"], "fits": False}
    found = verdict("overfits_one_batch", trial_of({**POLICY, "outputs": {**POLICY["outputs"], "value": value}}, Saturated()))
    assert found.status is Status.OK, found.message


def test_the_loss_of_one_of_several_outputs_is_judged_by_itself() -> None:
    class Confident(Policy):
        def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
            actions, value = super().forward(observation)
            return 100 * actions, value

    found = verdict("initial_loss", trial_of(POLICY, Confident()))
    assert found.status is Status.FAIL
    assert found.message.startswith("the first cross-entropy of output `actions` is ")
    assert verdict("initial_loss", trial_of(POLICY, Policy())).status is Status.OK


@pytest.mark.parametrize(
    ("output", "name", "answer"),
    [
        ({"axes": ["batch", 3, "height", "width"], "kind": "class_scores", "classes": 1}, "the frequency of each class", None),
        ({"axes": ["batch", "height", "width"], "kind": "binary_scores"}, "the frequency of yes", None),
        ({"axes": ["batch", "height", "width"], "loss": "l1"}, "the median of the training labels", torch.median),
        ({"axes": ["batch", "height", "width"]}, "the mean of the training labels", torch.mean),
    ],
)
def test_the_prior_of_a_declared_task_is_its_best_constant(output: Keys, name: str, answer: Any) -> None:
    task = task_of({**SEGMENTATION, "outputs": {"main": output}})
    batch = task.signature.make_batch({"batch": 4, "height": 5, "width": 6})
    prior = Prior(task, [batch])
    said = prior(batch)

    assert prior.name == name
    assert said.shape == task.signature.main.shape({"batch": 4, "height": 5, "width": 6})
    if answer is not None:
        assert torch.equal(said, answer(batch["labels"].double()).float().expand_as(said))
        return
    # No class is impossible, so that the loss is a little above the entropy.
    loss = float(task.signature.loss_of(task.signature.main, said, batch))
    assert 0 <= loss - guessing_loss(task.signature, task.signature.main, batch) < 0.01


CLICK: Keys = {
    "inputs": {
        "sparse": {"axes": ["batch", 2], "values": {"ids": [5, 3]}},
        "dense": {"axes": ["batch", 2]},
        "words": {"axes": ["batch", "seq"], "values": {"ids": 4}},
        "real": {"axes": ["batch", "seq"], "values": {"mask_of": "seq"}},
    },
    "outputs": {"scores": {"axes": ["batch", 3], "kind": "class_scores"}},
}


def test_a_linear_model_sees_numbers_and_counts_of_ids() -> None:
    batch = {
        "sparse": torch.tensor([[4, 1]]),
        "dense": torch.tensor([[0.5, -1.0]]),
        "words": torch.tensor([[2, 2, 0]]),
        "real": torch.tensor([[1, 1, 0]]),
    }
    assert features_of(task_of(CLICK).signature, batch).tolist() == [
        [0, 0, 0, 0, 1] + [0, 1, 0] + [0.5, -1.0] + [0, 0, 2, 0]  # noqa: RUF005  # an input each
    ]


LIT_AUTOENCODER = """
import lightning, torch, torch.nn.functional as F
from torch import nn


class Lit(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(4, 4)

    def forward(self, image):
        return self.net(image)

    def training_step(self, batch, batch_idx):
        image, _ = batch
        return F.mse_loss(self(image), image)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


def rows():
    return [{"image": torch.randn(4, generator=torch.Generator().manual_seed(n))} for n in range(12)]
"""


def test_a_training_step_that_alone_knows_the_loss_is_evaluated_by_labelled_outputs(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(LIT_AUTOENCODER)
    keys: Keys = {
        "model_file": "model.py",
        "model_factory": "Lit",
        "inputs": {"image": {"axes": ["batch", 4]}},
        "outputs": {"again": {"axes": ["batch", 4]}},
        "labels": {"again": {"from": "image"}},
        "loss": "model",
        "train": {"dataset": ":rows"},
        "eval": {"dataset": ":rows"},
        "epochs": 2,
        "batch_size": 4,
    }
    (tmp_path / "run.json").write_text(json.dumps(keys))
    with pytest.warns(UserWarning, match="evaluated on its training rows"):
        results = train_config(load_config(tmp_path / "run.json"), progress=False)

    assert results["steps"] == 6
    assert results["eval_summary"]["loss"] < results["initial_eval"]["loss"]


@pytest.mark.usefixtures("forked")
def test_a_sound_autoencoder_trains_in_one_process_and_in_two() -> None:
    trial = trial_of({**AUTOENCODER, "loss": ""}, Autoencoder())
    assert verdict("distributed", trial).status is Status.OK


CONTRAST = """
def contrast(outputs, batch):
    code = outputs["code"]
    alike = code @ code.flip(0).T
    return (alike.logsumexp(1) - alike.diagonal()).mean()
"""


def test_a_loss_without_labels_that_compares_rows_is_a_warning_that_says_how_to_declare_it(tmp_path: Path) -> None:
    (tmp_path / "losses.py").write_text(CONTRAST)
    keys: Keys = {
        "inputs": {"x": {"axes": ["batch", 4]}},
        "outputs": {"code": {"axes": ["batch", 3], "kind": "embedding"}},
        "loss": "losses.py:contrast",
    }
    found = reduction(trial_of(keys, nn.Linear(4, 3), tmp_path))

    assert (found.status, found.code) == (Status.WARN, "depends_on_batch"), found.explain()
    assert "`over: batch`" in found.cause


@pytest.mark.parametrize(("size", "status"), [(400, Status.SKIPPED), (4, Status.WARN)])
def test_many_random_labels_need_not_be_learnt_by_heart(monkeypatch: pytest.MonkeyPatch, size: int, status: Status) -> None:
    monkeypatch.setattr(overfits_one_batch, "is_falling", lambda *_attempt: True)
    monkeypatch.setattr(overfits_one_batch, "_alternatives", lambda *_attempt: iter(()))
    keys: Keys = {
        "inputs": {"x": {"axes": ["batch", size]}},
        "outputs": {"again": {"axes": ["batch", size]}},
        "labels": {"again": {"from": "x"}},
    }
    trial = replace(trial_of(keys, nn.Linear(size, size)), config=TrainingConfig(learning_rate=1e-6))
    found = overfits_one_batch.overfits_one_batch(trial)

    assert found.status is status, found.explain()
    assert ("800 labels are random" in found.message) == (status is Status.SKIPPED)


class _Averaged(nn.Module):
    """A layer with few parameters for the numbers that it gives."""

    def __init__(self, is_cut: bool) -> None:
        super().__init__()
        self.mix, self.is_cut = nn.Conv1d(2, 2, 3, padding=1), is_cut

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.mix(x)
        return 1e-6 * mixed if self.is_cut else mixed


@pytest.mark.parametrize(("is_cut", "status"), [(False, Status.SKIPPED), (True, Status.FAIL)])
def test_few_parameters_need_not_hold_more_random_numbers(is_cut: bool, status: Status) -> None:
    axes = ["batch", 2, "time"]
    trial = trial_of(
        {"inputs": {"x": {"axes": axes}}, "outputs": {"y": {"axes": axes}}, "axes": {"time": {"min": 12}}}, _Averaged(is_cut)
    )
    found = verdict("overfits_one_batch", trial)
    assert found.status is status, found.explain()
    assert ("14 parameters cannot hold" in found.message) == (status is Status.SKIPPED)


OWN_LOSSES = """
def compares_with_the_input(outputs, batch):
    return (outputs["again"] - batch["x"]).square().mean()


def reads_the_labels(outputs, batch):
    return (outputs["again"] - batch["labels"]).abs().mean()
"""


@pytest.mark.parametrize(("name", "has_labels"), [("compares_with_the_input", False), ("reads_the_labels", True)])
def test_labels_that_a_loss_never_reads_are_none(tmp_path: Path, name: str, has_labels: bool) -> None:
    (tmp_path / "losses.py").write_text(OWN_LOSSES)
    keys: Keys = {
        "inputs": {"x": {"axes": ["batch", 4]}},
        "outputs": {"again": {"axes": ["batch", 4], "kind": "values"}},
        "loss": f"losses.py:{name}",
    }
    trial = trial_of(keys, nn.Linear(4, 4), tmp_path)

    assert ("labels" in trial.subject.batch()) == has_labels
    for check, case in (("training_loss", "targets"), ("overfits_one_batch", "")):
        evidence = verdict_of(check, trial, case)
        assert evidence.status is (Status.OK if has_labels else Status.SKIPPED), evidence.explain()
        assert has_labels or evidence.message.startswith("the loss reads no labels")


class Coder(nn.Module):
    """Returns a code and what it makes of it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(6, 2), nn.Linear(2, 6)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        code = self.encoder(x)
        return 40 * self.decoder(code), code


def test_an_output_that_another_is_computed_from_is_pushed_by_the_loss_of_both() -> None:
    outputs = {"again": {"axes": ["batch", 6], "kind": "values"}, "code": {"axes": ["batch", 2], "kind": "values"}}
    found = verdict_of(
        "training_loss", trial_of({"inputs": {"x": {"axes": ["batch", 6]}}, "outputs": outputs}, Coder()), "targets"
    )
    assert found.status is Status.OK, found.explain()
