"""What the checks of tier 5 say beside their figures: of columns, rows, parts, earlier windows, and of what is not compared."""

from __future__ import annotations

from collections.abc import Container, Sequence

from harness.evidence import Status
from harness.experiments.records import ACCURACY, Series, date_text, series_of
from harness.monitoring.drift import SAME, FeatureDrift
from harness.monitoring.drift.location import ShiftedRow
from harness.monitoring.drift.verdict import DriftFinding
from harness.monitoring.monitor import Monitor
from harness.monitoring.profiles.windows import FEWEST_WINDOWS
from harness.monitoring.row_sample import REPEATED
from harness.monitoring.slices import SliceLoss
from harness.monitoring.verdict import ANSWERS, PerformanceImpact, WindowVerdict, group_of
from harness.monitoring.window import ALSO, ROWS
from harness.wording import counted, listed

SHOWN = 3
"""Names that are listed at most, and rows."""

_MOST_ALIKE = 0.2


def what_changed(features: Sequence[FeatureDrift], verdict: WindowVerdict) -> str:
    """All about the first, the names of the others, and why it is not graver."""
    first, *others = features
    more = f"; also {listed([one.feature for one in others])}" if others else ""
    is_anothers = verdict.has_other_model and group_of(first.feature) in ANSWERS
    if verdict.waits_for_labels(first.feature):
        accuracy = (
            "; the rows without labels can make up for it, and no answer has changed, so this only warns until their labels come"
        )
    else:
        accuracy = "" if is_anothers else _what_accuracy_says(verdict)
    return f"{first.message.splitlines()[0]}{more}{accuracy}"


def _what_accuracy_says(verdict: WindowVerdict) -> str:
    """Why drift only warns, or why it fails all the same."""
    if verdict.is_harmless:
        return "; accuracy holds, so this is only a warning"
    if verdict.impact is None or not verdict.impact.is_ruled_out:
        return ""
    if verdict.impact.estimate.is_measured:
        return "; accuracy holds in the rows that have labels, and nobody knows whether in the others"
    return "; accuracy seems to hold, but is only estimated: without labels, drift still fails"


def no_drift(case: str, verdict: WindowVerdict) -> str:
    """That nothing changed in some features, or only for the better."""
    better = [one.feature for one in verdict.group(case) if one.feature in verdict.improved and one.status is not Status.OK]
    if better:
        return f"{listed(better)} changed for the better"
    found = verdict.group(case)
    sizes = _sizes(case, verdict)
    names = f"{counted(len(found), 'feature')}, {listed([one.feature for one in found])} ({sizes}){as_usual(found, verdict)}"
    if all(one.feature in verdict.drift.same for one in found):
        return f"{SAME}: {names}"
    return f"no drift found in {names}"


def _sizes(case: str, verdict: WindowVerdict) -> str:
    """``400 rows against 4,000``; of what labels say, the rows that have one."""
    now, before = verdict.drift.current_n, verdict.drift.reference_n
    if case in ("labels", "scores"):
        compared = [each.difference for one in verdict.group(case) for each in one.verdicts]
        now = min(now, max(each.current_n for each in compared))
        before = min(before, max(each.reference_n for each in compared))
    return f"{counted(now, 'row')} against {before:,}"


def as_usual(features: Sequence[FeatureDrift], verdict: WindowVerdict) -> str:
    """``; `delay` is no further off than usual (31 days of the reference)``, or nothing."""
    first = [(one.feature, one.verdicts[0]) for one in features]
    usual = [name for name, each in first if each.finding is DriftFinding.USUAL and each.can_tell]
    spread = verdict.drift.spread
    are = "is" if len(usual) == 1 else "are"
    return f"; {listed(usual)} {are} no further off than usual ({spread.name})" if usual and spread is not None else ""


def only_chance(monitor: Monitor) -> str:
    """That nothing is known of how sound windows differ, and what to do; or nothing."""
    verdict = monitor.verdict
    if verdict is None or verdict.drift.spread is not None or verdict.drift.same:
        return ""
    return (
        "; judged by chance within the window only, and days differ by more: name their column by `windows` of `eval` and profile again, "
        f"or wait for {counted(FEWEST_WINDOWS, 'window')} (this is number {len(monitor.before) + 1})"
    )


def other_season(monitor: Monitor, drift: FeatureDrift) -> str:
    """That a season which no window before has had looks like drift, and what to do then, where it is known when windows are of; or nothing."""
    memory, spread = monitor.memory, None if monitor.verdict is None else monitor.verdict.drift.spread
    if spread is None or drift.verdicts[0].usual is None or memory.earlier is not None or memory.time is None:
        return ""
    return f"; a season that {spread.name} do not hold looks the same: compare with later windows by `reference_windows` then"


def lacking_columns(monitor: Monitor, *, owns: bool = False) -> str:
    """``the column `income` is gone or empty (new: `salary`), so the model's answers here mean nothing (see drift[inputs]): ``, or nothing.

    What follows from it in accuracy, metrics and answers is no news of the model, so each check begins with it, and the report has one card.
    """
    reference, window = monitor.reference, monitor.window
    if reference is None or window is None or not window.profile.n:
        return ""
    before, beside = reference.profile.features, reference.profile.meta.get(ALSO, ())
    empty = [name for name, each in window.profile.features.items() if group_of(name) == "inputs" and each.missing == each.n > 0]
    gone = [name for name in empty if before[name].missing < before[name].n and (owns or name not in beside)]
    if not gone:
        return ""
    encoder = monitor.data.origin.encoder
    new = [name for name in encoder.new_columns if name not in beside]
    instead = f" (new: {listed(new, SHOWN)})" if new else ""
    has = "is gone, or has no number" if any(name in encoder.unread for name in gone) else "is gone or empty"
    what = f"the column {{}} {has}" if len(gone) == 1 else f"the columns {{}} {has.replace('is', 'are').replace('has', 'have')}"
    follows = "" if owns else ", so the model's answers here mean nothing (see drift[inputs])"
    return f"{what.format(listed(gone, SHOWN))}{instead}{follows}: "


def other_model(monitor: Monitor) -> str:
    """That the answers are another model's than those of the reference, with which they are compared; or nothing."""
    if not monitor.has_other_model:
        return ""
    return "the model has other weights than the one that the reference was profiled with (profile again with this one)"


def repeated_rows(monitor: Monitor) -> list[tuple[str, str]]:
    """What is wrong with the rows: repetitions, rows of the reference, and those of another window; a code and a sentence each."""
    reference, window, verdict = monitor.reference, monitor.window, monitor.verdict
    if reference is None or window is None or verdict is None or verdict.drift.same:
        return []
    found = window.hashes.findings(reference.profile.meta[ROWS]) if ROWS in reference.profile.meta else []
    if monitor.sent_before is not None:
        found.append(
            (REPEATED, f"the rows are those of the window of {date_text(monitor.sent_before)}: was an old file sent again?")
        )
    return found


def unread_cells(monitor: Monitor) -> str:
    """``; texts of `income` that are no numbers count as missing, such as '1124,0'``, or nothing."""
    unread = monitor.data.origin.encoder.unread
    examples = "".join(
        f"; texts of `{name}` that are no numbers count as missing, such as {text!r}"
        for name, text in list(unread.items())[:SHOWN]
    )
    return f"{examples}; and of {counted(len(unread) - SHOWN, 'other column')}" if len(unread) > SHOWN else examples


def about_rows(monitor: Monitor, case: str) -> str:
    """Which rows count, or why their order says that they should not all count; or nothing."""
    earlier = monitor.earlier_windows
    before = ""
    if earlier and monitor.memory.earlier is not None:
        before = f"; the reference is {counted(len(earlier), 'earlier window')}{monitor.memory.earlier.said}"
    if case in ("labels", "scores") and monitor.window is not None and (lacking := int(monitor.window.unlabelled.sum())):
        of_all = f"{lacking:,} of {counted(len(monitor.window.unlabelled), 'row')}"
        before += f"; {of_all} have no label yet, and which come first may depend on the class"
    if monitor.groups is not None and (monitor.groups.has_several or monitor.groups.empty):
        return f"; {monitor.groups.said}{before}"
    return f"; {monitor.order.message}{before}" if monitor.order and case == "inputs" else before


def nearest_rows(rows: Sequence[ShiftedRow]) -> str:
    """``; the rows that shifted most are 18, 202 and 33``, or nothing where many rows have shifted as much."""
    numbers = [str(row.index + 1) for row in rows[:SHOWN]]
    if len(numbers) < SHOWN or rows[0].alike > _MOST_ALIKE:
        return ""
    return f"; the rows that shifted most are {', '.join(numbers[:-1])} and {numbers[-1]}"


def lost_in_slices(lost: Sequence[SliceLoss]) -> str:
    """``; in country=fr accuracy has fallen …, and in 2 other slices``, or nothing."""
    more = f", and in {counted(len(lost) - 1, 'other slice')}" if len(lost) > 1 else ""
    return f"; {lost[0].message}{more}" if lost else ""


_FEWEST_WINDOWS = 10


def among_earlier(monitor: Monitor, name: str, aspect: str = "values") -> str:
    """``; as far off in 5 of 90 earlier windows``, which says what nights are like; nothing where there were too few.

    A series is of the values. Of missing ones, say, it is only known whether a window was beyond its limit.
    """
    series = series_of(monitor.history).get(name)
    if series is None or len(series.points) <= _FEWEST_WINDOWS:
        return ""
    if aspect != "values":
        beyond = sum(point.is_outside for point in series.points[:-1])
        return f"; beyond its limit in {beyond:,} of {len(series.points) - 1:,} earlier windows"
    *before, now = (point.value for point in series.points)
    is_accuracy = name == ACCURACY
    alike = sum(value <= now if is_accuracy else value >= now for value in before)
    return f"; {'as low' if is_accuracy else 'as far off'} in {alike:,} of {len(before):,} earlier windows"


def slices_not_compared(monitor: Monitor) -> str:
    """Why parts that the config names are not compared, or nothing."""
    if not monitor.slices or monitor.reference is None or monitor.reference.slices is not None:
        return ""
    return "; parts are not compared, as the reference keeps none: profile it with the same `slices`"


def lasting_series(monitor: Monitor, names: Container[str]) -> list[Series]:
    """The series that were beyond their limit before this window too, and still are; the window is stored with the others."""
    found = [one for name, one in series_of(monitor.history).items() if name in names]
    return [one for one in found if one.lasts > 1][:SHOWN]


def which_model(monitor: Monitor, impact: PerformanceImpact) -> str:
    """Of which model an accuracy is that fell, or was estimated, where it is not that of the reference; or nothing."""
    replaced = other_model(monitor) if impact.status is not Status.OK or not impact.estimate.is_measured else ""
    return f"; {replaced}{'' if impact.estimate.is_measured else ', from which the estimate was learnt'}" if replaced else ""


def why_no_features(monitor: Monitor, case: str) -> str:
    """Why there are no features of a case to compare."""
    assert monitor.reference is not None
    stored = any(group_of(name) == case for name in monitor.reference.profile.features)
    if stored:
        has_estimate = case != "scores" or monitor.task.signature.has_one_answer
        estimate = "" if has_estimate else "; without labels no error is estimated of answers that are numbers, or several a row"
        return f"the data has no labels: nothing to compare the reference's {case} with{estimate}"
    needs = {"labels": "labels", "outputs": "a model's outputs", "scores": "labels and a model's outputs"}
    return f"the reference profile has no {case}: it was made without {needs.get(case, 'them')}"


def why_no_accuracy(monitor: Monitor) -> str:
    """Why accuracy is neither known nor estimated."""
    if not monitor.task.signature.has_one_answer:
        return "accuracy is estimated where a row has one class, and here it has a number or several"
    return "the reference has no accuracy of the model: profile labelled data with the trained model"
