"""The model of a run that was made in Python, as keys of a config; and whether these make the same model again."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from harness.adapters import make_adapter
from harness.config import SuiteConfig
from harness.errors import UserError
from harness.experiments.run_parts import measure
from harness.models.loading import model_source
from harness.repro.contents import Contents
from harness.repro.recorded import RecordedRun
from harness.training.model_record import ADAPTER_SOURCE, EMBEDDED, FACT, MODEL_SOURCE, WEIGHTS, attributes_of, structure_of

UNKNOWN = "which model was trained: the run was not made by `modeltiers train` or `run_training`"
_KINDS = (WEIGHTS, MODEL_SOURCE, ADAPTER_SOURCE)


@dataclass(frozen=True)
class PythonModel:
    """What a run says of its model.

    Attributes:
        keys: Keys of a config that make it, with paths of this machine.
        missing: What they lack to make it, a sentence each.
    """

    keys: dict[str, Any]
    missing: tuple[str, ...]


def model_of(recorded: RecordedRun) -> PythonModel:
    """The model of a run whose config names none."""
    record = recorded.record.facts.get(FACT)
    if not isinstance(record, Mapping):
        return PythonModel({}, (UNKNOWN,))
    keys: dict[str, Any] = {"seed": recorded.record.facts.get("seed", 0)}
    missing = [str(sentence) for sentence in record["missing"]]
    missing += [
        f"{Path(a.path).name} is gone or was changed"
        for a in recorded.artifacts
        if a.kind in _KINDS and not _is_as_it_was(a.path, a.sha256)
    ]
    weights = [artifact.path for artifact in recorded.artifacts if artifact.kind == WEIGHTS]
    if weights:
        keys["weights"] = weights[-1]
    model, adapter = record["model"], record["adapter"]
    if not model["module"].startswith(EMBEDDED):
        keys |= _place_of(model)
    if adapter is not None:
        keys["adapter"] = f"{adapter['file']}:{adapter['name']}"
    return PythonModel(keys, tuple(missing))


def why_not_rebuilt(recorded: RecordedRun, contents: Contents) -> tuple[str, ...]:
    """Builds the model from what goes into the bundle; why it is not the model of the run, empty where it is.

    Args:
        recorded: A run whose model was made in Python.
        contents: What goes into its bundle.
    """
    record = recorded.record.facts[FACT]
    with TemporaryDirectory(prefix="modeltiers-rebuild-") as folder:
        for name, source in contents.files.items():
            if not name.startswith("data/"):
                target = Path(folder, name)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
        config = SuiteConfig.model_validate(contents.config)
        config._path = Path(folder, "config.json")
        try:
            model = model_source(config.model_copy(update={"device": "cpu"})).build(config.seed)
            adapter = make_adapter(config.task_spec(), config.adapter, config._path.parent)
        except UserError as error:
            return (f"its model cannot be made again from its source: {str(error).splitlines()[0]}",)
    name = record["model"]["name"]
    if structure_of(model) != record["structure"]:
        return (
            f"{name}, made again from its source, has other modules, shapes or frozen parameters than the model that was trained; "
            "keep its arguments as attributes of their names, or name a `model_file` and `model_factory` in training_cfg",
        )
    told = [(model, record["model"]), (adapter, record["adapter"])]
    for made, known in told:
        if known is not None:
            now = attributes_of(made)
            other = [key for key, value in known["attributes"].items() if key != "training" and now.get(key) != value]
            if other:
                return (
                    f"`{other[0]}` of {known['name']} was {known['attributes'][other[0]]!r}, and is {now.get(other[0])!r} when it is made again",
                )
    return ()


def _place_of(model: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that name a class and its arguments."""
    arguments = {"model_kwargs": model["arguments"]} if model["arguments"] else {}
    if model["file"] is None:
        return {}
    if "." in model["module"]:  # a part of a package, which imports its neighbours
        return {"model_import": f"{model['module']}:{model['name']}", **arguments}
    return {"model_file": model["file"], "model_factory": model["name"], **arguments}


def _is_as_it_was(path: str, sha256: str) -> bool:
    return Path(path).is_file() and measure(path).sha256 == sha256
