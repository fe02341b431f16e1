"""A verdict is the same whatever is selected, ran before, or runs beside it: status, message, counterexample and blame.

Selection may change one thing: a skip that refers to a property that fails is a failure where that property is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from planted_bugs.register import PlantedBug, all_bugs
from planted_bugs.tester import LEARNING
from planted_bugs.tier2.analysed import Analysed
from planted_bugs.tier3.training import Training
from projects import Project, load_tiers
from small_models import GOOD, LEAKY

from harness.catalogue import CATALOGUE, facts
from harness.catalogue.entry import Sign
from harness.evidence import Status
from harness.owners import REFERS
from harness.tasks.keys import declared_keys

load_tiers(2)

LOGITS = "return self.head(x + self.before(x))"
BOTTOMLESS = GOOD.replace(LOGITS, "return self.head(x + self.before(x)).log()")
RANDOM = GOOD.replace(LOGITS, "return nn.functional.dropout(self.head(x + self.before(x)))")
FRAGILE = GOOD.replace("x = self.embed", "assert input_ids.shape[0] < 3 or input_ids.shape[1] < 12\n        x = self.embed")
MODELS = {"sound": GOOD, "leaky": LEAKY, "nan": BOTTOMLESS, "random": RANDOM, "fragile": FRAGILE}

SIZES = ("vocab_size", "max_seq_len", "pad_token_id", "num_classes", "num_features", "image_size")

FEW = ("shape_contract", "finite_output", "eval_deterministic", "causal", "padding_ignored", "memory_footprint", "attribution")

EXAMPLES = Path(__file__).parents[2] / "examples"

LOSSES = Path(__file__).parents[1] / "planted_bugs/tier3/declared_losses.py"
"""The losses that declared tasks of planted bugs name."""

SHUFFLED = """
import random

def pytest_collection_modifyitems(items):
    random.Random(3).shuffle(items)
"""

_TIMES = re.compile(r"\d[\d.]* (?:ms|s)\b|\d+(?:\.\d+)?(?:e[-+]?\d+)? (?:times|MiB)")

_PLACE = re.compile(r" \(\w+\.py:\d+\)$")
"""Where to look, which follows the message of a failure."""


class Verdict(NamedTuple):
    """What a test says; times are left out of its message."""

    status: str
    message: str
    counterexample: str = ""
    module: str = ""


def run(project: Project, config: Path, *args: Any, beside: Path | None = None) -> dict[str, Verdict]:
    """The verdicts of a run, by the name of the check."""
    configs = [config] if beside is None else [beside, config]
    options = [part for path in configs for part in ("--model-config", path)]
    project.run(*options, "--model-report", "out", *args)
    return read(project, config, beside)


def read(project: Project, config: Path, beside: Path | None = None) -> dict[str, Verdict]:
    folder = project.path / "out" / (config.stem if beside else "")
    report = json.loads((folder / "health_report.json").read_text())
    found = {check["check_name"]: verdict_of(check) for check in report["checks"]}
    return found | {skip["check_name"]: Verdict("skipped", skip["reason"]) for skip in report["skipped"] if is_run(skip)}


def is_run(skip: Mapping[str, str]) -> bool:
    """Whether what is skipped is a test, and not one that the model's code gives no reason for."""
    signs = {each.absent for each in vars(facts).values() if isinstance(each, Sign)}
    name = skip["check_name"].partition("::")[2]
    return skip["reason"] not in signs and not (name in CATALOGUE and CATALOGUE[name].cases)


def verdict_of(check: Mapping[str, Any]) -> Verdict:
    details = check["details"]
    message = _PLACE.sub("", _TIMES.sub("#", check["message"]))
    return Verdict(check["status"], message, details.get("counterexample", ""), details.get("module", ""))


def owner_in(verdict: Verdict, whole: Mapping[str, Verdict]) -> Verdict | None:
    """The verdict of the property that a skip or a warning refers to, where that fails."""
    names = REFERS.findall(verdict.message)
    found = [other for label, other in whole.items() for name in names if label.partition("::")[2].startswith(name)]
    return next((other for other in found if other.status == "failed"), None)


def assert_same_alone(name: str, whole: Mapping[str, Verdict], alone: Mapping[str, Verdict]) -> None:
    """Checks the verdict of a test that ran alone against that of the whole run."""
    assert list(alone) == [name]
    owner = owner_in(whole[name], whole) if whole[name].status in ("skipped", "warning") else None
    if owner is None:
        assert alone[name] == whole[name]
    else:
        assert alone[name] == Verdict("failed", whole[name].message, owner.counterexample, owner.module)


def make(project: Project, kind: str, only: tuple[str, ...] | None = FEW, **keys: Any) -> Path:
    return project.config(only=only, tier=["1", "2"], model=MODELS[kind], pad_token_id=0, **keys)


def node(name: str) -> str:
    """The node id of a check of ``cfg.json``."""
    tier, _, label = name.partition("::")
    return f"cfg.json::TestTier{tier.removeprefix('tier')}::test_{label}"


@pytest.mark.parametrize("kind", MODELS)
def test_a_verdict_is_the_same_alone_shuffled_and_beside_another_model(project: Project, kind: str) -> None:
    config = make(project, kind)
    whole = run(project, config)
    assert any(verdict.status == "failed" for verdict in whole.values()) is (kind != "sound")
    for verdict in whole.values():
        if verdict.status == "skipped" and "(see " in verdict.message:
            assert owner_in(verdict, whole) is not None, f"left to a property that does not fail: {verdict}"
    for name in ("tier1::memory_footprint", "tier1::padding_ignored", "tier2::attribution"):
        assert_same_alone(name, whole, run(project, config, node(name)))
    other = project.config("other.json", only=FEW, tier=["1", "2"], model=LEAKY if kind == "sound" else GOOD)
    project.write("conftest.py", SHUFFLED)
    assert run(project, config, beside=other) == whole


PLANTED = """
import sys
sys.path.append({tests!r})
from planted_bugs.register import all_bugs
build_model = next(bug for bug in all_bugs({bug.tier}) if bug.name == {bug.name!r}).buggy.build
"""
"""The file of a planted bug's model."""


def planted(*tiers: int) -> list[PlantedBug]:
    """Bugs of tiers 2 and 3 that a config can describe: nothing but a model, a task and training keys."""
    return [
        bug
        for bug in all_bugs(*tiers)
        if (isinstance(bug.buggy, Analysed) and type(bug.buggy) is Analysed and bug.property != "compiled")
        or (isinstance(bug.buggy, Training) and bug.buggy.adapter is None and bug.property in LEARNING)
    ]


SAMPLE = ("one head unmasked", "softmax_twice")


@pytest.mark.parametrize(
    "bug",
    [pytest.param(bug, marks=[] if bug.name in SAMPLE else [pytest.mark.long], id=str(bug)) for bug in planted(2, 3)],
)
def test_a_planted_bug_is_told_the_same_alone_and_among_others(project: Project, bug: PlantedBug) -> None:
    task, setup = bug.buggy.task, bug.buggy
    project.write("model.py", PLANTED.format(bug=bug, tests=str(Path(__file__).parents[1])))
    if task.declared is not None:
        keys = declared_keys(task.declared)
        project.write(LOSSES.name, LOSSES.read_text())
    else:
        keys = {
            "task_type": task.task_type.value,
            **{name: value for name in SIZES if (value := getattr(task, name)) is not None},
        }
    others = LEARNING[:3] if bug.tier == 3 else ("attribution", "half_precision")
    properties = {name: False for name in CATALOGUE if name not in (bug.property, *others)}
    training = setup.config if isinstance(setup, Training) else {}
    content = {"tier": str(bug.tier), "model_file": "model.py", **keys, **training}
    config = project.write("cfg.json", json.dumps({**content, "properties": properties, "time_budget": 600}))
    whole = run(project, config)
    name = f"tier{bug.tier}::{bug.test}"
    assert whole[name].status == {Status.FAIL: "failed", Status.WARN: "warning"}[bug.status]
    assert bug.blames(whole[name].module)
    assert_same_alone(name, whole, run(project, config, node(name)))


@pytest.mark.long
@pytest.mark.parametrize("kind", MODELS)
def test_every_verdict_is_the_same_alone_and_in_three_processes(project: Project, kind: str) -> None:
    config = make(project, kind, only=None, time_budget=600)
    whole = run(project, config)
    project.run_apart("--model-config", str(config), "--model-report", "out", "-n", "3")
    assert read(project, config) == whole
    for name in whole:
        assert_same_alone(name, whole, run(project, config, node(name)))


@pytest.mark.long
@pytest.mark.parametrize("name", ["lm_tiny.json", "vision_tiny.json"])
def test_the_examples_say_the_same_in_three_processes_shuffled_and_beside_another(project: Project, name: str) -> None:
    content = json.loads((EXAMPLES / name).read_text()) | {"tier": ["1", "2"], "time_budget": 600}
    config = project.write("cfg.json", json.dumps(content))
    whole = run(project, config)
    project.run_apart("--model-config", str(config), "--model-report", "out", "-n", "3")
    assert read(project, config) == whole
    other = project.config("other.json", only=FEW, tier=["1", "2"], model=LEAKY)
    project.write("conftest.py", SHUFFLED)
    assert run(project, config, beside=other) == whole
