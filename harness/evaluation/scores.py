"""Losses and scores: for each sample, as means over all labels, and combined over the processes that share the rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed
from numpy.typing import NDArray
from torch import Tensor, nn

from harness.adapters import ADAPTERS, Adapter, SignatureAdapter
from harness.batches import Batch
from harness.data.order import BatchOrder
from harness.errors import DataError, ForwardError, UserError
from harness.evaluation import LabelledOutput, has_own_loss, labelled_outputs
from harness.evaluation.answers import Answers, widened
from harness.tasks import TaskSpec
from harness.tasks.values import LengthsOf, MaskOf
from harness.user_code import raised

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among those that share the rows.

    Attributes:
        rank: This process.
        size: How many there are.
        rows: Rows of the whole dataset; ``None`` for a single process, which sees them all anyway.
    """

    rank: int = 0
    size: int = 1
    rows: int | None = None

    @classmethod
    def of(cls, order: BatchOrder) -> Ranks:
        """The processes among which an order deals out the rows.

        Raises:
            ValueError: They are not those of ``torch.distributed``.
        """
        if order.world_size == 1:
            return cls()
        running = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
        if running != order.world_size:
            raise ValueError(f"the loader deals rows to {order.world_size} processes, of which torch.distributed knows {running}")
        return cls(order.rank, order.world_size, len(order.dataset))

    @property
    def own_rows(self) -> int | None:
        """Rows that count on this rank: not the ones dealt a second time; ``None`` for all."""
        return None if self.rows is None else len(range(self.rank, self.rows, self.size))

    def row_number(self, place: int) -> int:
        """The number in the dataset, counted from 0, of the row at a place among this rank's."""
        return place * self.size + self.rank

    def gather(self, value: T) -> list[T]:
        """What each rank gave, in the order of ranks; a collective call."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(found, value)
        return found

    @property
    def synchronisation(self) -> dict[str, Any]:
        """Arguments of a torchmetrics metric: it must put together nothing where every process evaluates for itself.

        Its own ``gather_all_tensors`` would need the counts on the device of the process group's backend.
        """
        return {
            "sync_on_compute": self.size > 1,
            "distributed_available_fn": lambda: self.size > 1,
            "dist_sync_fn": self._gather_tensor,
        }

    def _gather_tensor(self, tensor: Tensor, group: object = None) -> list[Tensor]:
        return self.gather(tensor)

    @contextmanager
    def failing_together(self) -> Iterator[None]:
        """A block at whose end every rank raises if one did, instead of waiting for it in the next collective call.

        Raises:
            UserError: Another rank raised; ``DataError`` where that one did.
        """
        try:
            yield
        except Exception as error:
            self.gather((isinstance(error, DataError), str(error) or type(error).__name__))
            raise
        failures = self.gather(None)
        for rank, failure in enumerate(failures):
            if failure is not None:
                is_data, message = failure
                raise (DataError if is_data else UserError)(f"rank {rank}: {message}")


class Losses(ABC):
    """The loss of batch after batch, and its mean over all labels.

    The mean of the batches' means is not that mean where batches hold unequal numbers of labels.
    """

    needs_labels = True
    """Whether an output that is trained must have labels."""

    @abstractmethod
    def add(self, answers: Mapping[str, Answers], outputs: Mapping[str, Any], batch: Batch, rows: int) -> Tensor:
        """Takes the first rows of a batch into account.

        Returns:
            The loss of each row, float64 ``[R]``; NaN for one without a label, and where the loss compares rows.

        Raises:
            ForwardError: The user's loss raised, or is no scalar.
        """

    @abstractmethod
    def means(self, ranks: Ranks) -> dict[str, float]:
        """The loss of the data, those of its outputs, and the perplexity of each that has one, by name; a collective call."""


def make_losses(model: nn.Module, adapter: Adapter, task: TaskSpec) -> Losses:
    """The losses of a task: those of its signature, or that of an adapter for one output."""
    is_declared = task.declared is not None and isinstance(adapter, SignatureAdapter) and not _is_own(adapter, task, "loss")
    return DeclaredLosses(model, adapter, task) if is_declared else AdapterLosses(adapter, task)


class AdapterLosses(Losses):
    """The loss of the main output, in nats or squared units, each batch weighted with its labels.

    Args:
        adapter: Whose loss it is; one that follows from the answers is computed from them, without calling it.
        task: What it is for.
    """

    def __init__(self, adapter: Adapter, task: TaskSpec) -> None:
        self._total = self._weight = 0.0
        self._adapter = adapter
        self._signature = task.signature
        self._has_own_loss = _is_own(adapter, task, "loss")
        self._has_own_mean = self._has_own_loss or _is_own(adapter, task, "weight")

    def add(self, answers: Mapping[str, Answers], outputs: Mapping[str, Any], batch: Batch, rows: int) -> Tensor:
        """Takes the first rows of a batch into account."""
        main = self._signature.main.name
        logits, found = widened(outputs[main][:rows]), answers[main]
        if self._has_own_mean:
            self._add_own_mean(found, logits, batch)
        else:
            self._total += float(found.loss.sum())
            self._weight += len(found.loss)
        return self._own_rows(found, logits, batch) if self._has_own_loss else found.row_means(found.loss)

    def means(self, ranks: Ranks) -> dict[str, float]:
        """``loss`` and ``perplexity``."""
        total, weight = (sum(column) for column in zip(*ranks.gather((self._total, self._weight)), strict=True))
        loss = torch.tensor(total, dtype=torch.float64) / weight
        return {"loss": float(loss), "perplexity": float(loss.exp())}

    def _add_own_mean(self, answers: Answers, logits: Tensor, batch: Batch) -> None:
        if not len(answers.labels):
            return  # the mean of nothing is NaN, and would remain so
        # An adapter need not subclass ours: only its logits and its loss are asked for.
        weight = float(self._adapter.weight(batch)) if hasattr(self._adapter, "weight") else float(len(answers.labels))
        if weight:
            self._total += weight * self._loss(logits, batch)
            self._weight += weight

    def _own_rows(self, answers: Answers, logits: Tensor, batch: Batch) -> Tensor:
        found = torch.full((answers.rows,), torch.nan, dtype=torch.float64, device="cpu")
        for number in answers.row.unique().tolist():
            found[number] = self._loss(logits[number : number + 1], self._signature.rows(batch, [number]))
        return found

    def _loss(self, logits: Tensor, batch: Batch) -> float:
        return _told(self._adapter, "loss", logits, batch)


class DeclaredLosses(Losses):
    """The loss of all outputs together, as a signature says it.

    What follows from the labels of each output is a mean over all of them, weighted as the outputs are. A loss of the user's is asked of the
    adapter: of each batch, whose mean over the rows is the loss of the data, and of each row by itself, unless it compares rows.

    Args:
        model: The model.
        adapter: How it is called.
        task: What it is for.
    """

    def __init__(self, model: nn.Module, adapter: Adapter, task: TaskSpec) -> None:
        self._model = model
        self._adapter = adapter
        self._signature = task.signature
        self.needs_labels = not has_own_loss(task.signature)
        self._total = self._weight = 0.0
        self._sums: dict[str, tuple[float, int]] = {}
        self._outputs = {each.output.name: each for each in labelled_outputs(task.signature)}

    def add(self, answers: Mapping[str, Answers], outputs: Mapping[str, Any], batch: Batch, rows: int) -> Tensor:
        """Takes the first rows of a batch into account."""
        for name, each in answers.items():
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = (total + float(each.loss.sum()), count + len(each.loss))
        if self.needs_labels:
            weights = {name: self._outputs[name].output.weight for name in answers}
            parts = [weights[name] * each.row_means(each.loss) for name, each in answers.items() if weights[name]]
            return torch.stack(parts).sum(0) if parts else torch.full((rows,), torch.nan, dtype=torch.float64)
        if not rows:
            return torch.zeros(0, dtype=torch.float64)
        self._total += rows * self._loss(batch)
        self._weight += rows
        if rows == 1:
            return torch.tensor([self._loss(batch)], dtype=torch.float64)
        if self._signature.loss_over or not self._signature.has_rows:
            return torch.full((rows,), torch.nan, dtype=torch.float64)
        each_row = [self._loss(self._signature.rows(batch, [number])) for number in range(rows)]
        return torch.tensor(each_row, dtype=torch.float64)

    def means(self, ranks: Ranks) -> dict[str, float]:
        """``loss``, and for each output with labels ``<name>.loss`` and its ``perplexity``."""
        shares = ranks.gather((self._total, self._weight, self._sums))
        found: dict[str, float] = {}
        loss = 0.0
        for name in dict.fromkeys(name for *_, sums in shares for name in sums):
            total, count = (sum(column) for column in zip(*(sums[name] for *_, sums in shares if name in sums), strict=True))
            mean = torch.tensor(total / count if count else torch.nan, dtype=torch.float64)
            labelled = self._outputs[name]
            found |= {f"{name}.loss": float(mean), f"{labelled.prefix}perplexity": float(mean.exp())}
            loss += labelled.output.weight * float(mean) if labelled.output.weight else 0.0
        if not self.needs_labels:
            loss = sum(share[0] for share in shares) / max(1.0, sum(share[1] for share in shares))
        return {"loss": loss, **found}

    def _loss(self, batch: Batch) -> float:
        return _told(self._adapter, "loss_of_call", self._model, batch)


def _told(adapter: Adapter, method: str, *arguments: Any) -> float:
    try:
        return float(getattr(adapter, method)(*arguments))
    except UserError:
        raise
    except Exception as error:
        raise ForwardError(f"{type(adapter).__name__}.{method} raised {raised(error)}") from error


def _is_own(adapter: Adapter, task: TaskSpec, method: str) -> bool:
    """Whether an adapter computes something otherwise than the task's does."""
    usual = getattr(ADAPTERS.get(task.title, SignatureAdapter), method)
    return getattr(getattr(adapter, method, None), "__func__", None) is not usual


class RowNumbers:
    """Collects numbers of every sample by name, and puts those of all ranks into the order of the dataset."""

    def __init__(self) -> None:
        self._found: dict[str, list[NDArray[np.float32]]] = {}

    def add(self, numbers: Mapping[str, Tensor]) -> None:
        """Takes a batch into account.

        Args:
            numbers: One number a row under each name, ``[R]``; the same names for every batch.
        """
        for name, values in numbers.items():
            self._found.setdefault(name, []).append(values.float().cpu().numpy())

    def gathered(self, ranks: Ranks) -> dict[str, NDArray[np.float32]]:
        """The numbers of all ranks' samples, float32 ``[N]`` each; a collective call."""
        own = {name: np.concatenate(parts) for name, parts in self._found.items()}
        shares = ranks.gather(own)
        names = dict.fromkeys(name for share in shares for name in share)
        empty = np.zeros(0, np.float32)  # of a rank that had no rows
        return {name: _interleaved([share.get(name, empty) for share in shares]) for name in names}


def output_scores(labelled: LabelledOutput, answers: Answers) -> dict[str, Tensor]:
    """What each row is scored by beside the loss, by name, float64 ``[R]``; NaN for a row without a label."""
    values = answers.correct
    if labelled.family == "numbers":
        values = answers.error.square()
    elif answers.edits is not None:
        values = answers.edits / answers.labels
    return {f"{labelled.prefix}{labelled.score}": answers.row_means(values.double())}


def row_facts(task: TaskSpec, batch: Batch) -> dict[str, Tensor]:
    """What parts the rows of a batch into kinds: ``label``, where a row has one class, and ``length``, its real elements; each ``[R]``."""
    found: dict[str, Tensor] = {}
    signature = task.signature
    main = next((each for each in labelled_outputs(signature) if each.is_main), None)
    if main is not None and main.family == "classes" and main.has_rows and not main.positions and main.labels in batch:
        found["label"] = batch[main.labels]
    for each in signature.inputs:
        if each.name not in batch or "length" in found:
            continue
        if isinstance(each.values, MaskOf):
            found["length"] = (batch[each.name].bool() ^ each.values.inverted).sum(dim=1)
        elif isinstance(each.values, LengthsOf):
            found["length"] = batch[each.name]
    return found


def _interleaved(shares: list[NDArray[Any]]) -> NDArray[Any]:
    """Row after row from the ranks in turn, as they were dealt."""
    whole = np.empty(sum(map(len, shares)), dtype=shares[0].dtype)
    for rank, share in enumerate(shares):
        whole[rank :: len(shares)] = share
    return whole
