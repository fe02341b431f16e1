"""Bugs that several properties see: one card each, in the terminal, the report, JUnit and GitHub."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
from small_models import GOOD

LEAKS = GOOD.replace("def forward(self, input_ids):", "def forward(self, input_ids, attention_mask=None):").replace(
    "return x.cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None]", "return x.mean(1, keepdim=True)"
)
DROPS = GOOD.replace("x = self.embed(input_ids)", "x = nn.functional.dropout(self.embed(input_ids), 0.3)")
WRITES = GOOD.replace("x = self.embed(input_ids)", "input_ids[:, 0] = 1\n        x = self.embed(input_ids)")
OVERWRITES = GOOD.replace(
    "    def before(",
    "    def load_state_dict(self, *args, **kwargs):\n"
    "        result = super().load_state_dict(*args, **kwargs)\n"
    "        nn.init.constant_(self.head.bias, 0.5)\n"
    "        return result\n\n"
    "    def before(",
)
TWO_BUGS = (
    GOOD.replace("self.embed =", "self.mean = Mean()\n        self.embed =")
    .replace("self.before(x)", "self.mean(x)")
    .replace("nn.Linear(width, vocab_size)", "Head(width, vocab_size)")
    .replace(
        "class Model",
        "class Mean(nn.Module):\n    def forward(self, x):\n        return x.mean(1, keepdim=True)\n\n"
        "class Head(nn.Linear):\n    def forward(self, x):\n        return super().forward(x) / x.shape[1]\n\nclass Model",
    )
)
"""A module that sees later tokens, and another one that reads the padded length."""

TURNED = """\
from torch import nn

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.steps, self.head = nn.Embedding(32, 8), nn.GRU(8, 8), nn.Linear(8, 32)

    def forward(self, input_ids):
        return self.head(self.steps(self.embed(input_ids))[0])

def build_model():
    return Model()
"""
"""Reads token ids as [length, batch]."""

MIXES = GOOD.replace("x + self.before(x))", "x + self.before(x) - x.mean(0))")
"""Takes the mean of all rows from each."""

SHIFTS_TWICE = """\
import torch.nn.functional as F
from harness.adapters import CausalLMAdapter

class Adapter(CausalLMAdapter):
    def loss(self, logits, batch):
        return F.cross_entropy(logits.flatten(0, 1)[:-2], batch["labels"].flatten()[2:])
"""


@dataclass
class Run:
    """What one run said of several broken models."""

    lines: list[str]
    notes: list[str]
    reports: dict[str, dict[str, Any]]
    causes: dict[str, str]

    def cards(self, name: str) -> list[list[str]]:
        """The checks of each cause of a model, the owner first."""
        checks = {check["check_name"]: check for check in self.reports[name]["checks"] if check["status"] != "passed"}
        return [
            [owner.partition("::")[2], *(other.partition("::")[2] for other in check["details"].get("also_shows_as", ()))]
            for owner, check in checks.items()
            if "shown_under" not in check["details"]
        ]


MODELS = {
    "leaks": (LEAKS, ("causal", "padding_ignored")),
    "drops": (DROPS, ("eval_deterministic", "rng_untouched")),
    "writes": (WRITES, ("inputs_unchanged", "memory_layout", "input_dependence", "full_vocabulary")),
    "overwrites": (OVERWRITES, ("serialisation", "mode_round_trip")),
    "shifts": (GOOD, ("training_loss",)),
    "two": (TWO_BUGS, ("causal", "padding_ignored")),
    "turned": (TURNED, ("batch_independence", "training_loss")),
    "mixes": (MIXES, ("batch_independence", "accumulation")),
}
"""By name: a model's file, and the properties that are judged."""


@pytest.fixture
def run(project: Any, monkeypatch: pytest.MonkeyPatch) -> Run:
    """All of them in one run."""
    project.write("shift.py", SHIFTS_TWICE)
    for name, (model, only) in MODELS.items():
        more: dict[str, Any] = {
            "shifts": {"tier": "3", "adapter": "shift.py:Adapter"},
            "turned": {"tier": ["1", "3"]},
            "mixes": {"tier": ["1", "3"]},
        }.get(name, {"tier": "1"})
        project.config(f"{name}.json", only=only, model=model, pad_token_id=0, **more)
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("COLUMNS", "80")
    named = [argument for name in MODELS for argument in ("--model-config", f"{name}.json")]
    result = project.run(*named, "--model-report", "out", "--junitxml=junit.xml")
    properties = [
        {p.get("name"): p.get("value") for p in case.iter("property")} for case in project.tree("junit.xml").iter("testcase")
    ]
    return Run(
        result.outlines,
        [line for line in result.outlines if line.startswith(("::error", "::warning"))],
        {name: project.json(f"out/{name}/health_report.json") for name in MODELS},
        {
            p["modeltiers_nodeid"].replace("::TestTier1::test_", " "): p["modeltiers_cause"]
            for p in properties
            if "modeltiers_cause" in p
        },
    )


def test_each_bug_is_one_card_everywhere(run: Run) -> None:
    assert {name: run.cards(name) for name in MODELS} == {
        "leaks": [["causal", "padding_ignored"]],
        "drops": [["eval_deterministic", "rng_untouched"]],
        "writes": [
            ["input_dependence[order]"],
            ["inputs_unchanged", "input_dependence[tokens]"],
        ],
        "overwrites": [["serialisation[state_dict]", "mode_round_trip"]],
        "shifts": [["training_loss[targets]", "training_loss[reduction]"]],
        "two": [["causal"], ["padding_ignored"]],
        "turned": [["batch_independence[forward]", "training_loss[ignored_labels]", "training_loss[reduction]"]],
        "mixes": [["batch_independence[forward]", "batch_independence[gradient]", "accumulation"]],
    }, json.dumps({name: run.reports[name]["checks"] for name in MODELS}, indent=1)
    for name in MODELS:
        told = [line for line in run.lines if f"({name}.json): {2 if name == 'two' else 1} problem" in line]
        assert len(told) == 1, run.lines
    assert sorted(note.partition("title=")[2].partition("::")[0] for note in run.notes) == sorted(
        f"tier {3 if name == 'shifts' else 1}%3A {card[0]}" for name in MODELS for card in run.cards(name)
    )
    assert run.causes["leaks.json padding_ignored"] == run.causes["leaks.json causal"] == "causal"
    assert run.causes["two.json padding_ignored"] == "padding_ignored"
