"""Whether a model can be judged at all: it takes typical inputs, and returns logits of the promised shape."""

from __future__ import annotations

import inspect

from harness.adapters import same_shape
from harness.errors import OutputError
from harness.evidence import Status
from harness.properties.contracts import shape_contract
from harness.properties.subject import SHAPE_OWNER, ModelRaisedError, Subject, Unusable


def find_unusable(subject: Subject) -> Unusable:
    """Judges the shape of the logits at typical sizes; a token that cannot be read is a failure of ``full_vocabulary``."""
    if _is_usable(subject):
        return Unusable()
    try:
        found = shape_contract(subject, subject.typical)
    except OutputError as error:
        return Unusable(SHAPE_OWNER, str(error))
    if found.status is Status.OK:
        return Unusable()
    if found.status is Status.WARN:
        return Unusable("full_vocabulary", found.message.replace(" (see full_vocabulary)", ""))
    return Unusable(SHAPE_OWNER, found.message)


def _is_usable(subject: Subject) -> bool:
    """Whether one call on a fresh copy returns logits of the right shape; nothing more is asked of a model that is sound."""
    try:
        logits = subject.raw_logits(subject.batch(), subject.fresh())
    except (ModelRaisedError, OutputError):
        return False
    return same_shape(logits, subject.typical.logits_shape(subject.task))


def call_of(subject: Subject) -> str:
    """How the model is called, such as ``called as Net.forward(x) with `pixel_values` ([3, 32, 32])``."""
    plan = subject.adapter.plan(subject.model)
    signature = f"{type(subject.model).__name__}.forward{inspect.signature(subject.model.forward)}"
    size = f" ({list(subject.task.image_size)})" if subject.task.image_size else ""
    return (
        f"called as {signature} with {'the whole batch' if plan.whole else ', '.join(f'`{name}`' for name in plan.fields)}{size}"
    )
