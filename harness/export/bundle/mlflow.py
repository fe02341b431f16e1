"""A model in MLflow's own format."""

from __future__ import annotations

import json
from typing import Any

from harness.export.bundle.draft import Draft
from harness.export.bundle.golden import load_arrays
from harness.export.bundle.signature import sizes_of
from harness.export.bundle.texts import pinned, render
from harness.export.formats.exporter import exporter_class
from harness.export.store.identity import versions


def write_mlflow(draft: Draft, format: str) -> None:
    """A model in MLflow's own format, with the flavour of the format and ``python_function``."""
    home, signature = draft.folder / "mlflow", draft.signature
    exporter = exporter_class(format)
    path = draft.copy_model(format, home, exporter.filename)
    needed = ["mlflow", *map(pinned, dict.fromkeys(("numpy", exporter.mlflow_flavour, *exporter.requirements())))]
    facts = {
        "versions": versions(),
        "size": path.stat().st_size,
        "uuid": draft.identity[:32],
        "created": draft.created,
        "flavour": exporter.mlflow_flavour,
        "file": path.name,
    }
    specs = {
        side: json.dumps([_tensor(t) for t in tensors])
        for side, tensors in (("inputs", signature["inputs"]), ("outputs", [signature["output"]]))
    }
    for name in ("MLmodel", "conda.yaml", "python_env.yaml"):
        (home / name).write_text(render(f"{name}.j2", **facts, **specs, requirements=needed), encoding="utf-8")
    (home / "requirements.txt").write_text("\n".join(needed) + "\n", encoding="utf-8")
    example = {name: array.tolist() for name, array in load_arrays(draft.folder / "golden" / "inputs_0.npz").items()}
    (home / "input_example.json").write_text(json.dumps(example), encoding="utf-8")
    (home / "serving_input_example.json").write_text(json.dumps({"inputs": example}), encoding="utf-8")


def _tensor(declared: dict[str, Any]) -> dict[str, Any]:
    spec = {"dtype": declared["dtype"], "shape": sizes_of(declared)}
    return {"name": declared["name"], "type": "tensor", "tensor-spec": spec}
