"""Every command and snippet in ``docs/`` is run, page by page, as a reader would."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fences import DOCS, KINDS, PAGES, fences
from page_run import PageRun

from harness.catalogue import CATALOGUE
from harness.config import load_config
from harness.errors import ConfigError
from harness.monitoring.features.kinds import FEATURE_KINDS

RESTRICTED = "eval_deterministic or causal or attribution or initial_loss or safetensors or evaluation"
"""Tests that a page's run of a suite has, unless its command chooses: a page shows that it works, other tests show what it finds."""

_TITLE = re.compile(r"<dc:title>(.*?)</dc:title>")

RESTRICTED_KIND = "declared_outputs or permutation or symmetric_inputs or promised"
"""The same of a page about a kind of model; every night it has the whole suite."""


LONG = ("monitoring_year",)
"""Pages that take half a minute."""


@pytest.fixture
def tables_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Takes out of the project's tables, after a page was run, what its snippets added."""
    tables: tuple[dict[str, Any], ...] = (FEATURE_KINDS, CATALOGUE)
    before = [dict(table) for table in tables]
    for kind in FEATURE_KINDS.values():
        monkeypatch.setattr(type(kind), "statistics", type(kind).statistics)
    yield
    for table, entries in zip(tables, before, strict=True):
        table.clear()
        table.update(entries)


@pytest.mark.usefixtures("tables_as_before")
@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[pytest.mark.long] * (page.stem in LONG)) for page in PAGES],
    ids=[page.stem for page in PAGES],
)
def test_what_the_page_says_works(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    do(page, RESTRICTED_KIND if page in KINDS else RESTRICTED, tmp_path, monkeypatch, capfd)


@pytest.mark.long
@pytest.mark.parametrize("page", KINDS, ids=lambda path: path.stem)
def test_a_model_of_each_kind_is_sound(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    do(page, "", tmp_path, monkeypatch, capfd)


def do(page: Path, only: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Does what a page says, in a folder; runs of a suite have some tests only."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTEST_ADDOPTS", f'-p no:cacheprovider -k "{only}"')
    monkeypatch.setenv("MODELTIERS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")  # the project's own settings are not the reader's
    run = PageRun(tmp_path, capfd)
    for fence in fences(page.read_text(encoding="utf-8")):
        run.do(fence)
    for name in re.findall(r"^!\[[^\]]+\]\(images/([^)]+)\)$", page.read_text(encoding="utf-8"), re.MULTILINE):
        titles = [_TITLE.findall(picture.read_text(encoding="utf-8")) for picture in (tmp_path / name, DOCS / "images" / name)]
        assert titles[0] == titles[1] != [], f"{name} is another picture than the page's commands draw"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_every_fence_is_run_or_says_why_not(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    found = fences(text)
    assert text.count("```") == 2 * len(found), "a fence that this test cannot read"
    for fence in found:
        assert fence.marked("not run") != "", f"line {fence.line}: no reason"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_every_config_on_the_page_is_valid_unless_it_is_called_mistaken(page: Path, tmp_path: Path) -> None:
    for fence in fences(page.read_text(encoding="utf-8")):
        if fence.language in ("json", "toml", "yaml") and fence.title is not None:
            file = tmp_path / Path(fence.title).name
            file.write_text(fence.text, encoding="utf-8")
            with pytest.raises(ConfigError) if file.stem == "mistaken" else contextlib.nullcontext():
                load_config(file)
