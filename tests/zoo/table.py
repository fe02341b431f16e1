"""Prints what tier 1 finds in every planted bug: ``python -m tests.zoo.table [NAME …]``."""

from __future__ import annotations

import sys
import time

from harness.evidence import Status
from pytest_modeltiers.live import judge_model

from .pairs import Pair, all_pairs

COLUMNS = ("name", "expected", "caught", "module named", "other failures", "seconds")


def row(pair: Pair) -> tuple[str, ...]:
    """What the whole of tier 1 finds in a buggy model, as cells of the table."""
    started = time.perf_counter()
    findings = judge_model(pair.buggy, pair.task)
    finding = findings[pair.test]
    others = [test for test, other in findings.items() if other.status is Status.FAIL and test != pair.test]
    named = f"{finding.module or '-'}{'' if pair.blames(finding.module) else f' (want {pair.module})'}"
    caught = "yes" if finding.status is pair.status else f"NO: {finding.status.value}"
    return pair.name, pair.test, caught, named, ", ".join(others) or "-", f"{time.perf_counter() - started:.1f}"


def main(names: list[str]) -> None:
    """Prints a row for every pair, or for those that are named."""
    print("| " + " | ".join(COLUMNS) + " |")
    print("|" + "---|" * len(COLUMNS))
    for pair in all_pairs():
        if not names or pair.name in names:
            try:
                cells = row(pair)
            except Exception as error:  # a crash of the machinery is a row of its own
                cells = (pair.name, pair.test, f"CRASH: {type(error).__name__}: {str(error)[:120]}", "", "", "")
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
