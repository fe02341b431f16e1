"""Models that train another function than they evaluate, or another one after an eval pass, with padding, or with checkpointing."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from harness.evidence import Status

from .declared import SCORES, Keys, plant_declared

TABLE: Keys = {"inputs": {"features": {"axes": ["batch", 6]}}, "outputs": SCORES}


class Gated(nn.Module):
    """A gate between two layers; the bug leaves its scale out when the model is evaluated."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.enter, self.leave, self.drop = nn.Linear(6, 12), nn.Linear(12, 4), nn.Dropout(0.2)

    def forward(self, features: Tensor) -> Tensor:
        hidden = self.drop(self.enter(features).tanh())
        return self.leave(hidden if self.wrong and not self.training else 0.5 * hidden)


class GatedByFunctions(Gated):
    """The same, with functions of dropout whose rates are numbers in the code."""

    def forward(self, features: Tensor) -> Tensor:
        hidden = F.dropout(self.enter(features).tanh(), 0.2, self.training)
        query = hidden.unflatten(1, (3, 4))
        rate = 0.1 if self.training else 0.0
        hidden = hidden + F.scaled_dot_product_attention(query, query, query, dropout_p=rate).flatten(1)
        return self.leave(hidden if self.wrong and not self.training else 0.5 * hidden)


class Latent(nn.Module):
    """A latent that scatters in training; the bug answers by its mean and one deviation."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.enter, self.leave = nn.Linear(6, 24), nn.Linear(12, 4)

    def forward(self, features: Tensor) -> Tensor:
        mean, spread = self.enter(features).chunk(2, 1)
        deviation = F.softplus(spread)
        noise = torch.randn_like(mean) if self.training else torch.full_like(mean, float(self.wrong))
        return self.leave(mean + deviation * noise)


class LogNormal(Latent):
    """Sound: in eval mode it answers by the mean of what it draws, which is not what it gives at the mean of the noise."""

    def forward(self, features: Tensor) -> Tensor:
        mean = self.enter(features)[:, :12].tanh()
        noise = torch.randn_like(mean) if self.training else torch.full_like(mean, 0.125 + self.wrong)
        return self.leave((mean + 0.5 * noise).exp() if self.training else (mean + noise).exp())


def stops_dropping(model: nn.Module, _given: Any, _output: Tensor) -> None:
    """A hook that is meant for one evaluation."""
    if not model.training:
        model.rate = 0.0  # type: ignore[assignment]


def shrinks(model: nn.Module, _given: Any, _output: Tensor) -> None:
    """A hook that takes each call for a step of training."""
    model.leave.weight.data.mul_(0.9)  # type: ignore[union-attr, operator]


class Reminded(nn.Module):
    """Drops features; the bugs drop none any more, or train less, once the model was evaluated."""

    def __init__(self, wrong: str = "") -> None:
        super().__init__()
        self.wrong, self.rate = wrong, 0.3
        self.kept: Tensor | None = None
        self.enter, self.leave = nn.Linear(6, 12), nn.Linear(12, 4)
        if wrong in ("stops_dropping", "shrinks"):
            self.register_forward_hook(stops_dropping if wrong == "stops_dropping" else shrinks)

    def forward(self, features: Tensor) -> Tensor:
        if not self.training and self.wrong == "rate":
            self.rate = 0.0
        if not self.training and self.wrong == "freeze":
            self.enter.requires_grad_(False)
        bias = self.enter.bias if self.kept is None else self.kept
        if self.wrong == "kept" and not self.training:
            self.kept = bias * 1.0
        hidden = F.dropout(F.linear(features, self.enter.weight, bias).relu(), self.rate, self.training)
        return self.leave(hidden)


class Weighted(nn.Module):
    """Drops units as the first paper on dropout did, which weights in eval mode; the bug weights in train mode too."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.drop_rate = wrong, 0.3
        self.enter, self.leave = nn.Linear(6, 12), nn.Linear(12, 4)

    def forward(self, features: Tensor) -> Tensor:
        hidden, kept = self.enter(features).relu(), 1 - self.drop_rate
        if not self.training:
            return self.leave(kept * hidden)
        dropped = hidden * (torch.rand_like(hidden) < kept) if self.drop_rate else hidden
        return self.leave(dropped / kept if self.wrong else dropped)


class Unmoved(nn.Module):
    """A batch norm between two layers; the bug counts momentum as other libraries do."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.enter, self.norm, self.leave = (
            nn.Linear(6, 12),
            nn.BatchNorm1d(12, momentum=0.0 if wrong else 0.01),
            nn.Linear(12, 4),
        )

    def forward(self, features: Tensor) -> Tensor:
        return self.leave(self.norm(self.enter(features)).relu())


class OwnNorm(nn.Module):
    """A batch norm; the bug keeps the deviation and reads it as a variance."""

    def __init__(self, width: int, wrong: bool) -> None:
        super().__init__()
        self.wrong = wrong
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("square", torch.ones(width))

    def forward(self, rows: Tensor) -> Tensor:
        mean, square = self.mean, self.square
        if self.training:
            mean, square = rows.mean(0), rows.var(0, unbiased=False)
            self.mean = 0.9 * self.mean + 0.1 * mean.detach()
            self.square = 0.9 * self.square + 0.1 * (square.sqrt() if self.wrong else square).detach()
        return (rows - mean) / (square + 1e-5).sqrt()


class Normed(nn.Module):
    """A perceptron of large features with its own norm."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.norm, self.enter, self.leave = OwnNorm(6, wrong), nn.Linear(6, 12), nn.Linear(12, 4)

    def forward(self, features: Tensor) -> Tensor:
        return self.leave(self.enter(self.norm(20 * features)).tanh())


SPEECH: Keys = {
    "inputs": {"audio": {"axes": ["batch", "time", 5]}, "lengths": {"axes": ["batch"], "values": {"lengths_of": "time"}}},
    "outputs": {"phones": {"axes": ["batch", "time", 4], "kind": "class_scores"}},
    "axes": {"time": {"min": 2, "max": 20, "padding": "right"}},
}


class RealNorm(nn.Module):
    """A batch norm of the real frames; the bug counts the others too."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong = wrong
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("square", torch.ones(8))

    def forward(self, frames: Tensor, real: Tensor) -> Tensor:
        mean, square = self.mean, self.square
        if self.training:
            counted = frames.flatten(0, 1) if self.wrong else frames[real]
            mean, square = counted.mean(0), (counted - counted.mean(0)).square().mean(0)
            self.mean, self.square = 0.9 * self.mean + 0.1 * mean.detach(), 0.9 * self.square + 0.1 * square.detach()
        return (frames - mean) / (square + 1e-3).sqrt()


class Recogniser(nn.Module):
    """Scores of phones for each frame, by a norm over the batch of one kind or another."""

    def __init__(self, wrong: str = "") -> None:
        super().__init__()
        self.wrong = wrong
        self.enter, self.leave = nn.Linear(5, 8), nn.Linear(8, 4)
        self.norm: Any = nn.BatchNorm1d(8) if wrong == "plain" else RealNorm(wrong == "counted")

    def forward(self, audio: Tensor, lengths: Tensor) -> Tensor:
        real = torch.arange(audio.shape[1], device=audio.device) < lengths[:, None]
        hidden = self.enter(audio)
        if self.wrong == "plain":
            return self.leave(self.norm(hidden.transpose(1, 2)).transpose(1, 2))
        return self.leave(self.norm(hidden, real))


class Block(nn.Module):
    """A residual layer with dropout and a scale that is given beside its input."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.drop = nn.Linear(12, 12), nn.Dropout(0.2)

    def forward(self, hidden: Tensor, scale: Tensor | None = None) -> Tensor:
        inner = self.drop(self.inner(hidden).tanh())
        return hidden + (inner if scale is None else scale * inner)


class Checkpointed(nn.Module):
    """Two blocks that can be computed again in the backward pass; each bug is another way to do that wrong."""

    def __init__(self, wrong: str = "") -> None:
        super().__init__()
        self.wrong, self.use_checkpoint = wrong, wrong == "norm"
        self.enter, self.leave = nn.Linear(6, 12), nn.Linear(12, 4)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.norm = nn.BatchNorm1d(12)
        if wrong == "reentrant":
            self.enter.requires_grad_(False)

    def forward(self, features: Tensor) -> Tensor:
        hidden = self.enter(features)
        scale = features.abs().mean(1, keepdim=True)
        for block in self.blocks:
            if not (self.use_checkpoint and self.training):
                hidden = block(hidden, scale)
            elif self.wrong == "argument":
                hidden = checkpoint(block, hidden, use_reentrant=False)
            else:
                kept = self.wrong != "masks"
                hidden = checkpoint(block, hidden, scale, use_reentrant=self.wrong == "reentrant", preserve_rng_state=kept)
        if self.use_checkpoint and self.wrong == "norm":
            return self.leave(checkpoint(self.norm, hidden, use_reentrant=False))
        return self.leave(self.norm(hidden))


class PartByItself(Checkpointed):
    """A part of a model of diffusers: what switches the whole on gives each part the function that calls its blocks."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.is_wrong, self.gradient_checkpointing = wrong, False
        del self.use_checkpoint, self.norm

    def forward(self, features: Tensor) -> Tensor:
        hidden = self.enter(features)
        scale = features.abs().mean(1, keepdim=True)
        for block in self.blocks:
            if self.gradient_checkpointing and self.training:
                hidden = self._gradient_checkpointing_func(block, hidden, *([] if self.is_wrong else [scale]))  # type: ignore[operator]
            else:
                hidden = block(hidden, scale)
        return self.leave(hidden)


for name, model in (("one_deviation_in_eval_mode", Latent), ("another_mean_in_eval_mode", LogNormal)):
    plant_declared(name, model, TABLE, "train_mode[equals_eval]", source="MONAI#8933", status=Status.WARN)
for name, model in (("scaled_in_train_mode_only", Gated), ("scaled_beside_functions_of_dropout", GatedByFunctions)):
    plant_declared(name, model, TABLE, "train_mode[equals_eval]", source="PyTorch forums")
plant_declared(
    "statistics_with_momentum_zero",
    Unmoved,
    TABLE,
    "train_mode[statistics]",
    module="norm",
    code="statistics_never_move",
    source="svishwa/crowdcount-mcnn, issue 64",
)
plant_declared(
    "weighted_in_both_modes", Weighted, TABLE, "train_mode[equals_eval]", source="CSTR-Edinburgh/mlpractical, pull request 32"
)
plant_declared(
    "deviation_kept_for_a_variance",
    Normed,
    TABLE,
    "train_mode[statistics]",
    module="norm",
    code="statistics_lead_elsewhere",
    source="PyTorch forums, batch norm by hand",
)
for _name, _wrong in (("rate_zero_for_good", "rate"), ("frozen_by_evaluation", "freeze"), ("kept_from_evaluation", "kept")):
    plant_declared(_name, Reminded, TABLE, "train_mode[after_eval]", wrong=_wrong, source="NVIDIA/Megatron-LM, pull request 411")
for _wrong, _test in (("stops_dropping", "train_mode[after_eval]"), ("shrinks", "stateless")):
    plant_declared(f"hook_{_wrong}", Reminded, TABLE, _test, wrong=_wrong, source="PyTorch documentation, register_forward_hook")
plant_declared(
    "norm_counts_padding",
    Recogniser,
    SPEECH,
    "train_mode[padding]",
    wrong="counted",
    module="norm",
    code="reads_padding_in_training",
    source="pytorch/pytorch, issue 70529",
)
plant_declared(
    "plain_norm_over_padding",
    Recogniser,
    SPEECH,
    "train_mode[padding]",
    wrong="plain",
    module="norm",
    code="padding_in_statistics",
    status=Status.WARN,
    source="pytorch/pytorch, issue 70529",
)
for _wrong, _module, _code in (
    ("masks", "blocks", "gradient_differs"),
    ("argument", "", "loss_differs"),
    ("reentrant", "blocks", "no_gradient"),
):
    plant_declared(
        f"checkpointed_{_wrong}",
        Checkpointed,
        TABLE,
        "train_mode[checkpointing]",
        wrong=_wrong,
        module=_module,
        code=_code,
        source="PyTorch documentation of torch.utils.checkpoint",
    )
plant_declared(
    "checkpointed_norm",
    Checkpointed,
    TABLE,
    "train_mode[checkpointing]",
    wrong="norm",
    module="norm",
    code="statistics_updated_twice",
    status=Status.WARN,
    source="pytorch/pytorch, issue 96136",
)


plant_declared(
    "checkpointed_part_by_itself",
    PartByItself,
    TABLE,
    "train_mode[checkpointing]",
    code="loss_differs",
    source="diffusers, ModelMixin.enable_gradient_checkpointing",
)


class Texts(nn.Module):
    """A tagger with attention; the bugs make its mask from the ids, whatever mask it is given, or never train the end of a text."""

    def __init__(self, wrong: bool | str = False) -> None:
        super().__init__()
        self.wrong, self.eos_token_id = wrong is True, 0
        self.words = nn.Embedding(20, 12, padding_idx=0 if wrong == "end" else None)
        self.attention, self.head = nn.MultiheadAttention(12, 2, batch_first=True), nn.Linear(12, 4)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = attention_mask == 0
        if self.wrong:
            hidden = hidden | (input_ids == 0)
        words = self.words(input_ids)
        return self.head(words + self.attention(words, words, words, key_padding_mask=hidden, need_weights=False)[0])


TAGGED: Keys = {
    "inputs": {
        "input_ids": {"axes": ["batch", "time"], "values": {"ids": 20, "pad": 0}},
        "attention_mask": {"axes": ["batch", "time"], "values": {"mask_of": "time"}},
    },
    "outputs": {"tags": {"axes": ["batch", "time", 4], "kind": "class_scores"}},
    "axes": {"time": {"min": 2, "max": 12, "padding": "right"}},
}
plant_declared(
    "mask_made_from_the_ids",
    Texts,
    TAGGED,
    "rare_contents[padding_id]",
    code="real_token_taken_for_padding",
    status=Status.WARN,
    source="Hugging Face forum, padding with the id of the end of a text",
)
plant_declared(
    "end_of_text_has_the_row_of_padding",
    Texts,
    TAGGED,
    "rare_contents[padding_id]",
    wrong="end",
    module="words",
    code="end_token_never_trained",
    status=Status.WARN,
    source="PyTorch documentation, Embedding: the row of padding_idx gets no gradient",
)


class Series(nn.Module):
    """A forecast of a series that is scaled first; the bug scales it back by nothing where the series is flat."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.enter, self.leave = nn.Linear(8, 12), nn.Linear(12, 3)

    def forward(self, series: Tensor) -> Tensor:
        centre, scale = series.mean(1, keepdim=True), series.var(1, keepdim=True, unbiased=False)
        guarded = (scale + 1e-5).sqrt()
        forecast = self.leave(self.enter((series - centre) / guarded).tanh())
        return centre + forecast * (scale.clamp(min=1e-30).sqrt() if self.wrong else guarded)


plant_declared(
    "flat_series_scaled_to_nothing",
    Series,
    {"inputs": {"series": {"axes": ["batch", 8]}}, "outputs": {"forecast": {"axes": ["batch", 3]}}},
    "rare_contents[flat_rows]",
    code="flat_rows_teach_nothing",
    source="google-research/timesfm, issue 522",
)


class Deep(nn.Module):
    """Twelve residual layers; the bug draws their weights without regard to how many inputs they have."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 64), nn.Linear(64, 4)
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(12))
        for layer in self.layers if wrong else ():
            nn.init.normal_(layer.weight)

    def forward(self, features: Tensor) -> Tensor:
        hidden = self.enter(features)
        for layer in self.layers:
            hidden = hidden + 0.5 * layer(hidden)
        return self.leave(hidden / hidden.square().mean(1, keepdim=True).sqrt())


plant_declared(
    "weights_without_regard_to_width",
    Deep,
    TABLE,
    "initialisation[depth]",
    module="layers",
    code="changes_scale_with_depth",
    status=Status.WARN,
    also=("initialisation[scale]",),
    source="PyTorch forums",
)


class Masked(nn.Module):
    """Some of what is heard is hidden at random in training; the bug halves the rest there too."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.mask_time_prob = wrong, 0.2
        self.hear, self.head = nn.Linear(6, 16), nn.Linear(16, 4)

    def forward(self, features: Tensor) -> Tensor:
        heard = self.hear(features).tanh()
        if self.training and self.mask_time_prob > 0:
            heard = heard * (torch.rand_like(heard) >= self.mask_time_prob)
        if self.training and self.wrong:
            heard = heard / 2
        return self.head(heard)


plant_declared(
    "halved_beside_masks_of_training",
    Masked,
    TABLE,
    "train_mode[equals_eval]",
    source="Park et al. 2019, SpecAugment; wav2vec 2.0 masks in training only",
)


class Tower(nn.Module):
    """Twelve layers with an activation behind each; that of the bug passes little of a gradient on."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        act = nn.Sigmoid if wrong else nn.Tanh
        middle = (layer for _ in range(12) for layer in (act(), nn.Linear(32, 32)))
        self.layers = nn.Sequential(nn.Linear(6, 32), *middle, act(), nn.Linear(32, 4))

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features)


plant_declared(
    "gradients_that_fade_with_depth",
    Tower,
    TABLE,
    "initialisation[depth]",
    module="layers",
    code="changes_scale_with_depth",
    status=Status.WARN,
    also=("initialisation[scale]",),
    source="Glorot and Bengio 2010: Understanding the difficulty of training deep feedforward neural networks",
)


class Unrolled(nn.Module):
    """A recurrent layer without gates; the bug draws a recurrent matrix that makes the state larger with every step."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.enter, self.again, self.leave = nn.Linear(3, 16), nn.Linear(16, 16, bias=False), nn.Linear(16, 2)
        nn.init.orthogonal_(self.again.weight, gain=2.5 if wrong else 0.9)

    def forward(self, series: Tensor) -> Tensor:
        inputs, state, states = self.enter(series), series.new_zeros(len(series), 16), list[Tensor]()
        for step in range(series.shape[1]):
            state = inputs[:, step] + self.again(state)
            states.append(state)
        return self.leave(torch.stack(states, 1))


plant_declared(
    "recurrent_matrix_too_large",
    Unrolled,
    {
        "inputs": {"series": {"axes": ["batch", "time", 3]}},
        "outputs": {"values": {"axes": ["batch", "time", 2]}},
        "axes": {"time": {"min": 2, "max": 24, "order": "causal"}},
    },
    "initialisation[time]",
    code="grows_over_time",
    status=Status.WARN,
    source="PyTorch forums",
)


class AtTimes(nn.Module):
    """Reads a time between 0 and 1; the bug makes a whole number of it, which is 0 but at the very end."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.enter, self.leave = wrong, nn.Linear(7, 12), nn.Linear(12, 4)

    def forward(self, features: Tensor, time: Tensor) -> Tensor:
        time = time.long().to(features) if self.wrong else time
        return self.leave(self.enter(torch.cat([features, time[:, None]], 1)).tanh())


plant_declared(
    "time_made_a_whole_number",
    AtTimes,
    {
        "inputs": {"features": {"axes": ["batch", 6]}, "time": {"axes": ["batch"], "values": {"range": [0.0, 1.0]}}},
        "outputs": SCORES,
    },
    "input_dependence[inputs]",
    code="ignored_input",
    source="diffusers#13669",
)
