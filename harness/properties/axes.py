"""What is said of a model that reads token ids as ``[length, batch]`` and is given ``[batch, length]``."""

from __future__ import annotations

from harness.adapters import LENGTH_FIRST
from harness.evidence import Evidence, Status
from harness.owners import left_to
from harness.properties.subject import Subject

READS = "forward reads token ids as [length, batch]"

CAUSE = (
    "a recurrent layer or an attention without `batch_first=True`; where [length, batch] is meant, "
    f'`adapter = "{LENGTH_FIRST}"` in the config'
)


OWNER = "batch_independence[forward]"
"""The test that says so."""


def left_to_batch_independence(subject: Subject, evidence: Evidence) -> Evidence:
    """The evidence; where the order of the axes explains what is wrong, it is left to ``batch_independence``."""
    if evidence.status in (Status.OK, Status.SKIPPED) or not subject.reads_length_first:
        return evidence
    message = f"{READS}, and cannot be judged with [batch, length]"
    return left_to(evidence.name, OWNER, message, counterexample=evidence.counterexample, cause=CAUSE)
