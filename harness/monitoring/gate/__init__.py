"""Per-sample scores of two runs compared, the share of alpha that each comparison spends, and comparisons with a stored baseline."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from harness.errors import ComparisonError
from harness.experiments import ExperimentDB, RunRef, Scores
from harness.experiments.run_parts import read_comparisons, read_scored_metrics, write_comparison
from harness.monitoring import COMPARISONS
from harness.monitoring.dependence import Groups, OrderDependence, order_dependence
from harness.monitoring.gate.comparison import Comparison, Comparisons
from harness.monitoring.gate.paired_tests import Measurement, measure
from harness.monitoring.gate.pairs import Pairs, ScoreKind, Sliced, SliceLabels, direction_of, kind_of
from harness.statistics import holm

if TYPE_CHECKING:
    from sqlalchemy import Connection


@dataclass(frozen=True)
class AlphaSpending:
    """How many comparisons with a baseline share alpha.

    Each of them may spend ``alpha / expected``, so that of any ``expected`` comparisons in a row one that fails a candidate that is not worse
    is among them with a probability of at most alpha. The bound is a sum of probabilities (Bonferroni) and so holds although all comparisons
    use the same samples and the same baseline, and whatever the earlier ones found.

    The level does not fall with the number of comparisons. One error rate for all comparisons ever made (alpha spending: Lan and DeMets,
    Biometrika 70, 1983; alpha investing: Foster and Stine, JRSS B 70, 2008) needs levels that add up to alpha, and leaves the two hundredth
    comparison an eighth of its power. E-values cannot help: a comparison on the same samples is no new evidence about them, which a product
    of e-values would count it as. A rate by stretches of time is what forgets old decisions (Ramdas et al., "Online control of the false
    discovery rate with decaying memory", NeurIPS 2017).

    Attributes:
        made: Comparisons before this one.
        expected: How many comparisons in a row share alpha.
    """

    made: int = 0
    expected: int = 1

    def __post_init__(self) -> None:
        if self.made < 0 or self.expected < 1:
            raise ComparisonError(f"`made` is at least 0 and `expected` at least 1, got {self.made} and {self.expected}")

    @classmethod
    def of_stored(cls, marks: Sequence[Mapping[str, Any]], scores: str, expected: int) -> AlphaSpending:
        """The next comparison with a baseline; scores that were compared before keep their number.

        Args:
            marks: What ``mark`` gave of the earlier comparisons with the baseline, oldest first.
            scores: A hash of the candidate's scores.
            expected: How many comparisons share alpha, if this is the first that says so.
        """
        if not marks:
            return cls(0, expected)
        same = [mark["look"] for mark in marks if mark["scores"] == scores]
        agreed = next((mark[_AGREED] for mark in marks if _AGREED in mark), expected)
        return cls(same[0] - 1 if same else max(mark["look"] for mark in marks), agreed)

    def mark(self, scores: str) -> dict[str, Any]:
        """What is stored with a comparison, so that later ones can be counted."""
        return {"look": self.number, _AGREED: self.expected, "scores": scores}

    @property
    def number(self) -> int:
        """The number of this comparison, from 1."""
        return self.made + 1

    @property
    def share(self) -> float:
        """The share of alpha that this comparison may spend."""
        return 1 / self.expected


_AGREED = "comparisons_in_a_row"

_SLICES_SHARE = 0.5


def compare_all_scores(
    baseline: Mapping[str, Scores],
    candidate: Mapping[str, Scores],
    *,
    margins: Mapping[str, float] | None = None,
    alpha: float = 0.05,
    higher_is_better: Mapping[str, bool] | None = None,
    slices: SliceLabels | None = None,
    groups: Groups | None = None,
    spending: AlphaSpending | None = None,
) -> Comparisons:
    """Compares a candidate with a baseline by several scores, of which any may fail it; alpha is for all of them together.

    Args:
        baseline: The baseline's scores by name.
        candidate: The candidate's, under the same names.
        margins: How much worse is allowed, by name.
        alpha: The probability of failing a candidate that is not worse by any score.
        higher_is_better: What a greater score means, of names the project does not know.
        slices: A label a sample, ``[N]``, under the name of what is labelled; each part is compared as well. The whole keeps half of alpha.
        groups: Which samples belong together, such as questions on one passage; ``None`` where samples are independent.
        spending: How often the baseline was compared with before; by default this is the only time.

    Raises:
        ComparisonError: The scores cannot be paired, or an argument is impossible.
    """
    if set(baseline) != set(candidate):
        raise ComparisonError(
            f"the scores have other names: the baseline's {', '.join(baseline)}; the candidate's {', '.join(candidate)}"
        )
    return Family.of(_paired(baseline, candidate, higher_is_better, groups), margins or {}, alpha, slices or {}, groups).judged(
        spending
    )


def _paired(
    baseline: Mapping[str, Scores],
    candidate: Mapping[str, Scores],
    higher_is_better: Mapping[str, bool] | None,
    groups: Groups | None,
) -> dict[str, Pairs]:
    codes = None if groups is None else groups.codes
    return {
        name: Pairs.of(baseline[name], scores, direction_of(name, higher_is_better or {}), codes)
        for name, scores in candidate.items()
    }


@dataclass(frozen=True)
class _Member:
    """A score, measured on all samples and on slices; with the number of samples by slice, and what their order says."""

    metric: str
    kind: ScoreKind
    margin: float
    whole: Measurement
    is_right_or_wrong: bool
    parts: dict[str, Measurement]
    left_out: int
    samples: dict[str, int]
    neighbours: OrderDependence | None

    @property
    def tests(self) -> list[Measurement]:
        return [self.whole, *self.parts.values()]

    @property
    def weights(self) -> list[float]:
        """Shares of the score's part of alpha: the slices together get half of it."""
        if not self.parts:
            return [1.0]
        return [1 - _SLICES_SHARE, *[_SLICES_SHARE / len(self.parts)] * len(self.parts)]


@dataclass(frozen=True)
class Family:
    """Everything that is tested of one candidate, measured but not yet judged."""

    members: tuple[_Member, ...]
    alpha: float
    group: str = ""

    @classmethod
    def of(
        cls,
        pairs: Mapping[str, Pairs],
        margins: Mapping[str, float],
        alpha: float,
        slices: SliceLabels,
        groups: Groups | None = None,
    ) -> Family:
        """Measures pairs by the names of their scores.

        Raises:
            ComparisonError: An argument is impossible.
        """
        if not 0 < alpha < 0.5:
            raise ComparisonError(f"`alpha` is the probability of a false alarm, above 0 and below 0.5, not {alpha}")
        if not pairs:
            raise ComparisonError("there is no score to compare by")
        unknown = [name for name in margins if name not in pairs]
        if unknown:
            raise ComparisonError(f"a margin is given for {unknown[0]!r}, which is not compared: {', '.join(pairs)}")
        members = tuple(_measured(name, paired, margins.get(name), alpha, slices) for name, paired in pairs.items())
        return cls(members, alpha, groups.name if groups is not None and groups.has_several else "")

    def judged(self, spending: AlphaSpending | None, min_power: float | None = None) -> Comparisons:
        """The verdicts, each at the level that Holm's correction and the alpha spending leave it.

        Args:
            spending: Comparisons before this one.
            min_power: The power below which too few samples warn.
        """
        weights = [weight / len(self.members) for member in self.members for weight in member.weights]
        p_values = [test.p for member in self.members for test in member.tests]
        adjusted = [min(1.0, p / _share(spending)) for p in holm(p_values, weights)]
        given = iter(zip(adjusted, weights, strict=True))
        judged = (self._judge(member, list(islice(given, len(member.tests))), spending) for member in self.members)
        return Comparisons(tuple(replace(one, min_power=min_power) for one in judged))

    def _judge(self, member: _Member, given: list[tuple[float, float]], spending: AlphaSpending | None) -> Comparison:
        names = ["", *member.parts]
        whole, *parts = (
            self._comparison(member, name, test, p, weight, spending)
            for name, test, (p, weight) in zip(names, member.tests, given, strict=True)
        )
        return replace(whole, slices=tuple(parts), slices_left_out=member.left_out)

    def _comparison(
        self, member: _Member, name: str, test: Measurement, p: float, weight: float, spending: AlphaSpending | None
    ) -> Comparison:
        level = self.alpha * _share(spending) * weight
        low, high = test.interval
        better_up = member.kind.higher_is_better
        return Comparison(
            metric=member.metric,
            slice=name,
            samples=member.samples[name],
            groups=test.precision.samples if self.group else 0,
            group=self.group,
            neighbours=None if name or member.neighbours is None else member.neighbours.likeness,
            baseline=test.baseline,
            candidate=test.candidate,
            difference=-test.worsening if better_up else test.worsening,
            interval=(-high, -low) if better_up else (low, high),
            p=test.p,
            p_adjusted=p,
            margin=member.margin,
            margin_p=test.margin_p,
            power=test.precision.power(member.margin, level),
            detectable=test.precision.detectable(level),
            needed=test.precision.needed(member.margin, level),
            alpha=self.alpha,
            look=spending.number if spending else 1,
            in_a_row=spending.expected if spending else 1,
            higher_is_better=better_up,
            label=member.kind.label,
            is_share=member.kind.is_share,
            is_same=self._is_same,
        )

    @property
    def _is_same(self) -> bool:
        """Equal answers may be chance where they are right or wrong; losses equal to the last bit are the same model's."""
        all_equal = all(member.whole.identical for member in self.members)
        return all_equal and not all(member.is_right_or_wrong for member in self.members)


def _measured(metric: str, pairs: Pairs, given: float | None, alpha: float, labels: SliceLabels) -> _Member:
    kind = kind_of(metric, pairs)
    margin = kind.default_margin(metric, pairs) if given is None else given
    if not (math.isfinite(margin) and margin > 0):
        raise ComparisonError(f"the margin of {metric!r} is how much worse is allowed, a number above 0, not {margin}")
    sliced = Sliced.of(pairs, labels)
    parts = {name: measure(part, margin, alpha) for name, part in sliced.parts.items()}
    samples = {"": len(pairs), **{name: len(part) for name, part in sliced.parts.items()}}
    neighbours = order_dependence({metric: pairs.worsening}) if pairs.groups is None else None
    whole = measure(pairs, margin, alpha)
    return _Member(metric, kind, margin, whole, pairs.is_right_or_wrong, parts, sliced.left_out, samples, neighbours)


def _share(spending: AlphaSpending | None) -> float:
    return spending.share if spending else 1.0


_KEY = "gate"


@dataclass(frozen=True, kw_only=True)
class GateOptions:
    """What a candidate must hold to.

    Attributes:
        margins: How much worse is allowed, by name and in the scores' own units; by default half a point of ``accuracy`` and
            ``correct``, a fiftieth of the standard deviation of the baseline's scores for others.
        alpha: The probability of failing a candidate that is not worse.
        higher_is_better: What a greater score means, for names the project does not know.
        expected_comparisons: How many comparisons in a row share alpha, such as those of a year; what the first comparison says applies to all.
        min_power: The power at the margin below which too few samples are a warning; ``None`` for no warning.
    """

    margins: Mapping[str, float] = field(default_factory=dict)
    alpha: float = 0.05
    higher_is_better: Mapping[str, bool] = field(default_factory=dict)
    expected_comparisons: int = COMPARISONS
    min_power: float | None = None


def compare_with_baseline(
    db: ExperimentDB,
    candidate: RunRef,
    baseline: RunRef,
    metrics: Sequence[str] | None = None,
    options: GateOptions | None = None,
    *,
    slices: SliceLabels | None = None,
    groups: Groups | None = None,
) -> Comparisons:
    """Compares the stored scores of two runs, and stores the result with both.

    Each comparison with a baseline spends a part of alpha (``AlphaSpending``), so that of ``expected_comparisons`` in a row any fails by mistake
    with a probability of at most alpha. The same scores compared again, as when a job is repeated, count as the same comparison. Another
    baseline starts from the beginning.

    Args:
        db: Where both runs are.
        candidate: The run to judge.
        baseline: The run to compare it with, such as ``"production"``.
        metrics: Names of per-sample scores; by default all that both runs have.
        options: What the candidate must hold to.
        slices: A label a sample, ``[N]``, under the name of what is labelled.
        groups: Which samples belong together; ``None`` where samples are independent.

    Raises:
        UnknownRunError: A run does not exist.
        ExperimentError: A run has no scores of a metric, or the database cannot be read or written.
        ComparisonError: The scores cannot be paired, or an argument is impossible.
    """
    options = options or GateOptions()
    ids = db.resolve(baseline), db.resolve(candidate)
    if ids[0] == ids[1]:
        raise ComparisonError(f"run {ids[0]} ({db.get_run(ids[0]).name}) cannot be its own baseline: name two runs")
    chosen = tuple(metrics) if metrics is not None else _common_metrics(db, *ids)
    before, after = ({name: db.get_scores(run, name) for name in chosen} for run in ids)
    pairs = _paired(before, after, options.higher_is_better, groups)
    family = Family.of(pairs, options.margins, options.alpha, slices or {}, groups)
    return _judged_and_stored(db, ids, family, _digest(after.values()), options)


def _common_metrics(db: ExperimentDB, baseline: int, candidate: int) -> tuple[str, ...]:
    with db.store.reading() as connection:
        before, after = (read_scored_metrics(connection, run) for run in (baseline, candidate))
    common = tuple(name for name in before if name in after)
    if not common:
        have = "; ".join(f"run {run} has {', '.join(names) or 'none'}" for run, names in ((baseline, before), (candidate, after)))
        raise ComparisonError(f"the runs have no per-sample scores in common ({have}): evaluate both on one set")
    return common


def _judged_and_stored(db: ExperimentDB, ids: tuple[int, int], family: Family, scores: str, options: GateOptions) -> Comparisons:
    """Judges while no other comparison runs, so that no two take the same number."""
    with db.store.exclusive() as connection:
        spending = AlphaSpending.of_stored(_marks(connection, ids[0]), scores, options.expected_comparisons)
        judged = family.judged(spending, options.min_power)
        for comparison in judged.metrics:
            write_comparison(connection, *ids, comparison.metric, {**comparison.to_json(), _KEY: spending.mark(scores)})
    return judged


def _marks(connection: Connection, baseline: int) -> list[dict[str, Any]]:
    """The marks of the earlier comparisons with a baseline."""
    return [
        record.result[_KEY]
        for record in read_comparisons(connection, baseline)
        if record.baseline_id == baseline and isinstance(record.result, dict) and _KEY in record.result
    ]


def _digest(scores: Iterable[Scores]) -> str:
    content = hashlib.sha256()
    for one in sorted(scores, key=lambda one: one.metric):
        content.update(f"{one.metric}\0{one.dataset}\0{one.values.dtype.str}\0{one.values.size}\0".encode())
        content.update(one.values.tobytes())
    return content.hexdigest()
