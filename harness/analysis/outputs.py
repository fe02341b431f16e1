"""The outputs that the checks of tier 2 look at: all of them in one number, or one after the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import wraps

import torch
from torch import Tensor, nn

from harness.adapters import SignatureAdapter
from harness.analysis import Study
from harness.batches import Batch
from harness.evidence import Evidence, Status
from harness.properties.prerequisites import hidden_by
from harness.properties.subject import Subject
from harness.tasks.kinds import Lengths, Loss, Other, State
from harness.tasks.signature import Output
from harness.wording import listed

_WITHOUT_VALUES = (State, Lengths, Loss, Other)
"""Kinds of which no values are promised that a check could hold to anything."""


def judged_outputs(subject: Subject) -> tuple[Output, ...]:
    """The outputs whose values follow from the inputs and mean something, the main one first."""
    outputs = subject.task.signature.outputs
    if not isinstance(subject.adapter, SignatureAdapter):
        return outputs[:1]  # an adapter of the user's own finds the logits, and nothing else
    return (
        outputs[0],
        *(each for each in outputs[1:] if not each.constant and not isinstance(each.kind, _WITHOUT_VALUES)),
    )


def values_of(subject: Subject, batch: Batch, model: nn.Module) -> dict[str, Tensor]:
    """The values of all judged outputs by name, with the graph."""
    judged = judged_outputs(subject)
    if len(judged) == 1:
        return {judged[0].name: subject.logits_with_grad(batch, model)}
    found = subject.outputs_with_grad(batch, model)
    values = {each.name: found[each.name] for each in judged}
    return {name: value for name, value in values.items() if isinstance(value, Tensor) and value.is_floating_point()}


def combined(values: Mapping[str, Tensor], seed: int = 0) -> Tensor:
    """All outputs in a random combination, a scalar in float64."""
    rng = torch.Generator().manual_seed(seed)
    parts = []
    for value in values.values():
        weights = torch.randn(value.shape, generator=rng, dtype=torch.float64).to(value.device)
        parts.append((value.double() * weights).sum() / math.sqrt(max(1, value.numel())))
    return torch.stack(parts).sum()


def each_output(check: Callable[[Study], Evidence]) -> Callable[[Study], Evidence]:
    """A check that is made of every judged output in turn, as if it were the main one; a finding names the output."""

    @wraps(check)
    def judged(study: Study) -> Evidence:
        names = [each.name for each in judged_outputs(study.subject)]
        if len(names) == 1:
            return check(study)
        first: Evidence | None = None
        passed: dict[str, Evidence] = {}
        for name in names:
            seen = study if name == names[0] else study.seen_from(name)
            evidence = (hidden_by(seen.subject.prerequisite_failure, "") if seen is not study else None) or check(seen)
            first = first or evidence
            if evidence.status in (Status.FAIL, Status.WARN):
                return replace(evidence, name=first.name, message=f"output `{name}`: {evidence.message}")
            if evidence.status is Status.OK:
                passed[name] = evidence
        if not passed:
            assert first is not None
            return first
        shown = listed(list(passed), len(passed))
        closest = max(passed.values(), key=lambda evidence: evidence.excess)
        return replace(closest, message=f"{closest.message} (judged of {shown})")

    return judged
