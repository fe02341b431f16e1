"""An export that the time budget cuts short is cut short, and not remembered as what its exporter says of it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from planted_bugs.tier4.exports import make_exports
from planted_bugs.tier4.models import Scores

from harness.export.exports import Exports
from harness.export.formats.onnx import ONNXExporter
from harness.runtime import processor_seconds
from pytest_modeltiers.time_budget import Budget, CutShortError, time_limit

BROKEN = "AST constructor recursion depth mismatch"


def interrupt_once(monkeypatch: pytest.MonkeyPatch, *ways: str) -> None:
    """Makes ways to write an ONNX file compute until the alarm comes, which they turn into an error of Python's parser; later calls work."""
    for way in ways:
        rightly, calls = getattr(ONNXExporter, way), []

        def interrupted(*arguments: Any, rightly: Any = rightly, calls: list[int] = calls, **options: Any) -> Any:
            calls.append(1)
            if len(calls) > 1:
                return rightly(*arguments, **options)
            began = processor_seconds()
            try:
                while processor_seconds() < began + 60:
                    time.perf_counter()
            except BaseException:
                raise SystemError(BROKEN) from None

        monkeypatch.setattr(ONNXExporter, way, interrupted)


def exports_of_scores(folder: Path) -> Exports:
    """Exports of a model, with what an export imports and the model's identity known: the alarm comes while the file is made."""
    make_exports(Scores(), folder / "first").artifact("onnx")
    exports = make_exports(Scores(), folder)
    assert exports.identity
    return exports


def cut_short(exports: Exports) -> None:
    budget = Budget(100)
    with budget.counting(), pytest.raises(CutShortError, match="cut short"), time_limit(budget, 2):
        exports.artifact("onnx")


def test_a_way_that_was_cut_short_is_not_the_one_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exports = exports_of_scores(tmp_path)
    interrupt_once(monkeypatch, "_from_graph")
    cut_short(exports)

    manifest = exports.artifact("onnx").manifest  # as a later test finds it, in this process or by the cache
    assert manifest is not None
    assert BROKEN not in str(manifest)


def test_an_export_that_was_cut_short_has_not_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exports = exports_of_scores(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(ONNXExporter, "_check", lambda *_: (_ for _ in ()).throw(SystemError(BROKEN)))
        interrupt_once(patched, "_from_graph")
        cut_short(exports)

    assert exports.artifact("onnx").ours


def test_an_error_of_the_exporter_is_remembered_where_nothing_was_cut_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exports, budget = exports_of_scores(tmp_path), Budget(100)
    calls: list[int] = []

    def refuses(*_: object) -> None:
        calls.append(1)
        raise SystemError(BROKEN)

    monkeypatch.setattr(ONNXExporter, "_export", refuses)
    for _ in range(2):
        with budget.counting(), pytest.raises(Exception, match=BROKEN), time_limit(budget):
            exports.artifact("onnx")
    assert calls == [1]
