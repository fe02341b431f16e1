"""The test of the pages can fail."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fences import fences
from page_run import PageRun


def do_all(run: PageRun, page: str) -> None:
    for fence in fences(page):
        run.do(fence)


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("```python\nassert 1 == 2, 'arithmetic'\n```\n", "arithmetic"),
        ("```sh\nfalse\n```\n", "ended with 1, not 0"),
        ("<!-- exits: 1 -->\n```sh\ntrue\n```\n", "ended with 0, not 1"),
        ("```sh\nfalse\ntrue\n```\n", "`false` ended with 1"),
        ("```sh\nmodeltiers no-such-command\n```\n", "ended with 2"),
        ("```sh\necho one two\n```\n<!-- output -->\n```text\none … three\n```\n", "not printed: one … three"),
        ("<!-- part of: README.md -->\n```text\nno such line in it\n```\n", "says something else"),
        ("```yaml\na: 1\n```\n", "never looked at"),
    ],
)
def test_a_page_that_is_wrong_fails(
    page: str, words: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = PageRun(tmp_path, capfd)
    with pytest.raises(AssertionError, match=re.escape(words)):
        do_all(run, page)


def test_files_commands_and_output_of_a_page_that_is_right(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    page = (
        '```python title="answer.py"\nprint("the answer is", 42)\n```\n'
        "```sh\npython answer.py   # says it\n```\n"
        "<!-- output -->\n```text\nthe … is   42\n```\n"
        "```python\nx = 1\n```\n```python\nassert x == 1\n```\n"
        "<!-- not run: it would never end -->\n```sh\nsleep inf\n```\n"
    )
    do_all(PageRun(tmp_path, capfd), page)
    assert [fence.line for fence in fences(page)][:2] == [2, 5]
