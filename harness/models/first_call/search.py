"""The search for a call of forward that works: guesses, tried from the cheapest on, each corrected by how it failed."""

from __future__ import annotations

import heapq
import inspect
import itertools
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from harness.errors import ConfigError, ForwardError, did_you_mean
from harness.models.attempts import Patience, signature_of
from harness.models.first_call.argument import BATCH, FEW, Argument
from harness.models.first_call.guesses import Guesses, changed_alike
from harness.models.first_call.hints import STATES, Hints, hidden_state
from harness.models.first_call.images import of_smaller_images, of_whole_images
from harness.models.first_call.operations import Sides
from harness.models.first_call.repairs import last_resorts, repairs
from harness.models.first_call.tried import FoundCall, TriedModel, plain, shown, why_not
from harness.models.first_call.watching import Failure, Watch, tensors_in
from harness.runtime import threads_for
from harness.user_code import raised

_MOST_CALLS = 300
_MOST_CALLS_OF_AN_OPTION = 12
_MOST_CALLS_FOR_A_BETTER_ONE = 60

_AT_LEAST = 12
"""Calls that are made of the slowest model."""

_LARGEST_KNOWN, _MOST_KNOWN = 512, 12
"""Sizes that the model keeps which are tried as those of an axis."""

_LACKS = re.compile(r"must be|specify|provide|missing|required|needed|expected", re.IGNORECASE)
"""What a message says where an argument is not there."""

_VECTORS = 3
"""Axes of rows of several vectors each."""

_MORE_ROWS = 5
"""Another number of rows than that of a trial."""

_OWN_STATE = "the model's init_hidden"
"""What a state was read from that the model makes."""


def find_call(
    build: Callable[[], nn.Module],
    hints: Callable[[nn.Module], Hints],
    given: Iterable[Argument] = (),
    patience: Patience | None = None,
) -> FoundCall:
    """The first call of a model's forward that returns a tensor.

    Args:
        build: Returns a fresh model in eval mode.
        hints: Reads what is known of the model's arguments.
        given: What the user said of arguments.
        patience: The time there is.

    Raises:
        ForwardError: None was found; the message names the parameter that most likely is at fault, and what to say of it.
    """
    subject = TriedModel(build, patience or Patience())
    known = hints(subject.model)
    said = {argument.name: argument for argument in given}
    _refuse_unknown(subject.model, said)
    first = {**known.required, **said}
    order = list(inspect.signature(subject.model.forward).parameters)
    first = dict(sorted(first.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order)))
    first = {name: _own_state(subject.model, argument) for name, argument in first.items()}
    subject.patience.stage(
        f"looking for a call of {signature_of(subject.model)} that works (at most {subject.patience.seconds:g} s)"
    )
    with threads_for(subject.model):
        turned = _with_rows_second(subject.model, first)
        begin = turned if turned and subject.call(Guesses(first))[1] and not subject.call(Guesses(turned))[1] else first
        sizes = [size for size in dict.fromkeys(known.sizes.values()) if 1 < size <= _LARGEST_KNOWN][:_MOST_KNOWN]
        found, closest = _search(subject, Guesses(begin), known.optional, _MOST_CALLS, sizes)
        if found is None:
            raise ForwardError(why_not(subject.model, subject.calls, closest))
        found = _with_rows_of_its_own(subject, found)
        found = _without_crossed_rows(subject, of_whole_images(subject, of_smaller_images(subject, found)))
        found = _decided(subject, found, [name for name in known.optional if name not in found.arguments])
        return _with_options(subject, found, {name: guess for name, guess in known.optional.items() if name not in first})


def _own_state(model: nn.Module, argument: Argument) -> Argument:
    """A hidden state as the model's own ``init_hidden`` makes it, for a required argument of such a name."""
    is_said = argument.is_said and "comment" not in argument.why
    if is_said or argument.name.lower() not in ("h", "hidden", "h0", "hx", "hidden_state", "state"):
        return argument
    state = hidden_state(model, BATCH)
    return argument if state is None else Argument.like(argument.name, state, _OWN_STATE)


def _with_rows_second(model: nn.Module, first: Mapping[str, Argument]) -> dict[str, Argument] | None:
    """The arguments with the model's own state for as many rows as the first input has columns: rows may come second."""
    states = [name for name, argument in first.items() if argument.why == _OWN_STATE]
    other = next((argument for name, argument in first.items() if name not in states and len(argument.sizes) > 1), None)
    state = hidden_state(model, other.sizes[1]) if states and other is not None else None
    return None if state is None else {**first, states[0]: Argument.like(states[0], state, _OWN_STATE)}


def _search(
    subject: TriedModel, first: Guesses, optional: Mapping[str, Argument], most: int, sizes: Collection[int] = ()
) -> tuple[FoundCall | None, tuple[Guesses, Failure] | None]:
    """The call, or the last failure of the guesses that came furthest."""
    order = itertools.count()
    queue: list[tuple[int, int, Guesses]] = [(0, next(order), first)]
    cheapest = {first.key: 0}
    tried = set()
    closest: tuple[Guesses, Failure] | None = None
    begun = subject.calls
    doubtful: FoundCall | None = None
    sides = Sides()
    while queue and subject.calls - begun < (min(most, _AT_LEAST) if subject.patience.is_over else most):
        cost, _, guesses = heapq.heappop(queue)
        guesses = _with_lengths(guesses)
        if guesses.key in tried:
            continue
        tried.add(guesses.key)
        subject.patience.say(f"calling it with {', '.join(f'{name}={shown(a)}' for name, a in guesses.arguments.items())}")
        returned, failure, watch, values = subject.call(guesses)
        if failure is None:
            is_a_call = bool(guesses.arguments) and any(True for _ in tensors_in(plain(returned), ""))
            if is_a_call:
                found = _as_it_reads(subject, FoundCall(guesses.arguments, values, returned), watch)
                if not _has_nan(returned) and _takes_more_rows(subject, found):
                    return found, None
                if doubtful is None:
                    doubtful, most = found, min(most, subject.calls - begun + _MOST_CALLS_FOR_A_BETTER_ONE)
            changes = list(guesses.grown(guesses.paths())) if is_a_call else []
            changes += [] if guesses.arguments else _first_options(optional)
            failure = Failure(TypeError(f"forward returned {type(returned).__name__}, no tensor"))
        else:
            changes = [*sides.narrowed(guesses, failure), *repairs(guesses, failure), *_options(guesses, failure, optional)]
        if closest is None or failure.done > closest[1].done or (guesses.arguments and not closest[0].arguments):
            closest = (guesses, failure)
        if isinstance(failure.error, NotImplementedError) and not failure.operation:  # no other argument mends that
            break
        if cost < 24:
            changes += list(last_resorts(guesses, sizes))
        for more, changed in changed_alike(guesses, changes):
            if cost + more < cheapest.get(changed.key, cost + more + 1):
                cheapest[changed.key] = cost + more
                heapq.heappush(queue, (cost + more, next(order), changed))
    return doubtful, closest


def _with_lengths(guesses: Guesses) -> Guesses:
    """The guesses with rows as long as the argument that their lengths are named after: ``y_lengths`` beside ``y``."""
    for name, argument in guesses.arguments.items():
        of = guesses.arguments.get(re.sub(r"_(?:lengths?|lens?)$", "", name))
        if of is None or argument.holds != "lengths" or argument.fixed or len(of.sizes) < 2 or argument.count in of.sizes[1:]:
            continue
        guesses = guesses.put(name, replace(argument, count=of.sizes[2 if len(of.sizes) > 2 else 1], made=None))
    return guesses


def _has_nan(returned: Any) -> bool:
    """Whether an output is not a number somewhere, as the deviation over too few elements is."""
    return any(bool(tensor.isnan().any()) for _, tensor in tensors_in(plain(returned), ""))


def _takes_more_rows(subject: TriedModel, found: FoundCall) -> bool:
    """Whether several guesses take more rows together: what broadcasts at only one size proves nothing."""
    guesses = Guesses(found.arguments)
    arguments = {path: argument for path in guesses.paths() if (argument := guesses.at(path)) is not None}
    with_rows = {path: each for path, each in arguments.items() if each.is_free and each.sizes[:1] == (BATCH,)}
    if len(with_rows) < 2 or any(not each.is_free for each in arguments.values()):
        return True
    for path, argument in with_rows.items():
        guesses = guesses.put(path, argument.with_size(0, _MORE_ROWS))
    return subject.call(guesses)[1] is None


def _as_it_reads(subject: TriedModel, found: FoundCall, watch: Watch) -> FoundCall:
    """The call with ids as large as the tables they are looked up in, and as many columns as are read, where it takes that."""
    found = _as_numbers(subject, found, watch)
    guesses = Guesses(found.arguments)
    for path, rows in watch.ids.items():
        argument = guesses.at(path)
        if argument is not None and argument.holds == "ids" and argument.made is None and argument.count == FEW < rows:
            guesses = guesses.put(path, replace(argument, count=rows))
    for path, count in watch.columns.items():
        argument = guesses.at(path)
        if argument is not None and argument.is_free and len(argument.sizes) > 1 and argument.sizes[1] > count:
            guesses = guesses.put(path, argument.with_size(1, count))
    if guesses.key == Guesses(found.arguments).key:
        return found
    returned, failure, _, values = subject.call(guesses)
    return found if failure is not None else FoundCall(guesses.arguments, values, returned)


def _as_numbers(subject: TriedModel, found: FoundCall, watch: Watch) -> FoundCall:
    """The call with numbers for vectors that only their name says to be ids, and that no table is read for, as of embedded features."""
    for path in [path for path in Guesses(found.arguments).paths() if path not in watch.ids]:
        argument = Guesses(found.arguments).at(path)
        is_named = argument is not None and argument.holds == "ids" and argument.count == FEW and argument.why == "its name"
        if argument is None or not is_named or not argument.is_free or len(argument.sizes) < _VECTORS:
            continue
        guesses = Guesses(found.arguments).put(path, replace(argument, holds="numbers", count=0))
        returned, failure, _, values = subject.call(guesses)
        if failure is None:
            found = FoundCall(guesses.arguments, values, returned)
    return found


def _with_rows_of_its_own(subject: TriedModel, found: FoundCall) -> FoundCall:
    """The call with as many axes as the answer has, where a weight of more axes than the input gave it those, and no rows."""
    outputs = [tensor for _, tensor in tensors_in(plain(found.returned), "")]
    name, argument = next(iter(found.arguments.items()))
    axes = max(tensor.ndim for tensor in outputs)
    has_rows = any(tensor.shape[:1] == (BATCH,) for tensor in outputs)
    if len(found.arguments) > 1 or not argument.is_free or argument.is_said or has_rows or axes <= len(argument.sizes):
        return found
    more, _ = _search(subject, Guesses({name: argument.with_axes(axes)}), {}, _MOST_CALLS_OF_AN_OPTION)
    return found if more is None else more


def _without_crossed_rows(subject: TriedModel, found: FoundCall) -> FoundCall:
    """The call with a number for each row in the place of a column, where the column met every row with every other by broadcasting."""
    for name, argument in found.arguments.items():
        if not argument.is_free or len(argument.sizes) != 2 or argument.sizes[0] != BATCH:
            continue
        guesses = Guesses(found.arguments).put(name, replace(argument, sizes=(BATCH,), names=argument.names[:1]))
        returned, failure, _, values = subject.call(guesses)
        if failure is None and _crossed(returned) < _crossed(found.returned):
            found = FoundCall(guesses.arguments, values, returned)
    return found


def _crossed(returned: Any) -> int:
    """How many axes of the outputs are as long as there are rows, beside the first of each."""
    shapes = [tensor.shape for _, tensor in tensors_in(plain(returned), "")]
    return sum(max(0, list(shape).count(BATCH) - 1) for shape in shapes)


def _first_options(optional: Mapping[str, Argument]) -> list[tuple[int, Guesses]]:
    """Arguments for a forward that needs none of them, and gives something without: each by itself, in forward's order."""
    return [(place, Guesses({name: guess})) for place, (name, guess) in enumerate(optional.items())]


def _options(guesses: Guesses, failure: Failure, optional: Mapping[str, Argument]) -> list[tuple[int, Guesses]]:
    """Arguments that forward seems to need although they have a default: those that the message names first, then in forward's order."""
    said = failure.message or raised(failure.error)  # an assertion without a message is quoted
    lacks = "None" in said or (not failure.operation and _LACKS.search(said))
    if not lacks:
        return []
    left = [name for name in optional if name not in guesses.arguments]
    named = [name for name in left if re.search(rf"\b{name}\b", said)]
    costs = {name: 0 if name in named else 2 + bool(named) + (place > 0) for place, name in enumerate(left)}
    return [(cost, Guesses({**guesses.arguments, name: optional[name]})) for name, cost in costs.items()]


def _with_options(subject: TriedModel, found: FoundCall, optional: Mapping[str, Argument]) -> FoundCall:
    """The call with masks, lengths and states that it works without, and with what another output comes from."""
    for name, guess in optional.items():
        if subject.patience.is_over:
            break
        if name in found.arguments:
            continue
        if _lacks_outputs(found.returned):
            more, _ = _search(subject, Guesses({**found.arguments, name: guess}), {}, _MOST_CALLS_OF_AN_OPTION)
            if more is not None and _outputs(more.returned) > _outputs(found.returned):
                found = more
                continue
        if any(word in name.lower() for word in STATES) and "mask" not in name.lower():
            found = _with_state(subject, found, name)
            continue
        if guess.holds not in ("lengths", "ones", "bools"):
            continue
        sized = _like_the_first(guess, found)
        more, _ = _search(subject, Guesses({**found.arguments, name: sized}), {}, _MOST_CALLS_OF_AN_OPTION)
        same = more is not None and all(
            more.arguments[other].sizes == argument.sizes for other, argument in found.arguments.items()
        )
        if more is not None and same and _matters(subject, more, name):
            found = replace(more, optional=(*found.optional, name))
    return found


def _matters(subject: TriedModel, found: FoundCall, name: str) -> bool:
    """Whether a mask or lengths change anything: where the last place of every row is no longer real, or where the call then fails."""
    argument, value = found.arguments[name], found.values[name]
    if not isinstance(value, Tensor) or not value.numel():
        return True
    shorter = value.clone()
    if argument.holds == "lengths":
        shorter -= 1
    else:
        shorter[..., -1:] = 0
    returned, failure, _, _ = subject.call(Guesses({**found.arguments, name: Argument.like(name, shorter, argument.why)}))
    pairs = zip(tensors_in(plain(found.returned), ""), tensors_in(plain(returned), ""), strict=False)
    return failure is not None or any(
        one.shape != other.shape or not torch.equal(one.nan_to_num(), other.nan_to_num()) for (_, one), (_, other) in pairs
    )


def _lacks_outputs(returned: Any) -> bool:
    """Whether forward returned nothing in some places, as where an argument that these come from was left out."""
    return isinstance(returned, (tuple, list)) and any(item is None for item in returned) and _outputs(returned) > 0


def _outputs(returned: Any) -> int:
    """How many things that hold tensors were returned."""
    items = returned if isinstance(returned, (tuple, list)) else [returned]
    return sum(any(True for _ in tensors_in(item, "")) for item in items)


def _with_state(subject: TriedModel, found: FoundCall, name: str) -> FoundCall:
    """The call with what it returned as the state of a call before it, where it takes that."""
    outputs = list(found.returned.values()) if isinstance(found.returned, Mapping) else found.returned
    for output in outputs[1:] if isinstance(outputs, (tuple, list)) else ():
        if not any(True for _ in tensors_in(output, "")):
            continue
        state = Argument.like(name, output, "an output of the call before")
        returned, failure, _, values = subject.call(Guesses({**found.arguments, name: state}))
        if failure is None:
            return FoundCall({**found.arguments, name: state}, values, returned, (*found.optional, name))
    return found


def _decided(subject: TriedModel, found: FoundCall, optional: Iterable[str]) -> FoundCall:
    """The call with what forward drew at random passed to it instead, as the action of a policy that is to be judged."""
    if not isinstance(found.returned, (tuple, list)) or not _is_random(subject, found.arguments):
        return found
    for name, output in itertools.product(optional, found.returned):
        if isinstance(output, Tensor) and output.ndim:
            drawn = {**found.arguments, name: Argument.like(name, output, "what forward draws where it is not given")}
            returned, failure, _, values = subject.call(Guesses(drawn))
            if failure is None and not _is_random(subject, drawn):
                return FoundCall(drawn, values, returned)
    return found


def _is_random(subject: TriedModel, arguments: Mapping[str, Argument]) -> bool:
    """Whether two calls return different things under different random states."""
    first, second = (tensors_in(plain(subject.call(Guesses(arguments), seed)[0]), "") for seed in (0, 1))
    return any(not torch.equal(one, other) for (_, one), (_, other) in zip(first, second, strict=False))


def _like_the_first(guess: Argument, found: FoundCall) -> Argument:
    """A mask or lengths of an argument's rows: of the one whose name begins alike, such as the decoder's, or else of the first."""
    several = [argument for argument in found.arguments.values() if len(argument.sizes) > 1]
    if not several or guess.names:  # what its axes are was said
        return guess
    stem = guess.name.partition("_")[0]
    first = next((argument for argument in several if "_" in guess.name and argument.name.partition("_")[0] == stem), several[0])
    return replace(guess, count=first.sizes[1]) if guess.holds == "lengths" else replace(guess, sizes=first.sizes[:2])


def _refuse_unknown(model: nn.Module, said: Mapping[str, Argument]) -> None:
    """Refuses what the user said of a parameter that there is not.

    Raises:
        ConfigError: Forward has none of that name.
    """
    parameters = inspect.signature(model.forward).parameters
    names, takes_any = list(parameters), any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for name in said:
        if name not in names and not takes_any:
            raise ConfigError(
                f"--input: {signature_of(model)} has no parameter `{name}`.{did_you_mean(name, names)} It has {', '.join(names)}"
            )
