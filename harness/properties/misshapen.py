"""The module, and the line, that returned a wrong shape, which another one may have met."""

from __future__ import annotations

from contextlib import suppress
from functools import partial

from torch import Tensor

from harness.batches import Sizes
from harness.evidence import Blame
from harness.properties.calling import ModelRaisedError
from harness.properties.promises import first_returning
from harness.properties.subject import Subject
from harness.properties.tracing import Call, calls_of, numbered, recording
from harness.tasks.axes import ANY_SIZE


def where_misshapen(subject: Subject, sizes: Sizes, seed: int) -> str:
    """Path of the module that returned a wrong shape, on which a later one may have raised; empty where there is none, or it is not known."""

    def recorded(tried: Sizes) -> list[Call]:
        model = subject.fresh()
        with recording(model, lines=True) as calls, suppress(ModelRaisedError):
            subject.logits(subject.batch(tried, seed), model)
        return calls

    return first_misshapen(recorded(sizes), recorded(subject.typical), sizes.batch, subject.typical.batch)


def where_shaped(subject: Subject, sizes: Sizes, seed: int) -> str:
    """The module that returned a wrong shape, or else that gave the logits theirs, and the line."""
    found = where_misshapen(subject, sizes, seed) or _where_size_appears(subject, sizes, seed)
    if getattr(found, "place", ""):
        return found
    with recording(subject.model, lines=True) as calls:
        logits = subject.logits(subject.batch(sizes, seed))
    made = first_returning(calls, logits, is_shaped=True)
    return Blame(found or made, made.place) if found in ("", made) else found


def _where_size_appears(subject: Subject, sizes: Sizes, seed: int) -> str:
    """Path of the first module that returns a tensor with the wrong size of the logits and is given none; empty where none does."""
    found: list[str] | None = None
    for each in (subject.typical, sizes):
        batch, expected = subject.batch(each, seed), each.logits_shape(subject.task)
        calls, logits = calls_of(subject.model, partial(subject.logits, batch), lines=False), subject.logits(batch)
        wrong = [here for here, there in zip(logits.shape, expected, strict=False) if here != there and there != ANY_SIZE]
        if logits.ndim != len(expected) or not wrong:
            return ""
        if any(wrong[0] in value.shape for value in batch.values()):
            continue  # an axis of the inputs has this size by chance
        makes = [
            call.module
            for call in calls
            if any(wrong[0] in tensor.shape for tensor in call.outputs)
            and not any(wrong[0] in tensor.shape for tensor in call.inputs)
        ]
        found = makes if found is None else [path for path in found if path in makes]
    return found[0] if found else ""


def first_misshapen(calls: list[Call], sound: list[Call], rows: int, sound_rows: int) -> str:
    """Path of the first module that returns another shape for a batch than its shape for a sound one promises.

    Args:
        calls: A recording of a batch that went wrong, as far as it went.
        sound: A recording of a batch that went well.
        rows: Rows of the one.
        sound_rows: Rows of the other.

    Returns:
        The module's path, with the line where one has lost or gained an axis; empty where no module stands out.
    """
    others = dict(numbered(sound, "module"))
    for key, call in numbered(calls, "module"):
        other = others.get(key)
        if other is None or not (_starts_with(call.inputs, rows) and _starts_with(other.inputs, sound_rows)):
            continue
        if [tensor.ndim for tensor in call.inputs] != [tensor.ndim for tensor in other.inputs]:
            continue
        place = _line_with_other_axes(call, other, rows, sound_rows)
        if place and not call.outputs:  # it raised at what this line had made
            return Blame(call.module, place)
        for here, there in zip(call.outputs, other.outputs, strict=False):
            if here.ndim != there.ndim or (here.ndim and len(here) * sound_rows != len(there) * rows):
                return Blame(call.module, place)
    return ""


def _line_with_other_axes(call: Call, sound: Call, rows: int, sound_rows: int) -> str:
    """The first line of a call that makes a tensor of more or fewer axes of rows than it makes in a sound call; empty for none."""
    others = dict(numbered(sound.steps, "place", "name"))
    for key, step in numbered(call.steps, "place", "name"):
        other = others.get(key)
        if other is None or not (_starts_with(step.inputs, rows) and _starts_with(other.inputs, sound_rows)):
            continue
        if [tensor.ndim for tensor in step.inputs] == [tensor.ndim for tensor in other.inputs] and any(
            here.ndim != there.ndim for here, there in zip(step.outputs, other.outputs, strict=False)
        ):
            return step.place
    return ""


def _starts_with(tensors: list[Tensor], rows: int) -> bool:
    return bool(tensors) and all(tensor.ndim > 0 and len(tensor) == rows for tensor in tensors)
