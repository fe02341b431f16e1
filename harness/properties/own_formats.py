"""Models that save and load themselves: ``save_pretrained``, checkpoints of Lightning, and a vocabulary that is resized before."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.compat import lightning_of, tree_leaves
from harness.errors import ProbeUnsupportedError, UserError
from harness.evidence import WHOLE, Evidence, Status
from harness.models.copies import share_again
from harness.models.wrapped import called_like
from harness.properties.calling import ModelRaisedError
from harness.properties.loading import NAME, Load, NotLoadedError, judge_loading, tied_groups, unless_owned
from harness.properties.meta_loading import filling_what_is_empty
from harness.properties.model_variants import moved
from harness.properties.noise import judge_equal
from harness.properties.places import end_of, line_that_calls, method_of, placed_at, raising_line
from harness.properties.resuming import in_train_mode
from harness.properties.subject import Subject, in_dtype_of
from harness.properties.watched_lines import lines_that_load_in_part
from harness.tasks.values import Ids
from harness.user_code import raised
from harness.wording import listed

_SAVE, _LOAD = "save_pretrained", "from_pretrained"
_LOAD_CHECKPOINT = "load_from_checkpoint"
_BY_PATH = (
    ("save", "load"),
    ("save_model", "load_model"),
    ("save_weights", "load_weights"),
    ("save_checkpoint", "load_checkpoint"),
)
"""Methods of a class that write a file or a folder, and read it."""

_CHANGES = ("requires_grad_", "half", "bfloat16")
"""Methods that change how a parameter is trained."""

_RESIZE = "resize_token_embeddings"
_MORE_IDS = 8


def own_methods(subject: Subject, seed: int = 0) -> Evidence:
    """What a model's own methods save, they load: it gives the same logits, and what was tied is tied."""
    load, how = _way_of(subject.model)
    if load is None:
        return Evidence.skipped(NAME, how)

    changed, in_part, names, refused = "", list[str](), how.split(" and "), ""

    def load_what_saw_a_batch(source: nn.Module, other: nn.Module) -> nn.Module:
        nonlocal changed, refused
        with contextlib.suppress(ProbeUnsupportedError):  # without a train mode there are no statistics to save
            in_train_mode(subject, source, seed + 1)
        before = _as_trained(source)
        try:
            with lines_that_load_in_part() as lines:
                loaded = load(source, other)
        except NotLoadedError as error:
            refused = raising_line(error.__cause__) if isinstance(error.__cause__, AttributeError) else ""
            raise
        in_part.extend(lines)
        changed = changed or next((name for name, facts in _as_trained(source).items() if before.get(name, facts) != facts), "")
        return loaded

    found = judge_loading(
        subject,
        load_what_saw_a_batch,
        f"saved by {how}, and loaded, the model gives different logits",
        lambda: _cause_of_loss(moved(subject), names),
        "state_dict_incomplete",
        seed,
        second=None if load is _by_path else lambda: subject.model,
    )
    if changed and found.status is Status.OK:
        return Evidence.failed(
            NAME,
            f"saving changes the model that is saved: `{changed}` has another `requires_grad` or dtype than before",
            module=changed,
            place=line_that_calls(subject.model, WHOLE, _CHANGES, names[0]) or method_of(subject.model, names[0]),
            cause="a requires_grad_(False), half() or to() on the model itself and not on a copy, while its training continues",
            code="saving_changes_the_model",
        )
    if found.status is Status.OK and load is _pretrained:
        found = judge_loading(
            subject,
            lambda source, other: load(share_again(load(source, other), share_again(source, subject.model)), other),
            f"a model that was loaded by {_LOAD}, saved and loaded again gives different logits",
            "what is saved depends on something that only a new model or a training has: a flag, a trainer, a folder to copy from",
            "second_save_incomplete",
            seed,
            second=lambda: subject.model,
        )
    place = in_part[0] if in_part and found.code == "state_dict_incomplete" else ""
    if found.code == "does_not_load" and load is _by_path:
        found = replace(found, cause=f"{names[1]} reads another format, other names or fewer weights than {names[0]} writes")
    if found.code in ("does_not_load", "second_save_incomplete"):
        # What is tied is tied again at the end of loading; what a loader asks the model for is its own matter; else it was not saved.
        place = end_of(subject.model, names[1]) if "are tied" in found.message else refused or method_of(subject.model, names[0])
    return unless_owned(subject, "own_methods", placed_at(found, place))


def _cause_of_loss(source: nn.Module, names: list[str]) -> str:
    """What usually changes the logits of a model that its own methods save and load, by whether the file holds all weights."""
    if callable(getattr(source, names[0], None)):
        with tempfile.TemporaryDirectory() as folder, _quiet(), contextlib.suppress(ProbeUnsupportedError):
            written(source, names[0], Path(folder))
            saved, weights = _weights_in(Path(folder), source), [name for name, _ in source.named_parameters()]
            if saved and (lost := [name for name in weights if name not in saved]):
                return f"{names[0]} leaves out {listed(lost, 3)}"
            if saved and names[0] != _SAVE:
                return f"{names[0]} writes every weight, and {names[1]} leaves one out, looks for another name, or makes one again afterwards"
    return (
        "a method that initialises weights runs after loading, a weight has another name in the file, or a buffer with persistent=False is "
        "computed in __init__ only"
    )


def _as_trained(model: nn.Module) -> dict[str, tuple[bool, torch.dtype]]:
    """Of each parameter what decides how it is trained."""
    return {name: (parameter.requires_grad, parameter.dtype) for name, parameter in model.named_parameters()}


def _way_of(model: nn.Module) -> tuple[Load | None, str]:
    """How a model saves and loads itself, with its name; or nothing, with the reason."""
    if hasattr(model, "peft_config"):  # of peft, and of transformers' models after `add_adapter`
        return None, "the model saves its adapters only (see adapter_layers[saved])"
    if callable(getattr(model, _SAVE, None)) and callable(getattr(type(model), _LOAD, None)):
        return _pretrained, f"{_SAVE} and {_LOAD}"
    if callable(getattr(type(model), _LOAD_CHECKPOINT, None)):
        return _checkpoint, f"a checkpoint of Lightning and {_LOAD_CHECKPOINT}"
    if pair := _pair_by_path(model):
        return _by_path, " and ".join(pair)
    return None, f"the model has no methods that save and load it ({_SAVE} and {_LOAD}, save and load, or those of Lightning)"


def pairs_by_path(model: nn.Module) -> list[tuple[str, str]]:
    """Names of methods of the model's that save it to a path, each with that which loads it from there."""
    return [pair for pair in ((_SAVE, _LOAD), *_BY_PATH) if all(_takes_a_path(model, name) for name in pair)]


def _pair_by_path(model: nn.Module) -> tuple[str, str] | None:
    """Names of the methods of a class of the user's that save it to a path and load it from there."""
    if isinstance(model, torch.jit.ScriptModule) or not all(p.requires_grad for p in model.parameters()):
        return None  # where a part is frozen, the rest may be all that is saved
    return next((pair for pair in pairs_by_path(model) if pair[0] != _SAVE), None)


def _takes_a_path(model: nn.Module, name: str) -> bool:
    method = getattr(model, name, None)
    if not callable(method) or isinstance(method, nn.Module):
        return False
    try:
        inspect.signature(method).bind("path")
    except (TypeError, ValueError):
        return False
    return True


def _by_path(source: nn.Module, other: nn.Module) -> nn.Module:
    """Saves by a path and loads it into a second instance; a folder is tried before a file."""
    pair = _pair_by_path(source)
    assert pair
    before = [parameter.detach().clone() for parameter in other.parameters()]
    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = written(source, pair[0], Path(folder))
        holds_all = _weights_in(Path(folder), source) == {name for name, _ in source.named_parameters()}
        try:
            loaded = getattr(other, pair[1])(str(path))
        except Exception as error:
            raise NotLoadedError(f"{pair[1]} does not load what {pair[0]} wrote: {raised(error)}") from error
    if isinstance(loaded, nn.Module):
        return called_like(loaded, source)
    same = all(torch.equal(now, then) for now, then in zip(other.parameters(), before, strict=True))
    if same and not (loaded is None and holds_all):  # with None for all that is in the file, a weight is missing
        raise ProbeUnsupportedError(f"{pair[1]} does not load weights into the model that it is called on")
    return other


def _weights_in(folder: Path, source: nn.Module) -> set[str]:
    """The parameters of a model that what was written to a folder holds, whatever their names are there; none where it cannot be read."""
    found: list[Tensor] = []
    for file in folder.rglob("*"):
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            with contextlib.suppress(Exception):
                found += load_file(file).values()
        elif file.is_file():
            with contextlib.suppress(Exception):  # no file of tensors only, of which nothing is known
                found += [leaf for leaf in tree_leaves(torch.load(file, weights_only=True)) if isinstance(leaf, Tensor)]

    def is_there(weight: Tensor) -> bool:
        return any(each.shape == weight.shape and torch.equal(each.to(weight), weight) for each in found)

    return {name for name, weight in source.named_parameters() if is_there(weight)}


def written(source: nn.Module, save: str, folder: Path) -> Path:
    """Where a method of the model's wrote it: a folder, or a file in it.

    Raises:
        ProbeUnsupportedError: It takes no path, or writes nothing there.
    """
    for path in (folder, folder / "model.pt"):
        try:
            getattr(source, save)(str(path))
        except Exception as error:
            told = raised(error)
            continue
        if any(folder.iterdir()):
            return path
        told = "and writes nothing there"
    raise ProbeUnsupportedError(f"{save} cannot be called with a path only: it raises {told}")


def _pretrained(source: nn.Module, _other: nn.Module) -> nn.Module:
    def save(folder: Path) -> None:
        source.save_pretrained(str(folder))  # type: ignore[operator]

    return _saved_and_loaded(source, save, lambda folder: type(source).from_pretrained(str(folder)), (_SAVE, _LOAD))  # type: ignore[attr-defined]


def _checkpoint(source: nn.Module, _other: nn.Module) -> nn.Module:
    def save(folder: Path) -> None:
        trainer = lightning_of(source).Trainer(
            accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
        )
        trainer.strategy.connect(source)
        trainer.save_checkpoint(folder / "model.ckpt", weights_only=True)

    def load(folder: Path) -> nn.Module:
        try:
            return type(source).load_from_checkpoint(folder / "model.ckpt", map_location="cpu")  # type: ignore[attr-defined, no-any-return]
        except RuntimeError:
            if left := [name for name in inspect.signature(type(source)).parameters if name not in source.hparams]:  # type: ignore[operator]
                told = f"{_LOAD_CHECKPOINT} needs arguments that were not saved (save_hyperparameters): {listed(left, len(left))}"
                raise ProbeUnsupportedError(told) from None
            raise

    return _saved_and_loaded(source, save, load, ("Trainer.save_checkpoint", _LOAD_CHECKPOINT))


def _saved_and_loaded(
    source: nn.Module, save: Callable[[Path], None], load: Callable[[Path], nn.Module], names: tuple[str, str]
) -> nn.Module:
    with tempfile.TemporaryDirectory() as folder, _quiet():
        try:
            save(Path(folder))
        except Exception as error:
            raise NotLoadedError(f"{names[0]} raises {raised(error)}") from error
        try:
            with filling_what_is_empty():
                other = load(Path(folder))
        except ProbeUnsupportedError:
            raise
        except TypeError as error:
            if "argument" not in str(error):
                raise NotLoadedError(f"{names[1]} raises {raised(error)}") from error
            told = f"{names[1]} needs arguments that were not saved: {error}"
            raise ProbeUnsupportedError(told) from None
        except Exception as error:
            raise NotLoadedError(f"{names[1]} does not load what {names[0]} wrote: {raised(error)}") from error
    if not isinstance(other, nn.Module):
        raise ProbeUnsupportedError(f"{names[1]} returns a {type(other).__name__}, and not the model")
    if lost := tied_groups(source) - tied_groups(other):
        first, second = sorted(next(iter(lost)))[:2]
        raise NotLoadedError(f"`{first}` and `{second}` are tied, but not after {names[0]} and {names[1]}", second)
    called_like(other, source)
    like, loaded = next(source.parameters(), None), next(other.parameters(), None)
    if like is None or loaded is None or (like.device, like.dtype) == (loaded.device, loaded.dtype):
        return other
    return other.to(like.device, like.dtype)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """A block in which libraries tell nothing: what they load, and on which device."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def resized_vocabulary(subject: Subject, seed: int = 0) -> Evidence:
    """With a larger vocabulary the scores of the known tokens are as before, new ids can be read, ties hold, and it can be saved and loaded."""
    if not callable(getattr(subject.model, _RESIZE, None)):
        return Evidence.skipped(NAME, f"the model has no method {_RESIZE}")
    if hasattr(subject.model, "peft_config"):
        return Evidence.skipped(NAME, "a vocabulary is resized before adapters are added")
    known = _ids_of(subject)
    batch = subject.batch(seed=seed)
    made: dict[int, tuple[nn.Module, nn.Module]] = {}

    def pair(judge: nn.Module) -> tuple[nn.Module, nn.Module]:
        if id(judge) not in made:
            before = moved(subject, None if judge is subject.model else judge)
            after = subject.copies.of(before)
            _resize(after, known + _MORE_IDS)
            made[id(judge)] = before, in_dtype_of(before, after).eval()
        return made[id(judge)]

    def compare(judge: nn.Module) -> tuple[Tensor, Tensor]:
        own, other = pair(judge)
        before, after = subject.logits(batch, own), logits if judge is subject.model else subject.logits(batch, other)
        return before, after[tuple(slice(size) for size in before.shape)] if after.ndim == before.ndim else after

    try:
        before, after = pair(subject.model)
    except UserError:
        raise
    except Exception as error:
        return _resize_fails(subject.model, f"{_RESIZE}({known + _MORE_IDS}) raises {raised(error)}", "resize_raises")
    if lost := tied_groups(before) - tied_groups(after):
        first, second = sorted(next(iter(lost)))[:2]
        return _resize_fails(
            subject.model, f"`{first}` and `{second}` are tied, but not after {_RESIZE}", "loses_tied_weights", second
        )
    try:
        logits = subject.logits(batch, after)
    except ModelRaisedError as error:
        left = next((name for name, each in after.named_parameters() if known in each.shape), "")
        told = f": `{left}` has still its old size" if left else ""
        return replace(
            _resize_fails(subject.model, f"after {_RESIZE} forward raises{told}: {error}", "resize_raises", left),
            place=end_of(after, _RESIZE),
        )
    found = judge_equal(
        subject,
        NAME,
        compare,
        f"{_RESIZE} changes the scores of tokens that were there before",
        f"{subject.typical.describe(subject.task)}, vocabulary of {known} resized to {known + _MORE_IDS}, seed={seed}",
        "weights or biases of the known tokens that are initialised again, or rows that are copied to other places",
        code="known_tokens_change",
    )
    if found.status is not Status.OK:
        return placed_at(found, method_of(after, _RESIZE))
    return _new_ids_work(subject, after, known, seed) or found


def _new_ids_work(subject: Subject, model: nn.Module, known: int, seed: int) -> Evidence | None:
    batch = dict(subject.batch(seed=seed))
    for each in subject.task.signature.inputs:
        if isinstance(each.values, Ids) and isinstance(batch.get(each.name), Tensor):
            ids = batch[each.name].clone()
            ids[..., -1] = known + _MORE_IDS - 1
            batch[each.name] = ids
    try:
        scores = subject.logits(batch, model)
    except ModelRaisedError as error:
        return _resize_fails(model, f"after {_RESIZE} forward raises at a new id: {error}", "new_ids_raise", error.module)
    size = subject.logits(subject.batch(seed=seed)).shape[-1]
    if size == known and scores.shape[-1] != known + _MORE_IDS:
        told = f"after {_RESIZE}({known + _MORE_IDS}) there are scores for {scores.shape[-1]} tokens only"
        return _resize_fails(model, told, "head_not_resized")
    return None


def _resize_fails(model: nn.Module, message: str, code: str, module: str = "") -> Evidence:
    return Evidence.failed(
        NAME,
        message,
        module=module,
        place=method_of(model, _RESIZE),
        cause="a head, bias or tie that is not part of what is resized (get_output_embeddings, tie_weights)",
        code=code,
    )


def _resize(model: nn.Module, size: int) -> None:
    resize: Callable[..., Any] = getattr(model, _RESIZE)
    takes = inspect.signature(resize).parameters
    with _quiet():
        resize(size, **({"mean_resizing": False} if "mean_resizing" in takes else {}))


def _ids_of(subject: Subject) -> int:
    """The size of the vocabulary: rows of the model's table of embeddings where it tells, or what the task says."""
    table = getattr(subject.model, "get_input_embeddings", None)
    found = table() if callable(table) else None
    if isinstance(weight := getattr(found, "weight", None), Tensor):
        return int(weight.shape[0])
    return next((int(each.values.count) for each in subject.task.looked_up), 0)  # type: ignore[attr-defined]
