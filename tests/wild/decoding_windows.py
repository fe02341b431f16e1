"""Reported bugs of texts and sounds that are read or written in pieces: the seventh draw."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.planted_bugs.setups import Model

from .decoding_caches import TEXT, VOCAB, WIDTH, Layer, Past, change_token_by_token
from .decoding_drawn_text import rotated
from .register import FirstRun, pair_of_one_class, task_of

WINDOW, LATENTS, CLASSES, END = 5, 6, 4, 0
PLACED = task_of(
    inputs={
        "input_ids": {"axes": ["batch", "time"], "values": {"ids": VOCAB}},
        "position_ids": {"axes": ["batch", "time"], "values": {"ids": 40}},
    },
    outputs={"scores": {"axes": ["batch", "time", VOCAB], "kind": "token_scores", "at": 0}},
    axes={"time": {"min": 1, "max": 12, "order": "causal"}},
)
SOUND = task_of(
    inputs={
        "latents": {"axes": ["batch", "time", LATENTS]},
        "kept": {"axes": ["batch", 4, LATENTS], "state": {"from": "kept", "initial": "zeros"}},
    },
    outputs={"sound": {"axes": ["batch", "time"], "kind": "values"}, "kept": {"axes": ["batch", 4, LATENTS], "kind": "state"}},
    axes={"time": {"min": 1, "max": 12, "order": "causal"}},
)
LABELLED = task_of(
    inputs={
        "words": {"axes": ["batch", "time"], "values": {"ids": VOCAB, "pad": 0}},
        "real": {"axes": ["batch", "time"], "values": {"mask_of": "time"}},
    },
    outputs={"scores": {"axes": ["batch", CLASSES], "kind": "class_scores"}},
    axes={"time": {"min": 2, "max": 9, "padding": "right"}},
)


class Window(Layer):
    """Attention over the last five tokens; the bug drops one more where the cache has just become full."""

    rolls_early = False

    def hidden(self, new: int, total: int, like: Tensor) -> Tensor:
        seen = torch.ones(new, total, dtype=torch.bool, device=like.device).tril(total - new)
        return ~seen.triu(total - new - WINDOW + 1)

    def kept(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        most = WINDOW - 2 if self.rolls_early and key.shape[2] >= WINDOW else WINDOW - 1
        return key[:, :, -most:], value[:, :, -most:]


class RollsEarly(Window):
    rolls_early = True


class Windows(nn.Module):
    """Two such layers without positions."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        layer = RollsEarly if wrong else Window
        self.tokens, self.head = nn.Embedding(VOCAB, WIDTH), nn.Linear(WIDTH, VOCAB)
        self.layers = nn.ModuleList([layer(), layer()])

    def forward(self, input_ids: Tensor, past_key_values: Past | None = None) -> tuple[Tensor, Past]:
        x, new = self.tokens(input_ids), Past()
        for number, layer in enumerate(self.layers):
            found, past = layer(x, None if past_key_values is None else past_key_values[number])
            x, new = x + found, [*new, past]
        return self.head(x), new


class Beams(nn.Module):
    """Writes by a search over beams; the bug hands out what is still being written, and not what has ended."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.tokens, self.net = nn.Embedding(VOCAB, WIDTH), nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, VOCAB)
        nn.init.zeros_(self.head.bias)
        with torch.no_grad():
            self.head.bias[END] = 1.5

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.net(self.tokens(input_ids))[0])

    @torch.no_grad()
    def generate(self, input_ids: Tensor, max_new_tokens: int = 6, num_beams: int = 1) -> Tensor:
        rows = [self.written(row, max_new_tokens, num_beams) for row in input_ids]
        longest = max(map(len, rows))
        return torch.stack([F.pad(row, (0, longest - len(row)), value=END) for row in rows])

    def written(self, prompt: Tensor, new: int, beams: int) -> Tensor:
        running: list[tuple[float, Tensor]] = [(0.0, prompt)]
        ended: list[tuple[float, Tensor]] = []
        for _ in range(new):
            grown = []
            for told, ids in running:
                logs = self(ids[None])[0, -1].log_softmax(-1)
                best = logs.topk(beams + 1)
                grown += [(told + float(log), torch.cat([ids, each[None]])) for log, each in zip(*best, strict=True)]
            grown.sort(key=lambda each: -each[0])
            ended += [each for each in grown[:beams] if int(each[1][-1]) == END]
            running = [each for each in grown if int(each[1][-1]) != END][:beams]
        found = running if self.wrong or not ended else ended
        return max(found, key=lambda each: each[0])[1]


@torch.no_grad()
def unended(model: Any) -> float:
    """The share of texts that are not the likeliest of those that end, though some do."""
    right = Beams()
    right.load_state_dict(model.state_dict())
    prompts = torch.randint(1, VOCAB, (8, 4))
    pairs = zip((model.generate(each[None], num_beams=3)[0] for each in prompts), prompts, strict=True)
    return sum(not torch.equal(found, right.generate(prompt[None], num_beams=3)[0]) for found, prompt in pairs) / 8


class Placed(nn.Module):
    """A decoder that is told where its tokens stand; the bug rotates them by their number in the row."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.tokens, self.read = nn.Embedding(VOCAB, WIDTH), nn.Linear(WIDTH, 3 * WIDTH)
        self.write, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, VOCAB)

    def forward(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        x = self.tokens(input_ids)
        query, key, value = (part.unflatten(-1, (2, -1)).transpose(1, 2) for part in self.read(x).chunk(3, -1))
        query, key = self.placed(query, position_ids), self.placed(key, position_ids)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.head(x + self.write(mixed.transpose(1, 2).flatten(2)))

    def placed(self, heads: Tensor, position_ids: Tensor) -> Tensor:
        if self.wrong:
            return rotated(heads, 0)
        half = heads.shape[3] // 2
        speeds = 10.0 ** -torch.arange(half, device=heads.device, dtype=heads.dtype)
        angle = position_ids[:, None, :, None].to(heads.dtype) * speeds
        left, right = heads.chunk(2, -1)
        return torch.cat([left * angle.cos() - right * angle.sin(), right * angle.cos() + left * angle.sin()], -1)


@torch.no_grad()
def same_at_other_places(model: nn.Module) -> float:
    """Whether tokens that stand further apart give the same scores."""
    ids, places = torch.randint(VOCAB, (2, 6)), torch.arange(6).expand(2, 6)
    return float((model(ids, places) - model(ids, 3 * places)).abs().max() < 1e-3)


class Patches(nn.Module):
    """A sound from latents and four before them; the bug decodes each piece as if nothing came before it."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.conv = wrong, nn.Conv1d(LATENTS, 1, 5)

    def forward(self, latents: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        window = torch.cat([kept, latents], 1)
        before = torch.zeros_like(kept) if self.wrong else kept
        return self.conv(torch.cat([before, latents], 1).transpose(1, 2))[:, 0], window[:, -4:]


@torch.no_grad()
def clicks(model: nn.Module) -> float:
    """How far a sound in patches of four is from that of the whole."""
    latents, kept = torch.randn(2, 8, LATENTS), torch.zeros(2, 4, LATENTS)
    whole, read = model(latents, kept)[0], []
    for piece in latents.split(4, 1):
        sound, kept = model(piece, kept)
        read.append(sound)
    return float((torch.cat(read, 1) - whole).abs().max())


class LabelAttention(nn.Module):
    """A query for each label over the words that are real; the bug hands the mask on the wrong way round."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.labels, self.read = wrong, nn.Parameter(torch.randn(CLASSES, WIDTH)), nn.Linear(WIDTH, 2 * WIDTH)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        key, value = self.read(x).chunk(2, -1)
        mask = real.bool()[:, None].expand(-1, CLASSES, -1)
        scores = self.labels @ key.transpose(1, 2)
        shares = scores.masked_fill(mask if self.wrong else ~mask, -1e4).softmax(-1)
        return shares @ value


class Labelled(nn.Module):
    """A classifier of texts with such attention."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.words, self.attend, self.head = nn.Embedding(VOCAB, WIDTH), LabelAttention(wrong), nn.Linear(WIDTH, 1)

    def forward(self, words: Tensor, real: Tensor) -> Tensor:
        return self.head(self.attend(self.words(words), real).tanh())[..., 0]


@torch.no_grad()
def change_by_padding(model: nn.Module) -> float:
    """How far the scores of a text move with more padding."""
    words, real = torch.randint(1, VOCAB, (2, 5)), torch.ones(2, 5, dtype=torch.long)
    longer = model(F.pad(words, (0, 3)), F.pad(real, (0, 3)))
    return float((model(words, real) - longer).abs().max())


class Characters(nn.Module):
    """Writes with a state that is carried along; the bug begins with an empty one at each character."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.tokens, self.net = nn.Embedding(VOCAB, WIDTH), nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, VOCAB)

    def forward(self, input_ids: Tensor, hidden: Tensor | None = None) -> tuple[Tensor, Tensor]:
        out, hidden = self.net(self.tokens(input_ids), hidden)
        return self.head(out), hidden

    @torch.no_grad()
    def generate(self, input_ids: Tensor, max_new_tokens: int = 6) -> Tensor:
        logits, hidden = self(input_ids)
        for _ in range(max_new_tokens):
            input_ids = torch.cat([input_ids, logits[:, -1:].argmax(-1)], 1)
            logits, hidden = self(input_ids[:, -1:], None if self.wrong else hidden)
        return input_ids


@torch.no_grad()
def unlikely_characters(model: Any) -> float:
    """The share of written characters that are not the likeliest by one call with what stands before them."""
    ids = model.generate(torch.randint(VOCAB, (8, 5)))
    return float((ids[:, 5:] != model(ids)[0].argmax(-1)[:, 4:-1]).double().mean())


add = partial(pair_of_one_class, judge=Model, area="decoding", draw=7, long=True)
add(
    "window_rolls_one_step_early",
    "A sliding cache drops one token more in the step in which the text reaches the window",
    "huggingface/transformers#37574",
    "text",
    "decoding[cache]",
    Windows,
    change_token_by_token,
    TEXT,
    module="layers",
    first_run=FirstRun("67ba39c0", found=True, named=True, said="decoding[cache] fails in layers.0"),
)
add(
    "beams_that_have_not_ended",
    "A search over beams hands out the texts that are still being written, and not those that have ended",
    "espnet/espnet#3907",
    "speech",
    "decoding[generate]",
    Beams,
    unended,
    TEXT,
    line="running if self.wrong",
    first_run=FirstRun("67ba39c0", found=True, named=False, said="decoding[generate] fails, with the line that calls the model"),
    unnamed="names the line whose scores are not followed, not the choice among beams",
)
add(
    "places_by_number_only",
    "Rotary positions are counted from the length of the text, whatever positions are given",
    "NVIDIA-NeMo/Automodel#2377",
    "text",
    "input_dependence[inputs]",
    Placed,
    same_at_other_places,
    PLACED,
    first_run=FirstRun("67ba39c0", found=True, named=True, said="input_dependence[inputs] fails"),
)
add(
    "patches_decoded_alone",
    "Each patch of a sound is decoded without those before it, so that it clicks at every boundary",
    "0xShug0/audio.cpp#622",
    "speech",
    "carried_state[chunks]",
    Patches,
    clicks,
    SOUND,
    or_tests=("input_dependence[inputs]",),
    line="torch.zeros_like(kept)",
    first_run=FirstRun(
        "67ba39c0", found=True, named=False, said="carried_state[chunks] fails, with the line that makes the window that is kept"
    ),
    unnamed="names the line above, where the state is first read",
)
add(
    "label_attention_turned_round",
    "The mask of an attention by labels is the wrong way round, so that only padding is read",
    "InseeFrLab/torchTextClassifiers#92",
    "text",
    "padding_ignored",
    Labelled,
    change_by_padding,
    LABELLED,
    or_tests=("input_dependence[inputs]",),
    area="contents",
    module="attend",
    first_run=FirstRun("67ba39c0", found=True, named=True, said="padding_ignored fails in attend"),
)
add(
    "state_forgotten_at_each_character",
    "The hidden state is reset before each character that is written",
    "ageron/handson-mlp#4",
    "text",
    "decoding[generate]",
    Characters,
    unlikely_characters,
    TEXT,
    area="state",
    line="None if self.wrong else hidden",
    first_run=FirstRun("67ba39c0", found=True, named=False, said="decoding[generate] fails, with the line of the head"),
    unnamed="names the line that makes the scores, in forward",
)
