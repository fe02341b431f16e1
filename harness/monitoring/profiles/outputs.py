"""What is measured of a model's outputs: what each says and how sure it is, the embedding, and with labels how well the model does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harness.adapters import Adapter, make_adapter
from harness.batches import Batch, to_device
from harness.compat import tree_leaves
from harness.data import Example
from harness.data.columns import Classes
from harness.data.loader import collate
from harness.evaluation import labelled_outputs
from harness.evaluation.answers import Answers, answers_in, check_output, targets_in
from harness.evaluation.scores import make_losses, output_scores
from harness.monitoring.features.values import Ids, Numbers, Values, Vectors
from harness.monitoring.profiles.answered import Answered, said_by
from harness.monitoring.profiles.fields import at_end, real_elements, row_axes, size_along
from harness.properties.calling import blaming, mode
from harness.properties.subject import floating_dtype
from harness.properties.tracing import Call, fields_of, path_of, recording
from harness.runtime import seeded, threads_for
from harness.tasks import TaskSpec
from harness.tasks.axes import BATCH, Formula
from harness.tasks.kinds import Embedding
from harness.tasks.signature import Output, Signature


class OutputMeter:
    """Calls a model on examples and measures what it says.

    Of each row: the class it predicts, the probability of that class (``confidence``), the entropy in nats, the margin to the runner-up,
    and up to 32 classes the probability of each, on which label shift shows (black-box shift detection; Rabanser et al. 2019); and the
    embedding. Where there are logits for every position, numbers and embedding are means over a row's real positions, since positions of
    one row are no independent samples; the predicted classes are counted with the row they belong to. With labels, how well it does as well.
    Of a task with several outputs, each is measured by its kind, all but the main one under its name.

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
        with threads_for(self._model), mode(self._model, train=False), torch.no_grad(), seeded(0):
            parts = [(places, self._measured([examples[place] for place in places])) for places in self._batches(examples)]
        return parts[0][1] if len(parts) == 1 else _in_order(parts, len(examples))

    def _batches(self, examples: Sequence[Example]) -> list[list[int]]:
        """Which examples are called together: all, where they can be padded to one size; else those of the same sizes."""
        if not self._task.signature.deals_rows:
            return [[place] for place in range(len(examples))]
        if self._task.declared is None:
            return [list(range(len(examples)))]
        found: dict[Any, list[int]] = {}
        for place, example in enumerate(examples):
            found.setdefault(_fixed_sizes(self._task, example), []).append(place)
        return list(found.values())

    def _measured(self, examples: Sequence[Example]) -> dict[str, Values]:
        batch = collate(self._task.signature, examples)
        there = self._there(batch)
        outputs, embedding = self._call(there)
        signature = self._task.signature
        measured: dict[str, Values] = {}
        for output in signature.outputs:
            value = outputs.get(output.name)
            if not isinstance(value, Tensor) or output.constant:
                continue
            is_main = output is signature.main
            real = _real(signature, output, batch, examples)
            names = self._names if is_main else ()
            name = "output" if is_main else f"output.{output.name}"
            measured |= said_by(Answered(output, name, names), _by_row(output, value, len(examples)), real)
            if is_main and not isinstance(output.kind, Embedding):
                measured |= _embedding(embedding, len(examples), real)
        scores = score_values(self._model, self._task, self._adapter, outputs, there, len(examples))
        return {**measured, **scores}

    def _there(self, batch: Batch) -> Batch:
        """The batch where the model is, floating inputs in its dtype; labels keep their own."""
        first = next(chain(self._model.parameters(), self._model.buffers()), None)
        device = None if first is None else first.device
        inputs = {each.name for each in self._task.signature.inputs}
        labels = {name: value for name, value in batch.items() if name not in inputs}
        return {**to_device(batch, device, floating_dtype(self._model)), **to_device(labels, device)}

    def _call(self, batch: Batch) -> tuple[dict[str, Any], Tensor | None]:
        self._look(batch)
        with blaming(self._model):
            if self._place is None:
                return self._outputs(batch), None
            with catching(self._model, self._place) as caught:
                outputs = self._outputs(batch)
        return outputs, self._place.features_last(caught[-1]) if caught else None

    def _outputs(self, batch: Batch) -> dict[str, Any]:
        # An adapter of the user's own need not subclass ours: only its logits are asked for.
        if isinstance(self._adapter, Adapter):
            return self._adapter.outputs(self._model, batch)
        return {self._task.signature.main.name: self._adapter.logits(self._model, batch)}

    def _look(self, batch: Batch) -> None:
        """Finds the embedding, once."""
        if self._looked:
            return
        self._looked = True
        main = self._task.signature.main
        with_rows = {each.name for each in self._task.signature.inputs if BATCH in each.axes}
        one = {name: tensor[:1] if name in with_rows else tensor for name, tensor in batch.items()}
        with blaming(self._model), recording(self._model) as calls:
            logits = self._adapter.logits(self._model, one)
        fixed = [axis for axis in reversed(main.axes) if isinstance(axis, int)]
        widths = [logits.shape[main.classes]] if main.classes is not None else [*fixed, 1]
        places = [find_embedding(self._model, calls, width) for width in widths]
        place = next((each for each in places if each is not None and each.is_input), places[0])
        self._place = place if place is None or self._is_of_rows(place) else None

    def _is_of_rows(self, place: EmbeddingPlace) -> bool:
        """Whether what passes a place has the rows first, and as many features whatever the sizes of the inputs."""
        signature = self._task.signature
        axes = signature.main.axes
        if BATCH in axes and axes[0] != BATCH:
            return False
        several = (axis for axis in signature.free_axes if axis.name != BATCH and len(axis.choices()) > 1)
        return place.is_input or self._task.declared is None or not any(several)


def _fixed_sizes(task: TaskSpec, example: Example) -> tuple[int, ...]:
    """The sizes of an example along the axes that are not padded."""
    signature = task.signature
    found: dict[str, int] = {}
    for each in signature.inputs:
        if each.name in example and BATCH in each.axes:
            axes = [axis for axis in each.axes if axis != BATCH]
            for axis, size in zip(axes, example[each.name].shape, strict=False):
                if isinstance(axis, str) and not signature.axes[axis].padding:
                    found[axis] = size
    return tuple(found.values())


def _in_order(parts: Sequence[tuple[list[int], dict[str, Values]]], rows: int) -> dict[str, Values]:
    """The values of several batches in the order of their examples."""
    names = dict.fromkeys(name for _, measured in parts for name in measured)
    return {name: _joined([(places, measured[name]) for places, measured in parts if name in measured], rows) for name in names}


def _joined(parts: Sequence[tuple[list[int], Any]], rows: int) -> Values:
    first = parts[0][1]
    if isinstance(first, Numbers):
        numbers = np.full(rows, np.nan)
        for places, part in parts:
            numbers[places] = part.values
        return Numbers(numbers)
    if isinstance(first, Vectors):
        vectors = np.full((rows, first.values.shape[1]), np.nan)
        for places, part in parts:
            vectors[places] = part.values
        return Vectors(vectors)
    of_rows = [np.array(places)[np.arange(len(places)) if part.rows is None else part.rows] for places, part in parts]
    row, ids = np.concatenate(of_rows), np.concatenate([part.ids for _, part in parts])
    order = np.argsort(row, kind="stable")
    return Ids(ids[order], first.size, None if first.rows is None else row[order], first.names)


def _by_row(output: Output, value: Tensor, rows: int) -> Tensor:
    """An output with one row an example; of a model without rows, all of it is the row of its only example."""
    return value if BATCH in output.axes else value.unsqueeze(0).expand(rows, *value.shape)


def _embedding(embedding: Tensor | None, rows: int, real: Tensor | None) -> dict[str, Values]:
    found = None if embedding is None else one_a_row(embedding.cpu(), rows, real)
    return {} if found is None else {"output.embedding": Vectors(found.numpy())}


def _real(signature: Signature, output: Output, batch: Batch, examples: Sequence[Example]) -> Tensor | None:
    """The positions that count of an output with one free axis of positions, bool ``[B, S]``; ``None`` for any other, or where all count."""
    free = [axis for axis in output.axes if axis != BATCH and isinstance(axis, str)]
    if len(free) != 1 or BATCH not in output.axes:
        return None
    source = signature.axes[free[0]].source
    padded = source.axes[0] if isinstance(source, Formula) and len(source.axes) == 1 else free[0]
    held = next((each for each in signature.inputs if padded in each.axes and each.name in examples[0]), None)
    if held is None:
        return None
    axis, whole = signature.axes[padded], batch[held.name].shape[1 + row_axes(held.axes).index(padded)]
    real = np.stack([at_end(axis, size_along(signature, example, padded), whole) for example in examples])
    for row, example in enumerate(examples):
        told = real_elements(signature, example, padded)
        if told is not None:
            real[row, real[row]] = told
    if isinstance(source, Formula):
        lengths, size = (source.value({padded: each}) for each in (real.sum(1), whole))
        real = np.stack([at_end(axis, int(length), int(size)) for length in lengths])
    return torch.from_numpy(real)


def score_values(
    model: nn.Module, task: TaskSpec, adapter: Adapter, outputs: Mapping[str, Any], batch: Batch, rows: int
) -> Mapping[str, Values]:
    """The loss of each row, and how right its answers are; nothing without labels.

    A change of what is right, such as labels of another meaning, shows in these and in no input.

    Raises:
        DataError: A label is out of range.
        OutputError: An output has another shape than the task promises.
    """
    labelled = [each for each in labelled_outputs(task.signature) if each.labels in batch and each.output.name in outputs]
    own = [each.name for each in task.signature.labels]
    if not labelled and not any(name in batch for name in own):
        return {}
    answers: dict[str, Answers] = {}
    for each in labelled:
        targets = targets_in(each, batch, lambda row: f"row {row + 1} of a batch")
        check_output(each, outputs[each.output.name], targets)
        answers[each.output.name] = answers_in(each, outputs[each.output.name], targets, batch)
    found = {name: values for each in labelled for name, values in output_scores(each, answers[each.output.name]).items()}
    found = {"loss": make_losses(model, adapter, task).add(answers, outputs, batch, rows), **found}
    return {f"score.{name}": Numbers(np.ascontiguousarray(values.double().numpy())) for name, values in found.items()}


@dataclass(frozen=True)
class EmbeddingPlace:
    """A module, and which end of it the embedding is at.

    Attributes:
        module: Its name; empty for the model itself.
        is_input: Whether the embedding is the module's input, as of a linear head; else its output.
        dims: How many dimensions besides rows and channels the module works on, as a convolution does; 0 for a linear layer, whose features
            are the last axis.
    """

    module: str
    is_input: bool
    dims: int = 0

    def features_last(self, caught: Tensor) -> Tensor:
        """What was caught, its features as the last axis; images keep theirs, which ``one_a_row`` knows."""
        if self.dims and self.dims != 2 and caught.ndim == self.dims + 2:
            return caught.movedim(1, -1)
        return caught.flatten(1, -2) if not self.dims and self.is_input and caught.ndim > 3 else caught


def find_embedding(model: nn.Module, calls: list[Call], classes: int) -> EmbeddingPlace | None:
    """The input of the last linear layer or convolution that gives as many numbers as there are logits, or else the last output."""
    leaves = [call for call in calls if call.outputs and call.inputs and not any(_module(model, call).children())]
    for call in reversed(leaves):
        if _is_head(_module(model, call), classes) and call.inputs[0].is_floating_point():
            weight = _module(model, call).weight
            assert isinstance(weight, Tensor)
            return EmbeddingPlace(_name(call), is_input=True, dims=weight.ndim - 2)
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
