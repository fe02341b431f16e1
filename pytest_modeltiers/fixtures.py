"""Fixtures for the generated tests and for the user's own; a ``conftest.py`` may override any of them.

What brings torch is imported where it is used: a run whose models are all isolated does without it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.catalogue import CATALOGUE, rank
from harness.config import EvalConfig, TrainingConfig
from harness.errors import MemoryFullError, TimeBudgetError
from harness.evidence import Evidence
from harness.owners import Selection
from harness.tasks import TaskSpec
from pytest_modeltiers.checks import FOUND
from pytest_modeltiers.compat import fixtures_by_name
from pytest_modeltiers.hooks import CONFIGS, SELECTED, TIERS, VERDICT
from pytest_modeltiers.property_tests import Answers, run_test
from pytest_modeltiers.results import end_run
from pytest_modeltiers.suite import Suite
from pytest_modeltiers.time_budget import CutShortError, time_limit

if TYPE_CHECKING:
    from torch import nn

    from harness.adapters import Adapter
    from harness.analysis import Study
    from harness.batches import Batch
    from harness.experiments import ExperimentDB
    from harness.export.exports import Exports
    from harness.monitoring.monitor import Monitor
    from harness.properties.subject import Subject
    from harness.training.trial import Trial
    from pytest_modeltiers.fixes import Help
    from pytest_modeltiers.verdicts import Judge


_HELP: pytest.StashKey[Help] = pytest.StashKey()
"""What helps to fix the findings of this process."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Gives a property its cases, and a user's own test every config of the run."""
    suite = getattr(metafunc.cls, "suite", None)
    if isinstance(suite, Suite):
        entry = CATALOGUE.get(metafunc.function.__name__.removeprefix("test_"))
        if entry is not None and "case" in metafunc.fixturenames:
            metafunc.parametrize("case", suite.cases(entry))
    elif "suite" in metafunc.fixturenames:
        configs = metafunc.config.stash[CONFIGS]
        if len(configs) > 1:
            metafunc.parametrize("suite", configs, ids=[path.stem for path in configs], indirect=True)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Puts the tests that fail most often first, and leaves out those for which the model's code names nothing to judge.

    Tests that are asked for by name run, and the report says why the others are left out. A user's own tests keep their places.
    """
    if SELECTED in config.stash or any("::" in argument for argument in config.args):
        return
    _leave_to_stubs(items)
    _put_worst_news_first(items)
    if config.getoption("keyword"):
        return
    left = [item for item in items if _is_left_out(item)]
    if left:
        items[:] = [item for item in items if item not in left]
        config.hook.pytest_deselected(items=left)


def _leave_to_stubs(items: list[pytest.Item]) -> None:
    """Takes away the tests of a config that a ``test_model.py`` takes from it too: each would run twice."""
    in_stubs = {(own, item.name) for item in items if (own := _config_of(item)) and own != item.path}
    items[:] = [item for item in items if _config_of(item) != item.path or (item.path, item.name) not in in_stubs]


def _config_of(item: pytest.Item) -> Path | None:
    own = _suite_of(item)
    return None if own is None else own.config.path


def _put_worst_news_first(items: list[pytest.Item]) -> None:
    """Orders the tests of each suite among the places they have; the same in every worker, as it follows only from their names."""
    places: dict[Path, list[int]] = {}
    for place, item in enumerate(items):
        if (own := _config_of(item)) is not None:
            places.setdefault(own, []).append(place)
    for mine in places.values():
        ordered = sorted((items[place] for place in mine), key=lambda item: rank(item.name.removeprefix("test_")))
        for place, item in zip(mine, ordered, strict=True):
            items[place] = item


def _is_left_out(item: pytest.Item) -> bool:
    own = _suite_of(item)
    entry = CATALOGUE.get(getattr(item, "originalname", "").removeprefix("test_"))
    if own is None or entry is None or not isinstance(item, pytest.Function):
        return False
    case = str(item.callspec.params.get("case", "")) if hasattr(item, "callspec") else ""
    return bool(own.absent(entry, case)) and not any(_overrides(item, name) for name in ("model", "adapter", "task_spec"))


@pytest.fixture(scope="class")
def suite(request: pytest.FixtureRequest) -> Suite:
    """The suite a test belongs to; for a user's own test, that of the run's config."""
    own = getattr(request.cls, "suite", None)
    return own if isinstance(own, Suite) else Suite.of(getattr(request, "param", request.config.stash[CONFIGS][0]))


@pytest.fixture(scope="class")
def task_spec(suite: Suite) -> TaskSpec:
    """The task: what goes in, what comes out, and the sizes."""
    return suite.task


@pytest.fixture(scope="class")
def training_config(suite: Suite) -> TrainingConfig:
    """The config's training keys."""
    return suite.config.training_config()


@pytest.fixture(scope="class")
def eval_config(suite: Suite) -> EvalConfig:
    """The config's evaluation data."""
    return suite.config.eval_config()


@pytest.fixture(scope="class")
def adapter(suite: Suite) -> Adapter:
    """How the model is called and where its logits are."""
    return suite.adapter


@pytest.fixture
def model(suite: Suite) -> nn.Module:
    """The model in eval mode, with its original weights, whatever earlier tests did to theirs."""
    return suite.model()


@pytest.fixture
def subject(request: pytest.FixtureRequest, suite: Suite, model: nn.Module, adapter: Adapter, task_spec: TaskSpec) -> Subject:
    """The model with what the properties need to call and judge it."""
    if _is_foreign(request):
        return suite.foreign_subject(model, adapter, task_spec)
    return suite.subject(model)


@pytest.fixture
def exports(request: pytest.FixtureRequest, suite: Suite, subject: Subject) -> Exports:
    """The exports of the model: made once, shared between tests, workers and runs."""
    return suite.exports_of(subject) if _is_foreign(request) else suite.exports


@pytest.fixture
def study(request: pytest.FixtureRequest, suite: Suite, subject: Subject) -> Study:
    """The model to look into, with the config's labelled rows."""
    study = suite.study_of(subject, suite.config) if _is_foreign(request) else suite.study
    study.seconds = suite.budget.part
    return study


@pytest.fixture
def trial(request: pytest.FixtureRequest, suite: Suite, subject: Subject, training_config: TrainingConfig) -> Trial:
    """Short trainings of the model, each on a fresh copy."""
    trial = suite.trial_of(subject, training_config) if _is_foreign(request, "training_config") else suite.trial
    trial.seconds = suite.budget.part
    return trial


@pytest.fixture
def monitor(request: pytest.FixtureRequest, suite: Suite, subject: Subject) -> Monitor:
    """The model, the config's evaluation data, and the runs it is compared with; each part is measured once."""
    return suite.monitor_of(subject) if _is_foreign(request) else suite.monitor


@pytest.fixture
def exported(exports: Exports) -> ExportedFiles:
    """The exported files by format: ``exported["onnx"]`` is a path."""
    return ExportedFiles(exports)


@pytest.fixture
def experiment_db(suite: Suite) -> Iterator[ExperimentDB]:
    """The config's experiment database: ``experiment_db.get_best_run("val_loss")``."""
    from harness.experiments import ExperimentDB

    with ExperimentDB(suite.config.database) as db:
        yield db


class ExportedFiles(Mapping[str, Path]):
    """Exported files by format, each made when it is asked for."""

    def __init__(self, exports: Exports) -> None:
        self._exports = exports

    def __getitem__(self, format: str) -> Path:
        """The file of a format."""
        return self._exports.artifact(format).path

    def __iter__(self) -> Iterator[str]:
        """The formats of the config."""
        return iter(self._exports.formats)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._exports.formats)


def _is_foreign(request: pytest.FixtureRequest, *more: str) -> bool:
    """Whether a user's fixture took the place of one that what is judged is made of."""
    return any(_overrides(request.node, name) for name in ("model", "adapter", "task_spec", *more))


def _overrides(item: pytest.Item, name: str) -> bool:
    """Whether a user's fixture took the place of ours."""
    return fixtures_by_name(item)[name][-1].func.__module__ != __name__


@pytest.fixture
def make_batch(subject: Subject) -> Callable[..., Batch]:
    """Makes batches: ``make_batch(batch=4, seq=10, seed=1)``."""
    from harness.batches import Sizes

    def make(batch: int = 2, seq: int | None = None, target_seq: int | None = None, seed: int = 0) -> Batch:
        longest = subject.task.max_seq_len or 1
        return subject.batch(
            Sizes(batch, seq or max(subject.task.min_seq_len, min(8, longest)), target_seq or min(6, longest)), seed
        )

    return make


@pytest.fixture
def batch(subject: Subject) -> Batch:
    """A batch of the task's fields and labels."""
    return subject.batch()


@pytest.fixture(scope="class")
def selected_tests(request: pytest.FixtureRequest, suite: Suite) -> frozenset[str]:
    """The tests of the suite that run, such as ``finite_output[typical]``."""
    given = request.config.stash.get(SELECTED, None)
    if given is not None:
        return given
    own = [item for item in request.session.items if _suite_of(item) is suite]
    return frozenset(item.name.removeprefix("test_") for item in own)


@pytest.fixture
def judge(request: pytest.FixtureRequest, subject: Subject, suite: Suite, selected_tests: frozenset[str]) -> Judge:
    """Judges the test's property."""
    from pytest_modeltiers.verdicts import Judge

    name = request.function.__name__.removeprefix("test_")
    share = suite.share

    def run(owner: str, case: str | None) -> Evidence:
        copy = replace(subject, model=subject.fresh(), given_copies=subject.copies)
        return run_test(Judge(owner, copy, share, suite.config.seed, selection, case), case, request.getfixturevalue)

    answers = Answers(subject.task, TIERS) if _is_foreign(request) else suite.answers
    selection = Selection(selected_tests, subject.task.switched_off, partial(answers.of, run), answers.stands_in)
    case = request.node.callspec.params.get("case") if hasattr(request.node, "callspec") else None
    return Judge(name, subject, share, suite.config.seed, selection, case)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Tells each suite how many of its tests were selected, which share its time budget."""
    selected = Counter(own.config.path for item in session.items if (own := _suite_of(item)))
    for path, number in selected.items():
        Suite.of(path).selected = number


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Counts what a generated test uses, from its first fixture to its report."""
    own = _suite_of(item)
    if own is None or own.config.isolation:
        return (yield)
    with own.budget.counting():
        result = yield
    own.finished += 1
    own.let_go()
    return result


@pytest.hookimpl(wrapper=True, trylast=True)  # inside those of pytest, which take back at the end what they set up
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """Starts no generated test when the time budget is spent."""
    own = _suite_of(item)
    if own is None:
        return (yield)
    if spent := own.budget.spent:
        pytest.skip(spent)
    if reason := own.no_memory_for(item.name.removeprefix("test_")):
        pytest.skip(reason)
    try:
        with time_limit(own.budget, lost=partial(end_run, item)):
            return (yield)
    except (CutShortError, MemoryFullError) as cut:
        pytest.skip(str(cut))
    except TimeBudgetError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Iterator[None]:
    """Runs a generated test within the time budget, and ends it with its judge's outcome."""
    own = _suite_of(pyfuncitem)
    if own is None:
        return (yield)
    from harness.process_state import ProcessState, kept_process
    from harness.runtime import threads_for
    from pytest_modeltiers.verdicts import conclude

    FOUND.set(None)
    result = None
    judge = _judge_of(pyfuncitem)
    try:
        with time_limit(own.budget, own.limit, partial(end_run, pyfuncitem)), kept_process(own.home), threads_for(own.pristine):
            if judge is not None:
                judge.subject.shared.process = ProcessState()
            try:
                result = yield
            except Exception as error:
                if judge is None or FOUND.get() is not None:  # a test of the user's own
                    raise
                judge.meets(error)
            if judge is not None:
                judge.finish()
                _look_for_fix(pyfuncitem, judge, own)
    except TimeBudgetError as error:
        if judge is None:
            pytest.fail(str(error), pytrace=False)
        judge.stop(str(error))
    except (CutShortError, MemoryFullError) as cut:
        own.forget_shared_work()
        if judge is None:
            pytest.skip(str(cut))
        judge.cut_short(str(cut))
    finally:
        pyfuncitem.stash[VERDICT] = finding = FOUND.get() or {} if judge is None else judge.verdict()
    if finding.get("evidence"):
        conclude(Evidence.from_json(finding["evidence"]), strict=pyfuncitem.config.getoption("modeltiers_strict"))
    return result


def _look_for_fix(item: pytest.Function, judge: Judge, suite: Suite) -> None:
    """Looks for a change of the model's code that fixes a failure, while there is time for it."""
    from pytest_modeltiers.fixes import Help

    def remake(fixture: str, subject: Subject) -> Any:
        made = {
            "study": lambda: suite.study_of(subject, suite.config),
            "trial": lambda: suite.trial_of(subject, suite.config.training_config(), suite.config),
        }
        return made[fixture]()

    given = item.callspec.params if hasattr(item, "callspec") else {}
    case = str(given["case"]) if "case" in given else None  # other plugins may repeat a test by parameters of theirs
    is_own = any(_overrides(item, name) for name in ("model", "adapter", "task_spec"))
    helping = item.config.stash.setdefault(_HELP, Help(float(item.config.getoption("model_hints"))))
    helping.add(judge, case, remake, suite.budget.part, None if is_own else suite.source)


def _suite_of(item: pytest.Item) -> Suite | None:
    own = getattr(getattr(item, "cls", None), "suite", None)
    return own if isinstance(own, Suite) else None


def _judge_of(item: pytest.Function) -> Judge | None:
    from pytest_modeltiers.verdicts import Judge

    judge = item.funcargs.get("judge")
    return judge if isinstance(judge, Judge) else None
