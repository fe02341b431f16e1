"""Inputs for a model, made from its TaskSpec.

A batch is a dict of tensors: the fields of the task (``input_ids`` int64 ``[B, S]``, ``attention_mask`` int64 ``[B, S]`` with 1 at
real tokens, ``decoder_input_ids`` int64 ``[B, T]``, ``pixel_values`` float32 ``[B, C, H, W]``, ``features`` float32 ``[B, F]``) and
``labels``. Positions a loss must ignore carry the label -100.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from harness.tasks import TaskSpec
from harness.tasks.axes import BATCH
from harness.tasks.kinds import IGNORED as IGNORED
from harness.tasks.signature import Signature
from harness.tasks.values import Drawing, Ids

Batch = dict[str, Tensor]

_MOST_ELEMENTS = 1 << 23
"""Elements of the main output of a call that many rows share."""


@dataclass(frozen=True)
class Sizes:
    """The free sizes of a batch.

    Attributes:
        batch: Rows.
        seq: Tokens of the (source) sequence; ignored by tasks without one.
        target_seq: Tokens of the target sequence, for seq2seq.
        image: ``(H, W)`` in pixels, where it differs from the declared size.
        declared: Of a task that its signature declares, the size of every other free axis by name.
    """

    batch: int
    seq: int = 1
    target_seq: int = 1
    image: tuple[int, int] | None = None
    declared: tuple[tuple[str, int], ...] = ()

    @classmethod
    def of(cls, sizes: Mapping[str, int]) -> Sizes:
        """The sizes of the free axes of a declared signature."""
        return cls(sizes.get(BATCH, 1), declared=tuple((axis, size) for axis, size in sizes.items() if axis != BATCH))

    @classmethod
    def for_task(cls, task: TaskSpec, sizes: Mapping[str, int]) -> Sizes:
        """The sizes of the free axes of a task."""
        if task.declared is not None:
            return cls.of(sizes)
        return cls(sizes.get(BATCH, 1), sizes.get("seq", 1), sizes.get("target_seq", 1))

    def by_axis(self, task: TaskSpec) -> dict[str, int]:
        """The size of each free axis of a task's signature, as far as it is given."""
        if task.declared is not None:
            return {BATCH: self.batch, **dict(self.declared)}
        sizes = {BATCH: self.batch, "seq": self.seq, "target_seq": self.target_seq}
        return sizes | (dict(zip(("height", "width"), self.image, strict=True)) if self.image else {})

    def describe(self, task: TaskSpec) -> str:
        """The sizes that matter to a task, such as ``batch=2, seq=5``."""
        if task.declared is not None:
            names = [axis.name for axis in task.declared.free_axes]
            return ", ".join(f"{name}={self.by_axis(task)[name]}" for name in names if name in self.by_axis(task))
        parts = [f"batch={self.batch}"]
        if task.is_text:
            parts.append(f"seq={self.seq}")
        if task.is_seq2seq:
            parts.append(f"target_seq={self.target_seq}")
        if self.image:
            parts.append(f"image={self.image[0]}x{self.image[1]}")
        return ", ".join(parts)

    def logits_shape(self, task: TaskSpec) -> tuple[int, ...]:
        """The shape the logits must have."""
        return task.signature.main.shape(task.signature.complete(self.by_axis(task)))


def typical_sizes(task: TaskSpec, of_large: bool = False) -> Sizes:
    """Sizes in which each axis has a different length, as far as the task allows, so that an axis can be recognised by it.

    Args:
        task: What the sizes are of.
        of_large: Whether they are those of a large model, whose text is shorter.
    """
    if task.declared is not None:
        return Sizes.of(task.declared.typical_sizes())
    longest = task.max_seq_len or 1
    seq, target_seq = (5, 4) if of_large else (11, 7)
    return Sizes(batch=3, seq=max(task.min_seq_len, min(seq, longest)), target_seq=min(target_seq, longest))


def smallest_sizes(task: TaskSpec, batch: int = 1) -> Sizes:
    """The smallest inputs that the task allows, with so many rows, or more where it does not allow so few."""
    if task.declared is not None:
        return Sizes.of({**task.declared.smallest_sizes(), BATCH: _rows(task.declared, batch)})
    return Sizes(batch, seq=task.min_seq_len)


def largest_sizes(task: TaskSpec, batch: int) -> Sizes:
    """The largest inputs that are drawn for the task, of so many rows, or of another number that it allows."""
    if task.declared is not None:
        sizes = {axis.name: axis.choices()[-1] for axis in task.declared.free_axes}
        return Sizes.of({**sizes, BATCH: _rows(task.declared, batch)})
    longest = task.max_seq_len or 1
    return Sizes(batch, longest, longest)


def _rows(signature: Signature, wanted: int) -> int:
    """The wanted number of rows, or the next one that the axis of rows allows."""
    axis = signature.axes.get(BATCH)
    if axis is None or axis.allows(wanted):
        return wanted
    choices = axis.choices()
    return next((size for size in choices if size > wanted), choices[-1])


def shares_rows(task: TaskSpec) -> bool:
    """Whether rows of several batches may be put into one: rows are independent, and everything a call is given has an axis of them."""
    signature = task.signature
    has_rows = all(BATCH in each.axes and not each.state for each in signature.inputs)
    return has_rows and signature.has_rows and not signature.grouping


def joined(task: TaskSpec, batches: Sequence[Batch]) -> Batch:
    """The rows of several batches of the same sizes, one after the other."""
    return {
        name: torch.cat([batch[name] for batch in batches]) if BATCH in task.signature.axes_of(name) else value
        for name, value in batches[0].items()
    }


def with_rows(task: TaskSpec, sizes: Sizes, wanted: int) -> Sizes:
    """The sizes with as many rows as wanted, as far as the task allows so many and their outputs are not too large for one call."""
    if not shares_rows(task):
        return sizes
    elements = abs(prod(replace(sizes, batch=1).logits_shape(task))) or 1
    rows = range(min(wanted, _MOST_ELEMENTS // elements), sizes.batch, -1)
    return next((more for count in rows if _allowed(task, more := replace(sizes, batch=count))), sizes)


def _allowed(task: TaskSpec, sizes: Sizes) -> bool:
    return task.declared is None or task.declared.allows(sizes.by_axis(task))


def make_batch(task: TaskSpec, sizes: Sizes, seed: int = 0) -> Batch:
    """A random batch with every field of the task and its labels; all tokens real.

    Args:
        task: What the fields hold.
        sizes: How large they are.
        seed: The same seed gives the same batch.
    """
    return task.signature.make_batch(sizes.by_axis(task), seed)


def other_tokens(task: TaskSpec, ids: Tensor, seed: int = 0, field: str = "input_ids") -> Tensor:
    """Real token ids of the same shape that differ from the given ones everywhere, where the field's vocabulary has that many."""
    vocab, pad = task.vocabulary_of(field) or 1, task.filler_of(field)
    rng = torch.Generator().manual_seed(seed + 10_007)
    fresh = Ids(vocab, pad).make(tuple(ids.shape), Drawing({}, rng)).to(ids.device)
    for _ in range(2):  # twice, as the next token may be the padding token
        fresh = torch.where((fresh == ids) | (fresh == (-1 if pad is None else pad)), (fresh + 1) % vocab, fresh)
    return fresh


def other_batch(task: TaskSpec, base: Batch, drawn: Batch) -> Batch:
    """A drawn batch in which every id differs from that of another batch at the same place, as far as its table has so many.

    Args:
        task: What the fields hold.
        base: What it must differ from.
        drawn: Another batch of the same sizes.
    """
    changed = dict(drawn)
    for each in task.signature.inputs:
        values = each.values
        if each.name not in drawn or not isinstance(values, Ids):
            continue
        count = torch.as_tensor(values.count, device=base[each.name].device)
        fresh, pad = drawn[each.name], -1 if values.pad is None else values.pad
        for _ in range(2):  # twice, as the next id may be the one that fills
            fresh = torch.where((fresh == base[each.name]) | (fresh == pad), (fresh + 1) % count, fresh)
        changed[each.name] = fresh
    return changed


def swap_tokens(ids: Tensor, others: Tensor, positions: Iterable[int]) -> Tensor:
    """Token ids ``[B, S]`` with those of ``others`` at some positions."""
    swapped = ids.clone()
    for position in positions:
        swapped[:, position] = others[:, position]
    return swapped


def pad_right(task: TaskSpec, batch: Batch, lengths: Iterable[int], total: int) -> Batch:
    """The batch with each row cut to a length and padded on the right to ``total`` tokens.

    Padded positions hold ``pad_token_id`` (a repeated last token where the task has none), mask 0 and label -100.
    """
    ids = batch["input_ids"]
    lengths = torch.as_tensor(list(lengths))
    real = torch.arange(total) < lengths[:, None]
    grown = ids[:, -1:].expand(-1, total).clone()
    grown[:, : min(total, ids.shape[1])] = ids[:, :total]
    filler = task.pad_token_id
    if filler is not None:
        grown = torch.where(real, grown, filler)
    padded = {**batch, "input_ids": grown, "attention_mask": real.long()}
    labels = batch.get("labels")
    if labels is not None and labels.shape == ids.shape:
        fresh = torch.full((len(ids), total), IGNORED)
        kept = min(total, ids.shape[1])
        fresh[:, :kept] = torch.where(real[:, :kept], labels[:, :kept], IGNORED)
        padded["labels"] = fresh
    return padded


def rows(batch: Batch, index: slice | list[int]) -> Batch:
    """The batch with only some of its rows."""
    return {name: tensor[index] for name, tensor in batch.items()}


def to_device(batch: Batch, device: torch.device | str | None, dtype: torch.dtype | None = None) -> Batch:
    """The batch on a device, its floating fields in a dtype; ``None`` leaves either as it is. A nested state stays where it was made."""
    return {
        name: tensor.to(device=device, dtype=dtype if dtype and tensor.is_floating_point() else tensor.dtype)
        if isinstance(tensor, Tensor)
        else tensor
        for name, tensor in batch.items()
    }
