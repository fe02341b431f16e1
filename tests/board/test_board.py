"""The data of the board of packages is whole; the board itself needs the packages, and runs elsewhere."""

from __future__ import annotations

import ast
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from harness.config import load_config

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from packages.entries import ENTRIES  # noqa: E402
from packages.run import in_turns  # noqa: E402
from packages.table import write_results  # noqa: E402

REVIEWS = json.loads((BENCHMARKS / "packages" / "reviews.json").read_text(encoding="utf-8"))
RESULTS = json.loads((BENCHMARKS / "packages" / "results.json").read_text(encoding="utf-8"))


def test_there_are_120_classes_of_20_packages_each_under_a_name_of_its_own() -> None:
    assert not [key for key, count in Counter(entry.key for entry in ENTRIES).items() if count > 1]
    assert len(ENTRIES) >= 120
    assert len({entry.package for entry in ENTRIES}) >= 20


def test_every_entry_is_python_and_fits_a_task_or_says_what_it_waits_for(tmp_path: Path) -> None:
    for entry in ENTRIES:
        ast.parse(entry.model_file)
        assert bool(entry.task) != bool(entry.waits), entry.key
    tasks = {json.dumps(dict(entry.task), sort_keys=True) for entry in ENTRIES if entry.task}
    (tmp_path / "model.py").write_text("def build_model(): ...\n", encoding="utf-8")
    for number, task in enumerate(sorted(tasks)):
        config = tmp_path / f"{number}.json"
        config.write_text(json.dumps({"model_file": "model.py", **json.loads(task)}), encoding="utf-8")
        load_config(config)


def test_a_run_that_is_stopped_has_seen_every_package() -> None:
    packages = {entry.package for entry in ENTRIES}
    assert {entry.package for entry in list(in_turns(ENTRIES))[: len(packages)]} == packages


def test_every_review_is_of_a_red_line_or_a_warning_that_the_results_have() -> None:
    found = {(row["key"], line["test"]) for row in RESULTS for line in (*row["red"], *row["amber"])}
    reviewed = {(key, test): review for key, tests in REVIEWS.items() for test, review in tests.items()}

    assert set(reviewed) <= found
    assert all(review["verdict"] in ("true", "ours") and len(review["why"]) > 20 for review in reviewed.values())


@pytest.mark.parametrize(
    ("review", "status"), [({}, 1), ({"verdict": "ours", "why": "w"}, 1), ({"verdict": "true", "why": "w"}, 0)]
)
def test_a_red_line_that_is_ours_or_not_reviewed_fails_the_board(
    review: dict[str, str], status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = next(entry for entry in ENTRIES if entry.task)
    found: dict[str, Any] = {
        "key": entry.key,
        "model": entry.model_file,
        "task": dict(entry.task),
        "budget": 20,
        "init": {"config": dict(entry.task)},
        "summary": {"passed": 3, "warnings": 0, "failed": 1},
        "skipped": {"tier3::resume": "the time budget of 20 s is spent"},
        "checks": [{"test": "tier1::causal", "status": "failed", "message": "it leaks | much"}],
    }
    (tmp_path / f"{entry.key}.json").write_text(json.dumps(found), encoding="utf-8")
    (tmp_path / "reviews.json").write_text(json.dumps({entry.key: {"tier1::causal": review}} if review else {}), encoding="utf-8")
    monkeypatch.setattr("packages.table._HERE", tmp_path)

    assert write_results(tmp_path) == status

    table = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert f"| {entry.package} | {entry.name} | 3 | 0 | 1 | 1 (1) | right |" in table
    assert f"| it leaks \\| much | {review.get('verdict', 'not reviewed')} |" in table


def test_a_result_of_an_entry_that_was_changed_counts_for_nothing_and_init_can_be_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = next(entry for entry in ENTRIES if entry.task)
    found: dict[str, Any] = {
        "model": entry.model_file,
        "task": dict(entry.task),
        "budget": 20,
        "init": {"config": None},
        "summary": {"passed": 3, "warnings": 0, "failed": 0},
        "skipped": {},
        "checks": [],
    }
    (tmp_path / "init").mkdir()
    (tmp_path / "reviews.json").write_text("{}", encoding="utf-8")
    monkeypatch.setattr("packages.table._HERE", tmp_path)

    def rows(result: dict[str, Any], init: dict[str, Any]) -> list[dict[str, Any]]:
        (tmp_path / f"{entry.key}.json").write_text(json.dumps(result), encoding="utf-8")
        (tmp_path / "init" / f"{entry.key}.json").write_text(json.dumps(init), encoding="utf-8")
        (tmp_path / "results.json").unlink(missing_ok=True)
        write_results(tmp_path)
        return json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]

    assert rows({**found, "model": "another"}, {}) == []
    assert [row["init"] for row in rows(found, {**found, "model": "another"})] == ["refused"]
    assert [row["init"] for row in rows(found, {**found, "init": {"config": dict(entry.task)}})] == ["right"]

    (tmp_path / "init" / f"{entry.key}.json").unlink()
    recorded = [{"key": entry.key, "package": "p", "name": "n", "init": "red (tier1::causal)", "fingerprint": entry.fingerprint}]
    (tmp_path / "results.json").write_text(json.dumps(recorded), encoding="utf-8")
    (tmp_path / f"{entry.key}.json").write_text(json.dumps({**found, "init": {"config": dict(entry.task)}}), encoding="utf-8")
    write_results(tmp_path)
    (row,) = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert (row["init"], row["passed"]) == ("red (tier1::causal)", 3), "what only a run of init tells stays"
