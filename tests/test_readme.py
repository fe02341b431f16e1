"""What the README says is true of the code."""

from __future__ import annotations

import io
import re
import runpy
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from harness.catalogue import CATALOGUE
from pytest_modeltiers.suite import Suite

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(mark: str) -> str:
    found = re.search(rf"<!-- {mark} -->\n```sh\n(.*?)\n```", README, re.DOTALL)
    assert found, f"no block marked {mark}"
    return found.group(1)


def test_it_opens_with_two_commands_of_one_line() -> None:
    assert README.index("<!-- main -->") < README.index("<!-- tests -->") < 1500
    assert "\n" not in block("main")
    assert "\n" not in block("tests")


def test_ci_runs_the_test_command_of_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    extract = next(line for line in script.splitlines() if line.startswith("command="))
    printed = subprocess.run(
        ["bash", "-c", f'{extract}; printf %s "$command"'], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert printed.stdout == block("tests")


def test_it_is_short() -> None:
    assert len(README.splitlines()) < 180


def test_the_count_of_tests_is_right() -> None:
    said = re.search(r"runs (\d+) tests", README)
    assert said is not None
    assert int(said.group(1)) == len(Suite.of(ROOT / "examples" / "lm_tiny.json").tests_of())


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http|#)([^)#]+)", README))
def test_links_lead_somewhere(link: str) -> None:
    assert (ROOT / link).exists()


def test_every_property_is_explained() -> None:
    page = (ROOT / "docs" / "properties.md").read_text(encoding="utf-8")
    sections = {part.split("\n", 1)[0]: part for part in page.split("\n## ")[1:]}
    assert set(sections) == set(CATALOGUE)
    for name, entry in CATALOGUE.items():
        assert ("Tolerance:" in sections[name] or "tolerance" in sections[name]) is (entry.tolerance is not None), name


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that the first command of the README would run."""
    commands: list[list[str]] = []
    monkeypatch.delenv("PIP_INDEX_URL", raising=False)
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(
        subprocess, "run", lambda command, **_: commands.append(command) or subprocess.CompletedProcess(command, 0)
    )
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: io.BytesIO())
    return commands


def first_run() -> int:
    script = ROOT / block("main").removeprefix("python3 ")
    return int(runpy.run_path(str(script))["main"]())


def test_the_first_command_says_what_it_does_and_what_comes_next(
    steps: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert first_run() == 0

    said = capsys.readouterr().out
    assert [command[-1] for command in steps] == [".venv", ".", "out"]
    assert all(f"[{number}/3] " in said for number in (1, 2, 3))
    assert "minutes" in said
    assert "half a minute" in said
    assert said.index("out/health_report.html") < said.index("modeltiers check model.py")


def test_the_first_command_keeps_cuda_out(steps: list[list[str]]) -> None:
    first_run()

    assert steps[1][-4:-2] == ["--extra-index-url", "https://download.pytorch.org/whl/cpu"]


def test_the_first_command_does_without_an_index_that_it_cannot_reach(
    steps: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    first_run()

    assert "--extra-index-url" not in steps[1]


def test_the_first_command_leaves_the_choice_of_an_index_to_its_user(
    steps: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "https://example.org/simple")
    first_run()

    assert "--extra-index-url" not in steps[1]
