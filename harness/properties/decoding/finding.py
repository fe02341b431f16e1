"""Which decoder a model has: found from the names of its parameters and methods, and tried."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import product
from typing import Any

from torch import nn

from harness.batches import Batch
from harness.errors import OutputError
from harness.properties.calling import ModelRaisedError
from harness.properties.decoding import Text, whole_text
from harness.properties.decoding.caches import Decoder, HeldCache, NoDecoder, PassedCache, PassedSession, StepMethod, candidates
from harness.properties.noise import difference
from harness.properties.subject import Subject

_CACHE = re.compile(
    r"(?!encoder|cross|input|output|return|use|image|audio|vision)([a-z]+_)*"
    r"(past(_key_values?|_kvs?|s)?|caches?|cache_params|states?|hiddens?|memory)|h[xc0]?|c[x0]"
)
"""Parameters of forward that take what an earlier call returned. Memories of whole segments are none: they give another result by design."""

_SWITCH = re.compile(r"use_cache|use_kv_cache|return_(prev_)?(kv_?)?(caches?|states?|hiddens?|past|past_key_values)")
"""Parameters that switch the cache on."""

_OFFSET = re.compile(
    r"(start|cur|curr|current|token|time|frame)_?(pos|position|offset)|pos(ition)?_offset|offset|start|pos|position|past_len(gth)?|"
    r"cache_len(gth)?|seq(len)?_offset|n_past|past_seen_tokens|cur_len|step|index"
)
"""Parameters that say how many tokens were read before."""

_PLACES = re.compile(r"input_pos|cache_position|cache_positions")
"""Parameters that say at which place of the cache each token stands."""

_POSITIONS = re.compile(r"position_ids?|positions?|pos(_ids)?")
"""Parameters that take the place of each token in its own text."""

_SET_UP = (
    "set_kv_cache",
    "setup_caches",
    "setup_cache",
    "setup_kv_cache",
    "init_cache",
    "init_kv_cache",
    "enable_cache",
    "enable_kv_cache",
)
_RESET = (
    "reset_caches",
    "reset_cache",
    "reset_kv_cache",
    "reset_state",
    "reset_states",
    "reset_hidden",
    "clear_cache",
    "clear_kv_cache",
    "clear_state",
)
_FIRST_STATE = ("default_state", "initial_state", "init_state", "init_hidden", "initial_hidden", "zero_state", "begin_state")

_HELD = re.compile(r"_?(kv|k|v|key|value|keys|values)_?cache|_?cache_?(kv|k|v|key|value|keys|values)")
"""Attributes of modules that keep keys and values."""


def find_decoder(subject: Subject) -> Decoder | NoDecoder:
    """How a model reads a text piece by piece; it is found out once."""
    if subject.shared.decoder is None:
        subject.shared.decoder = _find(subject)
    found: Decoder | NoDecoder = subject.shared.decoder
    return found


def _find(subject: Subject) -> Decoder | NoDecoder:
    text = whole_text(subject)
    if text is None:
        return NoDecoder("no text can be cut along a causal axis that inputs and output share")
    if not subject.adapter.takes_more(subject.model):
        return NoDecoder(
            "no cache can be passed through the config's own `adapter`, or to a forward that takes the batch in one dict"
        )
    reason = "forward neither takes nor returns a cache, and the model has no method that makes one"
    found: list[tuple[float, Decoder]] = []
    for decoder in _possible(subject):
        if found and type(found[0][1]) is not type(decoder):
            break
        try:
            found.append((_difference(subject, text, decoder), decoder))
            if found[-1][0] <= subject.bound("decoding"):
                return decoder
        except (ModelRaisedError, OutputError, TypeError) as error:
            told = f"forward raises when it reads on with {decoder.title}: {error}"
            reason = str(error) if isinstance(error, OutputError) else told
    # Of several ways, such as the places that a cache may have in a tuple, the one that comes nearest to the whole is meant.
    return min(found, key=lambda each: each[0])[1] if found else NoDecoder(reason)


def _difference(subject: Subject, text: Text, decoder: Decoder) -> float:
    """How far the last place is from that of the whole, after all others were read in one call, or where that is refused, one by one.

    Raises:
        ModelRaisedError: The model cannot be called so.
        OutputError: It returns no cache.
    """
    batch = subject.batch()
    length = text.length_of(batch)
    try:
        return _difference_at_end(subject, text, decoder, batch, [length - 1, 1])
    except ModelRaisedError:
        if length < 3:
            raise
        return _difference_at_end(subject, text, decoder, batch, [1] * length)


def _difference_at_end(subject: Subject, text: Text, decoder: Decoder, batch: Batch, sizes: list[int]) -> float:
    session = decoder.begin(subject, subject.fresh(), text.rows_of(batch), sum(sizes))
    for number, size in enumerate(sizes):
        start = sum(sizes[:number])
        last = session.read(text.piece(batch, start, size), start)
        if last.ndim <= text.along or not last.shape[text.along]:
            raise OutputError(f"forward answers nothing to a piece that is read with {decoder.title}")
        if isinstance(decoder, PassedCache) and decoder.takes_whole and last.shape[text.along] > size:
            raise OutputError(f"forward reads the whole text again with {decoder.title}")
        if number == 0 and isinstance(session, PassedSession) and not session.cache:
            raise OutputError(f"forward takes {decoder.title} and returns nothing that could be given back")
    whole = subject.logits(batch)
    return difference(text.of_output(whole, sum(sizes) - 1, 1), text.of_output(last, last.shape[text.along] - 1, 1))


def _possible(subject: Subject) -> Iterator[Decoder]:
    """The ways that the names of a model's parameters and methods speak of, the likeliest first."""
    model = subject.model
    parameters = forward_parameters(model)
    switches = tuple(name for name in parameters if _SWITCH.fullmatch(name))
    offset = next((name for name, each in parameters.items() if _takes_offset(name, each)), "")
    given = set(subject.adapter.plan(model).fields)
    taken = tuple(name for name, each in parameters.items() if _takes_cache(name, each) and name not in given)
    if taken:
        decoder = PassedCache(taken, switches, offset)
        for place, starts in product(_places(subject, decoder), dict.fromkeys([offset, ""])):
            yield replace(decoder, place=place, offset=starts)
            yield replace(decoder, place=place, offset=starts, takes_whole=True)
    set_up, reset = (next((name for name in names if callable(getattr(model, name, None))), "") for names in (_SET_UP, _RESET))
    places = next((name for name in parameters if _PLACES.fullmatch(name)), "")
    if not taken and (set_up or reset or keeps_keys(model)) and (offset or places or switches):
        yield HeldCache(set_up, reset, switches, offset, places)
        if places:
            yield HeldCache(set_up, reset, switches, offset, places, by_row=True)
    yield from _steps(model)


def _steps(model: nn.Module) -> Iterator[Decoder]:
    """The ways to call a method ``step``: with a state that it returns, or with one that the model keeps until it is reset."""
    step = getattr(model, "step", None)
    if not callable(step):
        return
    taken, required = list(inspect.signature(step).parameters), _required(step)
    first, reset = (
        next((name for name in names if callable(getattr(model, name, None))), "") for names in (_FIRST_STATE, _RESET)
    )
    if len(required) <= 2 <= len(taken) and (first or _CACHE.fullmatch(taken[1])):
        yield StepMethod(first)
    elif len(required) == 1 and reset:
        yield StepMethod(reset=reset)
        yield StepMethod(reset=reset, keeps_axis=True)


def forward_parameters(model: nn.Module) -> Mapping[str, inspect.Parameter]:
    """The parameters of a model's forward; of a wrapper that passes on whatever it is given, such as peft's, those of what it wraps."""
    found = inspect.signature(model.forward).parameters
    wrapped = getattr(model, "get_base_model", None)
    if callable(wrapped) and all(each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD) for each in found.values()):
        return inspect.signature(wrapped().forward).parameters
    return found


def positions_of(subject: Subject) -> str:
    """The parameter of forward that may be given the place of each token in its own text; empty for none."""
    taken = subject.adapter.plan(subject.model).fields
    names = forward_parameters(subject.model)
    return next((name for name in names if _POSITIONS.fullmatch(name) and name not in taken), "")


def _takes_cache(name: str, parameter: inspect.Parameter) -> bool:
    empty = parameter.default is None or parameter.default in ((), [], {})
    return bool(_CACHE.fullmatch(name)) and empty


def _takes_offset(name: str, parameter: inspect.Parameter) -> bool:
    counts = type(parameter.default) is int and parameter.default == 0
    return bool(_OFFSET.fullmatch(name)) and (counts or (name == "start_pos" and parameter.default is None))


def _places(subject: Subject, decoder: PassedCache) -> Iterator[int]:
    """The places of what may be the cache in what forward returns, the last first."""
    session = decoder.begin(subject, subject.fresh(), 1, 1)
    further: dict[str, Any] = dict.fromkeys(decoder.switches, True)
    try:
        logits, returned = subject.call(subject.batch(), further, session.model)
    except (ModelRaisedError, OutputError):
        return
    yield from reversed(range(max(1, len(candidates(returned, logits, decoder.parameters)))))


def keeps_keys(model: nn.Module) -> bool:
    """Whether a module has an attribute or a buffer that is named as a cache of keys and values."""
    return any(
        _HELD.fullmatch(name)
        for module in model.modules()
        for name in (*vars(module), *dict(module.named_buffers(recurse=False)))
    )


def _required(method: Callable[..., Any]) -> list[str]:
    return [name for name, each in inspect.signature(method).parameters.items() if each.default is each.empty]
