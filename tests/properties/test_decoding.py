"""Which decoders and loops `decoding` knows, and what it leaves out with a reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.adapters import Adapter, make_adapter
from harness.evidence import Evidence, Status
from harness.properties.decoding.caches import Decoder, HeldCache, NoDecoder, PassedCache, StepMethod
from harness.properties.decoding.finding import find_decoder
from harness.properties.decoding.generation import greedy_is_likeliest
from harness.properties.decoding.pieces import another_request, cache_equals_whole
from harness.properties.subject import Subject
from harness.tasks import TaskSpec, TaskType

TASK = TaskSpec(TaskType.CAUSAL_LM, vocab_size=13, max_seq_len=9)


class Recurrent(nn.Module):
    """A recurrent language model; subclasses say how its state is passed on."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.rnn, self.head = nn.Embedding(13, 6), nn.LSTM(6, 6, batch_first=True), nn.Linear(6, 13)

    def run(self, ids: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        out, state = self.rnn(self.tokens(ids), state)
        return self.head(out), state


class OneState(Recurrent):
    def forward(self, input_ids: Tensor, hidden: Any = None) -> tuple[Tensor, Any]:
        return self.run(input_ids, hidden)


class TwoStates(Recurrent):
    def forward(self, input_ids: Tensor, h0: Any = None, c0: Any = None) -> tuple[Tensor, Tensor, Tensor]:
        logits, (hidden, cell) = self.run(input_ids, None if h0 is None else (h0, c0))
        return logits, hidden, cell


class BesideWeights(Recurrent):
    """What looks like the state comes after it in the tuple."""

    def forward(self, input_ids: Tensor, state: Any = None) -> tuple[Tensor, Any, Any]:
        logits, state = self.run(input_ids, state)
        return logits, state, tuple(0 * part for part in state)


class Kept(Recurrent):
    def forward(self, input_ids: Tensor, use_cache: bool = False) -> Tensor:
        logits, state = self.run(input_ids, self.state if use_cache else None)
        self.state = state if use_cache else self.state
        return logits

    def reset_cache(self) -> None:
        self.state = None

    def __init__(self) -> None:
        super().__init__()
        self.state: Any = None


class Stepping(Recurrent):
    def forward(self, input_ids: Tensor) -> Tensor:
        return self.run(input_ids)[0]

    def init_state(self, batch_size: int) -> tuple[Tensor, Tensor]:
        return torch.zeros(1, batch_size, 6, dtype=self.head.weight.dtype), torch.zeros(
            1, batch_size, 6, dtype=self.head.weight.dtype
        )

    def step(self, token: Tensor, state: Any) -> tuple[Tensor, Any]:
        logits, state = self.run(token[:, None], state)
        return logits[:, 0], state


class WithoutCache(Recurrent):
    def forward(self, input_ids: Tensor) -> Tensor:
        return self.run(input_ids)[0]


class TakesAndReturnsNothing(Recurrent):
    def forward(self, input_ids: Tensor, cache: Any = None) -> Tensor:
        return self.run(input_ids, cache)[0]


class AnotherLayout(Recurrent):
    """The state is returned with its rows first, which the recurrent layer refuses."""

    def forward(self, input_ids: Tensor, hidden: Any = None) -> tuple[Tensor, Any]:
        logits, state = self.run(input_ids, hidden)
        return logits, tuple(part.transpose(0, 1) for part in state)


class OneByOne(Recurrent):
    """Several tokens at once are refused when there is a state."""

    def forward(self, input_ids: Tensor, hidden: Any = None) -> tuple[Tensor, Any]:
        if hidden is not None and input_ids.shape[1] > 1:
            raise ValueError("one token at a time")
        return self.run(input_ids, hidden)


def subject_of(build: Callable[[], nn.Module], adapter: Adapter | None = None) -> Subject:
    torch.manual_seed(0)
    return Subject(build().eval(), adapter or make_adapter(TASK), TASK)


@pytest.mark.parametrize(
    ("build", "decoder"),
    [(OneState, PassedCache), (TwoStates, PassedCache), (BesideWeights, PassedCache), (Kept, HeldCache), (Stepping, StepMethod)],
)
def test_a_decoder_is_found_and_sound(build: Callable[[], nn.Module], decoder: type[Decoder]) -> None:
    subject = subject_of(build)
    assert isinstance(find_decoder(subject), decoder)
    found = cache_equals_whole(subject, subject.typical)
    assert found.status is Status.OK, found.explain()


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (WithoutCache, "neither takes nor returns a cache"),
        (TakesAndReturnsNothing, "`cache` and returns nothing"),
        (AnotherLayout, "raises when it reads on with `hidden`"),
    ],
)
def test_what_has_no_decoder_is_skipped_with_the_reason(build: Callable[[], nn.Module], reason: str) -> None:
    subject = subject_of(build)
    found = cache_equals_whole(subject, subject.typical)
    assert found.status is Status.SKIPPED
    assert reason in found.message
    assert "\n" not in found.message


def test_a_model_that_takes_single_tokens_is_not_judged_on_several() -> None:
    subject = subject_of(OneByOne)
    assert cache_equals_whole(subject, subject.typical).status is Status.OK


def test_an_adapter_of_the_users_passes_no_cache() -> None:
    class Own(Adapter):
        def logits(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
            logits: Tensor = model(batch["input_ids"])[0]
            return logits

    assert isinstance(find_decoder(subject_of(OneState, Own(TASK))), NoDecoder)


def written(generate: Callable[..., Tensor]) -> Evidence:
    """What is found of a model with a ``generate``."""
    return greedy_is_likeliest(subject_of(type("Writer", (WithoutCache,), {"generate": generate})))


def sampled(model: nn.Module, ids: Tensor, count: int, temperature: float) -> Tensor:
    for _ in range(count):
        ids = torch.cat([ids, torch.multinomial((model(ids)[:, -1] / temperature).softmax(-1), 1)], 1)
    return ids


def test_generate_that_can_only_sample_is_skipped() -> None:
    def generate(self: nn.Module, ids: Tensor, max_new_tokens: int) -> Tensor:
        return sampled(self, ids, max_new_tokens, 1.0)

    found = written(generate)
    assert found.status is Status.SKIPPED
    assert "samples" in found.message


def test_a_low_temperature_makes_it_write_the_likeliest() -> None:
    def generate(self: nn.Module, ids: Tensor, max_new_tokens: int, temperature: float = 1.0) -> Tensor:
        return sampled(self, ids, max_new_tokens, temperature)

    found = written(generate)
    assert found.status is Status.OK, found.explain()
    assert "near ties" in found.message


def test_generate_that_asks_for_more_is_skipped() -> None:
    def generate(self: nn.Module, ids: Tensor, max_new_tokens: int, tokenizer: object) -> Tensor:
        return ids

    found = written(generate)
    assert found.status is Status.SKIPPED
    assert "`tokenizer`" in found.message


def test_tokens_that_are_nearly_as_likely_count_as_right() -> None:
    class Tied(WithoutCache):
        def __init__(self) -> None:
            super().__init__()
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)

        def generate(self, ids: Tensor, max_new_tokens: int) -> Tensor:
            return torch.cat([ids, torch.full((len(ids), max_new_tokens), 5)], 1)

    found = greedy_is_likeliest(subject_of(Tied))
    assert found.status is Status.OK
    assert "100% near ties" in found.message


class OffsetGiven(WithoutCache):
    """Positions begin where the argument says; ``step`` has another meaning, and stays as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Embedding(9, 6)

    def forward(self, input_ids: Tensor, pos: int = 0, hidden: Any = None) -> tuple[Tensor, Any]:  # type: ignore[override]
        places = self.places(torch.arange(pos, pos + input_ids.shape[1]))
        out, state = self.rnn(self.tokens(input_ids) + places, hidden)
        return self.head(out), state


class AnotherStep(Recurrent):
    def forward(self, input_ids: Tensor, step: int = 0, hidden: Any = None) -> tuple[Tensor, Any]:
        logits, state = self.run(input_ids, hidden)
        return logits * (1 + step), state


@pytest.mark.parametrize(("build", "offset"), [(OffsetGiven, "pos"), (AnotherStep, "")])
def test_an_argument_counts_what_was_read_where_that_is_right(build: Callable[[], nn.Module], offset: str) -> None:
    subject = subject_of(build)
    decoder = find_decoder(subject)
    assert isinstance(decoder, PassedCache)
    assert decoder.offset == offset
    assert cache_equals_whole(subject, subject.typical).status is Status.OK


def test_positions_that_a_loop_passes_make_it_a_warning() -> None:
    class Positions(OffsetGiven):
        def forward(self, input_ids: Tensor, positions: Tensor | None = None, hidden: Any = None) -> tuple[Tensor, Any]:  # type: ignore[override]
            places = torch.arange(input_ids.shape[1]) if positions is None else positions
            out, state = self.rnn(self.tokens(input_ids) + self.places(places), hidden)
            return self.head(out), state

    subject = subject_of(Positions)
    found = cache_equals_whole(subject, subject.typical)
    assert found.status is Status.WARN
    assert "`positions` is passed" in found.message


def test_a_cache_that_nothing_empties_is_not_judged_on_a_second_text() -> None:
    class NeverEmptied(Recurrent):
        def __init__(self) -> None:
            super().__init__()
            self.kv_cache: Any = None

        def forward(self, input_ids: Tensor, use_cache: bool = False) -> Tensor:
            logits, state = self.run(input_ids, self.kv_cache if use_cache else None)
            self.kv_cache = state if use_cache else self.kv_cache
            return logits

    subject = subject_of(NeverEmptied)
    assert cache_equals_whole(subject, subject.typical).status is Status.OK
    found = another_request(subject, subject.typical)
    assert found.status is Status.SKIPPED
    assert "empty its cache" in found.message


@pytest.mark.long  # it imports transformers
def test_generate_of_transformers_is_judged_by_its_logits() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 13}

    class WrongPositions(transformers.LlamaForCausalLM):  # type: ignore[misc, name-defined]
        def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> Any:
            prepared = super().prepare_inputs_for_generation(*args, **kwargs)
            return {**prepared, "position_ids": torch.zeros_like(prepared["input_ids"])}

    def found(cls: type[nn.Module]) -> Evidence:
        return greedy_is_likeliest(subject_of(lambda: cls(transformers.LlamaConfig(**sizes, pad_token_id=0))))

    assert found(transformers.LlamaForCausalLM).status is Status.OK
    wrong = found(WrongPositions)
    assert wrong.status is Status.FAIL
    assert wrong.code == "other_logits_than_forward"


def test_a_wrapper_that_passes_all_on_is_looked_through() -> None:
    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = OneState()

        def get_base_model(self) -> nn.Module:
            return self.inner

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return self.inner(*args, **kwargs)

    subject = subject_of(Wrapper)
    decoder = find_decoder(subject)
    assert isinstance(decoder, PassedCache)
    assert decoder.parameters == ("hidden",)
    assert cache_equals_whole(subject, subject.typical).status is Status.OK
