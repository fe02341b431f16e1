"""Models that know next to nothing, fitted to the same rows: what a trained one must beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.adapters import Adapter
from harness.batches import IGNORED, Batch
from harness.evaluation.answers import targets_of
from harness.tasks import TaskSpec
from harness.tasks.kinds import TokenScores
from harness.tasks.signature import Signature
from harness.tasks.values import Ids

_LARGEST = 1 << 22
"""Numbers in a table, and features times rows of a linear model, above which there is none."""

_RIDGE = 1e-2
_ROUNDS = 30


def token_field(signature: Signature) -> str:
    """The ids at whose places the labels are; the first ones where labels have no places."""
    fields = [each for each in signature.inputs if isinstance(each.values, Ids)]
    labelled = signature.axes_of(signature.label_name(signature.main))
    return next((each.name for each in fields if each.axes == labelled), fields[0].name if fields else "")


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
        counts = (
            torch.bincount(labels[labels != IGNORED], minlength=output.class_count or 1).double() + 1
        )  # no class is impossible (Laplace)
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
        task: One with an answer at each position.
        batches: The rows that training has seen.
        prior: Fitted to them.
    """

    name = "a table of the tokens beside each other"

    def __init__(self, task: TaskSpec, batches: Sequence[Batch], prior: Prior) -> None:
        super().__init__()
        signature = task.signature
        self._field = token_field(signature)
        # The token itself is hidden where none stands before another.
        self._looks_back = isinstance(signature.main.kind, TokenScores) and not any(signature.with_order("causal"))
        vocabulary, classes = task.vocabulary_of(self._field) or 1, task.output_size or 1
        counts = torch.zeros(vocabulary, classes, dtype=torch.float64)
        for batch in batches:
            labels, tokens = _labels(task, batch), self._tokens(batch)
            known = labels != IGNORED
            counts.index_put_((tokens[known], labels[known]), torch.ones(()).double(), accumulate=True)
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
    """A linear model of the pixels, the features, or how often each token occurs, with a ridge.

    Args:
        task: One with an answer a row.
        batches: The rows that training has seen.
    """

    name = "a linear model"

    def __init__(self, task: TaskSpec, batches: Sequence[Batch]) -> None:
        super().__init__()
        self._task = task
        raw = torch.cat([self._features(batch) for batch in batches])
        self.mean, self.scale = raw.mean(0), raw.std(0).clamp(min=1e-6)
        labels = torch.cat([_labels(task, batch) for batch in batches])
        self.weight, self.bias = self._fit((raw - self.mean) / self.scale, labels)

    def forward(self, batch: Batch) -> Tensor:
        """Logits ``[B, C]``; ``[B]`` for numbers."""
        scores = F.linear((self._features(batch) - self.mean) / self.scale, self.weight, self.bias)
        return scores.squeeze(-1) if self._task.is_regression else scores

    def _features(self, batch: Batch) -> Tensor:
        if not self._task.is_text:
            return batch[self._task.facts.inputs[0]].float().flatten(1)
        tokens = F.one_hot(batch["input_ids"], self._task.vocab_size or 1).float()
        return (tokens * batch["attention_mask"][..., None]).sum(1)

    def _fit(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        outputs = 1 if self._task.is_regression else self._task.output_size or 1
        weight = torch.zeros(outputs, inputs.shape[1], requires_grad=True)
        bias = torch.zeros(outputs, requires_grad=True)
        optimizer = torch.optim.LBFGS([weight, bias], max_iter=_ROUNDS, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            scores = F.linear(inputs, weight, bias)
            known = F.mse_loss(scores[:, 0], labels.float()) if self._task.is_regression else F.cross_entropy(scores, labels)
            loss = known + _RIDGE * weight.square().sum()
            loss.backward()
            return loss

        with torch.enable_grad():
            optimizer.step(closure)
        return weight.detach(), bias.detach()


def stronger(task: TaskSpec, batches: Sequence[Batch], prior: Prior) -> nn.Module | None:
    """The baseline that looks at the input; ``None`` for declared tasks, and where its tables would be too large."""
    if task.declared is not None:
        return None
    if task.is_per_position:
        size = (task.vocabulary_of(task.causal_field) or 1) * (task.output_size or 1)
        return TokenTable(task, batches, prior) if size <= _LARGEST else None
    rows: int = sum(len(batch["labels"]) for batch in batches)
    width: Any = task.vocab_size if task.is_text else batches[0][task.facts.inputs[0]][0].numel()
    return Linear(task, batches) if rows * width <= _LARGEST else None


def _labels(task: TaskSpec, batch: Batch) -> Tensor:
    return targets_of(task, batch, lambda row: f"row {row} of a training batch")
