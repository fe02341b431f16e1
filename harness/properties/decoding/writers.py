"""How ``generate`` is called so that it writes the likeliest token at each step: that of transformers, and those of others."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from harness.batches import Batch
from harness.properties.calling import ModelRaisedError, blaming
from harness.properties.decoding import Text
from harness.properties.subject import Subject
from harness.runtime import seeded
from harness.wording import listed

_COUNT = re.compile(r"(max_|num_|n_)?(new_tokens|tokens|steps|length|len|gen_len|seq_len)|num_new_tokens|num_generate")
"""Arguments that say how many tokens are written."""

_GREEDY: dict[str, Any] = {"do_sample": False, "sample": False, "greedy": True, "top_k": 1, "topk": 1}
"""Arguments that make each token the likeliest, the surest first."""

_SWITCH = re.compile(r"use_cache|use_kv_cache|cache_kv|kv_cache|use_kv")
"""Arguments that switch the cache on."""

_BEAMS = re.compile(r"(num_|n_)?beams?(_size|_width)?")
"""Arguments that say how many texts a search keeps at each step."""

_END = re.compile(r"(eos|stop|end)(_token)?(_id)?")
"""Arguments that name the token which ends a text."""

_TEMPERATURES = (0.0, 1e-4)

NEW, FEW_NEW = 8, 4
"""Most tokens that are written, and by a large model."""


class CannotWriteError(Exception):
    """Why ``generate`` cannot be judged."""


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        ids: Prompts with what follows them (int64 ``[B, P + N]``).
        count: How many tokens are new.
        logits: What each new token was chosen by (``[B, N, V]``); ``None`` where that is not told.
    """

    ids: Tensor
    count: int
    logits: Tensor | None = None


class Writer(Protocol):
    """Calls ``generate``.

    Attributes:
        new: How many tokens are written.
        is_seq2seq: Whether the prompt is a source, and the text begins without one.
        switches: Further ways to write, each in words, with an argument and its value.
        usual: The arguments among them that every model is made for.
        is_for_left_padding: Whether it says that prompts are to be padded on the left.
        beams: The argument for how many texts a search keeps at each step; empty where there is none.
    """

    new: int
    is_seq2seq: bool
    switches: tuple[tuple[str, str, Any], ...]
    usual: frozenset[str]
    is_for_left_padding: bool
    beams: str

    def takes(self, name: str) -> bool:
        """Whether it takes an input by name."""

    def write(self, model: nn.Module, batch: Batch, keys: Mapping[str, Any]) -> Written:
        """Writes on.

        Raises:
            ModelRaisedError: The model's code raised.
            CannotWriteError: What it returns is no text.
        """


def find_writer(subject: Subject, text: Text) -> Writer:
    """How ``generate`` of a model is called.

    Raises:
        CannotWriteError: It samples, or asks for what is not known.
    """
    wrapped = getattr(subject.model, "get_base_model", None)
    model = wrapped() if callable(wrapped) else subject.model
    own = inspect.unwrap(getattr(type(model), "generate", subject.model.generate))  # type: ignore[arg-type]
    of_transformers = getattr(own, "__module__", "").startswith("transformers.")
    return TransformersWriter(subject, text) if of_transformers else OwnWriter(subject, text)


class TransformersWriter:
    """Calls ``generate`` as transformers defines it.

    Args:
        subject: The model.
        text: What it writes.
    """

    switches: tuple[tuple[str, str, Any], ...] = (
        ("without a cache", "use_cache", False),
        ("with a static cache", "cache_implementation", "static"),
    )
    usual = frozenset({"use_cache"})
    is_for_left_padding = True
    beams = "num_beams"

    def __init__(self, subject: Subject, text: Text) -> None:
        assert text.ids is not None
        plan = subject.adapter.plan(subject.model)
        self.new = _new(subject, text)
        config = getattr(subject.model, "config", None)
        self.is_seq2seq = bool(getattr(config, "is_encoder_decoder", False))
        left_out = {text.ids.name} if self.is_seq2seq else set()
        self._fields = [name for name in plan.fields if name not in left_out]
        self._prompt, self._pad = text.ids.name, getattr(text.ids.values, "pad", None)

    def takes(self, name: str) -> bool:
        """Whether it takes an input by name."""
        return name in self._fields

    @torch.no_grad()
    def write(self, model: nn.Module, batch: Batch, keys: Mapping[str, Any]) -> Written:
        """Writes on, and tells the logits of each step."""
        given: dict[str, Any] = {name: batch[name].clone() for name in self._fields if name in batch}
        # Without a mask, tokens that equal the padding id would be taken for padding; with -1 none does.
        pad = -1 if self._pad is None else self._pad
        with seeded(0), blaming(model):
            found = model.generate(  # type: ignore[operator]
                **given,
                max_new_tokens=self.new,
                min_new_tokens=self.new,
                do_sample=False,
                output_logits=True,
                return_dict_in_generate=True,
                pad_token_id=pad,
                **{self.beams: 1, **keys},
            )
        if not hasattr(found, "sequences") or not getattr(found, "logits", None):
            raise CannotWriteError("`generate` returns neither sequences nor logits")
        return Written(found.sequences, len(found.logits), torch.stack(found.logits, 1))


class OwnWriter:
    """Calls a ``generate`` of the user's, whose arguments are told by their names.

    Args:
        subject: The model.
        text: What it writes.

    Raises:
        CannotWriteError: It samples, or asks for what is not known.
    """

    is_for_left_padding = False

    def __init__(self, subject: Subject, text: Text) -> None:
        assert text.ids is not None
        self._text, self.new = text, _new(subject, text)
        parameters = dict(inspect.signature(subject.model.generate).parameters)  # type: ignore[arg-type]
        named = [name for name, each in parameters.items() if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
        if not named:
            raise CannotWriteError("`generate` names no arguments, so that it cannot be called without sampling")
        known = {each.name for each in text.signature.inputs}
        self._count = next((name for name in named if _COUNT.fullmatch(name) and name not in known), "")
        # A source goes by its name, and the text begins without a prompt; else the prompt goes by its own name, or is the first argument.
        self.is_seq2seq = text.ids.name not in named and named[0] in known and text.axis not in text.signature.axes_of(named[0])
        self._by_name = self.is_seq2seq or text.ids.name in named
        rest = named if self._by_name else named[1:]
        required = [
            name for name in rest if parameters[name].default is parameters[name].empty and name not in {self._count, *known}
        ]
        self._names = set(rest)
        if required:
            raise CannotWriteError(f"`generate` asks for {listed(required, len(required))}, of which nothing is known")
        if not self._count:
            raise CannotWriteError("`generate` has no argument for the number of new tokens that is known by its name")
        switch = next((name for name in named[1:] if _SWITCH.fullmatch(name) and isinstance(parameters[name].default, bool)), "")
        self.switches = tuple(
            (f"{told} a cache", switch, value) for told, value in (("with", True), ("without", False)) if switch
        )
        self.usual = frozenset({switch})
        self.beams = next((name for name in rest if _BEAMS.fullmatch(name)), "")
        # No token ends the text: what fills a row that ended is not written by the model.
        self._endless = {name: -1 for name in named[1:] if _END.fullmatch(name) and type(parameters[name].default) is int}
        self._greedy = self._without_sampling(subject)

    def takes(self, name: str) -> bool:
        """Whether it takes an input by name."""
        return name in self._names

    @torch.no_grad()
    def write(self, model: nn.Module, batch: Batch, keys: Mapping[str, Any]) -> Written:
        """Writes on."""
        return self._written(model, batch, {**({self.beams: 1} if self.beams else {}), **self._greedy, **keys}, 0)

    def _without_sampling(self, subject: Subject) -> dict[str, Any]:
        """Arguments with which two seeds write the same.

        Raises:
            CannotWriteError: There are none.
        """
        ways = [{name: value} for name, value in _GREEDY.items() if name in self._names]
        ways += [{"temperature": value} for value in _TEMPERATURES if "temperature" in self._names]
        last: Exception | None = None
        batch = subject.batch()
        prompt = {name: value[:1] if value.ndim else value for name, value in batch.items()}
        assert self._text.ids is not None
        short = max(1, self._text.length_of(batch) - self.new)
        prompt[self._text.ids.name] = prompt[self._text.ids.name][:, :short]
        if self._text.mask is not None and self._text.mask.name in prompt:
            prompt[self._text.mask.name] = prompt[self._text.mask.name][:, :short]
        for way in [*ways, *([] if ways else [{}])]:
            try:
                first, second = (self._written(subject.fresh(), prompt, way, seed) for seed in (0, 1))
            except (ModelRaisedError, CannotWriteError) as error:
                last = error
                continue
            if torch.equal(first.ids, second.ids):
                return way
            last = None
        if last is not None:
            raise CannotWriteError(f"`generate` cannot be called: {last}")
        known = listed([*_GREEDY, "temperature"], 9)
        raise CannotWriteError(f"`generate` samples, and has none of {known} that would make it write the likeliest token")

    @torch.no_grad()
    def _written(self, model: nn.Module, batch: Batch, keys: Mapping[str, Any], seed: int) -> Written:
        assert self._text.ids is not None
        prompt = batch[self._text.ids.name]
        name = self._text.ids.name
        given: dict[str, Any] = {each: batch[each].clone() for each in self._names & batch.keys() if each != name}
        asked = {**given, self._count: self.new, **self._endless, **keys}
        with seeded(seed), blaming(model):
            generate: Callable[..., Any] = model.generate  # type: ignore[assignment]
            if self.is_seq2seq:
                found = generate(**asked)
            else:
                found = generate(**{name: prompt.clone()}, **asked) if self._by_name else generate(prompt.clone(), **asked)
        if isinstance(found, (tuple, list)) and found and isinstance(found[0], Tensor):
            found = found[0]
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(prompt) or found.is_floating_point():
            raise CannotWriteError("`generate` returns no token ids of [batch, length]")
        if self.is_seq2seq:
            if found.shape[1] != self.new + 1:
                raise CannotWriteError(
                    f"`generate` returns {list(found.shape)} token ids, and not a start and {self.new} new ones"
                )
            return Written(found, self.new)
        length = prompt.shape[1]
        if found.shape[1] > length and torch.equal(found[:, :length], prompt):
            return Written(found, found.shape[1] - length)
        if found.shape[1] == self.new:
            return Written(torch.cat([prompt, found], 1), self.new)
        raise CannotWriteError(f"`generate` returns {list(found.shape)} token ids for a prompt of {list(prompt.shape)}")


def _new(subject: Subject, text: Text) -> int:
    longest = int(text.signature.axes[text.axis].choices()[-1])
    return max(1, min(FEW_NEW if subject.is_large else NEW, longest // 2))
