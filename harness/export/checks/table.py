"""Every check of tier 4 by name, for the tests, the health checker and the command line alike."""

from __future__ import annotations

from collections.abc import Callable, Container

from harness.errors import MissingPackageError, UserError
from harness.evidence import Evidence, Status
from harness.export.checks.contracts import dynamic_axes, exports_to, inference_mode
from harness.export.checks.files import fresh_process, validation
from harness.export.checks.invalid_input import invalid_input
from harness.export.checks.models import MODEL_CHECKS
from harness.export.checks.parity import numerical_consistency
from harness.export.checks.performance import performance_benchmark, quantisation
from harness.export.exports import Exports
from harness.threads import threads_for

FORMAT_CHECKS: dict[str, Callable[[Exports, str], Evidence]] = {
    "exports": exports_to,
    "validation": validation,
    "fresh_process": fresh_process,
    "numerical_consistency": numerical_consistency,
    "dynamic_axes": dynamic_axes,
    "inference_mode": inference_mode,
    "invalid_input": invalid_input,
    "quantisation": quantisation,
    "performance_benchmark": performance_benchmark,
}
"""Checks of an artifact, by name."""

ALL = frozenset((*MODEL_CHECKS, *FORMAT_CHECKS))
"""Names of every check of tier 4."""


def judge_format(name: str, exports: Exports, format: str, judged: Container[str] = ALL) -> Evidence:
    """The evidence of one check of one artifact.

    A file that is not there, cannot be loaded, or does not run is said once: by ``exports`` or ``validation``. The others skip with a hint
    where those are judged too, and fail where they are not.

    Args:
        name: The check.
        exports: The exports.
        format: The format.
        judged: Names of the checks of this run.
    """
    try:
        exports.exporter(format)
    except MissingPackageError as error:
        return Evidence(name, Status.SKIPPED, str(error))
    with threads_for(exports.subject.model):
        return _judge(name, exports, format, judged)


def _judge(name: str, exports: Exports, format: str, judged: Container[str]) -> Evidence:
    owner, reason = _trouble(exports, format)
    if owner not in ("", name) and name != "exports":
        if owner in judged:
            return Evidence(name, Status.SKIPPED, f"there is no {format} file that runs (see {owner})")
        return Evidence(name, Status.FAIL, f"{format}: {reason}")
    if name in _COMPARED and exports.subject.trouble.random:
        reason = "the model's own logits are random in eval mode"
        status = Status.SKIPPED if "forward_pass_validation" in judged else Status.FAIL
        return Evidence(name, status, f"{reason} (see forward_pass_validation)")
    return FORMAT_CHECKS[name](exports, format)


_COMPARED = ("numerical_consistency", "fresh_process")
"""Checks that hold an artifact's logits against the model's."""


def _trouble(exports: Exports, format: str) -> tuple[str, str]:
    """The check that says why there is no artifact that runs, and the reason; empty where there is one."""
    try:
        exports.artifact(format)
    except UserError as error:
        return "exports", str(error)
    try:
        exports.example_logits(format)
    except UserError as error:
        return "validation", str(error)
    return "", ""
