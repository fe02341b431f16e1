"""One bug, one failure: a finding that another property explains better is left to it.

A check that finds what another one owns says so in its evidence (``left_to``, ``owned_by``); it never asks what else runs. What follows is
decided here, for all tiers alike:

- The owner is judged in this run: the finding is a skip that ends in ``(see owner)``.
- It is not, because it was deselected or its tier is not in the config: the owner is judged all the same, and where it fails the finding fails,
  with the same message and with the owner's counterexample and blame. A run that leaves the owner out is never green because of that. Of several
  tests that are left to such an owner, the first fails, and the others are skips that end in ``(see first)``. Where the owner leaves its own
  finding to a property that runs, the finding is a skip that refers to that one.
- A warning or a skip may refer to another property in its message. It stays what it is where that one runs, and fails where that one
  does not run and would fail.
- The config switches it off: the finding stands as it is, except for ``eval_deterministic``, which is switched off for models that are random on
  purpose; what needs repeatable logits is then a skip.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Container
from dataclasses import dataclass, replace
from typing import Any

from harness.catalogue import CATALOGUE
from harness.evidence import Evidence, Status

REFERS = re.compile(r"\(see (\w+(?:\[\w+\])?)\)")
"""How a message refers to another property or one of its cases: ``(see causal)``."""

_ON_PURPOSE = "eval_deterministic"


def _nobody(_owner: str) -> Evidence | None:
    return None


@dataclass(frozen=True)
class Selection:
    """What a run judges.

    Attributes:
        labels: The tests that run, such as ``finite_output[typical]`` or ``causal``; only the name means all its cases.
        off: The properties that the config switches off.
        ask: Judges an owner that does not run; ``None`` where that is not possible.
        stands_in: The test that fails in the place of an owner that does not run, given the owner and the test that met it.
    """

    labels: Collection[str]
    off: Container[str] = frozenset()
    ask: Callable[[str], Evidence | None] = _nobody
    stands_in: Callable[[str, str], str] = lambda _owner, own: own

    def has(self, owner: str) -> bool:
        """Whether an owner runs: the case that is named, or any where none is."""
        known = owner in self.labels or owner.partition("[")[0] in self.labels
        return known or any(label.startswith(f"{owner}[") for label in self.labels)


def owned_by(*owners: str) -> dict[str, Any]:
    """What a finding notes in its details when another property owns it.

    Args:
        owners: Labels of tests; the first of them that runs is the one referred to.
    """
    return {"owner": owners[0], **({"owners": list(owners)} if len(owners) > 1 else {})}


def left_to(name: str, owner: str, message: str, **facts: Any) -> Evidence:
    """A failure that another property owns.

    Args:
        name: The property that met it.
        owner: Label of the test that owns it.
        message: What is wrong with the model.
        facts: Further fields of the evidence.
    """
    return Evidence.failed(name, message, details=owned_by(owner), **facts)


def failing_owner(name: str, given: Any, case: str = "", statuses: Collection[Status] = (Status.FAIL, Status.WARN)) -> str:
    """The first owner in the catalogue's entry that itself has a finding; empty where none does.

    Args:
        name: The property that met a finding.
        given: What the functions of its tier take, such as a ``Study``; its owners are of the same tier.
        case: The case that met it.
        statuses: What counts as finding something.
    """
    for owner in CATALOGUE[name].owners(case):
        own, _, part = owner.rstrip("]").partition("[")
        if CATALOGUE[own].load(part)(given).status in statuses:
            return owner
    return ""


def owners_of(evidence: Evidence) -> tuple[str, ...]:
    """Labels of the tests that own a finding, the preferred one first; empty for a finding of the check's own."""
    owners = evidence.details.get("owners") or [evidence.details.get("owner")]
    return tuple(str(owner) for owner in owners if owner)


def is_left(evidence: Evidence, own: str) -> bool:
    """Whether a finding belongs to other properties only.

    Args:
        evidence: The finding.
        own: Label of the test that made it.
    """
    owners = owners_of(evidence)
    return bool(owners) and not any(_is_same(own, owner) for owner in owners)


def settled(evidence: Evidence, own: str, selection: Selection) -> Evidence:
    """The verdict that follows from a finding and from what runs; see the module's docstring.

    Args:
        evidence: The finding.
        own: Label of the test that made it.
        selection: What runs.
    """
    owners = owners_of(evidence)
    if evidence.status is Status.OK:
        return evidence
    if not owners:
        return _with_answers(evidence, own, selection)
    owner = next((one for one in owners if _is_same(own, one) or selection.has(one)), owners[0])
    if _is_same(own, owner):
        return evidence
    message = f"{evidence.message} (see {owner})"
    details = {**evidence.details, "owner": owner}
    skipped = replace(evidence, status=Status.SKIPPED, message=message, details=details, investigate=None)
    if selection.has(owner):
        return skipped
    base = owner.partition("[")[0]
    if base in selection.off:
        return skipped if base == _ON_PURPOSE else replace(evidence, message=message, details=details)
    if selection.has(own) and (first := selection.stands_in(owner, own)) != own:
        return replace(skipped, message=f"{evidence.message} (see {first})", details={**evidence.details, "owner": first})
    answer = selection.ask(owner)
    further = "" if answer is None or answer.status is not Status.SKIPPED else str(answer.details.get("owner", ""))
    if further and selection.has(further):
        return replace(skipped, message=f"{evidence.message} (see {further})", details={**evidence.details, "owner": further})
    if answer is None or answer.status not in (Status.FAIL, Status.WARN):
        return replace(evidence, message=message, details=details)
    return replace(_as_answered(evidence, answer), message=message, details=details)


def _with_answers(evidence: Evidence, own: str, selection: Selection) -> Evidence:
    """A warning or a skip whose message refers to other properties; where one of them does not run, and fails, so does this."""
    if evidence.status is Status.FAIL:
        return evidence
    for owner in REFERS.findall(evidence.message):
        if _is_same(own, owner) or selection.has(owner) or owner.partition("[")[0] in selection.off:
            continue
        answer = selection.ask(owner)
        if answer is not None and answer.status is Status.FAIL:
            return replace(_as_answered(evidence, answer), details={**evidence.details, "owner": owner})
    return evidence


def _as_answered(evidence: Evidence, answer: Evidence) -> Evidence:
    """A finding with what its owner measured, and whom it blames."""
    own = {field: getattr(evidence, field) for field in ("name", "message", "details", "compared")}
    return replace(answer, **own)


def _is_same(own: str, owner: str) -> bool:
    return owner in (own, own.partition("[")[0])
