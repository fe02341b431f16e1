"""``modeltiers compare A B``: two reports, two models, or two commits."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.cli.arguments import add_config, add_json
from harness.cli.tiers import what_stopped
from harness.errors import ComparisonError

_CONFIGS = (".json", ".toml", ".yaml", ".yml")


def add_compare(commands: Any) -> None:
    """Adds ``compare``."""
    compare = commands.add_parser("compare", help="say what is new, gone and changed between two reports, models or commits")
    what = "a report (a folder or its JSON), a config, a model (as for pytest --model), or with --config a commit"
    compare.add_argument("then", metavar="A", help=what)
    compare.add_argument("now", metavar="B", help="another one")
    add_config(compare, required=False)
    compare.add_argument(
        "-m", dest="markers", metavar="MARKERS", help="run only these tests, such as tier1, of what is not a report"
    )
    compare.add_argument("--html", type=Path, metavar="FILE", help="write the comparison as a page too")
    add_json(compare)
    compare.set_defaults(run=_compare)


def _compare(arguments: argparse.Namespace) -> int:
    from harness.files import write_whole
    from harness.health.comparison import compare

    then, now = (_report(named, arguments) for named in (arguments.then, arguments.now))
    found = compare(then, now)
    if arguments.html:
        from harness.health.page import comparison_html

        write_whole(arguments.html, comparison_html(found))
    print(json.dumps(found.to_json()) if arguments.json else found.to_text())
    return 1 if found.fails_anew else 0


def _report(named: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """The report that an argument names, or that a run of what it names gives."""
    from harness.health.history import REPORT, read_report

    path = Path(named).expanduser()
    if path.is_dir() and (path / REPORT).is_file():
        path = path / REPORT
    if path.is_file() and path.suffix == ".json" and (found := read_report(path)) is not None:
        return found
    if path.name == REPORT:
        raise ComparisonError(f"{named} is not a report of this program: write one with pytest --model-report DIR")
    if path.suffix in _CONFIGS and path.is_file():
        return _run(named, ["--model-config", named], arguments, Path.cwd())
    if path.exists() or ":" in named:
        return _run(named, ["--model", named], arguments, Path.cwd())
    with _checked_out(named, arguments.config) as (folder, config):
        return _run(named, ["--model-config", str(config)], arguments, folder)


def _run(named: str, suite: list[str], arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The report of a suite that is run in a folder, in a separate process."""
    print(f"modeltiers: running the tests of {named} …", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        found = Path(scratch) / "report.json"
        command = [sys.executable, "-m", "pytest", *suite, "--modeltiers-json", str(found), "-p", "no:cacheprovider"]
        command += ["-m", arguments.markers] if arguments.markers else []
        # The code of that folder comes first: the package may be installed from another one.
        path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")]))
        environment = {**os.environ, "PYTHONPATH": path}
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=environment)
        if done.returncode not in (0, 1) or not found.is_file():
            raise ComparisonError(f"{named}: {what_stopped(done, (1, 2, 3, 4, 5))}")
        report: dict[str, Any] = json.loads(found.read_text(encoding="utf-8"))
    return {**report, "model_name": f"{report['model_name']} ({named})"}


@contextmanager
def _checked_out(revision: str, config: Path | None) -> Iterator[tuple[Path, Path]]:
    """A commit in its own folder, as long as it is needed: the folder in it that is like the current one, and the config.

    Raises:
        ComparisonError: There is no such commit, no config is named, or the commit does not have it.
    """
    top = _git("rev-parse", "--show-toplevel")
    commit = top and _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if not top or not commit:
        raise ComparisonError(
            f"{revision!r} is not a report, config, model or commit. {'' if top else 'This folder is in no Git repository.'}".rstrip()
        )
    if config is None:
        raise ComparisonError(f"{revision} is a commit: say by --config FILE which config of it to run")
    here, asked = Path.cwd().resolve(), Path(os.path.abspath(config))
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch) / "tree"
        if _git("worktree", "add", "--detach", "--quiet", str(tree), commit) is None:
            raise ComparisonError(f"git could not check out {revision} into a temporary folder")
        try:
            place = tree / os.path.relpath(asked.resolve() if asked.exists() else asked, Path(top).resolve())
            if not place.is_file():
                raise ComparisonError(f"commit {revision} has no file {config}")
            folder = tree / os.path.relpath(here, Path(top).resolve())
            yield (folder if folder.is_dir() else tree), place
        finally:
            _git("worktree", "remove", "--force", str(tree))


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, errors="replace", check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
