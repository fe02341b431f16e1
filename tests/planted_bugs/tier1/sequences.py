"""Models of series, sounds and histories from many fields, declared by their signature; each has a bug that was reported of such a model."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from .declared import Keys, plant_declared


def real(lengths: Tensor, size: int) -> Tensor:
    """1 at real places, [batch, size]."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


class AutoCorrelation(nn.Module):
    """A series shifted by the delays at which it is most like itself; the bug chooses those of all rows of a batch together while it trains."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong = wrong
        self.query, self.key, self.value = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[1]
        spectrum = torch.fft.rfft(self.query(x), dim=1) * torch.fft.rfft(self.key(x), dim=1).conj()
        alike = torch.fft.irfft(spectrum, n=size, dim=1).mean(-1)
        if self.wrong and self.training:
            alike = alike.mean(0).expand_as(alike)
        delays = alike.topk(2, -1).indices
        shares = alike.gather(1, delays).softmax(-1)
        places = (torch.arange(size, device=x.device)[:, None] + delays[:, None]) % size
        shifted = self.value(x)[torch.arange(len(x), device=x.device)[:, None, None], places]
        return (shifted * shares[:, None, :, None]).sum(2)


class AutoFormer(nn.Module):
    """A forecast by such a layer."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.enter, self.correlation, self.head = nn.Linear(3, 8), AutoCorrelation(wrong), nn.Linear(8, 3)

    def forward(self, series: Tensor) -> Tensor:
        x = self.enter(series)
        return self.head(x + self.correlation(x))[:, -2:]


plant_declared(
    "delays_of_the_batch_in_training",
    AutoFormer,
    {
        "inputs": {"series": {"axes": ["batch", "time", 3]}},
        "outputs": {"forecast": {"axes": ["batch", 2, 3]}},
        "axes": {"time": {"min": 6, "max": 20}},
    },
    "train_mode[equals_eval]",
    module="correlation",
    source="thuml/Autoformer#167",
)


class Independent(nn.Module):
    """A forecast of each series by one network for all; the bug takes time for series."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.net = nn.Sequential(nn.Linear(12, 16), nn.GELU(), nn.Linear(16, 4))

    def forward(self, series: Tensor) -> Tensor:
        batch, time, count = series.shape
        rows = series.reshape(batch * count, time) if self.wrong else series.permute(0, 2, 1).reshape(batch * count, time)
        return self.net(rows).view(batch, count, 4).permute(0, 2, 1)


plant_declared(
    "series_taken_for_time",
    Independent,
    {
        "inputs": {"series": {"axes": ["batch", 12, "series"]}},
        "outputs": {"forecast": {"axes": ["batch", 4, "series"]}},
        "axes": {"series": {"min": 2, "max": 6, "order": "none"}},
    },
    "permutation",
    source="zamanzadeh/CARLA#16",
)


class History(nn.Module):
    """How likely an item is after a history of clicks; the bug divides by the length of the padded history."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.items, self.net = nn.Embedding(40, 8, padding_idx=0), nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, history: Tensor, length: Tensor, item: Tensor) -> Tensor:
        clicks = self.items(history) * real(length, history.shape[1])[..., None]
        count = history.shape[1] if self.wrong else length.clamp(min=1)[:, None]
        return self.net(torch.cat([clicks.sum(1) / count, self.items(item)], 1)).squeeze(1)


plant_declared(
    "history_divided_by_its_padded_length",
    History,
    {
        "inputs": {
            "history": {"axes": ["batch", "clicks"], "values": {"ids": 40, "pad": 0}},
            "length": {"axes": ["batch"], "values": {"lengths_of": "clicks"}},
            "item": {"axes": ["batch"], "values": {"ids": 40}},
        },
        "outputs": {"click": {"axes": ["batch"], "kind": "binary_scores"}},
        "axes": {"clicks": {"min": 1, "max": 10, "padding": "right"}},
    },
    "padding_ignored",
    source="mead-ml/mead-baseline#325",
)


class Matching(nn.Module):
    """Users and items in one space; the bug does not normalise the items."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.user, self.users = nn.Embedding(30, 8), nn.Linear(8, 8)
        self.item, self.items = nn.Embedding(50, 6), nn.Linear(8, 8)

    def forward(self, user: Tensor, item: Tensor, features: Tensor) -> dict[str, Tensor]:
        items = self.items(torch.cat([self.item(item), features], 1))
        return {
            "user": F.normalize(self.users(self.user(user)), dim=-1),
            "item": items if self.wrong else F.normalize(items, dim=-1),
        }


EMBEDDING = {"axes": ["batch", 8], "kind": "embedding", "norm": 1.0}
plant_declared(
    "one_tower_not_normalised",
    Matching,
    {
        "inputs": {
            "user": {"axes": ["batch"], "values": {"ids": 30}},
            "item": {"axes": ["batch"], "values": {"ids": 50}},
            "features": {"axes": ["batch", 2]},
        },
        "outputs": {"user": EMBEDDING, "item": EMBEDDING},
    },
    "declared_outputs",
    source="JDAI-CV/fast-reid#718",
)


class NextItem(nn.Module):
    """The next item of a session; the bug gives the attention a mask of numbers, which it adds."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.items, self.places = nn.Embedding(40, 8), nn.Embedding(12, 8)
        self.norm, self.attention = nn.LayerNorm(8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.feed = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))

    def forward(self, items: Tensor) -> Tensor:
        time = items.shape[1]
        x = self.items(items) * 8**0.5 + self.places(torch.arange(time, device=items.device))
        seen = torch.ones(time, time, dtype=torch.bool, device=items.device).tril()
        mask = seen.to(x.dtype) if self.wrong else ~seen
        x = x + self.attention(self.norm(x), x, x, attn_mask=mask, need_weights=False)[0]
        return F.layer_norm(x + self.feed(x), (8,)) @ self.items.weight.t() / 8**0.5


plant_declared(
    "mask_of_numbers_added",
    NextItem,
    {
        "inputs": {"items": {"axes": ["batch", "time"], "values": {"ids": 40}}},
        "outputs": {"next": {"axes": ["batch", "time", 40], "kind": "token_scores"}},
        "axes": {"time": {"min": 1, "max": 12, "order": "causal"}},
    },
    "causal",
    module="attention",
    source="pmixer/SASRec.pytorch#6",
)


class Transcriber(nn.Module):
    """Symbols along time; the bug normalises their scores along time."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.shorten, self.mix, self.head = nn.Conv1d(6, 8, 3, 2, 1), nn.Conv1d(8, 8, 3, padding=1), nn.Linear(8, 7)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        x = self.shorten(features.transpose(1, 2) * real(lengths, features.shape[1])[:, None]).relu()
        lengths = (lengths + 1) // 2
        x = self.mix(x * real(lengths, x.shape[2])[:, None]).relu()
        return self.head(x.transpose(1, 2)).log_softmax(1 if self.wrong else 2), lengths


AUDIO: Keys = {
    "features": {"axes": ["batch", "time", 6]},
    "lengths": {"axes": ["batch"], "values": {"lengths_of": "time"}},
}
plant_declared(
    "symbols_normalised_along_time",
    Transcriber,
    {
        "inputs": AUDIO,
        "outputs": {
            "symbols": {"axes": ["batch", "frames", 7], "kind": "ctc_scores"},
            "lengths": {"axes": ["batch"], "kind": "lengths", "of": "frames"},
        },
        "axes": {"time": {"min": 5, "max": 21, "padding": "right"}, "frames": {"from": "(time + 1) // 2"}},
    },
    "padding_ignored",
    source="ctallec/world-models#10, a softmax over another axis than that of the classes",
)


class StatisticsPooling(nn.Module):
    """Mean and deviation of real frames; the bug takes the deviation of all."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong = wrong

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        count = keep.sum(1)
        mean = (x * keep).sum(1) / count
        if self.wrong:
            return torch.cat([mean, (x.var(1, unbiased=False) + 1e-5).sqrt()], -1)
        variance = ((x - mean[:, None]).square() * keep).sum(1) / count
        return torch.cat([mean, (variance + 1e-5).sqrt()], -1)


class Speaker(nn.Module):
    """Whose voice it is."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.frames, self.pool, self.head = nn.Linear(6, 8), StatisticsPooling(wrong), nn.Linear(16, 8)

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        keep = real(lengths, features.shape[1])[..., None]
        return F.normalize(self.head(self.pool(self.frames(features).tanh(), keep)), dim=-1)


plant_declared(
    "deviation_of_padded_frames",
    Speaker,
    {
        "inputs": AUDIO,
        "outputs": {"speaker": EMBEDDING},
        "axes": {"time": {"min": 2, "max": 14, "padding": "right"}},
    },
    "padding_ignored",
    module="pool",
    source="NVIDIA-NeMo/Speech#5403",
)


class Streaming(nn.Module):
    """A causal convolution that goes on from the last frames of the call before; the bug keeps those one frame earlier."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.conv, self.head = nn.Conv1d(4, 8, 3), nn.Linear(8, 2)

    def forward(self, audio: Tensor, last: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if last is None:
            last = audio.new_zeros(len(audio), 2, 4)
        seen = torch.cat([last, audio], 1)
        kept = seen[:, -3:-1] if self.wrong else seen[:, -2:]
        return self.head(self.conv(seen.transpose(1, 2)).transpose(1, 2).relu()), kept


plant_declared(
    "kept_frames_one_too_early",
    Streaming,
    {
        "inputs": {
            "audio": {"axes": ["batch", "time", 4]},
            "last": {"axes": ["batch", 2, 4], "state": {"from": "last"}},
        },
        "outputs": {
            "speech": {"axes": ["batch", "time", 2], "kind": "class_scores"},
            "last": {"axes": ["batch", 2, 4], "kind": "state"},
        },
        "axes": {"time": {"min": 1, "max": 14, "order": "causal"}},
    },
    "carried_state[chunks]",
    line="kept = seen[:, -3:-1] if self.wrong",
    source="ASLP-lab/MeanVC2#7",
)


class Tags(nn.Module):
    """What is heard in a recording, weighted along time; the bug lets the weights of the tags add up to 1, not those of the frames."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.body, self.attention, self.tags = nn.Conv1d(6, 8, 3, padding=1), nn.Linear(8, 5), nn.Linear(8, 5)

    def forward(self, spectrogram: Tensor) -> Tensor:
        x = self.body(spectrogram).relu().transpose(1, 2)
        weights = self.attention(x).softmax(-1 if self.wrong else 1)
        return (weights * self.tags(x).sigmoid()).sum(1)


plant_declared(
    "weights_of_the_tags_add_up_to_one",
    Tags,
    {
        "inputs": {"spectrogram": {"axes": ["batch", 6, "time"]}},
        "outputs": {"tags": {"axes": ["batch", 5], "kind": "probabilities"}},
        "axes": {"time": {"min": 4, "max": 30}},
    },
    "declared_outputs",
    source="YuanGongND/psla#8",
)


class Sentence(nn.Module):
    """The largest state of either direction; the bug lets padding stand as zeros, which are larger than many states."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong = wrong
        self.words, self.net = nn.Embedding(30, 6), nn.LSTM(6, 5, batch_first=True, bidirectional=True)

    def forward(self, words: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(self.words(words), lengths.cpu(), batch_first=True, enforce_sorted=False)
        states = pad_packed_sequence(
            self.net(packed)[0], batch_first=True, total_length=words.shape[1], padding_value=0.0 if self.wrong else -1e4
        )[0]
        return states.amax(1)


class Entailment(nn.Module):
    """Whether one sentence follows from another."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.encoder, self.head = Sentence(wrong), nn.Linear(40, 3)

    def forward(self, premise: Tensor, premise_length: Tensor, claim: Tensor, claim_length: Tensor) -> Tensor:
        u, v = self.encoder(premise, premise_length), self.encoder(claim, claim_length)
        return self.head(torch.cat([u, v, (u - v).abs(), u * v], -1))


plant_declared(
    "largest_of_padding",
    Entailment,
    {
        "inputs": {
            "premise": {"axes": ["batch", "first"], "values": {"ids": 30, "pad": 0}},
            "premise_length": {"axes": ["batch"], "values": {"lengths_of": "first"}},
            "claim": {"axes": ["batch", "second"], "values": {"ids": 30, "pad": 0}},
            "claim_length": {"axes": ["batch"], "values": {"lengths_of": "second"}},
        },
        "outputs": {"relation": {"axes": ["batch", 3], "kind": "class_scores"}},
        "axes": {name: {"min": 1, "max": 9, "padding": "right"} for name in ("first", "second")},
    },
    "padding_ignored",
    module="encoder",
    source="facebookresearch/InferSent#51",
)
