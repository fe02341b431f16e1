"""Parts that a model says are frozen, by an attribute that PyTorch does not read or by a setting, and that are trained all the same."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from torch import nn

from harness.evidence import WHOLE
from harness.wording import and_others

_FLAGS = ("requires_grad", "require_grad", "requires_grads", "requires_gradient")
"""Attributes that are set on modules to freeze them, and misspelt on parameters; PyTorch reads none of them."""

_SETTING = re.compile(r"freeze_(\w+)|(\w+)_frozen")
"""Settings that say which part is frozen."""

_HOLDERS = re.compile(r"\w*(config|cfg|settings|options|hparams|args)")
"""Attributes that hold settings."""

_OF_STATISTICS = re.compile(r"bn|\w*norm\w*|\w*stat\w*")
"""Parts of which only the running statistics may be meant."""

Finding = tuple[str, str, str, str, list[str]]
"""Code, message, module, cause and the parameters' names."""


def frozen_by_a_flag(model: nn.Module) -> list[tuple[str, str]]:
    """Paths of modules and parameters that an attribute says are frozen though they are trained, with its name."""
    found = [
        (path, flag)
        for path, module in model.named_modules()
        if any(parameter.requires_grad for parameter in module.parameters())
        for flag in _false_flags(module)
    ]
    found += [(name, flag) for name, each in model.named_parameters() if each.requires_grad for flag in _false_flags(each)]
    return found


def trained_by_a_flag(model: nn.Module) -> Finding | None:
    """A part or parameter that an attribute says is frozen, and which is trained."""
    if not (meant := frozen_by_a_flag(model)):
        return None
    path, flag = meant[0]
    trained = [name for name, _ in model.named_parameters() if f"{name}.".startswith(f"{path}." if path else "")]
    which = f"`{trained[0]}`{and_others(len(trained) - 1, 'parameter')}"
    told = f"`{path or WHOLE}` has the attribute `{flag}`, which is False and freezes nothing: {which} is trained"
    cause = "requires_grad set on a module, or under another name, where requires_grad_(False) is meant"
    return "flag_freezes_nothing", told, path or WHOLE, cause, trained


def _false_flags(owner: nn.Module | nn.Parameter) -> list[str]:
    # `trainable` is a word of Keras; on a class of the user's it may be a setting for something else.
    of_torch = type(owner).__module__.partition(".")[0] == "torch"
    return [flag for flag in ((*_FLAGS, "trainable") if of_torch else _FLAGS) if vars(owner).get(flag) is False]


def trained_by_a_setting(model: nn.Module, changed: Collection[str]) -> Finding | None:
    """A part that a setting says is frozen, of which every parameter is trained.

    Args:
        model: The model.
        changed: Names of the parameters that training changed.
    """
    for path, module in model.named_modules():
        for setting, part in _settings(module):
            if not isinstance(child := getattr(module, part, None), nn.Module):
                continue
            at = f"{path}.{part}" if path else part
            names = [f"{at}.{name}" for name, _ in child.named_parameters()]
            if names and all(each.requires_grad for each in child.parameters()) and set(names) <= set(changed):
                told = f"`{setting}` is True, and `{names[0]}`{and_others(len(names) - 1, 'parameter')} is trained"
                cause = "a setting that is read only where the model is built, or nowhere: freeze the part where training is configured"
                return "setting_freezes_nothing", told, at, cause, names
    return None


def _settings(module: nn.Module) -> Iterator[tuple[str, str]]:
    """Settings of a module that are on and say which part is frozen, each with the part's name."""
    own: dict[str, Any] = vars(module)
    holders = {name: value for name, value in own.items() if _HOLDERS.fullmatch(name)}
    for where, held in (("", own), *holders.items()):
        values = held if isinstance(held, Mapping) else getattr(held, "__dict__", {})
        for name, value in values.items():
            found = _SETTING.fullmatch(name) if isinstance(name, str) and value is True else None
            part = (found[1] or found[2]) if found else ""
            if part and not _OF_STATISTICS.fullmatch(part):
                yield f"{where.lstrip('_')}.{name}" if where else name, part
