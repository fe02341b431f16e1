"""Optimizers that hold something else than what is to be trained, and steps that change something else."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.evidence import Status
from harness.tasks import TaskSpec, TaskType
from harness.tasks.declared import read_signature

from ..register import ISLAM, PYTORCH
from .training import CLASSES, FEATURES, LIGHTNING, LIT_SCORES, MANUAL, TABLE, LitScores, ManualScores, Scores, Training, plant

# What a step changes


class ZeroRate(LitScores):
    def configure_optimizers(self) -> Any:
        groups = [{"params": self.net.hidden.parameters(), "lr": 0.0}, {"params": self.net.head.parameters()}]
        return torch.optim.AdamW(groups, lr=1e-2)


class ScheduleOfZero(LitScores):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step // 100)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class WarmUpFromZero(LitScores):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 10))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Frozen(Scores):
    """A frozen projection before the perceptron."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(6, 6, bias=False)
        self.project.weight.requires_grad_(False)

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(self.project(features))


class FrozenButNormalised(Frozen):
    def forward(self, features: Tensor) -> Tensor:
        self.project.weight.data = F.normalize(self.project.weight.data * 1.1 + 0.01, dim=1)
        return super().forward(features)


class FrozenByAFlag(Frozen):
    def __init__(self) -> None:
        super().__init__()
        self.project.weight.requires_grad_(True)
        self.project.requires_grad = False  # type: ignore[assignment]


class FrozenNorm(Scores):
    """A frozen projection with a norm; the bug lets the norm average the batches on."""

    def __init__(self, kept: bool = False) -> None:
        super().__init__()
        self.kept = kept
        self.body = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6)).requires_grad_(False)

    def train(self, mode: bool = True) -> FrozenNorm:
        super().train(mode)
        if self.kept:
            self.body.eval()
        return self

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(self.body(features))


class StretchedTable(Scores):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(6))

    def forward(self, features: Tensor) -> Tensor:
        if self.training:
            self.scale.mul_(1.001)
        return super().forward(features * self.scale)


class FixedTable(StretchedTable):
    def forward(self, features: Tensor) -> Tensor:
        return Scores.forward(self, features * self.scale)


class ClearedTooLate(ManualScores):
    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        self.manual_backward(self.loss(self(batch["features"]), batch["labels"]))
        optimizer.zero_grad()
        optimizer.step()


class NoStep(ManualScores):
    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(self(batch["features"]), batch["labels"]))


# What a loss leaves out

WITH_ASIDE = TaskSpec(
    TaskType.TABULAR_CLASSIFICATION,
    declared=read_signature(
        {
            "inputs": {"features": {"axes": ["batch", FEATURES]}},
            "outputs": {
                "scores": {"axes": ["batch", CLASSES], "kind": "class_scores"},
                "aside": {"axes": ["batch", 2], "kind": "other"},
            },
        }
    ),
)


class Aside(LitScores):
    """Classes, and numbers of which nobody says what they are for; both are trained."""

    def __init__(self) -> None:
        super().__init__()
        self.aside = nn.Linear(FEATURES, 2)

    def forward(self, features: Tensor) -> Any:
        return self.net(features), self.aside(features)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Any:
        scores, aside = self(batch["features"])
        return self.loss(scores, batch["labels"]) + self.kept(aside).square().mean()

    def kept(self, aside: Tensor) -> Tensor:
        return torch.stack(list(aside))


class CopiedAside(Aside):
    def kept(self, aside: Tensor) -> Tensor:
        return torch.tensor(aside.tolist(), dtype=aside.dtype)


# Several optimizers


class InTurn(ManualScores):
    """A generator of hard inputs and the classifier that it works against; each clears its gradients before its own loss."""

    def __init__(self) -> None:
        super().__init__()
        self.harder = nn.Linear(FEATURES, FEATURES)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        for sign, optimizer in zip((-1, 1), self.optimizers(), strict=True):  # type: ignore[arg-type]
            self.clear_before(optimizer)
            self.manual_backward(
                sign * self.loss(self(batch["features"] + 0.1 * self.harder(batch["features"])), batch["labels"])
            )
            optimizer.step()
            self.clear_after(optimizer)

    def clear_before(self, optimizer: Any) -> None:
        optimizer.zero_grad()

    def clear_after(self, optimizer: Any) -> None:
        pass

    def configure_optimizers(self) -> Any:
        return [torch.optim.Adam(part.parameters(), lr=1e-2) for part in (self.harder, self.net)]


class ClearedAfterwards(InTurn):
    """Each clears its own gradients after its step, and the loss of the other leaves some there before the next."""

    def clear_before(self, optimizer: Any) -> None:
        pass

    def clear_after(self, optimizer: Any) -> None:
        optimizer.zero_grad()


class NeverClearedOfTwo(InTurn):
    def clear_before(self, optimizer: Any) -> None:
        pass


class OneLossForBoth(InTurn):
    """One loss trains both, and each takes its step with it."""

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.manual_backward(self.loss(self(batch["features"] + 0.1 * self.harder(batch["features"])), batch["labels"]))
        for optimizer in self.optimizers():  # type: ignore[union-attr]
            optimizer.step()
            optimizer.zero_grad()


FAKED = TaskSpec(
    TaskType.TABULAR_REGRESSION,
    declared=read_signature(
        {
            "inputs": {"features": {"axes": ["batch", FEATURES]}},
            "outputs": {"faked": {"axes": ["batch", CLASSES], "fits": False}},
        }
    ),
)


class Adversary(ManualScores):
    """A generator of answers and a discriminator, each with an optimizer; in the buggy one, no gradient leads from one to the other."""

    is_cut = False

    def __init__(self) -> None:
        super().__init__()
        self.judge = nn.Linear(CLASSES, 1)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        of_net, of_judge = self.optimizers()  # type: ignore[misc,union-attr]
        answers, right = self(batch["features"]), batch["labels"]
        ones = torch.ones(len(right), 1)
        of_judge.zero_grad()
        told = F.binary_cross_entropy_with_logits(self.judge(answers.detach()), 0 * ones)
        self.manual_backward(told + F.binary_cross_entropy_with_logits(self.judge(right), ones))
        of_judge.step()
        of_net.zero_grad()
        given = answers.detach() if self.is_cut else answers
        self.manual_backward(F.binary_cross_entropy_with_logits(self.judge(given), ones))
        of_net.step()

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.net.parameters(), lr=1e-2), torch.optim.Adam(self.judge.parameters(), lr=1e-2)


class CutAdversary(Adversary):
    is_cut = True


class Wasserstein(Adversary):
    """The critic's last bias cancels in its own loss; the generator's loss leaves a gradient there, which no step takes."""

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        of_net, of_judge = self.optimizers()  # type: ignore[misc,union-attr]
        answers = self(batch["features"])
        of_judge.zero_grad()
        self.manual_backward(self.judge(answers.detach()).mean() - self.judge(batch["labels"]).mean())
        of_judge.step()
        of_net.zero_grad()
        self.manual_backward(-self.judge(answers.detach() if self.is_cut else answers).mean())
        of_net.step()


class CutWasserstein(Wasserstein):
    is_cut = True


plant(
    "generator_without_gradient",
    "step_updates",
    Training(FAKED, CutAdversary),
    Training(FAKED, Adversary),
    "optimizer_without_gradient",
    "wangle53/CSA-CDGAN#5",
    module="net.hidden.weight",
    says="takes steps of an optimizer, none of whose parameters has a gradient",
)
plant(
    "generator_of_a_critic_without_gradient",
    "step_updates",
    Training(FAKED, CutWasserstein),
    Training(FAKED, Wasserstein),
    "optimizer_without_gradient",
    "wangle53/CSA-CDGAN#5",
    module="net.hidden.weight",
)
plant(
    "group_with_rate_zero",
    "step_updates",
    Training(TABLE, ZeroRate),
    LIT_SCORES,
    "rate_is_zero",
    PYTORCH,
    module="net.hidden.weight",
    says="the learning rate of its group is 0",
)
plant(
    "schedule_that_begins_with_zeros",
    "step_updates",
    Training(TABLE, ScheduleOfZero),
    Training(TABLE, WarmUpFromZero),
    "rate_is_zero",
    PYTORCH,
    module="net.hidden.weight",
)
plant(
    "forward_writes_frozen_weights",
    "step_updates",
    Training(TABLE, FrozenButNormalised),
    Training(TABLE, Frozen),
    "frozen_parameter_changes",
    ISLAM,
    module="(model)",
    says="`project.weight` is frozen and changes in training: forward writes into it",
)
plant(
    "buffer_changed_in_place",
    "step_updates",
    Training(TABLE, StretchedTable),
    Training(TABLE, FixedTable),
    "buffer_changes",
    PYTORCH,
    status=Status.WARN,
    says="buffer `scale` changes in training",
)
plant(
    "gradients_cleared_before_the_step",
    "step_updates",
    Training(TABLE, ClearedTooLate),
    MANUAL,
    "no_gradient_at_step",
    LIGHTNING,
)
plant(
    "no_optimizer_step",
    "step_updates",
    Training(TABLE, NoStep),
    MANUAL,
    "no_step",
    LIGHTNING,
    says="took no optimizer step in 16 batches",
)

# What the optimizers hold


class HeadForgotten(LitScores):
    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.net.hidden.parameters(), lr=1e-2)


class HeadReplaced(LitScores):
    """A new head for other classes, after the optimizer was made."""

    def __init__(self) -> None:
        super().__init__()
        self.held = [list(self.parameters())]
        self.net.head = nn.Linear(16, CLASSES)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.held[0], lr=1e-2)


class Copies(LitScores):
    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(copy.deepcopy(self.net).parameters(), lr=1e-2)


class Reassigned(Scores):
    def forward(self, features: Tensor) -> Tensor:
        self.head.weight = nn.Parameter(self.head.weight.clamp(-5, 5))
        return super().forward(features)


class ClampedInPlace(Scores):
    def forward(self, features: Tensor) -> Tensor:
        with torch.no_grad():
            self.head.weight.clamp_(-5, 5)
        return super().forward(features)


class SharedByTwo(ManualScores):
    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        optimizers: Any = self.optimizers()
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(self.loss(self(batch["features"]), batch["labels"]))
        for optimizer in optimizers:
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.AdamW(self.parameters(), lr=5e-3), torch.optim.AdamW(self.net.head.parameters(), lr=5e-3)]


class SplitOverTwo(SharedByTwo):
    def configure_optimizers(self) -> Any:
        return [torch.optim.AdamW(part.parameters(), lr=1e-2) for part in (self.net.hidden, self.net.head)]


class Hidden(LitScores):
    def __init__(self) -> None:
        super().__init__()
        self.parts = [nn.Linear(6, 6)]

    def forward(self, features: Tensor) -> Tensor:
        return self.net(self.parts[0](features))

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW([*self.parameters(), *self.parts[0].parameters()], lr=1e-2)


class Registered(Hidden):
    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList(self.parts)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


plant(
    "head_forgotten",
    "optimizer_coverage",
    Training(TABLE, HeadForgotten),
    LIT_SCORES,
    "not_in_optimizer",
    PYTORCH,
    module="net.head.weight",
    says="`net.head.weight` (and 1 other parameter) has a gradient and is in no optimizer, so it is never trained",
)
plant(
    "head_replaced_after_the_optimizer",
    "optimizer_coverage",
    Training(TABLE, HeadReplaced),
    LIT_SCORES,
    "not_in_optimizer",
    PYTORCH,
    module="net.head.weight",
    says="which instead holds a tensor of shape (3, 16)",
)
plant(
    "optimizer_over_copies",
    "optimizer_coverage",
    Training(TABLE, Copies),
    LIT_SCORES,
    "not_in_optimizer",
    PYTORCH,
    module="net.hidden.weight",
    says="which instead holds a copy of `net.hidden.weight`",
)
plant(
    "parameter_assigned_in_forward",
    "optimizer_coverage",
    Training(TABLE, Reassigned),
    Training(TABLE, ClampedInPlace),
    "not_in_optimizer",
    PYTORCH,
    module="head.weight",
    says="`head.weight` was replaced while the model ran",
)
plant(
    "held_by_two_optimizers",
    "optimizer_coverage",
    Training(TABLE, SharedByTwo),
    Training(TABLE, SplitOverTwo),
    "listed_twice",
    LIGHTNING,
    module="net.head.weight",
    says="`net.head.weight` (and 1 other parameter) is in the optimizers more than once",
)
plant(
    "trained_but_not_registered",
    "optimizer_coverage",
    Training(TABLE, Hidden),
    Training(TABLE, Registered),
    "foreign_parameter",
    ISLAM,
    says="holds a tensor of shape (6, 6) that is not a parameter of the model",
)
plant(
    "frozen_norm_goes_on",
    "step_updates",
    Training(TABLE, FrozenNorm),
    Training(TABLE, partial(FrozenNorm, True)),
    "frozen_statistics_change",
    "open-mmlab/mmdetection, pull request 560",
    module="body.1",
    status=Status.WARN,
    says="`body.1.running_mean` (and 1 other statistic) changes in training, though every parameter around it is frozen",
)
plant(
    "flag_of_a_module",
    "step_updates",
    Training(TABLE, FrozenByAFlag),
    Training(TABLE, Frozen),
    "flag_freezes_nothing",
    "catalyst-team/catalyst#79",
    module="project",
    status=Status.WARN,
    says="`project` has the attribute `requires_grad`, which is False and freezes nothing: `project.weight` is trained",
)
plant(
    "cleared_after_the_step_only",
    "accumulation",
    Training(TABLE, ClearedAfterwards),
    Training(TABLE, InTurn),
    "gradient_of_another_loss",
    LIGHTNING,
    status=Status.WARN,
    module="net.hidden.weight",
    also=("overfits_one_batch",),
    says="the loss of another optimizer leaves a gradient in `",
)
plant(
    "never_cleared_of_two",
    "accumulation",
    Training(TABLE, NeverClearedOfTwo),
    Training(TABLE, OneLossForBoth),
    "gradient_not_cleared",
    LIGHTNING,
    module="harder.weight",
    also=("overfits_one_batch",),
    says="does not clear the gradient of `",
)
plant(
    "copied_out_of_the_graph",
    "step_updates",
    Training(WITH_ASIDE, CopiedAside),
    Training(WITH_ASIDE, Aside),
    "output_without_gradient",
    "kengz/SLM-Lab#133",
    module="aside.weight",
    status=Status.WARN,
    says="on which output `aside` depends",
)
