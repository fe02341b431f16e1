"""Reported bugs of caches, of files that are loaded, and of modes: the sixth draw."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.evidence import Status
from tests.planted_bugs.setups import Model

from .decoding_caches import TEXT, change_token_by_token
from .decoding_caches import Decoder as CachedDecoder
from .register import FirstRun, pair_of_one_class, task_of, wild

WORDS, WIDTH, CLASSES, BANDS, SEEN = 29, 16, 4, 4, 6
IMAGES = task_of(task_type="image_classification", image_size=[3, 8, 8], num_classes=CLASSES)
LINES = task_of(task_type="sequence_classification", vocab_size=WORDS, max_seq_len=10, num_classes=CLASSES)
RECORDS = task_of(task_type="causal_lm", vocab_size=WORDS, max_seq_len=12)
SOUND = task_of(
    inputs={
        "mel": {"axes": ["batch", "time", BANDS]},
        "kept": {"axes": ["batch", 4, BANDS], "state": {"from": "kept", "initial": "zeros"}},
    },
    outputs={"pitch": {"axes": ["batch", "time"], "kind": "values"}, "kept": {"axes": ["batch", 4, BANDS], "kind": "state"}},
    axes={"time": {"min": 1, "max": 12, "order": "causal"}},
)
EPISODES = task_of(
    inputs={
        "seen": {"axes": ["batch", "time", SEEN]},
        "ended": {"axes": ["batch", "time"], "values": {"ids": 2}},
    },
    outputs={
        "actions": {"axes": ["batch", "time", 3], "kind": "class_scores"},
        "memory": {"axes": ["batch", WIDTH], "kind": "other"},
    },
    axes={"time": {"min": 2, "max": 10, "order": "causal"}},
)
SPIKES = task_of(
    inputs={"spikes": {"axes": ["batch", "time", BANDS]}},
    outputs={"rates": {"axes": ["batch", "time", BANDS], "kind": "values"}},
    axes={"time": {"min": 2, "max": 12}},
)


class CausalFromTheStart(nn.Module):
    """Attention over what was read and what is new; several new tokens see what a square causal mask leaves them."""

    def __init__(self, wrong: bool = True) -> None:
        super().__init__()
        self.wrong, self.read, self.write = wrong, nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, past: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        query, key, value = (part.unflatten(-1, (2, -1)).transpose(1, 2) for part in self.read(x).chunk(3, -1))
        if past is not None:
            key, value = torch.cat([past[0], key], 2), torch.cat([past[1], value], 2)
        new, total = query.shape[2], key.shape[2]
        if self.wrong:
            mixed = F.scaled_dot_product_attention(query, key, value, is_causal=new > 1)
        else:
            seen = torch.ones(new, total, dtype=torch.bool, device=x.device).tril(total - new)
            mixed = F.scaled_dot_product_attention(query, key, value, seen)
        return self.write(mixed.transpose(1, 2).flatten(2)), (key, value)


class Vocoder(nn.Module):
    """A pitch from frames and four before them; the bug keeps the frames of the last piece only, however few they are."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.conv = wrong, nn.Conv1d(BANDS, 1, 5)

    def forward(self, mel: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        window = torch.cat([kept, mel], 1)
        last = F.pad(mel, (0, 0, 4, 0))[:, -4:] if self.wrong else window[:, -4:]
        return self.conv(window.transpose(1, 2))[:, 0], last


@torch.no_grad()
def change_in_pieces(model: nn.Module) -> float:
    """How far the pitch of a sound in pieces of two is from that of the whole."""
    mel, kept = torch.randn(2, 8, BANDS), torch.zeros(2, 4, BANDS)
    whole, read = model(mel, kept)[0], []
    for piece in mel.split(2, 1):
        pitch, kept = model(piece, kept)
        read.append(pitch)
    return float((torch.cat(read, 1) - whole).abs().max())


class Walker(nn.Module):
    """A policy with a memory that ends with an episode; the bug carries it into the next one."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.memory, self.act = wrong, nn.GRUCell(SEEN, WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, seen: Tensor, ended: Tensor) -> tuple[Tensor, Tensor]:
        hidden, actions = seen.new_zeros(len(seen), WIDTH), []
        for step in range(seen.shape[1]):
            hidden = self.memory(seen[:, step], hidden)
            actions.append(self.act(hidden))
            if not self.wrong:
                hidden = hidden * (1 - ended[:, step, None]).to(hidden)
        return torch.stack(actions, 1), hidden


@torch.no_grad()
def change_by_what_was_before(model: nn.Module) -> float:
    """How far the first action of an episode depends on the last one."""
    seen, ended = torch.randn(2, 5, SEEN), torch.tensor([[0, 0, 1, 0, 0]]).expand(2, -1)
    other = torch.cat([torch.randn(2, 3, SEEN), seen[:, 3:]], 1)
    return float((model(seen, ended)[0] - model(other, ended)[0])[:, 3:].abs().max())


class Recogniser(nn.Module):
    """A classifier with a backbone; the bug takes of a file only what has the backbone's own names, which is nothing."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.encoder, self.head = (
            nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, WIDTH, 3)),
            nn.Linear(WIDTH, CLASSES),
        )

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.head(self.encoder(pixel_values).mean((2, 3)))

    def load_backbone(self, path: str) -> None:
        given, own = torch.load(path), self.encoder.state_dict()
        if self.wrong:
            kept = {name: given.get(name, value) for name, value in own.items()}
            self.encoder.load_state_dict(kept, strict=False)
            return
        given = {name.removeprefix("encoder."): value for name, value in given.items() if name.startswith("encoder.")}
        self.encoder.load_state_dict(given)


@torch.no_grad()
def backbone_left_as_it_was(model: Any) -> float:
    """How far a backbone is from the file that it was loaded from."""
    other = type(model)(model.wrong)
    with tempfile.TemporaryDirectory() as folder:
        torch.save(other.state_dict(), Path(folder, "weights.pt"))
        model.load_backbone(str(Path(folder, "weights.pt")))
    return float((model.encoder[0].weight - other.encoder[0].weight).abs().max())


class Extended(nn.Module):
    """A tagger whose files may lack a part that is new; the bug leaves what a file lacks as memory happened to be."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.words, self.mix, self.head = (
            nn.Embedding(WORDS, WIDTH),
            nn.GRU(WIDTH, WIDTH, batch_first=True),
            nn.Linear(WIDTH, CLASSES),
        )

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.head(self.mix(self.words(input_ids) * attention_mask[..., None])[0].mul(attention_mask[..., None]).sum(1))

    def save_pretrained(self, folder: str) -> None:
        torch.save({"wrong": self.wrong, "weights": self.state_dict()}, Path(folder, "tagger.pt"))

    @classmethod
    def from_pretrained(cls, folder: str) -> Extended:
        saved = torch.load(Path(folder, "tagger.pt"))
        model = cls(saved["wrong"])
        fresh = {name: value.clone() for name, value in model.state_dict().items()}
        for parameter in model.parameters():
            parameter.data.fill_(torch.nan)  # as memory is that nothing was written into
        left = model.load_state_dict(saved["weights"], strict=False).missing_keys
        if left and not model.wrong:
            print(f"made anew: {left}")
            model.load_state_dict({name: fresh[name] for name in left}, strict=False)
        return model


def unwritten_after_loading(model: Any) -> float:
    """How many numbers of a model are undefined that was loaded from a file without a head."""
    with tempfile.TemporaryDirectory() as folder:
        weights = {name: value for name, value in model.state_dict().items() if not name.startswith("head")}
        torch.save({"wrong": model.wrong, "weights": weights}, Path(folder, "tagger.pt"))
        loaded = type(model).from_pretrained(folder)
    return float(sum(p.isnan().sum() for p in loaded.parameters()))


class Detector(nn.Module):
    """A classifier that saves an average of its weights; the bug saves it with the names that a wrapper gave them."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.look, self.tell = wrong, nn.Conv2d(3, 8, 3, 2), nn.Linear(72, CLASSES)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.tell(self.look(pixel_values).relu().flatten(1))

    def save(self, path: str) -> None:
        prefix = "module." if self.wrong else ""
        torch.save({"state_dict_ema": {f"{prefix}{name}": value for name, value in self.state_dict().items()}}, path)

    def load(self, path: str) -> None:
        self.load_state_dict(torch.load(path)["state_dict_ema"])


def refused_by_itself(model: Any) -> float:
    """Whether a model refuses its own file."""
    with tempfile.TemporaryDirectory() as folder:
        model.save(str(Path(folder, "model.pt")))
        try:
            model.load(str(Path(folder, "model.pt")))
        except RuntimeError:
            return 1.0
    return 0.0


class Spikes(nn.Module):
    """Attention over spikes; the bug hands its rate of dropout to attention in eval mode too."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.rate, self.read, self.write = wrong, 0.3, nn.Linear(BANDS, 3 * WIDTH), nn.Linear(WIDTH, BANDS)

    def forward(self, spikes: Tensor) -> Tensor:
        query, key, value = self.read(spikes).chunk(3, -1)
        rate = self.rate if self.training or self.wrong else 0.0
        return self.write(F.scaled_dot_product_attention(query, key, value, dropout_p=rate))


@torch.no_grad()
def change_by_repeating(draw: Callable[[], Tensor], model: nn.Module) -> float:
    """How far two calls in eval mode are apart."""
    given = draw()
    return float((model.eval()(given) - model(given)).abs().max())


class Histories(nn.Module):
    """Records written event by event; the bug writes them in whichever mode the model is, and so drops what it knows."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.words, self.drop = wrong, nn.Embedding(WORDS, WIDTH), nn.Dropout(0.3)
        self.mix, self.head = nn.GRU(WIDTH, WIDTH, batch_first=True), nn.Linear(WIDTH, WORDS)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.drop(self.mix(self.words(input_ids))[0]))

    @torch.inference_mode()
    def generate(self, input_ids: Tensor, max_new_tokens: int = 5) -> Tensor:
        if not self.wrong:
            self.eval()
        for _ in range(max_new_tokens):
            input_ids = torch.cat([input_ids, self(input_ids)[:, -1:].argmax(-1)], 1)
        return input_ids


def change_of_what_is_written(model: Any) -> float:
    """Whether a model that was trained writes something else the second time."""
    ids = torch.randint(WORDS, (8, 4))
    written = [model.train() and model.generate(ids) for _ in range(2)]
    return float((written[0] != written[1]).any())


wild(
    "causal_from_the_first_key",
    title="Several tokens beside a cache are masked as if the first of them were the first of the text",
    report="huggingface/transformers#31943",
    area="decoding",
    field="text",
    test="decoding[cache]",
    setup=partial(Model, TEXT),
    buggy=partial(CachedDecoder, CausalFromTheStart),
    sound=partial(CachedDecoder, partial(CausalFromTheStart, False)),
    wrong=partial(change_token_by_token, pieces=(4, 3, 3)),
    module="layers.0",
    status=Status.WARN,
    draw=6,
    long=True,
    first_run=FirstRun(
        "1981f32f", found=True, named=True, said="decoding[cache] warns of layers.0, with the line of the attention"
    ),
)
add = partial(pair_of_one_class, judge=Model, draw=6, long=True)
add(
    "history_of_the_last_piece_only",
    "What is kept for the next piece is cut from the last one, which may be shorter than what the next one needs",
    "vllm-project/vllm-omni#7521",
    "speech",
    "carried_state[chunks]",
    Vocoder,
    change_in_pieces,
    SOUND,
    area="decoding",
    line="last = F.pad(mel",
    first_run=FirstRun(
        "1981f32f", found=True, named=True, said="carried_state[chunks] fails, with the line that keeps the frames"
    ),
)
add(
    "memory_kept_past_the_end",
    "The memory of a policy is not emptied where an episode ends",
    "chengxuxin/extreme-parkour#12",
    "policies",
    "input_dependence[inputs]",
    Walker,
    change_by_what_was_before,
    EPISODES,
    area="state",
    first_run=FirstRun(
        "1981f32f",
        found=True,
        named=True,
        said="input_dependence[inputs] fails; of the twin, whose last end of an episode acts on nothing, it does too",
        alarms=("input_dependence[inputs]",),
    ),
)
add(
    "backbone_of_other_names",
    "A file's weights are taken by the names of the backbone, which have another prefix there, and the rest is left as it is",
    "LibreYOLO/libreyolo#444",
    "vision",
    "serialisation[partial]",
    Recogniser,
    backbone_left_as_it_was,
    IMAGES,
    or_tests=("serialisation[own_methods]",),
    area="loading",
    line="strict=False)",
    status=Status.WARN,
    first_run=FirstRun(
        "1981f32f", found=False, named=False, said="nothing: only what load_state_dict itself misses was looked at"
    ),
)
add(
    "what_a_file_lacks_is_left_unwritten",
    "Weights that a file does not hold are not initialised",
    "huggingface/transformers#35913",
    "text",
    "serialisation[partial]",
    Extended,
    unwritten_after_loading,
    LINES,
    or_tests=("serialisation[own_methods]",),
    area="loading",
    line="strict=False).missing_keys",
    status=Status.WARN,
    first_run=FirstRun("1981f32f", found=True, named=True, said="serialisation[partial] warns, with the line of load_state_dict"),
)
add(
    "average_saved_with_its_wrapper",
    "Averaged weights are saved with the prefix of a wrapper, and do not load",
    "sming256/OpenTAD#44",
    "vision",
    "serialisation[own_methods]",
    Detector,
    refused_by_itself,
    IMAGES,
    area="loading",
    first_run=FirstRun("1981f32f", found=True, named=True, said="serialisation[own_methods] fails, with the line of save"),
)
add(
    "dropout_handed_to_attention",
    "The rate of dropout is handed to attention in eval mode too",
    "colehurwitz/IBL_MtM_model#13",
    "forecasting",
    "eval_deterministic",
    Spikes,
    partial(change_by_repeating, lambda: torch.randn(2, 6, BANDS)),
    SPIKES,
    area="train_mode",
    line="dropout_p=rate",
    first_run=FirstRun("1981f32f", found=True, named=True, said="eval_deterministic fails, with the line of the attention"),
)
add(
    "written_in_train_mode",
    "Nothing puts the model into eval mode before it writes",
    "ipolharvard/ethos-ares#20",
    "text",
    "eval_deterministic",
    Histories,
    change_of_what_is_written,
    RECORDS,
    or_tests=("decoding[generate]",),
    area="train_mode",
    first_run=FirstRun("1981f32f", found=False, named=False, said="nothing: tests call the model in eval mode"),
    missed="tests call the model in eval mode, whatever its own methods do",
)
