"""What the README says is true of the code."""

from __future__ import annotations

import re
import subprocess
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
    said = re.search(r"a table of (\d+) tests", README)
    assert said is not None
    assert int(said.group(1)) == Suite.of(ROOT / "examples" / "lm_tiny.json").test_count()


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http|#)([^)#]+)", README))
def test_links_lead_somewhere(link: str) -> None:
    assert (ROOT / link).exists()


def test_every_property_is_explained() -> None:
    page = (ROOT / "docs" / "properties.md").read_text(encoding="utf-8")
    sections = {part.split("\n", 1)[0]: part for part in page.split("\n## ")[1:]}
    assert set(sections) == set(CATALOGUE)
    for name, entry in CATALOGUE.items():
        assert ("Tolerance:" in sections[name] or "tolerance" in sections[name]) is (entry.tolerance is not None), name
