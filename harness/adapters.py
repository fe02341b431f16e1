"""How a model is called: which fields its ``forward`` takes, where its logits are, and what its loss is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.batches import IGNORED, Batch
from harness.errors import ConfigError, ModelSourceError, OutputError, did_you_mean
from harness.tasks import FACTS, TaskSpec
from harness.tasks.axes import fits_shape
from harness.tasks.calls import CallPlan as CallPlan
from harness.tasks.calls import (
    arguments_of,
    batch_as_declared,
    bind,
    find_output,
    lacking_arguments,
    laid_out,
    nested,
    outputs_of,
    parameters_of,
)
from harness.tasks.calls import plan_call as plan_call
from harness.tasks.kinds import mean_loss
from harness.tasks.losses import DeclaredLoss
from harness.user_code import import_file, raised

LENGTH_FIRST = "length_first"
"""Name of the built-in adapter of models that read token ids as ``[length, batch]``, as ``nn.RNN`` and ``nn.Transformer`` do by default."""

OnOutput = Callable[[str, Any], None]
"""Told of an output, by its name and as forward returned it."""


class Adapter:
    """Calls a model for a task and finds its logits; the subclass of each task adds the loss.

    A class of your own (config key ``adapter``, as ``file.py:Class``) may override any of the three public methods.

    Attributes:
        length_first: Whether the model reads and returns ``[length, batch]``; logits are always ``[batch, length, …]``.
    """

    length_first: bool = False

    def __init__(self, task: TaskSpec) -> None:
        self.task = task
        self._plans: WeakKeyDictionary[nn.Module, CallPlan] = WeakKeyDictionary()

    def plan(self, model: nn.Module) -> CallPlan:
        """How this model is called."""
        if model not in self._plans:
            self._plans[model] = replace(plan_call(model, self.task.facts.inputs), length_first=self.length_first)
        return self._plans[model]

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Calls the model and returns its logits.

        Raises:
            OutputError: The output holds no logits.
        """
        plan = self.plan(model)
        return self._logits_in(plan.call(model, batch), plan)

    def call(self, model: nn.Module, batch: Batch, further: Mapping[str, Any]) -> tuple[Tensor, Any]:
        """Calls the model with further arguments by name, such as a cache; a field that the batch lacks is left out.

        Returns:
            The logits, and all that forward returned.

        Raises:
            OutputError: The output holds no logits.
        """
        plan = self._widened(self.plan(model), batch, further)
        returned = plan.call(model, {**batch, **further})
        return self._logits_in(returned, plan), returned

    def takes_more(self, model: nn.Module) -> bool:
        """Whether ``call`` does what ``logits`` does: a class of the user's may find the logits in its own way."""
        return type(self).logits is Adapter.logits and not self.plan(model).whole

    def outputs(self, model: nn.Module, batch: Batch) -> dict[str, Any]:
        """Calls the model and returns the outputs of the task by name, the rows first."""
        return {self.task.signature.main.name: self.logits(model, batch)}

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """The task's mean loss (a scalar, in nats for classes) against ``batch["labels"]``."""
        return mean_loss("cross_entropy", logits, batch["labels"])

    def loss_of_call(self, model: nn.Module, batch: Batch) -> Tensor:
        """Calls the model and returns its loss (a scalar)."""
        return self.loss(self.logits(model, batch), batch)

    def backward_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Calls the model and returns a scalar that depends on every output; by default the loss."""
        return self.loss_of_call(model, batch)

    def weight(self, batch: Batch) -> Tensor:
        """How many labels ``loss`` is the mean of (a scalar, int64), by which the losses of several batches are averaged."""
        return (batch["labels"] != IGNORED).sum()

    def takes(self, model: nn.Module, field: str) -> bool:
        """Whether a field reaches the model."""
        plan = self.plan(model)
        return plan.whole or field in plan.fields

    def _logits_in(self, returned: Any, plan: CallPlan) -> Tensor:
        logits = find_logits(returned)
        return logits.transpose(0, 1) if plan.length_first and self.task.is_per_position and logits.ndim >= 2 else logits

    @staticmethod
    def _widened(plan: CallPlan, batch: Batch, further: Mapping[str, Any]) -> CallPlan:
        """A plan that passes further arguments by name, and leaves out what the batch lacks."""
        return replace(plan, named=(*plan.named, *further), optional=plan.optional | (set(plan.fields) - batch.keys()))


class CausalLMAdapter(Adapter):
    """Position t predicts token t + 1."""

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Mean cross-entropy of the next token, in nats."""
        return mean_loss("cross_entropy", logits[:, :-1], batch["labels"][:, 1:])

    def weight(self, batch: Batch) -> Tensor:
        """How many tokens have one before them that predicts them."""
        return (batch["labels"][:, 1:] != IGNORED).sum()


class RegressionAdapter(Adapter):
    """One number a row; ``[B, 1]`` counts as ``[B]``."""

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """The predictions, ``[B]``."""
        output = super().logits(model, batch)
        return output.squeeze(-1) if output.ndim == 2 and output.shape[-1] == 1 else output

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Mean squared error."""
        return F.mse_loss(logits, batch["labels"].to(logits.dtype))

    def weight(self, batch: Batch) -> Tensor:
        """How many rows there are."""
        return torch.tensor(batch["labels"].numel())


class SignatureAdapter(Adapter):
    """Calls a model as its declared signature says; the logits are the main output, the loss is that of all outputs.

    Inputs and outputs have their rows first here, and where the signature has them in the model's call.
    """

    def __init__(self, task: TaskSpec, folder: Path = Path()) -> None:
        super().__init__(task)
        self._signature = task.signature
        self._folder = folder
        self._loss = DeclaredLoss(task.signature, folder)

    def with_main(self, name: str) -> SignatureAdapter:
        """The adapter of the same task with another output as the main one."""
        return self.for_task(replace(self.task, declared=self._signature.with_main(name)))

    def for_task(self, task: TaskSpec) -> SignatureAdapter:
        """The adapter of another form of the same task."""
        return SignatureAdapter(task, self._folder)

    @property
    def is_loss_of_forward(self) -> bool:
        """Whether forward returns the loss."""
        return self._loss.is_of_forward

    def plan(self, model: nn.Module) -> CallPlan:
        """How this model is called."""
        if model not in self._plans:
            positional, named, whole = bind(model, self._signature)
            optional, states = lacking_arguments(self._signature)
            self._plans[model] = CallPlan(named, positional, whole, optional=optional, states=states)
        return self._plans[model]

    def outputs(self, model: nn.Module, batch: Batch) -> dict[str, Any]:
        """Calls the model and returns its declared outputs by name.

        Raises:
            OutputError: One is not there.
        """
        returned = outputs_of(self._call(model, batch), self._signature)
        rows = self._signature.row_count(batch)
        return {each.name: laid_out(returned[each.name], each, rows) for each in self._signature.outputs}

    def returned(self, model: nn.Module, given: Batch) -> dict[str, Any]:
        """Calls the model with inputs whose rows are where forward has them, and returns its declared outputs as they are.

        Raises:
            OutputError: One is not there.
        """
        arguments = nested(given, arguments_of(self._signature), self._signature.groups)
        return outputs_of(self.plan(model).call(model, arguments), self._signature)

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Calls the model and returns its main output.

        Raises:
            OutputError: It is not there, or no tensor.
        """
        return self._main_in(self._call(model, batch), batch)

    def call(self, model: nn.Module, batch: Batch, further: Mapping[str, Any]) -> tuple[Tensor, Any]:
        """Calls the model with further arguments by name; see ``Adapter.call``."""
        arguments = nested(batch_as_declared(batch, self._signature), arguments_of(self._signature), self._signature.groups)
        returned = self._widened(self.plan(model), arguments, further).call(model, {**arguments, **further})
        return self._main_in(returned, batch), returned

    def takes_more(self, model: nn.Module) -> bool:
        """Whether forward takes arguments by name."""
        return type(self).logits is SignatureAdapter.logits and not self.plan(model).whole

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """The mean loss of the main output; a fixed projection where it has no labels."""
        return self._loss.of_output(self._signature.main, logits, batch)

    def loss_of_call(self, model: nn.Module, batch: Batch, seen: OnOutput | None = None) -> Tensor:
        """Calls the model and returns the loss that it is trained by.

        Args:
            model: The model.
            batch: Its inputs and labels.
            seen: Told of each output, as forward returned it, before the loss is made of it.

        Raises:
            OutputError: An output is not there, or the loss is no scalar.
        """
        returned = self._call(model, batch, labelled=self._loss.is_of_forward)
        outputs = outputs_of(returned, self._signature)
        if seen is not None:
            for name, value in outputs.items():
                seen(name, value)
        return self._loss.of_call(returned, outputs, batch, model)

    def backward_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The declared function of the loss; else the losses of all outputs, a fixed projection for those without labels."""
        if self._signature.whole_loss and not self._loss.is_of_forward:
            return self.loss_of_call(model, batch)
        return self._loss.of_every_output(self.outputs(model, batch), batch)

    def weight(self, batch: Batch) -> Tensor:
        """How many labels the loss is the mean of, where one output has labels; else how many rows."""
        taught = self._signature.taught
        if len(taught) == 1 and not self._signature.whole_loss and self._signature.label_name(taught[0]) in batch:
            return self._signature.label_count(taught[0], batch)
        return torch.tensor(self._signature.row_count(batch))

    def takes(self, model: nn.Module, field: str) -> bool:
        """Whether an input reaches the model."""
        plan = self.plan(model)
        return plan.whole or field.partition(".")[0] in plan.fields

    def takes_label(self, model: nn.Module, name: str) -> bool:
        """Whether forward is given a label, to make a loss of it."""
        return self.plan(model).whole or name in parameters_of(model)

    def _main_in(self, returned: Any, batch: Batch) -> Tensor:
        main = self._signature.main
        found = find_output(returned, main, self._signature.outputs)
        if not isinstance(found, Tensor):
            raise OutputError(f"`outputs.{main.name}` is a {type(found).__name__}, expected a tensor")
        return laid_out(found, main, self._signature.row_count(batch))  # type: ignore[no-any-return]

    def _call(self, model: nn.Module, batch: Batch, labelled: bool = False) -> Any:
        """What forward returns; where it is ``labelled``, it is given the labels too that it has a parameter for."""
        given, plan = batch_as_declared(batch, self._signature), self.plan(model)
        arguments = nested(given, arguments_of(self._signature), self._signature.groups)
        if labelled:
            known = {each.name for each in self._signature.inputs}
            labels = {name: value for name, value in given.items() if name not in known}
            taken = {name: value for name, value in labels.items() if self.takes_label(model, name)}
            arguments, plan = {**arguments, **taken}, replace(plan, named=(*plan.named, *taken))
        return plan.call(model, arguments)


_BY_LOSS = {"classes": Adapter, "next_token": CausalLMAdapter, "numbers": RegressionAdapter}

ADAPTERS: dict[str, type[Adapter]] = {task.value: _BY_LOSS[facts.loss] for task, facts in FACTS.items()}
"""Built-in adapters by task type."""

BUILT_IN = (*ADAPTERS, LENGTH_FIRST)
"""Names that the config key ``adapter`` takes without a file."""


def make_adapter(task: TaskSpec, name: str | None = None, folder: Path = Path()) -> Adapter:
    """The adapter of a task, a built-in one by name, or a user's ``file.py:Class``.

    Raises:
        ConfigError: There is no such adapter.
    """
    if task.declared is not None and (name is None or name in BUILT_IN):
        return SignatureAdapter(task, folder)
    if name is None:
        return ADAPTERS[task.title](task)
    if name in ADAPTERS:
        return ADAPTERS[name](task)
    if name == LENGTH_FIRST:
        return _length_first(task)
    file, separator, attribute = name.rpartition(":")
    if not separator or not file.endswith(".py"):
        raise ConfigError(
            f"`adapter`: no adapter {name!r}.{did_you_mean(name, BUILT_IN)} Built in: {', '.join(BUILT_IN)}; or file.py:Class"
        )
    path = (folder / file).resolve()
    try:
        cls = getattr(import_file(path, "adapter"), attribute, None)
    except ModelSourceError as error:
        raise ConfigError(str(error)) from error
    if not (isinstance(cls, type) and hasattr(cls, "logits") and hasattr(cls, "loss")):
        raise ConfigError(
            f"`adapter`: {path} has no class {attribute!r} with `logits` and `loss`; subclass harness.adapters.Adapter"
        )
    try:
        adapter: Adapter = cls(task)
    except Exception as error:
        raise ConfigError(f"`adapter`: {path.name}:{attribute} raised {raised(error)}") from error
    return adapter


def _length_first(task: TaskSpec) -> Adapter:
    if not task.is_text:
        raise ConfigError(f"`adapter`: {LENGTH_FIRST!r} is for models that read token ids; {task.title} has none")
    adapter = ADAPTERS[task.title](task)
    adapter.length_first = True
    return adapter


def find_logits(output: Any) -> Tensor:
    """The logits in whatever a forward returned: a tensor, a tuple's first item, or ``logits`` of a mapping or an object.

    Raises:
        OutputError: There are none.
    """
    found = output
    if isinstance(output, Mapping):
        found = output.get("logits")
    elif hasattr(output, "logits"):
        found = output.logits
    elif isinstance(output, (tuple, list)) and output:
        found = output[0]
    if isinstance(found, Tensor):
        return found
    has = f"keys {_names(output)}" if isinstance(output, Mapping) else f"type {type(output).__name__}"
    raise OutputError(
        f"forward's output holds no logits: it has {has}. Return a tensor, a tuple whose first item is the logits, "
        "or a mapping or object with `logits`"
    )


def same_shape(logits: Tensor, expected: tuple[int, ...]) -> bool:
    """Whether logits have a promised shape, and are floating point."""
    return fits_shape(logits.shape, expected) and torch.is_floating_point(logits)


def _names(names: Any) -> str:
    return ", ".join(f"`{name}`" for name in names)
