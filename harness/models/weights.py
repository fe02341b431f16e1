"""What was saved of a model: its weights, a folder of ``save_pretrained``, a checkpoint of Lightning with the arguments of its class."""

from __future__ import annotations

import inspect
import json
import pickle
import pickletools
import re
import zipfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.errors import ModelSourceError, WeightsError, optional_package
from harness.files import NO_FILE
from harness.model_file import architecture_of, settings_of
from harness.models.numpy_values import NOT_NUMBERS, reading_numbers, with_arrays
from harness.models.wrapped import plain_name
from harness.wording import counted, shortened

_SHOWN = 5
_LONGEST = 200
_USUAL_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""Weights in a folder of ``save_pretrained``."""

PLAIN = "dense"
"""The kind of most tensors."""

_KEEP_WEIGHTS = (
    "Save model.state_dict() or use .safetensors. "
    "If you trust the file, convert it once: torch.save(torch.load(PATH, weights_only=False).state_dict(), NEW_PATH)"
)
_ADVICE = ("Weights only load failed", "Please file an issue", "Check the documentation")
"""How lines begin in which torch says what else one could do."""


def load_weights(model: nn.Module, path: Path) -> None:
    """Loads ``.safetensors``, a state dict, a Lightning ``.ckpt``, or what an index names into a model, in place.

    Raises:
        WeightsError: The file is missing, damaged or would run code, or its names and shapes do not fit; they are listed.
    """
    if path.is_dir():
        inside = [name for name in _USUAL_FILES if (path / name).is_file()]
        hint = f': write its file, "{path / inside[0]}"' if inside else ""
        raise WeightsError(f"`weights`: {path} is a folder, expected a file of weights{hint}")
    if not path.is_file():
        raise WeightsError(f"`weights`: {path} is {NO_FILE}" if path.exists() else f"`weights`: no such file {path}")
    refuse_incomplete(path)
    fill(model, read_state(path), path.name)


def fill(model: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Loads named tensors into a model, in place.

    Args:
        model: The model.
        state: The tensors.
        source: What they come from, for the message.

    Raises:
        WeightsError: Their names and shapes do not fit; they are listed.
    """
    state = _without_wrapper_prefix({plain_name(name): tensor for name, tensor in state.items()}, model)
    expected = model.state_dict()
    other_kind = [
        f"{name} is {_kind(state[name])}, {_DENSE.get(_kind(state[name]), 'expected another kind')}"
        for name in expected
        if name in state and _kind(state[name]) not in (PLAIN, _kind(expected[name]))
    ]
    if other_kind:
        raise WeightsError(f"`weights`: {source} does not fit {type(model).__name__}; {_shown(other_kind)}")
    wrong_shape = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in expected
        if name in state and state[name].shape != expected[name].shape
    ]
    missing = [name for name in expected if name not in state and not _is_tied_to(name, state, expected)]
    unexpected = [name for name in state if name not in expected]
    if wrong_shape or missing or unexpected:
        parts = [
            f"{label}: {_shown(names)}"
            for label, names in (("missing", missing), ("unexpected", unexpected), ("shape", wrong_shape))
            if names
        ]
        raise WeightsError(f"`weights`: {source} does not fit {type(model).__name__}; " + "; ".join(parts))
    load_state(model, state, strict=state.keys() >= expected.keys())


def load_state(model: nn.Module, state: dict[str, Any], *, strict: bool = True, assign: bool = False) -> Any:
    """Calls a model's ``load_state_dict`` without the arguments that say nothing: an overridden one may take a state dict only."""
    return model.load_state_dict(state, **({} if strict else {"strict": False}), **({"assign": True} if assign else {}))


_DENSE = {
    "sparse": "write it with to_dense()",
    "nested": "write it padded, or part by part",
    "quantised": "write it with dequantize()",
    "without values": "it was saved from the meta device",
    "complex": "the model's is real",
}
"""What to do with tensors of other kinds."""


def _kind(tensor: Tensor) -> str:
    """How a tensor keeps its values."""
    if tensor.is_nested:
        return "nested"
    if tensor.layout is not torch.strided:
        return "sparse"
    if tensor.is_meta:
        return "without values"
    if tensor.is_quantized:
        return "quantised"
    return "complex" if tensor.is_complex() else PLAIN


def read_state(path: Path) -> dict[str, Tensor]:
    """The named tensors of a file.

    Raises:
        WeightsError: It is damaged, would run code, or holds something else.
    """
    _refuse_other_kinds(path)
    if path.suffix == ".json":
        return {name: tensor for shard in sorted(_shards(path)) for name, tensor in read_state(_beside(path, shard)).items()}
    content = _safe_tensors(path) if path.suffix == ".safetensors" else read_pickled(path, "weights", _KEEP_WEIGHTS)
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not (isinstance(content, dict) and all(isinstance(v, Tensor) for v in content.values())):
        raise WeightsError(f"`weights`: {path} holds no state dict: expected names with tensors, got {type(content).__name__}")
    odd = next((name for name in content if not isinstance(name, str)), None)
    if odd is not None or None in content:
        raise WeightsError(
            f"`weights`: {path} holds no state dict: names are text, got {type(odd).__name__} {shortened(repr(odd), _LONGEST)}"
        )
    return content


_CODE = re.compile(r"GLOBAL (\S+)|reduce for unrecognized function (\S+)|but got <class '(\S+)'>$", re.MULTILINE)
"""How torch names the code that a pickle would run."""

_PICKLE = b"\x80"
_BEGINNINGS = (b"PK\x03\x04", _PICKLE)
"""How files begin that ``torch.save`` writes: archives, and pickles as it once did."""


def read_pickled(path: Path, key: str, instead: str, device: Any = "cpu", mapped: bool = True) -> Any:
    """What a file of ``torch.save`` holds; no code in it is run.

    Args:
        path: The file.
        key: Of the config that names it, for the message.
        instead: What to do with a file that would run code, for the message.
        device: Where its tensors go.
        mapped: Whether they may stay in the file, as safetensors do: what is copied from them is then not read into memory first.

    Raises:
        WeightsError: It would run code, is damaged, or is another kind of file.
    """
    try:
        _refuse_dangerous(path)
        with reading_numbers():
            return with_arrays(torch.load(path, map_location=device, weights_only=True, mmap=mapped and zipfile.is_zipfile(path)))
    except _DangerousError as error:
        code = str(error)
    except Exception as error:
        code = next((name for found in _CODE.findall(str(error)) for name in found if name), "") or _code_of_plain_pickle(path)
        if not code:
            raise WeightsError(f"`{key}`: {path} {_no_weights(path, error)}") from None
    raise WeightsError(f"`{key}`: {path} is refused: loading it would run code ({code}). {instead}")


def _safe_tensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception as error:
        raise WeightsError(f"`weights`: {path} cannot be read: {_first_line(error)}") from None


def _code_of_plain_pickle(path: Path) -> str:
    """What a pickle calls that ``torch.save`` has not written, as torch reads none of a later protocol; empty where it calls nothing."""
    with suppress(Exception), path.open("rb") as file:  # a damaged one
        if file.read(1) == _PICKLE:
            file.seek(0)
            calls = {"GLOBAL", "STACK_GLOBAL", "INST"}
            return "a pickle that calls functions" if any(step.name in calls for step, *_ in pickletools.genops(file)) else ""
    return ""


def _no_weights(path: Path, error: Exception) -> str:
    """What is wrong with a file that torch cannot read: its beginning, where that is no file of weights', else what torch says last."""
    with path.open("rb") as file:
        head = file.read(16)
    if head and not head.startswith(_BEGINNINGS):
        said = f"its {counted(path.stat().st_size, 'byte')} begin with {head!r}"
        return f"is not a file of weights: {said}; expected .safetensors or what torch.save writes"
    if not head or (not head.startswith(_PICKLE) and not zipfile.is_zipfile(path)):
        return f"is {'cut short: an archive without its end' if head else 'empty'}; copy or download it again"
    if not isinstance(error, pickle.UnpicklingError):
        return f"cannot be read: {_first_line(error)}"
    found = [line for line in str(error).splitlines() if line and not line.startswith(_ADVICE)]
    if found and found[-1].startswith(NOT_NUMBERS):
        return f"cannot be read: it holds {found[-1]}"
    return f"cannot be read: it is damaged, or not written by torch.save ({found[-1] if found else 'its pickle ends too soon'})"


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), 'the file is cut short')}"


def _shards(index: Path) -> dict[str, list[str]]:
    """The files that an index of weights names, with the tensors that it says are in each."""
    files: dict[str, list[str]] = {}
    try:
        for tensor, name in sorted(json.loads(index.read_text(encoding="utf-8"))["weight_map"].items()):
            files.setdefault(str(name), []).append(tensor)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise WeightsError(f"`weights`: {index} is JSON, but not an index of weights: it has no `weight_map`") from None
    return files


def _beside(index: Path, name: str) -> Path:
    """A file that an index names; only one that lies beside it is ever opened."""
    shard = index.parent / name
    if Path(name).name != name or shard.suffix == ".json" or not shard.is_file():
        raise WeightsError(f"`weights`: {index.name} names {name!r}, which is not a file beside it")
    return shard


def refuse_incomplete(path: Path) -> None:
    """Refuses weights of which a part is not there, before anything is read or built: a shard that is missing, cut short or lacks tensors.

    Raises:
        WeightsError: The message names the file.
    """
    if path.suffix == ".safetensors" and path.is_file():
        _refuse_cut_short(path)
    elif path.suffix == ".json" and path.is_file():
        _refuse_other_kinds(path)
        for name, tensors in _shards(path).items():
            shard = _beside(path, name)
            held = _refuse_cut_short(shard) if shard.suffix == ".safetensors" else None
            lacking = [tensor for tensor in tensors if held is not None and tensor not in held]
            if lacking:
                raise WeightsError(f"`weights`: {name} lacks what {path.name} says is in it: {_shown(lacking)}")


_LONGEST_HEAD = 100_000_000
"""Bytes of the head of a safetensors file, at most."""


def _refuse_cut_short(path: Path) -> list[str] | None:
    """The names in the head of a safetensors file, which says how long the file is; ``None`` where the head cannot be read."""
    _refuse_other_kinds(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        head = file.read(length) if length <= _LONGEST_HEAD else b""
    needed, names = 8 + length, None
    try:
        entries = json.loads(head)
        names = [name for name in entries if name != "__metadata__"]
        needed += max((int(entries[name]["data_offsets"][1]) for name in names), default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        names = None  # reading it says what it is
    if size < needed and length <= _LONGEST_HEAD:
        raise WeightsError(f"`weights`: {path} is cut short: {size:,} bytes of {needed:,}; copy or download it again")
    return names


def _refuse_other_kinds(path: Path) -> None:
    """Refuses files that are often found in the place of weights."""
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(b"version https://git-lfs"):
        raise WeightsError(f"`weights`: {path} is a pointer of Git LFS, not the weights; fetch them: git lfs pull")
    if head.lstrip()[:1] == b"<":
        raise WeightsError(f"`weights`: {path} is a web page, not weights; download the file itself")


class _DangerousError(Exception):
    """A scanner of pickles found code; the text names it."""


def _refuse_dangerous(path: Path) -> None:
    """Refuses before the unpickler has begun, where a scanner of pickles knows better."""
    from harness.scan import dangerous_names

    with path.open("rb") as file:
        names = dangerous_names(file, path.name)
    if names:
        raise _DangerousError(f"picklescan found {', '.join(names[:_SHOWN])}")


def not_finite(state: dict[str, Tensor]) -> list[str]:
    """Names of floating tensors that hold NaN or infinity."""
    return [name for name, tensor in state.items() if tensor.is_floating_point() and not bool(tensor.isfinite().all())]


def _without_wrapper_prefix(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Drops a prefix such as ``model.`` or ``module.`` that a LightningModule or DDP put before every name."""
    expected = model.state_dict().keys()
    for prefix in {name.split(".", 1)[0] + "." for name in state}:
        stripped = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        if len(stripped) == len(state) and not state.keys() & expected and stripped.keys() & expected:
            return stripped
    return state


def _is_tied_to(name: str, state: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    """Whether a missing tensor shares its storage with one that is there, as safetensors leaves shared ones out."""
    return any(other in state and expected[other].data_ptr() == expected[name].data_ptr() for other in expected if other != name)


def _shown(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(shortened(name, _LONGEST) for name in names[:_SHOWN]) + more


CHECKPOINT = ".ckpt"
"""What a checkpoint of Lightning ends in."""

_ARGUMENTS = "hyper_parameters"
"""The key of a checkpoint of Lightning under which ``save_hyperparameters`` keeps the arguments."""


def pretrained_factory(folder: Path) -> Callable[..., nn.Module]:
    """What loads the model of a folder of ``save_pretrained``, in float32 where no other ``dtype`` is given.

    Raises:
        ModelSourceError: It is no such folder, or loading it would run code that lies in it.
        MissingPackageError: Transformers is not installed.
    """
    if not folder.exists():
        raise ModelSourceError(
            f"`model`: no such folder {folder}; a model of the Hub is downloaded first: hf download NAME --local-dir DIR"
        )
    settings = settings_of(folder)
    if settings is None:
        what = "a folder without a readable config.json" if folder.is_dir() else "a file"
        raise ModelSourceError(
            f"`model`: {folder} is {what}, expected FILE.py, FILE.py:Class, pkg.mod:Class, a .ckpt of Lightning, or a folder of save_pretrained"
        )
    if "auto_map" in settings:
        raise ModelSourceError(
            f"`model`: the model of {folder} is made by code in the folder, which is not run; name a `model_file` that imports it"
        )
    transformers = optional_package("transformers", "`model` as a folder of save_pretrained", "huggingface")
    name = architecture_of(settings) or "AutoModel"
    cls = getattr(transformers, name, None)
    if cls is None:
        raise ModelSourceError(
            f"`model`: transformers {transformers.__version__} has no {name}, which {folder / 'config.json'} names"
        )
    return partial(_loaded, cls, folder)


def _loaded(cls: Any, folder: Path, **options: Any) -> nn.Module:
    from transformers.utils import logging

    for name in _USUAL_FILES[:2]:
        refuse_incomplete(folder / name)
    shows = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        found: nn.Module = cls.from_pretrained(folder, local_files_only=True, **{"dtype": torch.float32, **options})
    finally:
        if shows:
            logging.enable_progress_bar()
    return found


def checkpoint_arguments(path: Path, factory: Callable[..., Any]) -> dict[str, Any]:
    """The arguments that a class of a Lightning checkpoint was made with, as far as it takes them.

    Args:
        path: The checkpoint; no code in it is run.
        factory: The class.

    Raises:
        WeightsError: The file is missing, cannot be read, or would run code.
    """
    if not path.is_file():
        raise WeightsError(f"`model`: no such file {path}")
    content = read_pickled(path, "model", "Give only its weights as `weights`, and the arguments of the class as `model_kwargs`")
    kept = content.get(_ARGUMENTS, {}) if isinstance(content, dict) else {}
    parameters = inspect.signature(factory).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return {str(name): value for name, value in dict(kept).items() if takes_any or name in parameters}
