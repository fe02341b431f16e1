"""Exports of declared tasks: names, axes and sizes come from the signature, and every output is exported, compared and bundled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from planted_bugs.tier1.declared import CASES
from planted_bugs.tier4.declared import (
    ANY_SIZE,
    CHOICE,
    POLICY,
    SEGMENTATION,
    STATEFUL,
    ActorCritic,
    Chosen,
    PaddedToFours,
    Recurrent,
    Segmenter,
)
from planted_bugs.tier4.exports import make_exports
from torch import Tensor, nn

from harness.evidence import Status
from harness.export.bundle import write_bundle
from harness.export.bundle.contract import make_golden
from harness.export.bundle.verify import verify_bundle
from harness.export.checks import judge_export
from harness.export.formats import ExportError, outputs_by_name
from harness.export.shape_grid import shape_grid
from harness.export.store.object_hash import ObjectHash
from harness.runtime import seeded
from harness.tasks import TaskSpec, TaskType
from harness.tasks.declared import read_signature


def task_of(keys: dict[str, Any]) -> TaskSpec:
    return TaskSpec(TaskType.DECLARED, "toy", declared=read_signature(keys))


class Nested(nn.Module):
    """Takes a dict with time first, and returns what it was given beside the scores."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(12, 8), nn.Linear(8, 3)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        real = (~batch["padding"]).t()[..., None]
        hidden = self.embed(batch["tokens"]) * real
        return {"scores": self.head(hidden.sum(0) / real.sum(0).clamp(min=1)), "steps": hidden}


NESTED = {
    "inputs": {
        "batch.tokens": {"axes": ["time", "batch"], "values": {"ids": 12, "pad": 0}},
        "batch.padding": {"axes": ["batch", "time"], "values": {"mask_of": "time", "inverted": True}, "dtype": "bool"},
    },
    "outputs": {
        "scores": {"axes": ["batch", 3], "kind": "class_scores"},
        "steps": {"axes": ["time", "batch", 8], "kind": "other"},
    },
    "axes": {"time": {"min": 2, "max": 12, "padding": "right"}},
}


@pytest.mark.parametrize("name", ["points", "pair", "policy", "boxes", "click", "speech"])
def test_a_sound_model_of_a_declared_task_exports(name: str) -> None:
    model, keys, _ = CASES[name]
    with seeded(0):
        exports = make_exports(model(), None, "onnx", task=task_of(keys))
    for check in ("shape_validation", "forward_pass_validation"):
        assert judge_export(check, exports).status is Status.OK
    for check in ("exports", "validation", "numerical_consistency", "dynamic_axes", "inference_mode", "invalid_input"):
        found = judge_export(check, exports, "onnx")
        assert found.status is Status.OK, found.explain()


class Masked(nn.Module):
    """Returns its loss, at places that it draws, as a masked autoencoder does."""

    def __init__(self) -> None:
        super().__init__()
        self.again = nn.Linear(8, 8)

    def forward(self, row: Tensor) -> Tensor:
        keep = (torch.rand_like(row) < 0.5).to(row.dtype)
        return ((self.again(row * keep) - row) ** 2 * (1 - keep)).mean()


def test_what_a_random_model_gives_for_invalid_input_is_compared_with_nothing() -> None:
    keys = {"inputs": {"row": {"axes": ["batch", 8]}}, "outputs": {"loss": {"kind": "loss"}}}
    with seeded(0):
        exports = make_exports(Masked(), None, "onnx", task=task_of(keys))

    assert exports.subject.prerequisite_failure.random
    found = judge_export("invalid_input", exports, "onnx")
    assert found.status is not Status.FAIL, found.explain()


class Shares(nn.Module):
    """Parts of a whole, which are no numbers where the whole is zero; the file of the broken one takes more than the whole."""

    def __init__(self, is_broken: bool = False) -> None:
        super().__init__()
        self.is_broken = is_broken

    def forward(self, row: Tensor) -> Tensor:
        whole = row.abs().sum(1, keepdim=True)
        return row / (whole + 1) if self.is_broken and torch.jit.is_tracing() else row / whole


@pytest.mark.parametrize(("is_broken", "status"), [(False, Status.OK), (True, Status.FAIL)])
def test_what_is_no_number_on_either_side_is_alike(is_broken: bool, status: Status) -> None:
    keys = {"inputs": {"row": {"axes": ["batch", 8]}}, "outputs": {"shares": {"axes": ["batch", 8]}}}
    with seeded(0):
        exports = make_exports(Shares(is_broken), None, "torchscript", task=task_of(keys))

    assert not exports.expected(next(each for each in exports.points if each.content == "zero"))["shares"].isfinite().any()
    found = judge_export("numerical_consistency", exports, "torchscript")
    assert found.status is status, found.explain()


def test_a_count_of_nodes_that_the_code_fixes_is_named() -> None:
    model, keys, _ = CASES["graph"]  # its forward says `len(x)`
    found = judge_export("dynamic_axes", make_exports(model(), None, "torch_export", task=task_of(keys)), "torch_export")
    assert found.status is Status.FAIL
    assert "nodes is always 6 (declared.py:" in found.message


def test_a_file_has_the_axes_in_the_declared_order() -> None:
    exports = make_exports(Nested(), None, "torchscript", task=task_of(NESTED))
    program = exports.program
    assert program.fields == ("batch.tokens", "batch.padding")
    assert program.axes == {"batch.tokens": {0: "time", 1: "batch"}, "batch.padding": {0: "batch", 1: "time"}}
    assert program.output_axes == {"scores": {0: "batch"}, "steps": {0: "time", 1: "batch"}}
    whole = program.sizes.by_axis(program.task)
    assert program.example["batch.tokens"].shape == (whole["time"], whole["batch"])
    assert bool(program.example["batch.padding"].any()), "the example has rows that are shorter"
    assert judge_export("numerical_consistency", exports, "torchscript").status is Status.OK


def test_sizes_are_multiples_and_nothing_beyond_the_limits() -> None:
    program = make_exports(Segmenter(), None, task=SEGMENTATION).program
    assert program.limits["height"] == (8, 40)
    assert program.step("height") == 8
    grid = [point.sizes.by_axis(program.task) for point in shape_grid(program)]
    assert {sizes["height"] for sizes in grid} == {8, 16, 24, 40}
    assert len({(sizes["height"], sizes["width"]) for sizes in grid}) > 4


def test_free_heights_and_widths_are_tried_at_odd_sizes_and_away_from_the_square() -> None:
    program = make_exports(PaddedToFours(), None, task=ANY_SIZE).program

    grid = [point.sizes.by_axis(program.task) for point in shape_grid(program)]

    sides = {(sizes["height"], sizes["width"]) for sizes in grid}
    assert any(height % 2 and width % 2 and height != width for height, width in sides)
    assert any(height < width for height, width in sides)
    assert any(height > width for height, width in sides)
    assert {5, 21} <= {height for height, _ in sides} & {width for _, width in sides}


def test_an_output_with_an_inputs_name_gets_another() -> None:
    class Copy(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x * 2, x + 1

    keys = {"inputs": {"x": {"axes": ["batch", 4]}}, "outputs": {"x": {"axes": ["batch", 4]}, "more": {"axes": ["batch", 4]}}}
    exports = make_exports(Copy(), None, "onnx", task=task_of(keys))
    assert exports.program.outputs == ("x_out", "more")
    assert judge_export("numerical_consistency", exports, "onnx").status is Status.OK


def test_an_output_with_a_labels_name_keeps_it() -> None:
    keys = {
        "inputs": {"x": {"axes": ["batch", 4]}},
        "outputs": {"recon": {"axes": ["batch", 4], "kind": "values"}},
        "labels": {"recon": {"from": "x"}},
    }
    exports = make_exports(nn.Linear(4, 4), None, "onnx", task=task_of(keys))
    assert exports.program.outputs == ("recon",)
    assert judge_export("numerical_consistency", exports, "onnx").status is Status.OK


def test_each_tensor_of_a_state_is_an_output() -> None:
    program = make_exports(Recurrent(), None, task=STATEFUL).program
    assert program.fields == ("x",)
    assert program.outputs == ("scores", "state.0", "state.1")


def test_outputs_are_found_by_name_before_their_place() -> None:
    assert outputs_by_name(["a", "b"], {"b": 1, "more": 2, "a": 3}) == {"a": 3, "b": 1}
    assert outputs_by_name(["a", "b"], {"x": 1, "y": 2}) == {"a": 1, "b": 2}
    assert outputs_by_name(["a"], (1, 2)) == {"a": 1}
    with pytest.raises(ExportError, match="it returns 1 output, the model 2: a, b"):
        outputs_by_name(["a", "b"], 1)


def test_a_bundle_holds_every_output(tmp_path: Path) -> None:
    exports = make_exports(ActorCritic(), None, "onnx", "safetensors", task=POLICY)
    folder = write_bundle(exports, tmp_path / "bundle", configs={})
    signature = json.loads((folder / "signature.json").read_text())
    assert [output["name"] for output in signature["outputs"]] == ["actions", "value"]
    assert signature["task"]["declared"]["outputs"]["value"] == {"axes": ["batch"], "kind": "values"}
    with np.load(folder / "golden" / "outputs_0.npz") as golden:
        assert golden.files == ["actions", "value"]
    report = verify_bundle(folder)
    assert {finding.name: finding.status for finding in report.findings if finding.status is not Status.OK} == {}
    told = {finding.name: finding.message for finding in report.findings}
    assert told["onnx"] == "gives the golden outputs of 2 batches"
    assert told["inference.py"] == "with onnx, gives the golden outputs of 1 batch"


def test_a_wrong_second_output_of_a_bundle_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exports = make_exports(ActorCritic(), None, "onnx", task=POLICY)

    def shifted(made_up: Any) -> Any:
        files, facts = make_golden(made_up)
        files["outputs_0.npz"]["value"] = files["outputs_0.npz"]["value"] + 1
        return files, facts

    monkeypatch.setattr("harness.export.bundle.make_golden", shifted)
    report = verify_bundle(write_bundle(exports, tmp_path / "bundle", configs={}))
    told = {finding.name: finding for finding in report.findings}
    assert told["onnx"].status is Status.FAIL
    assert told["onnx"].message == "output `value` differs from the golden one"


def test_whole_numbers_are_held_to_equality() -> None:
    exports = make_exports(Chosen(), None, "torchscript", task=CHOICE)
    found = judge_export("numerical_consistency", exports, "torchscript")
    assert found.status is Status.OK
    assert found.details["by_output"]["chosen"] == 0.0


def test_quantised_files_of_several_outputs_are_judged_by_the_worst() -> None:
    exports = make_exports(ActorCritic(), None, "onnx", task=POLICY, quantization="dynamic")
    found = judge_export("quantisation", exports, "onnx_int8")
    assert found.details["output"] in ("actions", "value")
    assert f"dB in output `{found.details['output']}`" in found.message


def test_what_a_signature_works_out_and_keeps_does_not_change_its_hash() -> None:
    task = task_of(CASES["speech"][1])
    before = ObjectHash().of(task)
    task.signature.complete(task.signature.typical_sizes())
    assert ObjectHash().of(task) == before


def test_limits_of_the_config_go_by_the_names_of_the_axes() -> None:
    options = {"dynamic_shapes": {"height": False, "batch": [1, 4], "width": [9, 30]}}
    program = make_exports(Segmenter(), None, task=SEGMENTATION, **options).program
    assert program.limits == {"batch": (1, 4), "width": (16, 24)}
    assert program.example["image"].shape[2] == 40
    assert not torch.equal(program.example["image"], torch.zeros_like(program.example["image"]))


class Named(nn.Module):
    """Its output and an input have names that exporters give to what operators compute."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 4)

    def forward(self, ids: Tensor, add: Tensor) -> Tensor:
        return self.table(ids).mean(1) + add


def test_names_that_the_exporter_uses_inside_are_no_obstacle() -> None:
    keys = {
        "inputs": {"ids": {"axes": ["batch", "time"], "values": {"ids": 9}}, "add": {"axes": ["batch", 4]}},
        "outputs": {"embedding": {"axes": ["batch", 4], "kind": "embedding"}},
        "axes": {"time": {"max": 12}},
    }
    exports = make_exports(Named(), None, "onnx", task=task_of(keys))
    found = judge_export("exports", exports, "onnx")
    assert (found.status, "dynamo" in found.message) == (Status.OK, True), found.explain()
    assert exports.inspection("onnx").facts["inputs"].keys() == {"ids", "add"}
    assert exports.inspection("onnx").facts["outputs"].keys() == {"embedding"}
    assert judge_export("numerical_consistency", exports, "onnx").status is Status.OK


class Branching(nn.Module):
    """Decides by a value, which only tracing takes, and returns a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 3), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if float(x.abs().sum()) > 1e9:
            x = x / 2
        return self.first(x), self.second(x)


def test_outputs_that_are_named_by_their_places_are_traced() -> None:
    keys = {
        "inputs": {"x": {"axes": ["batch", 4]}},
        "outputs": {"0": {"axes": ["batch", 3]}, "1": {"axes": ["batch", 2]}},
    }
    exports = make_exports(Branching(), None, "onnx", task=task_of(keys))
    for check in ("exports", "validation", "numerical_consistency"):
        found = judge_export(check, exports, "onnx")
        assert found.status is not Status.FAIL, found.explain()
