"""The checks of tier 5: what was measured of a monitored model, as evidence, with plots of what drifted as data."""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.catalogue import CATALOGUE
from harness.errors import TimeBudgetError, UserError
from harness.evaluation import metric_definitions, score_definitions
from harness.evidence import Evidence, Status, guarded
from harness.experiments.records import ACCURACY, Series, series_of
from harness.monitoring.drift import SAME, FeatureDrift
from harness.monitoring.drift.listing import plots_of
from harness.monitoring.drift.location import ShiftedRow
from harness.monitoring.joint import FLOOR
from harness.monitoring.monitor import Monitor
from harness.monitoring.reference import BaselineRows
from harness.monitoring.slices import SliceLoss
from harness.monitoring.thresholds import ThresholdVerdict
from harness.monitoring.verdict import WindowVerdict, group_of
from harness.user_code import raised
from harness.wording import counted, listed

if TYPE_CHECKING:
    from harness.evaluation.evaluation import Evaluation


_NO_PROFILE = "no reference profile to compare with: name one with `reference_profile_id`; `modeltiers profile` stores it"
_NO_BASELINE = "no baseline to compare with: name a run with `baseline_run_id`; `modeltiers train` stores runs"
_SHOWN = 3


def find_monitoring(name: str, monitor: Monitor, case: str = "") -> Evidence:
    """As ``judge_monitoring``; what keeps a check from looking, such as a run that does not exist, is a failure."""
    try:
        return judge_monitoring(name, monitor, case)
    except TimeBudgetError:
        raise
    except UserError as error:
        return Evidence(name, Status.FAIL, str(error), code="not_measured")


def judge_monitoring(name: str, monitor: Monitor, case: str = "") -> Evidence:
    """The evidence of one check.

    Args:
        name: The check.
        monitor: The model and the data.
        case: The features, of ``drift``.

    Raises:
        UserError: Something only the user can put right: a run that does not exist, other data than the baseline's.
    """

    def measured() -> Evidence:
        check = CATALOGUE[name].load(case)
        return check(monitor, case) if case else check(monitor)

    def otherwise(error: Exception) -> Evidence:
        if isinstance(error, UserError):
            raise error
        return Evidence(name, Status.FAIL, f"cannot be measured: {raised(error)}", code="not_measured")

    return guarded(name, measured, otherwise)


def evaluation(monitor: Monitor) -> Evidence:
    """Whether the metrics are finite and within the config's thresholds."""
    expected = monitor.limits
    expected.metrics(monitor.task)  # a threshold of no metric is said even where there is nothing to measure
    found = monitor.evaluation
    if found is None:
        return Evidence("evaluation", Status.SKIPPED, "the data has no labels to evaluate the model with")
    metrics = found.summary
    lacking = _lacking(monitor)
    details = {
        "eval_metrics": metrics,
        "definitions": metric_definitions(monitor.task, metrics),
        "thresholds": dict(expected.thresholds),
        "rows": found.examples,
    }
    on = f"on {_rows(found)} of {monitor.data.origin.name}{_unknown(monitor)}"
    if not all(map(math.isfinite, metrics.values())):
        broken = [name for name, value in metrics.items() if not math.isfinite(value)]
        message = f"{lacking}{_listed(broken)} not finite {on}: some logits are NaN or infinite"
        return Evidence("evaluation", Status.FAIL, message, details=details, code="column_gone" if lacking else "not_finite")
    sliced = monitor.sliced
    if sliced is not None:
        details["slices"] = [one.to_json() for one in sliced.slices]
    below = f"; {sliced.message}" if sliced is not None and sliced.below else ""
    judged = [ThresholdVerdict.of(name, limit, found) for name, limit in expected.thresholds.items()]
    missed = [one for one in judged if one.finding.status is not Status.OK]
    if missed:
        first = max(missed, key=lambda one: one.finding.status.severity)
        status = first.finding.status
        said = "; ".join(one.message for one in missed if one.finding.status is status)
        code = "column_gone" if lacking else first.finding.code
        return Evidence(
            "evaluation", status, f"{lacking}{said}, {on}{below}", first.value, first.limit, details=details, code=code
        )
    said = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
    on += ", each token counts once" if monitor.task.signature.main.is_per_token else ""
    if sliced is not None and sliced.below:
        worst = sliced.below[0]
        return Evidence(
            "evaluation",
            Status.WARN,
            f"{sliced.message}; {said}, {on}",
            worst.accuracy,
            sliced.limit,
            details=details,
            code="slice_misses_threshold",
        )
    return Evidence("evaluation", Status.OK, f"{said}, {on}", details=details)


def baseline_regression(monitor: Monitor) -> Evidence:
    """Whether the model is worse than its baseline, on the rows that the baseline was scored on."""
    rows = monitor.baseline_rows
    if rows is None:
        return Evidence("baseline_regression", Status.SKIPPED, _NO_BASELINE)
    details: dict[str, Any] = {"baseline": str(monitor.memory.baseline), "scored_on": rows.name, "is_same_data": rows.is_window}
    if rows.data is None:
        return Evidence(
            "baseline_regression", Status.WARN, _not_comparable(monitor, rows), details=details, code="rows_not_available"
        )
    comparison = monitor.comparison
    if comparison is None:
        return Evidence("baseline_regression", Status.SKIPPED, "the data has no labels to compare the model with its baseline")
    worst = max(comparison.evidence(), key=lambda one: (one.status.severity, one.excess))
    where = (
        ""
        if rows.is_window
        else f"; compared on the rows that the baseline was scored on ({rows.title}), because the data is new"
    )
    compared = {
        **comparison.to_json(),
        "definitions": score_definitions(monitor.task, [one.metric for one in comparison.metrics]),
        "scored_on": rows.name,
        "is_same_data": rows.is_window,
    }
    return Evidence(
        "baseline_regression",
        comparison.status,
        comparison.message.replace("\n", "; ") + where,
        worst.measured,
        worst.bound,
        worst.unit,
        details={"comparison": compared, **details},
        code=worst.code,
    )


def drift(monitor: Monitor, case: str) -> Evidence:
    """Whether a group of features is distributed as in the reference."""
    verdict = monitor.verdict
    if verdict is None or monitor.reference is None or monitor.window is None:
        return Evidence("drift", Status.SKIPPED, _NO_PROFILE)
    found = verdict.group(case)
    if not found:
        return Evidence("drift", Status.SKIPPED, _why_none(monitor, case))
    statuses = [verdict.status_of(one) for one in found]
    blindness = verdict.drift.blindness if case == "inputs" else ""
    order = monitor.order if case == "inputs" else None
    slices = monitor.drifted_slices if case == "inputs" else []
    joint = monitor.joint if case == "inputs" else None
    is_joint = joint is not None and joint.is_found
    is_too_small = bool(blindness) and verdict.drift.warns_of_size
    of_rows = Status.WARN if is_too_small or order or slices or is_joint else Status.OK
    of_rows = Status.FAIL if is_joint and not verdict.is_harmless else of_rows
    worst = max([*statuses, of_rows], key=lambda status: status.severity)
    gravest = [one for one, status in zip(found, statuses, strict=True) if status is worst]
    changed = worst is not Status.OK and bool(gravest)
    message = _changed(gravest, verdict) if changed else blindness or _no_drift(case, verdict)
    message += "".join(f"; {one.message}" for one in slices[:1]) + _about_rows(monitor)
    if joint is not None and is_joint:
        message = f"{message}; {joint.message}" if changed else f"{joint.message}; {message}"
    lacking = _lacking(monitor, owns=case == "inputs") if changed and case != "labels" else ""
    effect = found[0].verdicts[0].difference.effect
    names = {one.feature for one in found}
    details: dict[str, Any] = {
        "features": [
            {**one.to_json(), "status": status.value, "is_improved": one.feature in verdict.improved}
            for one, status in zip(found, statuses, strict=True)
        ],
        "tests": verdict.drift.tests,
        "alpha": verdict.drift.alpha,
    }
    if changed:
        details["plots"] = plots_of(verdict.drift, monitor.compared_profile, monitor.window.profile, among=names)
    if joint is not None:
        details["joint"] = joint.to_json()
    if slices:
        details["slices"] = {one.name: one.message for one in slices}
    lasting = _lasting(monitor, names)
    details["history"] = {one.name: one.message for one in lasting}
    details["plots"] = [*details.get("plots", []), *(one.plot() for one in lasting)]
    nearest = monitor.shifted if changed and case == "inputs" else []
    if joint is not None and is_joint and not changed:
        return Evidence("drift", worst, message, joint.auc, FLOOR, "AUC", details=details, code="joint_drift")
    if nearest:
        details["nearest"] = [asdict(row) for row in nearest]
    return Evidence(
        "drift",
        worst,
        lacking + message + _nearest(nearest) + "".join(f"; `{one.name}` is {one.message}" for one in lasting[:1]),
        effect.value if changed else None,
        effect.floor if changed else None,
        effect.name if changed else "",
        details=details,
        code=("column_gone" if lacking else gravest[0].code)
        if changed
        else _code_of_rows(is_too_small=is_too_small, depend=order is not None, slices=bool(slices)),
    )


def harm(monitor: Monitor) -> Evidence:
    """Whether the model is less often right than on the reference."""
    verdict = monitor.verdict
    if verdict is None:
        return Evidence("harm", Status.SKIPPED, _NO_PROFILE)
    if verdict.impact is None:
        return Evidence("harm", Status.SKIPPED, _why_no_accuracy(monitor))
    found = verdict.impact.evidence()
    details: dict[str, Any] = {"harm": found.details}
    lasting = _lasting(monitor, {ACCURACY})
    details["history"] = {one.name: one.message for one in lasting}
    details["plots"] = [one.plot() for one in lasting]
    lacking = _lacking(monitor) if found.status is not Status.OK else ""
    code = "column_gone" if lacking else found.code
    lost = monitor.lost_slices
    message = lacking + found.message + _of_slices(lost) + _no_slices(monitor)
    details["slices"] = [one.to_json() for one in lost]
    if lost and found.status is Status.OK:
        loss, allowed = 100 * lost[0].loss, 100 * monitor.limits.impact_margin
        return Evidence("harm", Status.WARN, message, loss, allowed, "points", details=details, code="slice_harmed")
    return Evidence("harm", found.status, message, found.measured, found.bound, found.unit, details=details, code=code)


def _no_slices(monitor: Monitor) -> str:
    """Why parts that the config names are not compared, or nothing."""
    if not monitor.slices or monitor.reference is None or monitor.reference.slices is not None:
        return ""
    return "; parts are not compared, as the reference keeps none: profile it with the same `slices`"


def _of_slices(lost: Sequence[SliceLoss]) -> str:
    """``; in country=fr accuracy has fallen …, and in 2 other slices``, or nothing."""
    more = f", and in {counted(len(lost) - 1, 'other slice')}" if len(lost) > 1 else ""
    return f"; {lost[0].message}{more}" if lost else ""


def _lacking(monitor: Monitor, *, owns: bool = False) -> str:
    """``the column `income` is gone or empty (new: `salary`), so the model's answers here mean nothing (see drift[inputs]): ``, or nothing.

    What follows from it in accuracy, metrics and answers is no news of the model, so each check begins with it, and the report has one card.
    """
    gone = monitor.gone_columns
    if not gone:
        return ""
    new = monitor.data.origin.encoder.new_columns
    instead = f" (new: {listed(new, _SHOWN)})" if new else ""
    what = "the column {} is gone or empty" if len(gone) == 1 else "the columns {} are gone or empty"
    follows = "" if owns else ", so the model's answers here mean nothing (see drift[inputs])"
    return f"{what.format(listed(list(gone), _SHOWN))}{instead}{follows}: "


def _about_rows(monitor: Monitor) -> str:
    """Which rows count, or why their order says that they should not all count; or nothing."""
    earlier = monitor.earlier_windows
    before = ""
    if earlier and monitor.memory.earlier is not None:
        before = f"; the reference is {counted(len(earlier), 'earlier window')}{monitor.memory.earlier.said}"
    if monitor.groups is not None and monitor.groups.has_several:
        return f"; {monitor.groups.said} is judged{before}"
    return f"; {monitor.order.message}{before}" if monitor.order else before


def _code_of_rows(*, is_too_small: bool, depend: bool, slices: bool) -> str:
    """The code of a window none of whose features changed."""
    code = "slice_drifted" if slices else ""
    code = "dependent_rows" if depend else code
    return "too_few_rows" if is_too_small else code


def _lasting(monitor: Monitor, names: Container[str]) -> list[Series]:
    """The series that were beyond their limit before this window too, and still are; the window is stored with the others."""
    found = [one for name, one in series_of(monitor.history).items() if name in names]
    return [one for one in found if one.lasts > 1][:_SHOWN]


def _nearest(rows: Sequence[ShiftedRow]) -> str:
    """``; the rows that shifted most are 18, 202 and 33``, or nothing."""
    numbers = [str(row.index + 1) for row in rows[:_SHOWN]]
    if len(numbers) < _SHOWN:
        return ""
    return f"; the rows that shifted most are {', '.join(numbers[:-1])} and {numbers[-1]}"


def _rows(found: Evaluation) -> str:
    """``1,000 rows``, or ``300 labelled of 1,000 rows``."""
    labelled = int(np.isfinite(found.scores["correct"]).sum()) if "correct" in found.scores else found.examples
    rows = counted(found.examples, "row")
    return rows if labelled == found.examples else f"{labelled:,} labelled of {rows}"


def _unknown(monitor: Monitor) -> str:
    """``; 97 rows have a class that the model does not know (d), which counts as wrong``, or nothing."""
    if not monitor.unknown_rows:
        return ""
    have = "rows have" if monitor.unknown_rows > 1 else "row has"
    names = listed(monitor.data.origin.encoder.unknown_classes, 4)
    return (
        f"; {monitor.unknown_rows:,} {have} a class that the model does not know ({names}), which counts as wrong in `accuracy`"
    )


def _listed(names: list[str]) -> str:
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'}"


def _changed(features: Sequence[FeatureDrift], verdict: WindowVerdict) -> str:
    """All about the first, the names of the others, and why it is not graver."""
    first, *others = features
    more = f"; also {listed([one.feature for one in others])}" if others else ""
    return f"{first.message.splitlines()[0]}{more}{_what_accuracy_says(verdict)}"


def _what_accuracy_says(verdict: WindowVerdict) -> str:
    """Why drift only warns, or why it fails all the same."""
    if verdict.is_harmless:
        return "; accuracy holds, so this is only a warning"
    only_estimated = verdict.impact is not None and verdict.impact.is_ruled_out
    return "; accuracy seems to hold, but is only estimated: without labels, drift still fails" if only_estimated else ""


def _no_drift(case: str, verdict: WindowVerdict) -> str:
    better = [one.feature for one in verdict.group(case) if one.feature in verdict.improved and one.status is not Status.OK]
    if better:
        return f"{listed(better)} changed for the better"
    found = verdict.group(case)
    sizes = f"{counted(verdict.drift.current_n, 'row')} against {verdict.drift.reference_n:,}"
    names = f"{counted(len(found), 'feature')}, {listed([one.feature for one in found])} ({sizes})"
    if all(one.feature in verdict.drift.same for one in found):
        return f"{SAME}: {names}"
    return f"no drift found in {names}"


def _not_comparable(monitor: Monitor, rows: BaselineRows) -> str:
    return (
        f"not compared with the baseline {monitor.memory.baseline!r}: its scores are of {rows.title}, which is not available "
        f"({rows.lacking}), and {monitor.data.origin.name} has other rows; restore the data to compare, or train the baseline again; "
        "evaluation, drift and harm are judged on the new rows"
    )


def _why_none(monitor: Monitor, case: str) -> str:
    assert monitor.reference is not None
    stored = any(group_of(name) == case for name in monitor.reference.profile.features)
    if stored:
        has_estimate = case != "scores" or monitor.task.signature.has_one_answer
        estimate = "" if has_estimate else "; without labels no error is estimated of answers that are numbers, or several a row"
        return f"the data has no labels: nothing to compare the reference's {case} with{estimate}"
    needs = {"labels": "labels", "outputs": "a model's outputs", "scores": "labels and a model's outputs"}
    return f"the reference profile has no {case}: it was made without {needs.get(case, 'them')}"


def _why_no_accuracy(monitor: Monitor) -> str:
    if not monitor.task.signature.has_one_answer:
        return "accuracy is estimated where a row has one class, and here it has a number or several"
    return "the reference has no accuracy of the model: profile labelled data with the trained model"
