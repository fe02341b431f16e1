"""What one model changes of the process does not reach the next one, and is said of the model that did it."""

from __future__ import annotations

import sys
import warnings
from types import ModuleType
from typing import Any

import pytest
import torch
from meddlers import HEAD, SOUND, WAYS, meddler
from small_models import GOOD, output
from torch import nn

from harness.process_state import ProcessState, in_words, kept_process

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="changes signals and limits of POSIX")

JUDGED = (
    "stateless",
    "shape_contract",
    "causal",
    "gradient_flow",
    "batch_independence",
    "dtype_move",
    "eval_deterministic",
    "initialisation",
)
ONLY_SEEDS = "random_numbers"
"""Said by ``rng_untouched``, and put back like the rest."""


@pytest.mark.parametrize("way", sorted(WAYS.keys() - {"deterministic_algorithms"}))  # torch imports its compiler for that one
def test_what_a_line_changes_is_named_and_put_back(way: str) -> None:
    scope: dict[str, Any] = {"__name__": "meddler"}
    exec(compile(HEAD, "meddler.py", "exec"), scope)
    before = ProcessState()

    exec(compile(WAYS[way], "meddler.py", "exec"), scope)
    changed = before.restore()

    assert changed
    assert before.restore() == []


def test_what_an_installed_package_brings_stays() -> None:
    with kept_process() as changes:
        sys.path.append(next(folder for folder in sys.path if folder.endswith("site-packages")) + "/vendored")
        added = sys.path[-1]
    try:
        assert added in sys.path
        assert changes == []
    finally:
        sys.path.remove(added)


@pytest.mark.parametrize(("file", "is_told"), [("site-packages/other/patches.py", False), ("project/model.py", True)])
def test_a_function_that_an_installed_package_replaces_stays(file: str, is_told: bool) -> None:
    folder = next(folder for folder in sys.path if folder.endswith("site-packages")).removesuffix("site-packages")
    scope: dict[str, Any] = {"__name__": "other.patches"}
    exec(
        compile(
            "def shows(*given, **more):\n    return None\n",
            folder.replace("/lib/", "/home/" if is_told else "/lib/") + file,
            "exec",
        ),
        scope,
    )
    original = warnings.showwarning
    with kept_process() as changes:
        warnings.showwarning = scope["shows"]
    try:
        assert ("warnings.showwarning" in in_words(changes)) is is_told
        assert (warnings.showwarning is original) is is_told
    finally:
        warnings.showwarning = original


def test_a_lazy_package_that_runs_its_own_file_again_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lazy(ModuleType):
        """As of Transformers, which does so at the first import of a model."""

    first, second, other = Lazy("lazy"), Lazy("lazy"), ModuleType("lazy")
    first.__file__ = second.__file__ = other.__file__ = torch.__file__
    monkeypatch.setitem(sys.modules, "lazy", first)

    with kept_process() as changes:
        sys.modules["lazy"] = second
    assert changes == []
    assert sys.modules["lazy"] is second

    with kept_process() as changes:
        sys.modules["lazy"] = other
    assert in_words(changes) == "modules (lazy)"
    assert sys.modules["lazy"] is second


def test_a_message_names_a_few_changes_and_counts_the_rest() -> None:
    with kept_process() as changes:
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(torch.get_num_threads() + 1)
        for way in ("denormals", "builtin", "garbage_collector", "recursion_limit"):
            exec(compile(f"import builtins, gc, sys, torch\n{WAYS[way]}", "meddler.py", "exec"), {})

    assert "the default dtype (torch.float32 -> torch.float64)" in in_words(changes)
    assert in_words(changes).endswith("2 other settings")


FEW = ("default_dtype", "function", "forward_pre_hooks", "current_folder", "modules")


def verdicts(project: Any, file: str) -> dict[str, tuple[str, str]]:
    return {check["check_name"]: (check["status"], check["message"]) for check in project.json(file)["checks"]}


@pytest.mark.parametrize("ways", [FEW, pytest.param(tuple(WAYS), marks=pytest.mark.long)], ids=["few", "all"])
def test_the_verdicts_on_the_next_model_are_those_it_has_alone(project: Any, ways: tuple[str, ...]) -> None:
    project.config("z_sound.json", only=JUDGED if ways != FEW else JUDGED[:3], model=SOUND)
    firsts = [f"a_{way}.json" for way in ways]
    for name, way in zip(firsts, ways, strict=True):
        project.config(name, only=("stateless",), model=meddler(way))

    project.run("--model-config", "z_sound.json", "--model-report", "alone")
    options = [option for name in [*firsts, "z_sound.json"] for option in ("--model-config", name)]
    project.run(*options, "--model-report", "out")

    assert verdicts(project, "out/z_sound/health_report.json") == verdicts(project, "alone/health_report.json")
    for way in set(ways) - {ONLY_SEEDS}:
        ((status, message),) = verdicts(project, f"out/a_{way}/health_report.json").values()
        assert status in ("failed", "warning"), way
        assert "a call leaves the process changed" in message, (way, message)


@pytest.mark.parametrize("place", [pytest.param("FACTORY", marks=pytest.mark.long), "IMPORT"])
def test_what_building_a_model_changes_holds_for_its_own_tests_only(project: Any, place: str) -> None:
    own = meddler("default_dtype", place).replace(
        "x = self.head", "assert torch.get_default_dtype() is torch.float64\n        x = self.head"
    )
    project.config("a_first.json", only=("stateless", "shape_contract"), model=own)
    project.config(
        "z_sound.json",
        only=("shape_contract",),
        model=GOOD.replace("x = self.embed", "assert torch.get_default_dtype() is torch.float32\n        x = self.embed"),
    )

    result = project.run("--model-config", "a_first.json", "--model-config", "z_sound.json", "--model-report", "out")

    assert result.ret == 0, output(result)
    assert torch.get_default_dtype() is torch.float32
    status, message = verdicts(project, "out/a_first/health_report.json")["tier1::stateless"]
    assert status == "warning"
    assert "importing or building the model changes the process, for all other models in it: the default dtype" in message


def test_a_call_that_changes_torch_does_not_break_the_checks_of_its_own_model(project: Any) -> None:
    project.config(only=("shape_contract", "causal", "stateless"), model=meddler("default_device"))

    result = project.run("--model-config", "cfg.json")

    assert result.parseoutcomes()["failed"] == 1
    assert "internal error" not in output(result)
    assert not nn.modules.module._has_any_global_hook()
