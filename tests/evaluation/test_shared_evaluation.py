"""Processes that share the rows find what one process finds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sharing
from sharing import CASES, WORLD, as_json, evaluated


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    sharing.write_texts(folder)
    return folder


@pytest.fixture(scope="module")
def found(folder: Path) -> list[dict[str, Any]]:
    """What each rank found."""
    command = [sys.executable, str(Path(sharing.__file__))]
    ranks = [subprocess.Popen([*command, str(rank), str(folder)], stderr=subprocess.PIPE, text=True) for rank in range(WORLD)]
    try:
        for rank in ranks:
            _, errors = rank.communicate(timeout=180)
            assert rank.returncode == 0, errors
    finally:
        for rank in ranks:
            rank.kill()
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(WORLD)]


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one["examples"] == other["examples"]
    assert list(one["summary"]) == list(other["summary"])
    assert one["summary"] == pytest.approx(other["summary"], abs=1e-6, rel=1e-6)
    assert one["scores"].keys() == other["scores"].keys()
    for name, scores in one["scores"].items():
        assert scores == pytest.approx(other["scores"][name], abs=1e-6, rel=1e-6), name


@pytest.mark.parametrize("name", CASES)
def test_every_rank_finds_what_one_process_finds(found: list[dict[str, Any]], name: str) -> None:
    alone = as_json(evaluated(name))
    assert alone["examples"] == CASES[name]["rows"]
    for rank in found:
        assert_same(rank[name], alone)


def test_a_stream_is_shared_too(found: list[dict[str, Any]], folder: Path) -> None:
    alone = as_json(sharing.streamed(folder))
    assert alone["examples"] == 11
    for rank in found:
        assert_same(rank["stream"], alone)


def test_the_ranks_find_the_same_to_the_bit(found: list[dict[str, Any]]) -> None:
    assert all(found[0][name] == found[1][name] for name in (*CASES, "numbers"))


def test_scores_would_tell_if_their_order_were_another() -> None:
    """Or else equal scores say nothing of their order."""
    losses = as_json(evaluated("texts"))["scores"]["loss"]
    assert len({round(loss, 4) for loss in losses}) > 5
    assert "roc_auc" in evaluated("texts").summary


def test_spread_is_pooled_and_not_cancelled(found: list[dict[str, Any]]) -> None:
    assert_same(found[0]["numbers"], as_json(sharing.numbers()))
    assert 0.3 < found[0]["numbers"]["summary"]["r2"] < 0.9


def test_a_bad_label_of_one_rank_is_named_by_all(found: list[dict[str, Any]]) -> None:
    message = "the evaluation data, row 2: label 99 is out of range: the ids go from 0 to 3, and -100 is left out"
    other, own = (rank["failure"] for rank in found)
    assert (other[0], own[0]) == (f"rank 1: {message}", message)
    assert other[1] == own[1] == 2, "forwards may wait for each other, so each rank does all of its own"


def test_a_row_without_a_label_is_left_out_on_any_rank(found: list[dict[str, Any]]) -> None:
    assert [rank["no labels"] for rank in found] == [[["", 2]] * 7] * WORLD


def test_a_model_that_raises_on_one_rank_ends_it_on_all(found: list[dict[str, Any]]) -> None:
    other, own = (rank["forward failure"] for rank in found)
    assert own.startswith("own: ZeroDivisionError: oops (sharing.py, line ")
    assert other == f"other: rank 1: {own.removeprefix('own: ')}"


def test_a_rank_may_evaluate_all_rows_for_itself(found: list[dict[str, Any]]) -> None:
    """The other rank takes no part in it; had it been waited for, there would be no result."""
    assert_same(found[0]["alone"], as_json(evaluated("texts")))
    assert np.isfinite(list(found[0]["alone"]["summary"].values())).all()
