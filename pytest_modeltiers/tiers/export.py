"""Tier 4: what must hold of the files a model is exported to."""

from __future__ import annotations

from harness.export.checks.table import find_format, find_model
from harness.export.exports import Exports
from pytest_modeltiers.judge import Judge


class ExportTier:
    """Each method states one property of a model that is ready to ship, or of one of its exported files."""

    def test_architecture_validation(self, exports: Exports, judge: Judge) -> None:
        """The model has modules and a forward, all of them in eval mode."""
        _judge_model(judge, exports)

    def test_parameter_validation(self, exports: Exports, judge: Judge) -> None:
        """No parameter or buffer holds NaN or infinity."""
        _judge_model(judge, exports)

    def test_shape_validation(self, exports: Exports, judge: Judge) -> None:
        """Logits have the promised shape at several batch sizes."""
        _judge_model(judge, exports)

    def test_memory_requirements(self, exports: Exports, judge: Judge) -> None:
        """Parameters and one call fit into a gigabyte."""
        _judge_model(judge, exports)

    def test_forward_pass_validation(self, exports: Exports, judge: Judge) -> None:
        """Forward gives finite logits at several batch sizes."""
        _judge_model(judge, exports)

    def test_exports(self, exports: Exports, judge: Judge, case: str) -> None:
        """The model exports, and the file is the one that was exported."""
        _judge_file(judge, exports, case)

    def test_validation(self, exports: Exports, judge: Judge, case: str) -> None:
        """The file is whole, well formed, of the opset asked for, and gives finite logits."""
        _judge_file(judge, exports, case)

    def test_fresh_process(self, exports: Exports, judge: Judge, case: str) -> None:
        """A process that never saw the exporter loads the file and gets the same logits."""
        _judge_file(judge, exports, case)

    def test_numerical_consistency(self, exports: Exports, judge: Judge, case: str) -> None:
        """The file gives the model's logits at shapes its exporter never saw."""
        _judge_file(judge, exports, case)

    def test_dynamic_axes(self, exports: Exports, judge: Judge, case: str) -> None:
        """Every axis declared free takes every size it was declared for."""
        _judge_file(judge, exports, case)

    def test_inference_mode(self, exports: Exports, judge: Judge, case: str) -> None:
        """No active Dropout and no norm over the batch is left in the file."""
        _judge_file(judge, exports, case)

    def test_invalid_input(self, exports: Exports, judge: Judge, case: str) -> None:
        """The file refuses what the model refuses."""
        _judge_file(judge, exports, case)

    def test_quantisation(self, exports: Exports, judge: Judge, case: str) -> None:
        """The quantised file keeps the model's answers and is no slower."""
        _judge_file(judge, exports, case)

    def test_performance_benchmark(self, exports: Exports, judge: Judge, case: str) -> None:
        """The file is no slower than the model itself."""
        _judge_file(judge, exports, case)


def _judge_model(judge: Judge, exports: Exports) -> None:
    judge.finds(lambda: find_model(judge.name, exports))


def _judge_file(judge: Judge, exports: Exports, format: str) -> None:
    judge.finds(lambda: find_format(judge.name, exports, format))
