"""``modeltiers compare``: two reports, two commits; what is none of them is refused in one line."""

from __future__ import annotations

import json
import subprocess
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest

from harness.catalogue import CATALOGUE
from harness.cli import main
from harness.health import ExportHealthReport
from harness.health.checks import CheckResult, CheckStatus

MODEL = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.read, self.say = nn.Embedding(11, 8), nn.Linear(8, 11)

    def forward(self, input_ids):
        return self.say(self.read(input_ids).cumsum(1))

def build_model():
    return Net()
"""


def written(folder: Path, status: CheckStatus) -> Path:
    folder.mkdir()
    report = ExportHealthReport("net", checks=[CheckResult("tier1::causal", status, "leaks", {"tier": 1})])
    return report.save_json(folder / "health_report.json")


def test_two_reports_by_folder_or_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sound, broken = written(tmp_path / "a", "passed"), written(tmp_path / "b", "failed")

    assert main(["compare", str(sound.parent), str(broken)]) == 1
    assert "New (1)\n  ✕ tier1::causal (passed → failed): leaks" in capsys.readouterr().out
    assert main(["compare", str(broken), str(sound), "--json", "--html", str(tmp_path / "page.html")]) == 0
    assert json.loads(capsys.readouterr().out)["headline"].startswith("Better: 1 gone")
    assert "<h1>net</h1>" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize("encoding", ["cp1252", "cp437", "ascii"])
def test_a_console_without_every_sign_shows_plain_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    sound, broken = written(tmp_path / "a", "passed"), written(tmp_path / "b", "failed")
    console = TextIOWrapper(BytesIO(), encoding=encoding)
    monkeypatch.setattr("sys.stdout", console)

    assert main(["compare", str(sound), str(broken)]) == 1

    console.flush()
    assert "  x tier1::causal (passed -> failed): leaks" in console.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("then", "options", "said"),
    [
        ("nothing", [], "'nothing' is not a report, config, model or commit."),
        ("HEAD", [], "HEAD is a commit: say by --config FILE which config of it to run"),
        ("HEAD", ["--config", "cfg.json"], "commit HEAD has no file cfg.json"),
        (
            "empty/health_report.json",
            [],
            "empty/health_report.json is not a report of this program: write one with pytest --model-report DIR",
        ),
    ],
)
def test_what_cannot_be_compared_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], then: str, options: list[str], said: str
) -> None:
    git(tmp_path, "init")
    git(tmp_path, "commit", "--allow-empty", "-m", "first")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/health_report.json").write_text("{}")

    assert main(["compare", then, "HEAD", *options]) == 2
    assert capsys.readouterr().err.strip().endswith(said)


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@t"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.mark.long
def test_two_commits_are_run_each_with_its_own_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {
        "task_type": "causal_lm", "tier": "1", "vocab_size": 11, "max_seq_len": 8, "model_file": "model.py",
        "properties": {name: False for name in CATALOGUE if name != "causal"},
    }  # fmt: skip
    git(tmp_path, "init")
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    for text in (MODEL, MODEL.replace(".cumsum(1)", ".flip(1).cumsum(1)")):
        (tmp_path / "model.py").write_text(text)
        git(tmp_path, "add", ".")
        git(tmp_path, "commit", "-m", "x")
    (tmp_path / "model.py").write_text("raise SystemError  # not committed, and not run")
    monkeypatch.chdir(tmp_path)

    assert main(["compare", "HEAD~1", "HEAD", "--config", "cfg.json", "--json"]) == 1

    found = json.loads(capsys.readouterr().out)
    assert [(finding["check_name"], finding["then"], finding["now"]) for finding in found["new"]] == [
        ("tier1::causal", "passed", "failed")
    ]
    listed = subprocess.run(["git", "worktree", "list"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert len(listed.stdout.splitlines()) == 1
