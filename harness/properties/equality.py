"""The verdict on two logits that should be equal, and on many of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from torch import Tensor, nn

from harness.evidence import Evidence, Status
from harness.properties.noise import FACTOR, difference
from harness.properties.quantised import dynamically_quantised_part
from harness.properties.subject import Subject

_COMPARES_CALLS = ("batch_independence", "causal", "padding_ignored", "eval_deterministic", "memory_layout")
"""Properties that compare calls of one model, which earlier calls may disturb."""

Result = TypeVar("Result")

Comparison = Callable[[nn.Module], "tuple[Tensor, Tensor]"]
"""From a model to two tensors that should be equal."""


def judge_equal(
    subject: Subject,
    name: str,
    compare: Comparison,
    wrong: str | Callable[[], str],
    counterexample: str,
    cause: str | Callable[[], str],
    investigate: Callable[[nn.Module], str] | None = None,
    bound: float | None = None,
    code: str = "differs",
) -> Evidence:
    """Holds two results of a model to the bound derived from its noise.

    A difference above the bound must also survive in float64, where the model runs there: rounding shrinks by nine orders of
    magnitude, a real dependence stays as large as it was.

    Args:
        subject: The model.
        name: The property.
        compare: Computes the two results.
        wrong: What is wrong with the model when they differ.
        counterexample: The inputs, for people.
        cause: What usually causes it.
        investigate: Finds the module to blame, given the model on which to look.
        bound: Bound on the difference; by default the subject's for this property.
        code: What kind of finding a difference is.
    """
    left, right = compare(subject.model)
    measured = difference(left, right)
    bound = subject.bound(name) if bound is None else subject.task.tolerances.get(name, bound)
    facts: dict[str, Any] = {"name": name, "measured": measured, "bound": bound, "counterexample": counterexample}
    if measured <= bound:
        return Evidence(status=Status.OK, message="equal within rounding", **facts)
    double = subject.double if name not in subject.task.tolerances else None
    if double is not None:
        confirmed = difference(*compare(double))
        if confirmed < measured / FACTOR:
            return Evidence(
                status=Status.OK,
                message="equal within rounding (the difference vanishes in float64)",
                details={"float64_difference": confirmed},
                **facts,
            )
    if part := dynamically_quantised_part(subject.model):
        told = wrong if isinstance(wrong, str) else wrong()
        return Evidence(
            status=Status.WARN,
            message=f"{told}; `{part}` quantises its inputs by the range of the whole batch, so some of that is by design",
            module=part,
            cause="dynamic quantisation; judge the model before it is quantised, and the quantised one by its answers",
            code="quantised_by_batch",
            **facts,
        )
    if name in _COMPARES_CALLS and _is_state(subject, compare, bound):
        told = wrong if isinstance(wrong, str) else wrong()
        return Evidence(
            status=Status.WARN,
            message=f"{told}, but not on fresh copies of the model: an earlier call leaves state behind (see stateless)",
            cause="a hidden state, key/value cache, mask or counter kept on the module between calls",
            code="depends_on_earlier_calls",
            **facts,
        )
    judge = double if double is not None else subject.model
    return Evidence(
        status=Status.FAIL,
        message=wrong if isinstance(wrong, str) else wrong(),
        cause=cause if isinstance(cause, str) else cause(),
        investigate=None if investigate is None else lambda: investigate(judge),
        code=code,
        **facts,
    )


def judge_rows(
    subject: Subject, name: str, pairs: Sequence[tuple[Tensor, Tensor]], by_itself: Callable[[int], Evidence], counterexample: str
) -> Evidence:
    """Judges questions that the rows of shared calls answered; one whose answer is wrong is asked again, in calls of its own.

    So many questions cost two calls, and a row that reads other rows makes none of them fail.

    Args:
        subject: The model.
        name: The property.
        pairs: For each question the two parts of results that should be equal.
        by_itself: Judges one question, by its number, with calls that ask nothing else.
        counterexample: The inputs of all, for people.
    """
    gaps, bound = [difference(*pair) for pair in pairs], subject.bound(name)
    doubtful = [number for number, gap in enumerate(gaps) if not gap <= bound]
    if doubtful:
        return first_failure(map(by_itself, doubtful))
    return Evidence(name, Status.OK, "equal within rounding", max(gaps), bound, counterexample=counterexample)


def _is_state(subject: Subject, compare: Comparison, bound: float) -> bool:
    """Whether two results agree as soon as each call is made on a copy of its own, so that only ``stateless`` is violated."""
    with subject.isolating():
        return difference(*compare(subject.model)) <= bound


def first_failure(findings: Iterable[Evidence]) -> Evidence:
    """The first failure, or where nothing fails the finding that came closest to one."""
    closest: Evidence | None = None
    for evidence in findings:
        if evidence.status is Status.FAIL:
            return evidence
        if closest is None or evidence.excess > closest.excess:
            closest = evidence
    if closest is None:
        raise ValueError("nothing was compared")
    return closest


def remembered(subject: Subject, run: Callable[[nn.Module], Result]) -> Callable[[nn.Module], Result]:
    """Runs once for each model, and once more on a copy without a past where calls are isolated."""
    results: dict[tuple[nn.Module, bool], Result] = {}

    def once(model: nn.Module) -> Result:
        key = (model, subject.isolated)
        if key not in results:
            results[key] = run(model)
        return results[key]

    return once
