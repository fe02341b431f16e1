"""What a run of ``detection.py`` found, counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

PARTS = ("planted", "twins", "architectures", "mutants")

GOALS = {"planted_recall": 0.95, "mutant_first": 0.90, "module_named": 0.80}
"""Shares that a run must reach; false alarms must be none at all."""
FORWARD = (
    "shape_contract", "finite_output", "batch_independence", "causal", "padding_ignored", "eval_deterministic", "mode_round_trip",
    "stateless", "rng_untouched", "inputs_unchanged", "memory_layout", "input_dependence", "dtype_move", "device_move",
    "full_vocabulary", "full_length",
)  # fmt: skip
"""Properties of the forward pass, for which blame names a module."""


@dataclass
class Outcome:
    """What was found in a model.

    Attributes:
        part: One of ``PARTS``.
        name: The model.
        seed: Seed of its weights.
        kind: ``bug``, ``sound``, or of a mutant ``equivalent`` or ``other``, a different model without a bug.
        expected: The properties it breaks; any of them is the right one to name.
        blamed: The path that must be named; empty where none can be.
        found: The tests that failed, or warned, as they are shown: failures first.
        fails: How many of them failed.
        first: The property named first.
        module: The path named with it.
        message: Its first line.
        seconds: What the tiers took.
        error: What kept the model from being judged.
    """

    part: str
    name: str
    seed: int
    kind: str = "sound"
    expected: list[str] = field(default_factory=list)
    blamed: str = ""
    found: list[str] = field(default_factory=list)
    fails: int = 0
    first: str = ""
    module: str = ""
    message: str = ""
    seconds: float = 0.0
    error: str = ""

    @property
    def caught(self) -> bool:
        """Whether a property that the bug breaks is red, or yellow where it only warns."""
        return any(label.partition("[")[0] in self.expected for label in self.found)

    @property
    def right_first(self) -> bool:
        """Whether the first thing shown is a property that the bug breaks."""
        return self.first in self.expected

    @property
    def module_named(self) -> bool:
        """Whether blame names the module at fault or a part of it."""
        return self.module == self.blamed or self.module.startswith((f"{self.blamed}.", f"{self.blamed}["))

    @property
    def counts_for_blame(self) -> bool:
        """Whether it is a bug of the forward pass that was caught and has a module to name."""
        return bool(self.blamed) and self.right_first and self.first in FORWARD


def summary(outcomes: list[Outcome]) -> dict[str, Any]:
    """The figures of a run."""
    parts = {part: [o for o in outcomes if o.part == part] for part in PARTS}
    bugs = {part: [o for o in found if o.kind == "bug" and not o.error] for part, found in parts.items()}
    quiet = [o for o in outcomes if o.kind != "bug" and not o.error]
    blame = [o for o in bugs["planted"] + bugs["mutants"] if o.counts_for_blame]
    return {
        "planted": _figures(bugs["planted"]),
        "mutants": {
            **_figures(bugs["mutants"]),
            "drawn": len(parts["mutants"]),
            "equivalent": sum(o.kind == "equivalent" for o in parts["mutants"]),
            "other_sound_models": sum(o.kind == "other" for o in parts["mutants"]),
            "missed": [line_of(o) for o in bugs["mutants"] if not o.caught],
            "wrong_first": [line_of(o) for o in bugs["mutants"] if o.caught and not o.right_first],
        },
        "sound": {
            part: {
                "models": len(judged),
                "failures": [line_of(o) for o in judged if o.fails],
                "warned": sum(bool(o.found) for o in judged),
            }
            for part in PARTS
            if (judged := [o for o in quiet if o.part == part])
        },
        "blame": {
            "forward_bugs": len(blame),
            "module_named": _share(blame, lambda o: o.module_named),
            "wrong": [line_of(o) for o in blame if not o.module_named],
        },
        "seconds": {part: _seconds(found) for part, found in parts.items() if found},
        "not_judged": [line_of(o) for o in outcomes if o.error],
    }


def table(report: dict[str, Any]) -> str:
    """The figures as Markdown."""
    rows = [("bugs", "number", "caught", "right property first"), ("---", "--:", "--:", "--:")]
    for part, label in (("planted", "planted bugs"), ("mutants", "mutants with a bug")):
        figures = report[part]
        if figures["bugs"]:
            rows.append((label, str(figures["bugs"]), f"{figures['caught']:.1%}", f"{figures['right_first']:.1%}"))
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines += ["", "| sound models | number | failures | with warnings |", "|---|--:|--:|--:|"]
    for part, figures in report["sound"].items():
        lines.append(f"| {part} | {figures['models']} | {len(figures['failures'])} | {figures['warned']} |")
    blame = report["blame"]
    lines += ["", f"module named in {blame['module_named']:.1%} of {blame['forward_bugs']} forward bugs"]
    lines += [
        f"{part}: {figures['median']} s a model (median), {figures['longest']} s the longest"
        for part, figures in report["seconds"].items()
    ]
    mutants = report["mutants"]
    lines.append(
        f"{mutants['drawn']} mutants: {mutants['equivalent']} equivalent, {mutants['other_sound_models']} other sound models"
    )
    for title, found in (
        ("missed", mutants["missed"]),
        ("wrong property first", mutants["wrong_first"]),
        ("wrong module", blame["wrong"]),
        ("false alarms", [line for figures in report["sound"].values() for line in figures["failures"]]),
        ("not judged", report["not_judged"]),
    ):
        lines += ["", f"{title}:", *(f"    {line}" for line in found)] if found else []
    return "\n".join(lines)


def reached(report: dict[str, Any]) -> bool:
    """Whether a run reached what the project is held to."""
    return (
        report["planted"]["caught"] >= GOALS["planted_recall"]
        and report["mutants"]["right_first"] >= GOALS["mutant_first"]
        and report["blame"]["module_named"] >= GOALS["module_named"]
        and not any(figures["failures"] for figures in report["sound"].values())
        and not report["not_judged"]
    )


def _figures(bugs: list[Outcome]) -> dict[str, Any]:
    return {
        "bugs": len(bugs),
        "caught": _share(bugs, lambda o: o.caught),
        "right_first": _share(bugs, lambda o: o.right_first),
        "other_failures": round(
            sum(sum(x.partition("[")[0] not in o.expected for x in o.found) for o in bugs) / max(1, len(bugs)), 2
        ),
    }


def _share(outcomes: list[Outcome], holds: Callable[[Outcome], bool]) -> float:
    return round(sum(map(holds, outcomes)) / len(outcomes), 4) if outcomes else 1.0


def _seconds(outcomes: list[Outcome]) -> dict[str, float]:
    seconds = sorted(o.seconds for o in outcomes)
    return {"median": seconds[len(seconds) // 2], "longest": seconds[-1]}


def line_of(outcome: Outcome) -> str:
    expected = f" [{outcome.kind}: {', '.join(outcome.expected)}]" if outcome.expected else f" [{outcome.kind}]"
    found = outcome.error or f"{outcome.first or 'nothing'} ({outcome.module or '-'}) {outcome.message}"
    return f"{outcome.name} (seed {outcome.seed}){expected}: {found}"
