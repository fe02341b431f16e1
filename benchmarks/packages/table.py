"""From the results of runs and their reviews to `results.json` and `results.md`."""

from __future__ import annotations

import json
import re
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from packages.entries import ENTRIES
from packages.entry import Entry

_HERE = Path(__file__).parent
_SMALL = 1_000_000
"""Parameters up to which the time of tier 1 is told."""

_HEAD = """\
# The board of packages

{entries} model classes of {packages} packages from PyPI that this project did not write, each built tiny with random weights. {fitting} fit
one of the eight task types, {declared} have a declared signature of at most ten lines, and of {waiting} a signature cannot say what they
take or return; those are named at the end. `python benchmarks/packages/run.py` runs them and writes this file; the reviews are in
`reviews.json`.

{ran} entries were run: through `modeltiers init` on a file that builds the model, and through tiers 1 to 4, declared signatures through
the tiers that they had at the time, under a `time_budget` of at most {budget:g} s. Their {tests} tests passed in {passed} cases and
warned in {warnings}; {failed} failed, in {red} of the models. Of these {true} are reviewed as true of the model, {ours} as ours, {open} are
not reviewed. {timed} `init` wrote a config that runs in {runs} cases: the entry's task in {right} (of a declared one its inputs and its first
output, with as many axes), and another one in {another}, with no red line in tier 1 but those that are true of the model. In {other} cases
tier 1 of its config has other red lines, or was not run; in {refused} it wrote none. {helped}
"""


@dataclass
class Row:
    """What became of one entry.

    Attributes:
        key: The entry.
        package: Its package.
        name: Its class.
        init: What `init` made of the model's file: ``right`` where it wrote the entry's task type and classes, or a signature with inputs and
            a first output of as many axes as the declared ones; ``runs (…)`` where it wrote another task, and tier 1 of that has no red line
            but those that are reviewed as true of the model; ``red (…)`` where it has others, with their tests; ``other (…)`` where tier 1
            was not run; ``refused``.
        helped: The same with the entry's `help_line`; empty where it has none.
        passed: Tests that passed.
        warnings: Tests that warned.
        failed: Tests that failed.
        skipped: Tests that were skipped.
        late: Those of them for which the time budget had nothing left, or that it cut short.
        red: The red lines, each with its message, the verdict of its review and the reason.
        amber: The warnings, likewise; one that nobody has reviewed does not fail the board.
        error: Why nothing was run.
        budget: The time budget in seconds.
        parameters: Of the model; 0 in rows that were run before this was counted.
        tier1_seconds: Processor time of the tests of tier 1; likewise.
        commit: The commit of this project that was run.
        fingerprint: The entry's, when it was run.
    """

    key: str
    package: str
    name: str
    init: str
    helped: str = ""
    passed: int = 0
    warnings: int = 0
    failed: int = 0
    skipped: int = 0
    late: int = 0
    red: list[dict[str, str]] = field(default_factory=list)
    amber: list[dict[str, str]] = field(default_factory=list)
    error: str = ""
    budget: float = 25.0
    parameters: int = 0
    tier1_seconds: float = 0.0
    commit: str = ""
    fingerprint: str = ""


def recorded_rows() -> dict[str, Row]:
    """The rows of `results.json` whose entries are still the same, by key."""
    file = _HERE / "results.json"
    rows = [Row(**row) for row in json.loads(file.read_text(encoding="utf-8"))] if file.is_file() else []
    return {row.key: row for entry in ENTRIES for row in rows if (row.key, row.fingerprint) == (entry.key, entry.fingerprint)}


def result_of(entry: Entry, folder: Path) -> dict[str, Any] | None:
    """What a run of an entry found; ``None`` where it was not run, or the entry was changed since."""
    file = folder / f"{entry.key}.json"
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return found if (found.get("model"), found.get("task")) == (entry.model_file, dict(entry.task)) else None


def write_results(work: Path) -> int:
    """Writes both, from the runs in ``work`` and the rows recorded before; returns 1 where a red line is ours, or has no review."""
    reviews = json.loads((_HERE / "reviews.json").read_text(encoding="utf-8"))
    recorded = recorded_rows()
    rows = []
    for entry in ENTRIES:
        result = result_of(entry, work)
        row = recorded.get(entry.key) if result is None else _row(entry, result)
        if row is not None:
            row.helped = recorded[entry.key].helped if entry.key in recorded else ""
            if entry.key in recorded and row.init != "refused" and _is_open(recorded[entry.key].init, reviews.get(entry.key, {})):
                row.init = recorded[entry.key].init  # a run of an entry does not run what `init` wrote
            if written := result_of(entry, work / "init"):
                row.init = init_outcome(entry, written, reviews.get(entry.key, {}))
            if written := result_of(entry, work / "helped"):
                row.helped = init_outcome(entry, written, reviews.get(entry.key, {}))
            row.red = [_reviewed(line, reviews.get(entry.key, {})) for line in row.red]
            row.amber = [_reviewed(line, reviews.get(entry.key, {})) for line in row.amber]
            rows.append(row)
    budget = max((row.budget for row in rows), default=0.0)
    (_HERE / "results.json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    (_HERE / "results.md").write_text("\n".join(_lines(rows, budget)) + "\n", encoding="utf-8")
    return int(any(line["verdict"] != "true" for row in rows for line in row.red))


def help_figures() -> str:
    """How many entries run by what `init` writes: by itself, with one option, with their task."""
    lines = {entry.key: entry.help_line for entry in ENTRIES}
    rows = recorded_rows()
    alone = {key for key, row in rows.items() if _runs(row.init)}
    helped = {key for key, row in rows.items() if key not in alone and _runs(row.helped)}
    option = sum(lines[key].startswith("--") for key in helped)
    meant = sum(row.init == "right" or row.helped == "right" for row in rows.values())
    share = (len(alone) + len(helped)) / max(1, len(rows))
    if not any(row.helped for row in rows.values()):
        return f"Without help {len(alone)} of {len(rows)} run."
    return (
        f"Without help {len(alone)} of {len(rows)} run, with one option of `init` {option} more, with a task of at most ten lines "
        f"{len(helped) - option} more:\n{share:.1%} together; {meant} of them as the task they are."
    )


def _runs(outcome: str) -> bool:
    return outcome == "right" or outcome.startswith("runs")


def _row(entry: Entry, result: Mapping[str, Any]) -> Row:
    row = Row(
        entry.key,
        entry.package,
        entry.name,
        init_outcome(entry, result, {}),
        budget=result["budget"],
        commit=result.get("commit", ""),
    )
    row.fingerprint = entry.fingerprint
    if "summary" not in result:
        row.error = _error(result)
        row.red = [_line("no test ran", row.error)]
        return row
    counts, skipped = result["summary"], result["skipped"]
    row.passed, row.warnings, row.failed = counts["passed"], counts["warnings"], counts["failed"]
    row.skipped, row.late = len(skipped), sum("time budget" in reason or "`time_budget`" in reason for reason in skipped.values())
    row.parameters, row.tier1_seconds = result.get("parameters", 0), result.get("tier1_seconds", 0.0)
    row.red = [_line(check["test"], check["message"]) for check in result["checks"] if check["status"] == "failed"]
    row.amber = [_line(check["test"], check["message"]) for check in result["checks"] if check["status"] == "warning"]
    return row


def _line(test: str, message: str) -> dict[str, str]:
    # Where the file lies on one machine is nobody else's matter.
    return {"test": test, "message": re.sub(r"/\S*/(?=internal_error)", "", message)}


def _reviewed(line: Mapping[str, str], reviews: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    review = reviews.get(line["test"], {})
    return {**line, "verdict": review.get("verdict", "not reviewed"), "why": review.get("why", "")}


def init_outcome(entry: Entry, result: Mapping[str, Any], reviews: Mapping[str, Mapping[str, str]]) -> str:
    """What `init` made of an entry, in the words of `Row.init`."""
    found = result.get("init") or {}
    config, tier1 = found.get("config"), found.get("tier1")
    if not config:
        return "refused"
    kind = config.get("task_type") or "a signature"
    if tier1 is not None:
        red = [check["test"] for check in tier1.get("failed", ())] if "error" not in tier1 else ["nothing ran"]
        ours = [test for test in red if reviews.get(test, {}).get("verdict") != "true"]
        if ours:
            return f"red ({', '.join(sorted(ours))})"
    if _is_task_of(entry, config):
        return "right"
    return f"runs ({kind})" if tier1 is not None else f"other ({kind})"


def _is_open(init: str, reviews: Mapping[str, Mapping[str, str]]) -> bool:
    """Whether tier 1 of what `init` wrote told something, red or not, that no review has answered since."""
    red = init.removeprefix("red (").removesuffix(")").split(", ") if init.startswith("red") else []
    return init.startswith("runs") or any(reviews.get(test, {}).get("verdict") != "true" for test in red)


def _is_task_of(entry: Entry, config: Mapping[str, Any]) -> bool:
    """Whether a config says the entry's task."""
    if entry.is_declared:
        return "outputs" in config and _layout(config) == _layout(entry.task)
    return all(config.get(key) == value for key, value in entry.task.items() if key in ("task_type", "num_classes"))


def _layout(task: Mapping[str, Any]) -> tuple[list[int], int]:
    """How many axes each input has that forward requires, and the first output."""
    required = [len(each["axes"]) for each in task["inputs"].values() if not each.get("optional")]
    return sorted(required), len(next(iter(task["outputs"].values())).get("axes", ()))


def _error(result: Mapping[str, Any]) -> str:
    lines = [line for line in str(result.get("error", "")).splitlines() if line.strip()]
    telling = [line for line in lines if line.startswith("E ")] or [
        line for line in lines if not line.startswith(("=", "_", "-"))
    ]
    return telling[0].removeprefix("E ").strip() if telling else "it ended without a word"


def _lines(rows: list[Row], budget: float) -> Iterator[str]:
    red = [line for row in rows for line in row.red]
    verdicts = Counter(line["verdict"] for line in red)
    waiting = [entry for entry in ENTRIES if not entry.task]
    yield _HEAD.format(
        entries=len(ENTRIES),
        packages=len({entry.package for entry in ENTRIES}),
        fitting=sum(bool(entry.task) and not entry.is_declared for entry in ENTRIES),
        declared=sum(entry.is_declared for entry in ENTRIES),
        waiting=len(waiting),
        ran=len(rows),
        budget=budget,
        tests=sum(row.passed + row.warnings + row.failed for row in rows),
        passed=sum(row.passed for row in rows),
        warnings=sum(row.warnings for row in rows),
        failed=len(red),
        red=sum(bool(row.red) for row in rows),
        true=verdicts["true"],
        ours=verdicts["ours"],
        open=verdicts["not reviewed"],
        timed=_timed(rows),
        runs=sum(_runs(row.init) for row in rows),
        right=sum(row.init == "right" for row in rows),
        another=sum(row.init.startswith("runs") for row in rows),
        other=sum(row.init.startswith(("other", "red")) for row in rows),
        refused=sum(row.init == "refused" for row in rows),
        helped=help_figures(),
    )
    yield "| package | class | passed | warned | failed | skipped (of these, no time) | `init` |\n|---|---|--:|--:|--:|--:|---|"
    for row in rows:
        skipped = f"{row.skipped} ({row.late})"
        yield f"| {row.package} | {row.name} | {row.passed} | {row.warnings} | {row.failed} | {skipped} | {row.init} |"
    yield "\n## Red lines\n"
    yield "| model | test | what it says | review | why |\n|---|---|---|---|---|"
    yield from (_reviewed_line(row.key, line) for row in rows for line in row.red)
    yield "\n## Warnings\n"
    yield "| model | test | what it says | review | why |\n|---|---|---|---|---|"
    yield from (_reviewed_line(row.key, line) for row in rows for line in row.amber)
    yield "\n## What a signature cannot say\n"
    for entry in waiting:
        yield f"- {entry.package} {entry.name}: {entry.waits}"


def _timed(rows: list[Row]) -> str:
    """A sentence on the processor time of tier 1, which newer rows hold; empty where none does."""
    seconds = sorted(row.tier1_seconds for row in rows if row.tier1_seconds and row.parameters <= _SMALL)
    if not seconds:
        return ""
    return (
        f"Tier 1 took {statistics.median(seconds):.1f} s of processor time in the median and at most {seconds[-1]:.1f} s, "
        f"of the {len(seconds)} models\nup to a million parameters whose time was taken."
    )


def _reviewed_line(key: str, line: Mapping[str, str]) -> str:
    return f"| {key} | {line['test']} | {_cell(line['message'])} | {line['verdict']} | {_cell(line['why'])} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
