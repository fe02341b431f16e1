"""One bug, one card: which red checks go under which."""

from __future__ import annotations

from typing import Any

import pytest

from harness.catalogue import CATALOGUE
from harness.health import ExportHealthReport
from harness.health.checks import CheckResult, causes_of


def red(name: str, module: str = "", message: str = "", status: Any = "failed") -> CheckResult:
    return CheckResult(f"tier1::{name}", status, message or f"{name} does not hold", {"module": module} if module else {})


def grouped(*checks: CheckResult) -> list[list[str]]:
    """The names of the checks, one list a cause, the owner first."""
    return [[check.check_name.partition("::")[2] for check in (cause.owner, *cause.also)] for cause in causes_of(checks)]


@pytest.mark.parametrize(
    ("owner", "owned"),
    [
        ("causal", "padding_ignored"),
        ("reshaped_axes", "causal"),
        ("eval_deterministic", "rng_untouched"),
        ("eval_deterministic", "inference_mode[onnx]"),
        ("inputs_unchanged", "memory_layout"),
        ("inputs_unchanged", "stateless"),
        ("inputs_unchanged", "input_dependence[tokens]"),
        ("serialisation[state_dict]", "mode_round_trip"),
        ("training_loss[targets]", "training_loss[reduction]"),
        ("batch_independence[forward]", "batch_independence[gradient]"),
    ],
)
def test_what_a_property_owns_goes_under_it_where_the_blame_agrees(owner: str, owned: str) -> None:
    assert grouped(red(owned, "attn"), red(owner, "attn")) == [[owner, owned]]
    assert grouped(red(owned), red(owner, "attn")) == [[owner, owned]], "one that blames nothing contradicts nothing"
    assert len(grouped(red(owned, "mlp"), red(owner, "attn"))) == 2, "two bugs"


def test_nothing_goes_under_a_check_that_is_not_red_or_is_less_so() -> None:
    assert grouped(red("causal", status="passed"), red("padding_ignored")) == [["padding_ignored"]]
    assert len(grouped(red("causal", status="warning"), red("padding_ignored"))) == 2
    assert grouped(red("causal"), red("padding_ignored", status="warning")) == [["causal", "padding_ignored"]]


def test_properties_that_own_nothing_of_each_other_stay_apart() -> None:
    assert grouped(red("causal", "attn"), red("batch_independence[forward]", "attn")) == [
        ["causal"],
        ["batch_independence[forward]"],
    ]


def test_a_message_that_refers_to_another_red_check_goes_under_it() -> None:
    referring = red("compiled", "mlp", "raises in a copy (see shape_contract)")
    assert grouped(referring, red("shape_contract", "embed")) == [["shape_contract", "compiled"]]
    assert grouped(referring) == [["compiled"]]


def test_checks_that_the_same_change_mends_are_one_bug() -> None:
    change = {"file": "model.py", "line": 17, "old": ["return x.softmax(-1)"], "new": ["return x"]}
    range_, loss, other = red("logit_range"), red("initial_loss"), red("gradcheck", status="warning")
    for check in (range_, loss, other):
        check.details["fix"] = change
    assert grouped(range_, loss, other) == [["logit_range", "initial_loss", "gradcheck"]]
    loss.details["fix"] = change | {"line": 18}
    assert grouped(range_, loss, other) == [["logit_range", "gradcheck"], ["initial_loss"]]


def test_checks_that_miss_the_gradient_of_one_parameter_are_one_bug() -> None:
    flow = red("gradient_flow[reaches_every_parameter]", "(model)", "parameter `a.weight` receives no gradient")
    several = red("distributed", "a.weight", "every parameter needs a gradient, and `a.weight` receives none")
    flow.details["code"], several.details["code"] = "no_gradient", "parameter_without_gradient"
    assert grouped(flow, several) == [["gradient_flow[reaches_every_parameter]", "distributed"]]
    several.details["code"] = "deadlock"
    assert len(grouped(flow, several)) == 2


def test_those_that_refer_to_one_that_did_not_run_are_one() -> None:
    referring = [red(name, "", "forward raises (see shape_contract)") for name in ("causal", "stateless", "registration")]
    assert grouped(*referring) == [["causal", "stateless", "registration"]]


def test_cases_that_say_the_same_of_the_same_module_are_one() -> None:
    cases = [
        red(f"dtype_move[{case}]", "embed", f"forward raises in {case}: `x{number}` is float32, not {torchs} ({number} times)")
        for number, (case, torchs) in enumerate((("float64", "double"), ("bfloat16", "c10::BFloat16"), ("float16", "c10::Half")))
    ]
    assert grouped(*cases) == [["dtype_move[float64]", "dtype_move[bfloat16]", "dtype_move[float16]"]]


def test_properties_that_fail_with_the_same_words_are_one() -> None:
    died = [red(name, "", "the process died: SIGABRT") for name in ("causal", "stateless")]
    assert grouped(*died) == [["causal", "stateless"]]


def test_cases_that_say_something_else_or_blame_another_module_are_not() -> None:
    assert len(grouped(red("dtype_move[float64]", "embed", "a"), red("dtype_move[float16]", "embed", "b"))) == 2
    assert len(grouped(red("dtype_move[float64]", "embed", "a"), red("dtype_move[float16]", "head", "a"))) == 2


def test_what_drifted_in_inputs_and_outputs_stays_two() -> None:
    drifts = [
        red(f"drift[{case}]", "", f"`{name}` has drifted: KS D = 0.3") for case, name in (("inputs", "age"), ("labels", "y"))
    ]
    assert len(grouped(*drifts)) == 2


def test_ownership_is_handed_on() -> None:
    assert grouped(red("attention_patterns[padding]"), red("padding_ignored"), red("causal")) == [
        ["causal", "attention_patterns[padding]", "padding_ignored"]
    ]


def test_two_that_refer_to_each_other_lose_neither() -> None:
    pair = red("causal", "", "it leaks (see compiled)"), red("compiled", "", "it leaks (see causal)")
    assert sorted(name for cause in grouped(*pair) for name in cause) == ["causal", "compiled"]


def test_the_json_has_every_check_and_says_what_belongs_together() -> None:
    report = ExportHealthReport("m", checks=[red("padding_ignored"), red("causal"), red("registration")])
    told = report.to_json()
    assert [check["details"] for check in told["checks"]] == [
        {"shown_under": "tier1::causal"},
        {"also_shows_as": ["tier1::padding_ignored"]},
        {},
    ]
    assert (told["problems"], told["summary"]["failed"]) == (2, 3)


def test_owners_exist_and_own_nothing_that_owns_them() -> None:
    def owners(name: str) -> set[str]:
        entry = CATALOGUE[name.partition("[")[0]]
        return {owner for case in ("", *entry.cases) for owner in entry.owners(case)}

    for name in CATALOGUE:
        seen, ahead = set[str](), owners(name)
        while ahead:
            owner = ahead.pop()
            prop, _, case = owner.rstrip("]").partition("[")
            assert not case or case in CATALOGUE[prop].cases
            assert prop != name or case, f"{name} owns itself"
            if owner not in seen:
                seen.add(owner)
                ahead |= owners(prop) if prop != name else set()
        assert name not in seen


def test_an_export_goes_under_a_finding_on_the_model_of_the_same_line() -> None:
    lines = {"file": "model.py", "first": 3, "lines": ("def forward(self, x):", "return x[:, : int(x.shape[1])]")}

    def of(name: str, tier: int, line: int) -> CheckResult:
        return CheckResult(f"tier{tier}::{name}", "failed", f"{name} fails", {"tier": tier, "excerpt": {**lines, "line": line}})

    assert grouped(of("shapes[onnx]", 4, 4), of("decoding[cache]", 1, 4)) == [["decoding[cache]", "shapes[onnx]"]]
    assert len(grouped(of("shapes[onnx]", 4, 3), of("decoding[cache]", 1, 3))) == 2, "a whole function is no line"
    assert len(grouped(of("registration", 1, 4), of("decoding[cache]", 1, 4))) == 2, "two properties of the model stay two"


def at_line(name: str, line: int, tier: int = 1, marked: str = "x = x.view(2, -1)", **details: Any) -> CheckResult:
    excerpt = {"file": "model.py", "line": line, "first": line, "lines": [marked]}
    return CheckResult(f"tier{tier}::{name}", "failed", f"{name} does not hold", {"tier": tier, "excerpt": excerpt, **details})


def test_checks_about_one_line_are_one_bug_and_what_says_why_comes_first() -> None:
    leak, why = at_line("causal", 7, module="attn"), at_line("reshaped_axes", 7, module="attn.heads")
    assert grouped(leak, why) == [["reshaped_axes", "causal"]]
    assert len(grouped(leak, at_line("reshaped_axes", 8, module="attn.heads"))) == 2
    mixed, gradient = at_line("batch_independence[forward]", 3), at_line("accumulation", 3, 3)
    assert grouped(gradient, mixed) == [["batch_independence[forward]", "accumulation"]]
    assert len(grouped(at_line("causal", 7), at_line("stateless", 7))) == 2, "two that are of one tier may be two bugs"


def test_a_line_that_only_begins_a_function_makes_no_two_bugs_one() -> None:
    begins = "def forward(self, x):"
    assert len(grouped(at_line("causal", 7, marked=begins), at_line("stateless", 7, marked=begins))) == 2


def test_a_test_of_the_model_goes_under_none_of_a_file() -> None:
    exported, own = at_line("exports[onnx]", 7, 4), at_line("causal", 7)
    assert grouped(exported, own) == [["causal", "exports[onnx]"]]


def test_a_change_that_leaves_another_test_of_its_line_red_says_so() -> None:
    change = {"file": "model.py", "line": 7, "old": ["x = x.view(2, -1)"], "new": ["x = x.view(4, -1)"]}
    why, leak, file = at_line("reshaped_axes", 7, fix=change), at_line("causal", 7), at_line("exports[onnx]", 7, 4)
    (cause,) = causes_of([why, leak, file])
    assert cause.unmended == "; not seen of causal, about the same line"
    leak.details["fix"] = change
    assert causes_of([why, leak])[0].unmended == ""
    assert causes_of([leak])[0].unmended == ""
