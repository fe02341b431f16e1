"""Reported bugs of models that keep or pass on a state: series, speech, video and policies, step by step."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.evidence import Status
from tests.planted_bugs.setups import Model

from .register import task_of, wild

SERIES = task_of(
    inputs={"series": {"axes": ["batch", "time", 3]}},
    outputs={"forecast": {"axes": ["batch", "time", 2], "kind": "values"}},
    axes={"time": {"min": 1, "max": 16, "order": "causal"}},
)


class Forecaster(nn.Module):
    """A causal attention over a series, with a cache that the model keeps until it is reset."""

    def __init__(self, wrong: str = "") -> None:
        super().__init__()
        self.wrong = wrong
        self.enter, self.read, self.head = nn.Linear(3, 8), nn.Linear(8, 24), nn.Linear(8, 2)
        self.k_cache: Tensor | None = None
        self.v_cache: Tensor | None = None

    def forward(self, series: Tensor, use_kv_cache: bool = False) -> Tensor:
        x = self.enter(series)
        query, key, value = self.read(x).chunk(3, -1)
        if use_kv_cache:
            if self.k_cache is not None and self.v_cache is not None and len(self.k_cache) == len(key):
                key, value = torch.cat([self.k_cache, key], 1), torch.cat([self.v_cache, value], 1)
            self.k_cache, self.v_cache = key, value
        new, total = query.shape[1], key.shape[1]
        ahead = torch.ones(new, total, dtype=torch.bool, device=x.device).triu(total - new + 1)
        scores = (query @ key.transpose(1, 2) / 8**0.5).masked_fill(ahead, -torch.inf)
        return self.head(x + scores.softmax(-1) @ value)

    def reset_cache(self) -> None:
        if self.wrong != "one tensor forgotten":
            self.k_cache = None
            self.v_cache = None


def change_after_another_series(model: nn.Module) -> float:
    """How much a forecast changes when another series was read with the cache before it was reset."""
    first, second = torch.randn(2, 2, 6, 3)
    with torch.no_grad():
        model.reset_cache()  # type: ignore[operator]
        alone = model(first, use_kv_cache=True)
        model.reset_cache()  # type: ignore[operator]
        model(second, use_kv_cache=True)
        model.reset_cache()  # type: ignore[operator]
        after = model(first, use_kv_cache=True)
    return float((alone - after).abs().max())


wild(
    "cache_of_a_forecaster_not_reset",
    title="reset_cache leaves a flag of the model itself set, so that the next series is read after the last one",
    report="time-series-foundation-models/lag-llama#81",
    area="decoding",
    field="forecasting",
    test="decoding[requests]",
    setup=partial(Model, SERIES),
    buggy=partial(Forecaster, "one tensor forgotten"),
    sound=Forecaster,
    wrong=change_after_another_series,
)


class VideoEncoder(nn.Module):
    """A convolution over frames that looks back, in front of which the last frames of the earlier call stand."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.conv, self.head = nn.Conv3d(3, 4, 3), nn.Conv3d(4, 2, 1)

    def forward(self, video: Tensor, conv_cache: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        before = video[:, :, :1].expand(-1, -1, 2, -1, -1) if conv_cache is None else conv_cache
        joined = torch.cat([before, video], 2)
        x = self.conv(F.pad(joined, (1, 1, 1, 1)))
        kept = None if self.wrong and conv_cache is None and video.shape[2] == 1 else joined[:, :, -2:]
        return self.head(x.relu()), kept


VIDEO = task_of(
    inputs={"video": {"axes": ["batch", 3, "frames", 4, 4]}},
    outputs={"latent": {"axes": ["batch", 2, "frames", 4, 4], "kind": "values", "at": 0}},
    axes={"frames": {"min": 1, "max": 9, "order": "causal"}},
)


def change_by_frames(model: nn.Module) -> float:
    """How much the latents change when a video is encoded frame by frame."""
    video, cache, found = torch.randn(2, 3, 6, 4, 4), None, []
    with torch.no_grad():
        whole = model(video)[0]
        for frame in video.split(1, 2):
            latent, cache = model(frame, cache)
            found.append(latent)
    return float((torch.cat(found, 2) - whole).abs().max())


wild(
    "first_frame_leaves_no_cache",
    title="A first chunk of one frame takes a short way that returns no cache, so that the next chunk begins anew",
    report="Comfy-Org/ComfyUI#13402",
    area="decoding",
    field="diffusion",
    test="decoding[cache]",
    setup=partial(Model, VIDEO),
    buggy=partial(VideoEncoder, True),
    sound=VideoEncoder,
    wrong=change_by_frames,
)


class StateSpace(nn.Module):
    """A convolution that looks back and a decaying state; padding on the left must leave both as they begin."""

    def __init__(self, masks: bool = True) -> None:
        super().__init__()
        self.masks = masks
        self.tokens, self.conv = nn.Embedding(29, 8), nn.Conv1d(8, 8, 3, groups=8)
        self.decay, self.head = nn.Parameter(torch.linspace(-1.0, 2.0, 8)), nn.Linear(8, 29)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, cache_params: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        x = self.tokens(input_ids)
        real = None if attention_mask is None else attention_mask[:, -x.shape[1] :, None].to(x.dtype)
        if self.masks and real is not None:
            x = x * real
        before, state = (x.new_zeros(len(x), 2, 8), x.new_zeros(len(x), 8)) if cache_params is None else cache_params
        joined = torch.cat([before, x], 1)
        x = F.silu(self.conv(joined.transpose(1, 2)).transpose(1, 2))
        if self.masks and real is not None:
            x = x * real
        keep, read = self.decay.sigmoid(), []
        for step in x.unbind(1):
            state = keep * state + step
            read.append(state)
        return self.head(torch.stack(read, 1)), (joined[:, -2:], state)


PROMPTS = task_of(task_type="causal_lm", vocab_size=29, max_seq_len=12, pad_token_id=0)


def change_by_left_padding(model: nn.Module) -> float:
    """How much three places of padding before a prompt change its scores."""
    ids, padding = torch.randint(1, 29, (1, 6)), torch.zeros(1, 3, dtype=torch.long)
    mask = torch.cat([padding, torch.ones_like(ids)], 1)
    with torch.no_grad():
        alone, padded = model(ids)[0], model(torch.cat([padding, ids], 1), mask)[0]
    return float((padded[:, 3:] - alone).abs().max())


wild(
    "state_moves_over_left_padding",
    title="Padding on the left enters the convolution and the state of a state-space model",
    report="huggingface/transformers#32677",
    area="decoding",
    field="text",
    test="decoding[left_padding]",
    setup=partial(Model, PROMPTS),
    buggy=partial(StateSpace, False),
    sound=StateSpace,
    wrong=change_by_left_padding,
    status=Status.WARN,
)
