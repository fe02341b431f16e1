"""The checks of tier 5: what was measured of a monitored model, as evidence, with plots of what drifted as data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.catalogue import CATALOGUE
from harness.errors import TimeBudgetError, UserError
from harness.evaluation import metric_definitions, score_definitions
from harness.evidence import Evidence, Status, guarded
from harness.experiments.records import ACCURACY
from harness.monitoring.drift.listing import plots_of
from harness.monitoring.joint import FLOOR
from harness.monitoring.monitor import Monitor
from harness.monitoring.reference import BaselineRows
from harness.monitoring.sentences import (
    about_rows,
    among_earlier,
    as_usual,
    lacking_columns,
    lasting_series,
    lost_in_slices,
    nearest_rows,
    no_drift,
    only_chance,
    other_model,
    other_season,
    repeated_rows,
    slices_not_compared,
    unread_cells,
    what_changed,
    which_model,
    why_no_accuracy,
    why_no_features,
)
from harness.monitoring.thresholds import ThresholdFinding, ThresholdVerdict
from harness.monitoring.verdict import ANSWERS
from harness.user_code import raised
from harness.wording import counted, listed

if TYPE_CHECKING:
    from harness.evaluation.evaluation import Evaluation


_NO_PROFILE = "no reference profile to compare with: name one with `reference_profile_id`; `modeltiers profile` stores it"
_NO_BASELINE = "no baseline to compare with: name a run with `baseline_run_id`; `modeltiers train` stores runs"


def find_monitoring(name: str, monitor: Monitor, case: str = "") -> Evidence:
    """As ``judge_monitoring``; what keeps a check from looking, such as a run that does not exist, is a failure."""
    try:
        return judge_monitoring(name, monitor, case)
    except TimeBudgetError:
        raise
    except UserError as error:
        return Evidence.failed(name, str(error), code="not_measured")


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
        return Evidence.failed(name, f"cannot be measured: {raised(error)}", code="not_measured")

    return guarded(name, measured, otherwise)


def evaluation(monitor: Monitor) -> Evidence:
    """Whether the metrics are finite and within the config's thresholds."""
    expected = monitor.limits
    expected.metrics(monitor.task)  # a threshold of no metric is said even where there is nothing to measure
    found = monitor.evaluation
    if found is None:
        return Evidence.skipped("evaluation", "the data has no labels to evaluate the model with")
    metrics = found.summary
    lacking = lacking_columns(monitor)
    details = {
        "eval_metrics": metrics,
        "definitions": metric_definitions(monitor.task, metrics),
        "thresholds": dict(expected.thresholds),
        "rows": found.examples,
    }
    on = f"on {_rows(found)} of {monitor.data.origin.name}{_unknown(monitor)}{_fresh(monitor)}"
    if not all(map(math.isfinite, metrics.values())):
        broken = [name for name, value in metrics.items() if not math.isfinite(value)]
        message = f"{lacking}{_listed(broken)} not finite {on}: some logits are NaN or infinite"
        return Evidence.failed("evaluation", message, details=details, code="column_gone" if lacking else "not_finite")
    sliced = monitor.sliced
    if sliced is not None:
        details["slices"] = [one.to_json() for one in sliced.slices]
    below = f"; {sliced.message}" if sliced is not None and sliced.below else ""
    judged = [ThresholdVerdict.of(name, limit, found) for name, limit in expected.thresholds.items()]
    missed = [one for one in judged if one.finding.status is not Status.OK]
    if missed:
        first = max(missed, key=lambda one: one.finding.status.severity)
        finding = first.finding
        said = "; ".join(one.message for one in missed if one.finding.status is finding.status)
        if monitor.verdict is not None and monitor.verdict.has_late_classes:
            finding, below = ThresholdFinding.IN_DOUBT, f"{below}; labels have come for some classes first: see drift[labels]"
        code = "column_gone" if lacking else finding.code
        return Evidence(
            "evaluation", finding.status, f"{lacking}{said}, {on}{below}", first.value, first.limit, details=details, code=code
        )
    said = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
    on += ", each token counts once" if monitor.task.signature.main.is_per_token else ""
    if sliced is not None and sliced.below:
        worst = sliced.below[0]
        return Evidence.warned(
            "evaluation",
            f"{sliced.message}; {said}, {on}",
            (worst.accuracy, sliced.limit, ""),
            details=details,
            code="slice_misses_threshold",
        )
    return Evidence.ok("evaluation", f"{said}, {on}", details=details)


def baseline_regression(monitor: Monitor) -> Evidence:
    """Whether the model is worse than its baseline, on the rows that the baseline was scored on."""
    rows = monitor.baseline_rows
    if rows is None:
        return Evidence.skipped("baseline_regression", _NO_BASELINE)
    details: dict[str, Any] = {"baseline": str(monitor.memory.baseline), "scored_on": rows.name, "is_same_data": rows.is_window}
    if rows.data is None:
        return Evidence.warned("baseline_regression", _not_comparable(monitor, rows), details=details, code="rows_not_available")
    comparison = monitor.comparison
    if comparison is None:
        return Evidence.skipped("baseline_regression", "the data has no labels to compare the model with its baseline")
    worst = comparison.worst.evidence()
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
    return Evidence.judged(
        "baseline_regression",
        comparison.status,
        comparison.finding + where + _fresh(monitor),
        (worst.measured, worst.bound, worst.unit),
        details={"comparison": compared, **details},
        code=worst.code,
    )


def drift(monitor: Monitor, case: str) -> Evidence:
    """Whether a group of features is distributed as in the reference."""
    verdict = monitor.verdict
    if verdict is None or monitor.reference is None or monitor.window is None:
        return Evidence.skipped("drift", _NO_PROFILE)
    found = verdict.group(case)
    if not found:
        return Evidence.skipped("drift", why_no_features(monitor, case))
    statuses = [verdict.status_of(one) for one in found]
    blindness = verdict.drift.blindness if case == "inputs" else ""
    order = monitor.order if case == "inputs" else None
    slices = monitor.drifted_slices if case == "inputs" else []
    joint = monitor.joint if case == "inputs" else None
    repeated = repeated_rows(monitor) if case == "inputs" else []
    is_joint = joint is not None and joint.is_found
    is_too_small = bool(blindness) and verdict.drift.warns_of_size
    of_rows = Status.WARN if is_too_small or order or slices or is_joint or repeated else Status.OK
    of_rows = Status.FAIL if is_joint and not verdict.is_harmless else of_rows
    worst = max([*statuses, of_rows], key=lambda status: status.severity)
    gravest = [one for one, status in zip(found, statuses, strict=True) if status is worst]
    changed = worst is not Status.OK and bool(gravest)
    seldom = among_earlier(monitor, gravest[0].feature, gravest[0].verdicts[0].difference.aspect) if changed else ""
    seldom += only_chance(monitor) if changed else ""
    seldom += other_season(monitor, gravest[0]) if changed and case == "inputs" else ""
    unchanged = blindness + as_usual(found, verdict) if blindness else no_drift(case, verdict)
    message = what_changed(gravest, verdict) + seldom if changed else unchanged
    message += "".join(f"; {one.message}" for one in slices[:1])
    message += about_rows(monitor, case) + (unread_cells(monitor) if case == "inputs" else "")
    of_whole = [said for _, said in repeated] + ([joint.message] if joint is not None and is_joint else [])
    message = "; ".join([message, *of_whole] if changed else [*of_whole, message])
    lacking = lacking_columns(monitor, owns=case == "inputs") if changed and case != "labels" else ""
    replaced = f"{other_model(monitor)}: " if changed and monitor.has_other_model and case in ANSWERS else ""
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
    lasting = lasting_series(monitor, names)
    details["history"] = {one.name: one.message for one in lasting}
    details["plots"] = [*details.get("plots", []), *(one.plot() for one in lasting)]
    nearest = monitor.shifted if changed and case == "inputs" else []
    if joint is not None and is_joint and not changed:
        return Evidence.judged("drift", worst, message, (joint.auc, FLOOR, "AUC"), details=details, code="joint_drift")
    if nearest:
        details["nearest"] = [asdict(row) for row in nearest]
    return Evidence.judged(
        "drift",
        worst,
        lacking + replaced + message + nearest_rows(nearest) + "".join(f"; `{one.name}` is {one.message}" for one in lasting[:1]),
        (effect.value if changed else None, effect.floor if changed else None, effect.name if changed else ""),
        details=details,
        code=("column_gone" if lacking else "model_changed" if replaced else gravest[0].code)
        if changed
        else _code_of_rows(repeated, is_too_small=is_too_small, depend=order is not None, slices=bool(slices)),
    )


def harm(monitor: Monitor) -> Evidence:
    """Whether the model is less often right than on the reference."""
    verdict = monitor.verdict
    if verdict is None:
        return Evidence.skipped("harm", _NO_PROFILE)
    if verdict.impact is None:
        return Evidence.skipped("harm", why_no_accuracy(monitor))
    found = verdict.impact.evidence()
    details: dict[str, Any] = {"harm": found.details}
    lasting = lasting_series(monitor, {ACCURACY})
    details["history"] = {one.name: one.message for one in lasting}
    details["plots"] = [one.plot() for one in lasting]
    lacking = lacking_columns(monitor) if found.status is not Status.OK else ""
    code = "column_gone" if lacking else found.code
    lost = monitor.lost_slices
    is_less = found.status is not Status.OK and verdict.impact.estimate.loss > 0
    seldom = among_earlier(monitor, ACCURACY) if is_less else ""
    said = found.message + which_model(monitor, verdict.impact) + seldom
    said += "".join(f"; {one.message}" for one in lasting if found.status is not Status.OK)
    message = lacking + said + lost_in_slices(lost) + slices_not_compared(monitor) + _fresh(monitor)
    details["slices"] = [one.to_json() for one in lost]
    if lost and found.status is Status.OK:
        loss, allowed = 100 * lost[0].loss, 100 * monitor.limits.impact_margin
        return Evidence.warned("harm", message, (loss, allowed, "points"), details=details, code="slice_harmed")
    return Evidence.judged("harm", found.status, message, (found.measured, found.bound, found.unit), details=details, code=code)


def _fresh(monitor: Monitor) -> str:
    """That nobody trained the model that is judged, as far as the config says; or nothing."""
    return "; the config names no `weights`: these are the ones that the model is made with" if monitor.has_fresh_weights else ""


def _code_of_rows(repeated: Sequence[tuple[str, str]], *, is_too_small: bool, depend: bool, slices: bool) -> str:
    """The code of a window none of whose features changed."""
    code = "slice_drifted" if slices else next((code for code, _ in repeated), "")
    code = "dependent_rows" if depend else code
    return "too_few_rows" if is_too_small else code


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


def _not_comparable(monitor: Monitor, rows: BaselineRows) -> str:
    return (
        f"not compared with the baseline {monitor.memory.baseline!r}: its scores are of {rows.title}, which is not available "
        f"({rows.lacking}), and {monitor.data.origin.name} has other rows; restore the data to compare, or train the baseline again; "
        "evaluation, drift and harm are judged on the new rows"
    )
