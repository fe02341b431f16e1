"""Pictures of what fails: which output reads which input, how far two calls are apart along the layers, and the shapes along a call.

They are made of a failure only, on copies of the model, and travel as plots in the details of its evidence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor

from harness.batches import Batch, Sizes
from harness.catalogue.entry import load
from harness.errors import UserError
from harness.evidence import Evidence, Status
from harness.internal_errors import describe, is_internal
from harness.properties.calling import ModelRaisedError
from harness.properties.large_tensors import largest_absolute
from harness.properties.tracing import Call, View, calls_of, numbered, recording

if TYPE_CHECKING:
    from harness.properties.subject import Subject

MOST = 8
"""Places that are changed one by one."""

_MOST_LAYERS = 40

_READERS = {
    "causal": "harness.properties.causality:positions_read",
    "batch_independence": "harness.properties.independence:rows_read",
    "padding_ignored": "harness.properties.padding:padding_read",
}
"""What tells which output reads which input, by property; each returns a ``Reading``, or ``None`` where there is none."""


@dataclass(frozen=True)
class Reading:
    """Which output reads which input.

    Attributes:
        title: Of the picture.
        outputs: Names of the outputs' places.
        inputs: Names of the inputs' places, each of which was changed in its own call.
        gaps: By how much each output changed with each input, ``[output][input]``.
        forbidden: Which output must not read which input.
        base: The batch.
        changed: The batch of each call.
        view: Of a tensor what must not change, by the number of an output and of an input.
    """

    title: str
    outputs: tuple[str, ...]
    inputs: tuple[str, ...]
    gaps: Sequence[Sequence[float]]
    forbidden: Sequence[Sequence[bool]]
    base: Batch
    changed: Sequence[Batch]
    view: Callable[[int, int], View]


def changes_along(reference: Tensor, logits: Tensor, place: int | None) -> list[float]:
    """The largest change at each place of an axis of the logits, or the largest of all; NaN is an infinite one."""
    gaps = (reference.double() - logits.double()).abs()
    gaps = gaps.amax().reshape(1) if place is None else gaps.transpose(0, place).reshape(gaps.shape[place], -1).amax(1)
    return [gap if math.isfinite(gap) else math.inf for gap in gaps.tolist()]


def depicted(evidence: Evidence, subject: Subject, label: str = "", given: Mapping[str, Any] | None = None) -> Evidence:
    """The evidence of a failure with its pictures, where its property has some.

    The finding stands, whether or not a broken model can be looked into. An error of this project's own code is added to it.

    Args:
        evidence: The failure.
        subject: The model.
        label: Of its test; what is read by way of gradients is another matter.
        given: The values that showed it, ``sizes`` and ``seed``, where they are known.
    """
    draws = _drawing_of(evidence, label, given or {})
    if draws is None or evidence.status is not Status.FAIL or evidence.code in ("internal_error", "not_measured"):
        return evidence
    try:
        plots = draws(subject)
    except (UserError, ModelRaisedError):
        return evidence
    except Exception as error:
        if not is_internal(error):
            return evidence
        told, details = describe(evidence.name, error)
        return replace(evidence, message=f"{evidence.message}; it could not be drawn: {told}", details=evidence.details | details)
    return replace(evidence, details={**evidence.details, "plots": plots}) if plots else evidence


def _drawing_of(evidence: Evidence, label: str, given: Mapping[str, Any]) -> Callable[[Subject], list[dict[str, Any]]] | None:
    """What draws a failure; ``None`` where nothing does."""
    if evidence.name == "shape_contract" and evidence.code in ("raises", "wrong_shape") and "sizes" in given:
        return lambda subject: _shapes_along(evidence, subject, given["sizes"], int(given.get("seed", 0)))
    path = _READERS.get(evidence.name)
    if path is None or label.endswith("[gradient]") or evidence.code == "raises":
        return None
    reader: Callable[..., Any] = load(path)
    return lambda subject: _plots(reader(subject), evidence, subject)


def _shapes_along(evidence: Evidence, subject: Subject, sizes: Sizes, seed: int) -> list[dict[str, Any]]:
    """What each module reads and returns, up to where forward raises."""
    batch, model, ending = subject.batch(sizes, seed), subject.fresh(), ""
    with recording(model) as calls:
        try:
            subject.logits(batch, model)
        except ModelRaisedError:
            ending = ", up to where forward raises"
    rows = [[call.module, _shapes(call.inputs), _shapes(call.outputs)] for call in calls]
    caption = f"What each module reads and returns at {sizes.describe(subject.task)}{ending}"
    drawn = {"kind": "shapes", "title": "Shapes along the call", "caption": caption, "rows": rows[-_MOST_LAYERS:]}
    return [{**drawn, "blamed": evidence.module}] if rows else []


def _shapes(tensors: Sequence[Tensor]) -> str:
    return ", ".join(str(list(tensor.shape)) for tensor in tensors)


def _plots(reading: Reading | None, evidence: Evidence, subject: Subject) -> list[dict[str, Any]]:
    """The matrix, and the layers between the worst two places; none where nothing that must not be read is read."""
    if reading is None:
        return []
    bound = evidence.bound or 0.0
    reads = [[gap > bound for gap in row] for row in reading.gaps]
    wrong = [
        (gap, output, place)
        for output, row in enumerate(reading.gaps)
        for place, gap in enumerate(row)
        if reading.forbidden[output][place] and reads[output][place]
    ]
    if not wrong:
        return []
    matrix = {
        "kind": "matrix",
        "title": reading.title,
        "outputs": list(reading.outputs),
        "inputs": list(reading.inputs),
        "reads": reads,
        "forbidden": [list(row) for row in reading.forbidden],
    }
    _, output, place = max(wrong)
    return [matrix, *_layers(reading, output, place, subject)]


def _layers(reading: Reading, output: int, place: int, subject: Subject) -> list[dict[str, Any]]:
    """The layers between a call and one with the input at a place changed."""
    model = subject.fresh()
    left, right = (
        calls_of(model, partial(subject.logits, batch), lines=False) for batch in (reading.base, reading.changed[place])
    )
    caption = f"With {reading.inputs[place]} changed, what each module says of {reading.outputs[output]}, as a share of its largest value"
    return layers_apart(left, right, reading.view(output, place), caption)


def layers_apart(left: list[Call], right: list[Call], view: View, caption: str) -> list[dict[str, Any]]:
    """How far two calls are apart in what each module returns, as a share of its largest value, in the order of the calls.

    Args:
        left: What the modules returned in one call.
        right: The same in the other.
        view: What is compared, of a tensor.
        caption: What the two calls are.

    Returns:
        A plot; none where nothing differs.
    """
    others = dict(numbered(right, "module"))
    found = [(call.module, _apart(call, others[key], view)) for key, call in numbered(left, "module") if key in others]
    known = [(module, share) for module, share in found if share is not None]
    if not any(share for _, share in known):
        return []
    labels, values = zip(*known[-_MOST_LAYERS:], strict=True)
    title = "Divergence along the layers"
    return [{"kind": "layers", "title": title, "caption": caption, "labels": list(labels), "values": list(values)}]


def _apart(left: Call, right: Call, view: View) -> float | None:
    """The largest difference of what two calls return, relative to its size; ``None`` where there is nothing to compare."""
    shares = []
    for one, other in zip(left.outputs, right.outputs, strict=False):
        mine, its = view(one), view(other)
        if mine is None or its is None or mine.shape != its.shape or not mine.is_floating_point() or not mine.numel():
            continue
        scale = largest_absolute(one.double()) or 1.0
        shares.append(largest_absolute(mine.double() - its.double()) / scale)
    return max((share for share in shares if math.isfinite(share)), default=None)
