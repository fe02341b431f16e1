"""What is measured of a model's outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.adapters import Adapter, make_adapter
from harness.batches import Batch, to_device
from harness.data.columns import Classes
from harness.data.loader import collate
from harness.data.record import Example
from harness.evaluation.answers import widened
from harness.monitoring.profiles.embedding import EmbeddingPlace, catching, find_embedding, one_a_row
from harness.monitoring.profiles.levels import name_of_id
from harness.monitoring.profiles.scores import score_values
from harness.monitoring.profiles.values import Ids, Numbers, Values, Vectors
from harness.properties.calling import blaming, mode
from harness.properties.subject import floating_dtype
from harness.properties.tracing import recording
from harness.runtime import seeded, threads_for
from harness.tasks import TaskSpec

MOST_PROBABILITIES = 32
"""A feature for each class's probability is kept up to so many classes."""

_NO_CLASS = -1
_PIECE = 1 << 22


class OutputMeter:
    """Calls a model on examples and measures what it says.

    Of each row: the class it predicts, the probability of that class (``confidence``), the entropy in nats, the margin to the runner-up,
    and up to 32 classes the probability of each, on which label shift shows (black-box shift detection; Rabanser et al. 2019); and the
    embedding. Where there are logits for every position, numbers and embedding are means over a row's real positions, since positions of
    one row are no independent samples; the predicted classes are counted with the row they belong to. With labels, how well it does as well.

    Args:
        model: The model; it is in eval mode while it is called.
        task: What it is for.
        adapter: How it is called; the task's own by default.
        classes: What the classes are called.
    """

    def __init__(self, model: nn.Module, task: TaskSpec, adapter: Adapter | None = None, classes: Classes | None = None) -> None:
        self._model = model
        self._task = task
        self._adapter = adapter or make_adapter(task)
        self._names = classes.names if classes else ()
        self._place: EmbeddingPlace | None = None
        self._looked = False

    def __call__(self, examples: Sequence[Example]) -> Mapping[str, Values]:
        """What the model says of examples.

        Raises:
            ForwardError: The model raised.
            OutputError: Its output holds no logits.
        """
        batch = collate(self._task, examples)
        there = self._there(batch)
        with threads_for(self._model), mode(self._model, train=False), torch.no_grad(), seeded(0):
            logits, embedding = self._call(there)
            scores = score_values(self._task, self._adapter, logits, there)
        real = _real(self._task, batch, examples)
        return {**self._said(logits, real), **_embedding(embedding, len(examples), real), **scores}

    def _there(self, batch: Batch) -> Batch:
        """The batch where the model is, floating inputs in its dtype; labels keep their own."""
        first = next(chain(self._model.parameters(), self._model.buffers()), None)
        device = None if first is None else first.device
        labels = {"labels": batch["labels"]} if "labels" in batch else {}
        return {**to_device(batch, device, floating_dtype(self._model)), **to_device(labels, device)}

    def _call(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        self._look(batch)
        with blaming(self._model):
            if self._place is None:
                return self._adapter.logits(self._model, batch), None
            with catching(self._model, self._place) as caught:
                logits = self._adapter.logits(self._model, batch)
        return logits, caught[-1] if caught else None

    def _look(self, batch: Batch) -> None:
        """Finds the embedding, once."""
        if self._looked:
            return
        self._looked = True
        one = {name: tensor[:1] for name, tensor in batch.items()}
        with blaming(self._model), recording(self._model) as calls:
            logits = self._adapter.logits(self._model, one)
        self._place = find_embedding(self._model, calls, 1 if self._task.is_regression else logits.shape[-1])

    def _said(self, logits: Tensor, real: Tensor | None) -> dict[str, Values]:
        if self._task.is_regression:
            return {"output.prediction": Numbers(_array(logits.cpu().double()))}
        flat = logits if real is None else logits[real.to(logits.device)]
        rows = None if real is None else torch.arange(len(real))[:, None].expand_as(real)[real].numpy()
        predicted, numbers = _measured(flat, keep=real is None and flat.shape[-1] <= MOST_PROBABILITIES)
        said: dict[str, Values] = {"output.class": Ids(predicted, logits.shape[-1], rows, self._names)}
        for name, values in numbers.items():
            key = f"probability.{name_of_id(int(name), self._names)}" if name.isdigit() else name
            said[f"output.{key}"] = Numbers(values if rows is None else _row_means(values, rows, len(logits)))
        return said


def _measured(logits: Tensor, keep: bool) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The likeliest class of each, ``-1`` where there is NaN, and numbers by name; by class where the probabilities are kept."""
    predicted: list[np.ndarray] = []
    numbers: dict[str, list[np.ndarray]] = {}
    for piece in logits.split(max(1, _PIECE // logits.shape[-1])):
        logs = F.log_softmax(widened(piece), dim=-1)
        probabilities = logs.exp()
        best = probabilities.topk(min(2, logs.shape[-1]), dim=-1).values
        broken = logs.isnan().any(dim=-1)
        predicted.append(_array(logs.argmax(dim=-1).masked_fill(broken, _NO_CLASS)))
        found = {
            "confidence": best[:, 0],
            "entropy": -(probabilities * logs.clamp_min(torch.finfo(logs.dtype).min)).sum(dim=-1),
            "margin": best[:, 0] - best[:, -1],
            **({str(number): column for number, column in enumerate(probabilities.T)} if keep else {}),
        }
        for name, values in found.items():
            numbers.setdefault(name, []).append(_array(values.masked_fill(broken, torch.nan).cpu().double()))
    return np.concatenate(predicted), {name: np.concatenate(values) for name, values in numbers.items()}


def _row_means(values: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
    """Mean of each row's values, float64 ``[B]``; NaN for a row without any."""
    with np.errstate(invalid="ignore"):
        return np.bincount(rows, values, minlength=count) / np.bincount(rows, minlength=count)


def _embedding(embedding: Tensor | None, rows: int, real: Tensor | None) -> dict[str, Values]:
    found = None if embedding is None else one_a_row(embedding.cpu(), rows, real)
    return {} if found is None else {"output.embedding": Vectors(found.numpy())}


def _real(task: TaskSpec, batch: Batch, examples: Sequence[Example]) -> Tensor | None:
    """The positions whose logits count, bool ``[B, S]``; ``None`` where there is one a row."""
    if not task.is_per_position:
        return None
    field = task.causal_field
    lengths = torch.tensor([len(example[field]) for example in examples])
    return torch.arange(batch[field].shape[1]) < lengths[:, None]


def _array(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.cpu().numpy())
