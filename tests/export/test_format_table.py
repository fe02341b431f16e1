"""The table of formats: what each exporter declares is enough, and light enough for the config to read."""

from __future__ import annotations

import subprocess
import sys

import pytest

from harness.catalogue import CATALOGUE
from harness.config import ExportConfig
from harness.export.formats import Exporter, ExportError, exporter_class, make_exporter
from harness.formats import default_formats, formats, no_such_format, quantised_formats, valid_formats


def test_reading_the_table_imports_no_runtime() -> None:
    code = "import sys; from harness.formats import formats; formats(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    packages = {package for format in formats().values() for package in (*format.packages, *format.requirements())}
    assert not {"torch", "numpy", "pydantic", *packages} & set(loaded)


@pytest.mark.parametrize("name", formats())
def test_an_exporter_can_be_loaded_elsewhere(name: str) -> None:
    exporter = exporter_class(name)
    assert issubclass(exporter, Exporter)
    assert exporter.requirements()
    if exporter.kind == "computation":
        assert exporter.standalone, "there is no function for the clean process and for inference.py"
    else:
        assert exporter.read_weights is not Exporter.read_weights


@pytest.mark.parametrize("name", formats())
def test_every_format_has_the_tests_of_its_kind(name: str) -> None:
    judged = {entry.name for entry in CATALOGUE.values() if entry.is_judged_for(name)}
    assert {"exports", "validation", "fresh_process", "performance_benchmark"} <= judged
    assert ("dynamic_axes" in judged) is (formats()[name].kind == "computation")
    assert ("quantisation" in judged) is bool(formats()[name].quantised_from)
    assert "numerical_consistency" in judged or "quantisation" in judged


def test_quantised_formats_follow_from_the_option() -> None:
    options = ExportConfig.model_validate({"quantization": "static"})
    assert [name for name in options.artifacts if name not in default_formats()] == quantised_formats(default_formats())
    assert not set(quantised_formats(valid_formats())) & set(valid_formats())


def test_the_options_reach_the_exporter() -> None:
    options = ExportConfig.model_validate({"quantization": "static", "opset_version": 17})
    assert {name: make_exporter(name, options).settings for name in options.artifacts} == {
        "torchscript": (),
        "onnx": (17,),
        "pytorch": (),
        "onnx_int8": (17, "static"),
    }


def test_an_unknown_format_names_the_nearest() -> None:
    assert "Did you mean 'onnx'?" in no_such_format("onxx")
    with pytest.raises(ExportError, match="Did you mean 'safetensors'"):
        exporter_class("safetensor")
