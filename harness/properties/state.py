"""The state of a model: it is registered, saved, pickled and copied with it, tied weights stay tied, and none is kept in the process."""

from __future__ import annotations

import contextlib
import copy
import pickle
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.compat import CONTENTS_OF_MODULE, NAMES_OF_LIGHTNING_MODULE, memory_key, parameters_of
from harness.errors import ProbeUnsupportedError
from harness.evidence import Blame, Evidence, Status
from harness.models.copies import is_large_tensor, value_of
from harness.process_state import Change, ProcessState, in_words, kept_process, left_by
from harness.properties.calling import NoGradientError, mode
from harness.properties.large_tensors import first_of_each_kind, pickled
from harness.properties.loading import (
    NAME,
    NotLoadedError,
    judge_loading,
    same_logits,
    second_instance,
    tied_groups,
    unless_owned,
)
from harness.properties.noise import is_packed, judge_equal
from harness.properties.subject import Subject, floating_dtype
from harness.properties.tracing import probing
from harness.properties.watched_lines import LinesOfParameters
from harness.runtime import is_large, seeded
from harness.user_code import raised

_DEPTH = 5
"""How deep lists, dicts and plain objects are looked into."""

_DEPTH_OF_OBJECTS = 2


def registration(subject: Subject, seed: int = 0) -> Evidence:
    """No parameter or module hides in a plain list, dict or attribute, where the optimizer, save and .to() do not see it.

    A hidden part fails the property when forward uses it and it is trainable; one that is not used, or frozen, is a warning.
    """
    model = subject.fresh()
    hidden = dict(_hidden_parts(model))
    counterexample = f"{subject.typical.describe(subject.task)}, seed={seed}"
    if not hidden:
        return Evidence.ok(
            "registration", "every parameter and module is registered", (0, 0, "parts"), counterexample=counterexample
        )
    used = _trained_parts(subject, model, hidden, seed)
    path = used[0] if used else next(iter(hidden))
    kind = "module" if isinstance(hidden[path], nn.Module) else "parameter"
    wrong = f"{kind} `{path}` is not registered: the optimizer, state_dict() and .to() do not see it"
    return Evidence.judged(
        "registration",
        Status.FAIL if used else Status.WARN,
        wrong if used else f"{wrong}, though no gradient reaches it",
        (len(used) or len(hidden), 0, "parts"),
        counterexample=counterexample,
        module=path,
        cause="modules in a Python list or dict instead of nn.ModuleList or nn.ModuleDict; tensors that require grad but are not an "
        "nn.Parameter",
        details={"hidden": list(hidden)},
        code="not_registered" if used else "not_registered_and_unused",
    )


def _hidden_parts(model: nn.Module) -> Iterator[tuple[str, Tensor | nn.Module]]:
    """Paths and values of the trainable tensors and the modules that are reachable but not registered."""
    modules = set(model.modules())
    storages = {_memory(t) for t in (*model.parameters(), *model.buffers())}
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if _is_of_libraries(name):
                continue
            for where, part in _walk(f"{path}.{name}".lstrip("."), value, _DEPTH):
                if isinstance(part, nn.Module):
                    tensors = list(part.parameters())
                    known = part in modules or all(_memory(t) in storages for t in tensors)
                    if not known and tensors:
                        yield where, part
                elif part.requires_grad and part.is_leaf and _memory(part) not in storages:
                    yield where, part


def _is_of_libraries(name: str) -> bool:
    """Whether an attribute is one that PyTorch gives every module, or where Lightning keeps copies of what a module was made with."""
    return (name.startswith("_") and name in nn.Module().__dict__) or name in NAMES_OF_LIGHTNING_MODULE


def _memory(tensor: Tensor) -> int:
    """Where a tensor's values lie; packed tensors have no memory there, and are told apart by themselves."""
    return id(tensor) if is_packed(tensor) else memory_key(tensor)


def _walk(path: str, value: Any, depth: int) -> Iterator[tuple[str, Tensor | nn.Module]]:
    if isinstance(value, (Tensor, nn.Module)):
        yield path, value
    elif depth and isinstance(value, dict):
        for key, item in value.items():
            yield from _walk(f"{path}[{key!r}]", item, depth - 1)
    elif depth and isinstance(value, (list, tuple, set)):
        for index, item in enumerate(value):
            yield from _walk(f"{path}[{index}]", item, depth - 1)
    elif depth and _is_holder(value):
        for name, item in vars(value).items():
            yield from _walk(f"{path}.{name}", item, min(depth - 1, _DEPTH_OF_OBJECTS))


def _is_holder(value: Any) -> bool:
    """Whether a value is a plain object, such as a namespace or an instance of a user's own class, that may hold tensors."""
    library = type(value).__module__.partition(".")[0] in ("torch", "lightning", "pytorch_lightning", "numpy", "builtins")
    return hasattr(value, "__dict__") and not library and not isinstance(value, type) and not callable(value)


def out_of_reach_of_eval(model: nn.Module) -> dict[str, nn.Module]:
    """Modules that are not registered and in train mode although the model is in eval mode, by their path."""
    registered = set(model.modules())
    found = {}
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if _is_of_libraries(name):
                continue
            for where, part in _walk(f"{path}.{name}".lstrip("."), value, _DEPTH):
                if isinstance(part, nn.Module) and part not in registered and part.training:
                    found[where] = part
    return found


def _trained_parts(subject: Subject, model: nn.Module, hidden: dict[str, Tensor | nn.Module], seed: int) -> list[str]:
    """The hidden parts that a backward pass gives a gradient."""
    tensors = {path: list(part.parameters()) if isinstance(part, nn.Module) else [part] for path, part in hidden.items()}
    with mode(model, train=True), seeded(seed):
        try:
            subject.backward(subject.batch(seed=seed), model)
        except NoGradientError:
            return []
    return [path for path, parts in tensors.items() if any(t.grad is not None for t in parts)]


def leaves_the_process(subject: Subject, seed: int = 0) -> Evidence:
    """Calls and backward passes leave the process as it was: grad mode, default dtype, hooks on all modules, torch's own functions.

    What makes other models compute something else is a failure; what is only shared, such as warning filters, is a warning, as is what
    happens while the model is imported or built. The random state is left to ``rng_untouched``.
    """
    name = "stateless"
    counterexample = f"{subject.typical.describe(subject.task)}, seed={seed}"
    subject.shared.process.restore()  # an earlier call of this test may have changed it already
    loaded = len(sys.modules)
    changes = left_by(partial(_call_and_step, subject, subject.fresh(), seed))
    if changes and len(sys.modules) != loaded:  # what packages do when they are first imported is not the model's doing
        again = {change.setting.name for change in left_by(partial(_call_and_step, subject, subject.fresh(), seed))}
        changes = tuple(change for change in changes if change.setting.name in again)
    if changes:
        grave = any(change.setting.grave for change in changes)
        return Evidence.judged(
            name,
            Status.FAIL if grave else Status.WARN,
            f"a call leaves the process changed, for all other models in it: {in_words(changes)}",
            (len(changes), 0, "settings"),
            counterexample=counterexample,
            cause="a global setting changed inside forward; use its context manager (`with torch.no_grad():`), or set it in the training script",
            investigate=lambda: _changer(subject, changes, seed),
            code="changes_process",
        )
    if subject.shared.left_by_build:
        return Evidence.warned(
            name,
            f"importing or building the model changes the process, for all other models in it: {subject.shared.left_by_build}",
            cause="a global setting changed at the top of a file or in a constructor; set it in the training script",
            code="changes_process_when_built",
        )
    return Evidence.ok(name, "calls leave the process as it was")


def _call_and_step(subject: Subject, model: nn.Module, seed: int) -> None:
    batch = subject.batch(seed=seed)
    try:
        subject.logits_with_grad(batch, model)
        with mode(model, train=True):
            subject.backward(batch, model)
    except Exception:
        return  # what raises is judged elsewhere


def _changer(subject: Subject, changes: Sequence[Change], seed: int) -> Blame:
    """The innermost module during whose call a setting changed."""
    names, model = {change.setting.name for change in changes}, subject.fresh()
    subject.shared.process.restore()
    with kept_process(), probing(model, ProcessState) as probes:
        _call_and_step(subject, model, seed)
    changed = (probe.module for probe in probes if names & {change.setting.name for change in probe.before.changes(probe.after)})
    return Blame(next(changed, ""))


def pickle_round_trip(subject: Subject, seed: int = 0) -> Evidence:
    """A pickled copy gives the same logits; of a model that cannot be pickled it is said why, which Python tells whoever tries."""
    try:
        loaded = pickled(subject.model)
    except Exception as error:
        at, told = _unpicklable(subject.model), f"{type(error).__name__}: {str(error).splitlines()[0]}"
        keeps = f"; `{at}` is a lambda, a local class, a lock, a file or a generator" if at else ""
        why = f"the model cannot be pickled, which passing it to a spawned process and torch.save(model) need: {told}{keeps}"
        return Evidence.skipped("serialisation", why)
    return same_logits(
        subject,
        loaded,
        "a pickled copy gives different logits",
        "a __getstate__, __reduce__ or property that leaves something out",
        "pickled_copy_differs",
        seed,
    )


def deepcopy_independent(subject: Subject, seed: int = 0) -> Evidence:
    """A deep copy gives the same logits, and continues giving them when the original's weights change."""
    if subject.copies.fault:
        return Evidence.failed(
            "serialisation",
            subject.copies.fault,
            cause="a lambda or bound method kept on the module that uses its parts, the result of a computation kept on it (as weight_norm "
            "does, and parametrizations.weight_norm does not), or a handle that cannot be copied. It breaks weight averaging and quantisation; "
            "this suite builds each model with the factory instead",
            code="cannot_be_copied",
        )
    build = None if subject.is_large else subject.rebuild
    original = build(seed) if build is not None else subject.fresh()
    copied = copy.deepcopy(original)
    same = same_logits(
        subject,
        copied,
        "a deep copy gives different logits",
        "a __deepcopy__ that leaves something out",
        "copy_differs",
        seed,
        original,
    )
    if same.status is not Status.OK:
        return same
    batch = subject.batch(seed=seed)
    # Called on copies of the copy: what a call leaves behind is not what this is about.
    before = subject.logits(batch, subject.copies.of(copied))
    firsts = first_of_each_kind(original) if subject.is_large else ()
    with torch.no_grad():
        for name, parameter in original.named_parameters():
            if (not firsts or name in firsts) and parameter.is_floating_point() and not is_packed(parameter):
                parameter.mul_(1.5).add_(0.1)
    after = subject.logits(batch, subject.copies.of(copied))
    return judge_equal(
        subject,
        "serialisation",
        lambda _model: (before, after),
        "a deep copy shares weights with the original: changing one changes the other",
        f"{subject.typical.describe(subject.task)}, seed={seed}",
        "a lambda or bound method stored on the module that still refers to the original's parameters",
        code="copy_shares_weights",
    )


def _unpicklable(model: nn.Module) -> str:
    """Path of an attribute that cannot be pickled."""
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if name in CONTENTS_OF_MODULE:
                continue
            try:
                pickle.dumps(value)
            except Exception:
                return f"{path}.{name}".lstrip(".")
    return ""


def tied_weights(subject: Subject, seed: int = 0) -> Evidence:
    """Weights that are tied stay tied through deepcopy, a dtype move and loading."""
    original = subject.copies.model if subject.rebuild is not None else subject.model
    tied = tied_groups(original)
    if not tied:
        return Evidence.skipped(NAME, "no weights are tied")
    moves: dict[str, Callable[[], nn.Module]] = {"a dtype move": lambda: _in_other_dtype(subject.copies.of(original))}
    if not subject.copies.fault:
        moves = {"deepcopy": lambda: copy.deepcopy(original), **moves}
    if subject.rebuild is not None:
        moves["loading into a second instance"] = lambda: _copied_into(second_instance(subject), subject.model)
    for label, move in moves.items():
        lost = tied - tied_groups(move())
        if lost:
            names = sorted(next(iter(lost)))
            return Evidence.failed(
                NAME,
                f"`{names[0]}` and `{names[1]}` are tied, but not after {label}",
                module=names[1],
                place=_line_that_ties(subject, names, move),
                cause="weights tied by copying their data, or tied outside __init__, which a rebuilt model does not repeat",
                code="loses_tied_weights",
            )
    if subject.rebuild is not None:
        with contextlib.suppress(ProbeUnsupportedError):  # that safetensors cannot save it is said by the export of that format
            stored_once = _through_safetensors(subject, seed)
            if stored_once.status is Status.FAIL:
                return unless_owned(subject, "tied_weights", stored_once)
    return Evidence.ok(NAME, f"{len(tied)} groups of tied weights stay tied")


def _line_that_ties(subject: Subject, names: list[str], move: Callable[[], nn.Module]) -> str:
    """The line that gave a weight another one's data: when the ties were lost, or else when they were made."""
    builds: list[Callable[[], nn.Module]] = [move] if subject.rebuild is None else [move, partial(subject.rebuild, subject.seed)]
    places = (lines.replaced(name) for lines in map(LinesOfParameters, builds) for name in names)
    return next(filter(None, places), "")


def _in_other_dtype(model: nn.Module) -> nn.Module:
    """A model in float64, or a large one in half precision."""
    return model.half() if is_large(model) and floating_dtype(model) is not torch.float16 else model.double()


def _through_safetensors(subject: Subject, seed: int) -> Evidence:
    """A file of safetensors, which holds tied weights once, gives the same logits."""
    from safetensors.torch import load_model, save_model

    def load(source: nn.Module, other: nn.Module) -> nn.Module:
        tied = {name for group in tied_groups(source) for name in group}
        with tempfile.TemporaryDirectory() as folder, _passed_by(source, other, tied):
            file = str(Path(folder, "model.safetensors"))
            try:
                save_model(source, file)
            except (RuntimeError, ValueError) as error:
                raise ProbeUnsupportedError(f"safetensors cannot save the model: {raised(error)}") from None
            try:
                load_model(other, file)
            except RuntimeError as error:  # of a model whose own load_state_dict names what it does not need
                raise ProbeUnsupportedError(f"safetensors refuses what it saved: {raised(error)}") from None
            except Exception as error:
                raise NotLoadedError(
                    f"the model does not load from safetensors, which stores tied weights once: {raised(error)}"
                ) from error
        return other

    return judge_loading(
        subject,
        load,
        "a second instance loaded from safetensors, which stores tied weights once, gives different logits",
        "weights tied outside __init__, or a load_state_dict that undoes the tie",
        "state_dict_incomplete",
        seed,
    )


@contextlib.contextmanager
def _passed_by(source: nn.Module, other: nn.Module, written: set[str]) -> Iterator[None]:
    """A block in which large weights of a large model have no numbers, after which a second one has them as from a file.

    Args:
        source: The model that is saved in the block.
        other: The one that is loaded there.
        written: Names of the parameters that are saved all the same.
    """
    taken = list[tuple[dict[str, nn.Parameter | None], str, nn.Parameter]]()
    others = dict(other.named_modules())
    for path, module in source.named_modules() if is_large(source) else ():
        ours, theirs = parameters_of(module), parameters_of(others[path]) if path in others else {}
        for name, own in list(ours.items()):
            value, is_written = theirs.get(name), f"{path}.{name}".lstrip(".") in written
            if own is None or value is None or is_written or not is_large_tensor(own) or own.shape != value.shape:
                continue
            value.data = value_of(own)
            for held, each in ((ours, own), (theirs, value)):
                taken.append((held, name, each))
                held[name] = nn.Parameter(each.new_empty(0), each.requires_grad)
    try:
        yield
    finally:
        for held, name, each in taken:
            held[name] = each


def _copied_into(other: nn.Module, model: nn.Module) -> nn.Module:
    other.load_state_dict(model.state_dict())
    return other
