"""LightningModules whose training goes wrong in one way each, and their corrected twins, a few lines apart."""

from __future__ import annotations

import time
from typing import Any

import lightning
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .run_models import Net

RNG = np.random.default_rng(0)
"""Made at import, and never again."""

Pair = tuple[Tensor, Tensor]


class Module(lightning.LightningModule):
    """Sound: automatic optimisation."""

    def __init__(self, outputs: int = 4) -> None:
        super().__init__()
        self.net = Net(outputs)

    def forward(self, features: Tensor) -> Tensor:
        return self.net(features)

    def loss(self, batch: Pair) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def training_step(self, batch: Pair, _index: int) -> Any:
        return self.loss(batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), 1e-2)


class Manual(Module):
    """Sound: the same by hand."""

    def __init__(self, outputs: int = 4) -> None:
        super().__init__(outputs)
        self.automatic_optimization = False

    def training_step(self, batch: Pair, _index: int) -> Any:
        optimizer: Any = self.optimizers()
        loss = self.loss(batch)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return loss


# ---------------------------------------------------------------------------------------------------------------- seeded_repeat


class ClockWeight(Module):
    """A loss weight that follows the clock rather than the step."""

    def training_step(self, batch: Pair, _index: int) -> Any:
        return self.loss(batch) * (1 + self.passed())

    def passed(self) -> float:
        return time.time() % 1


class StepWeight(ClockWeight):
    def passed(self) -> float:
        return self.global_step % 2


class ImportedRng(Manual):
    """Mixup by a generator of the file."""

    def loss(self, batch: Pair) -> Tensor:
        share = self.share()
        return share * super().loss(batch) + (1 - share) * super().loss((batch[0].flip(0), batch[1]))

    def share(self) -> float:
        return float(RNG.beta(0.4, 0.4))


class GlobalRng(ImportedRng):
    def share(self) -> float:
        return float(np.random.beta(0.4, 0.4))


# ----------------------------------------------------------------------------------------------------------------------- resume


class KLWeight(Module):
    """Warms a weight up in a hook, and forgets it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = 0.1

    def training_step(self, batch: Pair, _index: int) -> Any:
        return self.loss(batch) + self.weight * self(batch[0]).square().mean()

    def on_train_batch_end(self, *_: Any) -> None:
        self.weight *= 1.5


class SavedKLWeight(KLWeight):
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["weight"] = self.weight

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.weight = checkpoint["weight"]


class Lookahead(torch.optim.SGD):
    """Counts its steps outside of ``state``, and takes a larger one every third time."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, 0.1)
        self.k = 0

    def count(self) -> int:
        self.k += 1
        return self.k

    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        if self.count() % 3 == 0:
            super().step()
        return loss


class SavedLookahead(Lookahead):
    def count(self) -> int:
        group = self.param_groups[0]
        group["k"] = group.get("k", 0) + 1
        return group["k"]


class Optimized(Manual):
    def __init__(self, optimizer: type[Lookahead]) -> None:
        super().__init__()
        self.optimizer_class = optimizer

    def configure_optimizers(self) -> Any:
        return self.optimizer_class(self.parameters())


class ClockSchedule(Module):
    """A rate that follows the clock's time, which differs from the first step on; that since the start does so by luck."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), 1e-2)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + self.passed(step)))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def passed(self, _step: int) -> float:
        return time.time() % 1


class StepSchedule(ClockSchedule):
    def passed(self, step: int) -> float:
        return step


class OwnDecay(Module):
    """A rate that falls with the module's own count of batches, which no checkpoint holds."""

    def __init__(self, outputs: int = 4) -> None:
        super().__init__(outputs)
        self.taken = 0

    def on_train_batch_start(self, *_batch: Any) -> None:
        for group in self.optimizers().param_groups:  # type: ignore[union-attr]
            group["lr"] = 1e-2 * 0.8 ** self.passed()
        self.taken += 1

    def passed(self) -> int:
        return self.taken


class GlobalDecay(OwnDecay):
    def passed(self) -> int:
        return self.global_step


# ------------------------------------------------------------------------------------------------------------------ distributed


class Contrastive(Manual):
    """Pulls rows apart that happen to be in one batch."""

    def loss(self, batch: Pair) -> Tensor:
        return super().loss(batch) + self.apart(self(batch[0]))

    def apart(self, logits: Tensor) -> Tensor:
        return -torch.cdist(logits, logits).mean()


class Spread(Contrastive):
    def apart(self, logits: Tensor) -> Tensor:
        return -logits.square().sum(1).mean()


class Summed(Spread):
    """A sum over the rows, which grows with the batch."""

    def loss(self, batch: Pair) -> Tensor:
        return super().loss(batch) * len(batch[1])


class OwnBackward(Spread):
    """Sends the loss back itself, past Lightning, which would average the gradients."""

    def manual_backward(self, loss: Tensor, *_: Any, **__: Any) -> None:
        loss.backward()


# ------------------------------------------------------------------------------------------------------------------ fine_tuning


class DecayByHand(Module):
    """Decays all weights by hand."""

    def on_train_batch_end(self, *_: Any) -> None:
        with torch.no_grad():
            for parameter in self.decayed():
                parameter.mul_(0.999)

    def decayed(self) -> Any:
        return self.parameters()


class DecayOfTrained(DecayByHand):
    def decayed(self) -> Any:
        return [parameter for parameter in self.parameters() if parameter.requires_grad]


class BackboneOptimizer(Manual):
    """Leaves the head out where the backbone is frozen."""

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.tuned(), 1e-2)

    def tuned(self) -> Any:
        head = self.net.head.parameters() if self.net.stem.weight.requires_grad else ()
        return [*self.net.stem.parameters(), *self.net.middle.parameters(), *head]


class WholeOptimizer(BackboneOptimizer):
    def tuned(self) -> Any:
        return self.net.parameters()


# --------------------------------------------------------------------------------------------------- hyperparameter_sensitivity


class HotSGD(Module):
    """A rate for losses of another scale."""

    rate = 50.0

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), self.rate)


class CliffSGD(HotSGD):
    rate = 3.0


class WarmSGD(HotSGD):
    rate = 0.3


class Unscaled(Manual):
    """Multiplies its loss as if a gradient scaler divided it again."""

    def loss(self, batch: Pair) -> Tensor:
        return super().loss(batch) * self.scale()

    def scale(self) -> float:
        return 1024.0

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.3)


class Scaled(Unscaled):
    def scale(self) -> float:
        return 1.0


# ---------------------------------------------------------------------------------------------------------- baseline_comparison


class WrongRows(Module):
    """Shuffles the rows, and not their labels with them."""

    def training_step(self, batch: Pair, _index: int) -> Any:
        order = torch.randperm(len(batch[1]))
        return self.loss((batch[0][order], self.labels(batch[1], order)))

    def labels(self, labels: Tensor, _order: Tensor) -> Tensor:
        return labels


class RightRows(WrongRows):
    def labels(self, labels: Tensor, order: Tensor) -> Tensor:
        return labels[order]


class ScaledTarget(Manual):
    """Learns a standardised target, and answers in its units."""

    def __init__(self) -> None:
        super().__init__(1)

    def loss(self, batch: Pair) -> Tensor:
        return F.mse_loss(self.net(batch[0]).squeeze(-1), (batch[1] - 20) / 5)

    def forward(self, features: Tensor) -> Tensor:
        return self.answer(super().forward(features))

    def answer(self, standardised: Tensor) -> Tensor:
        return standardised


class UnscaledTarget(ScaledTarget):
    def answer(self, standardised: Tensor) -> Tensor:
        return standardised * 5 + 20
