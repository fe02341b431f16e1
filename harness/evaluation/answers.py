"""What a model answered and what it should have answered, at every label: what all metrics need."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.batches import IGNORED, Batch
from harness.errors import DataError, OutputError
from harness.evaluation import LabelledOutput, main_output
from harness.tasks import TaskSpec
from harness.tasks.kinds import Probabilities, ctc_loss

NO_CLASS = -1
"""What logits with NaN or infinity predict; it equals no label."""

_PIECE = 1 << 24
"""Logits that are widened to float32 at a time: a vocabulary's of a whole batch may fill the memory."""


@dataclass(frozen=True)
class Answers:
    """What a model answered at the P labelled positions of R rows.

    Attributes:
        rows: R.
        row: The row of each position, int64 ``[P]``, ascending.
        labels: int64 ``[P]``; float64 for numbers; of texts of symbols how many each has.
        predicted: The likeliest class, int64 ``[P]``, or ``NO_CLASS``; float64 for numbers; of texts how many symbols were found.
        loss: Of each, in nats or as the output's loss says, float64 ``[P]``; NaN where the output holds NaN or infinity.
        log_probs: Of every class, float32 or float64 ``[P, C]``; ``None`` for tokens, numbers and texts. A yes or no has two classes.
        column: Of a yes or no: which question it answers, int64 ``[P]``.
        edits: Of texts: how many symbols have to be put in, left out or changed, int64 ``[P]``.
    """

    rows: int
    row: Tensor
    labels: Tensor
    predicted: Tensor
    loss: Tensor
    log_probs: Tensor | None = None
    column: Tensor | None = None
    edits: Tensor | None = None

    @property
    def correct(self) -> Tensor:
        """1 where the prediction is the label, 0 elsewhere, float64 ``[P]``."""
        return (self.predicted == self.labels).double()

    @property
    def error(self) -> Tensor:
        """Of numbers: how far off they are, float64 ``[P]``; NaN where they are not finite."""
        return torch.where(self.predicted.isfinite(), self.predicted - self.labels, torch.nan)

    @property
    def is_broken(self) -> bool:
        """Whether there are logits with NaN or infinity."""
        return bool(self.loss.isnan().any())

    def row_means(self, values: Tensor) -> Tensor:
        """Mean over each row's positions, float64 ``[R]``; NaN for a row without any.

        Args:
            values: float64 ``[P]``.
        """
        counts = torch.bincount(self.row, minlength=self.rows)
        return torch.zeros(self.rows, dtype=torch.float64, device="cpu").index_add_(0, self.row, values) / counts

    def sequences(self) -> Iterator[tuple[list[int], list[int]]]:
        """Predicted ids and labels of each row that has any."""
        lengths = torch.bincount(self.row, minlength=self.rows).tolist()
        for predicted, labels in zip(self.predicted.split(lengths), self.labels.split(lengths), strict=True):
            if len(labels):
                yield predicted.tolist(), labels.tolist()


def answers_of(task: TaskSpec, logits: Tensor, targets: Tensor) -> Answers:
    """Compares the main output with what it should have said.

    Args:
        task: What the logits mean.
        logits: The main output, the rows first, on any device.
        targets: What ``targets_of`` gave.
    """
    return answers_in(main_output(task.signature), logits, targets, {})


def answers_in(labelled: LabelledOutput, value: Tensor, targets: Tensor, batch: Batch) -> Answers:
    """Compares an output with what it should have said.

    Args:
        labelled: What it means.
        value: The output, the rows first, on any device.
        targets: What ``targets_in`` gave.
        batch: The inputs, of which some may say how long each row is.
    """
    made: dict[str, Callable[[], Answers]] = {
        "classes": lambda: _classes(labelled, value, targets),
        "yes_or_no": lambda: _yes_or_no(labelled, value, targets),
        "numbers": lambda: _numbers(labelled, value, targets),
        "symbols": lambda: _symbols(labelled, value, targets, batch),
    }
    return made[labelled.family]()


def widened(logits: Tensor) -> Tensor:
    """Logits in float32; those in float64 as they are."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _places(labelled: LabelledOutput, targets: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, int]:
    """The positions that count, the row of each, and how many rows there are."""
    places = counts.flatten().nonzero().squeeze(1)
    rows = len(targets) if labelled.has_rows else 1
    return places, (places // max(1, targets.numel() // max(1, rows))).cpu(), rows


def _numbers(labelled: LabelledOutput, value: Tensor, targets: Tensor) -> Answers:
    # A number a row may have any value; among several of a row, padding is marked.
    counts = targets != IGNORED if labelled.positions else torch.ones_like(targets, dtype=torch.bool)
    places, row, rows = _places(labelled, targets, counts)
    predicted = widened(value).flatten()[places.to(value.device)].cpu().double()
    labels = targets.flatten()[places].cpu().double()
    losses: dict[str, Callable[..., Tensor]] = {"l1": F.l1_loss, "huber": F.huber_loss}
    found = losses.get(labelled.output.loss, F.mse_loss)(predicted, labels, reduction="none")
    cost = torch.where(predicted.isfinite(), found, torch.nan)
    return Answers(rows, row, labels, predicted, cost)


def _yes_or_no(labelled: LabelledOutput, value: Tensor, targets: Tensor) -> Answers:
    places, row, rows = _places(labelled, targets, targets != IGNORED)
    found = widened(value).flatten()[places.to(value.device)].cpu()
    labels = targets.flatten()[places].cpu()
    if isinstance(labelled.output.kind, Probabilities):
        logs = torch.stack((torch.log1p(-found), found.log()), -1)
    else:
        logs = torch.stack((F.logsigmoid(-found), F.logsigmoid(found)), -1)
    share = labels.to(logs.dtype)
    # A probability of 0 costs as much as PyTorch's own loss says.
    cost = -((1 - share) * logs[:, 0].clamp_min(-100) + share * logs[:, 1].clamp_min(-100))
    if not isinstance(labelled.output.kind, Probabilities):
        cost = F.binary_cross_entropy_with_logits(found, share, reduction="none")
    broken = cost.isnan() | ~found.isfinite()
    predicted = (logs[:, 1] > logs[:, 0]).long().masked_fill(broken, NO_CLASS)
    cost = cost.masked_fill(broken, torch.nan)
    return Answers(rows, row, (labels > 0.5).long(), predicted, cost.double(), logs, column=_columns(labelled, targets, places))


def _columns(labelled: LabelledOutput, targets: Tensor, places: Tensor) -> Tensor:
    """Which question each place answers."""
    along = next((place for place, axis in enumerate(labelled.label_axes) if axis == labelled.columns), None)
    if labelled.columns == 1 or along is None:
        return torch.zeros(len(places), dtype=torch.long)
    inner = targets[(0,) * (along + 1)].numel()
    return (places.cpu() // inner) % labelled.columns


def _classes(labelled: LabelledOutput, value: Tensor, targets: Tensor) -> Answers:
    value = value.movedim(labelled.class_axis, -1)
    size = value.shape[-1]
    flat_logits, flat_targets = value.reshape(-1, size), targets.flatten().to(value.device)
    places, row, rows = _places(labelled, targets, flat_targets != IGNORED)
    places = places.to(value.device)
    predicted, loss, log_probs = [], [], []
    for piece in places.split(max(1, _PIECE // size)):
        wide = widened(flat_logits[piece])
        logs = F.log_softmax(wide, dim=-1)
        if isinstance(labelled.output.kind, Probabilities):
            logs = wide.clamp_min(torch.finfo(wide.dtype).tiny).log()
        cost = -logs.gather(1, flat_targets[piece, None]).squeeze(1)
        predicted.append(torch.where(cost.isnan(), NO_CLASS, wide.argmax(dim=-1)).cpu())
        loss.append(cost.cpu())
        if not labelled.is_text:
            log_probs.append(logs.cpu())
    return Answers(
        rows=rows,
        row=row,
        labels=flat_targets[places].cpu(),
        predicted=torch.cat(predicted),
        loss=torch.cat(loss).double(),
        log_probs=torch.cat(log_probs) if log_probs else None,
    )


def _symbols(labelled: LabelledOutput, value: Tensor, targets: Tensor, batch: Batch) -> Answers:
    """Texts found by taking the likeliest symbol of each step (greedy decoding), against those that are said."""
    signature, output = labelled.signature, labelled.output
    frames = signature.frames(output, value, batch).tolist()
    blank = getattr(output.kind, "blank", 0)
    wide = widened(output.in_steps(value))
    found = [_collapsed(steps[:count].argmax(-1).tolist(), blank) for steps, count in zip(wide, frames, strict=True)]
    said = [[symbol for symbol in row if symbol != IGNORED] for row in targets.tolist()]
    there = torch.tensor([number for number, row in enumerate(said) if row], dtype=torch.long)
    cost = torch.stack(
        [_ctc(labelled, wide[number : number + 1], targets[number : number + 1], frames[number]) for number in there]
    )
    edits = torch.tensor([edit_distance(found[number], said[number]) for number in there])
    lengths, hits = (torch.tensor([len(texts[number]) for number in there]) for texts in (said, found))
    return Answers(len(said), there, lengths, hits, cost.cpu().double(), edits=edits)


def _ctc(labelled: LabelledOutput, value: Tensor, targets: Tensor, frames: int) -> Tensor:
    blank = getattr(labelled.output.kind, "blank", 0)
    cost = ctc_loss(value, targets, torch.tensor([frames], device=value.device), blank)
    return torch.where(value.isfinite().all() | (value == -torch.inf).any(), cost, torch.nan)


def _collapsed(steps: list[int], blank: int) -> list[int]:
    """The symbols of a path: repeated ones once, blanks left out."""
    changed = [symbol for number, symbol in enumerate(steps) if number == 0 or symbol != steps[number - 1]]
    return [symbol for symbol in changed if symbol != blank]


def edit_distance(first: list[int], second: list[int]) -> int:
    """How many symbols have to be put in, left out or changed to make one text the other (Levenshtein)."""
    row = list(range(len(second) + 1))
    for count, symbol in enumerate(first, 1):
        before, row[0] = row[0], count
        for place, other in enumerate(second, 1):
            before, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, before + (symbol != other))
    return row[-1]


def targets_of(task: TaskSpec, batch: Batch, name_row: Callable[[int], str]) -> Tensor:
    """The label each element of the main output is judged by; see ``targets_in``."""
    return targets_in(main_output(task.signature), batch, name_row)


def targets_in(labelled: LabelledOutput, batch: Batch, name_row: Callable[[int], str]) -> Tensor:
    """The label each element of an output is judged by.

    Returns:
        Class ids, yes or no, or numbers; the shape is the output's without its classes. -100 stands where there is nothing to judge. Labels
        that are the next token are moved one to the left, to the scores that predict them.

    Raises:
        DataError: There are no labels, or they are not of the output's kind or range; the first such row is named.
    """
    name = labelled.labels
    if name not in batch:
        raise DataError(f"the evaluation data has no `{name}`: nothing to compare the model's output with")
    labels = batch[name]
    if labels.ndim != len(labelled.label_axes) and labelled.family != "symbols":
        shown = ", ".join(map(str, labelled.label_axes))
        raise DataError(f"`{name}` have shape {list(labels.shape)}, `{labelled.output.name}` needs [{shown}]")
    if labelled.family in ("numbers", "yes_or_no"):
        _refuse(labels, ~labels.isfinite(), name_row, "not a finite number")
        if labelled.family == "yes_or_no":
            wrong = (labels != IGNORED) & ((labels < 0) | (labels > 1))
            _refuse(labels, wrong, name_row, f"out of range: 1 is yes and 0 is no, and {IGNORED} is left out")
        return labels
    if labels.is_floating_point() or labels.is_complex():
        raise DataError(f"`{name}` are {labels.dtype}, `{labelled.output.name}` needs class ids as whole numbers")
    labels = labels.long()
    following = labelled.signature.next_of(labelled.output)
    if following is not None:
        along = labelled.label_axes.index(following[0])
        labels = torch.cat(
            [labels.narrow(along, 1, labels.shape[along] - 1), torch.full_like(labels.narrow(along, 0, 1), IGNORED)], dim=along
        )
    classes = labelled.output.class_count
    if classes is not None:
        is_wrong = (labels != IGNORED) & ((labels < 0) | (labels >= classes))
        _refuse(labels, is_wrong, name_row, f"out of range: the ids go from 0 to {classes - 1}, and {IGNORED} is left out")
    return labels


def check_logits(task: TaskSpec, logits: Tensor, targets: Tensor) -> None:
    """Refuses a main output that is not what the task promises; see ``check_output``."""
    check_output(main_output(task.signature), logits, targets)


def check_output(labelled: LabelledOutput, value: Any, targets: Tensor) -> None:
    """Refuses an output that is not what the task promises.

    Raises:
        OutputError: It is no tensor, has another shape, or is no floating-point numbers.
    """
    name = labelled.output.name
    if not isinstance(value, Tensor) or not value.is_floating_point():
        found = value.dtype if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise OutputError(f"`{name}` is {found}, not floating point")
    if labelled.family == "symbols":
        return
    expected = list(targets.shape)
    if labelled.family == "classes":
        place = labelled.class_axis % (value.ndim or 1)
        size = labelled.output.class_count or (value.shape[place] if value.ndim else 0)
        expected.insert(len(expected) + 1 + labelled.class_axis, size)
    if list(value.shape) != expected:
        shown = ", ".join(map(str, labelled.axes))
        raise OutputError(f"`{name}` has shape {list(value.shape)}, expected {expected} for [{shown}]")


def _refuse(labels: Tensor, is_wrong: Tensor, name_row: Callable[[int], str], why: str) -> None:
    places = is_wrong.nonzero()
    if len(places):
        label = labels[tuple(places[0])].item()
        raise DataError(f"{name_row(int(places[0, 0]) if labels.ndim else 0)}: label {label} is {why}")
