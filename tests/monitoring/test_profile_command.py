"""Profiles in the database, and ``modeltiers profile``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import save_file

from harness.cli import main
from harness.config import load_config
from harness.errors import ProfileError, ProfileVersionError, UserError
from harness.experiments import ExperimentDB, ExperimentError, UnknownRunError, log_profile_to_db
from harness.models.stubs import build_stub
from harness.monitoring.profile_command import profile_config
from harness.monitoring.profiles import Profile, load_profile, profile_columns

PROFILE = profile_columns({"x": np.arange(500.0) % 37, "k": np.array(list("abcde") * 100)})


def config_of(folder: Path, **keys: object) -> Path:
    content = {"task_name": "cls_tiny", "vocab_size": 120, "max_seq_len": 16, "num_classes": 4, "pad_token_id": 0, **keys}
    (folder / "cls.json").write_text(json.dumps(content), encoding="utf-8")
    return folder / "cls.json"


@pytest.fixture
def db(tmp_path: Path) -> ExperimentDB:
    return ExperimentDB(tmp_path / "experiments.db")


def test_a_profile_comes_back_by_id_and_by_name(db: ExperimentDB) -> None:
    with db.start_run("trained") as run:
        assert log_profile_to_db(db, run.id, PROFILE) == run.id
    db.set_name("production", run.id)
    for reference in (run.id, "production", "trained"):
        assert load_profile(db, reference) == PROFILE


@pytest.mark.parametrize("form", [lambda profile: profile, Profile.to_json, Profile.to_bytes])
def test_a_profile_is_taken_in_each_of_its_forms(db: ExperimentDB, form: Any) -> None:
    with db.start_run("trained") as run:
        log_profile_to_db(db, run.id, form(PROFILE))
    assert load_profile(db, run.id) == PROFILE


@pytest.mark.parametrize("wrong", [{"mean": 1}, b"\x00\xff", [1.0, 2.0], None])
def test_what_is_no_profile_is_refused_when_it_is_logged(db: ExperimentDB, wrong: Any) -> None:
    with db.start_run("trained") as run, pytest.raises(UserError, match="expected a profile") as refused:
        log_profile_to_db(db, run.id, wrong)
    assert "\n" not in str(refused.value)


def test_a_newer_profile_takes_the_place_of_an_older_one(db: ExperimentDB) -> None:
    with db.start_run("trained") as run:
        log_profile_to_db(db, run.id, PROFILE.emptied())
        log_profile_to_db(db, run.id, PROFILE)
        log_profile_to_db(db, run.id, PROFILE.only(["x"]), name="inputs")
    assert load_profile(db, run.id) == PROFILE
    assert list(load_profile(db, run.id, "inputs").features) == ["x"]


def test_what_is_not_there_or_no_profile_is_said(db: ExperimentDB) -> None:
    with db.start_run("trained") as run:
        db.log_profile(run.id, {"mean": 3}, "foreign")
        db.log_profile(run.id, b"MTPROF\xff\x00" + bytes(20), "newer")
    with pytest.raises(UnknownRunError, match="Did you mean 'trained'"):
        load_profile(db, "trainde")
    with pytest.raises(ExperimentError, match="has no profile 'reference'; it has foreign, newer"):
        load_profile(db, run.id)
    with pytest.raises(ProfileError, match="not a profile"):
        load_profile(db, run.id, "foreign")
    with pytest.raises(ProfileVersionError, match="of version 255"):
        load_profile(db, run.id, "newer")


def test_the_command_profiles_the_evaluation_data_and_stores_it(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    answer = profile_config(load_config(config_of(tmp_path)), path, name="production")
    json.dumps(answer.data, allow_nan=False)
    assert (answer.data["status"], answer.data["rows"], answer.data["name"]) == ("ok", 100, "production")
    assert answer.data["data"]["part"] == "validation"
    assert "FEATURE" in answer.text
    assert '"reference_profile_id": "production"' in answer.text
    with ExperimentDB(path) as db:
        stored = load_profile(db, "production")
        assert db.resolve("production") == answer.data["reference_profile_id"]
    assert [row["feature"] for row in answer.data["features"]] == list(stored.features)
    assert not any(name.startswith("output.") for name in stored.features)


def test_the_command_profiles_the_outputs_of_a_trained_model(tmp_path: Path) -> None:
    config = load_config(config_of(tmp_path, weights="weights.safetensors"))
    save_file(build_stub(config.task_spec()).state_dict(), tmp_path / "weights.safetensors")
    answer = profile_config(config, part="train")
    found = {row["feature"]: row for row in answer.data["features"]}
    assert answer.data["rows"] == 800
    assert answer.data["reference_profile_id"] is None
    assert found["output.class"]["kind"] == "categorical"
    assert found["output.embedding"]["summary"] == "64 numbers along 8 random directions"
    assert "%" in found["label"]["summary"]


def test_the_command_stores_with_a_run_that_is_there(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    with ExperimentDB(path) as db, db.start_run("trained") as run:
        pass
    config = load_config(config_of(tmp_path))
    assert profile_config(config, path, run="trained").data["reference_profile_id"] == run.id


def test_a_name_is_stored_in_the_configs_own_database(tmp_path: Path) -> None:
    config = load_config(config_of(tmp_path, db_path="own.db"))
    assert profile_config(config).data["reference_profile_id"] is None
    profile_config(config, name="production")
    with ExperimentDB(tmp_path / "own.db") as db:
        assert load_profile(db, "production").n == 100


@pytest.mark.parametrize("words", [("--name", "production"), ("--run", "trained", "--part", "train")])
def test_the_command_line(tmp_path: Path, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with ExperimentDB(tmp_path / "experiments.db") as db, db.start_run("trained"):
        pass
    assert main(["profile", "--config", str(config_of(tmp_path)), *words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["reference_profile_id"] in (1, 2)


def test_summaries_say_what_values_are_like() -> None:
    from harness.monitoring.profile_command import summary_rows

    columns = {
        "x": np.arange(1000.0),
        "one": np.full(1000, 2.5),
        "none": np.full(1000, np.nan),
        "k": np.array(list("aabcd") * 200),
    }
    reference = profile_columns(columns)
    said = {row["feature"]: row["summary"] for row in summary_rows(reference)}
    assert said["one"] == "median 2.5"
    assert said["none"] == "no finite value"
    assert said["k"] == "a 40.0%, b 20.0%, c 20.0%, 20.0% others"
    assert said["x"].startswith("median 49")
    window = profile_columns({**columns, "k": np.array(["z"] * 1000), "none": np.ones(1000)}, reference)
    said = {row["feature"]: row["summary"] for row in summary_rows(window)}
    assert said["k"].endswith("100.0% never seen before")
    assert said["none"] == "not binned: its reference has no finite value"
    assert {row["summary"] for row in summary_rows(Profile.emptied(reference))} == {"no finite value", "no value"}
