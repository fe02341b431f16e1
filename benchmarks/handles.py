# ruff: noqa: E402  the repository is put on the path first
"""Measures whether what is said of a bug leads to the line to change, on the bugs of `tests/wild`.

python benchmarks/handles.py                     # tier 1, a table by area
python benchmarks/handles.py --draw 3 --verbose  # the third draw only, a line for every pair
python benchmarks/handles.py --tier 3 --only gradient

A pair is written out as its author would have written it: the argument that switches the bug on is folded away, in one file with the bug and in
one without. The lines in which the two files differ are the lines to change. A line is named where the place of the finding, or the call of the
function that raised, is at most two lines from one of them (the excerpt in a report shows as much), where a hint changes one of them, or where
the model with the hint's change is right by what the pair itself measures in plain PyTorch. A hint is right by that measure only. Pairs
that nothing finds are left out, as are those whose models are two classes.

Ends with 1 where fewer than 80% of the bugs have their line named, or a hint is not right.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import textwrap
import time
import warnings
from contextlib import chdir
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1])]


from written_pairs import Written, switch_of

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
from tests.planted_bugs.setups import Model, Setup, tests_of
from tests.planted_bugs.tester import judged_of_a_bug
from tests.planted_bugs.tier3.training import Training
from tests.wild.register import AREAS, WildBug, wild_bugs

GOAL = 0.8
_CALLED_AT = re.compile(r", called at line (\d+)\)")
_NEAR = 2


@dataclass
class Outcome:
    """What is said of a bug, beside the lines to change.

    Attributes:
        name: The pair.
        area: Its area.
        draw: See ``WildBug``.
        test: The test that finds it.
        found: Whether it does, of the bug as it is written out.
        place: File and line that are named.
        lines: The lines to change.
        near: Whether the place is one of them, or at most two lines away.
        hint: The change that is offered; empty where none is.
        hint_line: Whether it changes one of those lines.
        right: Whether the model with that change has the bug no more; ``None`` where the pair cannot measure models that are written out.
        seconds: Processor time of judging.
    """

    name: str
    area: str
    draw: int
    test: str
    found: bool = False
    place: str = ""
    lines: list[int] = field(default_factory=list)
    near: bool = False
    hint: str = ""
    hint_line: bool = False
    right: bool | None = False
    seconds: float = 0.0

    @property
    def named(self) -> bool:
        """Whether the line is named by the place or the hint."""
        return self.near or self.hint_line or bool(self.right)


def outcome_of(bug: WildBug, folder: Path, seconds: float) -> Outcome | None:
    """What is said of a bug; ``None`` where it cannot be written out."""
    switch = switch_of(bug)
    if switch is None:
        return None
    written = Written(bug, switch, folder)
    if not written.lines:
        return None
    outcome = Outcome(bug.name, bug.area, bug.draw, bug.test, lines=sorted(written.lines))
    started = time.process_time()
    judged = tuple(dict.fromkeys(name for each in bug.judged for name in judged_of_a_bug(each)))
    with tempfile.TemporaryDirectory() as files:
        evidence = bug.finding(_found(bug.setup(written.build), judged, Path(files), seconds))
    outcome.seconds = round(time.process_time() - started, 1)
    if evidence is None:
        return outcome
    outcome.found, outcome.place = True, evidence.place
    file, _, line = evidence.place.rpartition(":")
    said = [int(line)] if file == written.file.name and line.isdigit() else []
    said += [int(each) for each in _CALLED_AT.findall(evidence.message) if said]
    outcome.near = any(abs(each - one) <= _NEAR for each in written.lines for one in said)
    if change := evidence.fix:
        outcome.hint = change.text
        changes = range(change.line, change.line + len(change.old))
        outcome.hint_line = Path(change.file).name == written.file.name and not written.lines.isdisjoint(changes)
        outcome.right = written.is_right(bug, change)
    return outcome


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
        for bug in _chosen(options):
            outcome = outcome_of(bug, Path.cwd(), options.seconds)
            if outcome is not None:
                outcomes.append(outcome)
                if options.verbose:
                    print(line(outcome), flush=True)
    print(table(outcomes))
    for outcome in outcomes:
        if not options.verbose and outcome.found and (not outcome.named or (outcome.hint and outcome.right is False)):
            print(line(outcome))
    if options.json:
        options.json.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1))
    found = [outcome for outcome in outcomes if outcome.found]
    is_right = all(outcome.right is not False for outcome in found if outcome.hint)
    return 0 if is_right and sum(outcome.named for outcome in found) >= GOAL * len(found) else 1


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tier", type=int, default=1)
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


def _chosen(options: argparse.Namespace) -> list[WildBug]:
    part, parts = map(int, options.part.split("/"))
    bugs = [
        bug
        for bug in wild_bugs()
        if bug.tier == options.tier and not bug.missed and any(word in str(bug) for word in options.only.split(","))
    ]
    return [bug for bug in bugs if options.draw in (None, bug.draw)][part - 1 :: parts]


def line(outcome: Outcome) -> str:
    """What is said of a pair, in a line; the hint below it."""
    if not outcome.found:
        return f"{outcome.area} {outcome.name}: not found as it is written out"
    said = "named" if outcome.named else "not named"
    verdict = {True: "right", False: "WRONG", None: "not measured"}[outcome.right]
    hint = outcome.hint and f"; a hint, {verdict}\n{textwrap.indent(outcome.hint, '    ')}"
    lines = ", ".join(map(str, outcome.lines[:6]))
    return f"{outcome.area} {outcome.name}: {said}: {outcome.place or 'no place'}, to change: {lines}{hint}"


def table(outcomes: list[Outcome]) -> str:
    """The figures by area, of each draw, and of all, as a Markdown table."""
    rows: list[tuple[str, ...]] = [("bugs", "found", "line named", "place within two lines", "hints", "right hints")]
    rows += [_row(area, same) for area in AREAS if (same := [outcome for outcome in outcomes if outcome.area == area])]
    for draw in sorted({outcome.draw for outcome in outcomes}):
        label = f"draw {draw}" if draw else "written before the checks"
        rows.append(_row(f"**{label}**", [outcome for outcome in outcomes if outcome.draw == draw]))
    rows.append(_row("**all**", outcomes))
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|---|--:|--:|--:|--:|--:|", *lines[1:]])


def _row(label: str, outcomes: list[Outcome]) -> tuple[str, ...]:
    found = [outcome for outcome in outcomes if outcome.found]
    named, near, right = (sum(bool(getattr(each, key)) for each in found) for key in ("named", "near", "right"))
    share = f" ({named / len(found):.0%})" if found else ""
    return (
        label,
        f"{len(found)} of {len(outcomes)}",
        f"{named}{share}",
        str(near),
        str(sum(bool(each.hint) for each in found)),
        str(right),
    )


if __name__ == "__main__":
    sys.exit(main())
