"""Small models, sound ones and such as break when they are exported."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.models.stubs import build_stub
from harness.tasks import TaskSpec, TaskType

TABLE = TaskSpec(TaskType.TABULAR_CLASSIFICATION, num_features=5, num_classes=3)
TEXT = TaskSpec(TaskType.CAUSAL_LM, vocab_size=31, max_seq_len=12)


def language_model() -> nn.Module:
    return build_stub(TEXT)


class AnyLength(nn.Module):
    """Scores of the next token by the last one, of as many tokens as there are."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(31, 16)
        self.head = nn.Linear(16, 31)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(F.gelu(self.embed(input_ids)))


class LengthChecked(AnyLength):
    """Refuses more tokens than it was trained on, in Python."""

    def forward(self, input_ids: Tensor) -> Tensor:
        if input_ids.shape[1] > 12:
            raise ValueError("too long")
        return super().forward(input_ids)


class Scores(nn.Module):
    """Sound scores of a table."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(5, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, features: Tensor) -> Tensor:
        return self.head(F.gelu(self.hidden(features)))


class SizeBranch(Scores):
    """Another scale for large batches: a branch on a size, which an exporter decides once."""

    def forward(self, features: Tensor) -> Tensor:
        logits = super().forward(features)
        return logits * 2 if logits.shape[0] > 4 else logits * 3


class SizeWhere(Scores):
    """One scale."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features) * 3


class RowLoop(Scores):
    """A Python loop over the rows, unrolled by an exporter."""

    def forward(self, features: Tensor) -> Tensor:
        return torch.stack([self.head(self.hidden(features[row])) for row in range(features.shape[0])])


class RowsAtOnce(Scores):
    def forward(self, features: Tensor) -> Tensor:
        return self.head(self.hidden(features))


class DataBranch(Scores):
    """A branch on a value, which no graph holds; keyword arguments keep it from being scripted."""

    def forward(self, features: Tensor, **_more: Any) -> Tensor:
        logits = super().forward(features)
        return logits * 2 if logits.sum() > 0 else logits * 3


class DataWhere(Scores):
    def forward(self, features: Tensor, **_more: Any) -> Tensor:
        logits = super().forward(features)
        return torch.where(logits.sum() > 0, logits * 2, logits * 3)


class Stubborn(Scores):
    """A norm that eval() does not reach."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, features: Tensor) -> Tensor:
        return self.norm(super().forward(features))

    def train(self, mode: bool = True) -> nn.Module:
        super().train(mode)
        self.norm.training = True
        return self


class Obedient(Stubborn):
    def train(self, mode: bool = True) -> nn.Module:
        return nn.Module.train(self, mode)


class Squeezed(Scores):
    """Loses the batch axis of a single row."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features).squeeze(0)


class Fragile(Scores):
    """NaN from four rows on."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features) * (float("nan") if features.shape[0] > 3 else 1.0)


class Random(Scores):
    """Dropout in eval mode."""

    def forward(self, features: Tensor) -> Tensor:
        return F.dropout(super().forward(features), 0.5)


class Huge(Scores):
    """More than a gigabyte of scratch space in every call; as nothing is written there, no memory is taken."""

    def forward(self, features: Tensor) -> Tensor:
        scratch = torch.empty(300_000_000)
        return super().forward(features) + 0 * scratch.numel()


class Recurrent(nn.Module):
    """A GRU, which ``torch.export`` unrolls over the steps of its example."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(31, 8)
        self.gru = nn.GRU(8, 8, batch_first=True)
        self.head = nn.Linear(8, 31)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.gru(self.embed(input_ids))[0])


class FixedSteps(Recurrent):
    """The same in a loop of Python, over a number of steps."""

    def forward(self, input_ids: Tensor) -> Tensor:
        state, states = torch.zeros(1, input_ids.shape[0], 8), []
        for step in range(int(input_ids.shape[1])):
            out, state = self.gru(self.embed(input_ids[:, step : step + 1]), state)
            states.append(out)
        return self.head(torch.cat(states, 1))


class Masked(Scores):
    """Attention between the hidden units, minus infinity where one must not look; an exporter stores that number."""

    def forward(self, features: Tensor) -> Tensor:
        hidden = F.gelu(self.hidden(features))
        later = torch.ones(8, 8, dtype=torch.bool, device=hidden.device).triu(1)
        scores = (hidden[:, :, None] * hidden[:, None, :]).masked_fill(later, float("-inf"))
        return self.head((scores.softmax(-1) @ hidden[..., None])[..., 0])


def with_infinity() -> nn.Module:
    model = Masked()
    with torch.no_grad():
        model.head.weight[1, 2] = float("-inf")
    return model


def with_nan() -> nn.Module:
    model = Scores()
    with torch.no_grad():
        model.head.weight[1, 2] = float("nan")
    return model
