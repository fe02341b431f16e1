"""Images of another side than those that a call was first found with: smaller ones of a slow model, and the one size that some take."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from harness.models.first_call.argument import BATCH
from harness.models.first_call.guesses import Guesses
from harness.models.first_call.tried import FoundCall, TriedModel, plain
from harness.models.first_call.watching import tensors_in

_SLOW = 0.2
"""Seconds from which on a call is slow."""

_USUAL_SIDES = (84, 28, 32, 64, 224, 128, 96, 48, 40)
"""Height and width of the images that models are made for which take only one size, the likeliest first."""

_SMALL_SIDES = (64, 65, 16, 17, 8, 9)
"""Height and width of the images of slow models; odd ones for those that take a multiple of eight and one more."""


def of_smaller_images(subject: TriedModel, found: FoundCall) -> FoundCall:
    """The call with smaller images, where one call takes so long that little would be found out in the time there is."""
    seconds = subject.seconds
    for side in _SMALL_SIDES:
        guesses = Guesses(found.arguments)
        large = [
            p for p in guesses.paths() if (a := guesses.at(p)) and not a.fixed and len(a.sizes) > 3 and min(a.sizes[2:]) > side
        ]
        if seconds < _SLOW:
            break
        if not large:
            continue
        for path in large:
            argument = guesses.at(path)
            assert argument is not None
            guesses = guesses.put(
                path, replace(argument, sizes=argument.sizes[:2] + (side,) * len(argument.sizes[2:]), made=None)
            )
        returned, failure, _, values = subject.call(guesses)
        if failure is None:
            found, seconds = FoundCall(guesses.arguments, values, returned), subject.seconds
    return found


def of_whole_images(subject: TriedModel, found: FoundCall) -> FoundCall:
    """The call with images of another side, where a ``view(-1, size)`` made several rows of each: the model is made for smaller ones."""
    guesses = Guesses(found.arguments)
    images = [path for path in guesses.paths() if (a := guesses.at(path)) and a.is_free and len(a.sizes) == 4]
    for side in _USUAL_SIDES if images and _rows_multiplied(found.returned) else ():
        for path in images:
            argument = guesses.at(path)
            assert argument is not None
            guesses = guesses.put(path, replace(argument, sizes=(*argument.sizes[:2], side, side), made=None))
        returned, failure, _, values = subject.call(guesses)
        if failure is None and not _rows_multiplied(returned):
            return FoundCall(guesses.arguments, values, returned)
    return found


def _rows_multiplied(returned: Any) -> bool:
    """Whether the first output has more rows than were given, a multiple of them."""
    first = next((tensor for _, tensor in tensors_in(plain(returned), "") if tensor.ndim), None)
    return first is not None and first.shape[0] > BATCH and first.shape[0] % BATCH == 0
