"""What is said of a model that reads token ids as ``[length, batch]`` and is given ``[batch, length]``."""

from __future__ import annotations

from harness.adapters import LENGTH_FIRST
from harness.evidence import Evidence, Status
from harness.properties.subject import Subject

READS = "forward reads token ids as [length, batch]"

CAUSE = (
    "a recurrent layer or an attention without `batch_first=True`; where [length, batch] is meant, "
    f'`adapter = "{LENGTH_FIRST}"` in the config'
)


def left_to_batch_independence(subject: Subject, evidence: Evidence) -> Evidence:
    """The evidence; where the order of the axes explains what is wrong, a warning that refers to ``batch_independence``."""
    if evidence.status in (Status.OK, Status.SKIPPED) or not subject.reads_length_first:
        return evidence
    return Evidence(
        evidence.name,
        Status.WARN,
        f"{READS}, and cannot be judged with [batch, length] (see batch_independence)",
        counterexample=evidence.counterexample,
        cause=CAUSE,
    )
