"""The loss of a declared task, from what forward returned and the labels of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import OutputError
from harness.tasks.calls import batch_as_declared, laid_out
from harness.tasks.declared import load_function
from harness.tasks.kinds import Loss, State
from harness.tasks.signature import MODEL, Output, Signature
from harness.wording import listed

if TYPE_CHECKING:
    from torch import Tensor, nn

_RETURNED = "loss"
"""Under which forward returns the loss that it computed itself."""


class DeclaredLoss:
    """The loss that a signature declares.

    Args:
        signature: The signature.
        folder: The config's, to which the files of functions are relative.
    """

    def __init__(self, signature: Signature, folder: Path) -> None:
        self._signature = signature
        self._folder = folder

    @property
    def is_of_forward(self) -> bool:
        """Whether forward returns it, and is given the labels to do so."""
        return self._signature.whole_loss == MODEL

    def of_call(
        self, returned: Any, outputs: Mapping[str, Any], batch: Mapping[str, Tensor], model: nn.Module | None = None
    ) -> Tensor:
        """The loss that a model is trained by (a scalar): the declared one, else the weighted sum over the outputs that have labels.

        Args:
            returned: What forward returned.
            outputs: The declared outputs in it, by name and as forward returned them.
            batch: Inputs and labels, the rows first.
            model: The model; where it has a training step that knows the loss which forward does not return, the labelled outputs are judged.

        Raises:
            OutputError: There is none, or it is no scalar.
        """
        import torch

        signature, has_step = self._signature, hasattr(model, "training_step")
        found = self._in_returned(returned, outputs) if self.is_of_forward else None
        if found is not None:
            return _scalar(found, "loss", "forward")
        if signature.whole_loss and not self.is_of_forward:
            return self._by_function(signature.whole_loss, "loss", outputs, batch, (returned, model))
        if self.is_of_forward and not (has_step and signature.taught):
            raise OutputError(
                "`loss`: model, but forward returns no `loss`: return it under that name, or declare an output of kind 'loss'"
                + ("; what only the training step knows cannot be evaluated, unless outputs have labels" if has_step else "")
            )
        if not signature.taught:
            raise OutputError("there is no loss to train by: no output has labels; give `loss` a function as file.py:name")
        return torch.stack([each.weight * self._mean(each, outputs, batch) for each in signature.taught]).sum()

    def of_every_output(self, outputs: Mapping[str, Any], batch: Mapping[str, Tensor]) -> Tensor:
        """A scalar with a gradient for each output, with its rows first: its loss, or a fixed projection where it has no labels."""
        import torch

        return torch.stack(
            [each.weight * self.of_output(each, outputs[each.name], batch) for each in self._signature.outputs]
        ).sum()

    def _mean(self, output: Output, outputs: Mapping[str, Any], batch: Mapping[str, Tensor]) -> Tensor:
        if ":" in output.loss:
            return self._by_function(output.loss, f"outputs.{output.name}.loss", outputs, batch)
        return self._signature.loss_of(output, laid_out(outputs[output.name], output, self._signature.row_count(batch)), batch)

    def of_output(self, output: Output, value: Any, batch: Mapping[str, Tensor]) -> Tensor:
        """The loss of one output, with its rows first; without labels a fixed projection, or zero where it cannot have a gradient."""
        import torch

        has_labels = self._signature.has_labels(output) and self._signature.label_name(output) in batch
        if output.loss and ":" not in output.loss and has_labels:
            return self._signature.loss_of(output, value, batch)
        if not isinstance(value, torch.Tensor) or not value.is_floating_point() or isinstance(output.kind, State):
            return torch.zeros(())
        weights = torch.randn(value.shape, generator=torch.Generator().manual_seed(0)).to(value)
        return (value * weights).mean()

    def _in_returned(self, returned: Any, outputs: Mapping[str, Any]) -> Any:
        """The loss that forward computed itself; ``None`` where it returned none."""
        declared = next((each.name for each in self._signature.outputs if isinstance(each.kind, Loss)), None)
        if declared is not None:
            return outputs[declared]
        return returned.get(_RETURNED) if isinstance(returned, Mapping) else getattr(returned, _RETURNED, None)

    def _by_function(
        self, source: str, key: str, outputs: Mapping[str, Any], batch: Mapping[str, Tensor], call: tuple[Any, Any] | None = None
    ) -> Tensor:
        """What a function of the user's returns for outputs and a batch whose axes are in the declared order.

        Args:
            source: The function.
            key: The key that names it.
            outputs: The declared outputs, by name.
            batch: Inputs and labels.
            call: Of the whole loss: what forward returned, and the model.
        """
        function = load_function(source, self._folder, key)
        declared, said = batch_as_declared(batch, self._signature), self._signature.loss_call
        try:
            if call is not None and said is not None:
                loss = said.loss(function, call[0], outputs, declared, call[1])
            else:
                loss = function(outputs=dict(outputs), batch=declared)
        except KeyError as error:
            missing = error.args[0] if error.args else ""
            if missing in outputs or missing in batch:
                raise
            raise OutputError(
                f"`{key}`: {source} reads {missing!r}, which is not there: `outputs` has {listed([*outputs], len(outputs))}, "
                f"`batch` has {listed([*batch], len(batch))}"
            ) from error
        return _scalar(loss, key, source)


def _scalar(loss: Any, key: str, source: str) -> Tensor:
    from torch import Tensor

    if not isinstance(loss, Tensor) or loss.ndim:
        found = f"a tensor of shape {list(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
        raise OutputError(f"`{key}`: {source} returned {found}, expected a scalar tensor")
    return loss
