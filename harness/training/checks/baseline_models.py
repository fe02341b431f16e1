"""Trivial models, fitted to the same rows, that a trained model must beat."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.adapters import Adapter
from harness.batches import IGNORED, Batch
from harness.evaluation.answers import targets_of
from harness.tasks import TaskSpec
from harness.tasks.axes import BATCH
from harness.tasks.kinds import TokenScores
from harness.tasks.signature import Input, Signature
from harness.tasks.values import Ids, MaskOf

_LARGEST = 1 << 22
"""Numbers in a table, and features times rows of a linear model, above which there is none."""

_RIDGE = 1e-2
_ROUNDS = 30


class BaselineAdapter(Adapter):
    """Calls a baseline, and takes the loss of the model that it is compared with.

    Args:
        adapter: That model's.
        task: What it is for.
    """

    def __init__(self, adapter: Adapter, task: TaskSpec) -> None:
        super().__init__(task)
        self._adapter = adapter

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """What the baseline says."""
        return model(batch)

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """As the adapter has it."""
        return self._adapter.loss(logits, batch)

    def weight(self, batch: Batch) -> Tensor:
        """As the adapter has it."""
        return self._adapter.weight(batch)


class Prior(nn.Module):
    """How common each class or token is, or the best constant number, whatever the input.

    Args:
        task: What the labels of its main output mean.
        batches: The rows that training has seen.
    """

    name: str

    def __init__(self, task: TaskSpec, batches: Sequence[Batch]) -> None:
        super().__init__()
        self._signature, output = task.signature, task.signature.main
        labels = torch.cat([_labels(task, batch).flatten() for batch in batches])
        if output.classes is None:
            # A number a row may have any value; among several of a row, padding is marked.
            numbers = labels[labels != IGNORED] if len(output.axes) > 1 else labels
            self.name, constant = _constant(output.loss, numbers)
            self.answer = nn.Parameter(constant, requires_grad=False)
            return
        self.name = "the frequency of each token" if isinstance(output.kind, TokenScores) else "the frequency of each class"
        # No class is impossible (Laplace).
        counts = torch.bincount(labels[labels != IGNORED], minlength=output.class_count or 1).double() + 1
        self.answer = nn.Parameter((counts / counts.sum()).log().float(), requires_grad=False)

    def forward(self, batch: Batch) -> Tensor:
        """The main output, the rows first."""
        output = self._signature.main
        shape = output.shape(self._signature.sizes_of(batch))
        # Classes lie along their axis; the answer is the same wherever else.
        answer = self.answer if output.classes is None else self.answer.reshape(-1, *[1] * (-1 - output.classes))
        return answer.expand(shape).clone()


def _constant(loss: str, labels: Tensor) -> tuple[str, Tensor]:
    """The best constant for numbers, and its name; for a yes or no its score."""
    if loss == "bce":
        share = (labels.double().sum() + 1) / (len(labels) + 2)
        return "the frequency of yes", (share / (1 - share)).log().float()
    if loss in ("l1", "huber"):
        return "the median of the training labels", labels.double().median().float()
    return "the mean of the training labels", labels.double().mean().float()


class TokenTable(nn.Module):
    """How common each label is beside a token, shrunk towards the prior by the number of labels seen there (Witten and Bell 1991).

    Args:
        task: One with an answer at each token.
        tokens: The ids at whose places the answers are.
        batches: The rows that training has seen.
        prior: Fitted to them.
    """

    name = "a table of the tokens beside each other"

    def __init__(self, task: TaskSpec, tokens: Input, batches: Sequence[Batch], prior: Prior) -> None:
        super().__init__()
        signature = task.signature
        self._field = tokens.name
        self._looks_back = signature.has_hidden_labels(signature.main) and not any(signature.with_order("causal"))
        counts = torch.zeros(_count_of(tokens), signature.main.class_count or 1, dtype=torch.float64)
        for batch in batches:
            labels, ids = _labels(task, batch), self._tokens(batch)
            known = labels != IGNORED
            counts.index_put_((ids[known], labels[known]), torch.ones(()).double(), accumulate=True)
        kinds = (counts > 0).sum(1, keepdim=True).clamp(min=1)
        shares = (counts + kinds * prior.answer.double().exp()) / (counts.sum(1, keepdim=True) + kinds)
        self.table = nn.Parameter(shares.log().float(), requires_grad=False)

    def forward(self, batch: Batch) -> Tensor:
        """Logits ``[B, S, C]``."""
        return self.table[self._tokens(batch)]

    def _tokens(self, batch: Batch) -> Tensor:
        tokens = batch[self._field]
        return torch.cat([tokens[:, :1], tokens[:, :-1]], 1) if self._looks_back else tokens


class Linear(nn.Module):
    """A linear model of the numbers among the inputs, and of how often each id occurs, with a ridge.

    Args:
        task: One with an answer a row: a class, or a number.
        batches: The rows that training has seen; inputs have the same size in all.
    """

    name = "a linear model"

    def __init__(self, task: TaskSpec, batches: Sequence[Batch]) -> None:
        super().__init__()
        self._signature = task.signature
        raw = torch.cat([features_of(self._signature, batch) for batch in batches])
        self.mean, self.scale = raw.mean(0), raw.std(0).clamp(min=1e-6)
        labels = torch.cat([_labels(task, batch) for batch in batches])
        self.weight, self.bias = self._fit((raw - self.mean) / self.scale, labels)

    def forward(self, batch: Batch) -> Tensor:
        """Logits ``[B, C]``; ``[B]`` for numbers."""
        scores = F.linear((features_of(self._signature, batch) - self.mean) / self.scale, self.weight, self.bias)
        return scores if self._has_classes else scores.squeeze(-1)

    @property
    def _has_classes(self) -> bool:
        return self._signature.main.classes is not None

    def _fit(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        outputs = self._signature.main.class_count or 1
        weight = torch.zeros(outputs, inputs.shape[1], requires_grad=True)
        bias = torch.zeros(outputs, requires_grad=True)
        optimizer = torch.optim.LBFGS([weight, bias], max_iter=_ROUNDS, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            scores = F.linear(inputs, weight, bias)
            known = F.cross_entropy(scores, labels) if self._has_classes else F.mse_loss(scores[:, 0], labels.float())
            loss = known + _RIDGE * weight.square().sum()
            loss.backward()
            return loss

        with torch.enable_grad():
            optimizer.step(closure)
        return weight.detach(), bias.detach()


def features_of(signature: Signature, batch: Batch) -> Tensor:
    """What a linear model sees of each row: its numbers, and how often each of its ids occurs (float32 ``[B, F]``)."""
    masks = [each for each in signature.inputs if isinstance(each.values, MaskOf) and each.name in batch]
    parts = []
    for each in (each for each in signature.inputs if BATCH in each.axes and each.name in batch):
        value = batch[each.name]
        if each.holds_numbers:
            parts.append(value.float().flatten(1))
        elif isinstance(each.values, Ids) and isinstance(each.values.count, tuple):
            tables = enumerate(each.values.count)
            parts += [F.one_hot(value[..., place], count).float().flatten(1) for place, count in tables]
        elif count := _count_of(each):
            told = F.one_hot(value, count).float()
            for mask in masks:
                if mask.axes == each.axes and isinstance(mask.values, MaskOf):
                    told = told * (batch[mask.name].bool() ^ mask.values.inverted)[..., None]
            parts.append(told.flatten(1, -2).sum(1) if told.ndim > 2 else told)
    return torch.cat(parts, 1)


def stronger(task: TaskSpec, batches: Sequence[Batch], prior: Prior) -> nn.Module | None:
    """The baseline that looks at the input; ``None`` where there is none for such outputs or inputs, or its tables would be too large."""
    signature, output = task.signature, task.signature.main
    answers = signature.axes_of(signature.label_name(output))
    if output.class_count and len(answers) > 1:
        tokens = next((each for each in signature.inputs if _count_of(each) and each.axes == answers), None)
        if tokens is None or _count_of(tokens) * output.class_count > _LARGEST:
            return None
        return TokenTable(task, tokens, batches, prior)
    fits = answers == (BATCH,) and ((output.loss == "cross_entropy" and output.class_count) or output.loss == "mse")
    if not fits or not any(each.holds_numbers or isinstance(each.values, Ids) for each in signature.inputs):
        return None
    widths = {features_of(signature, signature.rows(batch, [0])).shape[1] for batch in batches}
    rows = sum(signature.row_count(batch) for batch in batches)
    return Linear(task, batches) if len(widths) == 1 and rows * widths.pop() <= _LARGEST else None


def _count_of(given: Input) -> int:
    """How many ids an input may hold; 0 for one that holds none, or of several tables."""
    return given.values.count if isinstance(given.values, Ids) and isinstance(given.values.count, int) else 0


def _labels(task: TaskSpec, batch: Batch) -> Tensor:
    return targets_of(task, batch, lambda row: f"row {row} of a training batch")
