"""The config that ``modeltiers init`` writes: TOML, where every key says where its value comes from, or JSON."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.data.readers import kinds
from harness.models.attempts import methods_to_call
from harness.partial_import import LEFT_OUT
from harness.scaffold.bridge import needs_adapter, needs_build

if TYPE_CHECKING:
    from harness.models.factory import Factory
    from harness.scaffold import Scaffold
    from harness.scaffold.declared import Declared

_SIZES = ("vocab_size", "max_seq_len", "pad_token_id", "image_size", "num_classes", "num_features")
_WIDTH = 34
"""Columns before a comment."""

SUGGESTIONS_FOLLOW = "# More, when you want it:"
"""The line before the suggestions."""

_PARTS = {
    "inputs": "what forward takes: a number is a fixed size, a name an axis",
    "outputs": "what forward returns; the first is the main one",
    "labels": "what the outputs are trained towards, where that is not drawn at random",
    "axes": "sizes that work, as far as they were tried; promises such as order or padding are yours to add",
}
"""The tables of a declared task, and what is said of each."""

_LABELS = """\
Outputs are taken for numbers to predict, with random labels and the mean squared error. Where that is wrong, edit the output:
kind = "class_scores" (classes = 1 where axis 1 has them), "binary_scores", "token_scores", "embedding", "other"; loss = "l1", "bce" …
A loss of your own: loss = "losses.py:my_loss" above the tables, called with outputs and batch as dicts."""
"""The written config says it of a declared task."""

_SUGGESTIONS = """\
tier = ["1", "2"]                # by default every tier that applies: 1 properties, 2 analysis, 3 training, 4 export, 5 monitoring
time_budget = 600.0              # processor seconds for all tests together; 120 by default, more for a large model
weights = "model.safetensors"    # trained weights; a state dict or a Lightning .ckpt as well
properties = {full_length = false}  # switches a property off
[export]
formats = ["onnx", "torchscript", "safetensors"]
[eval]                           # real rows instead of random ones, and tier 5
path = "validation.jsonl"        # or {kinds}
"""
"""The written config has it as comments."""


def config_suggestions() -> str:
    """What a newcomer may want next."""
    return _SUGGESTIONS.replace("{kinds}", kinds())


def config_text(found: Scaffold) -> str:
    """The config file's content.

    Args:
        found: What was found out about the model.
    """
    model_file = found.source.file
    keys = {**_keys(found, model_file), **found.more}
    if found.config.suffix == ".json":
        signature = found.declared.keys if found.declared else {}
        return json.dumps({**{key: value for key, (value, _) in keys.items()}, **signature}, indent=2) + "\n"
    lines = [
        f"# Written by `{found.written_by or f'modeltiers init {model_file.name}'}`, which built {found.factory.call}",
        f"# and called {found.signature}" + (f" with {found.called}." if found.called else "."),
        *([f"# {found.note}."] if found.note else ()),
        "# `modeltiers schema` prints the JSON Schema of all keys, docs/configuration.md explains them.",
        "",
        *(_line(key, value, comment) for key, (value, comment) in keys.items()),
        "",
        *(signature_lines(found.declared) if found.declared else ()),
        SUGGESTIONS_FOLLOW,
        *(f"# {line}" for line in config_suggestions().splitlines()),
    ]
    return "\n".join(lines) + "\n"


def _keys(found: Scaffold, model_file: Path) -> dict[str, tuple[Any, str]]:
    """The keys with their values and comments."""
    factory, folder, guess = found.factory, found.config.resolve().parent, found.guess
    left_out = LEFT_OUT.get(str(model_file), "")
    part = f"only what its models need is run: {left_out}" if left_out else ""
    keys: dict[str, tuple[Any, str]] = {"task_name": (_own_name(model_file.stem, found.signature), "a name for the reports")}
    if guess is not None:
        keys["task_type"] = (guess.task.task_type.value, guess.reasons.get("task_type", ""))
    if needs_build(factory) and found.bridge is not None:
        keys["model_file"] = (
            _relative(found.bridge, folder),
            "; ".join(filter(None, (f"calls {factory.name} in {model_file.name}", part))),
        )
    else:
        if found.source.dotted:
            keys["model_import"] = (f"{found.source.dotted}:{factory.name}", "part of a package")
        else:
            keys["model_file"] = (_relative(model_file, folder), part)
        if (factory.name != "build_model" or found.others) and not found.source.dotted:
            keys["model_factory"] = (factory.name, f"also there: {', '.join(found.others)}" if found.others else "")
        if factory.kwargs:
            guessed = f"{', '.join(factory.guessed)}: guesses, put in your own" if factory.guessed else "as given"
            keys["model_kwargs"] = (_plain(factory.kwargs), f"as in {factory.place}" if factory.place else guessed)
    if factory.method:
        keys["call"] = (factory.method, _other_methods(factory))
    if found.trusted:
        keys["trust_model"] = (True, "the file may start processes and use the network when it is imported")
    if guess is None:
        if found.config.suffix != ".json" and found.declared is not None and "limits" in found.declared.keys:
            keys["limits"] = (found.declared.keys["limits"], "no group is empty")
        return keys
    if guess.adapter:
        keys["adapter"] = (guess.adapter, f"how forward is called: {guess.called}")
    elif needs_adapter(guess) and found.bridge is not None:
        keys["adapter"] = (f"{_relative(found.bridge, folder)}:ModelAdapter", f"how forward is called: {guess.called}")
    for name in _SIZES:
        value = getattr(guess.task, name)
        if value is not None:
            keys[name] = (list(value) if isinstance(value, tuple) else value, guess.reasons.get(name, ""))
    return keys


def signature_lines(declared: Declared) -> Iterator[str]:
    """The tables of a declared task: every entry with what it was read from, and what to edit."""
    for part, said in _PARTS.items():
        entries = declared.keys.get(part, {})
        if not entries:
            continue
        yield f"[{part}]  # {said}"
        if part in declared.reasons:
            yield f"# {' '.join(declared.reasons[part].split())}"
        for name, entry in entries.items():
            yield _line(_toml_key(name), entry, declared.reasons.get(f"{part}.{name}", ""))
        for path, reason in declared.reasons.items():
            group, _, name = path.partition(".")
            if group == part and name and name not in entries:
                yield f"# {name}: {' '.join(reason.split())}"
        yield ""
    yield from (f"# {line}" for line in _LABELS.splitlines())
    yield ""


def _other_methods(factory: Factory) -> str:
    """What is said of the method that is called."""
    methods = methods_to_call(factory.target) if isinstance(factory.target, type) else []
    others = [name for name in methods if name != factory.method]
    return "called in place of forward" + (f"; also there: {', '.join(others)}" if others else "")


def _plain(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in kwargs.items()}


_ANY_FILE = ("model", "models", "net", "network", "main", "module", "modeling", "__init__", "modeltiers_model")
"""Names of files that say nothing of the model in them."""

_WORDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z]{2})(?=[A-Z][a-z])")


def _own_name(stem: str, signature: str) -> str:
    """The file's name, or the class's where that says nothing, unless it is a preset's, which would bring that preset's sizes."""
    from harness.config_values import PRESETS

    name = _WORDS.sub("_", signature.partition(".")[0]).lower() if stem in _ANY_FILE else stem
    return f"{name}_model" if name in PRESETS else name


def _relative(file: Path, folder: Path) -> str:
    try:
        return Path(os.path.relpath(file, folder)).as_posix()
    except ValueError:  # another drive
        return file.as_posix()


def _line(key: str, value: Any, comment: str) -> str:
    text = f"{key} = {_toml(value)}"
    return f"{text:<{_WIDTH}} # {' '.join(comment.split())}" if comment else text


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml_key(name)} = {_toml(item)}" for name, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value)


def _toml_key(name: str) -> str:
    return name if name.replace("_", "").isalnum() and name.isascii() else json.dumps(name)
