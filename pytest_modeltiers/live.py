"""Tiers 1 and 2 on a model object, without a config file or a pytest run: for notebooks, trainings, benchmarks and the project's own tests.

judge(model, example)     # a result that a notebook shows
findings = judge_model(lambda: MyModel(), TaskSpec(TaskType.CAUSAL_LM, vocab_size=100, max_seq_len=32))
print(findings["causal"].explain())
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.adapters import Adapter, make_adapter
from harness.catalogue import CATALOGUE
from harness.errors import ExampleError, FactoryError, did_you_mean
from harness.evidence import Evidence, Status
from harness.health import ExportHealthReport
from harness.health.checks import SkippedCheck
from harness.models.copies import Copies
from harness.models.examples import arguments_of, axis_names, find_example
from harness.models.inspection import guess_task
from harness.models.wrapped import refuse_compiled, taken, unwrapped, with_signature
from harness.owners import Selection
from harness.properties.subject import Subject
from harness.runtime import seeded, threads_for
from harness.tasks import TaskSpec
from harness.tasks.declared import read_signature
from harness.tasks.finding import signature_from_call
from pytest_modeltiers.fixes import SECONDS, Help
from pytest_modeltiers.progress import shown_progress
from pytest_modeltiers.property_tests import Answers, run_test
from pytest_modeltiers.results import Result, check_name, to_check
from pytest_modeltiers.verdicts import Judge

_TIERS = (1, 2)
"""Tiers that need nothing but a model."""


def task_of_example(model: nn.Module, example: Any) -> TaskSpec:
    """Reads the task of a model from one working call of it.

    Args:
        model: The model, which is left as it was.
        example: Forward's arguments: a tensor, a tuple in order, or a dict by name; tensors may lie in dicts, tuples and dataclasses.

    Raises:
        ExampleError: The model cannot be called with it.
    """
    found = signature_from_call(model, arguments_of(example, model, "the example"), axis_names=axis_names(model))
    return TaskSpec.of_signature(read_signature(found.keys), type(model).__name__)


class Judgement(Mapping[str, Evidence]):
    """The findings on a model, by the names of tests such as ``finite_output[extremes]``; a notebook shows it as a page.

    Attributes:
        report: The health report, for ``save_html``, ``save_json`` and ``save_markdown``.
    """

    def __init__(self, model_name: str, task: str = "", is_selection: bool = False, seed: int = 0, device: str = "cpu") -> None:
        self.seed, self.device = seed, device
        self.report = ExportHealthReport(model_name, is_selection=is_selection, model_facts={"task": task} if task else {})
        self._found: dict[str, Evidence] = {}

    def add(self, label: str, seconds: float, evidence: Evidence) -> None:
        """Adds what a test found."""
        self._found[label] = evidence
        tier = CATALOGUE[evidence.name].tier if evidence.name in CATALOGUE else 1
        result = Result(label, "", tier, evidence.status, evidence.headline, seconds, {"evidence": evidence.to_json()})
        if evidence.status is Status.SKIPPED:
            self.report.skipped.append(SkippedCheck(check_name(result), evidence.message, tier))
            return
        check = to_check(result)
        for key in ("nodeid", "rerun"):  # there is no test to run again
            check.details.pop(key, None)
        self.report.add_check(check)
        if evidence.name == "gradient_flow" and "layers" in evidence.details:
            self.report.layers = evidence.details["layers"]

    @property
    def ok(self) -> bool:
        """Whether something was judged and nothing failed."""
        return self.report.all_passed

    @property
    def failed(self) -> dict[str, Evidence]:
        """The findings that failed."""
        return {label: evidence for label, evidence in self._found.items() if evidence.status is Status.FAIL}

    def __getitem__(self, label: str) -> Evidence:
        return self._found[label]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def __repr__(self) -> str:
        from harness.health.markdown import verdict

        task = self.report.model_facts.get("task", "")
        lines = [f"{self.report.model_name}{f', {task}' if task else ''}: {verdict(self.report)}"]
        for cause in self.report.causes:
            also = f" (also {', '.join(check.check_name.rpartition('::')[2] for check in cause.also)})" if cause.also else ""
            lines.append(f"  {cause.status}: {cause.owner.check_name.rpartition('::')[2]}: {cause.owner.message}{also}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        from harness.health.page import fragment

        return fragment(self.report)

    def save(self, folder: str | Path) -> Path:
        """Writes the report as JSON, Markdown and HTML into a folder; returns the page."""
        from harness.provenance import surroundings

        folder = Path(folder)
        self.report.environment = surroundings(Path.cwd()) | {"seed": self.seed, "device": self.device}
        self.report.save_json(folder / "health_report.json")
        self.report.save_markdown(folder / "health_report.md")
        return self.report.save_html(folder / "health_report.html")


def judge(
    model: nn.Module | Callable[[], nn.Module],
    example: Any = None,
    *,
    task: TaskSpec | None = None,
    adapter: Adapter | None = None,
    only: Collection[str] | None = None,
    tiers: Collection[int] = (1,),
    share: float = 1.0,
    seed: int = 0,
    progress: bool | None = None,
    fix_seconds: float = SECONDS,
) -> Judgement:
    """Judges a model object as it is, trained or not; a notebook shows the result.

    The model is left as it was, and so is the random state. Properties of fresh weights are skipped: whoever wants them judged gives a function
    that builds the model instead.

    Args:
        model: The model, or a function (or class) that builds it.
        example: Forward's arguments of one working call: a tensor, a tuple in order, or a dict by name. It can be left out where the model
            reads token ids, images or rows of numbers, or gives an example itself (``example_input_array``, ``dummy_inputs``).
        task: What the model is for; by default what its calls show.
        adapter: How it is called; by default as the example was.
        only: Names of properties, where not all are wanted.
        tiers: Which tiers: 1, 2 or both.
        share: Seconds that one test may draw examples.
        seed: Seed of what is drawn.
        progress: Whether to show a bar; by default in notebooks and on terminals.
        fix_seconds: Processor time that may be spent on a failure to look for a change of the code that fixes it; six times that on all.

    Raises:
        ExampleError: There is no example, or the model cannot be called with it.
        ValueError: A tier needs more than a model, or there is no such property.
    """
    given, name = _subject(model, example, task, adapter, seed)
    tests = selected_tests(given.task, tiers, only)
    found = Judgement(name, given.task.title, is_selection=only is not None, seed=seed, device=str(given.device))
    with shown_progress(len(tests), progress) as tell, seeded(seed):
        for done, (label, seconds, evidence) in enumerate(judged(given, tests, share, fix_seconds), 1):
            found.add(label, seconds, evidence)
            tell(done, label)
    return found


def _subject(
    model: nn.Module | Callable[[], nn.Module], example: Any, task: TaskSpec | None, adapter: Adapter | None, seed: int
) -> tuple[Subject, str]:
    """The model to judge, and its name; what is judged is a copy."""
    if isinstance(model, nn.Module):
        rebuild, original = None, taken(model)
    else:

        def rebuild(weights_seed: int) -> nn.Module:
            with seeded(weights_seed):
                return taken(model()).eval()

        original = rebuild(seed)
    pristine = Copies(original).fresh().eval()
    name = type(original).__name__
    with seeded(seed):
        task = task or task_of_model(pristine, example)
    build = None if rebuild is None else partial(rebuild, seed)
    copies = Copies(pristine, build)
    how = adapter or make_adapter(task)
    fresh = rebuild is not None
    return Subject(pristine, how, task, pristine, rebuild, seed, fresh_weights=fresh, given_copies=copies), name


def task_of_model(model: nn.Module, example: Any) -> TaskSpec:
    """The task type that a model fits, where no example says otherwise; or else the signature of its example, or of one that it gives itself.

    A call shows the shapes of a language model, but not that it promises to be causal and to ignore padding: of token ids, its task is found.
    """
    model = Copies(taken(model)).fresh().eval()
    arguments = None if example is None else arguments_of(example, model, "the example")
    if arguments is None or _is_ids(next(iter(arguments.values()), None)):
        with suppress(FactoryError):
            guess = guess_task(Copies(model).fresh)
            if guess.plan is None:
                return guess.task
    if arguments is None:
        found = find_example(model, sys.modules.get(type(model).__module__))
        if found is None:
            name = type(model).__name__
            raise ExampleError(f"{name} gives no example of a call: pass one, such as judge(model, torch.randn(2, 8))")
        arguments = found.arguments
    return task_of_example(model, arguments)


def _is_ids(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.int64 and value.ndim == 2


def judge_model(
    factory: Callable[[], nn.Module],
    task: TaskSpec,
    *,
    adapter: Adapter | None = None,
    seed: int = 0,
    share: float = 5.0,
    only: Collection[str] | None = None,
    tiers: Collection[int] = (1,),
    fix_seconds: float = 0.0,
) -> dict[str, Evidence]:
    """Judges every property of some tiers that applies to a task.

    Args:
        factory: Returns a fresh model; called again for the properties that need a second instance.
        task: What the model is for.
        adapter: How it is called; by default the task's own.
        seed: Seed of the weights and of what is drawn.
        share: Seconds that one property may draw examples.
        only: Names of properties, where not all are wanted.
        tiers: Which tiers; those that need nothing but a model are 1 and 2.
        fix_seconds: See ``judge``.

    Returns:
        The worst evidence of every test, by its name, such as ``finite_output[extremes]``.

    Raises:
        ValueError: A tier needs more than a model.
    """
    tests = selected_tests(task, tiers, only)

    def build(weights_seed: int) -> nn.Module:
        with seeded(weights_seed):
            model = unwrapped(factory())
            if set(tiers) == {1}:
                model = with_signature(model)
            refuse_compiled(model, "the model")
            return model.eval()

    pristine = build(seed)
    copies = Copies(pristine, lambda: build(seed))
    subject = Subject(pristine, adapter or make_adapter(task), task, pristine, build, seed, given_copies=copies)
    return {label: evidence for label, _, evidence in judged(subject, tests, share, fix_seconds)}


Test = tuple[str, "str | None"]
"""A property, and a case of it."""


def selected_tests(task: TaskSpec, tiers: Collection[int], only: Collection[str] | None = None) -> list[Test]:
    """The tests that make sense for a task.

    Args:
        task: The task.
        tiers: Which tiers.
        only: Names of properties, where not all are wanted.

    Raises:
        ValueError: A tier needs more than a model, or there is no such property.
    """
    for tier in tiers:
        if tier not in _TIERS:
            raise ValueError(f"tier {tier} needs more than a model: name a config to pytest, or judge tiers 1 and 2")
    for name in only or ():
        if name not in CATALOGUE:
            raise ValueError(f"there is no property {name!r}.{did_you_mean(name, CATALOGUE)}")
    entries = [
        (name, entry)
        for name, entry in CATALOGUE.items()
        if entry.tier in tiers and entry.applies_to(task) and (only is None or name in only)
    ]
    return [(name, case) for name, entry in entries for case in (entry.cases_for(task) if entry.cases else (None,))]


def judged(
    given: Subject, tests: Sequence[Test], share: float, fix_seconds: float = 0.0
) -> Iterator[tuple[str, float, Evidence]]:
    """Judges tests one after the other, each on a copy of the model: their names, seconds and evidence.

    Args:
        given: The model, with how it is copied.
        tests: The tests.
        share: Seconds that one test may draw examples.
        fix_seconds: See ``judge``.
    """

    def run(name: str, case: str | None) -> Evidence:
        subject = replace(given, model=given.copies.fresh(), given_copies=given.copies)
        judge = Judge(name, subject, share, given.seed, selection, case)
        with threads_for(given.model):
            found = run_test(judge, case, partial(_provide, subject))
            if fix_seconds:
                fixes.add(judge, case, lambda fixture, other: _provide(other, fixture), fix_seconds, source=None)
                found = judge.finish()
        return found

    fixes = Help(fix_seconds)
    answers = Answers(given.task, _TIERS)
    selection = Selection(
        frozenset(name for name, _ in tests), given.task.switched_off, partial(answers.of, run), answers.stands_in
    )
    for name, case in tests:
        started = time.perf_counter()
        evidence = run(name, case)
        yield name if case is None else f"{name}[{case}]", time.perf_counter() - started, evidence


def _provide(subject: Subject, fixture: str) -> object:
    if fixture == "study":
        from harness.analysis import Study

        return Study(subject)
    raise ValueError(f"{fixture!r} needs more than a model")
