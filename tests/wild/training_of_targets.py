"""Reported bugs of modes, and of what is frozen or copied: the ninth draw."""

from __future__ import annotations

import copy
from functools import partial
from types import SimpleNamespace
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.evidence import Status
from tests.planted_bugs.setups import Model
from tests.planted_bugs.tier3.training import Training

from .optimisation_steps import Trained
from .register import FirstRun, pair_of_one_class, task_of

BANDS, FRAMES, LETTERS, SEEN, ACTIONS, WIDTH, CLASSES = 6, 12, 5, 7, 4, 12, 4
SPEECH = task_of(
    inputs={"bands": {"axes": ["batch", "frames", BANDS]}, "lengths": {"axes": ["batch"], "values": {"lengths_of": "frames"}}},
    outputs={"letters": {"axes": ["batch", "frames", LETTERS], "kind": "class_scores"}},
    axes={"frames": {"max": FRAMES, "padding": "right"}},
)
CLIPS = task_of(
    inputs={"bands": {"axes": ["batch", FRAMES, BANDS]}},
    outputs={"letters": {"axes": ["batch", FRAMES, LETTERS], "kind": "class_scores"}},
)
OBSERVED = task_of(
    inputs={"obs": {"axes": ["batch", SEEN]}, "weights": {"axes": ["batch", 2]}},
    outputs={"q": {"axes": ["batch", ACTIONS], "kind": "values"}},
)
STATES = task_of(inputs={"obs": {"axes": ["batch", SEEN]}}, outputs={"q": {"axes": ["batch", ACTIONS], "kind": "values"}})
IMAGES = task_of(task_type="image_classification", image_size=[3, 8, 8], num_classes=CLASSES)


class DeepSpeech(nn.Module):
    """Letters of a clip; the bug writes a text in whatever mode the model is."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.conv = nn.Sequential(nn.Conv1d(BANDS, WIDTH, 3, padding=1), nn.BatchNorm1d(WIDTH), nn.Hardtanh())
        self.rnn, self.dropout, self.fc = nn.GRU(WIDTH, WIDTH, batch_first=True), nn.Dropout(0.4), nn.Linear(WIDTH, LETTERS)

    def forward(self, bands: Tensor) -> Tensor:
        return self.fc(self.dropout(self.rnn(self.conv(bands.transpose(1, 2)).transpose(1, 2))[0]))

    @torch.no_grad()
    def transcribe(self, bands: Tensor) -> list[str]:
        training = self.training
        if not self.wrong:
            self.eval()
        letters = self(bands).argmax(-1).tolist()
        self.train(training)
        return ["".join("_abcd"[letter] for letter in row) for row in letters]


def other_text_the_second_time(model: Any) -> float:
    """The share of clips that a model in train mode writes in another way the second time."""
    bands = torch.randn(8, FRAMES, BANDS)
    first, second = (model.train().transcribe(bands) for _ in range(2))
    return sum(a != b for a, b in zip(first, second, strict=True)) / 8


class TDNN(nn.Module):
    """A layer over time with a norm over the batch; the bug lets the norm count what only fills rows up."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.tdnn, self.batchnorm, self.out = (
            nn.Conv1d(BANDS, WIDTH, 3, padding=1),
            nn.BatchNorm1d(WIDTH),
            nn.Linear(WIDTH, LETTERS),
        )

    def forward(self, bands: Tensor, lengths: Tensor) -> Tensor:
        real = torch.arange(bands.shape[1], device=bands.device) < lengths[:, None]
        x = self.tdnn((bands * real[..., None]).transpose(1, 2)).transpose(1, 2)
        if self.wrong:
            x = self.batchnorm(x.transpose(1, 2)).transpose(1, 2)
        else:
            normed = torch.zeros_like(x)
            normed[real] = self.batchnorm(x[real])
            x = normed
        return self.out(x.relu() * real[..., None])


@torch.no_grad()
def change_by_filling_up(model: nn.Module) -> float:
    """How far real frames change in train mode when all rows are filled up with four more."""
    bands, lengths = torch.randn(3, 8, BANDS), torch.tensor([8, 7, 5])
    before = model.train()(bands, lengths)
    after = model.train()(F.pad(bands, (0, 0, 0, 4)), lengths)[:, :8]
    return float((after - before)[torch.arange(8) < lengths[:, None]].abs().max())


class Preferences(nn.Module):
    """Values of actions under weights of several goals, with dropout; the bug keeps it on where actions are chosen for an evaluation."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.drop_rate = wrong, 0.3
        self.obs, self.goals, self.hidden, self.q = (
            nn.Linear(SEEN, WIDTH),
            nn.Linear(2, WIDTH),
            nn.Linear(WIDTH, WIDTH),
            nn.Linear(WIDTH, ACTIONS),
        )

    def forward(self, obs: Tensor, weights: Tensor) -> Tensor:
        x = F.dropout(self.obs(obs).relu() * self.goals(weights), self.drop_rate, self.training)
        return self.q(F.dropout(self.hidden(x).relu(), self.drop_rate, self.training))

    @torch.no_grad()
    def max_action(self, obs: Tensor, weights: Tensor) -> Tensor:
        was = self.training
        if not self.wrong:
            self.train(False)
        action = self(obs, weights).argmax(-1)
        self.train(was)
        return action


def other_action_the_second_time(model: Any) -> float:
    """The share of actions that a model in train mode chooses otherwise the second time."""
    inputs = torch.randn(200, SEEN), torch.randn(200, 2)
    first, second = (model.train().max_action(*inputs) for _ in range(2))
    return float((first != second).double().mean())


class QMix(lightning.LightningModule):
    """Values with a target network that is a copy from time to time; the bug copies the target into itself."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.eval_net = nn.Sequential(nn.Linear(SEEN, WIDTH), nn.Tanh(), nn.Linear(WIDTH, ACTIONS))
        self.target_net = copy.deepcopy(self.eval_net).requires_grad_(False)

    def forward(self, obs: Tensor) -> Tensor:
        return self.eval_net(obs)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        following = self.target_net(batch["obs"].flip(1)).detach()
        return F.mse_loss(self(batch["obs"]), batch["labels"] + 0.3 * following)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx % 2 == 1:
            self.target_net.load_state_dict((self.target_net if self.wrong else self.eval_net).state_dict())

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.eval_net.parameters(), lr=5e-3)


def target_left_behind(model: Any) -> float:
    """How far the target is from what it shall be a copy of, where it was just copied."""
    with torch.no_grad():
        for each in model.eval_net.parameters():
            each.add_(0.5)
    model.on_train_batch_end(None, None, 1)
    pairs = zip(model.target_net.parameters(), model.eval_net.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


class FineTuned(Trained):
    """A detector that is told to leave its encoder as it is when a training begins; the bug looks at that only where the model is built."""

    def __init__(self, wrong: bool = False, freeze_encoder: bool = False) -> None:
        super().__init__(wrong)
        self.encoder = nn.Sequential(nn.Conv2d(3, WIDTH, 3, 2), nn.ReLU(), nn.Flatten())
        self.head = nn.Linear(9 * WIDTH, CLASSES)
        if freeze_encoder:
            self.encoder.requires_grad_(False)
        self.train_config = SimpleNamespace(freeze_encoder=True, lr=3e-3)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.head(self.encoder(pixel_values))

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(self(batch["pixel_values"]), batch["labels"])

    def configure_optimizers(self) -> Any:
        if self.train_config.freeze_encoder and not self.wrong:
            self.encoder.requires_grad_(False)
        trained = [each for each in self.parameters() if each.requires_grad]
        return torch.optim.AdamW(trained, lr=self.train_config.lr)


def trained_though_frozen(model: Any) -> float:
    """How many tensors of the encoder an optimizer has that was told to leave them as they are."""
    held = {id(each) for group in model.configure_optimizers().param_groups for each in group["params"]}
    return float(sum(id(each) in held for each in model.encoder.parameters()))


add = partial(pair_of_one_class, draw=9, long=True)
WARNS: dict[str, Any] = {"status": Status.WARN}
add(
    "transcribed_in_train_mode",
    "Texts are written with dropout and with the statistics of the batch",
    "SeanNaren/deepspeech.pytorch#22",
    "speech",
    "train_mode[own_answers]",
    DeepSpeech,
    other_text_the_second_time,
    CLIPS,
    judge=Model,
    area="train_mode",
    or_tests=("eval_deterministic",),
    line="def transcribe",
    **WARNS,
    first_run=FirstRun("c9711093", found=False, named=False, said="skipped: transcribe is not known as a method that answers"),
)
add(
    "batch_norm_over_filled_rows",
    "The batch norm of a recogniser counts what fills rows up",
    "freewym/espresso#46",
    "speech",
    "train_mode[padding]",
    TDNN,
    change_by_filling_up,
    SPEECH,
    judge=Model,
    area="train_mode",
    module="batchnorm",
    **WARNS,
    first_run=FirstRun("c9711093", found=True, named=True, said="train_mode[padding] warns of batchnorm"),
)
add(
    "actions_chosen_with_dropout",
    "Actions are chosen with dropout in an evaluation",
    "LucasAlegre/morl-baselines#90",
    "policies",
    "train_mode[own_answers]",
    Preferences,
    other_action_the_second_time,
    OBSERVED,
    judge=Model,
    area="train_mode",
    or_tests=("eval_deterministic",),
    line="def max_action",
    **WARNS,
    first_run=FirstRun("c9711093", found=False, named=False, said="skipped: max_action is not known as a method that answers"),
    long=False,
)
add(
    "target_copied_into_itself",
    "The target network is given its own weights, and never follows",
    "thesouther/MARL#8",
    "policies",
    "averaged_weights",
    QMix,
    target_left_behind,
    STATES,
    judge=Training,
    area="state",
    or_tests=("step_updates",),
    line="load_state_dict((self.target_net",
    **WARNS,
    first_run=FirstRun("c9711093", found=False, named=False, said="skipped: no frozen part moves"),
)
add(
    "freezing_of_a_training_unread",
    "That the encoder shall be frozen is read when the model is built, and not when it is said to the training",
    "roboflow/rf-detr#357",
    "vision",
    "step_updates",
    FineTuned,
    trained_though_frozen,
    IMAGES,
    judge=Training,
    area="state",
    or_tests=("optimizer_coverage",),
    module="encoder",
    **WARNS,
    first_run=FirstRun("c9711093", found=False, named=False, said="nothing: what a setting means is not asked"),
)
