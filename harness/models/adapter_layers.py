"""Adapters on frozen weights, such as LoRA: found by the methods that merge, unmerge and disable them, whoever wrote them.

Adapters that cannot be merged, such as small networks between layers, are found by what switches them off. peft's models and layers are found
like those written by hand. loralib's have no such methods: their ``train()`` takes the adapters out of the weights, and ``eval()`` folds them
in, which is seen by what a change of the mode does to the weights.
"""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from operator import methodcaller
from typing import Any

import torch
from torch import Tensor, nn

PAIRS = (
    ("merge_adapter", "unmerge_adapter"),
    ("merge_adapters", "unmerge_adapters"),
    ("merge_lora", "unmerge_lora"),
    ("merge_lora_weights", "unmerge_lora_weights"),
    ("merge_weights", "unmerge_weights"),
    ("fuse_lora", "unfuse_lora"),
    ("merge", "unmerge"),
    ("fuse", "unfuse"),
)
"""Methods that put adapters into the weights, and take them out."""

_SWITCHES = (
    ("disable_adapters", "enable_adapters"),
    ("disable_adapter_layers", "enable_adapter_layers"),
    ("disable_adapter", "enable_adapter"),
    ("disable_lora", "enable_lora"),
)
_SETTERS = ("set_adapters_enabled", "set_enabled_adapters", "set_adapter_enabled", "set_lora_enabled", "enable_adapters")
"""Methods that take whether adapters are on."""

_ON = ("enabled", "enable", "active")
"""Names of the parameter that says it, where it is not the first."""

_FLAGS = {"lora_enabled": False, "adapter_enabled": False, "use_lora": False, "lora_disabled": True, "adapter_disabled": True}
"""Attributes of a layer that say whether its adapter is on, with the value that switches it off."""

_NAMES = re.compile(r"(^|[._])(lora|dora|adapter|ia3|loha|lokr|oft|boft|vera|delta|modules_to_save)", re.IGNORECASE)
"""Names by which adapters' parameters are known."""

_STATE_METHODS = ("adapter_state_dict", "lora_state_dict", "adapters_state_dict")


@dataclass(frozen=True)
class Adapters:
    """The adapters of a model, by the methods that it has for them.

    Attributes:
        layers: Paths of the modules that hold adapters.
        pair: Names of the methods that merge and unmerge; empty where the mode does that, or nothing does.
        on_model: Whether those are methods of the model rather than of each layer.
        by_mode: Whether ``eval()`` merges, and ``train()`` unmerges.
    """

    layers: tuple[str, ...]
    pair: tuple[str, str] = ("", "")
    on_model: bool = False
    by_mode: bool = False

    @property
    def can_merge(self) -> bool:
        """Whether something puts them into the weights."""
        return self.by_mode or bool(self.pair[0])

    def merge(self, model: nn.Module) -> None:
        """Puts the adapters into the weights."""
        self._call(model, self.pair[0])

    def unmerge(self, model: nn.Module) -> None:
        """Takes them out."""
        self._call(model, self.pair[1])

    def merge_and_unmerge(self, model: nn.Module) -> None:
        """Does both."""
        self.merge(model)
        self.unmerge(model)

    @property
    def merging(self) -> str:
        """How they are merged, for people."""
        return "eval()" if self.by_mode else f"{self.pair[0]}()"

    @property
    def unmerging(self) -> str:
        """How they are unmerged, for people."""
        return "train()" if self.by_mode else f"{self.pair[1]}()"

    def _call(self, model: nn.Module, name: str) -> None:
        for module in [model] if self.on_model else [model.get_submodule(path) for path in self.layers]:
            getattr(module, name)()


def find_adapters(model: nn.Module) -> Adapters | None:
    """The adapters of a model; ``None`` where it has none that can be merged or switched off.

    Args:
        model: In eval mode, with adapters that do something, as after some training; it is left with the weights and the mode it has.
    """
    layers = _layers_with_methods(model)
    for pair in PAIRS:
        if _has_pair(model, pair) and (layers or named_as_adapters(model)):
            return Adapters(layers or _holders(model), pair, on_model=True)
    if layers:
        pair = next(pair for pair in PAIRS if _has_pair(model.get_submodule(layers[0]), pair))
        return Adapters(layers, pair)
    folding = _folding_layers(model)
    if folding:
        return Adapters(folding, by_mode=True)
    holders = _holders(model)
    places = [model, *(model.get_submodule(path) for path in holders)]
    return Adapters(holders) if named_as_adapters(model) and any(True for _ in _switches(places)) else None


def has_signs_of_adapters(model: nn.Module) -> bool:
    """Whether names of parameters or methods speak of adapters; quick, and true of every model that ``find_adapters`` finds any in."""
    return bool(named_as_adapters(model)) or bool(_layers_with_methods(model)) or any(map(_overrides_modes, model.modules()))


def adapter_parameters(model: nn.Module, adapters: Adapters, merged: nn.Module | None) -> list[str]:
    """Names of the adapters' parameters: those of their layers, without the weights that they adapt.

    Args:
        model: The model.
        adapters: Its adapters.
        merged: A copy in which they are merged, whose weights show what they are merged into; ``None`` where there is none.
    """
    named = named_as_adapters(model)
    if named:
        return named
    theirs = dict(merged.named_parameters()) if merged is not None else {}
    changed = {name for name, value in model.named_parameters() if name in theirs and not torch.equal(value, theirs[name])}
    bases = {name.rpartition(".")[0] for name in changed}
    found = []
    for name, parameter in model.named_parameters():
        owner, _, last = name.rpartition(".")
        inside = any(name.startswith(f"{path}.") or not path for path in adapters.layers)
        is_base = name in changed or (owner in bases and last in ("weight", "bias"))
        if inside and not is_base and parameter.requires_grad:
            found.append(name)
    return found


@contextlib.contextmanager
def disabled(model: nn.Module, adapters: Adapters | None) -> Iterator[str]:
    """A block in which the adapters are switched off; yields how, and an empty text where the model has no switch."""
    if hasattr(model, "peft_config") and callable(getattr(model, "disable_adapter", None)):
        with model.disable_adapter():  # type: ignore[operator]
            yield "disable_adapter()"
        return
    places = [model, *(model.get_submodule(path) for path in (adapters.layers if adapters else ()))]
    for how, off, on in _switches(places):
        try:
            off()
        except ValueError:  # transformers' models have these methods before they have an adapter
            continue
        try:
            yield how
        finally:
            on()
        return
    yield ""


def _switches(places: list[nn.Module]) -> Iterator[tuple[str, Callable[[], None], Callable[[], None]]]:
    """Ways to switch adapters off and on again, each with its name."""

    def each(having: list[nn.Module], act: Callable[[nn.Module], object]) -> Callable[[], None]:
        def act_on_each() -> None:
            for module in having:
                act(module)

        return act_on_each

    for off, on in _SWITCHES:
        if having := [place for place in places if _takes_nothing(place, off) and _takes_nothing(place, on)]:
            yield f"{off}()", each(having, methodcaller(off)), each(having, methodcaller(on))
    for name in _SETTERS:
        if turns := [turn for place in places if (turn := _turned(place, name)) is not None]:
            yield f"{name}(False)", partial(_call_each, turns, False), partial(_call_each, turns, True)
    for name, value in _FLAGS.items():
        if having := [place for place in places if isinstance(getattr(place, name, None), bool)]:
            yield f"{name} = {value}", each(having, _setting(name, value)), each(having, _setting(name, not value))


def _call_each(turns: list[Callable[[bool], object]], on: bool) -> None:
    for turn in turns:
        turn(on)


def _turned(module: nn.Module, name: str) -> Callable[[bool], object] | None:
    """A method that is given whether adapters are on; ``None`` where the module has no such method."""
    method = getattr(module, name, None)
    if not callable(method) or isinstance(method, nn.Module):
        return None
    try:
        parameters = inspect.signature(method).parameters
        if named := next((each for each in _ON if each in parameters), ""):
            inspect.signature(method).bind(**{named: True})
            return lambda on: method(**{named: on})
        inspect.signature(method).bind(True)
    except (TypeError, ValueError):
        return None
    return None if _takes_nothing(module, name) else method


def _setting(name: str, value: bool) -> Callable[[nn.Module], None]:
    return lambda module: setattr(module, name, value)


def own_state(model: nn.Module) -> tuple[dict[str, Tensor] | None, str]:
    """What a model's own method says is to be saved of its adapters, and its name; ``None`` where it has no such method."""
    for name in _STATE_METHODS:
        if _takes_nothing(model, name):
            found: Any = getattr(model, name)()
            if isinstance(found, dict) and all(isinstance(value, Tensor) for value in found.values()):
                return {key: value.detach().clone() for key, value in found.items()}, f"{name}()"
    return None, ""


def _layers_with_methods(model: nn.Module) -> tuple[str, ...]:
    """Paths of the inner modules that can be merged and unmerged, without those inside of another one."""
    found: list[str] = []
    for path, module in model.named_modules():
        if path and any(_has_pair(module, pair) for pair in PAIRS) and not any(path.startswith(f"{outer}.") for outer in found):
            found.append(path)
    return tuple(found)


def _has_pair(module: nn.Module, pair: tuple[str, str]) -> bool:
    return all(_takes_nothing(module, name) for name in pair)


def _takes_nothing(module: nn.Module, name: str) -> bool:
    """Whether a module has a method that can be called without arguments."""
    method = getattr(module, name, None)
    if not callable(method) or isinstance(method, nn.Module):
        return False
    try:
        inspect.signature(method).bind()
    except (TypeError, ValueError):
        return False
    return True


def named_as_adapters(model: nn.Module) -> list[str]:
    """Names of the parameters that are called as those of adapters are."""
    return [name for name, _ in model.named_parameters() if _NAMES.search(name)]


def _holders(model: nn.Module) -> tuple[str, ...]:
    """Paths of the modules whose own or inner parameters have names of adapters."""
    outer, paths = set(), dict(model.named_modules())
    for name in named_as_adapters(model):
        found = _NAMES.search(name)
        assert found
        head, end = name[: found.start()], name.find(".", found.end())
        # In `input_adapter.down.weight` the word is a part of the module's name, in `layer.lora_a.weight` the module is the one before it.
        outer.add(head if found.group(1) != "_" else name[:end] if end > 0 else head.rpartition(".")[0])
    return tuple(sorted(path for path in outer if path in paths))


def _overrides_modes(module: nn.Module) -> bool:
    """Whether a module's ``train()`` may do more than set its mode; that of transformers' models, which all of them have, does not."""
    home = getattr(type(module).train, "__module__", "")
    return home.partition(".")[0] not in ("torch", "transformers")


@torch.no_grad()
def _folding_layers(model: nn.Module) -> tuple[str, ...]:
    """Paths of the modules whose own parameters change with the mode."""
    if not any(map(_overrides_modes, model.modules())):
        return ()
    folded = {name: value.clone() for name, value in model.named_parameters()}
    model.train()
    changed = [name for name, value in model.named_parameters() if name in folded and not torch.equal(folded[name], value)]
    model.eval()
    owners = dict.fromkeys(name.rpartition(".")[0] for name in changed)
    return tuple(owners)
