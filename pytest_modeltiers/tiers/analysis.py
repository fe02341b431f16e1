"""Tier 2: what must hold of a model that is looked into."""

from __future__ import annotations

import pytest

from harness.analysis.study import Study
from harness.analysis.table import find_analysis
from pytest_modeltiers.judge import Judge


class AnalysisTier:
    """Each method states one property of the inside of a sound model."""

    def test_attention_patterns(self, study: Study, judge: Judge, case: str) -> None:
        """Attention weights are what their mask and their softmax promise, head by head."""
        _judge(judge, study, case)

    def test_attribution(self, study: Study, judge: Judge) -> None:
        """The gradients of the output are the output's: integrated, they add up to its change."""
        _judge(judge, study)

    def test_robustness(self, study: Study, judge: Judge, case: str) -> None:
        """The output changes with its input by as much as it should."""
        _judge(judge, study, case)

    def test_dead_units(self, study: Study, judge: Judge, case: str) -> None:
        """Every unit answers to its input."""
        _judge(judge, study, case)

    def test_representation_rank(self, study: Study, judge: Judge) -> None:
        """Hidden states and logits tell inputs apart."""
        _judge(judge, study)

    def test_half_precision(self, study: Study, judge: Judge, case: str) -> None:
        """In half precision the logits are the same within its rounding."""
        _judge(judge, study, case)

    def test_attention_kernels(self, study: Study, judge: Judge) -> None:
        """Every way to compute attention gives the same logits."""
        _judge(judge, study)

    @pytest.mark.slow
    def test_compiled(self, study: Study, judge: Judge) -> None:
        """torch.compile gives the same logits and gradients."""
        _judge(judge, study)

    def test_gradcheck(self, study: Study, judge: Judge) -> None:
        """Gradients are the slopes of the output."""
        _judge(judge, study)

    def test_calibration(self, study: Study, judge: Judge) -> None:
        """The confidence of a trained model says how often it is right."""
        _judge(judge, study)


def _judge(judge: Judge, study: Study, case: str = "") -> None:
    judge.finds(lambda: find_analysis(judge.name, study, case))
