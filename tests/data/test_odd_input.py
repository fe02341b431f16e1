"""Odd and damaged weights, configs and data are read, or refused in one line; ``benchmarks/odd_input.py`` does the same at length."""

from __future__ import annotations

import runpy
import warnings
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from harness.errors import WeightsError

BENCHMARK = Path(__file__).parent.parent.parent / "benchmarks" / "odd_input.py"


@pytest.fixture(scope="module")
def odd() -> Iterator[dict[str, Any]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield runpy.run_path(str(BENCHMARK))


READS = {"weights": "read_weights", "configs": "read_config", "data": "read_data"}


@pytest.mark.parametrize(("kind", "count"), [("weights", 0), ("configs", 150), ("data", 60)])
def test_odd_files_are_read_or_refused_in_one_line(odd: dict[str, Any], kind: str, count: int, tmp_path: Path) -> None:
    files = odd[f"odd_{kind}"](tmp_path, *((count, Random(5)) if count else ()))
    found = {name: odd["judged"](odd[READS[kind]], path) for name, path in files}
    assert {name: one for name, one in found.items() if one not in ("read", "refused")} == {}
    assert len(found) >= max(count, 30)


def test_what_is_odd_about_weights_is_said(odd: dict[str, Any], tmp_path: Path) -> None:
    said = {}
    for name, path in odd["odd_weights"](tmp_path):
        if name not in ("integers", "booleans"):  # which are taken as the numbers they are
            with pytest.raises(WeightsError) as caught:
                odd["read_weights"](path)
            said[name] = str(caught.value)
    assert "weight is sparse, write it with to_dense()" in said["a sparse tensor"]
    assert "weight is without values, it was saved from the meta device" in said["a meta tensor"]
    assert "weight is quantised, write it with dequantize()" in said["a quantised tensor"]
    assert "weight is complex, the model's is real" in said["a complex tensor"]
    assert "weight is nested" in said["a nested tensor"]
    assert "names are text, got int 1" in said["keys that are numbers"]
    assert "weight\\x1b[31m" in said["keys with control characters"]
