"""What the output must depend on."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from harness.batches import Batch, other_tokens
from harness.tasks import TaskType

from .promise import promise
from .side import Side, differ

_DRAWS = 8
_SAME = 1e-14


@promise("input_dependence")
def ignored(side: Side) -> Iterator[str]:
    """Whatever is changed of the inputs changes the logits, in one of many draws."""
    model = side.model()
    heard: dict[str, bool] = {}
    for draw in range(_DRAWS):
        batch = side.batch(2, seed=draw)
        expected = side.logits(model, batch)
        for label, changed, at in _changes(side, batch, draw):
            logits = side.logits(model, changed)
            heard[label] = heard.get(label, False) or differ(_at(expected, at), _at(logits, at), _SAME)
        if all(heard.values()):
            return
    yield from (label for label, was in heard.items() if not was)


Change = tuple[str, Batch, int | None]
"""What was changed, the changed batch, and the position whose logits must change; none for all of them."""


def _changes(side: Side, batch: Batch, seed: int) -> Iterator[Change]:
    if side.task.is_text:
        yield from _token_changes(side, batch, seed)
    else:
        field = "pixel_values" if side.task.image_size else "features"
        other = side.batch(2, seed=seed + 500)[field]
        for label, part in _parts(batch[field]):
            changed = batch[field].clone()
            changed[part] = other[part]
            yield label, {**batch, field: changed}, None


def _token_changes(side: Side, batch: Batch, seed: int) -> Iterator[Change]:
    ids = batch[side.tokens]
    length = ids.shape[1]
    other = other_tokens(side.task, ids, seed)
    per_position = side.task.is_per_position
    for position in range(length):
        yield f"token {position}", _replaced(batch, side.tokens, other, [position]), position if per_position else None
    if side.task.is_seq2seq:
        source = other_tokens(side.task, batch["input_ids"], seed)
        for position in range(length):
            yield f"source {position}", _replaced(batch, "input_ids", source, [position]), None
    if per_position and length > 2:
        middle = length // 2
        yield "before", _replaced(batch, side.tokens, other, range(middle)), middle
        if side.task.task_type in (TaskType.MASKED_LM, TaskType.TOKEN_CLASSIFICATION):
            yield "after", _replaced(batch, side.tokens, other, range(middle + 1, length)), middle
        swapped = ids.clone()
        swapped[:, [-3, -2]] = ids[:, [-2, -3]]
        if not side.task.is_seq2seq and not torch.equal(swapped, ids):
            yield "order", {**batch, side.tokens: swapped}, length - 1


def _parts(tensor: Tensor) -> Iterator[tuple[str, tuple[slice | int, ...]]]:
    whole = slice(None)
    for index in range(tensor.shape[1]):
        yield f"channel {index}", (whole, index)
    if tensor.ndim == 4:
        height, width = tensor.shape[2] // 2, tensor.shape[3] // 2
        for name, down in (("upper", slice(height)), ("lower", slice(height, None))):
            for side, across in (("left", slice(width)), ("right", slice(width, None))):
                yield f"{name} {side}", (whole, whole, down, across)


def _replaced(batch: Batch, field: str, other: Tensor, positions: list[int] | range) -> Batch:
    changed = batch[field].clone()
    changed[:, positions] = other[:, positions]
    return {**batch, field: changed}


def _at(logits: Tensor, position: int | None) -> Tensor:
    return logits if position is None else logits[:, position]
