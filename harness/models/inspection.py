"""Guessing what a model is for, by looking at its layers and calling it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import torch
from torch import nn

from harness.adapters import find_logits, make_adapter, plan_call
from harness.batches import Sizes, make_batch, typical_sizes
from harness.errors import FactoryError, UserError
from harness.randomness import seeded
from harness.tasks import FACTS, TaskSpec, TaskType

_LONGEST = 4096
_IMAGE_SIDES = (32, 28, 224, 64, 96, 128, 256, 8, 16, 384, 512)


@dataclass(frozen=True)
class Guess:
    """A task that a model was called for and answered as it should.

    Attributes:
        task: The task with its sizes.
        reasons: What each size was read from.
    """

    task: TaskSpec
    reasons: dict[str, str]


def find_factory(module: ModuleType) -> str:
    """Name of the callable in a module that makes its model.

    ``build_model`` wins, then functions that make a module when called without arguments, then ``nn.Module`` classes, the last
    defined first, as a file usually builds up to its model.

    Raises:
        FactoryError: Nothing in the module makes a model.
    """
    own = {name: value for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__}
    functions = [name for name, value in own.items() if inspect.isfunction(value) and not name.startswith("_")]
    classes = [name for name, value in own.items() if inspect.isclass(value) and issubclass(value, nn.Module)]
    preferred = [
        name for name in ("build_model", "make_model", "get_model", "create_model", "model_factory") if name in functions
    ]
    tried: dict[str, str] = {}
    for name in dict.fromkeys([*preferred, *reversed(functions), *reversed(classes)]):
        if any(
            p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
            for p in _parameters(own[name])
        ):
            tried[name] = "needs arguments"
            continue
        try:
            with seeded(0):
                made = own[name]()
        except Exception as error:
            tried[name] = f"raises {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            continue
        if isinstance(made, nn.Module):
            return name
        tried[name] = f"returns a {type(made).__name__}"
    found = "; ".join(f"{name} {why}" for name, why in tried.items()) or "no function and no nn.Module class"
    raise FactoryError(
        f"{module.__file__}: nothing here makes a model without arguments ({found}). Write a function build_model() that does"
    )


def guess_task(model: nn.Module) -> Guess:
    """The first task whose inputs the model takes and whose logits it returns.

    Raises:
        FactoryError: No task fits; the message lists what was tried.
    """
    failures: list[str] = []
    for candidate in _candidates(model):
        outcome = _try(model, candidate)
        if isinstance(outcome, Guess):
            return outcome
        failures.append(f"{candidate.task.task_type.value}: {outcome}")
    tried = "; ".join(dict.fromkeys(failures)) or "its layers say nothing about its inputs"
    raise FactoryError(
        f"{type(model).__name__}.forward{inspect.signature(model.forward)} fits no task ({tried}). Write the config by hand"
    )


def _candidates(model: nn.Module) -> Iterator[Guess]:
    names = set(inspect.signature(model.forward).parameters)
    text, image, tabular = (list(kind(model)) for kind in (_text_candidates, _image_candidates, _tabular_candidates))
    if "pixel_values" in names:
        text, tabular = [], []
    elif "input_ids" in names:
        image, tabular = [], []
    elif "features" in names and not any(isinstance(m, nn.Embedding) for m in model.modules()):
        text, image = [], []
    yield from (*text, *image, *tabular)


def _text_candidates(model: nn.Module) -> Iterator[Guess]:
    embeddings = {name: m for name, m in model.named_modules() if isinstance(m, nn.Embedding)}
    settings = getattr(model, "config", None)
    if not embeddings and not hasattr(settings, "vocab_size"):
        return
    tables = {name: m for name, m in embeddings.items() if "pos" not in name.lower() and not name.lower().endswith("wpe")}
    name, table = max(tables.items(), key=lambda item: item[1].num_embeddings, default=("", None))
    vocab = getattr(settings, "vocab_size", None) or (table.num_embeddings if table is not None else None)
    if vocab is None:
        return
    reasons = {"vocab_size": f"rows of {name}" if table is not None else "the model's config"}
    length = _declared_length(settings)
    if length is not None:
        reasons["max_seq_len"] = "the model's config"
    else:
        positions = {n: m for n, m in embeddings.items() if n not in tables}
        length = min((m.num_embeddings for m in positions.values()), default=128)
        reasons["max_seq_len"] = (
            f"rows of {next(iter(positions))}" if positions else "a guess: no position table limits the length"
        )
    pad = getattr(settings, "pad_token_id", None)
    if pad is None and table is not None:
        pad = table.padding_idx
    if pad is not None:
        reasons["pad_token_id"] = "the model's config or padding_idx"
    base = TaskSpec(TaskType.CAUSAL_LM, vocab_size=vocab, max_seq_len=min(length, _LONGEST), pad_token_id=pad)
    takes_target = "decoder_input_ids" in inspect.signature(model.forward).parameters
    kinds = (
        (TaskType.SEQ2SEQ_LM,)
        if takes_target
        else (TaskType.CAUSAL_LM, TaskType.SEQUENCE_CLASSIFICATION, TaskType.TOKEN_CLASSIFICATION)
    )
    for kind in kinds:
        yield Guess(replace(base, task_type=kind), reasons)


def _image_candidates(model: nn.Module) -> Iterator[Guess]:
    convolution = next(((name, m) for name, m in model.named_modules() if isinstance(m, nn.Conv2d)), None)
    if convolution is None:
        return
    settings = getattr(model, "config", None)
    side = getattr(settings, "image_size", None)
    sides = [side] if isinstance(side, int) else list(_IMAGE_SIDES)
    reasons = {
        "image_size": "the model's config" if isinstance(side, int) else f"channels of {convolution[0]}, and a side that works"
    }
    for number in sides:
        yield Guess(TaskSpec(TaskType.IMAGE_CLASSIFICATION, image_size=(convolution[1].in_channels, number, number)), reasons)


def _tabular_candidates(model: nn.Module) -> Iterator[Guess]:
    for name, module in model.named_modules():
        width = getattr(module, "in_features", None) or getattr(module, "num_features", None)
        if isinstance(width, int):
            yield Guess(TaskSpec(TaskType.TABULAR_CLASSIFICATION, num_features=width), {"num_features": f"inputs of {name}"})
            return


def _try(model: nn.Module, guess: Guess) -> Guess | str:
    """The guess with the rest filled in from the model's output, or why it does not fit."""
    task = guess.task
    probe = replace(task, num_classes=task.num_classes or 2)
    sizes = typical_sizes(probe)
    try:
        batch = make_batch(probe, sizes)
        with torch.no_grad():
            logits = find_logits(plan_call(model, FACTS[task.task_type].inputs).call(model, batch))
    except UserError as error:
        return str(error)
    except Exception as error:
        return f"forward raises {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    shape = tuple(logits.shape)
    if not logits.is_floating_point():
        return f"logits of dtype {logits.dtype}"
    return _fitted(model, guess, sizes, shape) or f"logits of shape {shape}"


def _fitted(model: nn.Module, guess: Guess, sizes: Sizes, shape: tuple[int, ...]) -> Guess | None:
    task = guess.task
    reasons = dict(guess.reasons)
    per_position = (sizes.batch, sizes.target_seq if task.is_seq2seq else sizes.seq)
    if task.task_type in (TaskType.CAUSAL_LM, TaskType.SEQ2SEQ_LM):
        if shape != (*per_position, task.vocab_size):
            return None
        if task.task_type is TaskType.CAUSAL_LM and not _is_causal(model, task):
            task = replace(task, task_type=TaskType.MASKED_LM)
        reasons["task_type"] = f"logits {list(shape)}" + (
            "" if task.is_seq2seq else ", which do" + (" not" if task.is_causal else "") + " change with later tokens"
        )
        return Guess(task, reasons)
    if task.task_type is TaskType.TOKEN_CLASSIFICATION:
        fits = shape[:-1] == per_position
    elif task.task_type is TaskType.TABULAR_CLASSIFICATION and shape in ((sizes.batch,), (sizes.batch, 1)):
        return Guess(replace(task, task_type=TaskType.TABULAR_REGRESSION), {**reasons, "task_type": f"logits {list(shape)}"})
    else:
        fits = len(shape) == 2 and shape[0] == sizes.batch
    if not fits:
        return None
    reasons["num_classes"] = reasons["task_type"] = f"logits {list(shape)}"
    return Guess(replace(task, num_classes=shape[-1]), reasons)


def _is_causal(model: nn.Module, task: TaskSpec) -> bool:
    """Whether changing the last token leaves the logits before it alone."""
    adapter = make_adapter(task)
    batch = make_batch(task, typical_sizes(task))
    changed = {**batch, "input_ids": batch["input_ids"].clone()}
    changed["input_ids"][:, -1] = (changed["input_ids"][:, -1] + 1) % (task.vocab_size or 1)
    with torch.no_grad():
        left, right = (adapter.logits(model, b)[:, :-1] for b in (batch, changed))
    return bool(torch.allclose(left, right, atol=1e-6 * float(left.abs().max())))


def _declared_length(settings: Any) -> int | None:
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "block_size", "n_ctx"):
        value = getattr(settings, name, None)
        if isinstance(value, int):
            return value
    return None


def _parameters(target: Any) -> list[inspect.Parameter]:
    return list(inspect.signature(target).parameters.values())
