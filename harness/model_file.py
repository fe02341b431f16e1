"""What a model's file says, and the config.json of a folder of save_pretrained: read, and not run."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.files import read_regular

_KNOWN = {
    "__future__",
    "abc",
    "collections",
    "contextlib",
    "copy",
    "dataclasses",
    "einops",
    "enum",
    "functools",
    "itertools",
    "logging",
} | {*("math", "numbers", "numpy", "operator", "random", "re", "string", "torch", "typing", "typing_extensions", "warnings")}
"""Packages that bring no models: what a model of theirs can do is named where it is used."""

_OPAQUE = re.compile(r"exec|open|__import__|import_module|hub|jit|load|globals|setattr")
"""Names by which code may take in more than it says."""

_MOST_FILES = 40


def usual_factory(path: Path, usual: str) -> str:
    """What builds a file's model if the config does not say so: the function of the usual name, or else the only class of a whole model.

    A class of a whole model defines ``forward``, and no other class of the file uses it as a part.

    Args:
        path: The file, which is read and not run.
        usual: The name of the function.

    Returns:
        A name in the file; the usual one where the file has none, or several such classes.
    """
    try:
        tree = ast.parse(read_regular(path))
    except (OSError, SyntaxError, ValueError):
        return usual  # the import says what is wrong
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    models = [name for name, node in classes.items() if any(getattr(each, "name", "") == "forward" for each in node.body)]
    parts = {
        inner.id
        for name in classes
        for inner in ast.walk(classes[name])
        if isinstance(inner, ast.Name) and inner.id in classes and inner.id != name
    }
    whole = [name for name in models if name not in parts]
    names = {getattr(each, "name", "") for each in tree.body} | {
        alias.asname or alias.name for each in ast.walk(tree) if isinstance(each, ast.ImportFrom) for alias in each.names
    }
    return whole[0] if usual not in names and len(whole) == 1 else usual


def brings_data(path: Path, factory: str) -> bool:
    """Whether the model of a file has its own ``train_dataloader``, which needs nothing prepared.

    One that has a ``prepare_data`` is left to those who ask for it: that downloads as a rule.

    Args:
        path: The file.
        factory: The class, or the function that makes and returns one of the file's; where there is neither, the usual one counts.
    """
    try:
        tree = ast.parse(read_regular(path))
    except (OSError, SyntaxError, ValueError):
        return False
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    makers = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    if factory not in (*classes, *makers):
        factory = usual_factory(path, factory)
    made = [factory] if factory in classes else _called_in(makers[factory], classes) if factory in makers else []
    hooks = {each.name for name in made[:1] for each in _methods(name, classes) if not _is_empty(each)}
    return "train_dataloader" in hooks and "prepare_data" not in hooks


def names_of_model(path: Path, packages: Collection[str] = ()) -> frozenset[str] | None:
    """Every name that the code of a model holds: that of its file, and of the files beside it that it imports.

    Args:
        path: The file, which is read and not run.
        packages: Packages that bring no models, besides PyTorch and what comes with it.

    Returns:
        The names, of functions also as ``def name`` and of their parameters as ``arg name``. ``None`` where code that is not read may have its
        part in the model: another package, or a file that is loaded.
    """
    names, waiting, read = set[str](), [path], set[Path]()
    while waiting:
        file = waiting.pop()
        if file in read:
            continue
        read.add(file)
        try:
            tree = ast.parse(read_regular(file))
        except (OSError, SyntaxError, ValueError):
            return None
        names |= set(_names_in(tree))
        for module, level in _imports_of(tree):
            beside = _file_of(module, level, file)
            if beside is not None:
                waiting.append(beside)
            elif level or module.partition(".")[0] not in {*_KNOWN, *packages}:
                return None
        if len(read) > _MOST_FILES:
            return None
    return None if any(_OPAQUE.fullmatch(name) for name in names) else frozenset(names)


def _names_in(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield "exec" if node.id == "eval" else node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.arg):
            yield from (node.arg, f"arg {node.arg}")
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield from (node.name, f"def {node.name}")
        elif isinstance(node, ast.keyword) and node.arg:
            yield node.arg
        elif isinstance(node, ast.alias):
            yield from node.name.split(".")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
            yield node.value


def _imports_of(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """The modules that are imported, each with the number of dots before it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from [(node.module, node.level)] if node.module else [(alias.name, node.level) for alias in node.names]


def _file_of(module: str, level: int, file: Path) -> Path | None:
    """The file beside another one that an import stands for; ``None`` where there is none."""
    folder = file.parents[max(0, level - 1)]
    place = folder.joinpath(*module.split("."))
    return next((each for each in (place.with_suffix(".py"), place / "__init__.py") if each.is_file()), None)


def _called_in(function: ast.FunctionDef, classes: dict[str, ast.ClassDef]) -> list[str]:
    """The classes that a function returns instances of."""
    returned = [node.value for node in ast.walk(function) if isinstance(node, ast.Return)]
    names = [value.func.id for value in returned if isinstance(value, ast.Call) and isinstance(value.func, ast.Name)]
    return [name for name in names if name in classes]


def _methods(name: str, classes: dict[str, ast.ClassDef]) -> Iterator[ast.FunctionDef]:
    """The methods of a class and of its bases, as far as they are in the file."""
    known = dict(classes)
    cls = known.pop(name, None)
    for each in cls.body if cls is not None else ():
        if isinstance(each, ast.FunctionDef):
            yield each
    for base in cls.bases if cls is not None else ():
        if isinstance(base, ast.Name):
            yield from _methods(base.id, known)


def _is_empty(function: ast.FunctionDef) -> bool:
    """Whether a method does nothing, or only refuses."""
    return all(
        isinstance(node, (ast.Pass, ast.Raise)) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        for node in function.body
    )


_SETTINGS = "config.json"

_LONGEST = 128
"""Tokens of the longest sequence that the suite draws where the config does not say ``max_seq_len``."""

_TASKS = {
    "ForCausalLM": "causal_lm",
    "LMHeadModel": "causal_lm",
    "ForMaskedLM": "masked_lm",
    "ForSequenceClassification": "sequence_classification",
    "ForTokenClassification": "token_classification",
    "ForImageClassification": "image_classification",
    "ForConditionalGeneration": "seq2seq_lm",
    "MTModel": "seq2seq_lm",
}
"""The task types by the ends of the names of classes."""

_LENGTHS = ("max_position_embeddings", "n_positions", "max_sequence_length", "n_ctx")

_OTHER_INPUTS = ("vision_config", "audio_config", "num_mel_bins")
"""Settings of models that read more than tokens."""


def settings_of(folder: Path) -> dict[str, Any] | None:
    """The content of ``config.json``; ``None`` where there is none, or it is not a JSON object."""
    try:
        found = json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def architecture_of(settings: Mapping[str, Any]) -> str:
    """The name of the model's class; empty where the folder does not say it."""
    names = settings.get("architectures")
    name = names[0] if isinstance(names, list) and names else ""
    return name if isinstance(name, str) and name.isidentifier() else ""


def with_task(keys: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The keys of a config whose ``model`` is a folder of ``save_pretrained``, with the task type and the sizes that it does not say.

    Args:
        keys: The config as it was read.
        folder: The config's.
    """
    model = keys.get("model")
    if not isinstance(model, str) or any(key in keys for key in ("task_type", "inputs", "outputs", "example")):
        return dict(keys)
    try:
        settings = settings_of(folder / Path(model).expanduser())
    except RuntimeError:  # the home of nobody: the check of paths says so
        return dict(keys)
    return {**(task_of(settings) if settings else {}), **keys}


def task_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of the task that a model's settings stand for; empty where it is none of the task types."""
    name = architecture_of(settings)
    task = next((task for end, task in _TASKS.items() if name.endswith(end)), "")
    if not task or any(key in settings for key in _OTHER_INPUTS):
        return {}
    classes = len(settings.get("id2label") or {}) or settings.get("num_labels", 2)
    if task == "image_classification":
        side = settings.get("image_size", 224)
        height, width = side if isinstance(side, list) else (side, side)
        return {"task_type": task, "image_size": [settings.get("num_channels", 3), height, width], "num_classes": classes}
    longest = min([_LONGEST, *(settings[key] for key in _LENGTHS if type(settings.get(key)) is int and settings[key] > 0)])
    keys = {"task_type": task, "vocab_size": settings.get("vocab_size"), "max_seq_len": longest}
    if type(settings.get("pad_token_id")) is int and 0 <= settings["pad_token_id"] < (settings.get("vocab_size") or 0):
        keys["pad_token_id"] = settings["pad_token_id"]
    if task in ("sequence_classification", "token_classification"):
        if classes == 1:  # a number to predict
            return {}
        keys["num_classes"] = classes
    return keys if keys["vocab_size"] else {}
