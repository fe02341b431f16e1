"""What is measured of a model's outputs: what it predicts, how sure it is, its embedding, and with labels how well it does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.adapters import Adapter, make_adapter
from harness.batches import Batch, to_device
from harness.compat import tree_leaves
from harness.data.columns import Classes
from harness.data.loader import collate
from harness.data.record import Example
from harness.evaluation.answers import answers_of, check_logits, targets_of, widened
from harness.evaluation.scores import Losses, row_scores
from harness.monitoring.features.levels import name_of_id
from harness.monitoring.features.values import Ids, Numbers, Values, Vectors
from harness.properties.calling import blaming, mode
from harness.properties.subject import floating_dtype
from harness.properties.tracing import Call, fields_of, path_of, recording
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


def score_values(task: TaskSpec, adapter: Adapter, logits: Tensor, batch: Batch) -> Mapping[str, Values]:
    """The loss of each row, and how right its answer is; nothing without labels.

    A change of what is right, such as labels of another meaning, shows in these and in no input.

    Args:
        task: What the logits mean.
        adapter: Whose loss it is.
        logits: What the model said.
        batch: The rows, on the logits' device.

    Raises:
        DataError: A label is out of range.
        OutputError: The logits have another shape than the task promises.
    """
    if "labels" not in batch:
        return {}
    targets = targets_of(task, batch, lambda row: f"row {row + 1} of a batch")
    check_logits(task, logits, targets)
    answers = answers_of(task, logits, targets)
    losses = Losses(adapter, task).add(answers, logits, batch)
    found = row_scores(task, answers, losses)
    return {f"score.{name}": Numbers(np.ascontiguousarray(values.double().numpy())) for name, values in found.items()}


@dataclass(frozen=True)
class EmbeddingPlace:
    """A module, and which end of it the embedding is at.

    Attributes:
        module: Its name; empty for the model itself.
        is_input: Whether the embedding is the module's input, as of a linear head; else its output.
    """

    module: str
    is_input: bool


def find_embedding(model: nn.Module, calls: list[Call], classes: int) -> EmbeddingPlace | None:
    """The input of the last linear layer or convolution that gives as many numbers as there are logits, or else the last output.

    Args:
        model: The model.
        calls: A recording of one call of it.
        classes: Size of the last axis of the logits.
    """
    leaves = [call for call in calls if call.outputs and call.inputs and not any(_module(model, call).children())]
    for call in reversed(leaves):
        if _is_head(_module(model, call), classes) and call.inputs[0].is_floating_point():
            return EmbeddingPlace(_name(call), is_input=True)
    last = next((call for call in reversed(leaves) if call.outputs[0].is_floating_point()), None)
    return None if last is None else EmbeddingPlace(_name(last), is_input=False)


@contextmanager
def catching(model: nn.Module, place: EmbeddingPlace) -> Iterator[list[Tensor]]:
    """Keeps what passes the place while the model is called."""
    caught: list[Tensor] = []

    def catch(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        tree = (args, kwargs) if place.is_input else fields_of(output)
        caught.extend(leaf.detach() for leaf in tree_leaves(tree)[:1] if isinstance(leaf, Tensor))

    handle = model.get_submodule(place.module).register_forward_hook(catch, with_kwargs=True)
    try:
        yield caught
    finally:
        handle.remove()


def one_a_row(embedding: Tensor, rows: int, real: Tensor | None) -> Tensor | None:
    """An embedding as one vector a row, float64 ``[B, D]``; the mean over positions or pixels. ``None`` where the rows cannot be told.

    Args:
        embedding: ``[B, D]``, ``[B, S, D]``, ``[B * S, D]`` or ``[B, D, H, W]``.
        rows: B.
        real: Which positions count, bool ``[B, S]``, for models with a logit a position.
    """
    found = embedding.double()
    if found.ndim == 2 and len(found) != rows and rows and len(found) % rows == 0:
        found = found.unflatten(0, (rows, -1))
    if found.ndim < 2 or len(found) != rows:
        return None
    if found.ndim == 4:
        return found.mean(dim=(2, 3))
    if found.ndim == 3 and real is not None and found.shape[1] == real.shape[1]:
        weights = real.to(found)
        return torch.einsum("bsd,bs->bd", found, weights) / weights.sum(dim=1, keepdim=True)
    return found.flatten(1, -2).mean(dim=1) if found.ndim > 2 else found


def _module(model: nn.Module, call: Call) -> nn.Module:
    return model.get_submodule(_name(call))


def _name(call: Call) -> str:
    return "" if call.module == path_of("") else call.module


def _is_head(module: nn.Module, classes: int) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim >= 2 and weight.shape[0] == classes and not isinstance(module, nn.Embedding)
