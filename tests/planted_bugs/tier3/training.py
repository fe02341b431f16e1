"""A model with its training, as tier 3 judges it, and the parts that several bugs share."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.adapters import Adapter, make_adapter
from harness.config import TrainingConfig, load_config
from harness.evidence import Evidence
from harness.models.stubs import LMStub
from harness.properties.subject import Subject
from harness.runtime import seeded, threads_for
from harness.tasks import TaskSpec, TaskType
from harness.training.trial import Trial

from ..register import PlantedBug, register
from ..setups import Setup, factory_name, tests_of, verdict_of

VOCAB, LENGTH, FEATURES, CLASSES = 23, 12, 6, 3

TEXT = TaskSpec(TaskType.CAUSAL_LM, vocab_size=VOCAB, max_seq_len=LENGTH, pad_token_id=0)
TAGS = TaskSpec(TaskType.TOKEN_CLASSIFICATION, vocab_size=VOCAB, max_seq_len=LENGTH, pad_token_id=0, num_classes=CLASSES)
TABLE = TaskSpec(TaskType.TABULAR_CLASSIFICATION, num_features=FEATURES, num_classes=CLASSES)
NUMBER = TaskSpec(TaskType.TABULAR_REGRESSION, num_features=FEATURES)

FOLDER = Path(__file__).parent
"""To which the files of declared loss functions are relative."""

LIGHTNING = "Lightning documentation, manual optimization"
UNSLOTH = "Han 2024, Bugs in LLM training: gradient accumulation fix"


@dataclass(frozen=True)
class Training(Setup):
    """A model, and how it is trained.

    Attributes:
        task: What it is for.
        build: Makes it.
        adapter: How it is called; the task's own by default.
        config: Training keys that matter.
        fresh: Whether its weights count as just made, rather than loaded.
        data: Whether there is a dataset.
        seconds: What a check may take.
    """

    task: TaskSpec
    build: Callable[[], nn.Module]
    adapter: type[Adapter] | None = None
    config: dict[str, Any] = field(default_factory=lambda: {"learning_rate": 5e-3})
    fresh: bool = True
    data: bool = False
    seconds: float = float("inf")

    @property
    def name(self) -> str:
        return factory_name(self.build)

    def judge(self, properties: Collection[str], folder: Path) -> dict[str, Evidence]:
        trial, found = self.trial(folder), {}
        with threads_for(trial.subject.model):
            for name in properties:
                for test, case in tests_of(name, self.task):
                    found[test] = verdict_of(name, trial, case, properties).investigated()
        return found

    def trial(self, folder: Path) -> Trial:
        """The trial that judges it.

        Args:
            folder: An empty folder for the dataset.
        """

        def build(seed: int) -> nn.Module:
            with seeded(seed):
                return self.build().eval()

        model = build(0)
        adapter = self.adapter(self.task) if self.adapter is not None else make_adapter(self.task, folder=FOLDER)
        subject = Subject(model, adapter, self.task, pristine=model, rebuild=build, fresh_weights=self.fresh)
        trial = Trial.of(subject, TrainingConfig(**self.config))
        trial.seconds = self.seconds
        if self.data:
            trial.source = load_config(write_data(folder, self.task))
        return trial

    def under(self, **keys: Any) -> Training:
        """The same with other training keys."""
        return replace(self, config=keys)


def plant(name: str, test: str, broken: Training, sound: Training, code: str, source: str, **more: Any) -> None:
    """Registers a bug of tier 3; see ``PlantedBug`` for the arguments."""
    register(PlantedBug(name, test, broken, sound, code=code, source=source, **more))


def write_data(folder: Path, task: TaskSpec) -> Path:
    """A table from which the labels can be told, far from standardised, and a config that names it; returns the config."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((600, 6))
    scores = features @ rng.standard_normal((6, 4))
    labels = scores.argmax(1) if task.num_classes else 20 + 5 * scores[:, 0]
    if task.num_classes:
        features = features * 3 + 40
    for split, rows in (("train", slice(0, 480)), ("validation", slice(480, 600))):
        np.savez(folder / f"{split}.npz", features=features[rows].astype(np.float32), labels=labels[rows])
    sizes = {"num_features": 6, **({"num_classes": 4} if task.num_classes else {})}
    data = {"train": {"path": "train.npz"}, "eval": {"path": "validation.npz"}}
    file = folder / "run.json"
    file.write_text(json.dumps({"task_type": task.task_type.value, **sizes, **data}))
    return file


class Scores(nn.Module):
    """A perceptron over a table."""

    def __init__(self, outputs: int = CLASSES) -> None:
        super().__init__()
        self.hidden = nn.Linear(FEATURES, 16)
        self.head = nn.Linear(16, outputs)

    def forward(self, features: Tensor) -> Tensor:
        return self.head(F.gelu(self.hidden(features)))


def language_model() -> LMStub:
    return LMStub(VOCAB, LENGTH, width=32, depth=1, heads=2)


class LitScores(lightning.LightningModule):
    """A classifier of table rows with its own training step."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Scores()

    def forward(self, features: Tensor) -> Tensor:
        return self.net(features)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Any:
        return self.loss(self(batch["features"]), batch["labels"])

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


class LitLM(lightning.LightningModule):
    """A language model with its own training step."""

    def __init__(self) -> None:
        super().__init__()
        self.net = language_model()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.net(input_ids, attention_mask)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Any:
        return self.loss(self(batch["input_ids"], batch["attention_mask"]), batch)

    def loss(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=5e-3)


class ManualScores(LitScores):
    """A classifier that calls its optimizer itself."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(self(batch["features"]), batch["labels"]))
        optimizer.step()


def regressor() -> Scores:
    return Scores(1)


SCORES = Training(TABLE, Scores)
NUMBERS = Training(NUMBER, regressor)
WORDS = Training(TEXT, language_model)
LIT_SCORES = Training(TABLE, LitScores)
LIT_WORDS = Training(TEXT, LitLM)
MANUAL = Training(TABLE, ManualScores)
