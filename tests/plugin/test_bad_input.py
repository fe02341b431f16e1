"""A user's mistake gives one clear line and no traceback, before a single test runs."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from small_models import GOOD, output, running_text


def text_of(result: pytest.RunResult) -> str:
    """All a run printed; checked to be free of anything that reads like a crash of the plugin."""
    text = output(result)
    for part in ("Traceback", "INTERNALERROR", "suite.py", "plugin.py", "loading.py"):
        assert part not in text, text
    return text


def line_with(text: str, part: str) -> str:
    lines = list(dict.fromkeys(line for line in text.splitlines() if part in line and not line.startswith("ERROR ")))
    assert len(lines) == 1, text
    return lines[0]


# The run ends before there is a session, which an in-process run cannot show. No torch is imported, so these are short.
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, ["cfg.json: no such config file"]),
        ('{"task_name": "lm_tiny",,}', ["cfg.json:1:25: not JSON"]),
        ("[]", ["cfg.json: expected an object"]),
        (
            '{"task_name": "lm_tiny", "epochs": "3", "vocab_sise": 3}',
            ["unknown key `vocab_sise`. Did you mean 'vocab_size'?", '`epochs`: got "3", expected an integer'],
        ),
    ],
    ids=["missing", "broken", "no_object", "two_mistakes"],
)
def test_a_config_that_is_refused_ends_the_run_with_status_2(project: Any, content: str | None, said: list[str]) -> None:
    if content is not None:
        project.write("cfg.json", content)

    result = project.run_apart("--model-config", "cfg.json")

    assert result.ret == 2
    text = text_of(result)
    for line in said:
        line_with(text, line)


def test_a_config_of_the_ini_file_that_is_refused_ends_the_run_too(project: Any) -> None:
    project.pytester.makeini("[pytest]\nmodel_config = nowhere.json\n")

    result = project.run_apart()

    assert result.ret == 2
    line_with(text_of(result), "nowhere.json: no such config file")


@pytest.mark.parametrize("option", ["-n2", "--collect-only"])
def test_a_config_is_refused_in_every_kind_of_run(project: Any, option: str) -> None:
    project.config(epochs="3")

    result = project.run_apart("--model-config", "cfg.json", option)

    assert result.ret == 2
    line_with(text_of(result), "`epochs`")


REFUSING = GOOD.replace("def forward(self, input_ids):", "def forward(self, input_ids):\n        raise ValueError('too wide')")
RAW = "import torch\nfrom torch import nn\n\ndef build_model():\n"
MODELS: dict[str, tuple[str | None, dict[str, Any], list[str]]] = {
    "missing_file": (None, {"model_file": "nowhere.py"}, ["`model_file`: no such file", "nowhere.py"]),
    "syntax": ("def build_model(:\n", {}, ["importing", "SyntaxError", "cfg_model.py, line 1"]),
    "raises_on_import": ("x = 1 / 0\n", {}, ["importing", "ZeroDivisionError", "cfg_model.py, line 1"]),
    "exits_on_import": ("raise SystemExit(3)\n", {}, ["importing", "SystemExit", "cfg_model.py, line 1"]),
    "missing_package": ("import no_such_package\n", {}, ["ModuleNotFoundError", "no_such_package", "cfg_model.py, line 1"]),
    "no_factory": (GOOD, {"model_factory": "biuld_model"}, ["no 'biuld_model'", "Did you mean 'build_model'?"]),
    "factory_raises": (RAW + "    raise KeyError('width')\n", {}, ["build_model raised KeyError", "cfg_model.py, line 5"]),
    "factory_exits": (RAW + "    raise SystemExit(3)\n", {}, ["build_model raised SystemExit", "cfg_model.py, line 5"]),
    "no_module": (RAW + "    return [1]\n", {}, ["returned a list", "expected an nn.Module"]),
    "kwargs": (GOOD, {"model_kwargs": {"widht": 3}}, ["build_model raised TypeError", "widht"]),
    "forward_wants_more": (
        GOOD.replace("forward(self, input_ids)", "forward(self, input_ids, mask, positions)"),
        {},
        ["Model.forward(input_ids, mask, positions)", "`positions`"],
    ),
    "adapter": (GOOD, {"adapter": "causal-lm"}, ["`adapter`: no adapter 'causal-lm'", "Did you mean 'causal_lm'?"]),
    "device": (GOOD, {"device": "gpu"}, ["`device`: got 'gpu'"]),
    "missing_weights": (GOOD, {"weights": "nowhere.pt"}, ["`weights`: no such file", "nowhere.pt"]),
    "gist": (None, {"gist_id": "ada/abc123"}, ["`gist_id`", "expected only the id"]),
    "data": (GOOD, {"eval": {"path": "nowhere.jsonl"}}, ["nowhere.jsonl"]),
}

UNUSABLE: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "forward_refuses": (
        REFUSING,
        {},
        ["Model.forward(input_ids)", "ValueError: too wide (cfg_model.py, line 11)", "`input_ids`"],
    ),
    "no_logits": (GOOD.replace("return self.head(", "return {'scores': 1} or ("), {}, ["no logits", "`scores`"]),
    "wrong_shape": (GOOD, {"model_kwargs": {"vocab_size": 33}}, ["logits have shape (1, 1, 33)", "expected (1, 1, 32)"]),
    "pooled": (
        GOOD.replace("self.before(x))", "self.before(x)).mean(1)"),
        {},
        ["logits have shape (1, 32)", "expected (1, 1, 32)"],
    ),
}
"""Models that are built, and cannot be judged: bodies, keys of the config, and parts of the one failure."""


@pytest.mark.parametrize("case", UNUSABLE)
def test_a_model_that_cannot_be_called_is_one_failure_with_every_report(project: Any, case: str) -> None:
    body, keys, said = UNUSABLE[case]
    config = project.config(
        only=("shape_contract", "causal", "padding_ignored", "attribution"), tier=["1", "2"], model=body, **keys
    )

    result = project.run("--model-config", config, "--model-report", "out", "--junitxml", "junit.xml", "-rs")

    result.assert_outcomes(failed=1, skipped=3)
    (check,) = project.json("out/health_report.json")["checks"]
    assert (check["check_name"], check["status"]) == ("tier1::shape_contract", "failed")
    for part in said:
        assert part in check["message"]
    result.stdout.fnmatch_lines(["SKIPPED ?3?*(see shape_contract)"])
    assert (project.path / "out" / "health_report.html").is_file()
    assert (project.path / "out" / "health_report.md").is_file()
    assert len(list(project.tree("junit.xml").iter("testcase"))) == 4


def test_a_vocabulary_that_is_too_small_is_one_failure(project: Any) -> None:
    only = ("shape_contract", "full_vocabulary", "causal", "attribution")
    config = project.config(only=only, tier=["1", "2"], model=GOOD.replace("vocab_size=32", "vocab_size=8"))

    result = project.run("--model-config", config, "-rs")

    assert result.parseoutcomes() == {"failed": 1, "skipped": 2, "warn": 1}
    result.stdout.fnmatch_lines(["SKIPPED ?2?*(see full_vocabulary)"])


def test_a_model_that_cannot_be_called_is_red_whatever_is_selected(project: Any) -> None:
    config = project.config(only=("shape_contract", "causal"), model=REFUSING)

    result = project.run("--model-config", config, "-k", "causal")

    result.assert_outcomes(failed=1, deselected=1)
    assert "too wide (cfg_model.py, line 11) (see shape_contract)" in running_text(result)


@pytest.mark.parametrize("case", MODELS)
def test_a_model_that_cannot_be_judged_is_one_collection_error(project: Any, case: str) -> None:
    body, keys, said = MODELS[case]
    file = project.config(**keys, **({} if body is None else {"model": body}))
    if case == "gist":
        content = json.loads(file.read_text())
        del content["model_file"]
        file.write_text(json.dumps(content))

    result = project.run("--model-config", "cfg.json")

    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert result.parseoutcomes() == {"errors": 1}
    line = line_with(text_of(result), said[0])
    for part in said:
        assert part in line


def test_weights_that_do_not_fit_are_one_collection_error(project: Any) -> None:
    torch.save({"head.weight": torch.zeros(3, 3), "tail": torch.zeros(1)}, project.path / "w.pt")
    project.config(weights="w.pt")

    result = project.run("--model-config", "cfg.json")

    assert result.parseoutcomes() == {"errors": 1}
    line = line_with(text_of(result), "does not fit")
    for part in ("missing: embed.weight", "unexpected: tail", "head.weight (3, 3) instead of (32, 16)"):
        assert part in line


def test_an_image_size_the_model_cannot_take_is_one_failure(project: Any) -> None:
    body = "from torch import nn\n\ndef build_model():\n    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4))\n"
    project.write("net.py", body)
    config = {"task_name": "vision_tiny", "tier": "1", "image_size": [3, 16, 16], "model_file": "net.py"}
    project.write("cfg.json", json.dumps(config))

    result = project.run("--model-config", "cfg.json")

    assert result.parseoutcomes()["failed"] == 1
    assert "passed" not in result.parseoutcomes()
    assert "called as Sequential.forward(input) with `pixel_values` ([3, 16, 16])" in running_text(result)


def test_each_of_two_configs_has_its_own_error_under_its_own_name(project: Any) -> None:
    project.config("one.json", model="raise KeyError('too wide')\n")
    project.config("two.json", model="x = 1 / 0\n")

    result = project.run("--model-config", "one.json", "--model-config", "two.json")

    assert result.parseoutcomes() == {"errors": 2}
    text_of(result)
    result.stdout.fnmatch_lines(
        ["*ERROR collecting one.json*", "*too wide*", "*ERROR collecting two.json*", "*ZeroDivisionError*"]
    )


def test_a_config_in_a_package_that_does_not_import_is_run_all_the_same(project: Any) -> None:
    project.write("pkg/__init__.py", "import nothing_like_this\n")
    project.config("pkg/cfg.json")

    result = project.run("--model-config", "pkg/cfg.json")

    result.assert_outcomes(passed=1)


def test_a_file_that_starts_a_program_is_refused_and_run_where_it_is_trusted(project: Any) -> None:
    project.config(model=f"import os\nos.system('true')\n{GOOD}")

    refused = project.run("--model-config", "cfg.json")
    trusted = project.run("--model-config", "cfg.json", "--trust-model")

    assert "line 2: os.system starts or stops a process" in text_of(refused)
    refused.assert_outcomes(errors=1)
    trusted.assert_outcomes(passed=1, warnings=1)


FROZEN_HEAD = """\
import torch
from torch import nn

class Adapted(nn.Linear):
    def __init__(self, size_in, size_out):
        super().__init__(size_in, size_out)
        self.lora_down, self.lora_up = nn.Parameter(torch.randn(2, size_in)), nn.Parameter(torch.zeros(size_out, 2))
        self.merged = False
        self.weight.requires_grad_(False)
        self.bias.requires_grad_(False)

    def forward(self, x):
        return super().forward(x) + (0 if self.merged else x @ self.lora_down.T @ self.lora_up.T)

    def merge(self):
        self.weight.data += (self.lora_up @ self.lora_down).data
        self.merged = True

    def unmerge(self):
        self.weight.data -= (self.lora_up @ self.lora_down).data
        self.merged = False

def build_model():
    return nn.Sequential(Adapted(6, 12), nn.Tanh(), nn.Linear(12, 3).requires_grad_(False))
"""
OTHER_LAYOUT = """\
from torch import nn

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.GRU(4, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x, hidden=None):
        out, hidden = self.rnn(x, hidden)
        return {"scores": self.head(out), "hidden": hidden.transpose(0, 1)}

def build_model():
    return Model()
"""
STATEFUL: dict[str, Any] = {
    "inputs": {
        "x": {"axes": ["batch", "time", 4]},
        "hidden": {"axes": [1, "batch", 6], "state": {"from": "hidden"}},
    },
    "outputs": {"scores": {"axes": ["batch", "time", 3]}, "hidden": {"axes": [1, "batch", 6], "kind": "state"}},
    "axes": {"time": {"min": 2, "max": 8, "order": "causal"}},
}
NOT_A_TEXT: dict[str, Any] = {"task_name": None, "vocab_size": None, "max_seq_len": None}


def test_adapters_over_a_frozen_head_are_judged_and_what_cannot_be_is_skipped_with_its_reason(project: Any) -> None:
    keys = {**NOT_A_TEXT, "task_type": "tabular_classification", "num_features": 6, "num_classes": 3, "tier": ["1", "3"]}
    project.config(only=("adapter_layers", "step_updates", "fine_tuning"), model=FROZEN_HEAD, **keys)

    result = project.run("--model-config", "cfg.json")

    result.assert_outcomes(passed=4, skipped=2)
    text = text_of(result)
    line_with(text, "skip adapter_layers[disabled]: the model has no method or attribute that switches its adapters off")
    line_with(text, "skip fine_tuning: the model has no layer before its last one that could be frozen")


def test_a_state_of_another_layout_than_declared_is_told_in_one_line(project: Any) -> None:
    project.config(only=("shape_contract", "carried_state"), model=OTHER_LAYOUT, **NOT_A_TEXT, **STATEFUL)

    text = text_of(project.run("--model-config", "cfg.json", "-k", "carried_state and shape"))

    assert "state `hidden` has shape" in text
