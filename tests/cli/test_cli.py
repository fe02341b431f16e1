"""The command line, as a user or a script meets it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness.catalogue import CATALOGUE
from harness.cli import main

ROOT = Path(__file__).parent.parent.parent


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "harness", *arguments], capture_output=True, text=True, check=False, cwd=ROOT)


def test_tiers_prints_one_json_object_and_nothing_else(tmp_path: Path) -> None:
    config = tmp_path / "cfg.json"
    config.write_text(json.dumps({"task_name": "vision_tiny", "tier": "1"}))
    done = command("tiers", "--config", str(config), "--json")
    answer = json.loads(done.stdout)
    assert done.returncode == 0
    assert answer["status"] == "ok"
    assert answer["tiers"]["1"]["status"] == "ok"
    assert answer["tiers"]["1"]["tests"]["shape_contract"]["status"] == "ok"
    assert answer["tiers"]["1"]["tests"]["serialisation[tied_weights]"] == {"status": "skipped", "message": "no weights are tied"}
    assert answer["health_score"] == 100.0


def test_tiers_exits_with_1_when_a_property_fails(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(
        "from harness.models.stubs import SimpleCNN\n"
        "class Mixing(SimpleCNN):\n"
        "    def forward(self, pixel_values):\n"
        "        return super().forward(pixel_values - pixel_values.mean(0, keepdim=True))\n"
        "def build_model():\n"
        "    return Mixing(3, 4)\n"
    )
    config = tmp_path / "cfg.json"
    config.write_text(json.dumps({"task_name": "vision_tiny", "model_file": "model.py", "tier": "1"}))
    done = command("tiers", "--config", str(config), "--json")
    answer = json.loads(done.stdout)
    assert done.returncode == 1
    assert answer["status"] == answer["tiers"]["1"]["status"] == "fail"
    assert "other rows" in answer["tiers"]["1"]["tests"]["batch_independence[forward]"]["message"]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (None, "no such config file"),
        ({"task_name": "lm_tinny"}, "Did you mean 'lm_tiny'?"),
        ({"task_name": "lm_tiny", "model_file": "gone.py"}, "no such file"),
        (
            {
                "task_name": "lm_tiny",
                "tier": "5",
                "properties": dict.fromkeys(("evaluation", "baseline_regression", "drift"), False),
            },
            "of tier 5, every property is switched off",
        ),
    ],
)
def test_wrong_input_exits_with_2_and_one_clear_message(config: dict[str, object] | None, words: str, tmp_path: Path) -> None:
    file = tmp_path / "cfg.json"
    if config is not None:
        file.write_text(json.dumps(config))
    done = command("tiers", "--config", str(file), "--json")
    assert done.returncode == 2
    assert words in json.loads(done.stdout)["error"]
    assert json.loads(done.stdout)["code"] == "config"
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_schema_is_json_that_knows_the_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert {"task_name", "model_file", "eval", "export", "db_path"} <= set(schema["properties"])


def test_a_reader_that_has_seen_enough_gets_no_traceback() -> None:
    piped = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m harness schema | head -c 10"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert piped.stdout.startswith("{")
    assert "Traceback" not in piped.stderr
    assert "BrokenPipe" not in piped.stderr


def test_tiers_names_no_file_that_is_gone(tmp_path: Path) -> None:
    config = tmp_path / "cfg.json"
    off = {name: False for name in CATALOGUE if name != "registration"}
    config.write_text(json.dumps({"task_name": "vision_tiny", "tier": "1", "properties": off}))
    said = {}
    for given in ([], ["--report", str(tmp_path / "out")]):
        said[bool(given)] = command("tiers", "--config", str(config), *given).stdout

    assert "report:" not in said[False]
    named = Path(said[True].rpartition("report: ")[2].split()[0])
    assert named.is_file()
