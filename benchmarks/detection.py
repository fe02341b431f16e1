# ruff: noqa: E402  the repository is put on the path first
"""Measures what the tiers find: in planted bugs, in automatic mutants, and, where nothing may be found, in sound models.

python benchmarks/detection.py                                  # everything
python benchmarks/detection.py --parts mutants --mutants 500 --log mutants.jsonl --processes 2
python benchmarks/detection.py --quick

A mutant counts as a bug when it breaks a promise that its sound model keeps, as found by brute force in `mutations/oracle`, which shares no
code with the checks. Where it breaks none it must raise no alarm, whether it is equivalent to its sound model or merely another one.
What is in the log is not judged again, so a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

import torch
from architectures import architectures
from detection_figures import PARTS, Outcome, line_of, reached, summary, table
from mutations.bases import Base
from mutations.mutant import Mutant, draw
from mutations.oracle.verdict import judge, violations_of

from harness.catalogue import CATALOGUE
from harness.evidence import Evidence, Status
from harness.tasks import TaskSpec
from pytest_modeltiers.live import judge_model
from tests.planted_bugs.register import PlantedBug, all_bugs
from tests.planted_bugs.setups import Model

_QUICK = 8
"""Mutants of a quick run."""
LIMIT = 300
"""Seconds that one model may take."""


@dataclass(frozen=True)
class Case:
    """A model to judge: which part it belongs to, its number there, and the seed of its weights."""

    part: str
    index: int
    seed: int


@dataclass(frozen=True)
class Judging:
    """What a model is judged by: seconds that one property may go on drawing examples, the tiers, the properties of them."""

    share: float
    tiers: tuple[int, ...]
    only: frozenset[str]


class OutOfTimeError(BaseException):
    """The model took longer than it may; not an ``Exception``, which a property would take for the model's."""


def main(arguments: list[str] | None = None) -> int:
    options = _options(arguments)
    cases = [case for part in options.parts for case in _cases(part, options)]
    done = _logged(options.log)
    outcomes = [done[key] for case in cases if (key := (case.part, _name(case), case.seed)) in done]
    missing = [case for case in cases if (case.part, _name(case), case.seed) not in done]
    started = time.perf_counter()
    for outcome in _outcomes(missing, options):
        outcomes.append(outcome)
        if options.log:
            with options.log.open("a") as log:
                log.write(json.dumps(asdict(outcome)) + "\n")
        if options.verbose:
            print(f"{len(outcomes)}/{len(cases)} {line_of(outcome)}", flush=True)
    report = summary(outcomes)
    report["minutes"] = round((time.perf_counter() - started) / 60, 1)
    print(table(report))
    if options.json:
        options.json.write_text(json.dumps({**report, "outcomes": [asdict(outcome) for outcome in outcomes]}, indent=1))
    return 0 if options.quick or reached(report) else 1


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="*", default=PARTS, choices=PARTS)
    parser.add_argument("--mutants", type=int, default=600, help="how many are drawn")
    parser.add_argument("--seeds", type=int, default=20, help="seeds of the weights of sound models")
    parser.add_argument("--seed", type=int, default=0, help="which mutants are drawn")
    parser.add_argument("--only", default="", help="judge the models whose name holds this")
    parser.add_argument("--tiers", nargs="*", type=int, default=[1], choices=(1, 2))
    parser.add_argument("--without", nargs="*", default=[], help="properties to leave out, such as compiled, which takes longest")
    parser.add_argument("--share", type=float, default=60.0, help="seconds that one property may go on drawing examples")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="a few models of each part")
    parser.add_argument("--log", type=Path, help="a line for every model; what it holds is not judged again")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--verbose", action="store_true")
    return parser.parse_args(arguments)


def _cases(part: str, options: argparse.Namespace) -> list[Case]:
    """The models of a part."""
    seeds = range(options.seeds) if part in ("twins", "architectures") else (0,)
    if part == "mutants":
        count = _QUICK if options.quick else options.mutants
        cases = [Case(part, index, options.seed) for index in range(count)]
        _mutants(count, options.seed)
    else:
        numbers = range(0, len(_models(part)), len(_models(part)) // 3) if options.quick else range(len(_models(part)))
        cases = [Case(part, index, seed) for index in numbers for seed in (seeds[:1] if options.quick else seeds)]
    return [case for case in cases if options.only in _name(case)]


def _outcomes(cases: list[Case], options: argparse.Namespace) -> Iterator[Outcome]:
    judging = Judging(options.share, tuple(options.tiers), frozenset(CATALOGUE) - set(options.without))
    if options.processes == 1:
        _prepare()
        for case in cases:
            yield _outcome(case, judging)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.processes, context, _prepare) as pool:
        yield from pool.map(_outcome, cases, [judging] * len(cases))


def _prepare() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    gc.freeze()


def _outcome(case: Case, judging: Judging) -> Outcome:
    """Judges one model."""
    outcome = Outcome(case.part, _name(case), case.seed)
    try:
        with _time_limit(LIMIT):
            _judge(case, outcome, judging)
    except OutOfTimeError:
        outcome.error = f"not judged within {LIMIT} s"
    except Exception as error:
        outcome.error = f"{type(error).__name__}: {str(error)[:200]}"
    return outcome


def _judge(case: Case, outcome: Outcome, judging: Judging) -> None:
    if case.part == "mutants":
        mutant = _mutant(case)
        _know(mutant.base)
        verdict = judge(mutant)
        outcome.kind = "bug" if verdict.broken else ("equivalent" if verdict.equivalent else "other")
        outcome.expected, outcome.blamed = list(verdict.broken), mutant.blamed
        factory, task = mutant, mutant.base.task
    else:
        factory, task = _model(case)
        if case.part == "planted":
            bug = _bugs()[case.index]
            outcome.kind, outcome.expected, outcome.blamed = "bug", [bug.property], bug.module
    started = time.perf_counter()
    findings = judge_model(factory, task, seed=case.seed if case.part != "mutants" else 0, **asdict(judging))
    outcome.seconds = round(time.perf_counter() - started, 2)
    _note(outcome, findings)


def _note(outcome: Outcome, findings: dict[str, Evidence]) -> None:
    order = list(CATALOGUE)
    shown = [(label, e) for label, e in findings.items() if e.status in (Status.FAIL, Status.WARN)]
    shown.sort(key=lambda item: (-item[1].status.severity, order.index(item[1].name)))
    outcome.found = [label for label, _ in shown]
    outcome.fails = sum(e.status is Status.FAIL for _, e in shown)
    if shown:
        _, first = shown[0]
        outcome.first, outcome.module, outcome.message = first.name, first.module, first.message


@contextmanager
def _time_limit(seconds: int) -> Iterator[None]:
    def stop(*_signal: Any) -> None:
        raise OutOfTimeError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@cache
def _know(base: Base) -> None:
    """Finds out once what a sound model looks like; what is kept of it need not be collected again and again."""
    violations_of(base)
    gc.collect()
    gc.freeze()


@cache
def _bugs() -> list[PlantedBug]:
    return all_bugs(1)


@cache
def _models(part: str) -> list[tuple[str, Callable[[], torch.nn.Module], TaskSpec]]:
    """Names, factories and tasks of a part's models."""
    if part == "planted":
        return [(bug.name, bug.buggy.build, bug.buggy.task) for bug in _bugs() if isinstance(bug.buggy, Model)]
    if part == "twins":
        twins = {bug.sound.build: bug.sound for bug in _bugs() if isinstance(bug.sound, Model)}
        return [(twin.name, twin.build, twin.task) for twin in twins.values()]
    return [(name, architecture.factory, architecture.task) for name, architecture in architectures().items()]


def _model(case: Case) -> tuple[Callable[[], torch.nn.Module], TaskSpec]:
    _, factory, task = _models(case.part)[case.index]
    return factory, task


@cache
def _mutants(count: int, seed: int) -> list[Mutant]:
    return draw(count, seed)


def _mutant(case: Case) -> Mutant:
    # A larger count draws the same mutants first; by hundreds, so that few lists are drawn.
    return _mutants((case.index // 100 + 1) * 100, case.seed)[case.index]


def _name(case: Case) -> str:
    return _mutant(case).name if case.part == "mutants" else _models(case.part)[case.index][0]


def _logged(log: Path | None) -> dict[tuple[str, str, int], Outcome]:
    if log is None or not log.exists():
        return {}
    outcomes = [Outcome(**json.loads(line)) for line in log.read_text().splitlines()]
    return {(o.part, o.name, o.seed): o for o in outcomes}


if __name__ == "__main__":
    sys.exit(main())
