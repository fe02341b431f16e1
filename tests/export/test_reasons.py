"""Why an export or a run failed: the innermost cause, whole, as one line."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from planted_bugs.tier4.exports import make_exports
from planted_bugs.tier4.models import Scores
from torch import Tensor

from harness.export import one_line, runtime_message, shortened
from harness.export.checks import judge_export
from harness.export.formats import Attempt
from harness.export.formats.exported_program import failures


class Bessel(Scores):
    """Computes what no ONNX operator does."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(torch.special.bessel_j0(features))


def test_exports_says_the_innermost_cause_uncut_and_nothing_else(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    message = judge_export("exports", make_exports(Bessel(), tmp_path), "onnx").message
    assert "No ONNX function found for <OpOverload(op='prims.bessel_j0', overload='default')>" in message
    assert "Exporting the operator 'aten::special_bessel_j0' to ONNX opset version 20 is not supported" in message
    assert "Error when translating node" not in message
    assert capfd.readouterr() == ("", "")  # such as the graph, which the exporter of TorchScript writes to the process's output


def chained(*errors: BaseException) -> BaseException:
    for outer, inner in itertools.pairwise(errors):
        outer.__cause__ = inner
    return errors[0]


class OwnError(Exception):
    """Of the user's own code."""


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (chained(RuntimeError("step 1/2 failed"), ValueError("the reason")), "ValueError: the reason"),
        (chained(RuntimeError("outer"), OwnError("chosen by the user"), KeyError("x")), "OwnError: chosen by the user"),
        (RuntimeError("first line\nsecond"), "RuntimeError: first line"),
        (RuntimeError(""), "RuntimeError: no message"),
    ],
)
def test_one_line(error: BaseException, says: str) -> None:
    assert one_line(error) == says


def test_a_runtime_says_why_without_its_source_positions() -> None:
    text = (
        "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Reshape node. Name:'/Reshape' Status Message: "
        "/onnxruntime_src/onnxruntime/core/providers/cpu/tensor/reshape_helper.h:91 onnxruntime::ReshapeHelper::ReshapeHelper("
        "const onnxruntime::TensorShape&, onnxruntime::TensorShapeVector&, bool) input_shape_size == requested_shape_size was false. "
        "The input tensor cannot be reshaped to the requested shape. Input shape:{3,4}, requested shape:{2,2,2}\n"
    )
    said = runtime_message(RuntimeError(text))
    assert said.startswith("an error in Reshape `/Reshape`: input_shape_size")
    assert said.endswith("Input shape:{3,4}, requested shape:{2,2,2}")


def test_a_message_of_several_lines_is_joined() -> None:
    text = "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Got invalid dimensions for input: x for the following indices\n index: 1 Got: 5"
    assert runtime_message(RuntimeError(text)) == "Got invalid dimensions for input: x for the following indices index: 1 Got: 5"


def test_a_refusal_of_other_shapes_holds_the_reason(tmp_path: Path) -> None:
    class Fixed(Scores):
        def forward(self, features: Tensor) -> Tensor:
            return super().forward(features.reshape([int(size) for size in features.shape])).reshape(3, 3)

    evidence = judge_export("numerical_consistency", make_exports(Fixed(), tmp_path), "onnx")
    assert "/onnxruntime" not in f"{evidence.message} {evidence.details}"


def test_what_is_too_long_is_cut_between_words() -> None:
    assert shortened("one two three", 9) == "one two …"
    assert shortened("one two", 7) == "one two"


def test_ways_of_one_exporter_are_named_once() -> None:
    ways = ("torch.export, free axes", "torch.export, inferred axes", "trace")
    assert failures(Attempt(way, "no") for way in ways) == "torch.export and trace: no"
    assert (
        failures([Attempt("torch.export, free axes", "no"), Attempt("trace", "neither")])
        == "torch.export, free axes: no; trace: neither"
    )
