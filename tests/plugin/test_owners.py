"""One bug is one failure, whatever is selected: what another property owns is left to it, and is red where that one does not run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from projects import Project, load_tiers
from small_models import GOOD, running_text

from harness.evidence import Evidence, Status
from harness.owners import Selection, left_to, owned_by, settled

load_tiers(2, 3)

LOGITS = "return self.head(x + self.before(x))"
SPOILED = GOOD.replace(
    LOGITS, "y = self.head(x + self.before(x))\n        y /= y.pow(2).sum(-1, keepdim=True).sqrt()\n        return y"
)
RANDOM = GOOD.replace(LOGITS, "return nn.functional.dropout(self.head(x + self.before(x)))")
NAN = GOOD.replace(
    "    return Model(**kwargs)", "    m = Model(**kwargs)\n    m.head.weight.data[3, :2] = float('nan')\n    return m"
)
NAN_UNSEEN = NAN.replace("m.head.weight.data[3, :2]", "m.embed.weight.data[5]")

BACKWARD = (
    "gradient_flow",
    "batch_independence",
    "stateless",
    "initialisation",
    "attribution",
    "gradcheck",
    "step_updates",
    "overfits_one_batch",
)


def finding_of(owner: str, status: Status = Status.FAIL) -> Evidence:
    return Evidence(owner, status, "what the owner says", 3.0, 1.0, "units", "batch=2", "head", "a cause")


FOUND = left_to("causal", "gradient_flow[finite]", "gradients are NaN", counterexample="batch=5")


def test_a_finding_is_a_skip_where_its_owner_runs() -> None:
    for labels in ({"gradient_flow[finite]"}, {"gradient_flow"}):
        verdict = settled(FOUND, "causal", Selection(labels))
        assert (verdict.status, verdict.message) == (Status.SKIPPED, "gradients are NaN (see gradient_flow[finite])")


def test_a_case_that_does_not_run_owns_nothing() -> None:
    assert settled(FOUND, "causal", Selection({"gradient_flow[reaches_every_parameter]"})).status is Status.FAIL


def test_where_the_owner_does_not_run_it_is_asked() -> None:
    verdict = settled(FOUND, "causal", Selection({"causal"}, ask=finding_of))
    assert (verdict.status, verdict.message) == (Status.FAIL, "gradients are NaN (see gradient_flow[finite])")
    assert (verdict.counterexample, verdict.module, verdict.cause) == ("batch=2", "head", "a cause")


def test_of_several_that_are_left_to_what_does_not_run_one_fails() -> None:
    first = dict[str, str]()
    selection = Selection({"causal", "padding_ignored"}, ask=finding_of, stands_in=first.setdefault)
    verdicts = [settled(FOUND, test, selection) for test in ("causal", "padding_ignored", "causal")]
    assert [verdict.status for verdict in verdicts] == [Status.FAIL, Status.SKIPPED, Status.FAIL]
    assert verdicts[1].message == "gradients are NaN (see causal)"
    assert settled(FOUND, "not_selected", selection).status is Status.FAIL


def test_an_owner_that_leaves_its_finding_to_what_runs_has_it_referred_to_that() -> None:
    def ask(owner: str) -> Evidence:
        return settled(left_to(owner, "finite_output[typical]", "logits are NaN"), owner, selection)

    selection = Selection({"causal", "finite_output[typical]"}, ask=ask)
    verdict = settled(FOUND, "causal", selection)
    assert (verdict.status, verdict.message) == (Status.SKIPPED, "gradients are NaN (see finite_output[typical])")


def test_nan_logits_are_not_taken_for_what_earlier_calls_change(project: Project) -> None:
    bottomless = GOOD.replace(LOGITS, f"{LOGITS}.log()")
    only = ("serialisation", "stateless", "finite_output", "train_mode")
    config = project.config(only=only, model=bottomless, pad_token_id=0)
    project.run("--model-config", config, "--model-report", "out")
    report = project.json("out/health_report.json")
    assert [check["check_name"] for check in report["checks"] if check["status"] == "failed"] == ["tier1::finite_output[typical]"]
    left = [skip["reason"] for skip in report["skipped"] if "(see " in skip["reason"]]
    assert len(left) > 3
    assert all(reason.endswith("(see finite_output[typical])") for reason in left)


@pytest.mark.parametrize("status", [Status.SKIPPED, Status.WARN])
def test_what_refers_to_another_property_fails_where_that_one_does_not_run_and_fails(status: Status) -> None:
    found = Evidence("attention_patterns", status, "the output hardly depends on its input (see input_dependence)")

    def verdict(answer: Evidence | None, *labels: str) -> Status:
        return settled(found, "attention_patterns", Selection(labels, ask=lambda _owner: answer)).status

    assert verdict(finding_of("input_dependence")) is Status.FAIL
    assert verdict(finding_of("input_dependence"), "input_dependence[tokens]") is status
    assert verdict(finding_of("input_dependence", Status.OK)) is status
    assert verdict(None) is status


def test_a_switched_off_owner_is_not_asked() -> None:
    selection = Selection({"causal"}, {"gradient_flow", "eval_deterministic"}, finding_of)
    assert settled(FOUND, "causal", selection).counterexample == "batch=5"
    random = left_to("causal", "eval_deterministic", "logits are random")
    assert settled(random, "causal", selection).status is Status.SKIPPED


def test_the_first_owner_that_runs_owns() -> None:
    found = replace(FOUND, details=owned_by("parameter_validation", "finite_output[typical]"))
    assert settled(found, "causal", Selection({"finite_output[typical]"})).message.endswith("(see finite_output[typical])")
    assert settled(found, "finite_output[typical]", Selection({"parameter_validation"})).status is Status.SKIPPED
    assert settled(found, "finite_output[typical]", Selection({"finite_output[typical]"})) == found


def test_a_backward_pass_that_raises_is_one_failure_with_its_line(project: Project) -> None:
    config = project.config(only=BACKWARD, tier=["1", "2", "3"], model=SPOILED)
    result = project.run("--model-config", config, "--model-report", "out")
    checks = project.json("out/health_report.json")
    (failed,) = [check for check in checks["checks"] if check["status"] == "failed"]
    assert failed["check_name"] == "tier1::gradient_flow[reaches_every_parameter]"
    line = 1 + SPOILED.splitlines().index("        y /= y.pow(2).sum(-1, keepdim=True).sqrt()")
    where = f"the backward pass raises at `y /= y.pow(2).sum(-1, keepdim=True).sqrt()` (cfg_model.py, line {line}): RuntimeError"
    assert failed["message"].startswith(where)
    assert failed["details"]["module"] == "(model)"
    result.assert_outcomes(failed=1, skipped=10, passed=4)
    left = [skip for skip in checks["skipped"] if "(see gradient_flow[reaches_every_parameter])" in skip["reason"]]
    assert len(left) == 9


def test_a_random_model_is_judged_alike_alone_and_among_others(project: Project) -> None:
    config = project.config(only=("eval_deterministic", "padding_ignored", "batch_independence"), model=RANDOM, pad_token_id=0)
    whole = project.run("--model-config", config, "-rs", "-k", "eval_deterministic or padding_ignored or forward")
    alone = project.run("--model-config", config, "-k", "forward")
    assert whole.parseoutcomes()["failed"] == 1
    alone.assert_outcomes(failed=1, deselected=3)
    for result in (whole, alone):
        assert "logits in eval mode are random (see eval_deterministic)" in running_text(result)


@pytest.mark.parametrize("model", [NAN, NAN_UNSEEN], ids=["seen", "unseen"])
def test_nan_weights_are_one_failure_that_names_them(project: Project, model: str) -> None:
    only = (
        "finite_output",
        "full_vocabulary",
        "eval_deterministic",
        "attribution",
        "parameter_validation",
        "forward_pass_validation",
    )
    config = project.config(only=only, tier=["1", "2", "4"], model=model)

    def failures(*args: Any) -> list[str]:
        project.run("--model-config", config, "--model-report", "out", *args)
        checks = project.json("out/health_report.json")["checks"]
        found = [check for check in checks if check["status"] == "failed"]
        assert all("NaN" in check["message"] for check in found)
        return [check["check_name"] for check in found]

    assert failures() == ["tier4::parameter_validation"]
    assert failures("-m", "tier1") == ["tier1::finite_output[typical]"]
    assert failures("-k", "full_vocabulary") == ["tier1::full_vocabulary"]
