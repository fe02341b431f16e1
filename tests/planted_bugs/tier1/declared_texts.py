"""Models of audio and texts, drawn from reports when all checks were there; the wrong line of each ends in ``# here``."""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from .declared import Keys, plant_declared


class Conv2dSubsampling(nn.Module):
    def __init__(self, wrong: bool = False, d=8) -> None:
        super().__init__()
        self.wrong = wrong
        self.sequential = nn.ModuleList([nn.Conv1d(5, d, 3, stride=2), nn.Conv1d(d, d, 3, stride=2)])
        self.out = nn.Linear(d, 6)

    def forward(self, inputs, input_lengths):
        outputs = inputs.transpose(1, 2)
        for layer in self.sequential:
            places = torch.arange(outputs.shape[2], device=outputs.device)
            outputs = outputs * (places < input_lengths[:, None])[:, None]
            outputs = F.relu(layer(outputs))
            input_lengths = torch.div(input_lengths - 3, 2, rounding_mode="floor") + 1
        if self.wrong:
            input_lengths = (input_lengths >> 2) - 1  # here
        return self.out(outputs.transpose(1, 2)), input_lengths


SUBSAMPLED: Keys = {
    "inputs": {
        "inputs": {"axes": ["batch", "time", 5]},
        "input_lengths": {"axes": ["batch"], "values": {"lengths_of": "time"}},
    },
    "outputs": {
        "scores": {"axes": ["batch", "frames", 6], "kind": "class_scores"},
        "lengths": {"axes": ["batch"], "kind": "lengths", "of": "frames"},
    },
    "axes": {
        "time": {"min": 11, "max": 30, "padding": "right"},
        "frames": {"from": "((time - 3) // 2 + 1 - 3) // 2 + 1"},
    },
}


plant_declared(
    "lengths_divided_twice",
    Conv2dSubsampling,
    SUBSAMPLED,
    "declared_outputs",
    line="# here",
    source="openspeech-team/openspeech#76",
)


class ConvSubsamplingWithMask(nn.Module):
    """The mask is thinned out as the frames are."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.conv = nn.Sequential(nn.Conv1d(5, 8, 3, 2), nn.ReLU(), nn.Conv1d(8, 8, 3, 2), nn.ReLU())
        self.embed = nn.Linear(8, 6)

    def forward(self, inputs, input_lengths):
        x_mask = torch.arange(inputs.size(1), device=inputs.device)[None] < input_lengths[:, None]
        x = self.conv((inputs * x_mask[..., None]).mT).mT
        olens = ((input_lengths - 3) // 2 + 1 - 3) // 2 + 1
        if self.wrong:
            olens = x_mask[:, :-2:2][:, :-2:2].sum(1)  # here
        return self.embed(x), olens


plant_declared(
    "lengths_of_a_thinned_mask",
    ConvSubsamplingWithMask,
    SUBSAMPLED,
    "declared_outputs",
    line="# here",
    source="espnet/espnet#6600",
)


class EmbeddingAttention(nn.Module):
    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.embed = nn.Embedding(25, 8)
        self.lstm = nn.LSTM(8, 6, bidirectional=True)
        self.attn = nn.Linear(20, 1)
        self.hidden2tag = nn.Linear(20, 5)

    def forward(self, words):
        x = self.embed(words.t())
        outputs, _ = self.lstm(x)
        both = torch.cat((x, outputs), 2)
        attn_weights = F.softmax(self.attn(both), dim=2 if self.wrong else 0)  # here
        return self.hidden2tag((attn_weights * both).sum(0))


plant_declared(
    "attention_over_an_axis_of_one",
    EmbeddingAttention,
    {
        "inputs": {"words": {"axes": ["batch", "length"], "values": {"ids": 25}}},
        "outputs": {"tag": {"axes": ["batch", 5], "kind": "class_scores"}},
        "axes": {"length": {"min": 1, "max": 9}},
    },
    "gradient_flow[reaches_every_parameter]",
    source="DEEP-PolyU/KEQA_WSDM19#2",
)


class TransformerBlock(nn.Module):
    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.tok_emb = nn.Embedding(21, 12, padding_idx=1)
        self.w_q, self.w_k, self.w_v = (nn.Linear(12, 12) for _ in range(3))
        self.linear = nn.Linear(12, 21)

    def make_pad_mask(self, src):
        real = src != 1
        return real.unsqueeze(2) if self.wrong else real.unsqueeze(1)  # here

    def forward(self, src):
        x = self.tok_emb(src)
        score = torch.einsum("bqd,bkd->bqk", self.w_q(x), self.w_k(x)) / 12**0.5
        score = score.masked_fill(self.make_pad_mask(src) == 0, -10000)
        return self.linear(x + score.softmax(-1) @ self.w_v(x))


plant_declared(
    "mask_of_the_queries",
    TransformerBlock,
    {
        "inputs": {"src": {"axes": ["batch", "length"], "values": {"ids": 21, "pad": 1}}},
        "outputs": {"scores": {"axes": ["batch", "length", 21], "kind": "token_scores"}},
        "axes": {"length": {"min": 1, "max": 9, "padding": "right"}},
    },
    "padding_ignored",
    source="hyunwoongko/transformer#40",
)


class LengthsCapableSequential(nn.ModuleDict):
    """Layers after another, of which those are given lengths that name them."""

    def __init__(self, wrong: bool, **layers: nn.Module) -> None:
        super().__init__(layers)
        self.names = ("lengths",) if wrong else ("lengths", "wav_lens")

    def forward(self, x, lengths):
        for layer in self.values():
            named = [name for name in self.names if name in layer.forward.__code__.co_varnames]
            x = layer(x, **{named[0]: lengths}) if named else layer(x)  # here
        return x


class Features(nn.Conv1d):
    def forward(self, x):
        return super().forward(x.mT).mT.relu()


class SelfSupervised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Linear(8, 1)

    def forward(self, wav, wav_lens=None):
        weight = self.score(wav)
        if wav_lens is not None:
            weight = weight.masked_fill(
                (torch.arange(wav.shape[1], device=wav.device) >= wav_lens[:, None])[..., None], -math.inf
            )
        return (weight.softmax(1) * wav).sum(1)


class EncoderASR(nn.Module):
    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.encoder = LengthsCapableSequential(wrong, features=Features(1, 8, 1), pool=SelfSupervised())
        self.classify = nn.Linear(8, 4)

    def forward(self, wavs, wav_lens):
        return self.classify(self.encoder(wavs.unsqueeze(-1), wav_lens))


plant_declared(
    "lengths_of_another_name",
    EncoderASR,
    {
        "inputs": {
            "wavs": {"axes": ["batch", "time"]},
            "wav_lens": {"axes": ["batch"], "values": {"lengths_of": "time"}},
        },
        "outputs": {"speaker": {"axes": ["batch", 4], "kind": "class_scores"}},
        "axes": {"time": {"min": 2, "max": 20, "padding": "right"}},
    },
    "padding_ignored",
    source="speechbrain/speechbrain#2986",
)


class VariancePredictor(nn.Module):
    def __init__(self, wrong: bool = False, idim=6, n_chans=8) -> None:
        super().__init__()
        self.wrong = wrong
        self.conv = nn.ModuleList()
        for idx in range(2):
            self.conv += [nn.Sequential(nn.Conv1d(idim if idx == 0 else n_chans, n_chans, 3, padding=1), nn.ReLU())]
        self.linear = nn.Linear(n_chans, 1)

    def forward(self, xs, x_masks):
        hidden = x_masks.unsqueeze(1)
        xs = xs.transpose(1, -1)
        for f in self.conv:
            xs = f(xs if self.wrong else xs.masked_fill(hidden, 0.0))  # here
        return self.linear(xs.transpose(1, -1)).squeeze(-1).masked_fill(x_masks, 0.0)


plant_declared(
    "frames_read_beside_padding",
    VariancePredictor,
    {
        "inputs": {
            "xs": {"axes": ["batch", "time", 6]},
            "x_masks": {"axes": ["batch", "time"], "dtype": "bool", "values": {"mask_of": "time", "inverted": True}},
        },
        "outputs": {"pitch": {"axes": ["batch", "time"]}},
        "axes": {"time": {"min": 1, "max": 12, "padding": "right"}},
    },
    "padding_ignored",
    line="# here",
    source="espnet/espnet#6333",
)


class ConvBlock(nn.Module):
    """Convolution, norm and dropout of an encoder of texts that are filled up."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.embedding = nn.Embedding(20, 8)
        self.weight, self.bias = nn.Parameter(torch.ones(8)), nn.Parameter(torch.zeros(8))
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("var", torch.ones(8))
        self.register_buffer("num_batches_tracked", torch.tensor(0))
        self.output = nn.Linear(8, 6)

    def norm(self, x, real):
        mean, var = self.mean, self.var
        if self.training:
            rows = x.flatten(0, 1) if self.wrong else x[real]  # here
            mean, var = rows.mean(0), rows.var(0, unbiased=False)
            with torch.no_grad():
                self.mean.lerp_(mean, 0.1), self.var.lerp_(var, 0.1), self.num_batches_tracked.add_(1)
        return (x - mean) / (var + 1e-5).sqrt() * self.weight + self.bias

    def forward(self, text, lengths):
        real = torch.arange(text.shape[1], device=text.device) < lengths[:, None]
        x = F.relu(self.norm(self.embedding(text) * real[..., None], real))
        return self.output((x * real[..., None]).sum(1) / real.sum(1, keepdim=True))


plant_declared(
    "statistics_of_padding",
    ConvBlock,
    {
        "inputs": {
            "text": {"axes": ["batch", "length"], "values": {"ids": 20, "pad": 0}},
            "lengths": {"axes": ["batch"], "values": {"lengths_of": "length"}},
        },
        "outputs": {"language": {"axes": ["batch", 6], "kind": "class_scores"}},
        "axes": {"length": {"min": 1, "max": 10, "padding": "right"}},
    },
    "train_mode[padding]",
    source="Tomiinek/Multilingual_Text_to_Speech#81",
)


def multihead_attention(queries, keys, values, keys_are, num_heads=2):
    split = partial(torch.chunk, chunks=num_heads, dim=-1)
    Q, K, V = (torch.cat(split(t), dim=0) for t in (queries, keys, values))
    outputs = torch.bmm(Q, K.transpose(1, 2)) / K.size(-1) ** 0.5
    masks = torch.sign(keys_are.abs().sum(-1)).repeat(num_heads, 1).unsqueeze(1)  # here
    outputs = torch.where(masks == 0, torch.full_like(outputs, -(2.0**14) + 1), outputs)
    return torch.cat(torch.chunk(torch.softmax(outputs, -1) @ V, num_heads), dim=2)


class SentencePooling(nn.Module):
    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.lookup_table = nn.Embedding(19, 8, padding_idx=0)
        self.position = nn.Parameter(torch.randn(10, 8) / 3)
        self.q, self.k, self.v = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.logits = nn.Linear(8, 3)

    def forward(self, inputs):
        words = self.lookup_table(inputs)
        enc = words + self.position[: inputs.shape[1]]
        enc = enc + multihead_attention(self.q(enc), self.k(enc), self.v(enc), enc if self.wrong else words)
        real = (inputs != 0).unsqueeze(-1)
        return self.logits((enc * real).sum(1) / real.sum(1).clamp(min=1))


plant_declared(
    "padding_with_positions",
    SentencePooling,
    {
        "inputs": {"inputs": {"axes": ["batch", "length"], "values": {"ids": 19, "pad": 0}}},
        "outputs": {"label": {"axes": ["batch", 3], "kind": "class_scores"}},
        "axes": {"length": {"min": 1, "max": 10, "padding": "right"}},
    },
    "padding_ignored",
    source="Kyubyong/transformer#69",
)
