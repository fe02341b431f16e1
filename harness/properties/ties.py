"""Weights that are tied, and stay so however the model is copied, moved and loaded."""

from __future__ import annotations

import contextlib
import copy
import tempfile
from collections.abc import Callable
from pathlib import Path

from torch import nn

from harness.errors import ProbeUnsupportedError
from harness.evidence import Evidence, Status
from harness.properties.loading import NAME, NotLoadedError, judge_loading, second_instance, tied_groups, unless_owned
from harness.properties.subject import Subject
from harness.user_code import raised


def tied_weights(subject: Subject, seed: int = 0) -> Evidence:
    """Weights that are tied stay tied through deepcopy, a dtype move and loading."""
    original = subject.rebuild(seed) if subject.rebuild is not None else subject.model
    tied = tied_groups(original)
    if not tied:
        return Evidence(NAME, Status.SKIPPED, "no weights are tied")
    moves: dict[str, Callable[[], nn.Module]] = {"a dtype move": lambda: subject.copies.of(original).double()}
    if not subject.copies.fault:
        moves = {"deepcopy": lambda: copy.deepcopy(original), **moves}
    if subject.rebuild is not None:
        moves["loading into a second instance"] = lambda: _copied_into(second_instance(subject), subject.model)
    for label, move in moves.items():
        lost = tied - tied_groups(move())
        if lost:
            names = sorted(next(iter(lost)))
            return Evidence(
                NAME,
                Status.FAIL,
                f"`{names[0]}` and `{names[1]}` are tied, but not after {label}",
                module=names[1],
                cause="weights tied by copying their data, or tied outside __init__, which a rebuilt model does not repeat",
                code="loses_tied_weights",
            )
    if subject.rebuild is not None:
        with contextlib.suppress(ProbeUnsupportedError):  # that safetensors cannot save it is said by the export of that format
            stored_once = _through_safetensors(subject, seed)
            if stored_once.status is Status.FAIL:
                return unless_owned(subject, "tied_weights", stored_once)
    return Evidence(NAME, Status.OK, f"{len(tied)} groups of tied weights stay tied")


def _through_safetensors(subject: Subject, seed: int) -> Evidence:
    """A file of safetensors, which holds tied weights once, gives the same logits."""
    from safetensors.torch import load_model, save_model

    def load(source: nn.Module, other: nn.Module) -> nn.Module:
        with tempfile.TemporaryDirectory() as folder:
            file = str(Path(folder, "model.safetensors"))
            try:
                save_model(source, file)
            except (RuntimeError, ValueError) as error:
                raise ProbeUnsupportedError(f"safetensors cannot save the model: {raised(error)}") from None
            try:
                load_model(other, file)
            except RuntimeError as error:  # of a model whose own load_state_dict names what it does not need
                raise ProbeUnsupportedError(f"safetensors refuses what it saved: {raised(error)}") from None
            except Exception as error:
                raise NotLoadedError(
                    f"the model does not load from safetensors, which stores tied weights once: {raised(error)}"
                ) from error
        return other

    return judge_loading(
        subject,
        load,
        "a second instance loaded from safetensors, which stores tied weights once, gives different logits",
        "weights tied outside __init__, or a load_state_dict that undoes the tie",
        "state_dict_incomplete",
        seed,
    )


def _copied_into(other: nn.Module, model: nn.Module) -> nn.Module:
    other.load_state_dict(model.state_dict())
    return other
