"""Properties judged while a model is trained: found when they break, told once, and without a trace in the training."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_models import Leaking
from torch import nn

from pytest_modeltiers.callbacks import Watch, lightning_callback, trainer_callback

lightning = pytest.importorskip("lightning")


class Opening(lightning.LightningModule):  # type: ignore[misc, name-defined]
    """Reads what is still to come through a gate that training opens."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.say, self.noise = nn.Embedding(50, 8), nn.Linear(8, 50), nn.Dropout(0.1)
        self.gate = nn.Parameter(torch.tensor(0.0))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        read = self.read(tokens)
        return self.say(self.noise(read.cumsum(1)) + self.gate * read.mean(1, keepdim=True))

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        logits = self(batch[0])
        return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch[0][:, 1:].flatten())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(*callbacks: Any, steps: int = 5) -> Opening:
    torch.manual_seed(0)
    model, rows = Opening(), torch.utils.data.TensorDataset(torch.randint(0, 50, (32, 9)))
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(max_steps=steps, callbacks=list(callbacks), accelerator="cpu", **quiet)
    trainer.fit(model, torch.utils.data.DataLoader(rows, 4, shuffle=True))
    return model


def test_a_leak_that_training_opens_is_told_once_and_the_training_is_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    callback = lightning_callback(every=2, only=["causal", "eval_deterministic"])
    watched, alone = fit(callback), fit()

    steps = {step: list(found.failed) for step, found in callback.watch.history}
    assert steps == {0: [], 2: ["causal"], 4: ["causal"], 5: ["causal"]}
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("modeltiers:")]
    assert len(told) == 1
    assert told[0].startswith(
        "modeltiers: step 2: causal: position 0's logits change when token 1 changes: the causal mask leaks"
    )
    assert all(map(torch.equal, watched.parameters(), alone.parameters()))


def test_a_failure_can_end_the_training(tmp_path: Path) -> None:
    callback = lightning_callback(every=2, only=["causal"], stop=True, folder=tmp_path)
    fit(callback)
    assert [step for step, _ in callback.watch.history] == [0, 2]
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["step-0", "step-2"]


def test_a_trainer_of_hugging_face_calls_it_at_start_intervals_and_end() -> None:
    pytest.importorskip("transformers")
    callback, control = trainer_callback(every=2, only=["causal"], stop=True), SimpleNamespace(should_training_stop=False)
    model = Leaking().train()
    state = SimpleNamespace(global_step=0, epoch=0.0, is_world_process_zero=True, log_history=[])
    for step, hook in ((0, "on_train_begin"), (1, "on_step_end"), (2, "on_step_end"), (3, "on_train_end")):
        state.global_step = step
        getattr(callback, hook)(None, state, control, model=model)
    assert [entry["step"] for entry in state.log_history] == [0, 2, 3]
    assert state.log_history[0]["modeltiers/failed"] == 1
    assert control.should_training_stop
    assert model.training


def test_a_whole_training_with_hugging_face_is_the_same(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate", reason="the Trainer of Hugging Face needs accelerate")

    def train(*callbacks: Any) -> list[torch.Tensor]:
        transformers.set_seed(0)
        sizes = {
            "n_layer": 1,
            "n_head": 2,
            "n_embd": 16,
            "vocab_size": 50,
            "n_positions": 32,
            "bos_token_id": 1,
            "eos_token_id": 2,
        }
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes))
        rows = [{"input_ids": (ids := torch.randint(0, 50, (9,))), "labels": ids} for _ in range(8)]
        quiet = {"report_to": [], "save_strategy": "no", "disable_tqdm": True, "use_cpu": True}
        arguments = transformers.TrainingArguments(str(tmp_path), max_steps=2, per_device_train_batch_size=4, **quiet)
        transformers.Trainer(model, arguments, train_dataset=rows, callbacks=list(callbacks)).train()
        return list(model.parameters())

    callback = trainer_callback(only=["causal"])
    assert all(map(torch.equal, train(callback), train()))
    assert [(step, found.ok) for step, found in callback.watch.history] == [(0, True), (2, True)]


@pytest.mark.parametrize("make", [lightning_callback, trainer_callback])
def test_a_callback_reaches_other_processes(make: Any) -> None:
    callback = pickle.loads(pickle.dumps(make(every=7)))
    assert callback.watch.every == 7


def test_a_model_that_cannot_be_called_is_said_once_and_the_training_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    watch = Watch(torch.randn(2, 3))
    model = nn.Linear(7, 1)
    assert [watch.look(model, step) for step in (0, 1)] == [{}, {}]
    assert capsys.readouterr().err.count("modeltiers: not judged: ") == 1
