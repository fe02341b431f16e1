"""Verification: a bundle that was tampered with is found out, and nothing of it is run before it is known to be whole."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from test_bundle import TABLE, exports_of, read, table_exports, text_exports, whole_bundle
from torch import Tensor, nn

from harness.evidence import Evidence, Status
from harness.export.bundle import contract, verify, write_bundle
from harness.export.bundle.verify import BundleReport, verify_bundle
from harness.export.clean_process import ExportedFile
from harness.export.formats import Exporter, ExportError
from harness.files import file_hash


@pytest.fixture(scope="module")
def original(shared: Path) -> Path:
    """A small bundle of ONNX, weights and a format that can run code."""
    target = shared / "table" / "bundle"
    if not target.exists():
        write_bundle(table_exports("onnx", "pytorch", "torchscript"), target, configs={})
    return target


@pytest.fixture
def bundle(original: Path, tmp_path: Path) -> Path:
    """A copy of it to tamper with."""
    return shutil.copytree(original, tmp_path / "bundle")


@pytest.fixture
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails a test in which anything is loaded or run."""

    def refuse(*arguments: object, **options: object) -> Any:
        raise AssertionError("something was loaded")

    for module, name in ((verify, "ExportedFile"), (verify, "_run_script"), (contract, "load_arrays")):
        monkeypatch.setattr(module, name, refuse)


def relist(bundle: Path, *names: str) -> None:
    """Makes the manifest agree with files that were changed, as whoever changed them would."""
    manifest = read(bundle / "manifest.json")
    for name in names:
        manifest["files"][name] = {"sha256": file_hash(bundle / name), "bytes": (bundle / name).stat().st_size}
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def keep(bundle: Path, *formats: str) -> None:
    """Leaves some formats in a bundle."""
    manifest, signature = read(bundle / "manifest.json"), read(bundle / "signature.json")
    manifest["formats"] = {format: manifest["formats"][format] for format in formats}
    signature["artifacts"] = {format: signature["artifacts"][format] for format in formats}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    (bundle / "signature.json").write_text(json.dumps(signature))
    relist(bundle, "signature.json")


def edit(path: Path, change: Callable[[Any], None]) -> None:
    content = read(path)
    change(content)
    path.write_text(json.dumps(content))


def found(report: BundleReport, name: str) -> Evidence:
    (evidence,) = [finding for finding in report.findings if finding.name == name]
    return evidence


def statuses(report: BundleReport) -> dict[str, Status]:
    return {finding.name: finding.status for finding in report.findings}


# A sound bundle


def test_a_whole_bundle_replays_itself(shared: Path) -> None:
    report = verify_bundle(whole_bundle(shared))
    assert {
        finding.name: (finding.status, finding.message) for finding in report.findings if finding.status is not Status.OK
    } == {}
    assert report.ok
    for format in ("onnx", "torchscript", "torch_export"):
        assert found(report, format).message == "gives the golden logits of 3 batches"
    # The config file is one that this machine remembers.
    assert found(report, "pytorch").message == "gives the golden logits of 3 batches in the model that cfg.json builds"
    assert found(report, "inference.py").message == "with onnx, gives the golden logits of 1 batch"
    assert json.loads(json.dumps(report.to_json()))["status"] == "ok"
    assert report.sha256 in str(report)


def test_weights_whose_code_was_changed_since_are_a_warning(shared: Path, tmp_path: Path) -> None:
    bundle = write_bundle(text_exports(tmp_path / "home", "safetensors"), tmp_path / "bundle", configs={})
    model = tmp_path / "home" / "model.py"
    model.write_text(model.read_text().replace("tanh", "sin"))
    evidence = found(verify_bundle(bundle), "safetensors")
    assert evidence.status is Status.WARN
    assert evidence.message.startswith("holds the weights it had, but not for the model that")
    assert evidence.message.endswith("its logits differ from the golden ones")


@pytest.mark.usefixtures("forked")
def test_elsewhere_formats_that_can_run_code_wait_for_trust(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MODELTIERS_CACHE", str(tmp_path / "another machine"))
    keep(bundle, "torchscript")
    report = verify_bundle(bundle)
    assert report.ok
    assert statuses(report) == {
        "files": Status.OK,
        "origin": Status.SKIPPED,
        "torchscript": Status.WARN,
        "inference.py": Status.SKIPPED,
    }
    assert "loading it can run code" in found(report, "torchscript").message
    (bundle / "inference.py").write_text("")  # one process is enough
    relist(bundle, "inference.py")
    trusted = statuses(verify_bundle(bundle, trust=True))
    assert trusted["origin"] is trusted["torchscript"] is Status.OK


# Files that are not those of the manifest


def flip(bundle: Path) -> None:
    path = bundle / "artifacts" / "model.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(bundle: Path) -> None:
    os.truncate(bundle / "artifacts" / "model.pt", 100)


def remove(bundle: Path) -> None:
    (bundle / "golden" / "outputs_0.npz").unlink()


def add(bundle: Path) -> None:
    (bundle / "numpy.py").write_text("raise SystemExit")


def leave_a_cache(bundle: Path) -> None:
    (bundle / "__pycache__").mkdir()
    (bundle / "__pycache__" / "inference.cpython-311.pyc").write_bytes(b"")


def edit_the_script(bundle: Path) -> None:
    path = bundle / "inference.py"
    path.write_text(path.read_text().replace("import json", "import jsom"))


def link_a_file(bundle: Path) -> None:
    path = bundle / "artifacts" / "model.onnx"
    path.rename(bundle.parent / "elsewhere.onnx")
    path.symlink_to(bundle.parent / "elsewhere.onnx")


def link_a_folder(bundle: Path) -> None:
    (bundle / "golden").rename(bundle.parent / "golden")
    (bundle / "golden").symlink_to(bundle.parent / "golden")


def put_a_pipe(bundle: Path) -> None:
    (bundle / "README.md").unlink()
    os.mkfifo(bundle / "README.md")


def list_elsewhere(name: str) -> Callable[[Path], None]:
    def tamper(bundle: Path) -> None:
        (bundle.parent / "secret").write_text("")
        edit(bundle / "manifest.json", lambda manifest: manifest["files"].update({name: manifest["files"]["README.md"]}))

    return tamper


def list_less(bundle: Path) -> None:
    edit(bundle / "manifest.json", lambda manifest: manifest["files"].pop("golden/golden.json"))


def list_nonsense(bundle: Path) -> None:
    edit(bundle / "manifest.json", lambda manifest: manifest["files"].update({"README.md": "yes"}))


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize(
    ("tamper", "said"),
    [
        (flip, "artifacts/model.onnx was changed: its sha256 differs"),
        (truncate, "artifacts/model.pt has 100 bytes instead of "),
        (remove, "golden/outputs_0.npz is missing"),
        (add, "numpy.py is not in the manifest; delete it"),
        (leave_a_cache, "__pycache__/inference.cpython-311.pyc is not in the manifest (an import of inference.py leaves it)"),
        (edit_the_script, "inference.py was changed"),
        (link_a_file, "artifacts/model.onnx is a link or not a plain file, refused"),
        (link_a_folder, "golden is not in the manifest"),
        (put_a_pipe, "README.md is a link or not a plain file, refused"),
        (list_elsewhere("../secret"), "'../secret' is not a path inside the bundle, refused"),
        (list_elsewhere("artifacts/../../secret"), "is not a path inside the bundle, refused"),
        (list_elsewhere("/etc/passwd"), "'/etc/passwd' is not a path inside the bundle, refused"),
        (list_elsewhere("..\\secret"), "is not a path inside the bundle, refused"),
        (list_elsewhere("C:secret"), "is not a path inside the bundle, refused"),
        (list_elsewhere("a\0b"), "is not a path inside the bundle, refused"),
        (list_elsewhere("./README.md"), "is not a path inside the bundle, refused"),
        (list_elsewhere("."), "is not a path inside the bundle, refused"),
        (list_less, "manifest.json cannot be understood: ValueError: it does not list golden/golden.json"),
        (list_nonsense, "manifest.json cannot be understood: TypeError"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_file_that_is_not_the_manifest_s_is_named_and_nothing_is_loaded(
    tamper: Callable[[Path], None], said: str, bundle: Path
) -> None:
    tamper(bundle)
    report = verify_bundle(bundle)
    assert not report.ok
    assert any(said in finding.message for finding in report.findings if finding.name == "files"), str(report)
    assert all(finding.status is Status.SKIPPED for finding in report.findings if finding.name != "files")


@pytest.mark.usefixtures("nothing_runs")
def test_every_file_is_watched(original: Path, tmp_path: Path) -> None:
    for name in read(original / "manifest.json")["files"]:
        bundle = shutil.copytree(original, tmp_path / "bundle")
        with (bundle / name).open("r+b") as stream:
            first = stream.read(1)
            stream.seek(0)
            stream.write(bytes([first[0] ^ 1]))
        assert [f.message for f in verify_bundle(bundle).findings if f.name == "files"] == [
            f"{name} was changed: its sha256 differs"
        ]
        shutil.rmtree(bundle)


@pytest.mark.parametrize("content", [None, "{", "[]", '{"kind": "a web page"}', "[" * 100_000])
def test_a_folder_that_is_no_bundle_is_one_line(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ExportError) as caught:
        verify_bundle(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_bundle_of_a_later_version_is_said(bundle: Path) -> None:
    edit(bundle / "manifest.json", lambda manifest: manifest.update(version=2))
    assert "it has version 2, and this project reads version 1" in str(verify_bundle(bundle))


# Files that were changed together with the manifest


class Payload:
    """A pickle that leaves a mark when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (os.system, (f"touch {self.mark}",))


@pytest.mark.usefixtures("forked")
def test_a_malicious_pickle_is_refused_and_not_run(bundle: Path, tmp_path: Path) -> None:
    mark, path = tmp_path / "mark", bundle / "artifacts" / "model.pt"
    torch.save({"layer.weight": Payload(mark)}, path)
    keep(bundle, "pytorch")
    relist(bundle, "artifacts/model.pt")
    report = verify_bundle(bundle)
    evidence = found(report, "pytorch")
    assert (evidence.status, mark.exists()) == (Status.FAIL, False)
    assert "UnpicklingError" in evidence.message
    assert "\n" not in evidence.message


def test_a_manifest_that_was_edited_is_another_bundle(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files agree with it, but this machine did not make it, so what can run code is left alone."""
    loaded: list[str] = []

    def file(exporter: type[Exporter], *arguments: Any) -> ExportedFile:
        loaded.append(exporter.name)
        return ExportedFile(exporter, *arguments)

    monkeypatch.setattr(verify, "ExportedFile", file)
    (bundle / "artifacts" / "model.ts").write_bytes((bundle / "artifacts" / "model.ts").read_bytes() + b" ")
    keep(bundle, "torchscript", "onnx")
    relist(bundle, "artifacts/model.ts")
    report = verify_bundle(bundle)
    assert statuses(report)["files"] is Status.OK
    assert found(report, "torchscript").status is Status.WARN
    assert loaded == ["onnx"]


def test_a_signature_cannot_make_the_script_load_what_runs_code(bundle: Path) -> None:
    keep(bundle, "onnx")
    forged = {"file": "artifacts/model.ts", "runtime": "torchscript"}
    edit(bundle / "signature.json", lambda signature: signature["artifacts"].update(onnx=forged))
    relist(bundle, "signature.json")
    report = verify_bundle(bundle)
    assert not report.ok
    assert "signature.json has another file or runtime for onnx than the manifest" in found(report, "golden").message
    assert "inference.py" not in statuses(report)


def test_a_module_in_the_bundle_is_not_imported(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(bundle, "onnx")
    names = ["numpy.py", "onnxruntime.py", "torch.py", "json.py", "sitecustomize.py"]
    for name in names:
        (bundle / name).write_text(f"open({str(tmp_path / 'mark')!r}, 'w')\nraise SystemExit(3)\n")
    relist(bundle, *names)
    monkeypatch.chdir(bundle)
    report = verify_bundle(Path())
    assert statuses(report)["onnx"] is statuses(report)["inference.py"] is Status.OK, str(report)
    assert not (tmp_path / "mark").exists()


def test_another_script_is_not_run(bundle: Path, tmp_path: Path) -> None:
    keep(bundle, "onnx")
    (bundle / "inference.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')")
    relist(bundle, "inference.py")
    report = verify_bundle(bundle)
    assert found(report, "inference.py").status is Status.SKIPPED
    assert "it is not the script that this version writes" in found(report, "inference.py").message
    assert not (tmp_path / "mark").exists()


def test_other_weights_give_other_logits(bundle: Path) -> None:
    path = bundle / "artifacts" / "model.onnx"
    model = onnx.load(path)
    weight = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) + np.float32(1e-3), weight.name))
    onnx.save(model, path)
    keep(bundle, "onnx")
    relist(bundle, "artifacts/model.onnx")
    evidence = found(verify_bundle(bundle), "onnx")
    assert (evidence.status, evidence.message) == (Status.FAIL, "its logits differ from the golden ones")
    assert evidence.measured is not None
    assert evidence.bound is not None
    assert evidence.measured > 10 * evidence.bound


@pytest.mark.usefixtures("forked")
def test_other_weights_in_a_weights_file_are_named(bundle: Path) -> None:
    path = bundle / "artifacts" / "model.pt"
    state = torch.load(path, weights_only=True)
    torch.save({**state, "layer.bias": state["layer.bias"] + 1e-3}, path)
    keep(bundle, "pytorch")
    relist(bundle, "artifacts/model.pt")
    evidence = found(verify_bundle(bundle), "pytorch")
    assert evidence.status is Status.FAIL
    assert evidence.message.endswith("its weights do not fit: other values: layer.bias")


def test_weights_outside_the_bundle_are_refused(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(np.ones((6, 3), np.float32).tobytes())
    weight = helper.make_tensor("weight", TensorProto.FLOAT, (6, 3), bytes(72), raw=True)
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../../secret.bin")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["features", "weight"], ["logits"])],
        "escape",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ("batch", 6))],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ("batch", 3))],
        [weight],
    )
    (bundle / "artifacts" / "model.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    keep(bundle, "onnx")
    relist(bundle, "artifacts/model.onnx")
    evidence = found(verify_bundle(bundle), "onnx")
    assert evidence.status is Status.FAIL
    assert evidence.message == "model.onnx keeps weights in '../../secret.bin', outside its own folder: refused"


def no_batches(golden: Any) -> None:
    golden["batches"] = []
    golden["formats"]["onnx"] = []


def refuse_all(golden: Any) -> None:
    golden["formats"]["onnx"] = [{"refused": "why not"}] * len(golden["batches"])


def read_elsewhere(golden: Any) -> None:
    golden["batches"][0]["inputs"] = "../../secret.npz"


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (no_batches, "no batch to compare a format on"),
        (refuse_all, "no batch to compare a format on"),
        (read_elsewhere, "golden/../../secret.npz is not in the manifest"),
        (lambda golden: golden.pop("formats"), "KeyError: 'formats'"),
    ],
)
def test_golden_facts_that_say_nothing_are_no_pass(
    change: Callable[[Any], None], said: str, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contract, "load_arrays", lambda path: {"features": np.zeros((1, 6)), "logits": np.zeros((1, 3))})
    keep(bundle, "onnx")
    edit(bundle / "golden" / "golden.json", change)
    relist(bundle, "golden/golden.json")
    report = verify_bundle(bundle)
    assert not report.ok
    assert said in found(report, "golden").message


def test_objects_in_golden_arrays_are_not_unpickled(bundle: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    np.savez(bundle / "golden" / "inputs_0.npz", features=np.array([Payload(mark)], object))
    relist(bundle, "golden/inputs_0.npz")
    report = verify_bundle(bundle)
    assert (found(report, "golden").status, mark.exists()) == (Status.FAIL, False)


# What cannot be replayed


class Constant(nn.Module):
    """Whose logits are not finite."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, features: Tensor) -> Tensor:
        return self.layer(features) * float("nan")


@pytest.mark.usefixtures("forked")
def test_logits_that_are_not_finite_are_no_pass(shared: Path, tmp_path: Path) -> None:
    bundle = write_bundle(exports_of(Constant(), TABLE, "torchscript"), tmp_path / "bundle", configs={})
    report = verify_bundle(bundle)
    assert found(report, "torchscript").message == "its logits have another shape than the golden ones, or are not finite"
    assert json.dumps(report.to_json(), allow_nan=False)


def test_a_process_that_takes_too_long_is_stopped(bundle: Path) -> None:
    keep(bundle, "onnx", "pytorch")
    report = verify_bundle(bundle, timeout=0.01)
    for format in ("onnx", "pytorch"):
        assert found(report, format).status is Status.FAIL
        assert "not done after 0.01 s, so it was stopped" in found(report, format).message


def test_a_format_whose_package_is_missing_is_a_warning(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(bundle, "onnx")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    evidence = found(verify_bundle(bundle), "onnx")
    assert evidence.status is Status.WARN
    assert evidence.message.startswith("not replayed: format 'onnx' needs onnx")


def test_a_format_of_a_later_version_is_a_warning(bundle: Path) -> None:
    keep(bundle, "onnx")
    edit(bundle / "manifest.json", lambda manifest: manifest.update(formats={"tosa": "artifacts/model.onnx"}))
    edit(bundle / "golden" / "golden.json", lambda golden: golden["formats"].update(tosa=golden["formats"]["onnx"]))
    relist(bundle, "golden/golden.json")
    assert found(verify_bundle(bundle), "tosa").status is Status.WARN
