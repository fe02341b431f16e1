"""The tasks that a model may be for, by its layers and the parameters of its ``forward``; the image sides to try; and the time there is."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import FunctionType, TracebackType
from typing import Any

from torch import Tensor, nn

from harness.adapters import LENGTH_FIRST, CallPlan, plan_call
from harness.errors import ForwardError
from harness.runtime import Allowance
from harness.tasks import FACTS, TaskSpec, TaskType

_LONGEST = 4096
_SHOWN = 4
_UNLIMITED = 128
"""Sequence length of a model that none is known for."""

IMAGES = ("pixel_values", "pixels", "image", "images", "img", "imgs")
_FEATURE_COUNTS = ("num_features", "n_features", "in_features", "input_dim", "input_size", "in_dim", "n_inputs")
_TARGETS = ("decoder_input_ids", "tgt", "trg", "target", "targets", "labels", "y", "dst", "decoder_input", "decoder_inputs")
_MASKS = ("mask", "attn", "padding", "attention", "attend", "pad")


@dataclass(frozen=True)
class Guess:
    """A task that a model was called for and answered as it should.

    Attributes:
        task: The task with its sizes.
        reasons: What each size was read from.
        plan: How ``forward`` is to be called, where that is not what its signature says.
        called: How it was called, for people.
        adapter: A built-in adapter that calls it so; a plan without one needs an adapter of the user's own.
    """

    task: TaskSpec
    reasons: dict[str, str] = field(default_factory=dict)
    plan: CallPlan | None = None
    called: str = ""
    adapter: str = ""

    def because(self, task: TaskSpec, **reasons: str) -> Guess:
        """The guess with another task, and what that was read from."""
        return replace(self, task=task, reasons={**self.reasons, **reasons})


def signature_of(model: nn.Module) -> str:
    """``Net.forward(x, mask=None)``."""
    names = [p.name + ("" if p.default is p.empty else f"={p.default!r}") for p in parameters_of(model)]
    shown = names if len(names) <= _SHOWN else [*names[: _SHOWN - 1], "…"]
    return f"{type(model).__name__}.forward({', '.join(shown)})"


_HOUSEKEEPING = ("init", "load", "save", "reset", "set", "log", "print", "configure", "freeze", "update", "from", "build", "make")
"""First words of methods that compute nothing from inputs."""


def methods_to_call(cls: type) -> list[str]:
    """Methods of a model's own class that could be called in place of ``forward``: they need an argument; those of most arguments come first."""
    found: dict[str, int] = {}
    for base in cls.__mro__:
        if base is nn.Module or base.__module__.startswith(("torch.", "lightning.", "pytorch_lightning.")):
            break
        for name, method in vars(base).items():
            if isinstance(method, FunctionType) and not name.startswith("_") and name.partition("_")[0] not in _HOUSEKEEPING:
                taken = list(inspect.signature(method).parameters.values())[1:]
                is_left = ".numpy()" in _source_of(method)  # its answer is no tensor
                if name != "forward" and any(p.default is p.empty for p in taken) and not is_left:
                    found.setdefault(name, len(taken))
    return sorted(found, key=lambda name: -found[name])


def _source_of(method: FunctionType) -> str:
    try:
        return inspect.getsource(method)
    except OSError:
        return ""


def text_attempts(model: nn.Module) -> Iterator[Guess]:
    """Token ids for the tables of embeddings that the model has."""
    settings = getattr(model, "config", None)
    embeddings = {name: m for name, m in model.named_modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag))}
    tables = {name: m for name, m in embeddings.items() if "pos" not in name.lower() and not name.lower().endswith("wpe")}
    vocabularies = {m.num_embeddings: f"rows of {name}" for name, m in reversed(tables.items())}
    declared = getattr(settings, "vocab_size", None)
    if isinstance(declared, int):
        vocabularies = {declared: "the model's config"}
    length, why = _length(settings, {name: m for name, m in embeddings.items() if name not in tables})
    pads = [getattr(settings, "pad_token_id", None), *(getattr(m, "padding_idx", None) for m in tables.values())]
    for vocab in sorted(vocabularies, reverse=True):
        reasons = {"vocab_size": vocabularies[vocab], "max_seq_len": why}
        pad = next((pad for pad in pads if isinstance(pad, int) and 0 <= pad < vocab), None)
        if pad is not None:
            reasons["pad_token_id"] = "the model's config, or the embedding's padding_idx"
        task = TaskSpec(TaskType.CAUSAL_LM, vocab_size=vocab, max_seq_len=length, pad_token_id=pad)
        for kind, plan in _text_calls(model):
            yield Guess(replace(task, task_type=kind), reasons, plan)


def length_first(model: nn.Module, attempt: Guess) -> Guess | None:
    """The same attempt with token ids as ``[length, batch]``; ``None`` where ``forward`` cannot be called for it at all."""
    try:
        plan = attempt.plan or plan_call(model, FACTS[attempt.task.task_type].inputs)
    except ForwardError:
        return None
    adapter = "" if attempt.plan else LENGTH_FIRST
    return None if plan.whole else replace(attempt, plan=replace(plan, length_first=True), adapter=adapter)


def _text_calls(model: nn.Module) -> Iterator[tuple[TaskType, CallPlan | None]]:
    """The task that ``forward`` is called for, by the names of its parameters, and how it is called where they do not say so.

    A causal LM stands for all tasks that read one sequence: which of them it is, the logits say.
    """
    parameters = parameters_of(model)
    required = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if "decoder_input_ids" in (p.name for p in parameters):
        yield TaskType.SEQ2SEQ_LM, None
        return
    if any(_is_target(name) for name in required[1:]):
        yield TaskType.SEQ2SEQ_LM, CallPlan(positional=tuple(_field(name) for name in ["source", *required[1:]]))
        if len(required) == 2:
            yield TaskType.CAUSAL_LM, CallPlan(positional=("input_ids", "input_ids"))
        return
    yield TaskType.CAUSAL_LM, None
    if len(required) == 1 and len(parameters) > 1 and _is_target(parameters[1].name):
        # Without targets some models give only the logits of the last position.
        yield TaskType.CAUSAL_LM, CallPlan(positional=("input_ids", "input_ids"))


def unfit_arguments(model: nn.Module) -> list[str]:
    """Parameters beside the first that a call needs and that no text task fills, such as the item beside the user."""
    required = [p for p in parameters_of(model) if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    fields = {name for facts in FACTS.values() for name in facts.inputs}
    names = [p.name for p in required[1:]]
    return [name for name in names if name not in fields and not _is_target(name) and not _is_mask(name)]


def _is_mask(name: str) -> bool:
    return any(word in name.lower() for word in _MASKS)


def _is_target(name: str) -> bool:
    return name.lower() in _TARGETS or name.lower().startswith(("tgt", "trg", "target_ids", "decoder_"))


def _field(name: str) -> str:
    """The field of a seq2seq batch that a required parameter takes."""
    if _is_mask(name):
        return "attention_mask"
    return "decoder_input_ids" if _is_target(name) else "input_ids"


def _length(settings: Any, positions: dict[str, Any]) -> tuple[int, str]:
    """The longest sequence that a model says it takes, and where it says so."""
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "block_size", "n_ctx", "max_len"):
        value = getattr(settings, name, None)
        if isinstance(value, int) and value > 0:
            return min(value, _LONGEST), "the model's config"
    if positions:
        name, table = min(positions.items(), key=lambda item: item[1].num_embeddings)
        return min(table.num_embeddings, _LONGEST), f"rows of {name}"
    return _UNLIMITED, "a guess: no position table limits the length"


def declared_side(model: nn.Module) -> tuple[tuple[int, ...], str]:
    """The image side that a model's config, or a default of its class, speaks of, and where."""
    for name in ("image_size", "img_size"):
        for holder, why in ((getattr(model, "config", None), "the model's config"), (model, f"the model's {name}")):
            if isinstance(getattr(holder, name, None), int):
                return (getattr(holder, name),), why
    declared = _defaults(model, ("image_size", "img_size"))
    return tuple(declared), next(iter(declared.values()), "")


def _defaults(model: nn.Module, names: Iterable[str]) -> dict[int, str]:
    """Numbers that the model's class has as defaults of some parameters, and where."""
    parameters = inspect.signature(type(model).__init__).parameters
    given = {name: parameters[name].default for name in names if name in parameters}
    return {value: f"the default of {name}" for name, value in given.items() if isinstance(value, int) and value > 0}


def tabular_attempts(model: nn.Module, likely: Mapping[int, str]) -> Iterator[Guess]:
    """Tables of as many features as the layers take, those of ``likely`` first."""
    widths: dict[int, str] = {}
    for name, module in model.named_modules():
        width = getattr(module, "in_features", None) or getattr(module, "num_features", None)
        if isinstance(width, int):
            widths.setdefault(width, f"inputs of {name or 'the layer'}")
    known = {**widths, **_defaults(model, _FEATURE_COUNTS)}
    first = {width: why for width, why in likely.items() if width in known}
    for width, why in {**first, **known}.items():
        yield Guess(TaskSpec(TaskType.TABULAR_CLASSIFICATION, num_features=width), {"num_features": why})


def parameters_of(model: nn.Module) -> list[inspect.Parameter]:
    """The parameters of ``forward``; none where it cannot be read."""
    try:
        return list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):
        return []


_USUAL = (32, 28, 224, 64, 96, 128, 256, 8, 16, 48, 84, 100, 112, 160, 192, 227, 240, 299, 384, 512)
"""Sides in pixels, in the order in which they are tried."""

_BLIND = 12
"""How many sides are tried of a model that does not say whether they are too small or too large."""

_LARGEST = 1024


class Flattened:
    """Watches the linear layers of a model during a call: the last one that got another width than it takes tells by how much a side is off.

    Attributes:
        mismatch: The watcher itself, where a layer got another width.
        got: The width that came.
        wanted: The width the layer takes.
    """

    def __init__(self, model: nn.Module) -> None:
        self._layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
        self._handles: list[Any] = []
        self.got = self.wanted = 0

    @classmethod
    def watching(cls, model: nn.Module) -> Flattened:
        """A watcher for one call."""
        return cls(model)

    @property
    def mismatch(self) -> Flattened | None:
        """The widths that did not meet; ``None`` where they did."""
        return self if self.got != self.wanted else None

    def __enter__(self) -> Flattened:
        self._handles = [layer.register_forward_pre_hook(self._note) for layer in self._layers]
        return self

    def __exit__(self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        for handle in self._handles:
            handle.remove()

    def _note(self, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs and isinstance(inputs[0], Tensor) and not inputs[0].is_nested and inputs[0].ndim:
            self.got, self.wanted = int(inputs[0].shape[-1]), int(layer.in_features)  # type: ignore[arg-type]


class SideSearch:
    """Chooses the next side from what the sides before it gave.

    Behind convolutions and a flattening the width at the first linear layer grows with the side, so that each failure halves what is left.

    Args:
        likely: Sides that are tried first.
    """

    def __init__(self, likely: Iterable[int] = ()) -> None:
        self._order = list(dict.fromkeys((*likely, *_USUAL)))
        self._tried: set[int] = set()
        self._low, self._high = 1, _LARGEST + 1
        self._knows_direction = False

    def next_side(self) -> int | None:
        """The next side to try; ``None`` when no other makes sense."""
        if not self._knows_direction and len(self._tried) >= _BLIND:
            return None
        usual = (side for side in self._order if side not in self._tried and self._low < side < self._high)
        side = next(usual, None)
        if side is None and self._knows_direction and self._high - self._low > 1:
            side = (self._low + self._high) // 2
        if side is None or side in self._tried:  # the last one said nothing of where to go
            return None
        self._tried.add(side)
        return side

    def learn(self, side: int, flattened: Flattened | None) -> None:
        """Takes what a side gave.

        Args:
            side: The side that did not work.
            flattened: The widths that did not meet at a linear layer.
        """
        if flattened is None:
            return
        self._knows_direction = True
        if flattened.got < flattened.wanted:
            self._low = max(self._low, side)
        else:
            self._high = min(self._high, side)


def _silent(_text: str) -> None:
    pass


class Patience:
    """The time there is to look at an unknown model.

    Args:
        seconds: After so many no further attempt is begun.
        say: Is told every attempt.
        stage: Is told what the attempts that follow are for, and how long they may take.
    """

    def __init__(
        self, seconds: float = 8.0, say: Callable[[str], None] = _silent, stage: Callable[[str], None] = _silent
    ) -> None:
        self.seconds = seconds
        self.say = say
        self.stage = stage
        self.start()

    def again(self, seconds: float) -> Patience:
        """As long again, or longer, for what comes next."""
        return Patience(seconds, self.say, self.stage)

    def start(self) -> None:
        """Begins to count; what the user's own file does while it is imported is none of our time."""
        self._allowance = Allowance(self.seconds)

    @property
    def is_over(self) -> bool:
        """Whether the time is used up."""
        return self._allowance.is_over
