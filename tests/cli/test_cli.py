"""The command line, as a user or a script meets it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.catalogue import CATALOGUE
from harness.cli import main

ROOT = Path(__file__).parent.parent.parent


NETWORK = ("socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request")

NOTES_THE_NETWORK = f"""\
import sys
def hook(event, arguments):
    if event in {NETWORK}:
        sys.stderr.write(f"network: {{event}} {{arguments}}\\n")
sys.addaudithook(hook)
"""


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "harness", *arguments]
    return subprocess.run(line, capture_output=True, text=True, check=False, cwd=ROOT, env={**os.environ, **environment})


def test_tiers_prints_one_json_object_and_nothing_else_and_sends_nothing(tmp_path: Path) -> None:
    config = tmp_path / "cfg.json"
    config.write_text(json.dumps({"task_name": "vision_tiny", "tier": "1"}))
    (tmp_path / "sitecustomize.py").write_text(NOTES_THE_NETWORK)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = command("tiers", "--config", str(config), "--json", PYTHONPATH=path)
    assert "network: " not in done.stderr
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


def test_alone_it_says_what_one_can_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0

    said = capsys.readouterr().out
    assert "modeltiers check model.py" in said
    assert "\n  train " in said


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["trian"], "no command 'trian'. Did you mean 'train'?"),
        (["xyzzy"], "no command 'xyzzy'. `modeltiers` lists what there is"),
        ([__file__], f"Did you mean `modeltiers check {__file__}`?"),
        (["tiers", "--config", "x.toml", "--reprot", "out"], "no option --reprot. Did you mean '--report'?"),
        (["tiers"], "which config? `modeltiers tiers --config modeltiers.toml`"),
    ],
)
def test_a_mistyped_command_line_is_told_in_one_line_with_what_is_near(
    given: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(given)

    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert words in said
    assert len(said.splitlines()) == 1


def test_check_refuses_what_is_no_model_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "modle"]) == 2
    assert "no such file modle; expected a .py file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        (["net.py"], ["--model", "net.py"]),
        (["net.py", "-k", "causal", "--hints", "0"], ["--model", "net.py", "-k", "causal", "--model-hints=0.0"]),
        (["pkg.mod:Net", "--tier", "1", "--tier", "3"], ["--model", "pkg.mod:Net", "-m", "tier1 or tier3"]),
        (["lm.toml", "--report", "out", "-n", "2"], ["--model-config", "lm.toml", "--model-report", "out", "-n", "2"]),
        (["folder"], ["--model-config", "folder/modeltiers.toml"]),
    ],
)
def test_check_asks_pytest(given: list[str], asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "modeltiers.toml").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        subprocess, "run", lambda command, **_: commands.append(command) or subprocess.CompletedProcess(command, 1)
    )

    assert main(["check", *given]) == 1
    assert commands[0][3:] == [*asked, "--modeltiers-command", f"modeltiers check {given[0]}"]


def test_bash_completes_commands_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    if shutil.which("bash") is None:
        pytest.skip("no bash here")
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    typed = "COMP_WORDS=(modeltiers tr) COMP_CWORD=1; _modeltiers; echo ${COMPREPLY[@]}\n"
    typed += "COMP_WORDS=(modeltiers check --re) COMP_CWORD=2; _modeltiers; echo ${COMPREPLY[@]}\n"
    typed += "COMP_WORDS=(modeltiers bundle ver) COMP_CWORD=2; _modeltiers; echo ${COMPREPLY[@]}\n"
    typed += "COMP_WORDS=(modeltiers bundle verify some --t) COMP_CWORD=4; _modeltiers; echo ${COMPREPLY[@]}"

    done = subprocess.run(["bash", "-c", f"{script}\n{typed}"], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["train", "--report", "verify", "--trust"]


@pytest.mark.parametrize(
    ("shell", "words"), [("zsh", "compinit && compinit"), ("fish", "from check' -l report"), ("fish", "from bundle' -a verify")]
)
def test_other_shells_have_scripts_of_their_own(shell: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert words in capsys.readouterr().out


@pytest.mark.parametrize(("given", "expected"), [(None, "1"), ("0", "0")])
def test_onnx_runtime_is_told_to_send_nothing(given: str | None, expected: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    code = "import harness, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    own = {} if given is None else {"ORT_DISABLE_TELEMETRY": given}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**environment, **own}, cwd=ROOT
    )
    assert done.stdout.strip() == expected


@pytest.mark.long
def test_no_command_uses_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model.py").write_text("from harness.models.stubs import SimpleCNN\n\ndef build_model():\n    return SimpleCNN(3, 4)\n")
    rows = {"dataset_id": "lm_tiny_v1", "max_eval_examples": 4}
    config = {
        "task_name": "lm_tiny",
        "epochs": 1,
        "batch_size": 4,
        "train": rows,
        "eval": rows,
        "export": {"formats": ["pytorch"]},
    }
    Path("cfg.json").write_text(json.dumps(config))
    seen: list[str] = []

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in NETWORK and is_watching:
            seen.append(f"{event} {arguments}")

    is_watching = True
    sys.addaudithook(hook)  # for good, so it is told when to stop
    try:
        for line in (
            ("doctor",),
            ("init", "model.py", "--no-run"),
            ("explain", "cfg.json"),
            ("plan", "cfg.json"),
            ("train", "--config", "cfg.json"),
            ("export", "--config", "cfg.json", "--output", "out"),
        ):
            status = main([*line])
            assert status == 0, (line, capsys.readouterr())
    finally:
        is_watching = False
    assert seen == []
