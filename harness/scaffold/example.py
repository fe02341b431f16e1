"""What a config does not declare, read from one working call of its model; kept, so that every process of a run reads the same."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from harness.config_file import refused
from harness.errors import ExampleError, Mistake
from harness.export.store import Cache
from harness.export.store.identity import own_files, versions, with_imports
from harness.export.store.object_hash import ObjectHash, never_again
from harness.files import file_hash, json_hash
from harness.models.examples import WHERE_TO_GIVE, Example, find_example, given_example
from harness.models.loading import model_source
from harness.scaffold.declared import with_near_classes
from harness.tasks import finding
from harness.tasks.declared import SignatureError, read_signature
from harness.tasks.finding import FoundSignature, signature_from_call
from harness.tasks.finding.calling import flat
from harness.tasks.keys import SignatureKeys
from harness.user_code import import_file, import_named

if TYPE_CHECKING:
    from types import ModuleType

    from harness.config import SuiteConfig


@dataclass(frozen=True)
class ReadExample:
    """A signature of which an example gave what the config does not declare.

    Attributes:
        keys: The keys of a config that declare it.
        origin: Where the example comes from.
        reasons: What each key was read from.
    """

    keys: dict[str, Any]
    origin: str
    reasons: dict[str, str] = field(default_factory=dict)


def read_example(config: SuiteConfig) -> ReadExample:
    """Fills in what a config does not declare.

    Raises:
        ConfigError: There is no example, it cannot be used, or it contradicts what is declared; one line.
        UserError: The model cannot be built.
    """
    if config.isolation and config.needs_example:
        message = (
            '`isolation` "process": an example is read by calling the model in this very process; declare `inputs` and `outputs` '
            "(`modeltiers explain` on a copy without `isolation` prints them)"
        )
        raise refused(config.path, [Mistake("isolated_example", "isolation", message)])
    declared = config.declared_keys()
    given = declared.model_dump(by_alias=True, exclude_unset=True, exclude={"example"})
    given = {key: value for key, value in given.items() if value}
    try:
        model = model_source(config).build(config.seed)
        example = _example(config, model)
        if config.inputs:
            _compare(example, declared, config)
            return ReadExample(given, example.origin)
        found = _found(config, model, example)
    except ExampleError as error:
        raise refused(config.path, [Mistake("unusable_example", "example", str(error))]) from error
    near = (config.resolve(config.model_file), "") if config.model_file else None
    merged = with_near_classes(_merged(given, found), config.path, near)
    try:
        read_signature(merged, config.path.parent, config.model_file)
    except SignatureError as error:
        raise refused(config.path, error.mistakes) from None
    return ReadExample(merged, example.origin, found.reasons)


def _example(config: SuiteConfig, model: nn.Module) -> Example:
    """The example that the config names, or that the model gives.

    Raises:
        ExampleError: There is none.
    """
    if config.example:
        source = config.example
        if source.startswith(":"):
            if not config.model_file:
                raise ExampleError(
                    f"`example`: {source} is in the model's file, and no `model_file` is given; write file.py{source}"
                )
            source = f"{config.model_file}{source}"
        return given_example(
            import_named(source, config.path.parent, "example"), f"`example`: {config.example}", model, config.seed
        )
    module: ModuleType | None = import_file(config.resolve(config.model_file), "model_file") if config.model_file else None
    found = find_example(model, module, config.seed)
    if found is None:
        raise ExampleError(f"no `task_type`, no `inputs`, and the model gives no example of its inputs. {WHERE_TO_GIVE}")
    return found


def _found(config: SuiteConfig, model: nn.Module, example: Example) -> FoundSignature:
    """The signature of the model's call, from the cache where the same call of the same model was read before."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", "")  # what cannot be hashed is the same in every process of a run
    objects = ObjectHash((lambda: run) if run else never_again)
    key = json_hash(
        objects.of(model, example.arguments, example.axis_names),
        with_imports(own_files(objects.seen)),
        versions(),
        [file_hash(path) for path in sorted(Path(finding.__file__).parent.glob("*.py"))],
    )

    def compute() -> dict[str, Any]:
        found = signature_from_call(model, example.arguments, axis_names=example.axis_names)
        return {"keys": found.keys, "reasons": found.reasons}

    kept = Cache().values(key, compute, read=lambda kept: FoundSignature(kept["keys"], kept["reasons"]))
    return FoundSignature(kept["keys"], kept["reasons"])


def _merged(given: Mapping[str, Any], found: FoundSignature) -> dict[str, Any]:
    """What is declared, and for the rest what was found; declared outputs take their axes from those that were found."""
    keys = {**found.keys, **given}
    if outputs := given.get("outputs"):
        keys["outputs"] = {
            name: {**({} if "axes" in declared else _axes_of(name, declared, place, found)), **declared}
            for place, (name, declared) in enumerate(outputs.items())
        }
    used = {axis for group in ("inputs", "outputs") for each in keys[group].values() for axis in each.get("axes", ())}
    axes = {name: axis for name, axis in found.keys.get("axes", {}).items() if name in used}
    for name, declared in given.get("axes", {}).items():
        axes[name] = {**axes.get(name, {}), **declared}
    return {key: value for key, value in {**keys, "axes": axes}.items() if value}


def _axes_of(name: str, declared: Mapping[str, Any], place: int, found: FoundSignature) -> dict[str, Any]:
    """The axes of the output that a declared one is: of its name, its place, or the only one."""
    outputs = found.keys["outputs"]
    same = outputs.get(name) or outputs.get(str(declared.get("at", place)))
    same = same or (list(outputs.values())[place] if place < len(outputs) else {})
    return {"axes": same.get("axes", [])}


def _compare(example: Example, declared: SignatureKeys, config: SuiteConfig) -> None:
    """Refuses an example of other inputs, or of other shapes, than the config declares.

    Raises:
        ExampleError: It is.
    """
    tensors = {name: value for argument, given in example.arguments.items() for name, value in flat(argument, given)}
    sizes: dict[str, int] = {}
    for name, keys in declared.inputs.items():
        value = tensors.get(name)
        if value is None:
            if not (keys.optional or keys.state):
                raise ExampleError(f"{example.origin} gives no {name!r}, which `inputs` declares; it gives {', '.join(tensors)}")
            continue
        shape = list(value.shape) if isinstance(value, Tensor) else None
        if shape is None or len(shape) != len(keys.axes):
            what = f"shape {shape}" if shape is not None else f"a {type(value).__name__}"
            raise ExampleError(f"`inputs.{name}.axes` declares {keys.axes}; {example.origin} gives {what}")
        for axis, size in zip(keys.axes, shape, strict=True):
            expected = axis if isinstance(axis, int) else sizes.setdefault(axis, size)
            if size != expected:
                raise ExampleError(f"`inputs.{name}.axes` declares {keys.axes}; {example.origin} gives shape {shape}")
    if unknown := [name for name, value in tensors.items() if name not in declared.inputs and isinstance(value, Tensor)]:
        raise ExampleError(f"{example.origin} gives {unknown[0]!r}, which `inputs` does not declare")
