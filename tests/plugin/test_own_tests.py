"""The user's own: tests with the fixtures, checks that join the suite, and fixtures that replace the plugin's."""

from __future__ import annotations

from typing import Any

import pytest
from small_models import LEAKY, output

EVERY_FIXTURE = """\
import torch
from torch import nn
from harness.adapters import Adapter
from harness.config import EvalConfig, TrainingConfig
from harness.tasks import TaskSpec

def test_model(model):
    assert isinstance(model, nn.Module) and not model.training

def test_adapter(adapter, model, batch):
    assert isinstance(adapter, Adapter)
    assert adapter.logits(model, batch).shape == (*batch["input_ids"].shape, 32)

def test_task_spec(task_spec):
    assert isinstance(task_spec, TaskSpec) and task_spec.vocab_size == 32

def test_training_config(training_config):
    assert isinstance(training_config, TrainingConfig) and training_config.epochs == 7

def test_eval_config(eval_config):
    assert isinstance(eval_config, EvalConfig) and eval_config.batch_size == 5

def test_batch(batch):
    assert {"input_ids", "attention_mask", "labels"} <= set(batch)

def test_make_batch(make_batch):
    assert make_batch(batch=4, seq=10)["input_ids"].shape == (4, 10)
    assert make_batch()["input_ids"].shape[1] <= 16
    assert torch.equal(make_batch(seed=1)["input_ids"], make_batch(seed=1)["input_ids"])
    assert not torch.equal(make_batch(seed=1)["input_ids"], make_batch(seed=2)["input_ids"])

def test_subject(subject, model):
    assert subject.model is model

def test_experiment_db(experiment_db):
    with experiment_db.start_run("own") as run:
        run.log_metric("loss", 1.0)
    assert experiment_db.get_best_run("loss").name == "own"
"""
SPOIL = """\
import torch

def test_a_spoils_its_model(model):
    torch.nn.init.zeros_(model.head.weight)
    model.train()

def test_b_has_the_weights_of_the_start(model):
    assert model.head.weight.abs().sum() > 0 and not model.training
"""


def test_every_fixture_is_there_for_the_users_own_tests(project: Any) -> None:
    project.config(epochs=7, eval={"batch_size": 5})
    project.write("test_own.py", EVERY_FIXTURE)

    project.run("--model-config", "cfg.json", "test_own.py", "-k", "test_own").assert_outcomes(passed=9, deselected=1)


def test_a_users_test_takes_the_ini_files_config(project: Any) -> None:
    project.config(epochs=7, eval={"batch_size": 5})
    project.write("test_own.py", EVERY_FIXTURE)
    project.pytester.makeini("[pytest]\nmodel_config = cfg.json\n")

    project.run("test_own.py").assert_outcomes(passed=9)


def test_the_model_is_restored_between_tests(project: Any) -> None:
    project.config()
    project.write("test_own.py", SPOIL)

    project.run("--model-config", "cfg.json", "test_own.py", "-k", "test_own").assert_outcomes(passed=2, deselected=1)


def test_two_configs_run_a_users_test_twice(project: Any) -> None:
    project.config("small.json", vocab_size=8, model=None)
    project.config("large.json", vocab_size=64, model=None)
    project.write("test_own.py", "def test_own(task_spec):\n    assert task_spec.vocab_size == 8\n\ndef test_free():\n    pass\n")

    both = ("--model-config", "small.json", "--model-config", "large.json", "test_own.py", "-k", "test_own")
    result = project.run(*both, "-v")

    result.assert_outcomes(passed=2, failed=1, deselected=2)
    result.stdout.fnmatch_lines_random(["test_own.py::test_own?small? PASSED*", "test_own.py::test_own?large? FAILED*"])


OWN_CHECKS = """\
import pytest
from harness.evidence import Evidence, Status
from pytest_modeltiers.checks import ModelCheck, model_check

@model_check(tier=1, statement="Logits stay below 50")
def logits_are_modest(subject):
    assert subject.logits(subject.batch()).abs().max() < 50

@model_check()
def test_vocabulary_is_even(task_spec):
    \"\"\"The vocabulary has an even size.\"\"\"
    assert task_spec.vocab_size % 2 == 1, "the vocabulary of 32 tokens is even"

@model_check(tier=2)
def of_tier_two(model):
    \"\"\"Belongs elsewhere.\"\"\"

@model_check()
def with_evidence(subject):
    return Evidence("with_evidence", Status.FAIL, "the head is too wide", 9.0, 3.0, "units", module="head", cause="a typing slip")

@model_check()
def with_a_doubt(subject):
    return Evidence("with_a_doubt", Status.WARN, "the head is rather wide", 2.0, 3.0, "units", module="head")

@model_check(statement="Judged as false")
def as_false(subject):
    return False

@model_check()
def skipped(subject):
    pytest.skip("no time")

def from_hook(model):
    assert model is not None

def pytest_modeltiers_checks(task_spec):
    return [ModelCheck(from_hook, 1, "There is a model")] if task_spec.is_text else []
"""


@pytest.fixture
def own_checks(project: Any) -> Any:
    """Runs a config (every property off) with the checks above."""
    project.config(only=(), tier=["1", "2"])
    project.write("conftest.py", OWN_CHECKS)

    def run(*args: str) -> tuple[pytest.RunResult, dict[str, Any]]:
        result = project.run("--model-config", "cfg.json", "--model-report", "out", "-v", *args)
        return result, {check["check_name"]: check for check in project.json("out/health_report.json")["checks"]}

    return run


def test_checks_by_decorator_and_by_hook_join_the_suite(own_checks: Any) -> None:
    result, _ = own_checks()

    result.stdout.fnmatch_lines_random(
        [
            "cfg.json::TestTier1::test_logits_are_modest PASSED*",
            "cfg.json::TestTier1::test_vocabulary_is_even FAILED*",
            "cfg.json::TestTier1::test_with_evidence FAILED*",
            "cfg.json::TestTier1::test_as_false FAILED*",
            "cfg.json::TestTier1::test_skipped SKIPPED*",
            "cfg.json::TestTier1::test_from_hook PASSED*",
            "cfg.json::TestTier2::test_of_tier_two PASSED*",
        ]
    )


def test_checks_join_the_report(own_checks: Any) -> None:
    _, checks = own_checks()

    assert {name: check["status"] for name, check in checks.items() if "doubt" not in name} == {
        "tier1::logits_are_modest": "passed",
        "tier1::vocabulary_is_even": "failed",
        "tier1::with_evidence": "failed",
        "tier1::as_false": "failed",
        "tier1::from_hook": "passed",
        "tier2::of_tier_two": "passed",
    }


def test_a_checks_message_is_the_assertions(own_checks: Any) -> None:
    _, checks = own_checks()

    assert "the vocabulary of 32 tokens is even" in checks["tier1::vocabulary_is_even"]["message"]
    assert checks["tier1::as_false"]["message"] == "Judged as false"


def test_a_check_that_fails_is_told_in_a_line_with_its_place(own_checks: Any) -> None:
    result, checks = own_checks()

    line = "AssertionError"
    assert line not in output(result)
    assert "TaskSpec(" not in output(result)
    result.stdout.fnmatch_lines(["  FAIL vocabulary_is_even: the vocabulary of 32 tokens is even (conftest.py:12)"])
    assert checks["tier1::vocabulary_is_even"]["details"]["place"] == "conftest.py:12"


def test_the_traceback_of_a_check_is_there_when_asked_for(own_checks: Any) -> None:
    result, _ = own_checks("-vv")

    result.stdout.fnmatch_lines(["*FAILURES*", "E *the vocabulary of 32 tokens is even"])


@pytest.mark.parametrize(
    ("name", "statement"),
    [
        ("logits_are_modest", "Logits stay below 50"),
        ("vocabulary_is_even", "The vocabulary has an even size"),
        ("from_hook", "There is a model"),
    ],
)
def test_a_checks_statement_is_in_the_report(own_checks: Any, name: str, statement: str) -> None:
    _, checks = own_checks()

    assert checks[f"tier1::{name}"]["details"]["statement"] == statement


def test_a_checks_evidence_is_in_the_report(own_checks: Any) -> None:
    _, checks = own_checks()

    evidence = checks["tier1::with_evidence"]
    assert evidence["message"] == "the head is too wide (first seen in `head`)"
    assert evidence["details"]["module"] == "head"
    assert evidence["details"]["comparison"] == "9, allowed 3 units"
    assert "typing slip" in evidence["recommendation"]


def test_a_checks_warning_is_a_warning(own_checks: Any) -> None:
    result, checks = own_checks()

    assert checks["tier1::with_a_doubt"]["status"] == "warning"
    result.stdout.fnmatch_lines(["cfg.json::TestTier1::test_with_a_doubt WARN*"])


def test_a_checks_warning_fails_a_strict_run(own_checks: Any) -> None:
    result, _ = own_checks("--modeltiers-strict")

    result.stdout.fnmatch_lines(["cfg.json::TestTier1::test_with_a_doubt FAILED*"])


def test_a_check_that_fails_shows_no_code_of_the_plugin(own_checks: Any) -> None:
    result, _ = own_checks()

    assert "verdicts.py" not in output(result)


def test_a_check_of_a_tier_that_does_not_exist_is_refused(project: Any) -> None:
    project.config()
    project.write("conftest.py", "from pytest_modeltiers.checks import model_check\n\n@model_check(tier=6)\ndef f(): ...\n")

    result = project.run("--model-config", "cfg.json")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "tier must be 1 to 5, got 6" in output(result)


def test_a_check_that_asks_for_an_unknown_fixture_is_told(project: Any) -> None:
    project.config(only=())
    project.write("conftest.py", "from pytest_modeltiers.checks import model_check\n\n@model_check()\ndef f(modle): ...\n")

    result = project.run("--model-config", "cfg.json")

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*fixture 'modle' not found*"])


OVERRIDES = {
    "model": (
        "import pytest\nfrom cfg_model import build_model\n\n"
        "@pytest.fixture\ndef model(model):\n    model.before = lambda x: x.mean(1, keepdim=True)\n    return model\n"
    ),
    "task_spec": (
        "import dataclasses\nimport pytest\n\n"
        "@pytest.fixture(scope='class')\ndef task_spec(task_spec):\n    return dataclasses.replace(task_spec, vocab_size=31)\n"
    ),
    "adapter": (
        "import pytest\nfrom harness.adapters import CausalLMAdapter\n\n"
        "class Mixing(CausalLMAdapter):\n"
        "    def logits(self, model, batch):\n"
        "        return super().logits(model, batch).flip(1)\n\n"
        "@pytest.fixture(scope='class')\ndef adapter(task_spec):\n    return Mixing(task_spec)\n"
    ),
}


@pytest.mark.parametrize(("fixture", "broken"), [("model", "causal"), ("task_spec", "shape_contract"), ("adapter", "causal")])
def test_a_fixture_of_the_users_conftest_replaces_the_plugins(project: Any, fixture: str, broken: str) -> None:
    project.config(only=(broken,))
    project.run("--model-config", "cfg.json").assert_outcomes(passed=1)
    project.write("conftest.py", OVERRIDES[fixture].replace("from cfg_model import build_model\n", ""))

    project.run("--model-config", "cfg.json").assert_outcomes(failed=1)


HIDDEN = """\
import pytest
import torch
from torch import nn

@pytest.fixture
def model(task_spec):
    class Other(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(32, 16)
            self.head = nn.Linear(16, 32)
            self.frozen = nn.Linear(16, 16)
            self.extra = [nn.Linear(16, 16)]

        def forward(self, input_ids):
            return self.head(self.extra[0](self.embed(input_ids)))

    return Other().eval()
"""


@pytest.mark.parametrize("broken", ["registration", "gradient_flow"])
def test_a_model_of_the_users_conftest_is_the_one_that_every_property_judges(project: Any, broken: str) -> None:
    project.config(only=(broken,))
    project.write("conftest.py", HIDDEN)

    result = project.run("--model-config", "cfg.json")

    assert result.parseoutcomes().get("failed"), "the config's own model has no such fault"


def test_a_sound_model_of_the_users_conftest_is_judged_sound(project: Any) -> None:
    project.config(only=("gradient_flow", "stateless", "batch_independence", "serialisation", "initialisation"))
    project.write(
        "conftest.py",
        "import pytest\nfrom harness.models.stubs import LMStub\n\n"
        "@pytest.fixture\ndef model():\n    return LMStub(32, 16).eval()\n",
    )

    result = project.run("--model-config", "cfg.json")

    assert not {"failed", "errors", "warn"} & set(result.parseoutcomes())


def test_a_batch_of_the_users_conftest_replaces_the_plugins_in_tests_and_checks(project: Any) -> None:
    project.config(only=())
    project.write(
        "conftest.py",
        "import pytest\nimport torch\nfrom pytest_modeltiers.checks import model_check\n\n"
        "@pytest.fixture\ndef batch():\n    return {'input_ids': torch.zeros(9, 3, dtype=torch.long)}\n\n"
        "@model_check()\ndef takes_the_batch(batch):\n    assert len(batch['input_ids']) == 9\n",
    )
    project.write(
        "test_own.py", "def test_own(batch, model, adapter):\n    assert adapter.logits(model, batch).shape == (9, 3, 32)\n"
    )

    project.run("--model-config", "cfg.json", "test_own.py").assert_outcomes(passed=2)


def test_a_conftest_beside_the_config_counts_wherever_one_runs_from(project: Any) -> None:
    project.config("sub/cfg.json", only=("shape_contract",))
    project.write("sub/conftest.py", OVERRIDES["task_spec"])

    project.run("--model-config", "sub/cfg.json").assert_outcomes(failed=1)


def test_a_leak_is_still_found_beside_own_checks(project: Any) -> None:
    project.config(model=LEAKY)
    project.write("conftest.py", "from pytest_modeltiers.checks import model_check\n\n@model_check()\ndef fine(model): ...\n")

    project.run("--model-config", "cfg.json").assert_outcomes(passed=1, failed=1)
