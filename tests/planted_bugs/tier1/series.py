"""Models of time series and speech, declared by their signature; each has a bug of a kind that people report."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.evidence import Status

from .declared import Keys, plant_declared

TIME: Keys = {"time": {"min": 2, "max": 16}}


class Forecaster(nn.Module):
    """The next four steps of three series, each made comparable by its own mean; the bugs take that of others."""

    def __init__(self, wrong: str = "") -> None:
        super().__init__()
        self.wrong = wrong
        self.trend = nn.Linear(12, 4)

    def forward(self, series: Tensor) -> Tensor:
        centre = series.mean((0, 1) if self.wrong == "batch" else 1, keepdim=True)
        if self.wrong == "axes":
            series = series.reshape(series.shape[1], series.shape[0], 3).transpose(0, 1)
        return self.trend((series - centre).transpose(1, 2)).transpose(1, 2) + centre


FORECAST: Keys = {
    "inputs": {"series": {"axes": ["batch", 12, 3]}},
    "outputs": {"forecast": {"axes": ["batch", 4, 3]}},
}
plant_declared(
    "forecast_centred_over_the_batch",
    Forecaster,
    FORECAST,
    "batch_independence[forward]",
    wrong="batch",
    also=("batch_independence[gradient]",),
    source="thuml/Time-Series-Library, normalisation over the wrong axes",
)
plant_declared(
    "time_taken_for_the_batch",
    Forecaster,
    FORECAST,
    "batch_independence[forward]",
    wrong="axes",
    also=("batch_independence[gradient]",),
    source="PyTorch forums, reshape where transpose is meant",
)


class Stream(nn.Module):
    """A value for each step from the steps so far; the bug takes the mean of the whole series away."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.enter, self.rnn, self.leave = nn.Linear(5, 8), nn.GRU(8, 8, batch_first=True), nn.Linear(8, 2)

    def forward(self, series: Tensor) -> Tensor:
        so_far = series.cumsum(1) / torch.arange(1, series.shape[1] + 1, device=series.device, dtype=series.dtype)[:, None]
        centre = series.mean(1, keepdim=True) if self.wrong else so_far
        return self.leave(self.rnn(self.enter(series - 0.5 * centre))[0])


plant_declared(
    "normalised_by_the_future",
    Stream,
    {
        "inputs": {"series": {"axes": ["batch", "time", 5]}},
        "outputs": {"values": {"axes": ["batch", "time", 2]}},
        "axes": {"time": {**TIME["time"], "order": "causal"}},
    },
    "causal",
    source="RevIN in models that predict every step, statistics of the whole window",
)


class Speech(nn.Module):
    """Scores of symbols for every second frame, and how many of them are real."""

    def __init__(self, wrong: str = "") -> None:
        super().__init__()
        self.wrong = wrong
        self.frames, self.head = nn.Conv1d(6, 8, 3, stride=2, padding=1), nn.Linear(8, 7)

    def forward(self, audio: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        real = torch.arange(audio.shape[1], device=audio.device) < lengths[:, None]
        if self.wrong != "edge":
            audio = audio * real[..., None]
        hidden = self.frames(audio.transpose(1, 2)).transpose(1, 2).tanh()
        return self.head(hidden).log_softmax(-1), lengths // 2 if self.wrong == "short" else (lengths - 1) // 2 + 1


SPEECH: Keys = {
    "inputs": {
        "audio": {"axes": ["batch", "time", 6]},
        "lengths": {"axes": ["batch"], "values": {"lengths_of": "time"}},
    },
    "outputs": {
        "symbols": {"axes": ["batch", "frames", 7], "kind": "ctc_scores"},
        "frame_lengths": {"axes": ["batch"], "kind": "lengths", "of": "frames"},
    },
    "axes": {"time": {"min": 7, "max": 21, "padding": "right"}, "frames": {"from": "(time - 1) // 2 + 1"}},
}
plant_declared(
    "length_after_a_stride_off_by_one",
    Speech,
    SPEECH,
    "declared_outputs",
    wrong="short",
    also=("shape_contract",),
    source="SeanNaren/deepspeech.pytorch, output lengths of strided convolutions",
)
plant_declared(
    "last_frame_reads_padding",
    Speech,
    SPEECH,
    "padding_ignored",
    wrong="edge",
    source="NVIDIA/NeMo, MaskedConv1d: a convolution over padding that is not zero",
)


class Keyword(nn.Module):
    """Classes of a whole recording, from the mean of its real frames; the bug divides by all of them."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.frames, self.head = nn.Linear(6, 12), nn.Linear(12, 4)

    def forward(self, audio: Tensor, lengths: Tensor) -> Tensor:
        real = (torch.arange(audio.shape[1], device=audio.device) < lengths[:, None])[..., None]
        total = (self.frames(audio).tanh() * real).sum(1)
        return self.head(total / (audio.shape[1] if self.wrong else lengths[:, None]))


plant_declared(
    "mean_over_padding",
    Keyword,
    {
        "inputs": SPEECH["inputs"],
        "outputs": {"scores": {"axes": ["batch", 4], "kind": "class_scores"}},
        "axes": {"time": SPEECH["axes"]["time"]},
    },
    "padding_ignored",
    source="UKPLab/sentence-transformers, mean pooling without the mask",
)


class Sorted(nn.Module):
    """A recurrent network over real steps, for which rows are sorted by length; the bug does not put them back."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.rnn, self.head = nn.GRU(6, 8, batch_first=True), nn.Linear(8, 4)

    def forward(self, audio: Tensor, lengths: Tensor) -> Tensor:
        order = lengths.argsort(descending=True, stable=True)
        hidden = self.rnn(audio[order])[0]
        last = hidden[torch.arange(len(hidden), device=hidden.device), lengths[order] - 1]
        return self.head(last if self.wrong else last[order.argsort()])


plant_declared(
    "rows_left_sorted_by_length",
    Sorted,
    {
        "inputs": SPEECH["inputs"],
        "outputs": {"scores": {"axes": ["batch", 4], "kind": "class_scores"}},
        "axes": {"time": {"min": 1, "max": 12, "padding": "right"}},
    },
    "padding_ignored",
    source="PyTorch forums, pack_padded_sequence and the order of rows",
)


class Reader(nn.Module):
    """Reads tokens that are padded on the left; the bug counts positions with the padding."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.tokens, self.places, self.head = nn.Embedding(40, 8), nn.Embedding(32, 8), nn.Linear(8, 4)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        place = torch.arange(ids.shape[1], device=ids.device) if self.wrong else (mask.cumsum(1) - 1).clamp(min=0)
        hidden = (self.tokens(ids) * self.places(place)).tanh() * mask[..., None]
        return self.head(hidden.sum(1) / mask.sum(1, keepdim=True).clamp(min=1))


plant_declared(
    "positions_count_left_padding",
    Reader,
    {
        "inputs": {
            "ids": {"axes": ["batch", "seq"], "values": {"ids": 40, "pad": 0}},
            "mask": {"axes": ["batch", "seq"], "values": {"mask_of": "seq"}},
        },
        "outputs": {"scores": {"axes": ["batch", 4], "kind": "class_scores"}},
        "axes": {"seq": {"min": 1, "max": 16, "padding": "left"}},
    },
    "padding_ignored",
    source="huggingface/transformers, generation with left padding and absolute positions",
)


class Filtered(nn.Module):
    """Values of every step and how sure they are, both from causal convolutions; the bugs are in the second output."""

    def __init__(self, wrong: str = "") -> None:
        super().__init__()
        self.wrong = wrong
        self.values, self.spread = nn.Conv1d(5, 2, 3), nn.Conv1d(5, 2, 3)

    def forward(self, series: Tensor) -> dict[str, Tensor]:
        turned = series.transpose(1, 2)
        behind = F.pad(turned, (2, 0))
        spread = self.spread(F.pad(turned, (1, 1)) if self.wrong == "centred" else behind)
        if self.wrong == "zero":
            centred = behind - behind.mean(1, keepdim=True)
            spread = self.spread(centred / centred.norm(dim=1, keepdim=True))
        return {"values": self.values(behind).transpose(1, 2), "spread": spread.transpose(1, 2)}


FILTERED: Keys = {
    "inputs": {"series": {"axes": ["batch", "time", 5]}},
    "outputs": {"values": {"axes": ["batch", "time", 2]}, "spread": {"axes": ["batch", "time", 2]}},
    "axes": {"time": {**TIME["time"], "order": "causal"}},
}
plant_declared(
    "second_convolution_centred",
    Filtered,
    FILTERED,
    "causal",
    wrong="centred",
    code="reads_later_positions",
    says="spread",
    source="WaveNet implementations, padding on both sides",
)
plant_declared(
    "second_output_divided_by_zero",
    Filtered,
    FILTERED,
    "finite_output[typical]",
    wrong="zero",
    code="not_finite",
    says="spread",
    also=("finite_output[extremes]", "gradient_flow[finite]", "gradient_flow[reaches_every_parameter]", "causal"),
    source="PyTorch forums, a norm of zero",
)


class Normed(nn.Module):
    """Classes of a recording, from frames that a batch norm makes comparable; the bug lets it count padded frames."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.frames, self.norm, self.head = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 4)

    def forward(self, audio: Tensor, lengths: Tensor) -> Tensor:
        real = torch.arange(audio.shape[1], device=audio.device) < lengths[:, None]
        hidden = self.frames(audio)
        if self.wrong:
            hidden = self.norm(hidden.flatten(0, 1)).unflatten(0, real.shape)
        else:
            hidden = torch.zeros_like(hidden).masked_scatter(real[..., None], self.norm(hidden[real]))
        return self.head((hidden.tanh() * real[..., None]).sum(1) / lengths[:, None])


plant_declared(
    "padding_in_the_statistics_of_a_norm",
    Normed,
    {
        "inputs": SPEECH["inputs"],
        "outputs": {"scores": {"axes": ["batch", 4], "kind": "class_scores"}},
        "axes": {"time": {"min": 2, "max": 12, "padding": "right"}},
    },
    "train_mode[padding]",
    status=Status.WARN,
    source="PyTorch forums, BatchNorm1d over padded sequences",
)


class Strided(nn.Module):
    """Frames of four samples; the bugs pad as without a stride, and trim what is upsampled on both sides."""

    def __init__(self, wrong: str = "") -> None:
        super().__init__()
        self.wrong = wrong
        self.down, self.up, self.out = nn.Conv1d(2, 8, 8, stride=4), nn.ConvTranspose1d(8, 8, 4, stride=2), nn.Conv1d(8, 3, 1)

    def forward(self, wave: Tensor) -> Tensor:
        frames = self.down(F.pad(wave, (7 if self.wrong == "padding" else 4, 0))).tanh()
        longer = self.up(frames)[..., 2 if self.wrong == "trimmed" else 0 :]
        return self.out(longer[..., :-2].tanh())


STRIDED: Keys = {
    "inputs": {"wave": {"axes": ["batch", 2, "samples"]}},
    "outputs": {"values": {"axes": ["batch", 3, "frames"]}},
    "axes": {
        "samples": {"min": 8, "max": 32, "multiple_of": 4, "order": "causal"},
        "frames": {"from": "samples // 4 * 2"},
    },
}
plant_declared(
    "last_samples_never_read",
    Strided,
    STRIDED,
    "input_dependence[inputs]",
    wrong="padding",
    code="unread_end",
    module="down",
    status=Status.WARN,
    source="lucidrains/audiolm-pytorch#166",
)
plant_declared(
    "upsampled_frames_too_few",
    Strided,
    STRIDED,
    "shape_contract",
    wrong="trimmed",
    code="wrong_shape",
    also=("finite_output[typical]",),
    source="vllm-project/vllm-omni#1241",
)


class LeftPadded(nn.Module):
    """A label for each frame, from a convolution over frames that are padded on the left; the bug reads the padding."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.frames, self.conv, self.head = nn.Linear(6, 8), nn.Conv1d(8, 8, 3), nn.Linear(8, 4)

    def forward(self, audio: Tensor, mask: Tensor) -> Tensor:
        hidden = self.frames(audio)
        hidden = hidden if self.wrong else hidden * mask[..., None]
        return self.head(self.conv(F.pad(hidden.transpose(1, 2), (2, 0))).transpose(1, 2).tanh())


plant_declared(
    "convolution_reads_padding_on_the_left",
    LeftPadded,
    {
        "inputs": {
            "audio": {"axes": ["batch", "time", 6]},
            "mask": {"axes": ["batch", "time"], "values": {"mask_of": "time"}},
        },
        "outputs": {"scores": {"axes": ["batch", "time", 4], "kind": "class_scores"}},
        "axes": {"time": {"min": 2, "max": 12, "order": "causal", "padding": "left"}},
    },
    "padding_ignored",
    module="conv",
    also=("train_mode[padding]",),
    source="Blaizzy/mlx-vlm#1946",
)
