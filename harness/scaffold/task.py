"""What a model is for: a task type where one fits, or else its signature, with what the user, or a run of theirs, says of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from harness.errors import FactoryError
from harness.models.attempts import Patience
from harness.models.copies import Reuse
from harness.models.factory import Factory
from harness.models.first_call.argument import GivenInput
from harness.models.inspection import Guess, guess_task
from harness.models.usual_values import snake_case
from harness.scaffold.bridge import needs_adapter
from harness.scaffold.declared import Declared, SeenCall, declare, is_of_numbers, said_axes
from harness.tasks import TaskType

_TEXT_AXES = 2


@dataclass(frozen=True, kw_only=True)
class Told:
    """What the user says of a model, where its file does not.

    Attributes:
        factory: Name of what makes the model, where the file has several.
        arguments: Arguments of the factory, or of its settings, by name.
        task: The task, where the model's answers do not say it.
        inputs: What the model's forward takes, where its answers do not say it.
        call: The method that is called in place of ``forward``.
        trust: Whether the file may start processes and use the network when it is imported.
        seen: A call of a run of theirs, and what was computed from its outputs.
    """

    factory: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    task: TaskType | None = None
    inputs: Sequence[GivenInput] = ()
    call: str = ""
    trust: bool = False
    seen: SeenCall | None = None


def task_of(
    made: Factory, model: nn.Module, module: ModuleType, told: Told, shapes: tuple[tuple[int, ...], ...], patience: Patience
) -> tuple[Guess | None, Declared | None]:
    """The task type that a model fits, or else its signature."""
    build = Reuse(made.source.build, model)
    seen = told.seen
    if not told.inputs and not made.method and (seen is None or seen.may_be_usual):
        try:
            axes = said_axes(made, model, module) if seen is None else seen.axes
            likely = (*_image_of(made), *shapes) if seen is None else seen.shapes
            guess = guess_task(build, only=told.task, shapes=likely, axes=axes, patience=patience)
            of_numbers = guess.task.num_classes is not None and is_of_numbers(model)
            if told.task is not None or (not (_contradicts(made, guess) or of_numbers) if seen is None else _fits(guess, seen)):
                return guess, None
        except FactoryError:
            if told.task is not None:
                raise
    return None, declare(build, made, module, told.inputs, patience, seen)


def _fits(guess: Guess, seen: SeenCall) -> bool:
    """Whether a task type takes what a model was seen to take, and is trained as it was seen to be."""
    if needs_adapter(guess):
        return False
    task, values = guess.task, [value for value in seen.example.arguments.values() if isinstance(value, Tensor)]
    first, names = values[0], {loss.name for loss in seen.losses.values()}
    scores = {"cross_entropy", "nll"}
    if seen.has_own_loss or (names and (not names <= scores if task.num_classes or task.vocab_size else bool(names & scores))):
        return False
    if task.is_text:
        return first.ndim == _TEXT_AXES and not first.is_floating_point()
    size = task.image_size if task.is_vision else (task.num_features,)
    return len(values) == 1 and first.is_floating_point() and tuple(first.shape[1:]) == size


_CLASS_COUNTS = ("num_classes", "n_classes", "nclasses", "nclass", "class_num", "num_labels", "n_labels")


def _contradicts(made: Factory, guess: Guess) -> bool:
    """Whether a model that was made for some classes answers with another number of them, as a detector does."""
    said = {value for name, value in made.sizes.items() if snake_case(name) in _CLASS_COUNTS}
    return guess.task.num_classes is not None and bool(said) and guess.task.num_classes not in said


def _image_of(made: Factory) -> list[tuple[int, ...]]:
    """The shape of images that the factory's arguments speak of."""
    side = made.kwargs.get("image_size", made.kwargs.get("img_size"))
    channels = next((made.kwargs[name] for name in ("channels", "in_channels", "in_chans") if name in made.kwargs), 3)
    return [(1, channels, side, side)] if type(side) is int and type(channels) is int else []
