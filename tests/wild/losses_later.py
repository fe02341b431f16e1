"""Reported bugs of losses, drawn after the checks were finished."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.planted_bugs.setups import Model
from tests.planted_bugs.tier3.training import Training

from .losses_scores import IGNORED, TAGS, TEXT, Learner, Mixtral, Summariser, change_by_collapse
from .register import pair_of_one_class, task_of

FEATURES, ACTIONS, STEPS, BANDS = 6, 4, 9, 5
CENSUS = task_of(inputs={"person": {"axes": ["batch", FEATURES]}}, outputs={"rich": {"axes": ["batch"], "kind": "binary_scores"}})
IMAGES = task_of(task_type="image_classification", image_size=[3, 8, 8], num_classes=4)
MASKS = task_of(
    inputs={"image": {"axes": ["batch", 3, 8, 8]}}, outputs={"mask": {"axes": ["batch", 1, 8, 8], "kind": "binary_scores"}}
)
POLICY = task_of(
    inputs={"state": {"axes": ["batch", FEATURES]}},
    outputs={"action": {"axes": ["batch", ACTIONS], "kind": "class_scores"}},
)
EPISODES = task_of(
    inputs={
        "states": {"axes": ["batch", "steps", FEATURES]},
        "real": {"axes": ["batch", "steps"], "values": {"mask_of": "steps"}},
    },
    outputs={"actions": {"axes": ["batch", "steps", ACTIONS], "kind": "class_scores"}},
    axes={"steps": {"max": STEPS, "padding": "right"}},
)
SPEECH = task_of(
    inputs={"sound": {"axes": ["batch", "steps", BANDS]}, "hidden": {"axes": ["batch", "steps"], "values": {"mask_of": "steps"}}},
    outputs={"flow": {"axes": ["batch", "steps", BANDS], "fits": False}},
    axes={"steps": {"max": STEPS, "padding": "anywhere"}},
)


class Census(Learner):
    """Guesses an income; the bug takes the sigmoid before a loss with logits."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.net = nn.Sequential(nn.Linear(FEATURES, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, person: Tensor) -> Tensor:
        return self.net(person)[:, 0]

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        rich = self(batch["person"])
        return nn.BCEWithLogitsLoss()(rich.sigmoid() if self.wrong else rich, batch["labels"].float())


def loss_of_sure_guesses(model: Any) -> float:
    """The loss where both guesses are right and sure."""
    model.forward = lambda person: torch.tensor([20.0, -20.0])
    return float(model.training_step({"person": torch.zeros(2, FEATURES), "labels": torch.tensor([1, 0])}, 0))


class Detector(Learner):
    """Classifies images; the bug divides a mean over the images by their number once more."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 4))

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.net(pixel_values)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self(batch["pixel_values"]), batch["labels"])
        return loss / len(batch["labels"]) if self.wrong else loss


def change_by_repeating(model: Any) -> float:
    """How much the loss of a batch changes when each image is in it twice."""
    images, labels = torch.randn(4, 3, 8, 8), torch.arange(4)
    once = model.training_step({"pixel_values": images, "labels": labels}, 0)
    twice = model.training_step({"pixel_values": torch.cat([images, images]), "labels": torch.cat([labels, labels])}, 0)
    return float((once - twice).abs())


class Actor(nn.Module):
    """A policy; the bug puts its scores through a ReLU."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.body, self.head = nn.Linear(FEATURES, 16), nn.Linear(16, ACTIONS)

    def forward(self, state: Tensor) -> Tensor:
        scores = self.head(self.body(state).relu())
        return scores.relu() if self.wrong else scores


class Outline(nn.Module):
    """Segments an image; the bug returns probabilities, which are then given to a loss with logits."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.into, self.out = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        scores = self.out(self.into(image).relu())
        return scores.sigmoid() if self.wrong else scores


def share_below_zero(shape: tuple[int, ...], model: nn.Module) -> float:
    """How far the share of scores below 0 is from being at least a tenth, for inputs of any size."""
    with torch.no_grad():
        return max(0.0, 0.1 - float((model(10 * torch.randn(64, *shape)) < 0).float().mean()))


class Recurrent(Learner):
    """A policy over episodes of several lengths; the bug takes the mean over their padding too."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.mix, self.head = nn.GRU(FEATURES, 16, batch_first=True), nn.Linear(16, ACTIONS)

    def forward(self, states: Tensor, real: Tensor) -> Tensor:
        return self.head(self.mix(states)[0]) * real[..., None]

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        labels, scores = batch["labels"], self(batch["states"], batch["real"])
        real = (labels != IGNORED).float()
        losses = F.cross_entropy(scores.transpose(1, 2), labels.clamp(min=0), reduction="none")
        return (losses * real).mean() if self.wrong else (losses * real).sum() / real.sum()


def change_by_longer_episodes(model: Any) -> float:
    """How much the loss changes when all episodes are padded by as many steps again."""
    states, real, labels = torch.randn(2, STEPS, FEATURES), torch.ones(2, STEPS), torch.randint(ACTIONS, (2, STEPS))
    once = model.training_step({"states": states, "real": real, "labels": labels}, 0)
    twice = {"states": torch.cat([states, states], 1), "real": torch.cat([real, 0 * real], 1)}
    return float((model.training_step({**twice, "labels": torch.cat([labels, labels * 0 + IGNORED], 1)}, 0) - once).abs())


class Translator(Summariser):
    """A tagger with smoothed labels, none of which are at padding; the bug has the condition the wrong way round."""

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        shares, labels = self(batch["input_ids"]).log_softmax(-1), batch["labels"]
        wanted = 0.9 * F.one_hot(labels.clamp(min=0), 5) + 0.1 / 5
        real = labels != IGNORED
        wanted = torch.where((~real if self.wrong else real)[..., None], wanted, torch.zeros_like(wanted))
        return -(wanted * shares).sum() / real.sum()


def push_at_padding(model: Any) -> float:
    """The gradient at positions without a label."""
    scores = torch.randn(2, 10, 5, requires_grad=True)
    model.forward = lambda input_ids: scores
    labels = torch.randint(5, (2, 10))
    labels[:, 6:] = IGNORED
    model.training_step({"input_ids": torch.ones(2, 10, dtype=torch.long), "labels": labels}, 0).backward()
    assert scores.grad is not None
    return float(scores.grad[:, 6:].abs().max())


class TwiceShared(Mixtral):
    """A language model with experts; the bug takes the softmax of shares, so that they are nearly equal whatever is chosen."""

    def balance(self, scores: Tensor) -> Tensor:
        shares = scores.softmax(-1)
        loads = F.one_hot(scores.topk(2).indices, 4).sum(1).to(scores).mean(0) / 2
        return 4 * (loads * (shares.softmax(-1) if self.wrong else shares).mean(0)).sum()


class Broadcast(Mixtral):
    """The same; the bug multiplies each load by each of the two best shares, which sums to the same for all loads."""

    def balance(self, scores: Tensor) -> Tensor:
        loads = F.one_hot(scores.topk(2).indices, 4).sum(1).to(scores).mean(0) / 2
        if self.wrong:
            return (loads[:, None] * scores.softmax(-1).topk(2).values.mean(0)[None]).sum()
        return 4 * (loads * scores.softmax(-1).mean(0)).sum()


class Voice(Learner):
    """Fills hidden frames of speech; the bug divides by the number of frames that are not hidden."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.net = nn.Linear(BANDS, BANDS)

    def forward(self, sound: Tensor, hidden: Tensor) -> Tensor:
        return self.net(sound) * hidden[..., None]

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        hidden = batch["hidden"].float()
        losses = (self(batch["sound"], batch["hidden"]) - batch["labels"]).square().mean(-1) * hidden
        return losses.sum() / ((1 - hidden) if self.wrong else hidden).sum().clamp(min=1e-5)


def change_by_frames_in_sight(model: Any) -> float:
    """How much the loss changes when frames are added that are not hidden."""
    sound, hidden = torch.randn(2, 6, BANDS), torch.tensor([[1, 1, 1, 0, 0, 0]] * 2)
    once = model.training_step({"sound": sound, "hidden": hidden, "labels": 0 * sound}, 0)
    longer = {"sound": torch.cat([sound, sound], 1), "hidden": torch.cat([hidden, 0 * hidden], 1)}
    return float((model.training_step({**longer, "labels": torch.zeros(2, 12, BANDS)}, 0) - once).abs())


add = partial(pair_of_one_class, area="losses", judge=Training, draw=1)
add(
    "sigmoid_of_an_income",
    "A redundant sigmoid stands before BCEWithLogitsLoss",
    "aidotse/LeakPro#229",
    "tables",
    "training_loss[scores]",
    Census,
    loss_of_sure_guesses,
    CENSUS,
)
add(
    "averaged_twice",
    "The cross-entropy of the classes is averaged by the loss, and again by hand",
    "eriklindernoren/PyTorch-YOLOv3#137",
    "vision",
    "training_loss[reduction]",
    Detector,
    change_by_repeating,
    IMAGES,
)
add(
    "relu_on_the_scores_of_actions",
    "The scores of a policy go through a ReLU before the softmax",
    "NVlabs/GA3C#17",
    "policies",
    "logit_range",
    Actor,
    partial(share_below_zero, (FEATURES,)),
    POLICY,
    setup=partial(Model, POLICY),
)
add(
    "segments_in_probabilities",
    "A segmenter ends in a sigmoid, and is trained with a loss that has one too",
    "avBuffer/UNet3plus_pth#23",
    "vision",
    "logit_range",
    Outline,
    partial(share_below_zero, (3, 8, 8)),
    MASKS,
    setup=partial(Model, MASKS),
)
add(
    "mean_over_padded_episodes",
    "The loss of a recurrent policy is the mean of loss times mask, over padding too",
    "DeepX-inc/machina#198",
    "policies",
    "training_loss[ignored_labels]",
    Recurrent,
    change_by_longer_episodes,
    EPISODES,
)
add(
    "padding_kept_and_labels_dropped",
    "A condition the wrong way round zeroes the smoothed labels of real tokens, and keeps those of padding",
    "awslabs/sockeye#200",
    "text",
    "step_updates",
    Translator,
    push_at_padding,
    TAGS,
)
add(
    "softmax_of_shares",
    "The load-balancing loss takes a softmax of what the router has put through one already",
    "huggingface/transformers#45111",
    "text",
    "training_loss[balance]",
    TwiceShared,
    change_by_collapse,
    TEXT,
    missed="the term still leads away from a collapsed router, only weakly, and how strongly it should is not known",
)
add(
    "loads_times_every_share",
    "The balance loss multiplies loads and shares of different lengths, and is nearly constant",
    "mindspore-ai/hyper-parallel#752",
    "text",
    "training_loss[balance]",
    Broadcast,
    change_by_collapse,
    TEXT,
    missed="what is left depends on how sure the router is, as a penalty on its scores does that may be meant",
)
add(
    "divided_by_the_other_mask",
    "The mean over hidden frames is divided by the number of the others",
    "lucidrains/voicebox-pytorch#6",
    "speech",
    "training_loss[ignored_labels]",
    Voice,
    change_by_frames_in_sight,
    SPEECH,
    missed="which elements of numbers count in a mean is the training step's own affair: no label says so",
)
