"""A run compared with the run that serves as its baseline, and the comparison remembered."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.experiments import ExperimentDB, RunRef, Scores
from harness.experiments.run_groups import read_comparisons, write_comparison
from harness.experiments.run_parts import read_scored_metrics
from harness.monitoring.errors import ComparisonError
from harness.monitoring.gate.alpha_spending import AlphaSpending
from harness.monitoring.gate.compare import Family
from harness.monitoring.gate.comparison import Comparisons
from harness.monitoring.gate.pairs import Pairs
from harness.monitoring.gate.score_kinds import direction_of
from harness.monitoring.gate.slices import SliceLabels

if TYPE_CHECKING:
    from sqlalchemy import Connection

_KEY = "gate"


def compare_with_baseline(
    db: ExperimentDB,
    candidate: RunRef,
    baseline: RunRef,
    metrics: Sequence[str] | None = None,
    margins: Mapping[str, float] | None = None,
    *,
    alpha: float = 0.05,
    higher_is_better: Mapping[str, bool] | None = None,
    slices: SliceLabels | None = None,
    expected_comparisons: int = 1,
) -> Comparisons:
    """Compares the stored scores of two runs, and stores the result with both.

    Each comparison with a baseline spends some of alpha (``AlphaSpending``), so that all candidates ever compared with it together are failed
    by mistake with a probability of at most alpha. The same scores compared again, as when a job is repeated, count as the same comparison.
    Another baseline starts from the beginning.

    Args:
        db: Where both runs are.
        candidate: The run to judge.
        baseline: The run to compare it with, such as ``"production"``.
        metrics: Names of per-sample scores; by default all that both runs have.
        margins: How much worse is allowed, by name and in the scores' own units; by default half a point of ``accuracy`` and
            ``correct``, a fiftieth of the standard deviation of the baseline's scores for others.
        alpha: The probability of failing a candidate that is not worse.
        higher_is_better: What a greater score means, for names the project does not know.
        slices: A label a sample, ``[N]``, under the name of what is labelled.
        expected_comparisons: About how many candidates will be compared with this baseline; what the first comparison says applies to all.

    Raises:
        UnknownRunError: A run does not exist.
        ExperimentError: A run has no scores of a metric, or the database cannot be read or written.
        ComparisonError: The scores cannot be paired, or an argument is impossible.
    """
    ids = db.resolve(baseline), db.resolve(candidate)
    if ids[0] == ids[1]:
        raise ComparisonError(f"run {ids[0]} ({db.get_run(ids[0]).name}) cannot be its own baseline: name two runs")
    chosen = tuple(metrics) if metrics is not None else _common_metrics(db, *ids)
    before, after = ({name: db.get_scores(run, name) for name in chosen} for run in ids)
    pairs = {name: Pairs.of(before[name], after[name], direction_of(name, higher_is_better or {})) for name in chosen}
    family = Family.of(pairs, margins or {}, alpha, slices or {})
    return _judged_and_stored(db, ids, family, _digest(after.values()), expected_comparisons)


def _common_metrics(db: ExperimentDB, baseline: int, candidate: int) -> tuple[str, ...]:
    with db.store.reading() as connection:
        before, after = (read_scored_metrics(connection, run) for run in (baseline, candidate))
    common = tuple(name for name in before if name in after)
    if not common:
        have = "; ".join(f"run {run} has {', '.join(names) or 'none'}" for run, names in ((baseline, before), (candidate, after)))
        raise ComparisonError(f"the runs have no per-sample scores in common ({have}): evaluate both on one set")
    return common


def _judged_and_stored(db: ExperimentDB, ids: tuple[int, int], family: Family, scores: str, expected: int) -> Comparisons:
    """Judges while no other comparison runs, so that no two take the same number."""
    with db.store.alone() as connection:
        spending = AlphaSpending.of_stored(_marks(connection, ids[0]), scores, expected)
        judged = family.judged(spending)
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
