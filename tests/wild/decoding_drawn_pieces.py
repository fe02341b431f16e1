"""Reported bugs of models that read in pieces, or that keep something from one call to the next: the fifth draw."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn

from harness.evidence import Status
from tests.planted_bugs.setups import Model

from .decoding_caches import TEXT, Decoder, Layer, change_token_by_token
from .register import FirstRun, pair_of_one_class, task_of, wild

TOKENS, BANDS, FEATURES, WORDS, WIDTH = 6, 4, 5, 23, 12
SOUND = task_of(
    inputs={
        "sound": {"axes": ["batch", "time", BANDS]},
        "last": {"axes": ["batch"], "values": {"ids": TOKENS}, "state": {"from": "next", "initial": "zeros"}},
    },
    outputs={
        "scores": {"axes": ["batch", "time", TOKENS], "kind": "class_scores"},
        "next": {"axes": ["batch"], "kind": "state"},
    },
    axes={"time": {"min": 1, "max": 12, "order": "causal"}},
)
EPISODE = task_of(
    inputs={
        "seen": {"axes": ["batch", "time", FEATURES]},
        "actor": {"axes": [1, "batch", WIDTH], "state": {"from": "actor"}},
        "critic": {"axes": [1, "batch", WIDTH], "state": {"from": "critic"}},
    },
    outputs={
        "actions": {"axes": ["batch", "time", 3], "kind": "class_scores"},
        "value": {"axes": ["batch", "time"], "kind": "values"},
        "actor": {"axes": [1, "batch", WIDTH], "kind": "state"},
        "critic": {"axes": [1, "batch", WIDTH], "kind": "state"},
    },
    axes={"time": {"min": 1, "max": 12, "order": "causal"}},
)
REPLIES = task_of(task_type="sequence_classification", vocab_size=WORDS, max_seq_len=10, num_classes=3)


class MaskOfTheNew(Layer):
    """The mask is cut to as many places as there are new tokens, whatever the cache holds."""

    def hidden(self, new: int, total: int, like: Tensor) -> Tensor:
        return torch.ones(new, new, dtype=torch.bool, device=like.device).triu(1)


def refused_in_pieces(model: nn.Module) -> float:
    """How far the scores are when a text is read in pieces of several tokens; infinite where they are refused."""
    try:
        return change_token_by_token(model, (5, 3, 2))
    except RuntimeError:
        return math.inf


class Transducer(nn.Module):
    """Scores of each frame beside the last token that was written; the bug forgets that token where a piece writes none."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.enter, self.before, self.join = nn.Linear(BANDS, WIDTH), nn.Embedding(TOKENS, WIDTH), nn.Linear(WIDTH, TOKENS)

    def forward(self, sound: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        found, begun = [], last
        for frame in self.enter(sound).unbind(1):
            scores = self.join((frame + self.before(last)).tanh())
            token = scores.argmax(-1)
            last = torch.where(token == 0, last, token)
            found.append(scores)
        if self.wrong:
            last = torch.where(torch.stack(found, 1).argmax(-1).any(1), last, torch.zeros_like(begun))
        return torch.stack(found, 1), last


@torch.no_grad()
def change_by_frames(model: nn.Module) -> float:
    """How much the scores change when each frame is a piece."""
    sound, last, found = 3 * torch.randn(8, 12, BANDS), torch.zeros(8, dtype=torch.long), []
    whole, _ = model(sound, last)
    for frame in sound.split(1, 1):
        scores, last = model(frame, last)
        found.append(scores)
    return float((torch.cat(found, 1) - whole).abs().max())


class Recurrent(nn.Module):
    """An actor and a critic with a memory each; the bug passes the critic's on and computes its value without it."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.actor, self.critic = nn.GRU(FEATURES, WIDTH, batch_first=True), nn.GRU(FEATURES, WIDTH, batch_first=True)
        self.act, self.judge = nn.Linear(WIDTH, 3), nn.Linear(WIDTH, 1)

    def forward(self, seen: Tensor, actor: Tensor | None = None, critic: Tensor | None = None) -> tuple[Tensor, ...]:
        moves, actor = self.actor(seen, actor)
        values, critic = self.critic(seen, None if self.wrong else critic)
        return self.act(moves), self.judge(values)[..., 0], actor, critic


@torch.no_grad()
def change_of_value(model: nn.Module) -> float:
    """How much the values change when an episode is cut."""
    seen = torch.randn(2, 6, FEATURES)
    whole, (_, first, actor, critic) = model(seen)[1], model(seen[:, :3])
    return float((torch.cat([first, model(seen[:, 3:], actor, critic)[1]], 1) - whole).abs().max())


@torch.no_grad()
def change_by_repeating(model: nn.Module) -> float:
    """How far two calls in eval mode are apart."""
    ids = torch.randint(WORDS, (2, 7))
    model.eval()
    return float((model(ids) - model(ids)).abs().max())


class Summary(nn.Module):
    """A text read by a recurrent encoder; the bug begins where the last text of as many rows ended."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.words, self.encoder, self.head = (
            nn.Embedding(WORDS, WIDTH),
            nn.GRU(WIDTH, WIDTH, batch_first=True),
            nn.Linear(WIDTH, 3),
        )
        self.hidden: Tensor | None = None

    def forward(self, input_ids: Tensor) -> Tensor:
        begun = self.hidden if self.hidden is not None and self.hidden.shape[1] == len(input_ids) else None
        _, hidden = self.encoder(self.words(input_ids), begun)
        if self.wrong:
            self.hidden = hidden.detach()
        return self.head(hidden[0])


add = partial(pair_of_one_class, judge=Model, draw=5, long=True)
wild(
    "mask_of_the_new_tokens_alone",
    title="With a cache the mask is cut to the new tokens, so that several at once are refused",
    report="rasbt/LLMs-from-scratch#697",
    area="decoding",
    field="text",
    test="decoding[cache]",
    setup=partial(Model, TEXT),
    buggy=partial(Decoder, MaskOfTheNew),
    sound=Decoder,
    wrong=refused_in_pieces,
    draw=5,
    long=True,
    first_run=FirstRun(
        "b9f3707", found=False, named=False, said="nothing: a model may be written for single tokens with a cache"
    ),
    status=Status.WARN,
    module="layers.0",
)
add(
    "last_token_lost_in_silence",
    "Where a piece of a sound writes no token, the next one begins with a blank in place of the last token",
    "NVIDIA-NeMo/Speech#3673",
    "speech",
    "carried_state[chunks]",
    Transducer,
    change_by_frames,
    SOUND,
    area="decoding",
    line="last = torch.where(torch.stack",
    first_run=FirstRun("b9f3707", found=True, named=False, said="carried_state[chunks] fails in join, which reads the token"),
    unnamed="names where the token is read, not where it is lost",
)
add(
    "memory_of_the_critic_unused",
    "A recurrent critic is given its memory, and computes each value as if an episode began",
    "Unity-Technologies/ml-agents#4941",
    "policies",
    "carried_state[chunks]",
    Recurrent,
    change_of_value,
    EPISODE,
    or_tests=("carried_state[used]",),
    area="decoding",
    line="None if self.wrong else critic",
    first_run=FirstRun("b9f3707", found=True, named=True, said="both tests fail, with the line of the critic"),
)
add(
    "encoder_goes_on_from_the_last_batch",
    "The state of an encoder is kept, and the next batch begins with it",
    "JulesBelveze/text-summarizer#8",
    "text",
    "stateless",
    Summary,
    change_by_repeating,
    REPLIES,
    area="state",
    line="self.hidden = hidden.detach()",
    first_run=FirstRun("b9f3707", found=True, named=False, said="stateless fails in encoder, where the state is read"),
    unnamed="names where the state is read, not where it is kept",
)
