"""Tier 4 as tests: selection, workers that share exports, the user's own tests, and the JSON of the command line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from projects import Project


@pytest.fixture
def config(project: Project) -> Path:
    return project.config(only=None, tier="4", model=None, export={"formats": ["pytorch", "onnx"], "export_dir": "files"})


def test_formats_are_parameters(project: Project, config: Path) -> None:
    ids = project.ids("--model-config", config)
    assert "cfg.json::TestTier4::test_numerical_consistency[onnx]" in ids
    assert "cfg.json::TestTier4::test_dynamic_axes[onnx]" in ids
    assert "cfg.json::TestTier4::test_dynamic_axes[pytorch]" not in ids
    assert not any("quantisation" in name for name in ids)


def test_a_quantised_file_is_a_format_of_its_own(project: Project) -> None:
    config = project.config(only=None, tier="4", model=None, export={"formats": ["onnx"], "quantization": "dynamic"})
    ids = project.ids("--model-config", config)
    assert "cfg.json::TestTier4::test_quantisation[onnx_int8]" in ids
    assert "cfg.json::TestTier4::test_numerical_consistency[onnx_int8]" not in ids


def test_it_passes_and_leaves_its_files(project: Project, config: Path) -> None:
    result = project.run("--model-config", config, "--model-report", "out", "-p", "no:cacheprovider")
    assert result.ret == 0, result.outlines
    result.stdout.fnmatch_lines_random(["  onnx: *files/model.onnx", "  pytorch: *files/model.pt"])
    assert sorted(path.name for path in (project.path / "files").iterdir()) == [
        "model.onnx",
        "model.onnx.json",
        "model.pt",
        "model.pt.json",
    ]
    report = project.json("out/health_report.json")
    check = next(check for check in report["checks"] if check["check_name"] == "tier4::numerical_consistency[onnx]")
    assert check["details"]["facts"]["shapes_unseen"] >= 5


def test_two_processes_find_the_same(project: Project) -> None:
    config = project.config(only=None, tier="4", model=None, export={"formats": ["pytorch", "torchscript"]})
    result = project.run_apart("--model-config", str(config), "-n", "2", "--model-report", "out")
    assert result.ret == 0, result.outlines
    assert project.json("out/health_report.json")["all_passed"]


def test_own_tests_get_the_files(project: Project, config: Path) -> None:
    project.write(
        "test_own.py",
        """
import onnxruntime
def test_own(exported, exports):
    assert list(exported) == ["pytorch", "onnx"]
    assert onnxruntime.InferenceSession(str(exported["onnx"])).get_inputs()[0].name == "input_ids"
    assert exports.runner("pytorch")(exports.program.example)["logits"].shape == (3, 11, 32)
""",
    )
    project.run("--model-config", config, "test_own.py", "-k", "test_own").assert_outcomes(
        passed=1, deselected=len_of(config, project)
    )


def test_two_models_of_one_folder_are_not_mixed_up(project: Project) -> None:
    model = """
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(32, 8), nn.Linear(8, 32)
    def forward(self, input_ids):
        return self.head(self.embed(input_ids)) * SCALE
def build_model():
    return Net()
"""
    keys = {"only": None, "tier": "4", "export": {"formats": ["torchscript"]}}
    first = project.config("v1.json", model=model.replace("SCALE", "1.0"), **keys)
    second = project.config("v2.json", model=model.replace("SCALE", "-1.0"), **keys)
    chosen = "exports or numerical_consistency"
    result = project.run("--model-config", first, "--model-config", second, "-k", chosen, "--model-report", "out")
    assert result.ret == 0, result.outlines
    result.assert_outcomes(passed=2 * 2, deselected=len_of(first, project) + len_of(second, project) - 2 * 2)


def len_of(config: Path, project: Project) -> int:
    return len(project.ids("--model-config", config))


def test_a_check_by_itself_fails_where_its_owner_does_not_run(project: Project, config: Path) -> None:
    project.run("--model-config", config, "-k", "exports")
    path = project.path / "files" / "model.onnx"
    path.write_bytes(path.read_bytes()[:100])
    alone = project.run("--model-config", config, "-k", "numerical_consistency and onnx")
    alone.assert_outcomes(failed=1, deselected=len_of(config, project) - 1)
    together = project.run("--model-config", config, "-k", "onnx")
    outcomes = together.parseoutcomes()
    assert outcomes["failed"] == 2  # exports: not the file that was exported; validation: no ONNX file
    assert outcomes["skipped"] >= 4


def test_a_file_broken_on_purpose_names_the_operator(project: Project, config: Path) -> None:
    import onnx

    project.run("--model-config", config, "-k", "exports")
    path = project.path / "files" / "model.onnx"
    model = onnx.load(path)
    node = [node for node in model.graph.node if node.op_type == "Add"][4]
    node.op_type = "Sub"
    onnx.save(model, path)
    result = project.run("--model-config", config, "-k", "numerical_consistency and onnx")
    result.stdout.fnmatch_lines(["*first diverging operator: Sub (ONNX node `" + node.name + "`)*"])


def test_the_json_of_the_command_line(project: Project, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from harness.cli import main

    assert main(["tiers", "--config", str(config), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["status"] == found["tier4"]["status"] == "ok"
    assert found["export"]["onnx"].endswith(os.path.join("files", "model.onnx"))
    assert set(found["tier4"]["onnx"]) == {"status", "max_abs_diff", "max_rel_diff", "latency_ms", "path", "checks"}
    assert found["tier4"]["onnx"]["latency_ms"] > 0
    assert found["tiers"]["4"]["tests"]["exports[onnx]"]["status"] == "ok"


def test_export_and_its_mistakes(project: Project, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from harness.cli import main

    assert main(["export", "--config", str(config), "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["export"]) == {"pytorch", "onnx"}
    nowhere = project.config("nowhere.json", tier="4", model=None, export={"formats": ["pytorch"]})
    assert main(["export", "--config", str(nowhere)]) == 2
    assert "give --output DIR" in capsys.readouterr().err
    assert main(["export", "--config", str(nowhere), "--output", str(project.path / "there")]) == 0
    assert (project.path / "there" / "model.pt").is_file()
