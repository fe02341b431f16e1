"""Padding changes nothing: neither how much there is, nor what it holds, on whichever side a signature allows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import groupby

import torch
from torch import Tensor, nn

from harness.batches import IGNORED, Batch, Sizes, joined, other_batch, shares_rows
from harness.evidence import Evidence, Status
from harness.properties.independence import ends_along, row_of
from harness.properties.noise import first_failure, judge_equal, judge_rows, remembered
from harness.properties.prerequisites import left_to_batch_independence
from harness.properties.reading import MOST, Reading, changes_along
from harness.properties.subject import Subject
from harness.properties.tracing import View, along_time, calls_of, first_divergence, positions_view
from harness.tasks.axes import BATCH, Axis, Side, rows_first
from harness.tasks.signature import Input, Signature
from harness.tasks.values import Ids, IndexOf, LengthsOf, MaskOf, Normal, Uniform
from harness.wording import counted

_NAME = "padding_ignored"


def padding_ignored(subject: Subject, sizes: Sizes, lengths: tuple[int, ...], seed: int = 0, axis: str = "") -> Evidence:
    """Each padded row gives the same alone and unpadded as padded within a batch, whatever the padding holds.

    Args:
        subject: A model with an axis along which rows may be padded.
        sizes: Sizes of the padded batch.
        lengths: Real elements of each row along the axis, between 1 and its size.
        seed: Seed of the contents.
        axis: The axis; by default the only one.
    """
    signature = subject.task.signature
    along = signature.axes[axis] if axis else signature.padded[0]
    if reason := no_padding(subject, along):
        return Evidence.skipped(_NAME, reason)
    if BATCH not in signature.main.axes:
        return Evidence.skipped(_NAME, f"`{signature.main.name}` has no rows that could be padded")
    total = signature.complete(sizes.by_axis(subject.task))[along.name]
    real = placed(along.padding or "right", lengths, total, seed).to(subject.device)
    if reason := unknown_elements(signature, along):
        return Evidence.skipped(_NAME, reason)
    pad = _Padding(subject, sizes, along, real, seed)
    short = [row for row in range(sizes.batch) if lengths[row] < total]
    if not short:
        return Evidence.skipped(_NAME, "no row is padded")
    found = [pad.amounts(short)]
    if subject.task.declared and found[0].status is Status.OK and tells_padding(subject, along.name):
        found.append(pad.content())
    return left_to_batch_independence(subject, max(found, key=lambda each: each.status.severity))


def placed(side: Side, lengths: Sequence[int], total: int, seed: int = 0) -> Tensor:
    """Where the real elements of rows stand (bool ``[B, total]``), on a side or drawn at random."""
    rng = torch.Generator().manual_seed(seed)
    real = torch.zeros(len(lengths), total, dtype=torch.bool)
    for row, length in enumerate(lengths):
        room = total - length
        if side == "anywhere":
            real[row, torch.randperm(total, generator=rng)[:length]] = True
            continue
        begin = {"right": 0, "left": room}.get(side, int(torch.randint(room + 1, (), generator=rng)))
        real[row, begin : begin + length] = True
    return real


def padded(signature: Signature, batch: Batch, axis: str, real: Tensor, filler: Batch | None = None) -> Batch:
    """A batch whose inputs say along an axis which elements are real, and hold something else where they are not.

    Args:
        signature: What the inputs are.
        batch: The batch without padding.
        axis: The axis.
        real: Which elements are real (bool ``[B, size]``).
        filler: What the padding holds; by default the id that fills, zero, or for ids without one what was there.
    """
    changed = dict(batch)
    for each in signature.inputs:
        if each.name not in batch:
            continue
        value, values = batch[each.name], each.values
        if isinstance(values, MaskOf) and values.axis == axis:
            changed[each.name] = (real ^ values.inverted).to(value.dtype)
        elif isinstance(values, LengthsOf) and values.axis == axis:
            changed[each.name] = real.sum(1).to(value.dtype)
        elif axis in each.axes and BATCH in each.axes and not isinstance(values, (MaskOf, LengthsOf)):
            fill = _usual(each, value) if filler is None else filler[each.name]
            changed[each.name] = torch.where(_along(real, each, axis), value, fill)
    for output in signature.outputs:
        name, shape = signature.label_name(output), signature.label_shape(output)
        if name in batch and shape is not None and not batch[name].is_floating_point():
            labelled = real if signature.next_of(output) is None else real & _after_real(real)
            changed[name] = _ignored(batch[name], [shape.axes[place] for place in rows_first(shape.axes)], axis, labelled)
    return changed


def tells_padding(subject: Subject, axis: str) -> bool:
    """Whether lengths or a mask reach the model, so that it need not read from the padding itself that it is padding."""
    spoken = (each for each in subject.task.signature.inputs if isinstance(each.values, (LengthsOf, MaskOf)))
    return any(each.values.axis == axis and subject.adapter.takes(subject.model, each.name) for each in spoken)


def no_padding(subject: Subject, axis: Axis) -> str:
    """Why no row can be padded; empty where one can."""
    if len(axis.choices()) < 2 and not (subject.task.declared and axis.least > 1 and tells_padding(subject, axis.name)):
        return "all sequences have the same length, so there is no padding"
    ids = (each.values for each in subject.task.signature.inputs if axis.name in each.axes and isinstance(each.values, Ids))
    if not tells_padding(subject, axis.name) and all(values.pad is None for values in ids):
        return "the task has no `pad_token_id` and forward takes no `attention_mask`"
    return ""


def unknown_elements(signature: Signature, axis: Axis) -> str:
    """Why it is not known which elements of the main output belong to real ones of an axis; empty where it is."""
    follows = [name for name in signature.main.axes if name in signature.axes and name != axis.name]
    pointed = any(isinstance(each.values, IndexOf) and each.values.axis == axis.name for each in signature.inputs)
    derived = any(signature.axes[str(name)].follows(axis.name) for name in follows)
    unknown = pointed or (derived and axis.padding != "right")
    return f"which elements of `{signature.main.name}` are real is not told by its axes" if unknown else ""


def real_part(signature: Signature, sizes: Mapping[str, int], axis: str, output: Tensor, real: Tensor) -> Tensor:
    """Of one row of the main output what its real elements along an axis give.

    Args:
        signature: What the output is one of.
        sizes: Those of the free axes.
        axis: The axis.
        output: The row, without the axis of the batch.
        real: Which elements of the row are real (bool ``[size]``).
    """
    laid_out = [signature.main.axes[place] for place in rows_first(signature.main.axes)]
    for place, size in ends_along(signature, signature.main, axis, int(real.sum()), sizes):
        if place - 1 >= output.ndim:
            continue
        if laid_out[place] == axis and output.shape[place - 1] == len(real):
            output = output.index_select(place - 1, real.nonzero().flatten())
        else:
            output = output.narrow(place - 1, 0, min(max(size, 0), output.shape[place - 1]))
    return output


class _Padding:
    """One pattern of padding along one axis, and what must stay the same under it."""

    def __init__(self, subject: Subject, sizes: Sizes, axis: Axis, real: Tensor, seed: int) -> None:
        self._subject, self._sizes, self._axis, self._real, self._seed = subject, sizes, axis, real, seed
        self._signature = subject.task.signature
        self._base = subject.batch(sizes, seed)
        self._padded = padded(self._signature, self._base, axis.name, real)
        self._reference = remembered(subject, lambda model: subject.logits(self._padded, model))

    def amounts(self, rows: list[int]) -> Evidence:
        """Padded rows one by one; those that keep as many places share a call, where rows may."""
        if not shares_rows(self._subject.task):
            return first_failure(map(self.amount, rows))
        pairs, asked = [], []
        for _, group in groupby(sorted(rows, key=self._kept_count), self._kept_count):
            together = list(group)
            alone = [self._narrowed(row, self._kept_places(row)) for row in together]
            logits = self._subject.logits(joined(self._subject.task, alone))
            for number, row in enumerate(together):
                by_itself = row_of(logits, number, len(together))
                pairs.append(self._real_parts(row, by_itself, self._subject.model))
            asked += together
        return judge_rows(self._subject, _NAME, pairs, lambda number: self.amount(asked[number]), self._counterexample)

    def amount(self, row: int) -> Evidence:
        """A row alone, with as little padding as the axis allows, gives what it gives within the batch."""
        subject, axis = self._subject, self._axis
        length, total = int(self._real[row].sum()), self._real.shape[1]
        kept = self._kept_places(row)
        alone = self._narrowed(row, kept)

        def compare(model: nn.Module) -> tuple[Tensor, Tensor]:
            return self._real_parts(row, row_of(subject.logits(alone, model), 0, 1), model)

        def culprit(model: nn.Module) -> str:
            return (self._trace(model, row) if axis.padding in ("right", "left") else "") or self._trace_content(model)

        along = "" if self._reads_ids else f" along `{axis.name}`"
        added, had = (
            counted(total - len(kept), "padded position"),
            counted(length, "real token" if self._reads_ids else "real element"),
        )
        told = f"row {row}'s logits change after appending {added} to its {had}{along}"
        if axis.padding != "right":
            told = f"row {row}'s logits change with {added} beside its {had}{along}"
        return judge_equal(subject, _NAME, compare, told, self._counterexample, self._cause, culprit, code="reads_padding")

    def content(self) -> Evidence:
        """The real elements of every row give the same whatever the padding holds."""
        other = self._other_content()

        def compare(model: nn.Module) -> tuple[Tensor, Tensor]:
            return self._all_real(self._reference(model)), self._all_real(self._subject.logits(other, model))

        told = f"the logits change with what the padded elements along `{self._axis.name}` hold"
        return judge_equal(
            self._subject, _NAME, compare, told, self._counterexample, self._cause, self._trace_content, code="reads_padding"
        )

    @property
    def _reads_ids(self) -> bool:
        read = (each for each in self._signature.inputs if self._axis.name in each.axes)
        return all(isinstance(each.values, (Ids, MaskOf)) for each in read)

    @property
    def _counterexample(self) -> str:
        lengths = self._real.sum(1).tolist()
        placed = "" if self._axis.padding == "right" else f", padding={self._axis.padding}"
        which = f" of {self._axis.name}" if len(self._signature.padded) > 1 else ""
        return f"{self._sizes.describe(self._subject.task)}, lengths{which}={lengths}{placed}, seed={self._seed}"

    @property
    def _cause(self) -> str:
        if tells_padding(self._subject, self._axis.name):
            return "a padding mask that is not applied (in one layer, in the pooling), is inverted, or is added with too small a number"
        return "a forward that takes no `attention_mask` and reads padding as text"

    def _kept_places(self, row: int) -> Tensor:
        """The places of a row's real elements, and of as much padding as the sizes of the axis ask for (int64)."""
        real = self._real[row]
        length = int(real.sum())
        size = next((size for size in self._axis.choices() if size >= length), len(real))
        order = torch.cat((real.nonzero().flatten(), (~real).nonzero().flatten()))
        return order[: min(size, len(real))].sort().values

    def _kept_count(self, row: int) -> int:
        return len(self._kept_places(row))

    def _real_parts(self, row: int, by_itself: Tensor, model: nn.Module) -> tuple[Tensor, Tensor]:
        """What the real elements of a row give by itself, and within the batch."""
        within = row_of(self._reference(model), row, self._sizes.batch)
        return self._real_part(by_itself, self._real[row][self._kept_places(row)]), self._real_part(within, self._real[row])

    def _narrowed(self, row: int, kept: Tensor) -> Batch:
        """A row of the padded batch by itself, with some places along the axis."""
        alone = self._signature.rows(self._padded, [row])
        for each in self._signature.inputs:
            if each.name in alone:
                for place, name in enumerate(each.axes[place] for place in rows_first(each.axes)):
                    if name == self._axis.name:
                        alone[each.name] = alone[each.name].index_select(place, kept)
        return alone

    def _real_part(self, output: Tensor, real: Tensor) -> Tensor:
        return real_part(self._signature, self._sizes.by_axis(self._subject.task), self._axis.name, output, real)

    def _all_real(self, output: Tensor) -> Tensor:
        parts = [self._real_part(row_of(output, row, len(self._real)), real) for row, real in enumerate(self._real)]
        return torch.cat([part.flatten() for part in parts])

    def _other_content(self) -> Batch:
        drawn = other_batch(self._subject.task, self._padded, self._subject.batch(self._sizes, self._seed + 77))
        for each in self._signature.inputs:
            if isinstance(each.values, Normal):
                drawn[each.name] = 10 * drawn[each.name]  # as what is left of a longer row in a buffer may be
        return padded(self._signature, self._base, self._axis.name, self._real, drawn)

    def _trace_content(self, model: nn.Module) -> str:
        """Path of the first module whose outputs at a row's real elements change with what its padding holds."""
        batches = (self._padded, self._other_content())
        left, right = (along_time(calls_of(model, partial(self._subject.logits, batch))) for batch in batches)
        views = (self._view_of_real(row) for row in range(len(self._real)))
        return next(filter(None, (first_divergence(left, right, view) for view in views)), "")

    def _view_of_real(self, row: int) -> View:
        """Of tensors with the rows first what they hold at the real elements of a row, also along axes that follow from the padded one."""
        signature, name, sizes = self._signature, self._axis.name, self._sizes.by_axis(self._subject.task)
        kept = self._real[row].nonzero().flatten()
        whole, real = signature.complete(sizes), signature.complete({**sizes, name: len(kept)})
        along = {whole[each]: torch.arange(real[each]) for each, axis in signature.axes.items() if axis.follows(name)}
        along[len(self._real[row])] = kept

        def view(tensor: Tensor) -> Tensor | None:
            if tensor.ndim == 0 or len(tensor) != self._sizes.batch:
                return None
            part = tensor[row]
            for axis, size in enumerate(part.shape):
                part = part.index_select(axis, along[size].to(part.device)) if size in along else part
            return part

        return view

    def _trace(self, model: nn.Module, row: int) -> str:
        """Path of the first module whose outputs at a row's real elements differ between the row alone and padded."""
        # First at sizes that no two axes share: at small ones another axis can be taken for the padded one.
        clear, subject = self._subject.typical, self._subject
        total = self._signature.complete(clear.by_axis(subject.task))[self._axis.name]
        for short in range(clear.batch):
            lengths = [max(1, total // 2) if index == short else total for index in range(clear.batch)]
            real = placed("left" if self._axis.padding == "left" else "right", lengths, total).to(subject.device)
            if module := _Padding(subject, clear, self._axis, real, self._seed).first_broken(model, short):
                return module
        return self.first_broken(model, row)

    def first_broken(self, model: nn.Module, row: int) -> str:
        """Path of the first module that gives another output for a row alone than within the batch."""
        kept = self._kept_places(row)
        length, total = int(self._real[row].sum()), self._real.shape[1]
        begins = [size - length if self._axis.padding == "left" else 0 for size in (len(kept), total)]
        return first_divergence(
            along_time(calls_of(model, partial(self._subject.logits, self._narrowed(row, kept)))),
            along_time(calls_of(model, partial(self._subject.logits, self._padded))),
            positions_view(1, len(kept), begins[0] + length, row=0, start=begins[0]),
            positions_view(self._sizes.batch, total, begins[1] + length, row=row, start=begins[1]),
        )


def _usual(each: Input, value: Tensor) -> Tensor:
    if isinstance(each.values, Ids):
        return value if each.values.pad is None else torch.full_like(value, each.values.pad)
    if isinstance(each.values, Uniform):
        return torch.full_like(value, min(max(0.0, each.values.low), each.values.high))
    return torch.zeros_like(value) if isinstance(each.values, Normal) else value


def _along(real: Tensor, each: Input, axis: str) -> Tensor:
    """Which elements of an input are real, as a mask that spreads over its shape; along both where it has the axis twice."""
    laid_out = [each.axes[place] for place in rows_first(each.axes)]
    found = torch.ones((), dtype=torch.bool, device=real.device)
    for place, name in enumerate(laid_out):
        if name == axis:
            shape = [len(real) if index == 0 else (real.shape[1] if index == place else 1) for index in range(len(laid_out))]
            found = found & real.reshape(shape)
    return found


def _after_real(real: Tensor) -> Tensor:
    """Which elements come after a real one, or first of all: what a real element predicts."""
    return torch.cat([torch.ones_like(real[:, :1]), real[:, :-1]], 1)


def _ignored(labels: Tensor, axes: list[int | str], axis: str, real: Tensor) -> Tensor:
    """Labels of whole numbers, of which those at padding count for nothing."""
    if axes[:2] == [BATCH, axis] and labels.shape[:2] == real.shape:
        return torch.where(real.reshape(*real.shape, *[1] * (labels.ndim - 2)), labels, IGNORED)
    return labels


def padding_read(subject: Subject) -> Reading | None:
    """Which real position of the output reads which place of a padded input; ``None`` where nothing tells the model what is padded."""
    signature, sizes = subject.task.signature, subject.typical
    by_axis = sizes.by_axis(subject.task)
    along = next((axis for axis in signature.padded if tells_padding(subject, axis.name)), None)
    if along is None or BATCH not in signature.main.axes:
        return None
    total = signature.complete(by_axis)[along.name]
    if total < 2 or along.padding not in (None, "right"):
        return None
    ends = ends_along(signature, signature.main, along.name, total, by_axis)
    length, model = max(1, min(total - 1, MOST - 2)), subject.fresh()
    real = placed("right", [length] * sizes.batch, total).to(subject.device)
    whole = subject.batch(sizes, 0)
    others = other_batch(subject.task, whole, subject.batch(sizes, 10_007))
    base = padded(signature, whole, along.name, real)
    read = [each for each in signature.inputs if along.name in each.axes and not isinstance(each.values, (LengthsOf, MaskOf))]
    reference, places = subject.logits(base, model), range(min(total, MOST))
    changed = [
        {**base, **{each.name: _changed_at(each, base[each.name], others[each.name], along.name, at) for each in read}}
        for at in places
    ]
    columns = [changes_along(reference, subject.logits(batch, model), ends[0][0] if ends else None) for batch in changed]
    outputs = [f"position {row}" for row in range(min(length, len(columns[0])))] if ends else ["the output"]
    view = positions_view(sizes.batch, total, length)

    def real_part(tensor: Tensor) -> Tensor | None:
        part = view(tensor)
        return tensor if part is None else part

    return Reading(
        f"Which {'real position' if ends else 'output'} reads which place",
        tuple(outputs),
        tuple(f"padding at {at}" if at >= length else f"{along.name} {at}" for at in places),
        [[column[row] for column in columns] for row in range(len(outputs))],
        [[at >= length for at in places] for _ in outputs],
        base,
        changed,
        lambda _output, _input: real_part,
    )


def _changed_at(each: Input, base: Tensor, others: Tensor, axis: str, at: int) -> Tensor:
    """An input with what others hold at a place along an axis."""
    changed = base.clone()
    for place in (number for number, laid in enumerate(rows_first(each.axes)) if each.axes[laid] == axis):
        changed.select(place, at).copy_(others.select(place, at))
    return changed
