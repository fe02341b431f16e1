"""Reported bugs of states and caches that were drawn when the checks of decoding were finished: captions, speech, policies, recommenders."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.planted_bugs.setups import Model

from .decoding_states import PROMPTS, StateSpace
from .register import task_of, wild

CAPTIONS = task_of(
    inputs={"image": {"axes": ["batch", 6]}, "words": {"axes": ["batch", "time"], "values": {"ids": 23}}},
    outputs={"scores": {"axes": ["batch", "time", 23], "kind": "token_scores", "at": 0}},
    axes={"time": {"min": 1, "max": 12, "order": "causal"}},
)


class Captions(nn.Module):
    """Words of an image, with a cache; the bug takes the length of the past from the axis of the heads."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.see, self.words, self.places = nn.Linear(6, 8), nn.Embedding(23, 8), nn.Embedding(12, 8)
        self.read, self.head = nn.Linear(8, 24), nn.Linear(8, 23)

    def forward(
        self, image: Tensor, words: Tensor, past: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        begun = 0 if past is None else past[0].shape[1 if self.wrong else 2]
        x = self.words(words) + self.places(torch.arange(begun, begun + words.shape[1], device=words.device).clamp(max=11))
        x = x + self.see(image)[:, None]
        query, key, value = (part.unflatten(-1, (4, 2)).transpose(1, 2) for part in self.read(x).chunk(3, -1))
        if past is not None:
            key, value = torch.cat([past[0], key], 2), torch.cat([past[1], value], 2)
        new, total = query.shape[2], key.shape[2]
        ahead = torch.ones(new, total, dtype=torch.bool, device=x.device).triu(total - new + 1)
        scores = (query @ key.transpose(2, 3)).masked_fill(ahead, -torch.inf)
        return self.head(x + (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)), (key, value)


def change_word_by_word(model: nn.Module) -> float:
    """How much the scores change when a caption is read word by word."""
    image, words, past, read = torch.randn(2, 6), torch.randint(23, (2, 8)), None, []
    with torch.no_grad():
        whole = model(image, words)[0]
        for word in words.split(1, 1):
            scores, past = model(image, word, past)
            read.append(scores)
    return float((torch.cat(read, 1) - whole).abs().max())


_pair = partial(wild, area="decoding", draw=1)
_pair(
    "past_length_from_the_axis_of_heads",
    title="The length of the past is read from another axis of the cache, so that words stand at wrong places",
    report="huggingface/transformers#29874",
    field="vision",
    test="decoding[cache]",
    setup=partial(Model, CAPTIONS),
    buggy=partial(Captions, True),
    sound=Captions,
    wrong=change_word_by_word,
    module="(model)",
)

AUDIO = task_of(
    inputs={"audio": {"axes": ["batch", 2, "time"]}},
    outputs={"out": {"axes": ["batch", 2, "time"], "kind": "values"}},
    axes={"time": {"min": 1, "max": 16, "order": "causal"}},
)


class Codec(nn.Module):
    """A residual convolution that looks back, with a streaming step; the bug leaves what the sum keeps when it is reset."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.conv, self.shortcut = nn.Conv1d(2, 2, 3), nn.Conv1d(2, 2, 1)
        self.reset_state()
        self.carried: Tensor | None = None

    def forward(self, audio: Tensor) -> Tensor:
        found = self.conv(F.pad(audio, (2, 0))) + self.shortcut(audio)
        return found + 0.5 * F.pad(found, (1, 0))[..., :-1]

    @torch.no_grad()
    def step(self, audio: Tensor) -> Tensor:
        before = audio.new_zeros(len(audio), 2, 2) if self.before is None else self.before
        joined = torch.cat([before, audio], -1)
        self.before = joined[..., -2:]
        found = self.conv(joined) + self.shortcut(audio)
        carried = found.new_zeros(len(found), 2, 1) if self.carried is None else self.carried
        self.carried = found[..., -1:]
        return found + 0.5 * torch.cat([carried, found[..., :-1]], -1)

    def reset_state(self) -> None:
        self.before: Tensor | None = None
        if not self.wrong:
            self.carried = None


def change_after_another_sound(model: nn.Module) -> float:
    """How much a sound changes when another one was streamed before the state was reset."""
    first, second = torch.randn(2, 1, 2, 6)
    model.reset_state()  # type: ignore[operator]
    with torch.no_grad():
        alone = model(first)
    model.step(second)  # type: ignore[operator]
    model.reset_state()  # type: ignore[operator]
    return float((model.step(first) - alone).abs().max())  # type: ignore[operator]


_pair(
    "a_buffer_of_the_sum_is_not_reset",
    title="reset_state clears the convolutions and leaves what the streaming sum keeps, so that the next sound begins with the last",
    report="kyutai-labs/moshi#407",
    field="speech",
    test="decoding[requests]",
    setup=partial(Model, AUDIO),
    buggy=partial(Codec, True),
    sound=Codec,
    wrong=change_after_another_sound,
)


class RightPadded(StateSpace):
    """The same state-space model; the state after a prompt that is padded on the right must be that of its last real token."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, cache_params: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        if self.wrong or attention_mask is None or bool(attention_mask.all()):
            return super().forward(input_ids, attention_mask, cache_params)
        rows = [
            self._row(input_ids[row : row + 1], attention_mask[row : row + 1], row, cache_params) for row in range(len(input_ids))
        ]
        return torch.cat([row[0] for row in rows]), tuple(
            torch.cat(parts) for parts in zip(*(row[1] for row in rows), strict=True)
        )  # type: ignore[return-value]

    def _row(
        self, ids: Tensor, mask: Tensor, row: int, cache: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        own = None if cache is None else (cache[0][row : row + 1], cache[1][row : row + 1])
        real = int(mask[0, -ids.shape[1] :].flip(0).argmax())
        end = ids.shape[1] - real
        scores, _ = super().forward(ids, mask[:, -ids.shape[1] :], own)
        _, state = super().forward(ids[:, :end], mask[:, -ids.shape[1] :][:, :end], own)
        return scores, state


def change_after_right_padding(model: nn.Module) -> float:
    """How much the scores of the next token change when the prompt before it was padded on the right."""
    ids, padding, word = torch.randint(1, 29, (1, 5)), torch.zeros(1, 3, dtype=torch.long), torch.randint(1, 29, (1, 1))
    mask = torch.cat([torch.ones_like(ids), padding], 1)
    with torch.no_grad():
        alone = model(word, cache_params=model(ids)[1])[0]
        padded = model(word, cache_params=model(torch.cat([ids, padding], 1), mask)[1])[0]
    return float((alone - padded).abs().max())


_pair(
    "state_moves_on_over_right_padding",
    title="The state after a prompt that is padded on the right is that of the padding",
    report="huggingface/transformers#48256",
    field="text",
    test="decoding[left_padding]",
    setup=partial(Model, PROMPTS),
    buggy=partial(RightPadded, True),
    sound=RightPadded,
    wrong=change_after_right_padding,
    missed="prompts that are padded on the right are not read on with a cache",
)

STEPS = task_of(
    inputs={"seen": {"axes": ["batch", "time", 4]}},
    outputs={"actions": {"axes": ["batch", "time", 3], "kind": "values", "at": 0}},
    axes={"time": {"min": 1, "max": 12, "order": "causal"}},
)


class MemoryPolicy(nn.Module):
    """Attention over the hidden states of earlier steps; the bug drops all but the newest of them."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.kept = 1 if wrong else 12
        self.enter, self.query, self.read, self.head = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 16), nn.Linear(8, 3)

    def forward(self, seen: Tensor, memory: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = self.enter(seen)
        joined = x if memory is None else torch.cat([memory, x], 1)
        key, value = self.read(joined).chunk(2, -1)
        new, total = x.shape[1], joined.shape[1]
        ahead = torch.ones(new, total, dtype=torch.bool, device=x.device).triu(total - new + 1)
        scores = (self.query(x) @ key.transpose(1, 2)).masked_fill(ahead, -torch.inf)
        return self.head(x + scores.softmax(-1) @ value), joined[:, max(0, total - self.kept) :]


def change_step_by_step(model: nn.Module) -> float:
    """How much the actions change when a policy sees one step at a time."""
    seen, memory, read = torch.randn(2, 7, 4), None, []
    with torch.no_grad():
        whole = model(seen)[0]
        for step in seen.split(1, 1):
            actions, memory = model(step, memory)
            read.append(actions)
    return float((torch.cat(read, 1) - whole).abs().max())


_pair(
    "memory_of_a_policy_begins_too_late",
    title="The memory of a policy is cut at a wrong index, so that steps it may hold are forgotten",
    report="dhruvramani/Transformers-RL#7",
    field="policies",
    test="decoding[cache]",
    setup=partial(Model, STEPS),
    buggy=partial(MemoryPolicy, True),
    sound=MemoryPolicy,
    wrong=change_step_by_step,
)

ITEMS = task_of(
    inputs={"items": {"axes": ["batch", "time"], "values": {"ids": 19}}},
    outputs={"scores": {"axes": ["batch", "time", 19], "kind": "token_scores"}},
    axes={"time": {"min": 1, "max": 10, "order": "causal"}},
)


class Recommender(nn.Module):
    """Attention over the items of a user, whose keys lie in pages that the model keeps; the bug gives rows of a batch the same page."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.items, self.places = nn.Embedding(19, 8), nn.Embedding(10, 8)
        self.read, self.head = nn.Linear(8, 24), nn.Linear(8, 19)
        self.kv_cache: Tensor | None = None

    def setup_caches(self, max_batch_size: int, max_seq_length: int) -> None:
        like = self.head.weight
        self.kv_cache = torch.zeros(max_batch_size, max_seq_length, 16, dtype=like.dtype, device=like.device)

    def forward(self, items: Tensor, input_pos: Tensor | None = None) -> Tensor:
        places = torch.arange(items.shape[1], device=items.device) if input_pos is None else input_pos
        x = self.items(items) + self.places(places)
        query, pair = self.read(x).split([8, 16], -1)
        if input_pos is not None and self.kv_cache is not None:
            page = torch.arange(len(items), device=items.device) // (2 if self.wrong else 1)
            for row, own in enumerate(page.tolist()):
                self.kv_cache[own, input_pos] = pair[row]
            pair = self.kv_cache[page]
        key, value = pair.chunk(2, -1)
        ahead = torch.arange(key.shape[1], device=x.device) > places[:, None]
        scores = (query @ key.transpose(1, 2)).masked_fill(ahead, -torch.inf)
        return self.head(x + scores.softmax(-1) @ value)


def change_by_pages(model: nn.Module) -> float:
    """How much the scores of two users change when their items are read one by one."""
    items, read = torch.randint(19, (2, 7)), []
    with torch.no_grad():
        whole = model(items)
        model.setup_caches(2, 7)  # type: ignore[operator]
        for place, item in enumerate(items.split(1, 1)):
            read.append(model(item, torch.tensor([place])))
    return float((torch.cat(read, 1) - whole).abs().max())


_pair(
    "rows_of_a_batch_share_a_page",
    title="Pages of the cache are dealt so that two rows of one batch write into the same",
    report="NVIDIA/recsys-examples#184",
    field="recommenders",
    test="decoding[cache]",
    setup=partial(Model, ITEMS),
    buggy=partial(Recommender, True),
    sound=Recommender,
    wrong=change_by_pages,
)
