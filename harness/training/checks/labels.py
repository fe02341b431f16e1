"""What the labels of an output are about, and the best loss that the inputs allow."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from itertools import product

import torch
from torch import Tensor

from harness.batches import IGNORED, Batch, Sizes, make_batch
from harness.properties.subject import Subject
from harness.tasks.axes import BATCH, rows_first
from harness.tasks.kinds import mean_loss
from harness.tasks.signature import Output, Signature


def aligned(signature: Signature, output: Output, value: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """An output, its classes last, and the labels that it is for: of scores of next tokens, those of position t and token t + 1.

    Args:
        signature: The signature.
        output: The output.
        value: Its value with the rows first, or anything of that shape, such as its gradient.
        labels: Its labels.
    """
    value = value if output.classes is None else value.movedim(output.classes, -1)
    if signature.next_of(output) is None:
        return value, labels
    return value[:, :-1], labels[:, 1:]


def labelled(signature: Signature, output: Output, value: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The scores ``[N, C]`` that have a label, and their labels ``[N]``; of numbers both ``[N]``."""
    value, labels = aligned(signature, output, value, labels)
    counts = labels != IGNORED
    return value[counts], labels[counts]


def labels_in(signature: Signature, output: Output, batch: Batch) -> Tensor:
    """The labels of an output."""
    return batch[signature.label_name(output)]


def fully_labelled(subject: Subject, sizes: Sizes) -> Batch:
    """A batch in which every position has a label; where the data has none, one is drawn."""
    signature, batch, drawn = subject.task.signature, subject.batch(sizes), make_batch(subject.task, sizes)
    for name in map(signature.label_name, signature.taught):
        batch[name] = torch.where(batch[name] == IGNORED, drawn[name].to(batch[name]), batch[name])
    return batch


def guessing_loss(signature: Signature, output: Output, batch: Batch) -> float:
    """The mean loss of the best constant answer, whatever the inputs: the entropy of the labels, or their variance."""
    labels = _labels(signature, output, batch)
    return _loss_of_groups(output, labels.is_floating_point(), [labels.flatten().tolist()])


def irreducible_loss(signature: Signature, output: Output, batch: Batch) -> float:
    """The mean loss that no model can go below on a batch: what equal inputs with different labels leave open.

    Along a causal axis only what stands up to a position is known there, so rows that begin alike and continue differently leave something open
    at the place where they part.
    """
    groups: dict[Hashable, list[float]] = defaultdict(list)
    labels = _labels(signature, output, batch)
    for known, label in zip(_contexts(signature, output, batch, labels), labels.flatten().tolist(), strict=True):
        groups[known].append(label)
    return _loss_of_groups(output, labels.is_floating_point(), groups.values())


def _labels(signature: Signature, output: Output, batch: Batch) -> Tensor:
    """Every label, the ignored ones too, row by row; labels without an axis of rows as those of one row."""
    labels = labels_in(signature, output, batch)
    if signature.next_of(output) is not None:
        labels = labels[:, 1:]
    return labels if BATCH in signature.axes_of(signature.label_name(output)) else labels[None]


def _contexts(signature: Signature, output: Output, batch: Batch, labels: Tensor) -> Iterator[Hashable]:
    """What can be known of each label, in the order of ``_labels``."""
    declared = signature.axes_of(signature.label_name(output))
    axes = [declared[place] for place in rows_first(declared)]
    places = axes[1:] if BATCH in axes else axes
    causal = next((axis for axis in places if isinstance(axis, str) and signature.axes[axis].order == "causal"), None)
    for row in range(len(labels)):
        whole, prefixes = _row_of(signature, batch, row, causal)
        for position in product(*map(range, labels.shape[1:])):
            if causal is None:
                yield (whole, position)
            else:
                along = places.index(causal)
                yield (whole, prefixes(position[along]), position[:along] + position[along + 1 :])


def _row_of(signature: Signature, batch: Batch, row: int, causal: str | None) -> tuple[str, Callable[[int], Hashable]]:
    """What a row holds: the fields that are known from the start, and those along a causal axis up to a position."""
    fields: dict[str, Tensor] = {}
    along: dict[str, int] = {}
    for name in (each.name for each in signature.inputs if each.name in batch):
        axes = signature.axes_of(name)
        ordered = [axes[place] for place in rows_first(axes)]
        has_rows = BATCH in axes
        fields[name] = batch[name][row] if has_rows else batch[name]
        if causal in ordered:
            along[name] = ordered.index(causal) - has_rows
    whole = repr([value.tolist() for name, value in fields.items() if name not in along])

    def up_to(position: int) -> Hashable:
        return repr([fields[name].narrow(axis, 0, position + 1).tolist() for name, axis in along.items()])

    return whole, up_to


def _loss_of_groups(output: Output, are_numbers: bool, groups: Iterable[Sequence[float]]) -> float:
    kept = [[label for label in group if are_numbers or label != IGNORED] for group in groups]
    total = sum(map(len, kept))
    loss = _of_numbers if are_numbers else _entropy
    return sum(len(group) * loss(group, output.loss) for group in kept if group) / max(1, total)


def _entropy(labels: Sequence[float], _loss: str) -> float:
    shares = torch.tensor(list(Counter(labels).values()), dtype=torch.float64) / len(labels)
    return float(-(shares * shares.log()).sum())


def _of_numbers(labels: Sequence[float], loss: str) -> float:
    """The loss of the best constant for some numbers."""
    values = torch.tensor(labels, dtype=torch.float64)
    if loss in ("bce", "log_loss"):
        share = values.mean().clamp(0, 1)
        return float(-(torch.xlogy(share, share) + torch.xlogy(1 - share, 1 - share)))
    constant = values.mean() if loss == "mse" else values.median()
    return float(mean_loss(loss, constant.expand_as(values), values))
