"""Trainings that break one promise of tier 3 each, and twins that keep it: the register, and the parts that they share."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.adapters import Adapter, make_adapter
from harness.config import TrainingConfig
from harness.models.stubs import LMStub
from harness.properties.subject import Subject
from harness.randomness import seeded
from harness.tasks import TaskSpec, TaskType
from harness.training.trial import Trial

FAMILIES = ("planted_losses", "planted_learning", "planted_optimizers", "planted_accumulation")
"""Modules of this package that register bugs."""

VOCAB, LENGTH, FEATURES, CLASSES = 23, 12, 6, 3

TEXT = TaskSpec(TaskType.CAUSAL_LM, vocab_size=VOCAB, max_seq_len=LENGTH, pad_token_id=0)
TAGS = TaskSpec(TaskType.TOKEN_CLASSIFICATION, vocab_size=VOCAB, max_seq_len=LENGTH, pad_token_id=0, num_classes=CLASSES)
TABLE = TaskSpec(TaskType.TABULAR_CLASSIFICATION, num_features=FEATURES, num_classes=CLASSES)
NUMBER = TaskSpec(TaskType.TABULAR_REGRESSION, num_features=FEATURES)

HUMBATOVA = "Humbatova et al. 2020, Taxonomy of Real Faults in Deep Learning Systems"
ISLAM = "Islam et al. 2019, A Comprehensive Study on Deep Learning Bug Characteristics"
RECIPE = "Karpathy 2019, A Recipe for Training Neural Networks"
PYTORCH = "PyTorch documentation"
LIGHTNING = "Lightning documentation, manual optimization"
UNSLOTH = "Han 2024, Bugs in LLM training: gradient accumulation fix"
HUGGING_FACE = "Hugging Face forum, labels are shifted inside the model"


@dataclass(frozen=True)
class Training:
    """A model, and how it is trained.

    Attributes:
        task: What it is for.
        build: Makes it.
        adapter: How it is called; the task's own by default.
        config: Training keys that matter.
    """

    task: TaskSpec
    build: Callable[[], nn.Module]
    adapter: type[Adapter] | None = None
    config: tuple[tuple[str, Any], ...] = (("learning_rate", 5e-3),)

    def trial(self) -> Trial:
        """The trial that judges it."""

        def build(seed: int) -> nn.Module:
            with seeded(seed):
                return self.build().eval()

        model = build(0)
        adapter = self.adapter(self.task) if self.adapter is not None else make_adapter(self.task)
        subject = Subject(model, adapter, self.task, pristine=model, rebuild=build)
        return Trial(subject, TrainingConfig(**dict(self.config)))

    def under(self, **keys: Any) -> Training:
        """The same with other training keys."""
        return replace(self, config=tuple(keys.items()))


@dataclass(frozen=True)
class Planted:
    """A bug that one test must find.

    Attributes:
        name: Unique name.
        test: The test, such as ``training_loss[targets]``.
        broken: The training with the bug.
        sound: The same without it.
        says: A part of the message.
        module: What is blamed.
        source: Where this kind of bug is described.
        status: The verdict on it.
        also: Other tests that may be red for the same bug.
    """

    name: str
    test: str
    broken: Training
    sound: Training
    says: str
    source: str
    module: str = ""
    status: str = "fail"
    also: tuple[str, ...] = ()


PLANTED: list[Planted] = []


def plant(name: str, test: str, broken: Training, sound: Training, says: str, source: str, **more: Any) -> None:
    """Registers a bug."""
    PLANTED.append(Planted(name, test, broken, sound, says, source, **more))


def all_planted() -> list[Planted]:
    """Every bug of every family."""
    for family in FAMILIES:
        importlib.import_module(f".{family}", __package__)
    return PLANTED


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
    """A classifier of table rows with a training step of its own."""

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
    """A language model with a training step of its own."""

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
