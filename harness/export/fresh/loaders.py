"""How each format is loaded, with what that takes and no more: as a function from named arrays to logits.

An ONNX artifact is to meet nothing besides NumPy and ONNX Runtime, so nothing here imports torch before a format asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from harness.export.fresh.tensor_facts import TensorFacts

    Arrays = dict[str, np.ndarray[Any, Any]]
    Run = Callable[[Arrays], np.ndarray[Any, Any]]

WEIGHTS_ONLY = ("pytorch", "safetensors")
"""Formats that hold weights without the computation."""

REBUILDING = ("harness.config", "harness.adapters", "harness.models.loading")
"""What a model is built with, for formats that hold its weights alone."""

_SHOWN = 3


class MisfitError(ValueError):
    """The artifact loads, and is not what it should be."""


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
    from harness.export.fresh.tensor_facts import TensorFacts, facts_of

    if not request["config"]:
        _hold(state, {name: TensorFacts.from_json(entry) for name, entry in request["expected"].items()})
        return None
    from harness.adapters import make_adapter
    from harness.config import load_config

    config = load_config(request["config"])
    model = _build(config)
    _hold(state, facts_of(model.state_dict(), values=False))
    model.load_state_dict(state, strict=False)  # what is missing now is tied to something that is there
    adapter = make_adapter(config.task_spec(), config.adapter, config.path.parent)
    return _on_tensors(lambda batch: adapter.logits(model, batch), request)


def _build(config: Any) -> nn.Module:
    """The config's model with fresh weights, on the CPU."""
    from dataclasses import replace

    from harness.models.loading import model_source

    return replace(model_source(config), weights=None, device="cpu").build()


def _hold(state: dict[str, Any], expected: Mapping[str, TensorFacts]) -> None:
    from harness.export.fresh.tensor_facts import misfits

    if not expected:
        raise MisfitError("there is nothing to hold its weights to: the model has none, and no config says how to build it")
    wrong = misfits(state, expected)
    if wrong:
        raise MisfitError("its weights do not fit: " + "; ".join(f"{what}: {_shown(names)}" for what, names in wrong.items()))


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


def _shown(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


LOADERS: dict[str, tuple[tuple[str, ...], Callable[[dict[str, Any]], Run | None]]] = {
    "onnx": (("numpy", "onnxruntime"), _load_onnx),
    "torchscript": (("numpy", "torch"), _load_torchscript),
    "torch_export": (("numpy", "torch", "torch.export"), _load_torch_export),
    "openvino": (("numpy", "openvino"), _load_openvino),
    "executorch": (("numpy", "torch", "executorch.runtime"), _load_executorch),
    "pytorch": (("numpy", "torch"), _load_pytorch),
    "safetensors": (("numpy", "torch", "safetensors.torch"), _load_safetensors),
}
"""What each format imports, and how it is loaded."""
