"""Which decoder a model has: found from the names of its parameters and methods, and tried."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from torch import nn

from harness.errors import OutputError
from harness.properties.calling import ModelRaisedError
from harness.properties.decoding.caches import Decoder, HeldCache, NoDecoder, PassedCache, StepMethod, candidates
from harness.properties.decoding.texts import Text, whole_text
from harness.properties.subject import Subject

_CACHE = re.compile(
    r"(prev_|last_|initial_|init_|layer_)?"
    r"(past(_key_values?|_kvs?|s)?|kv_?caches?|key_value_caches?|caches?|cache_params|states?|hiddens?|hidden_states?_in|hx|h0?|hc|mems|memories|inner_state)"
)
"""Parameters of forward that take what an earlier call returned."""

_SWITCH = re.compile(
    r"use_cache|use_kv_cache|use_mems|return_(prev_)?(kv_?)?(caches?|states?|hiddens?|past|mems|memories|past_key_values)"
)
"""Parameters that switch the cache on."""

_OFFSET = re.compile(
    r"start_pos|pos_offset|position_offset|offset|start|past_len(gth)?|cache_len(gth)?|seq(len)?_offset|cur_pos|curr_pos"
)
"""Parameters that say how many tokens were read before."""

_PLACES = re.compile(r"input_pos|cache_position|cache_positions")
"""Parameters that say at which place of the cache each token stands."""

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
_RESET = ("reset_caches", "reset_cache", "reset_kv_cache", "reset_state", "reset", "clear_cache", "clear_kv_cache")
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
    for decoder in _possible(subject):
        try:
            return _tried(subject, text, decoder)
        except (ModelRaisedError, OutputError, TypeError) as error:
            told = f"forward raises when it reads on with {decoder.title}: {error}"
            reason = str(error) if isinstance(error, OutputError) else told
    return NoDecoder(reason)


def _tried(subject: Subject, text: Text, decoder: Decoder) -> Decoder:
    """A decoder that read all but one place, and then the last one.

    Raises:
        ModelRaisedError: The model cannot be called so.
        OutputError: It returns no cache.
    """
    batch = subject.batch()
    rows, length = text.rows_of(batch), text.length_of(batch)
    session = decoder.begin(subject, subject.fresh(), rows, length)
    session.read(text.piece(batch, 0, length - 1), 0)
    session.read(text.piece(batch, length - 1, 1), length - 1)
    return decoder


def _possible(subject: Subject) -> Iterator[Decoder]:
    """The ways that the names of a model's parameters and methods speak of, the likeliest first."""
    model = subject.model
    parameters = inspect.signature(model.forward).parameters
    switches = tuple(name for name in parameters if _SWITCH.fullmatch(name))
    offset = next((name for name, each in parameters.items() if _OFFSET.fullmatch(name) and each.default in (0, None)), "")
    given = set(subject.adapter.plan(model).fields)
    taken = [name for name, each in parameters.items() if _takes_cache(name, each) and name not in given]
    for parameter in taken:
        found = PassedCache(parameter, switches, offset)
        for place in _places(subject, found):
            yield replace(found, place=place)
    set_up, reset = (next((name for name in names if callable(getattr(model, name, None))), "") for names in (_SET_UP, _RESET))
    places = next((name for name in parameters if _PLACES.fullmatch(name)), "")
    if not taken and (set_up or reset or keeps_keys(model)) and (offset or places or switches):
        yield HeldCache(set_up, reset, switches, offset, places)
        if places:
            yield HeldCache(set_up, reset, switches, offset, places, by_row=True)
    step = getattr(model, "step", None)
    if callable(step) and len(_required(step)) <= 2 <= len(inspect.signature(step).parameters):
        first = next((name for name in _FIRST_STATE if callable(getattr(model, name, None))), "")
        if first or _CACHE.fullmatch(list(inspect.signature(step).parameters)[1]):
            yield StepMethod(first)


def _takes_cache(name: str, parameter: inspect.Parameter) -> bool:
    empty = parameter.default is None or parameter.default in ((), [], {})
    return bool(_CACHE.fullmatch(name)) and empty


def _places(subject: Subject, decoder: PassedCache) -> Iterator[int]:
    """The places of what may be the cache in what forward returns, the last first."""
    session = decoder.begin(subject, subject.fresh(), 1, 1)
    further: dict[str, Any] = dict.fromkeys(decoder.switches, True)
    try:
        logits, returned = subject.call(subject.batch(), further, session.model)
    except (ModelRaisedError, OutputError):
        return
    yield from reversed(range(max(1, len(candidates(returned, logits, decoder.parameter)))))


def keeps_keys(model: nn.Module) -> bool:
    """Whether a module has an attribute or a buffer that is named as a cache of keys and values."""
    return any(
        _HELD.fullmatch(name)
        for module in model.modules()
        for name in (*vars(module), *dict(module.named_buffers(recurse=False)))
    )


def _required(method: Callable[..., Any]) -> list[str]:
    return [name for name, each in inspect.signature(method).parameters.items() if each.default is each.empty]
