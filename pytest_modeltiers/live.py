"""Tiers 1 and 2 on a model object, without a config file or a pytest run: for notebooks, benchmarks and the project's own tests.

findings = judge_model(lambda: MyModel(), TaskSpec(TaskType.CAUSAL_LM, vocab_size=100, max_seq_len=32))
print(findings["causal"].explain())
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Any

from torch import nn

from harness.adapters import Adapter, make_adapter
from harness.catalogue import CATALOGUE
from harness.evidence import Evidence
from harness.models.annotated import axis_names
from harness.models.copies import Copies
from harness.models.examples import arguments_of
from harness.models.wrapped import refuse_compiled, unwrapped, with_signature
from harness.owners import Selection
from harness.properties.subject import Shared, Subject
from harness.runtime import seeded, threads_for
from harness.tasks import TaskSpec
from harness.tasks.declared import read_signature
from harness.tasks.finding import signature_from_call
from pytest_modeltiers.judge import Judge
from pytest_modeltiers.property_tests import Answers, run_test

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


def judge_model(
    factory: Callable[[], nn.Module],
    task: TaskSpec,
    *,
    adapter: Adapter | None = None,
    seed: int = 0,
    share: float = 5.0,
    only: Collection[str] | None = None,
    tiers: Collection[int] = (1,),
) -> dict[str, Evidence]:
    """Judges every property of some tiers that applies to a task.

    Args:
        factory: Returns a fresh model; called again for the properties that need a second instance.
        task: What the model is for.
        adapter: How it is called; by default the task's own.
        seed: Seed of the weights and of what is drawn.
        share: Seconds that one property may go on drawing examples.
        only: Names of properties, where not all are wanted.
        tiers: Which tiers; those that need nothing but a model are 1 and 2.

    Returns:
        The worst evidence of every test, by its name, such as ``finite_output[extremes]``.

    Raises:
        ValueError: A tier needs more than a model.
    """
    for tier in tiers:
        if tier not in _TIERS:
            raise ValueError(f"tier {tier} needs more than a model: name a config to pytest, or judge tiers 1 and 2")
    judged = [
        (name, entry)
        for name, entry in CATALOGUE.items()
        if entry.tier in tiers and entry.applies_to(task) and (only is None or name in only)
    ]

    def build(weights_seed: int) -> nn.Module:
        with seeded(weights_seed):
            model = unwrapped(factory())
            if set(tiers) == {1}:
                model = with_signature(model)
            refuse_compiled(model, "the model")
            return model.eval()

    pristine = build(seed)
    adapter = adapter or make_adapter(task)
    shared, copies = Shared(), Copies(pristine, lambda: build(seed))

    def run(name: str, case: str | None) -> Evidence:
        subject = Subject(
            copies.fresh(), adapter, task, pristine=pristine, rebuild=build, seed=seed, shared=shared, given_copies=copies
        )
        with threads_for(pristine):
            return run_test(Judge(name, subject, share, seed, selection, case), case, partial(_provide, subject))

    selection = Selection(frozenset(name for name, _ in judged), task.switched_off, partial(Answers(task, _TIERS).of, run))
    found: dict[str, Evidence] = {}
    for name, entry in judged:
        for case in entry.cases_for(task) if entry.cases else (None,):
            found[name if case is None else f"{name}[{case}]"] = run(name, case)
    return found


def _provide(subject: Subject, fixture: str) -> object:
    if fixture == "study":
        from harness.analysis import Study

        return Study(subject)
    raise ValueError(f"{fixture!r} needs more than a model")
