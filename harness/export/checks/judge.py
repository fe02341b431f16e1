"""Runs a check of tier 4, for the tests, the health checker and the command line alike."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from harness.catalogue import CATALOGUE, names_of
from harness.errors import MissingPackageError, UserError
from harness.evidence import Evidence, Status, guarded
from harness.export.exports import Exports
from harness.owners import Selection, left_to, owned_by, owners_of, settled
from harness.properties.prerequisites import (
    FINITE_OWNER,
    RANDOM,
    RANDOM_OWNER,
    WEIGHTS_OWNERS,
    PrerequisiteFailure,
    left_to_weights,
)
from harness.runtime import threads_for
from harness.user_code import raised


def judge_format(name: str, exports: Exports, format: str, judged: Collection[str] | None = None) -> Evidence:
    """The verdict of one check of one artifact; see ``find_format``.

    Args:
        name: The check.
        exports: The exports.
        format: The format.
        judged: Names of the checks of this run; by default all of this tier.
    """
    return settled(find_format(name, exports, format), f"{name}[{format}]", Selection(names_of(4) if judged is None else judged))


def judge_model_check(name: str, exports: Exports, judged: Collection[str] | None = None) -> Evidence:
    """The verdict of one check of the model itself; see ``find_model``.

    Args:
        name: The check.
        exports: The exports.
        judged: Names of the checks of this run; by default all of this tier.
    """
    return settled(find_model(name, exports), name, Selection(names_of(4) if judged is None else judged))


def find_export(name: str, exports: Exports, format: str = "") -> Evidence:
    """What one check finds, whatever else is judged."""
    return find_format(name, exports, format) if format else find_model(name, exports)


def find_format(name: str, exports: Exports, format: str) -> Evidence:
    """What one check finds about one artifact, whatever else is judged.

    A file that is not there, cannot be loaded, or does not run is a finding of ``exports`` or ``validation``; NaN weights are one of
    ``parameter_validation``.
    """

    def measured() -> Evidence:
        try:
            exports.exporter(format)
        except MissingPackageError as error:
            return Evidence(name, Status.SKIPPED, str(error))
        with threads_for(exports.subject.model):
            return _judge(name, exports, format)

    return guarded(name, measured, lambda error: _raised(name, error))


def find_model(name: str, exports: Exports) -> Evidence:
    """What one check finds about the model itself, whatever else is judged."""

    def measured() -> Evidence:
        found = CATALOGUE[name].load()(exports)
        if name == "parameter_validation" or found.status is not Status.FAIL:
            return found
        found = left_to_weights(exports.subject.prerequisite_failure, found)
        return _left_to_tier_1(exports.subject.prerequisite_failure, found) if name == _FORWARD_PASS else found

    return guarded(name, measured, lambda error: _raised(name, error))


def _left_to_tier_1(failure: PrerequisiteFailure, found: Evidence) -> Evidence:
    """What tier 1 says as well is left to it where it runs."""
    owner = RANDOM_OWNER if failure.random else FINITE_OWNER if failure.not_finite else ""
    if not owner or owners_of(found):
        return found
    return replace(found, details={**found.details, **owned_by(owner, _FORWARD_PASS)})


def _raised(name: str, error: Exception) -> Evidence:
    return Evidence(
        name,
        Status.FAIL,
        str(error) if isinstance(error, UserError) else f"cannot be judged: {raised(error)}",
        code="not_measured",
    )


def _judge(name: str, exports: Exports, format: str) -> Evidence:
    subject = exports.subject
    owner, reason = _trouble(exports, format)
    if owner not in ("", name) and name != "exports":
        code = "export_failed" if owner == "exports" else "unreadable_file"
        return left_to(name, f"{owner}[{format}]", f"{format}: {reason}", code=code)
    if name in _COMPARED and subject.prerequisite_failure.random:
        return Evidence(name, Status.FAIL, RANDOM, details=owned_by(RANDOM_OWNER, _FORWARD_PASS), code="random_logits")
    if name in _ON_LOGITS and subject.prerequisite_failure.weight:
        return subject.prerequisite_failure.weight.evidence(name)
    found = CATALOGUE[name].load()(exports, format)
    if name != "validation" or found.status is not Status.FAIL or subject.prerequisite_failure.weight is None:
        return found
    return replace(found, details={**found.details, **owned_by(*WEIGHTS_OWNERS)})  # a file holds what the model does


_FORWARD_PASS = "forward_pass_validation"

_COMPARED = ("numerical_consistency", "fresh_process")
"""Checks that compare an artifact's logits with the model's."""

_ON_LOGITS = (*_COMPARED, "inference_mode", "invalid_input", "quantisation")
"""Checks that need logits without NaN."""


def _trouble(exports: Exports, format: str) -> tuple[str, str]:
    """The check that says why there is no artifact that runs, and the reason; empty where there is one."""
    try:
        exports.artifact(format)
    except UserError as error:
        return "exports", str(error)
    try:
        exports.example_outputs(format)
    except UserError as error:
        return "validation", str(error)
    return "", ""
