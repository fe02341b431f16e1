"""The child of a fresh run: loads one artifact, runs it on golden inputs, and writes what it saw and measured.

Started as ``python -m harness.export.replay REQUEST.json`` by ``harness.export.fresh``. What stands at the top of this file is all that an
ONNX artifact meets besides NumPy and ONNX Runtime, so nothing here imports torch before a format asks for it.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    Arrays = dict[str, np.ndarray[Any, Any]]
    Run = Callable[[Arrays], np.ndarray[Any, Any]]

WEIGHTS_ONLY = ("pytorch", "safetensors")
"""Formats that hold weights without the computation."""

ANSWER, INPUTS, OUTPUTS, STAGE = "answer.json", "inputs.npz", "outputs.npz", "stage"
"""Names of the files that lie beside the request."""

_FURTHER_CALLS = 5
_FURTHER_SECONDS = 2.0
_SHOWN = 3
_LONGEST_LINE = 240


class MisfitError(ValueError):
    """The artifact loads, and is not what it should be."""


class Replay:
    """One run of one artifact.

    Attributes:
        request: What the parent asked for.
        folder: Where the files of the run lie.
        answer: What was measured so far, in seconds and bytes.
        stage: What is being done, for messages.
    """

    def __init__(self, request: dict[str, Any], folder: Path) -> None:
        self.request = request
        self.folder = folder
        self.answer: dict[str, Any] = {}
        self.stage = "starting"

    def run(self) -> dict[str, Any]:
        """Does it; whatever is raised becomes the answer's ``error``."""
        try:
            self._run()
        except (Exception, SystemExit) as error:
            self.answer["error"] = f"{self.stage} raised {_one_line(error)}"
        self.answer["peak_bytes"] = _peak_bytes()
        self.answer["packages"] = _packages()
        return self.answer

    def _run(self) -> None:
        kind = self.request["format"]
        imports, load = _FORMATS[kind]
        rebuilds = bool(self.request["config"])
        with self._timed("import_seconds", "importing"):
            for name in (*imports, *(_REBUILDING if rebuilds and kind in WEIGHTS_ONLY else ())):
                importlib.import_module(name)
        with self._timed("load_seconds", "loading"):
            run = load(self.request)
        if run is None:
            return
        batches = self._batches()
        with self._timed("first_call_seconds", "running"):
            first = run(batches[0])
        self.answer["warm_call_seconds"] = _median_call(run, batches[0])
        outputs = [first, *(run(batch) for batch in batches[1:])]
        _write_arrays(self.folder / OUTPUTS, outputs)

    def _batches(self) -> list[Arrays]:
        """The golden inputs, which are stored field by field, batch by batch."""
        import numpy as np

        with np.load(self.folder / INPUTS, allow_pickle=False) as stored:
            arrays = iter([stored[name] for name in stored.files])
        return [{name: next(arrays) for name in self.request["fields"]} for _ in range(self.request["batches"])]

    @contextmanager
    def _timed(self, key: str, stage: str) -> Iterator[None]:
        self.stage = stage
        (self.folder / STAGE).write_text(stage, encoding="utf-8")  # for the parent, should this process not live to say it
        begin = time.perf_counter()
        yield
        self.answer[key] = time.perf_counter() - begin


def state_facts(state: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Shape, dtype, and the names of tensors on the same memory, of each tensor of a state dict, JSON-ready."""
    import torch

    tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    places = {name: (tensor.data_ptr(), tuple(tensor.shape)) for name, tensor in tensors.items()}
    return {
        name: {
            "shape": list(tensor.shape),
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "tied": [other for other, place in places.items() if other != name and tensor.numel() and place == places[name]],
        }
        for name, tensor in tensors.items()
    }


def digest(tensor: Tensor) -> str:
    """SHA-256 of a tensor's values."""
    import torch

    values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(values.numpy().tobytes()).hexdigest()


def _load_onnx(request: dict[str, Any]) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = request["threads"]
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(request["artifact"], options, providers=["CPUExecutionProvider"])
    names = [declared.name for declared in session.get_inputs()]
    unknown = [name for name in names if name not in request["fields"]]
    if unknown:
        raise MisfitError(f"it takes {_shown(unknown)}, the model takes {_shown(list(request['fields']))}")
    return lambda arrays: session.run(None, {name: arrays[name] for name in names})[0]


def _load_torchscript(request: dict[str, Any]) -> Run:
    import torch

    torch.set_num_threads(request["threads"])
    module = torch.jit.load(request["artifact"], map_location="cpu")
    return _by_position(module, request)


def _load_torch_export(request: dict[str, Any]) -> Run:
    import torch

    torch.set_num_threads(request["threads"])
    return _by_position(torch.export.load(request["artifact"]).module(), request)


def _load_openvino(request: dict[str, Any]) -> Run:
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": request["threads"], "NUM_STREAMS": 1}
    compiled = openvino.Core().compile_model(request["artifact"], "CPU", settings)
    names = [port.any_name for port in compiled.inputs]
    unknown = [name for name in names if name not in request["fields"]]
    if unknown:
        raise MisfitError(f"it takes {_shown(unknown)}, the model takes {_shown(list(request['fields']))}")
    call = compiled.create_infer_request()

    def run(arrays: Arrays) -> np.ndarray[Any, Any]:
        # A synchronous call on one thread drops errors, and only a `Tensor` is held to the limits of the axes.
        call.start_async({name: openvino.Tensor(arrays[name]) for name in names})
        call.wait()
        return call.get_output_tensor(0).data.copy()

    return run


def _load_executorch(request: dict[str, Any]) -> Run:
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(request["artifact"])
    program.load_method("forward")
    return _by_position(lambda *tensors: program.load_method("forward").execute(tensors)[0], request)


def _load_pytorch(request: dict[str, Any]) -> Run | None:
    import torch

    torch.set_num_threads(request["threads"])
    content = torch.load(request["artifact"], map_location="cpu", weights_only=True)
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise MisfitError(f"it holds a {type(content).__name__}, expected names with tensors")
    return _with_state(content, request)


def _load_safetensors(request: dict[str, Any]) -> Run | None:
    import torch
    from safetensors.torch import load_file

    torch.set_num_threads(request["threads"])
    return _with_state(load_file(request["artifact"]), request)


def _with_state(state: dict[str, Any], request: dict[str, Any]) -> Run | None:
    """Runs a model built anew with the weights; without a config to build it from, holds them to what is expected."""
    if not request["config"]:
        _check_state(state, request["expected"])
        return None
    from harness.adapters import make_adapter
    from harness.config import load_config

    config = load_config(request["config"])
    model = _build(config)
    _check_state(state, state_facts(model.state_dict()))
    model.load_state_dict(state, strict=False)  # what is missing now is tied to something that is there
    adapter = make_adapter(config.task_spec(), config.adapter, config.path.parent)
    return _on_tensors(lambda batch: adapter.logits(model, batch), request)


def _build(config: Any) -> nn.Module:
    """The config's model with fresh weights, on the CPU."""
    from dataclasses import replace

    from harness.models.loading import model_source

    return replace(model_source(config), weights=None, device="cpu").build()


def _check_state(state: Mapping[str, Any], expected: Mapping[str, dict[str, Any]]) -> None:
    if not expected:
        raise MisfitError("there is nothing to hold its weights to: the model has none, and no config says how to build it")
    found = state_facts(state)
    mistakes = {
        "missing": [name for name, facts in expected.items() if name not in found and not found.keys() & {*facts["tied"]}],
        "unexpected": [name for name in found if name not in expected],
        "shape or dtype": [
            f"{name} {_form(facts)} instead of {_form(expected[name])}"
            for name, facts in found.items()
            if name in expected and _form(facts) != _form(expected[name])
        ],
    }
    if not any(mistakes.values()):
        values = {name: facts["sha256"] for name, facts in expected.items() if name in found and "sha256" in facts}
        mistakes["other values"] = [name for name, sha256 in values.items() if digest(state[name]) != sha256]
    if any(mistakes.values()):
        raise MisfitError("its weights do not fit: " + "; ".join(f"{what}: {_shown(n)}" for what, n in mistakes.items() if n))


def _form(facts: dict[str, Any]) -> str:
    return f"{facts['dtype']}{facts['shape']}"


def _by_position(module: Callable[..., Any], request: dict[str, Any]) -> Run:
    fields = list(request["fields"])
    return _on_tensors(lambda batch: module(*(batch[name] for name in fields)), request)


def _on_tensors(call: Callable[[dict[str, Tensor]], Any], request: dict[str, Any]) -> Run:
    import torch

    dtypes = {name: getattr(torch, dtype) for name, dtype in request["fields"].items()}

    def run(arrays: Arrays) -> np.ndarray[Any, Any]:
        with torch.no_grad():
            logits = call({name: torch.from_numpy(array).to(dtypes[name]) for name, array in arrays.items()})
        if not isinstance(logits, torch.Tensor):
            raise MisfitError(f"it returns a {type(logits).__name__}, expected the logits")
        return (logits.float() if logits.dtype is torch.bfloat16 else logits).numpy()

    return run


_FORMATS: dict[str, tuple[tuple[str, ...], Callable[[dict[str, Any]], Run | None]]] = {
    "onnx": (("numpy", "onnxruntime"), _load_onnx),
    "torchscript": (("numpy", "torch"), _load_torchscript),
    "torch_export": (("numpy", "torch", "torch.export"), _load_torch_export),
    "openvino": (("numpy", "openvino"), _load_openvino),
    "executorch": (("numpy", "torch", "executorch.runtime"), _load_executorch),
    "pytorch": (("numpy", "torch"), _load_pytorch),
    "safetensors": (("numpy", "torch", "safetensors.torch"), _load_safetensors),
}
"""What each format imports, and how it is loaded."""

_REBUILDING = ("harness.config", "harness.adapters", "harness.models.loading")


def _median_call(run: Run, batch: Arrays) -> float:
    """Seconds of the median of a few calls, of fewer where they are long."""
    times: list[float] = []
    while not times or (len(times) < _FURTHER_CALLS and sum(times) < _FURTHER_SECONDS):
        begin = time.perf_counter()
        run(batch)
        times.append(time.perf_counter() - begin)
    return sorted(times)[len(times) // 2]


def _peak_bytes() -> int | None:
    """Most memory this process held at once, in bytes; ``None`` where the system does not say."""
    status = Path("/proc/self/status")
    if status.is_file():  # Linux's ru_maxrss starts at what the parent held when it forked
        line = next((line for line in status.read_text().splitlines() if line.startswith("VmHWM:")), "")
        if line:
            return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _packages() -> list[str]:
    """Packages imported so far, other than the standard library and private modules."""
    tops = {name.partition(".")[0] for name in sys.modules}
    return sorted(top for top in tops - sys.stdlib_module_names if not top.startswith("_"))


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no message"]
    line = lines[-1] if "TorchScript interpreter" in lines[0] else lines[0]
    line = next((line for line in lines if "unsupported" in line.lower()), line)  # torch.load says it in its third line or later
    return f"{type(error).__name__}: {line[:_LONGEST_LINE]}"


def _shown(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _write_arrays(path: Path, arrays: list[np.ndarray[Any, Any]]) -> None:
    import numpy as np

    aside = path.with_name(f"aside-{path.name}")
    np.savez(aside, *arrays)
    os.replace(aside, path)


def main() -> int:
    """Answers the request named on the command line; returns the exit status."""
    path = Path(sys.argv[1]).resolve()
    request = json.loads(path.read_text(encoding="utf-8"))
    if request["folder"]:
        os.chdir(request["folder"])
    sys.path.extend(entry for entry in request["import_paths"] if entry not in sys.path)
    answer = Replay(request, path.parent).run()
    aside = path.with_name(f"aside-{ANSWER}")
    aside.write_text(json.dumps(answer), encoding="utf-8")
    os.replace(aside, path.with_name(ANSWER))
    return 1 if "error" in answer else 0


if __name__ == "__main__":
    sys.exit(main())
