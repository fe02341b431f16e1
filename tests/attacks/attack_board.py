"""The board of attacks: how many attempts are through, and which wall stops each.

``PYTHONPATH=. python tests/attacks/attack_board.py`` prints the table of ``SECURITY.md``; ``--list`` each attempt.
As root, ``--user`` runs it as nobody, who may need ``--light`` and the system's Python.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "isolation"), str(HERE.parents[1])]

from attack_child import needs_torch  # noqa: E402
from attack_field import GROUPS, Field, attempts, remove, run_without_isolation  # noqa: E402
from isolated_call import run_isolated  # noqa: E402

from harness.isolation.sandbox import Limits  # noqa: E402

LIMITS = Limits(file_bytes=2**20, memory_bytes=2 * 2**30)
GROUPS_HERE = ("parent", "reports", "loaders")
_SAID = {
    "refused by isolation": "audit hook",
    "picklescan found": "picklescan",
    "loading it would run code": "weights_only",
    "validation: ": "validation",
    "channel: ": "channel",
    "escapes": "escapes",
    "refused: ": "the reader",
}
_BY_NUMBER = {1: "seccomp", 38: "seccomp", 13: "Landlock", 27: "limits", 12: "limits", 24: "limits"}


@dataclass(frozen=True)
class End:
    """How an attempt ended.

    Attributes:
        name: Of the attempt.
        alone: How it ended without isolation.
        kernel: How it ended with the kernel's sandbox only.
        both: How it ended in isolation.
    """

    name: str
    alone: str
    kernel: str
    both: str

    @property
    def wall(self) -> str:
        """What stopped it in isolation."""
        return wall_of(self.both)


def wall_of(end: str) -> str:
    """The wall that an end shows."""
    if end == "through":
        return end
    for said, wall in _SAID.items():
        if said in end:
            return wall
    kind, _, rest = end.partition(" ")
    number = rest.partition(":")[0]
    found = _BY_NUMBER.get(int(number)) if number.lstrip("-").isdigit() else None
    if found:
        return found
    if "Operation not permitted" in end:
        return "seccomp"
    if "Permission denied" in end:
        return "Landlock"
    return {"empty:": "nothing was there", "nothing:": "seccomp", "MemoryError": "limits"}.get(kind, "other")


def run_on_this_side(folder: Path) -> list[End]:
    """Attempts on the process that asks, on who reads the reports, and on loaders; there is one way to run them."""
    import attempts_by_files
    import attempts_on_parent
    import attempts_on_reports

    folder.mkdir()
    found = {**attempts_on_parent.run(), **attempts_on_reports.run(), **attempts_by_files.run(folder)}
    return [End(name, "", "", "through" if end.startswith("through") else end) for name, end in found.items()]


def run_board(folder: Path, code: Mapping[str, str], *, alone: bool = True, kernel: bool = True) -> list[End]:
    """Runs attempts without isolation, with the kernel's sandbox only, and in isolation; each on its own field."""
    empty = dict.fromkeys(code, "")
    without = _run(folder / "alone", code, None) if alone else empty
    native = _run(folder / "kernel", code, ["attack_without_guard"]) if kernel else empty
    both = _run(folder / "both", code, [])
    return [End(name, without[name], native[name], both[name]) for name in code]


def _run(folder: Path, code: Mapping[str, str], preload: list[str] | None) -> dict[str, str]:
    folder.mkdir()
    field = Field(folder, code)
    os.environ["MARK_TOKEN"] = field.secret
    try:
        with field.watched() as locked, field.hidden.open() as inherited:
            os.set_inheritable(inherited.fileno(), True)
            if preload is None:
                found = run_without_isolation(field, folder / "free")
            else:
                heavy = ["torch", "numpy"] * any(needs_torch(one) for one in code.values())
                modules = [*heavy, "attack_child", *preload]
                isolated = run_isolated(
                    "attack_child:run_all", field.job(folder), own=[field.project], preload=modules, limits=LIMITS
                )
                if isolated.error:
                    raise AssertionError(isolated.error)
                found = isolated.value
        harmed = field.harmed()
    finally:
        field.close()
        del os.environ["MARK_TOKEN"]
    ends = {
        name: ("through" if name in locked else "nothing: it is not locked") if end == "locked" else end
        for name, end in found.items()
    }
    return {name: "through" if name in harmed else end for name, end in ends.items()}


def table(ends: list[End]) -> str:
    """The table of ``SECURITY.md``."""
    lines = [
        "| class | attempts | through without isolation | through the kernel's walls | through | stopped by |",
        "|---|--:|--:|--:|--:|---|",
    ]
    for group in (*GROUPS, *GROUPS_HERE, "all"):
        rows = [end for end in ends if group in ("all", end.name.partition("::")[0])]
        if not rows:
            continue
        walls = Counter(end.wall for end in rows if end.wall != "through")
        columns = zip(*((end.alone, end.kernel, end.both) for end in rows), strict=True)
        counts = [sum(found == "through" for found in column) if any(column) else "–" for column in columns]
        stopped = ", ".join(f"{wall} {number}" for wall, number in walls.most_common())
        lines.append(f"| {group} | {len(rows)} | {counts[0]} | {counts[1]} | {counts[2]} | {stopped} |")
    return "\n".join(lines)


def main() -> int:
    """Prints the board."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--list", action="store_true", help="print how each attempt ended")
    parser.add_argument("--user", action="store_true", help="as root: run as nobody")
    parser.add_argument(
        "--light", action="store_true", help="leave out what needs torch, and what has nothing to do with the sandbox"
    )
    options = parser.parse_args()
    if options.user and os.getuid() == 0:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        os.environ["HOME"] = "/nonexistent"
    folder = Path(tempfile.mkdtemp(prefix="modeltiers-attacks-"))
    try:
        code = {name: one for name, one in attempts().items() if not (options.light and needs_torch(one))}
        ends = run_board(folder, code) + ([] if options.light else run_on_this_side(folder / "here"))
    finally:
        remove(folder)
    if options.list:
        for end in ends:
            print(f"{end.name}\n    alone:  {end.alone}\n    kernel: {end.kernel}\n    both:   {end.both}")
    print(table(ends))
    return int(any(end.both == "through" for end in ends))


if __name__ == "__main__":
    raise SystemExit(main())
