"""Tier 5: what must hold of a model and its data as time goes by."""

from __future__ import annotations

from harness.errors import TimeBudgetError, UserError
from harness.evidence import Evidence, Status
from harness.monitoring.checks import judge_monitoring
from harness.monitoring.monitor import Monitor
from pytest_modeltiers.judge import Judge


class MonitoringTier:
    """Each method states one property of a model that still does its work."""

    def test_evaluation(self, monitor: Monitor, judge: Judge) -> None:
        """The metrics on the evaluation data are finite and within the config's thresholds."""
        _judge(judge, monitor)

    def test_baseline_regression(self, monitor: Monitor, judge: Judge) -> None:
        """The model is not worse than its baseline on the same samples."""
        _judge(judge, monitor)

    def test_drift(self, monitor: Monitor, judge: Judge, case: str) -> None:
        """The data is distributed as the reference profile's."""
        _judge(judge, monitor, case)

    def test_harm(self, monitor: Monitor, judge: Judge) -> None:
        """The model is as often right as on the reference, as far as labels or its confidence tell."""
        _judge(judge, monitor)


def _judge(judge: Judge, monitor: Monitor, case: str = "") -> None:
    judge.finds(lambda: _found(judge.name, monitor, case))


def _found(name: str, monitor: Monitor, case: str) -> Evidence:
    """What a check found; what keeps it from looking, such as a run that does not exist, is a red line and no traceback."""
    try:
        return judge_monitoring(name, monitor, case)
    except TimeBudgetError:
        raise
    except UserError as error:
        return Evidence(name, Status.FAIL, str(error))
