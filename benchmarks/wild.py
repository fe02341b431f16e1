# ruff: noqa: E402  the repository is put on the path first
"""Measures what the suite finds of bugs that people reported: `tests/wild`.

python benchmarks/wild.py                        # both halves, a table by area
python benchmarks/wild.py --drawn after --json wild.json
python benchmarks/wild.py --draw 3                # the third draw only
python benchmarks/wild.py --only loading --verbose

A pair counts as found when the test that is about the bug fails (or warns, where it warns by design), as blamed when the module or the line
that is named is the right one, where there is one to name; anything red in its corrected twin is a false alarm. The bug is shown in plain
PyTorch first: a pair whose bug is not there, or is in the twin too, counts for nothing and ends the run with 1. Half of the pairs were written
when the checks were finished; theirs are the figures that speak for the suite. What their first run found, before anything was mended because
of it, is printed too: a count of what `tests/wild` keeps, not measured again. The other boards (`detection.py`) are of bugs that this project
made up.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1])]

from harness.evidence import Evidence, Status
from tests.planted_bugs.tester import judged_of_a_bug, whole_tier
from tests.wild.register import AREAS, NOISE, WildBug, wild_bugs, wrongness

GOALS = {"found": 0.85, "blamed": 0.75}
"""Shares that the pairs drawn after the checks must reach; false alarms must be none at all."""


@dataclass
class Outcome:
    """What was found in a pair.

    Attributes:
        name: The pair.
        area: Its area.
        draw: In which draw it was written, once the checks were finished; 0 where it was written before.
        shown: Whether plain PyTorch shows the bug in one model and not in the other.
        found: Whether the right test is red.
        elsewhere: Tests that are red where the right one is not.
        names_module: Whether there is a module or a line to name.
        blamed: Whether it is named.
        alarms: Tests that fail on the twin.
        seconds: What judging both took.
    """

    name: str
    area: str
    draw: int
    shown: bool = False
    found: bool = False
    elsewhere: list[str] = field(default_factory=list)
    names_module: bool = False
    blamed: bool = False
    alarms: list[str] = field(default_factory=list)
    seconds: float = 0.0


def main(arguments: list[str] | None = None) -> int:
    options = _options(arguments)
    chosen = [
        bug.name
        for bug in wild_bugs()
        if options.only in str(bug)
        and options.drawn in ("both", "after" if bug.drawn_after else "before")
        and options.draw in (None, bug.draw)
    ]
    if not chosen:
        print("no pair has such a name")
        return 2
    outcomes = []
    with ProcessPoolExecutor(options.processes) as pool:
        for outcome in pool.map(judge_pair, chosen):
            outcomes.append(outcome)
            if options.verbose:
                print(_line(outcome), flush=True)
    print(table(outcomes))
    print(first_run([_pairs()[name] for name in chosen]))
    for outcome in outcomes:
        if not options.verbose and not (outcome.shown and outcome.found and not outcome.alarms):
            print(_line(outcome))
    if options.json:
        options.json.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1))
    return 0 if reached(outcomes) else 1


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--drawn", default="both", choices=("before", "after", "both"), help="pairs written before or after their check"
    )
    parser.add_argument("--draw", type=int, help="pairs of this draw only; 0 for those written before their check")
    parser.add_argument("--only", default="", help="pairs whose area or name holds this")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--verbose", action="store_true", help="a line for every pair")
    return parser.parse_args(arguments)


@cache
def _pairs() -> dict[str, WildBug]:
    return {bug.name: bug for bug in wild_bugs()}


def judge_pair(name: str) -> Outcome:
    """What the suite finds in both models of a pair."""
    warnings.simplefilter("ignore")
    bug, started = _pairs()[name], time.perf_counter()
    outcome = Outcome(name, bug.area, bug.draw, names_module=bool(bug.module or bug.line))
    outcome.shown = not wrongness(bug, bug.buggy) <= 10 * NOISE and wrongness(bug, bug.sound) <= NOISE
    near = {name for each in bug.judged for name in judged_of_a_bug(each)}
    judged = tuple(name for name in whole_tier(bug.tier) if bug.tier < 3 or name in near)
    found = _judged(bug, bug.buggy, judged)
    evidence = bug.finding(found)
    outcome.found = evidence is not None
    outcome.blamed = evidence is not None and bug.blames(evidence)
    outcome.elsewhere = [] if outcome.found else _red(found)
    outcome.alarms = _red(_judged(bug, bug.sound, judged))
    outcome.seconds = round(time.perf_counter() - started, 1)
    return outcome


def _judged(bug: WildBug, build: object, judged: tuple[str, ...]) -> dict[str, Evidence]:
    with tempfile.TemporaryDirectory() as folder:
        return bug.setup(build).judge(judged, Path(folder))  # type: ignore[arg-type]


def _red(found: dict[str, Evidence]) -> list[str]:
    return [test for test, evidence in found.items() if evidence.status is Status.FAIL]


def table(outcomes: list[Outcome]) -> str:
    """The figures by area, of the pairs written before the checks, and of each draw after them, as a Markdown table."""
    rows = [("bugs", "pairs", "found by the right test", "right module or line named", "false alarms on twins")]
    rows += [_row(area, same) for area in AREAS if (same := [outcome for outcome in outcomes if outcome.area == area])]
    for draw in sorted({outcome.draw for outcome in outcomes}):
        label = f"draw {draw}, written after the checks" if draw else "written before the checks"
        rows.append(_row(f"**{label}**", [outcome for outcome in outcomes if outcome.draw == draw]))
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|---|--:|--:|--:|--:|", *lines[1:]])


def first_run(bugs: list[WildBug]) -> str:
    """What the suite found of pairs when it met them for the first time, a line for each draw: a count of what their register keeps."""
    lines = ["At the first run (history, kept in tests/wild, not measured now):"]
    for draw in sorted({bug.draw for bug in bugs if bug.drawn_after}):
        drawn = [bug for bug in bugs if bug.draw == draw]
        runs = [(bug, bug.first_run) for bug in drawn if bug.first_run]
        if not runs:
            lines.append(f"- draw {draw}: not kept of its {len(drawn)} pairs")
            continue
        named = [run.found and run.named for bug, run in runs if bug.module or bug.line]
        alarmed = sum(bool(run.alarms) for _, run in runs)
        lines.append(
            f"- draw {draw}: found {_share(run.found for _, run in runs)}, right module or line named {_share(named)}, "
            f"a false alarm on {alarmed} of {len(runs)} twins"
        )
    return "\n".join(lines)


def _row(label: str, outcomes: list[Outcome]) -> tuple[str, ...]:
    named = [outcome for outcome in outcomes if outcome.names_module]
    return (
        label,
        str(len(outcomes)),
        _share(outcome.found for outcome in outcomes),
        _share(outcome.blamed for outcome in named),
        str(sum(len(outcome.alarms) for outcome in outcomes)),
    )


def _share(values: Iterable[bool]) -> str:
    counted = list(values)
    return f"{sum(counted)} of {len(counted)} ({sum(counted) / len(counted):.0%})" if counted else "-"


def _line(outcome: Outcome) -> str:
    if not outcome.shown:
        return f"{outcome.area} {outcome.name}: plain PyTorch does not show the bug in one model and its absence in the other"
    found = "found" if outcome.found else f"missed (red: {', '.join(outcome.elsewhere) or 'nothing'})"
    alarms = f"; false alarms: {', '.join(outcome.alarms)}" if outcome.alarms else ""
    return f"{outcome.area} {outcome.name}: {found}{alarms} ({outcome.seconds} s)"


def reached(outcomes: list[Outcome]) -> bool:
    """Whether the goals hold: all bugs shown, no alarm, and the shares on the pairs drawn after the checks."""
    after = [outcome for outcome in outcomes if outcome.draw]
    named = [outcome for outcome in after if outcome.names_module]
    return (
        all(outcome.shown and not outcome.alarms for outcome in outcomes)
        and sum(outcome.found for outcome in after) >= GOALS["found"] * len(after)
        and sum(outcome.blamed for outcome in named) >= GOALS["blamed"] * len(named)
    )


if __name__ == "__main__":
    sys.exit(main())
