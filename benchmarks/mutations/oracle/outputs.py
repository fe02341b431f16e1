"""Shapes, finiteness, vocabulary, dtypes and memory layout."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from harness.batches import Batch, pad_right

from .promise import promise
from .side import Side, differ


@promise("shape_contract")
def shapes(side: Side) -> Iterator[str]:
    """Every batch size and length gives logits of the promised shape."""
    for rows in (1, 2, 4, 5):
        for length in side.lengths:
            batch = side.batch(rows, length, dtype=torch.float32)
            try:
                logits = side.logits(side.model(torch.float32), batch)
            except Exception:
                yield f"raises at {rows} x {length}"
                continue
            if tuple(logits.shape) != side.task.logits_shape(rows, length, length) or not logits.is_floating_point():
                yield f"shape at {rows} x {length}"


@promise("full_length")
def full_length(side: Side) -> Iterator[str]:
    """The full length works."""
    if side.task.is_text:
        yield from (found for found in shapes(side) if found.endswith(f"x {side.longest}"))
        yield from (found for found in finite(side) if found == f"usual, length {side.longest}")


@promise("finite_output")
def finite(side: Side) -> Iterator[str]:
    """Usual and extreme inputs give finite logits."""
    for length in sorted({1, max(1, side.longest // 2), side.longest}):
        for content, batch in contents(side, length):
            try:
                logits = side.logits(side.model(torch.float32), batch)
            except Exception:
                yield f"{content} raises, length {length}"
                continue
            if not bool(logits.isfinite().all()):
                yield f"{content}, length {length}"


def contents(side: Side, length: int) -> Iterator[tuple[str, Batch]]:
    """Usual and extreme batches of a length."""
    for rows in (1, 3, 4):
        yield "usual", side.batch(rows, length, rows, torch.float32)
    base = side.batch(4, length, dtype=torch.float32)
    if side.task.is_text:
        for token in (1, (side.task.vocab_size or 1) - 1):
            yield f"token {token}", {k: torch.full_like(v, token) if "ids" in k else v for k, v in base.items()}
        if "attention_mask" in side.adapter.plan(side.model()).fields:
            yield "padded row", pad_right(side.task, base, [length, length, length, 0], length)
    else:
        large = 255.0 if side.task.image_size else 1e4
        for value in (0.0, 1.0, large, -large):
            yield f"all {value}", {k: torch.full_like(v, value) if v.is_floating_point() else v for k, v in base.items()}


@promise("full_vocabulary")
def vocabulary(side: Side) -> Iterator[str]:
    """Every id is read as a token of its own."""
    if not side.task.is_text:
        return
    model, vocab = side.model(), side.task.vocab_size or 1
    batch = side.batch(vocab, 1)
    batch = {k: v[:1].expand(v.shape).clone() for k, v in batch.items()} | {"input_ids": torch.arange(vocab)[:, None]}
    try:
        side.logits(model, {k: v[:2] for k, v in batch.items()})
    except Exception:
        return  # whatever the ids are
    try:
        logits = side.logits(model, batch).flatten(1)
    except Exception:
        yield "raises"
        return
    if not bool(logits.isfinite().all()):
        yield "not finite"
        return
    for token in range(1, vocab):
        # Some processors round the rows of one product differently, so that equal tokens need not give equal bits.
        if not all(differ(logits[token], other) for other in logits[:token]):
            yield f"{token} is read as another"


@promise("dtype_move")
def dtypes(side: Side) -> Iterator[str]:
    """The model runs in other dtypes, and is finite there."""
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        try:
            logits = side.logits(side.model(dtype), side.batch(3, dtype=dtype))
        except Exception:
            yield f"raises in {dtype}"
            continue
        if not bool(logits.isfinite().all()) or not logits.is_floating_point():
            yield f"not finite in {dtype}"


@promise("memory_layout")
def layouts(side: Side) -> Iterator[str]:
    """Inputs that are not contiguous give the same logits."""
    batch = side.batch(3)
    model = side.model()
    expected = side.logits(model, batch)
    for name, relay in (("transposed", _transposed), ("channels last", _channels_last)):
        relaid = {field: relay(tensor) for field, tensor in batch.items()}
        try:
            with torch.no_grad():
                logits = side.adapter.logits(side.model(), relaid)
        except Exception:  # it says so, and computes nothing wrong
            continue
        if differ(expected, logits):
            yield f"differs when {name}"


def _transposed(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.transpose(0, -1).contiguous().transpose(0, -1)


def _channels_last(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
