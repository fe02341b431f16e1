"""The verdict: its keys, its words, slices, several scores, several looks, and what is refused."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from gate_scores import compare_scores, losses, right_or_wrong, scores
from numpy.typing import NDArray

from harness.errors import ComparisonError, DataError
from harness.evidence import Evidence, Status
from harness.monitoring.dependence import Groups
from harness.monitoring.gate import AlphaSpending, compare_all_scores
from harness.monitoring.gate.comparison import Comparison, ComparisonFinding
from harness.statistics import holm

Pair = tuple[NDArray[np.float64], NDArray[np.float64]]


def by_right_answers(samples: int, worse: int, better: int, **options: Any) -> Comparison:
    before, after = right_or_wrong(samples, worse, better)
    return compare_scores(scores("correct", before), scores("correct", after), higher_is_better=True, **options)


def by_losses(pair: Pair, **options: Any) -> Comparison:
    return compare_scores(scores("loss", pair[0]), scores("loss", pair[1]), higher_is_better=False, **options)


@pytest.mark.parametrize(
    ("counts", "finding", "status"),
    [
        ((5000, 130, 70), ComparisonFinding.WORSE, Status.FAIL),
        ((50_000, 1050, 950), ComparisonFinding.WORSE_WITHIN_MARGIN, Status.WARN),
        ((200, 5, 3), ComparisonFinding.UNPROVEN, Status.WARN),
        ((200, 4, 4), ComparisonFinding.CANNOT_TELL, Status.OK),
        ((5000, 100, 100), ComparisonFinding.NOT_WORSE, Status.OK),
        ((5000, 70, 130), ComparisonFinding.NOT_WORSE, Status.OK),
        ((200, 0, 0), ComparisonFinding.CANNOT_TELL, Status.OK),
        ((2000, 0, 0), ComparisonFinding.NOT_WORSE, Status.OK),
        ((2, 2, 0), ComparisonFinding.UNPROVEN, Status.WARN),
    ],
)
def test_two_keys_fail_and_one_warns(counts: tuple[int, int, int], finding: ComparisonFinding, status: Status) -> None:
    found = by_right_answers(*counts)
    assert (found.finding, found.status) == (finding, status)


def test_too_few_samples_warn_where_a_power_is_asked_for() -> None:
    found = replace(by_right_answers(200, 4, 4), min_power=0.5)
    assert (found.finding, found.status, found.evidence().code) == (ComparisonFinding.TOO_FEW_ROWS, Status.WARN, "too_few_rows")
    assert replace(by_right_answers(5000, 100, 100), min_power=0.5).finding is ComparisonFinding.NOT_WORSE


def test_the_margin_is_the_users() -> None:
    assert by_right_answers(5000, 130, 70).margin == 0.005
    assert by_right_answers(5000, 130, 70, margin=0.02).finding is ComparisonFinding.WORSE_WITHIN_MARGIN
    before, after = losses(2000)
    assert by_losses((before, after)).margin == pytest.approx(0.02 * before.std())
    assert by_losses((before, after), margin=0.3).margin == 0.3


def test_losses_that_rise_fail_and_errors_that_fall_do_not() -> None:
    before, after = losses(5000, worsening=0.3)
    assert by_losses((before, after)).finding is ComparisonFinding.WORSE
    assert by_losses((after, before)).finding is ComparisonFinding.NOT_WORSE
    assert by_losses((before, after), margin=1.0).finding is ComparisonFinding.WORSE_WITHIN_MARGIN


def test_a_verdict_says_what_it_rests_on() -> None:
    assert by_right_answers(5000, 130, 70).message == (
        "accuracy fell by 1.20 points (allowed 0.5; 90% interval 0.73 to 1.68; p < 0.0001) on 5,000 samples; 0.71 points would be detected"
    )


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        (
            (5000, 125, 75),
            "accuracy fell by 1.00 points (allowed 0.5; 90% interval 0.53 to 1.48; p = 0.00025) on 5,000 samples; ",
        ),
        ((5000, 75, 125), "accuracy rose by 1.00 points (allowed 0.5; 90% interval 0.53 to 1.48; p = 1.00) on 5,000 samples; "),
        ((50_000, 1050, 950), "; it is worse, but by less than is allowed"),
        (
            (200, 5, 3),
            "more than is allowed, but it may be chance: cannot tell: the allowed worsening would be detected in 7% of ",
        ),
        ((200, 4, 4), "accuracy did not change on average (allowed 0.5; 90% interval -3.0 to 3.0; p = 0.64) on 200 samples; "),
        ((200, 4, 4), r"such comparisons; 11,[0-9]{3} samples would detect it in 80%"),
        ((3, 1, 0), "no worsening would be detected"),
    ],
)
def test_the_words(counts: tuple[int, int, int], words: str) -> None:
    message = by_right_answers(*counts).message
    assert words in message or re.search(words, message), message


def test_the_words_of_losses() -> None:
    message = by_losses(losses(5000, worsening=0.3)).message
    assert re.match(
        r"loss per sample rose by 0\.\d\d \(allowed 0\.\d+; 90% interval 0\.\d\d to 0\.\d\d; p < 0\.0001\) on 5,000 samples; ",
        message,
    )
    assert "points" not in message


def test_the_same_losses_are_the_same_model() -> None:
    before, _ = losses(50)
    assert by_losses((before, before)).message == "loss per sample is the same, as is every score, on 50 samples"
    right = scores("correct", before < 1)
    pair = {"loss": scores("loss", before), "correct": right}
    assert compare_all_scores(pair, pair).status is Status.OK
    other = {"loss": scores("loss", before + 1e-3), "correct": right}
    assert compare_all_scores(pair, other)["correct"].finding is ComparisonFinding.CANNOT_TELL


def test_rounding_is_no_worsening() -> None:
    before, _ = losses(3000)
    assert by_losses((before, before * (1 + 1e-7))).finding is ComparisonFinding.NOT_WORSE


def test_the_same_scores_give_the_same_verdict() -> None:
    pair = losses(3000, worsening=0.05)
    assert by_losses(pair) == by_losses(pair)


def test_samples_without_a_label_are_left_out() -> None:
    before, after = right_or_wrong(5000, 130, 70)
    gap = np.full(100, np.nan)
    baseline, candidate = scores("correct", np.r_[gap, before]), scores("correct", np.r_[gap, after])
    classes = np.r_[np.full(100, "none"), np.repeat(["a", "b"], 2500)]
    found = compare_scores(baseline, candidate, higher_is_better=True, slices={"class": classes})
    assert found.samples == 5000
    assert [part.slice for part in found.slices] == ["class=a", "class=b"]
    assert found.p == by_right_answers(5000, 130, 70).p


@pytest.mark.parametrize("is_right_or_wrong", [True, False])
def test_a_slice_that_fails_fails_the_whole_and_is_named(is_right_or_wrong: bool) -> None:
    classes = np.repeat(np.arange(10), 500)
    before, after = losses(5000, worsening=0.0)
    after = np.where(classes == 7, after + 1.5, after)
    if is_right_or_wrong:
        before, after = np.ones(5000), np.ones(5000)
        after[classes == 7] = np.arange(500) % 5 > 0
        before[classes != 7] = np.arange(4500) % 45 > 0
    metric = "correct" if is_right_or_wrong else "loss"
    baseline, candidate = scores(metric, before), scores(metric, after)
    found = compare_scores(baseline, candidate, higher_is_better=is_right_or_wrong, slices={"class": classes})
    failed = [part.slice for part in found.slices if part.status is Status.FAIL]
    assert failed == ["class=7"]
    assert found.status is Status.FAIL
    assert re.search(r"; in class=7 it (fell|rose) by .* \(90% interval .*; adjusted p < 0.0001\) on 500 samples$", found.message)


def test_slices_too_small_to_tell_do_not_warn_for_the_whole() -> None:
    buckets = np.r_[np.repeat(["short", "long"], 2490), np.repeat(["longest"], 20)]
    before, after = right_or_wrong(5000, 100, 100)
    pair = scores("correct", before), scores("correct", after)
    whole = compare_scores(*pair, margin=0.01, higher_is_better=True)
    found = compare_scores(*pair, margin=0.01, higher_is_better=True, slices={"length": buckets, "row": np.arange(5000)})
    assert {part.slice: part.samples for part in found.slices} == {
        "length=long": 2490,
        "length=longest": 20,
        "length=short": 2490,
    }
    assert found.slices_left_out == 5000
    assert {part.finding for part in found.slices} & {ComparisonFinding.CANNOT_TELL, ComparisonFinding.UNPROVEN}
    assert whole.status is found.status is Status.OK


def passages(count: int, questions: int, worse: float, seed: int, better: float = 0.1) -> tuple[Pair, Groups]:
    """Questions on passages, those of a passage right or wrong together."""
    place = np.repeat(np.random.default_rng(seed).random(count), questions)
    pair = (place >= better).astype(float), (place < 1 - worse).astype(float)
    return pair, Groups.of(np.repeat(np.arange(count), questions).tolist(), "passage")


def by_passages(pair: Pair, **options: Any) -> Comparison:
    return compare_scores(scores("correct", pair[0]), scores("correct", pair[1]), higher_is_better=True, **options)


def test_groups_that_move_together_count_once() -> None:
    drawn = [passages(40, 10, 0.1, seed) for seed in range(60)]
    named = [by_passages(pair, groups=groups) for pair, groups in drawn]
    unnamed = [by_passages(pair) for pair, _ in drawn]
    assert sum(found.status is Status.FAIL for found in named) <= 7, "the 99% bound of 60 repeats at 0.05"
    assert sum(found.status is Status.FAIL for found in unnamed) >= 12
    assert all("neighbouring rows resemble each other in `correct`" in found.message for found in unnamed)
    assert all(found.status is not Status.OK for found in unnamed)
    one_each = by_passages((drawn[0][0][0][::10], drawn[0][0][1][::10]))
    assert (named[0].p, named[0].worsening) == (pytest.approx(one_each.p), pytest.approx(one_each.worsening))
    assert (named[0].samples, named[0].groups, named[0].neighbours) == (400, 40, None)
    assert "on 400 samples in 40 groups of `passage`" in named[0].message


def test_samples_that_are_groups_by_themselves_are_compared_as_if_none_were_named() -> None:
    pair, _ = passages(500, 1, 0.2, seed=1)
    groups = Groups.of([*range(499), None], "session")
    assert by_passages(pair, groups=groups) == by_passages(pair)


def test_slices_count_their_groups() -> None:
    pair, groups = passages(60, 10, 0.3, seed=2)
    languages = np.repeat(["en", "de"], [450, 150])
    found = by_passages(pair, groups=groups, slices={"language": languages})
    assert [part.slice for part in found.slices] == ["language=en"], "fifteen passages of the other show nothing"
    assert (found.slices[0].samples, found.slices[0].groups, found.slices_left_out) == (450, 45, 1)


def test_groups_that_leave_nothing_to_compare_are_refused() -> None:
    with pytest.raises(DataError, match="all 20 rows have the same 'day', so nothing says how rows of different groups differ"):
        Groups.of(["monday"] * 20, "day")
    pair, groups = passages(2, 10, 0.3, seed=3)
    half = np.where(np.arange(20) < 10, 1.0, np.nan)
    with pytest.raises(ComparisonError, match="all samples with a label are of one group"):
        by_passages((half * pair[0], half * pair[1]), groups=groups)
    with pytest.raises(ComparisonError, match=r"groups: expected one for each of 19 samples, got shape \[20\]"):
        by_passages((pair[0][:19], pair[1][:19]), groups=groups)


def test_the_worst_of_several_slices() -> None:
    classes = np.repeat(np.arange(4), 500)
    before, after = np.ones(2000), np.ones(2000)
    after[500:540], after[1000:1100] = 0, 0
    found = compare_scores(scores("correct", before), scores("correct", after), higher_is_better=True, slices={"class": classes})
    assert found.worst_slice is not None
    assert found.worst_slice.slice == "class=2"
    assert "; in class=2, the worst of 2 such slices, it fell by 20.0 points" in found.message


def test_several_scores_share_alpha() -> None:
    before, after = right_or_wrong(5000, 120, 85)
    alone = by_right_answers(5000, 120, 85)
    assert alone.finding is ComparisonFinding.WORSE
    baseline = {name: scores(name, before) for name in ("accuracy", "correct")}
    candidate = {name: scores(name, after) for name in ("accuracy", "correct")}
    both = compare_all_scores(baseline, candidate)
    assert both["correct"].p_adjusted == pytest.approx(2 * alone.p)
    assert both["correct"].detectable > alone.detectable  # type: ignore[operator]
    with pytest.raises(KeyError):
        both["loss"]


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03], [1, 1, 1]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.02, 0.02], [0.75, 0.25]) == pytest.approx([0.02 / 0.75, 0.02 / 0.75])
    assert holm([0.9], [1.0]) == [0.9]
    assert holm([0.5, 0.9], [0.5, 0.5]) == [1.0, 1.0]


@pytest.mark.parametrize("expected", [1, 7, 100])
def test_looks_in_a_row_spend_alpha_once_and_the_last_as_much_as_the_first(expected: int) -> None:
    shares = [AlphaSpending(made, expected).share for made in range(1000)]
    assert sum(shares[200 : 200 + expected]) == pytest.approx(1)
    assert len({*shares}) == 1


def test_more_looks_in_a_row_need_more_and_later_ones_as_much() -> None:
    alone, tenth = (by_right_answers(5000, 120, 85, spending=spending) for spending in (None, AlphaSpending(9, 10)))
    assert (alone.finding, tenth.finding) == (ComparisonFinding.WORSE, ComparisonFinding.UNPROVEN)
    assert tenth.p_adjusted == pytest.approx(10 * alone.p)
    assert "for 10 comparisons in a row" in tenth.message
    assert "comparison 10 with this baseline" in tenth.message
    assert by_right_answers(5000, 120, 85, spending=AlphaSpending(199, 10)).power == tenth.power
    with pytest.raises(ValueError, match="at least 0"):
        AlphaSpending(-1)


def test_sixty_equal_candidates_are_failed_at_most_at_alpha() -> None:
    random = np.random.default_rng(0)
    unspent = spent = 0
    for _ in range(25):
        unsure = random.random(400) < 0.2
        baseline = ~unsure | (random.random(400) < 0.5)
        found = []
        for made in range(60):
            candidate = ~unsure | (random.random(400) < 0.5)
            pair = scores("correct", baseline), scores("correct", candidate)
            found.append(compare_scores(*pair, higher_is_better=True, spending=AlphaSpending(made, 60)))
        spent += any(one.status is Status.FAIL for one in found)
        unspent += any(one.p <= 0.05 and one.is_beyond_margin for one in found)
    assert spent <= 4, "the 99% bound of 25 repeats at 0.05"
    assert unspent >= 7


def test_evidence_and_json() -> None:
    classes = {"class": np.repeat([0, 1], 2500)}
    found = by_right_answers(5000, 130, 70, slices=classes)
    evidence = found.evidence()
    assert evidence == Evidence.from_json(json.loads(json.dumps(evidence.to_json(), allow_nan=False)))
    assert (evidence.status, evidence.message, evidence.unit) == (found.status, found.message, "points")
    assert evidence.code == found.finding.code
    assert (evidence.measured, evidence.bound) == (pytest.approx(1.2), 0.5)
    plain = json.loads(json.dumps(by_right_answers(3, 1, 0).to_json(), allow_nan=False))
    assert plain["detectable"] is None
    assert plain["interval"][0] < plain["difference"] < 0
    several = compare_all_scores({"loss": scores("loss", [1.0, 2.0])}, {"loss": scores("loss", [1.5, 2.0])})
    assert several.to_json()["status"] == several.status.value
    assert [one.evidence().name for one in several.metrics] == ["loss_against_baseline"]
    assert several.message == several["loss"].message


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (
            [1, 0],
            [1, 0, 1],
            "the evaluation sets differ: the baseline has scores of 'correct' for 2 samples, the candidate for 3;",
        ),
        ([], [], "no scores of 'correct' are stored"),
        ([1], [1], "scores of 'correct': 1 sample with a label; a comparison needs at least 2"),
        ([1, np.nan], [1, np.nan], "scores of 'correct': 1 sample with a label"),
        ([np.nan] * 3, [np.nan] * 3, "0 samples with a label"),
        (
            [1, 0, 1],
            [1, np.nan, np.nan],
            r"2 samples of 3 have no 'correct' in the candidate, but one in the baseline \(the first is sample 1\)",
        ),
        ([1, 0, np.nan], [1, 0, 0], "1 sample of 3 has no 'correct' in the baseline, but one in the candidate"),
        ([1, 0, 1], [1, 0, np.inf], "1 sample of 3 has an infinite 'correct' in the candidate"),
        ([-np.inf, 0, 1], [1, 0, 1], "1 sample of 3 has an infinite 'correct' in the baseline"),
    ],
)
def test_scores_that_cannot_be_paired(before: list[float], after: list[float], words: str) -> None:
    with pytest.raises(ComparisonError, match=words) as refusal:
        compare_scores(scores("correct", before), scores("correct", after), higher_is_better=True)
    assert "\n" not in str(refusal.value)


def test_other_samples_are_refused() -> None:
    with pytest.raises(
        ComparisonError, match=r"the evaluation sets differ: the baseline's 'loss' was scored on 'a', the candidate's on 'b'"
    ):
        compare_scores(scores("loss", [1, 2], "a"), scores("loss", [1, 2], "b"), higher_is_better=False)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"margin": 0.0}, "the margin of 'correct' is how much worse is allowed, a number above 0, not 0.0"),
        ({"margin": -0.1}, "a number above 0"),
        ({"margin": float("nan")}, "a number above 0"),
        ({"alpha": 0.0}, "`alpha` is the probability of a false alarm"),
        ({"alpha": 5}, "`alpha` is the probability of a false alarm"),
        ({"slices": {"class": np.zeros(99)}}, r"slices of 'class': expected a label for each of 100 samples, got shape \[99\]"),
    ],
)
def test_arguments_that_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ComparisonError, match=words):
        by_right_answers(100, 3, 2, **options)


def test_no_margin_follows_from_scores_all_alike() -> None:
    flat = np.full(50, 2.0)
    with pytest.raises(ComparisonError, match="the baseline's 'loss' is the same everywhere, so no margin follows from it"):
        by_losses((flat, flat + 0.1))
    assert by_losses((flat, flat + 0.1), margin=0.05).finding is ComparisonFinding.WORSE


def test_names_of_scores() -> None:
    pair = {"lss": scores("lss", [1.0, 2.0])}
    with pytest.raises(ComparisonError, match=r"is a greater 'lss' better\? Did you mean 'loss'\?"):
        compare_all_scores(pair, pair)
    assert compare_all_scores(pair, pair, higher_is_better={"lss": False}).status is Status.OK
    with pytest.raises(ComparisonError, match="a margin is given for 'los', which is not compared: lss"):
        compare_all_scores(pair, pair, higher_is_better={"lss": False}, margins={"los": 1.0})
    with pytest.raises(ComparisonError, match="the scores have other names: the baseline's lss; the candidate's loss"):
        compare_all_scores(pair, {"loss": scores("loss", [1.0, 2.0])})
    with pytest.raises(ComparisonError, match="no score to compare by"):
        compare_all_scores({}, {})
