"""What is said of a finding when something else is wrong with the model, which another property owns."""

from __future__ import annotations

import math

from harness.evidence import Evidence, Status
from harness.owners import left_to, owners_of
from harness.properties.subject import FINITE_OWNER, RANDOM, RANDOM_OWNER, SHAPE_OWNER, Trouble

_COUNT_NAN = ("finite_output", "gradient_flow")
"""Properties whose measurement is the number of values that are NaN or infinite."""


def hidden_by(trouble: Trouble, name: str) -> Evidence | None:
    """Why a model has to be put right before it can be looked into; ``None`` where it need not be.

    Args:
        trouble: What is wrong with the model at its anchors.
        name: The property that is not judged.
    """
    if trouble.raises:
        return left_to(name, SHAPE_OWNER, trouble.raises)
    if trouble.not_finite:
        return not_finite(trouble, name)
    return left_to(name, RANDOM_OWNER, RANDOM) if trouble.random else None


def not_finite(trouble: Trouble, name: str) -> Evidence:
    """A finding of a model whose logits are not finite, left to the property that says why."""
    if trouble.weight:
        return trouble.weight.evidence(name)
    return left_to(name, FINITE_OWNER, trouble.not_finite)


def left_to_weights(trouble: Trouble, evidence: Evidence) -> Evidence:
    """A finding that NaN weights explain, left to the property that names them.

    That is one that measured no number, counts those that are none, or blames the same weight.
    """
    if trouble.weight is None or evidence.status not in (Status.FAIL, Status.WARN) or owners_of(evidence):
        return evidence
    is_measured = evidence.measured is not None and math.isfinite(evidence.measured)
    if is_measured and evidence.name not in _COUNT_NAN and evidence.module != trouble.weight.path:
        return evidence
    return trouble.weight.evidence(evidence.name)
