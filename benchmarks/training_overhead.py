"""Steps a second of ``run_training``'s engine against a bare Lightning ``Trainer`` and a plain PyTorch loop, in one process, in turns.

python benchmarks/training_overhead.py --rounds 10
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import lightning
import torch
from torch import Tensor

from harness.adapters import Adapter, make_adapter
from harness.batches import Batch
from harness.config import EvalConfig, SuiteConfig
from harness.data.loader import Loader, make_loader
from harness.data.opening import open_dataset
from harness.experiments.database import ExperimentDB
from harness.models.stubs import build_stub
from harness.training import Plan, RunLog
from harness.training.checkpoints import CheckpointFolder
from harness.training.compute import Machine, choose_compute
from harness.training.engines import Job, PlainEngine
from harness.training.engines.lightning import LightningEngine, quiet
from harness.training.history import History
from harness.training.optimisation import make_optimizer
from harness.training.progress import Progress
from harness.training.supervisor import Supervisor

CONFIG = SuiteConfig.model_validate({"task_name": "lm_tiny", "batch_size": 16, "learning_rate": 1e-3, "use_gpu": False})
EPOCHS = 5
TASK, TRAINING = CONFIG.task_spec(), CONFIG.training_config()


class Bare(lightning.LightningModule):
    """What a user would write."""

    def __init__(self, adapter: Adapter) -> None:
        super().__init__()
        self.model = build_stub(TASK)
        self.adapter = adapter

    def training_step(self, batch: Batch, _index: int) -> Tensor:
        return self.adapter.loss(self.adapter.logits(self.model, batch), batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return make_optimizer(self.model, TRAINING)


def loader(rows: int) -> Loader:
    return make_loader(open_dataset(EvalConfig(max_eval_examples=rows), TASK), TASK, 16, shuffle=True)


def bare_lightning(batches: Loader, _scratch: Path) -> None:
    with quiet():
        trainer = lightning.Trainer(
            max_epochs=EPOCHS,
            accelerator="cpu",
            devices=1,
            gradient_clip_val=1.0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        trainer.fit(Bare(make_adapter(TASK)), batches)


def plain_loop(batches: Loader, _scratch: Path) -> None:
    adapter, model = make_adapter(TASK), build_stub(TASK).train()
    optimizer = make_optimizer(model, TRAINING)
    for epoch in range(EPOCHS):
        batches.set_epoch(epoch)
        for batch in batches:
            optimizer.zero_grad()
            adapter.loss(adapter.logits(model, batch), batch).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()


def ours(engine: type[LightningEngine] | type[PlainEngine]) -> Callable[[Loader, Path], None]:
    """Everything a training does between its steps: history, database, progress, the guard against NaN, a checkpoint at the end."""

    def run(batches: Loader, scratch: Path) -> None:
        with ExperimentDB(scratch / "runs.db") as db, db.start_run("benchmark") as log:
            history = History()
            listeners = [history, Progress(quiet=True), RunLog(log)]
            supervisor = Supervisor(
                Plan("run", EPOCHS, EPOCHS * len(batches)),
                listeners,
                checkpoints=CheckpointFolder(scratch),
                remembered={"history": history},
            )
            compute = choose_compute(TRAINING, Machine())
            engine(Job(build_stub(TASK), make_adapter(TASK), TASK, TRAINING, compute, batches, EPOCHS, 0, supervisor)).fit()
            supervisor.end()

    return run


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--rows", type=int, default=800)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    batches = loader(arguments.rows)
    ways = {
        "bare Lightning Trainer": bare_lightning,
        "run_training, Lightning": ours(LightningEngine),
        "plain PyTorch loop": plain_loop,
        "run_training, plain": ours(PlainEngine),
    }
    wall: dict[str, list[float]] = {name: [] for name in ways}
    processor: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(arguments.rounds + 1):
        names = list(ways)
        for name in names if turn % 2 else reversed(names):
            with tempfile.TemporaryDirectory() as scratch:
                started, worked = time.perf_counter(), time.process_time()
                ways[name](batches, Path(scratch))
                wall[name].append(time.perf_counter() - started)
                processor[name].append(time.process_time() - worked)
    for name, taken in processor.items():
        kept = taken[1:]  # the first warms up
        print(f"{name:<26} {EPOCHS * len(batches) / statistics.median(kept):7.1f} steps/s")
    for ours_name, other in (
        ("run_training, Lightning", "bare Lightning Trainer"),
        ("run_training, Lightning", "plain PyTorch loop"),
        ("run_training, plain", "plain PyTorch loop"),
    ):
        for clock, seconds in (("processor time", processor), ("wall clock", wall)):
            ratios = sorted(b / a for a, b in zip(seconds[ours_name][1:], seconds[other][1:], strict=True))
            low, high = ratios[len(ratios) // 10], ratios[-1 - len(ratios) // 10]
            print(
                f"{ours_name} / {other}, {clock}: {statistics.median(ratios):.3f} (10th to 90th percentile {low:.3f} to {high:.3f})"
            )


if __name__ == "__main__":
    main()
