"""Small trainings for the tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from harness.adapters import make_adapter
from harness.config import EvalConfig, SuiteConfig
from harness.data.loader import make_loader
from harness.data.opening import open_dataset
from harness.models.stubs import build_stub
from harness.runtime import seeded
from harness.training import Listener, Plan, Step
from harness.training.checkpoints import CheckpointFolder
from harness.training.compute import Machine, choose_compute
from harness.training.engines import Job
from harness.training.supervisor import Supervisor, SupervisorOptions

Engine = Literal["plain", "lightning"]


class Steps(Listener):
    def __init__(self) -> None:
        self.taken: list[Step] = []

    def on_step(self, step: Step) -> None:
        self.taken.append(step)


def train(
    engine: Engine = "plain",
    *,
    folder: Path | None = None,
    resume: bool = False,
    every: int | None = 1,
    limit: int | None = None,
    rows: int = 28,
    model: nn.Module | None = None,
    task_name: str = "lm_tiny",
    **keys: Any,
) -> tuple[nn.Module, list[Step]]:
    """Trains for two epochs; returns the model and its steps."""
    config = SuiteConfig.model_validate({"task_name": task_name, "epochs": 2, "batch_size": 4, "learning_rate": 3e-3, **keys})
    task, training = config.task_spec(), config.training_config()
    if model is None:
        with seeded(0):
            model = build_stub(task)
    data = open_dataset(EvalConfig(max_eval_examples=rows), task)
    steps = Steps()
    checkpoints = CheckpointFolder(folder) if folder else None
    supervisor = Supervisor(Plan("test", 2, 0), [steps], checkpoints=checkpoints, options=SupervisorOptions(every, limit=limit))
    job = Job(
        model,
        make_adapter(task),
        task,
        training,
        choose_compute(training, Machine()),
        make_loader(data, task, training.batch_size, shuffle=True),
        training.epochs,
        0,
        supervisor,
        folder / "last.ckpt" if resume and folder else None,
    )
    with torch.random.fork_rng():
        run(engine, job)
    return model, steps.taken


def run(engine: Engine, job: Job) -> None:
    if engine == "plain":
        from harness.training.engines import PlainEngine

        PlainEngine(job).fit()
    else:
        from harness.training.engines.lightning import LightningEngine

        LightningEngine(job).fit()


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name.removeprefix("model."): tensor for name, tensor in model.state_dict().items()}


def same_bits(left: nn.Module, right: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(weights(left).values(), weights(right).values(), strict=True))
