# ruff: noqa: E402  the repository is put on the path first
"""Measures whether what is said of a bug leads to the line to change, on the bugs of `tests/wild` and `tests/planted_bugs`.

python benchmarks/handles.py                     # reported bugs of tier 1, tables by area and by property
python benchmarks/handles.py --draw 3 --verbose  # the third draw only, a line for every pair
python benchmarks/handles.py --tier 3 --only gradient
python benchmarks/handles.py --planted --seconds 0  # planted bugs, without hints
python benchmarks/handles.py --planted --tier 4  # of files: only those whose model differs from its twin

A pair of one class is written out as its author would have written it: the argument that switches the bug on is folded away, in one file with
the bug and in one without. The lines in which the two files differ are the lines to change; of two classes, those in which their methods
differ. Of a bug that is found, the place of the finding (or the call of the function that raised) is

- the line: at most one line from one to change, or a hint changes one of them;
- the function: elsewhere in a function that has one;
- elsewhere, or none.

A hint is right where the model with its change is, by what a reported pair itself measures in plain PyTorch. Pairs that nothing finds are left
out, as are those without a line to change, such as a training key.

Ends with 1 where fewer than 80% of the bugs have their line named, or a hint is not right.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
import tempfile
import textwrap
import time
import warnings
from collections.abc import Callable
from contextlib import chdir, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1])]


import torch
from written_pairs import Line, Written, lines_between, switch_of

from harness.catalogue import CATALOGUE
from harness.config import TrainingConfig
from harness.evidence import Evidence
from harness.owners import Selection
from harness.properties.subject import Subject
from harness.runtime import threads_for
from harness.training.trial import Trial
from pytest_modeltiers.fixes import look_for_fix
from pytest_modeltiers.live import judge_model
from pytest_modeltiers.property_tests import run_test
from pytest_modeltiers.verdicts import Judge
from tests.planted_bugs.register import PlantedBug, all_bugs
from tests.planted_bugs.setups import Factory, Model, Setup, tests_of
from tests.planted_bugs.tester import judged_of_a_bug
from tests.planted_bugs.tier3.training import Training
from tests.planted_bugs.tier4.exports import Exported
from tests.wild.register import AREAS, WildBug, wild_bugs

GOAL = 0.8
_CALLED_AT = re.compile(r", called at line (\d+)\)")
_NEAR = 1


@dataclass
class Outcome:
    """What is said of a bug, beside the lines to change.

    Attributes:
        name: The pair.
        area: Its area, or the tier of a planted bug.
        draw: See ``WildBug``.
        test: The test that finds it.
        found: Whether it does, of the bug as it is written out.
        place: File and line that are named.
        lines: The lines to change.
        where: ``line``, ``function``, ``elsewhere`` or ``none``: where the place is, beside the lines to change.
        hint: The change that is offered; empty where none is.
        right: Whether the model with that change has the bug no more; ``None`` where the pair cannot measure models that are written out.
        seconds: Processor time of judging.
    """

    name: str
    area: str
    draw: int
    test: str
    found: bool = False
    place: str = ""
    lines: list[Line] = field(default_factory=list)
    where: str = "none"
    hint: str = ""
    right: bool | None = None
    seconds: float = 0.0

    @property
    def property(self) -> str:
        """The property that finds it."""
        return self.test.partition("[")[0]


@dataclass
class Pair:
    """A bug of one of the registers, and what is the same for both.

    Attributes:
        bug: The bug.
        name: Its name, which is also that of a file.
        buggy: Makes the model with it.
        sound: Makes the model without it.
    """

    bug: WildBug | PlantedBug

    @property
    def name(self) -> str:
        return re.sub(r"\W+", "_", self.bug.name)

    @property
    def buggy(self) -> Factory:
        return self.bug.buggy if isinstance(self.bug, WildBug) else _model_of(self.bug.buggy)

    @property
    def sound(self) -> Factory:
        return self.bug.sound if isinstance(self.bug, WildBug) else _model_of(self.bug.sound)

    def setup(self, build: Factory) -> Setup:
        """What judges a model; of tier 4 the bug's own, which exports it."""
        if isinstance(self.bug, WildBug):
            return self.bug.setup(build)
        return self.bug.buggy if isinstance(self.bug.buggy, Exported) else replace(self.bug.buggy, build=build)  # type: ignore[type-var,call-arg]

    def finding(self, found: dict[str, Evidence]) -> Evidence | None:
        """What is found of the bug."""
        if isinstance(self.bug, WildBug):
            return self.bug.finding(found)
        evidence = found.get(self.bug.test)
        return evidence if evidence is not None and evidence.status is self.bug.status else None


def _model_of(setup: Setup) -> Factory:
    """Makes the model of a planted bug; of tier 4 the one that is exported, from a folder that stays, as the model's code may lie in it."""
    if isinstance(setup, Exported):
        return lambda: setup.prepare(Path(tempfile.mkdtemp(dir=Path.cwd()))).subject.model
    return setup.build  # type: ignore[attr-defined,no-any-return]


def outcome_of(pair: Pair, folder: Path, seconds: float) -> Outcome | None:
    """What is said of a bug; ``None`` where there is no line of code to change."""
    bug, switch, written = pair.bug, switch_of(pair), None
    with suppress(TypeError):  # what the switch is handed on to cannot be folded
        written = None if switch is None else Written(pair, switch, folder)
    if written is not None:
        lines, build = {(written.file.name, line) for line in written.lines}, written.build
    else:
        with torch.random.fork_rng(devices=[]):
            lines, build = lines_between(pair.buggy(), pair.sound()), pair.buggy
    if not lines:
        return None
    is_wild = isinstance(bug, WildBug)
    outcome = Outcome(
        bug.name, bug.area if is_wild else f"tier {bug.tier}", bug.draw if is_wild else 0, bug.test, lines=sorted(lines)
    )
    started = time.process_time()
    tests = bug.tests if is_wild else (bug.test,)
    judged = tuple(dict.fromkeys(name for each in tests for name in judged_of_a_bug(each.partition("[")[0])))
    with tempfile.TemporaryDirectory() as files:
        evidence = pair.finding(_found(pair.setup(build), judged, Path(files), seconds))
    outcome.seconds = round(time.process_time() - started, 1)
    if evidence is None:
        return outcome
    outcome.found, outcome.place, outcome.where = True, evidence.place, _where(evidence, lines)
    if change := evidence.fix:
        outcome.hint = change.text
        changes = {(Path(change.file).name, line) for line in range(change.line, change.line + len(change.old))}
        outcome.where = outcome.where if lines.isdisjoint(changes) else "line"
        outcome.right = written.is_right(bug, change) if written is not None and is_wild else None
    return outcome


def _where(evidence: Evidence, lines: set[Line]) -> str:
    """Where the place of a finding is, beside the lines to change; see ``Outcome``."""
    file, _, line = evidence.place.rpartition(":")
    if not line.isdigit():
        return "none"
    said = [int(line), *map(int, _CALLED_AT.findall(evidence.message))]
    own = [number for name, number in lines if name == Path(file).name]
    if any(abs(each - one) <= _NEAR for each in own for one in said):
        return "line"
    code = Path(evidence.excerpt.file) if evidence.excerpt is not None else None
    functions = [node for node in ast.walk(ast.parse(code.read_text())) if isinstance(node, ast.FunctionDef)] if code else []
    around = [range(node.lineno, (node.end_lineno or node.lineno) + 1) for node in functions]
    return "function" if any(int(line) in each and not set(own).isdisjoint(each) for each in around) else "elsewhere"


def _found(setup: Setup, judged: tuple[str, ...], files: Path, seconds: float) -> dict[str, Evidence]:
    """What properties find, with a hint where one is found in so many seconds of processor time."""
    if isinstance(setup, Model):
        return judge_model(setup.build, setup.task, only=judged, fix_seconds=seconds)
    if not isinstance(setup, Training):
        return setup.judge(judged, files)
    first = setup.trial(files)

    def trial_of(_fixture: str, subject: Subject) -> Trial:
        trial = Trial.of(subject, TrainingConfig(**setup.config))
        trial.seconds, trial.source = first.seconds, first.source
        return trial

    found = {}
    for name in judged:
        for test, case in tests_of(name, setup.task):
            judge = Judge(name, replace(first.subject), 5.0, 0, Selection(frozenset(judged)), case or None)
            with threads_for(first.subject.model):
                run_test(judge, case or None, partial(trial_of, subject=judge.subject))
                look_for_fix(judge, case or None, trial_of, seconds)
            found[test] = judge.finish()
    return found


def main(arguments: list[str] | None = None) -> int:
    options = _options(arguments)
    warnings.simplefilter("ignore")
    outcomes = list[Outcome]()
    with tempfile.TemporaryDirectory() as folder, chdir(options.folder or folder):
        for pair in _chosen(options):
            outcome = outcome_of(pair, Path.cwd(), options.seconds)
            if outcome is not None:
                outcomes.append(outcome)
                if options.verbose:
                    print(line(outcome), flush=True)
    for by in (_by_area, _by_property):
        print(table(outcomes, by), end="\n\n")
    for outcome in outcomes:
        if not options.verbose and outcome.found and (outcome.where != "line" or outcome.right is False):
            print(line(outcome))
    if options.json:
        options.json.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1))
    found = [outcome for outcome in outcomes if outcome.found]
    is_right = all(outcome.right is not False for outcome in found if outcome.hint)
    return 0 if is_right and sum(outcome.where == "line" for outcome in found) >= GOAL * len(found) else 1


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tier", type=int, default=1)
    parser.add_argument("--planted", action="store_true", help="bugs of tests/planted_bugs instead")
    parser.add_argument("--draw", type=int, help="pairs of this draw only; 0 for those written before their check")
    parser.add_argument("--only", default="", help="pairs whose area or name holds this")
    parser.add_argument("--part", default="1/1", help="a part of the pairs, such as 1/2 and 2/2, for several processes")
    parser.add_argument("--seconds", type=float, default=2.0, help="processor time for a hint, as `--model-hints`")
    parser.add_argument("--folder", type=Path, help="an empty folder that keeps the written files")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--verbose", action="store_true", help="a line for every pair")
    options = parser.parse_args(arguments)
    options.json = options.json and options.json.absolute()
    return options


def _chosen(options: argparse.Namespace) -> list[Pair]:
    part, parts = map(int, options.part.split("/"))
    bugs: list[WildBug] | list[PlantedBug] = all_bugs(options.tier) if options.planted else wild_bugs()
    pairs = [
        Pair(bug)
        for bug in bugs
        if bug.tier == options.tier and not bug.missed and any(word in str(bug) for word in options.only.split(","))
    ]
    return [pair for pair in pairs if options.draw in (None, getattr(pair.bug, "draw", 0))][part - 1 :: parts]


def line(outcome: Outcome) -> str:
    """What is said of a pair, in a line; the hint below it."""
    if not outcome.found:
        return f"{outcome.area} {outcome.name}: not found as it is written out"
    verdict = {True: "right", False: "WRONG", None: "not measured"}[outcome.right]
    hint = outcome.hint and f"; a hint, {verdict}\n{textwrap.indent(outcome.hint, '    ')}"
    lines = ", ".join(f"{file}:{number}" for file, number in outcome.lines[:6])
    return (
        f"{outcome.area} {outcome.name} {outcome.test}: {outcome.where}: {outcome.place or 'no place'}, to change: {lines}{hint}"
    )


def _by_area(outcome: Outcome) -> tuple[str, ...]:
    return outcome.area, f"**draw {outcome.draw}**" if outcome.draw else "**written before the checks**"


def _by_property(outcome: Outcome) -> tuple[str, ...]:
    return (outcome.property,)


def table(outcomes: list[Outcome], by: Callable[[Outcome], tuple[str, ...]]) -> str:
    """The figures of each group and of all bugs together, as a Markdown table."""
    rows: list[tuple[str, ...]] = [
        ("bugs", "found", "the line", "the function", "elsewhere", "none", "of the lines named, right", "hints", "right hints")
    ]
    order = [*AREAS, *CATALOGUE]
    groups = sorted(
        {group for outcome in outcomes for group in by(outcome)}, key=lambda group: (group[0] == "*", group not in order, group)
    )
    rows += [_row(group, [outcome for outcome in outcomes if group in by(outcome)]) for group in groups]
    rows.append(_row("**all**", outcomes))
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|---|" + "--:|" * (len(rows[0]) - 1), *lines[1:]])


def _row(label: str, outcomes: list[Outcome]) -> tuple[str, ...]:
    found = [outcome for outcome in outcomes if outcome.found]
    said = {where: sum(each.where == where for each in found) for where in ("line", "function", "elsewhere", "none")}
    named = len(found) - said["none"]
    return (
        label,
        f"{len(found)} of {len(outcomes)}",
        f"{said['line']} ({said['line'] / len(found):.0%})" if found else "-",
        *(str(said[where]) for where in ("function", "elsewhere", "none")),
        f"{said['line'] / named:.0%}" if named else "-",
        str(sum(bool(each.hint) for each in found)),
        str(sum(each.right is True for each in found)),
    )


if __name__ == "__main__":
    sys.exit(main())
