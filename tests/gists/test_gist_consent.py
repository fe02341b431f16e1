"""Whose code runs: what the scan passes, and what the user trusts to the byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from gist_server import MODEL, REVISION, GistServer

from harness.cli import main
from harness.config import load_config
from harness.errors import ConfigError
from harness.experiments import ExperimentDB
from harness.gists import GistError, GistSettings, UntrustedCodeError
from harness.gists.cache import open_gist
from harness.models.loading import load_gist_model, model_source

pytestmark = pytest.mark.usefixtures("environment")

ID = "abc123"
HOSTILE = "import os\nos.system('touch MARK')\n" + MODEL


@pytest.fixture
def hostile(tmp_path: Path) -> str:
    return HOSTILE.replace("MARK", str(tmp_path / "mark"))


@pytest.fixture
def source(tmp_path: Path) -> Any:
    """The model source of a config with these keys."""

    def find(**keys: Any) -> Any:
        file = tmp_path / "cfg.json"
        file.write_text(json.dumps({"task_name": "lm_tiny", "vocab_size": 32, "max_seq_len": 8, "gist_id": ID} | keys))
        return model_source(load_config(file))

    return find


def test_a_sound_gist_is_built_and_noted(server: GistServer, tmp_path: Path) -> None:
    server.publish(ID, {"model.py": MODEL})
    shown: list[str] = []
    with ExperimentDB(tmp_path / "runs.db") as db, db.start_run("gist") as run:
        model = load_gist_model(ID, model_kwargs={"vocab": 7}, run=run, show=shown.append)
        facts = db.get_run(run.id).facts
    assert model(torch.zeros(1, 3, dtype=torch.int64)).shape == (1, 3, 7)
    assert facts == {"gist_id": ID, "revision": REVISION, "sha256": open_gist(ID, REVISION).sha256}
    assert all(part in shown[0] for part in ("by ada", REVISION, facts["sha256"], "model.py"))


def test_findings_keep_it_from_running_until_these_very_files_are_trusted(
    server: GistServer, tmp_path: Path, hostile: str
) -> None:
    server.publish(ID, {"model.py": hostile})
    with pytest.raises(UntrustedCodeError, match=r"model\.py, line 2: os\.system starts or stops a process.*--trust"):
        load_gist_model(ID, show=None)
    assert not (tmp_path / "mark").exists()
    load_gist_model(ID, show=None, trust=True)
    assert (tmp_path / "mark").exists()
    load_gist_model(ID, show=None)  # remembered
    server.publish(ID, {"model.py": hostile + "\n"}, revision="b" * 40)
    with pytest.raises(UntrustedCodeError):
        load_gist_model(ID, show=None)


def test_every_file_is_scanned_not_the_model_alone(server: GistServer) -> None:
    server.publish(ID, {"model.py": "import layers\n" + MODEL, "layers.py": "import socket"})
    with pytest.raises(UntrustedCodeError, match=r"layers\.py, line 1"):
        load_gist_model(ID, show=None)


def test_trust_in_one_hash_is_not_given_to_another(server: GistServer, tmp_path: Path, hostile: str) -> None:
    server.publish(ID, {"model.py": hostile})
    with pytest.raises(GistError, match="not those that were pinned"):
        load_gist_model(ID, sha256="0" * 64, trust=True, show=None)
    assert not (tmp_path / "mark").exists()
    with pytest.raises(UntrustedCodeError):
        load_gist_model(ID, show=None)


@pytest.mark.parametrize("content", ["", "[]", '{"trusted": []}', "{}"])
def test_a_damaged_file_of_consent_is_no_consent(server: GistServer, settings: GistSettings, hostile: str, content: str) -> None:
    server.publish(ID, {"model.py": hostile})
    settings.consent.parent.mkdir(parents=True)
    settings.consent.write_text(content)
    with pytest.raises(GistError, match="correct or delete it"):
        load_gist_model(ID, show=None)


def test_a_config_names_a_gist(server: GistServer, source: Any) -> None:
    server.publish(ID, {"model.py": MODEL})
    found = source(gist_revision=REVISION)
    assert found.origin == f"gist {ID}@{REVISION[:12]} model.py:build_model"
    assert found.facts["gist_id"] == ID
    assert found.build()(torch.zeros(1, 3, dtype=torch.int64)).shape == (1, 3, 32)


def test_a_pin_in_the_config_is_enforced(server: GistServer, source: Any) -> None:
    server.publish(ID, {"model.py": MODEL})
    sha256 = open_gist(ID).sha256
    assert source(gist_sha256=sha256).facts["sha256"] == sha256
    server.publish(ID, {"model.py": MODEL + "\n"}, revision="b" * 40)
    with pytest.raises(GistError, match=f"`gist_sha256` is {sha256}"):
        source(gist_sha256=sha256)


def test_a_pin_is_no_trust(server: GistServer, source: Any, hostile: str) -> None:
    """A config may come from where the gist came from."""
    server.publish(ID, {"model.py": hostile})
    with pytest.raises(UntrustedCodeError):
        source(gist_sha256=open_gist(ID).sha256)


def test_weights_may_lie_in_the_gist(server: GistServer, source: Any) -> None:
    from safetensors.torch import save

    state = {"embed.weight": torch.ones(32, 8), "head.weight": torch.ones(32, 8), "head.bias": torch.zeros(32)}
    # The API's JSON cannot hold them, so that the raw address is asked.
    weights = save(state).decode("latin-1")
    server.publish(
        ID, {"model.py": MODEL, "w.safetensors": server.file(ID, "w.safetensors", weights, "latin-1")}, revision="c" * 40
    )
    model = source(weights="w.safetensors").build()
    assert torch.equal(model.head.weight, torch.ones(32, 8))


@pytest.mark.parametrize("key", ["gist_revision", "gist_sha256"])
def test_a_pin_without_a_gist_is_refused(tmp_path: Path, key: str) -> None:
    file = tmp_path / "cfg.json"
    file.write_text(json.dumps({"task_name": "lm_tiny", key: "a" * 64}))
    with pytest.raises(ConfigError, match=f"`{key}` needs `gist_id`"):
        load_config(file)


def test_the_command_shows_a_gist_and_what_was_found(
    server: GistServer, hostile: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    server.publish(ID, {"model.py": hostile})
    assert main(["gist", ID]) == 1
    shown = capsys.readouterr().out
    assert all(part in shown for part in ("by ada", REVISION, "model.py, line 2: os.system", "--trust", '"gist_sha256"'))
    assert main(["gist", ID, "--json"]) == 1
    data = json.loads(capsys.readouterr().out)
    assert (data["status"], data["trusted"], data["findings"][0]["rule"]) == ("fail", False, "process")
    assert main(["gist", ID, "--revision", REVISION, "--trust"]) == 0
    assert "trusted: its code will be run" in capsys.readouterr().out
    assert main(["gist", ID, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["trusted"] is True
    assert not (tmp_path / "mark").exists()


def test_the_command_says_what_is_wrong_in_one_line(server: GistServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gist", "nothere"]) == 2
    assert capsys.readouterr().err == "modeltiers: gist nothere: no such gist or revision, or this token may not read it\n"


def test_a_file_of_the_users_own_is_run_with_a_warning(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("import subprocess\n" + MODEL)
    (tmp_path / "cfg.json").write_text(json.dumps({"task_name": "lm_tiny", "model_file": "own.py"}))
    with pytest.warns(UserWarning, match=r"`model_file`: own\.py, line 1: the module subprocess starts or stops a process"):
        model_source(load_config(tmp_path / "cfg.json"))
