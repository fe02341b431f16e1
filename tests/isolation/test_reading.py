"""What an isolated process may read of a project: its files, without hidden ones and without links that lead out of it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from isolated_call import run_isolated

from harness.errors import IsolationError
from harness.isolation.process import imported_folders, named_paths, visible_entries

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    for name in ("model.py", "data/rows.csv", ".git/config", ".env", "data/.hidden"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("content")
    (tmp_path / "elsewhere").write_text("content")
    (folder / "out").symlink_to(tmp_path / "elsewhere")
    (folder / "in").symlink_to(folder / "data")
    return folder


def test_what_is_hidden_or_leads_out_is_left_out(project: Path) -> None:
    assert {path.name for path in visible_entries(project)} == {"model.py", "data", "in"}
    assert list(visible_entries(project / "model.py")) == [project / "model.py"]
    assert list(visible_entries(project / "missing")) == []


def test_folders_of_everybody_are_never_read_as_a_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shown = set(visible_entries(Path("/")))
    assert not shown & {Path(name) for name in ("/proc", "/home", "/root", "/etc", "/tmp", "/run", "/dev", "/var")}
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "people" / "me")
    (tmp_path / "people" / "me").mkdir(parents=True)
    assert list(visible_entries(tmp_path)) == []


def test_a_config_names_files_but_not_those_hidden_in_the_home(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = project.parent / "home"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh" / "key").write_text("x")
    (home / "weights.pt").write_text("x")
    monkeypatch.setattr(Path, "home", lambda: home)
    keys = {
        "model_file": "model.py",
        "train": {"path": Path("data/rows.csv")},
        "weights": str(home / "weights.pt"),
        "more": [str(home / ".ssh" / "key"), str(home), "/", ".", "", "no such file", "x" * 5000, "a\0b", 3, None],
    }
    found = set(named_paths(keys, project))
    assert found == {project / "model.py", project / "data" / "rows.csv", home / "weights.pt"}


def test_packages_installed_as_editable_are_found(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finder = type(sys)("__editable___thing_finder")
    finder.MAPPING = {"thing": str(project)}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, finder.__name__, finder)
    assert str(project / "model.py") in imported_folders()


READS = """\
def read(paths):
    found = {}
    for path in paths:
        try:
            found[path] = open(path).read()
        except OSError as error:
            found[path] = type(error).__name__
    return found
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the audit hook stands alone")
def test_the_process_reads_just_that_and_says_what_it_was_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "reads.py").write_text(READS)
    monkeypatch.syspath_prepend(project)
    files = {
        name: str(project / name)
        for name in ("data/rows.csv", "data/.hidden", "in/rows.csv", ".env", ".git/config", "out", "missing")
    }
    try:
        found = run_isolated("reads:read", list(files.values()), own=[project])
    except IsolationError as error:
        pytest.fail(str(error))
    ends = {name: found.value[path] for name, path in files.items()}
    assert {name for name, end in ends.items() if end == "content"} == {"data/rows.csv", "data/.hidden", "in/rows.csv"}
    assert ends["missing"] == "FileNotFoundError", "who looks for a file that he can do without is told that it is not there"
    assert {ends[name] for name in (".env", ".git/config", "out")} == {"RefusedError"}
    assert f"reads {project / '.env'} (open; reads.py, line 5)" in map(str, found.attempts)
