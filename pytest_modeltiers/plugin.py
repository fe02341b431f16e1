"""Options, markers and collection.

Every pytest start imports this module, so it imports the standard library, pytest and two files as light as it; whatever is heavier begins in
``suite.py``, once a config is in use.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_modeltiers import crashes, hooks
from pytest_modeltiers.hooks import CONFIGS, SHOWN_AS, TIERS
from pytest_modeltiers.progress import LiveLine, StartLine, may_redraw
from pytest_modeltiers.without_config import add_option, models_in, said, written_configs

if TYPE_CHECKING:
    from pytest_modeltiers.suite import Suite

_FIXTURES = "modeltiers_fixtures"

_HARNESS = Path(__file__).parents[1] / "harness"

_TRUST = "MODELTIERS_TRUST_MODEL"

_HYPOTHESIS_FOLDER = "HYPOTHESIS_STORAGE_DIRECTORY"
"""The environment variable by which Hypothesis is told where to keep its files."""

_HIDDEN = pytest.StashKey[str]()
"""What to say of a user's own package ``harness``."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the command line options and the ini key."""
    group = parser.getgroup("modeltiers", "model validation")
    group.addoption(
        "--model-config",
        action="append",
        default=[],
        metavar="FILE",
        help="JSON, TOML or YAML file that describes a model; it becomes a suite of tests. Repeatable. "
        "Without a config: --model FILE.py, a folder of save_pretrained, or pkg.mod:Class",
    )
    group.addoption("--model-report", metavar="DIR", help="write the health report (JSON, Markdown, HTML) into DIR")
    group.addoption("--model-sarif", metavar="FILE", help="write the findings as SARIF, for code scanning and editors")
    group.addoption(
        "--model-hints",
        type=float,
        default=2.0,
        metavar="SECONDS",
        help="processor time for each failure to look for a change of the model's code that fixes it (2; 0: none)",
    )
    group.addoption("--modeltiers-json", metavar="FILE", help=argparse.SUPPRESS)  # what `modeltiers tiers` reads
    group.addoption("--modeltiers-command", default="", help=argparse.SUPPRESS)  # by which `modeltiers check` was asked
    group.addoption(
        "--trust-model", action="store_true", help="let a model_file start programs and use the network when it is imported"
    )
    group.addoption("--modeltiers-strict", action="store_true", help="warnings of the model suite fail")
    parser.addini("model_config", type="paths", default=[], help="config files to run when no path is typed")


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Declares the plugin's own hooks."""
    pluginmanager.add_hookspecs(hooks)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config, parser: pytest.Parser, args: list[str]) -> None:
    """Adds ``--model`` where it is used.

    Where a config is in use, forks, and binds ``harness`` before a ``conftest.py`` can bring another one.
    """
    add_option(parser, args)
    if early_config.known_args_namespace.model_config or early_config.getini("model_config") or models_in(args):
        if crashes.may_supervise(early_config, args):
            crashes.supervise(early_config)
        # Threads that compute in vain while they wait for each other make calls on busy cores six times slower, and threads that never do
        # make them a tenth slower on idle ones; so they do for a moment. Read when torch is loaded.
        if "OMP_WAIT_POLICY" not in os.environ:
            os.environ.setdefault("GOMP_SPINCOUNT", "10000")
        _bind_harness(early_config)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Registers the markers, and puts the config files among the paths to collect.

    xdist workers parse the original command line, so each of them does the same here.
    """
    for number, title in TIERS.items():
        config.addinivalue_line("markers", f"tier{number}: {title} of a model")
    config.addinivalue_line("markers", "slow: takes seconds rather than milliseconds")
    typed = config.args_source is pytest.Config.ArgsSource.ARGS
    if config.getoption("trust_model"):
        os.environ[_TRUST] = "1"  # the processes that build the model too read it
        config.add_cleanup(_distrust)
    line = StartLine(config)
    from_option = [_absolute(path) for path in (*config.getoption("model_config"), *written_configs(config, line))]
    from_ini = [_absolute(path) for path in config.getini("model_config")]
    configs = list(dict.fromkeys(from_option or from_ini))
    config.stash[CONFIGS] = configs
    if not configs:
        return
    line.say("preparing the tests")
    from harness.processes import without_collector
    from harness.wording import write_plain_signs

    try:
        with without_collector():
            _activate(config, configs)
        write_plain_signs()
    finally:
        line.close()
    if from_option and not typed:
        config.args[:] = []
        _move_hypothesis_files(config)
    if from_option or not typed:
        already = {_absolute(arg.partition("::")[0]) for arg in config.args}
        config.args.extend(str(path) for path in configs if path not in already)


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Says that a package of the user's own is hidden, and shows the configs that were written for models without one."""
    return [*filter(None, [config.stash.get(_HIDDEN, "")]), *said(config)]


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Collects a config file as a module of generated tests."""
    if file_path not in parent.config.stash[CONFIGS]:
        return None
    if shown := parent.config.stash[SHOWN_AS].get(file_path):
        return ModelConfigFile.from_parent(parent, path=file_path, nodeid=shown)
    if parent.config.rootpath in file_path.parents:
        return ModelConfigFile.from_parent(parent, path=file_path)
    # pytest would leave the file's name out of the ids, and the tests of two such files would have the same ones.
    return ModelConfigFile.from_parent(parent, path=file_path, nodeid=_from(parent.config.rootpath, file_path))


@pytest.hookimpl(tryfirst=True)
def pytest_collect_directory(path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Collects the folder of a config as a folder, also where it is a package: pytest would import that, which no test of ours needs."""
    configs = parent.config.stash[CONFIGS]
    holds_config = any(path in config.parents for config in configs)
    only_configs = {_absolute(argument) for argument in parent.config.args} <= set(configs)
    if not holds_config or not only_configs or not (path / "__init__.py").is_file():
        return None
    return pytest.Dir.from_parent(parent, path=path)


def pytest_pycollect_makeitem(collector: pytest.Collector, obj: object) -> None:
    """Brings the plugin to life for a ``test_model.py`` that takes its classes from a config."""
    suite = vars(obj).get("suite") if isinstance(obj, type) else None
    if type(suite).__module__ == "pytest_modeltiers.suite" and not collector.config.pluginmanager.has_plugin(_FIXTURES):
        path = suite.config.path  # type: ignore[union-attr]
        collector.config.stash[CONFIGS].append(path)
        _activate(collector.config, [path])


class ModelConfigFile(pytest.Module):
    """A config file, as the module of tests that it stands for."""

    def _getobj(self) -> object:
        from harness.config_file import with_place
        from harness.errors import UserError
        from pytest_modeltiers.suite import Suite, test_module

        try:
            suite: Suite = Suite.of(self.path)
            if not self.config.option.collectonly:
                _check_model(suite, self.config)
            return test_module(suite, self.config)
        except UserError as error:
            from harness.wording import visible

            raise self.CollectError(visible(with_place(self.path, str(error)), lines=True)) from None


def _move_hypothesis_files(config: pytest.Config) -> None:
    """Has Hypothesis keep its files in our cache instead of ``.hypothesis`` in the current folder, where only configs run.

    A folder that the user's own tests already have, or a place that the user chose, stays in use.
    """
    if _HYPOTHESIS_FOLDER in os.environ or Path(".hypothesis").exists():
        return
    from harness.export.store import default_folder

    os.environ[_HYPOTHESIS_FOLDER] = str(default_folder() / "hypothesis")
    config.add_cleanup(_forget_hypothesis_folder)


def _forget_hypothesis_folder() -> None:
    os.environ.pop(_HYPOTHESIS_FOLDER, None)


def _distrust() -> None:
    os.environ.pop(_TRUST, None)


def _absolute(path: str | Path) -> Path:
    # As pytest makes its own paths: without "..", but with links as they are.
    return Path(os.path.abspath(path))


def _from(folder: Path, file: Path) -> str:
    try:
        return Path(os.path.relpath(file, folder)).as_posix()
    except ValueError:  # another drive
        return file.as_posix()


def _bind_harness(config: pytest.Config) -> None:
    config.stash[_HIDDEN] = bind_own_harness(config.invocation_params.dir, config.rootpath)
    if config.stash[_HIDDEN]:
        sys.stderr.write(f"{config.stash[_HIDDEN]}\n")  # shown where a conftest.py then fails


def bind_own_harness(*folders: Path) -> str:
    """Imports this project's ``harness``, before a ``conftest.py`` or the current folder can bring another one.

    Returns:
        What to say of such a package; empty where there is none.
    """
    loaded = sys.modules.get("harness")
    if loaded is not None and not _is_ours(Path(str(getattr(loaded, "__file__", "")))):
        pytest.exit(
            f"pytest-modeltiers: the name `harness` is taken by {getattr(loaded, '__file__', 'another package')}, which was imported before. "
            "pytest-modeltiers has a package of that name: rename yours, or run its tests and `--model-config` apart",
            returncode=2,
        )
    if loaded is None and (_HARNESS / "__init__.py").is_file():
        spec = importlib.util.spec_from_file_location(
            "harness", _HARNESS / "__init__.py", submodule_search_locations=[str(_HARNESS)]
        )
        assert spec is not None
        assert spec.loader is not None
        sys.modules["harness"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["harness"])
    other = next((place for folder in folders if (place := _package_in(folder)) and not _is_ours(place)), None)
    if other is None:
        return ""
    return (
        f"pytest-modeltiers: in this run `harness` is the package of pytest-modeltiers; {other.parent} is hidden. Tests that import it "
        "belong into a run without --model-config"
    )


def _is_ours(file: Path) -> bool:
    return not (_HARNESS / "__init__.py").is_file() or os.path.realpath(file.parent) == os.path.realpath(_HARNESS)


def _package_in(folder: Path) -> Path | None:
    candidates = (folder / "harness" / "__init__.py", folder / "src" / "harness" / "__init__.py", folder / "harness.py")
    return next((file for file in candidates if file.is_file()), None)


def _activate(config: pytest.Config, configs: list[Path]) -> None:
    """Checks the configs and brings in the fixtures and the report."""
    from harness.errors import UserError
    from harness.health.history import require
    from harness.internal_errors import write_tracebacks_to
    from pytest_modeltiers.suite import Suite

    folder = config.getoption("model_report")
    write_tracebacks_to(_absolute(folder) if folder else None)
    for path in configs:
        try:
            require(Suite.of(path).config.log_to)
        except UserError as error:
            pytest.exit(str(error), returncode=2)
    from pytest_modeltiers import continued, fixtures
    from pytest_modeltiers.report import Reporter
    from pytest_modeltiers.results import JUnitCauses
    from pytest_modeltiers.suite import forget_suites
    from pytest_modeltiers.terminal import FailuresSection

    continued.begin(config)
    crashes.end_as_by_ctrl_c(config)
    if hasattr(config, "workerinput"):
        _share_cores(int(config.workerinput["workercount"]))
        if config.workerinput["workerid"] != "gw0":  # each reads the model's file; one warning is enough
            config.addinivalue_line("filterwarnings", "ignore::harness.scan.ScanWarning")
    forget_suites()  # of an earlier run in this process, whose files may have changed since
    config.pluginmanager.register(fixtures, _FIXTURES)
    reporter = Reporter(config, configs)
    config.pluginmanager.register(reporter, "modeltiers_report")
    config.pluginmanager.register(JUnitCauses(reporter), "modeltiers_junit")
    config.pluginmanager.register(FailuresSection(reporter), "modeltiers_failures")
    if may_redraw(config):
        config.pluginmanager.register(LiveLine(reporter), "modeltiers_live_line")
    isolated = [path for path in configs if Suite.of(path).config.isolation]
    if isolated:
        from pytest_modeltiers.isolated import Isolation

        Isolation.of(config)
    if len(isolated) < len(configs):
        from pytest_modeltiers import fixes, verdicts  # noqa: F401  # with torch, which stays: see below
    # Torch and what comes with it are a million objects that stay: without this every collection walks over them.
    gc.freeze()


def _check_model(suite: Suite, config: pytest.Config) -> None:
    """Has the model built and called once, here or in isolation."""
    if not suite.config.isolation:
        from pytest_modeltiers.continued import building

        with building(config, suite.config.path):
            suite.check_model()
        return
    from pytest_modeltiers.isolated import Isolation

    Isolation.of(config).start(suite)


def _share_cores(workers: int) -> None:
    """Leaves each worker its part of the cores; by default torch would start a thread for every core in every worker."""
    import torch

    torch.set_num_threads(max(1, torch.get_num_threads() // workers))
